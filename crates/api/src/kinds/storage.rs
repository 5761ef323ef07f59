//! PersistentVolume, PersistentVolumeClaim, StorageClass.

use super::{
    PLAIN,
    cells::{AGE, NAME, column, or_none, wide},
    json::{default, items, map, text},
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
        if let Some(path) = spec.get_mut("hostPath").filter(|p| p.is_object()) {
            default(path, "type", "");
        }
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "phase": "Pending" });
        Ok(())
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let mut errors = modes(o);
        if map(o, "/spec/capacity").is_none_or(|m| m.is_empty()) {
            errors.push(FieldError::Required {
                field: "spec.capacity".into(),
                detail: String::new(),
            });
        }
        errors
    }
}

struct Claim;
impl Strategy for Claim {
    fn default(&self, o: &mut Value) {
        if let Some(spec) = o.get_mut("spec").filter(|s| s.is_object()) {
            default(spec, "volumeMode", "Filesystem");
        }
    }
    fn prepare_create(&self, o: &mut Value, _lookup: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "phase": "Pending" });
        Ok(())
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let mut errors = modes(o);
        if o["spec"]["resources"]["requests"]["storage"].is_null() {
            errors.push(FieldError::Required {
                field: "spec.resources[storage]".into(),
                detail: String::new(),
            });
        }
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let strip = |o: &Value| {
            let mut spec = o["spec"].clone();
            spec["resources"] = Value::Null;
            if text(old, "/spec/volumeName").is_empty() {
                spec["volumeName"] = Value::Null;
                spec["storageClassName"] = Value::Null;
            }
            spec
        };
        if strip(new) == strip(old) {
            return vec![];
        }
        vec![FieldError::Forbidden {
            field: "spec".into(),
            detail: "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims".into(),
        }]
    }
}

fn modes(o: &Value) -> Vec<FieldError> {
    let known = [
        "ReadOnlyMany",
        "ReadWriteMany",
        "ReadWriteOnce",
        "ReadWriteOncePod",
    ];
    let all = items(o, "/spec/accessModes");
    if all.is_empty() {
        return vec![FieldError::Required {
            field: "spec.accessModes".into(),
            detail: "at least 1 access mode is required".into(),
        }];
    }
    all.iter()
        .filter(|m| !m.as_str().is_some_and(|m| known.contains(&m)))
        .map(|m| FieldError::NotSupported {
            field: "spec.accessModes".into(),
            value: m.clone(),
            supported: known.iter().map(|k| k.to_string()).collect(),
        })
        .collect()
}

struct Class;
impl Strategy for Class {
    fn default(&self, o: &mut Value) {
        default(o, "reclaimPolicy", "Delete");
        default(o, "volumeBindingMode", "Immediate");
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
