//! PersistentVolume, PersistentVolumeClaim, StorageClass.

use super::{
    PLAIN,
    cells::{AGE, NAME, column, or_none, wide},
    checks::{csi, quantity, volumes},
    json::{default, text},
    pod_defaults,
};
use crate::registry::{Column, FieldError, Lookup, Resource, Strategy};
use serde_json::{Value, json};

struct Volume;
impl Strategy for Volume {
    fn default(&self, o: &mut Value) {
        let Some(spec) = o.get_mut("spec").filter(|s| s.is_object()) else {
            return;
        };
        default(spec, "persistentVolumeReclaimPolicy", "Retain");
        default(spec, "volumeMode", "Filesystem");
        quantity::canonical_list(spec.get_mut("capacity"), true);
        pod_defaults::source(spec);
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "phase": "Pending" });
        Ok(())
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        volumes::persistent::volume(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        volumes::persistent::volume_update(new, old)
    }
}

struct Claim;
impl Strategy for Claim {
    fn default(&self, o: &mut Value) {
        if let Some(spec) = o.get_mut("spec").filter(|s| s.is_object()) {
            claim_spec(spec);
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "phase": "Pending" });
        known_source(&mut o["spec"]);
        same_source(&mut o["spec"]);
        Ok(())
    }
    fn prepare_update(
        &self,
        new: &mut Value,
        _: &Value,
        _: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        same_source(&mut new["spec"]);
        Ok(())
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        volumes::claims::claim(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        volumes::claims::claim_update(new, old)
    }
}

/// Fills a claim's spec.
pub(crate) fn claim_spec(spec: &mut Value) {
    default(spec, "volumeMode", "Filesystem");
    for list in ["limits", "requests"] {
        let amounts = spec.get_mut("resources").and_then(|r| r.get_mut(list));
        quantity::canonical_list(amounts, true);
    }
}

/// The old field takes claims and snapshots only; anything else in it is forgotten (upstream's
/// `EnforceDataSourceBackwardsCompatibility`).
fn known_source(spec: &mut Value) {
    let source = &spec["dataSource"];
    let known = matches!(
        (text(source, "/apiGroup"), text(source, "/kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    if source.is_object()
        && !known
        && let Some(spec) = spec.as_object_mut()
    {
        spec.remove("dataSource");
    }
}

/// Copies the source between its old field and its new one.
fn same_source(spec: &mut Value) {
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    let local = text(reference, "/namespace").is_empty();
    if source.is_object() && reference.is_null() {
        spec["dataSourceRef"] = source.clone();
    } else if reference.is_object() && source.is_null() && local {
        let mut copy = reference.clone();
        if let Some(map) = copy.as_object_mut() {
            map.remove("namespace");
        }
        spec["dataSource"] = copy;
    }
}

struct Class;
impl Strategy for Class {
    fn default(&self, o: &mut Value) {
        default(o, "reclaimPolicy", "Delete");
        default(o, "volumeBindingMode", "Immediate");
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        csi::storage_class(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        csi::storage_class_update(new, old)
    }
}

fn short_modes(modes: &Value) -> Value {
    let all: Vec<&str> = modes
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|m| match m.as_str()? {
            "ReadWriteOnce" => Some("RWO"),
            "ReadOnlyMany" => Some("ROX"),
            "ReadWriteMany" => Some("RWX"),
            "ReadWriteOncePod" => Some("RWOP"),
            _ => None,
        })
        .collect();
    all.join(",").into()
}

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            kind: "PersistentVolume",
            plural: "persistentvolumes",
            singular: "persistentvolume",
            short_names: &["pv"],
            namespaced: false,
            has_status: true,
            strategy: &Volume,
            columns: const {
                &[
                    NAME,
                    column("Capacity", "string", |o| {
                        text(o, "/spec/capacity/storage").into()
                    }),
                    column("Access Modes", "string", |o| {
                        short_modes(&o["spec"]["accessModes"])
                    }),
                    column("Reclaim Policy", "string", |o| {
                        text(o, "/spec/persistentVolumeReclaimPolicy").into()
                    }),
                    column("Status", "string", |o| {
                        if text(o, "/metadata/deletionTimestamp").is_empty() {
                            text(o, "/status/phase").into()
                        } else {
                            "Terminating".into()
                        }
                    }),
                    column("Claim", "string", |o| {
                        match text(o, "/spec/claimRef/name") {
                            "" => "".into(),
                            n => format!("{}/{n}", text(o, "/spec/claimRef/namespace")).into(),
                        }
                    }),
                    column("StorageClass", "string", |o| {
                        text(o, "/spec/storageClassName").into()
                    }),
                    column("VolumeAttributesClass", "string", |o| {
                        match text(o, "/spec/volumeAttributesClassName") {
                            "" => "<unset>".into(),
                            c => c.into(),
                        }
                    }),
                    column("Reason", "string", |o| text(o, "/status/reason").into()),
                    AGE,
                    wide("VolumeMode", "string", |o| {
                        text(o, "/spec/volumeMode").into()
                    }),
                ]
            },
            ..PLAIN
        },
        Resource {
            kind: "PersistentVolumeClaim",
            plural: "persistentvolumeclaims",
            singular: "persistentvolumeclaim",
            short_names: &["pvc"],
            has_status: true,
            strategy: &Claim,
            columns: const {
                &[
                    NAME,
                    column("Status", "string", |o| {
                        if text(o, "/metadata/deletionTimestamp").is_empty() {
                            text(o, "/status/phase").into()
                        } else {
                            "Terminating".into()
                        }
                    }),
                    column("Volume", "string", |o| text(o, "/spec/volumeName").into()),
                    column("Capacity", "string", |o| {
                        text(o, "/status/capacity/storage").into()
                    }),
                    column("Access Modes", "string", |o| {
                        short_modes(&o["status"]["accessModes"])
                    }),
                    column("StorageClass", "string", |o| {
                        text(o, "/spec/storageClassName").into()
                    }),
                    column("VolumeAttributesClass", "string", |o| {
                        match text(o, "/spec/volumeAttributesClassName") {
                            "" => "<unset>".into(),
                            c => c.into(),
                        }
                    }),
                    AGE,
                    wide("VolumeMode", "string", |o| {
                        text(o, "/spec/volumeMode").into()
                    }),
                ]
            },
            ..PLAIN
        },
        Resource {
            group: "storage.k8s.io",
            kind: "StorageClass",
            plural: "storageclasses",
            singular: "storageclass",
            short_names: &["sc"],
            namespaced: false,
            strategy: &Class,
            columns: const {
                &[
                    Column {
                        format: "name",
                        ..column("Name", "string", |o| {
                            let default = o["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"]
                                == "true";
                            format!(
                                "{}{}",
                                text(o, "/metadata/name"),
                                if default { " (default)" } else { "" }
                            )
                            .into()
                        })
                    },
                    column("Provisioner", "string", |o| text(o, "/provisioner").into()),
                    column("ReclaimPolicy", "string", |o| {
                        or_none(text(o, "/reclaimPolicy").into())
                    }),
                    column("VolumeBindingMode", "string", |o| {
                        or_none(text(o, "/volumeBindingMode").into())
                    }),
                    column("AllowVolumeExpansion", "string", |o| {
                        (o["allowVolumeExpansion"] == true).into()
                    }),
                    AGE,
                ]
            },
            ..PLAIN
        },
    ]
}
