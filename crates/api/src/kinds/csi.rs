//! CSIDriver, CSINode, CSIStorageCapacity, VolumeAttachment, VolumeAttributesClass.

use super::{
    PLAIN,
    cells::{AGE, CREATED, NAME, column, or_none},
    checks::csi as checks,
    json::{default, items, text},
};
use crate::registry::{FieldError, Resource, Strategy};
use serde_json::{Value, json};

struct Driver;
impl Strategy for Driver {
    fn default(&self, o: &mut Value) {
        let Some(spec) = o.get_mut("spec").filter(|s| s.is_object()) else {
            return;
        };
        default(spec, "attachRequired", true);
        default(spec, "podInfoOnMount", false);
        default(spec, "storageCapacity", false);
        default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if items(spec, "/volumeLifecycleModes").is_empty() {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
        }
        default(spec, "requiresRepublish", false);
        default(spec, "seLinuxMount", false);
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::driver(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::driver_update(new, old)
    }
}

struct Node;
impl Strategy for Node {
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::node(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::node_update(new, old)
    }
}

struct Capacity;
impl Strategy for Capacity {
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::capacity(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::capacity_update(new, old)
    }
    fn unconditional_update(&self) -> bool {
        false
    }
}

struct Attachment;
impl Strategy for Attachment {
    fn prepare_create(
        &self,
        o: &mut Value,
        _: &dyn crate::registry::Lookup,
    ) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({ "attached": false });
        Ok(())
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::attachment(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::attachment_update(new, old)
    }
    fn unconditional_update(&self) -> bool {
        false
    }
}

struct AttributesClass;
impl Strategy for AttributesClass {
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::attributes_class(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::attributes_class_update(new, old)
    }
}

/// A switch of a driver as a cell; `absent` is what no value means.
fn switch(o: &Value, pointer: &str, absent: bool) -> Value {
    o.pointer(pointer)
        .and_then(Value::as_bool)
        .unwrap_or(absent)
        .into()
}

fn joined<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

fn token_requests(o: &Value) -> Value {
    match o.pointer("/spec/tokenRequests") {
        Some(Value::Array(all)) => joined(all.iter().map(|t| text(t, "/audience"))).into(),
        _ => "<unset>".into(),
    }
}

fn modes(o: &Value) -> Value {
    let all = items(o, "/spec/volumeLifecycleModes");
    or_none(joined(all.iter().filter_map(Value::as_str)))
}

pub(crate) fn resources() -> Vec<Resource> {
    let storage = |kind, plural, singular| Resource {
        group: "storage.k8s.io",
        kind,
        plural,
        singular,
        namespaced: false,
        ..PLAIN
    };
    vec![
        Resource {
            strategy: &Driver,
            columns: const {
                &[
                    NAME,
                    column("AttachRequired", "boolean", |o| {
                        switch(o, "/spec/attachRequired", true)
                    }),
                    column("PodInfoOnMount", "boolean", |o| {
                        switch(o, "/spec/podInfoOnMount", false)
                    }),
                    column("StorageCapacity", "boolean", |o| {
                        switch(o, "/spec/storageCapacity", false)
                    }),
                    column("TokenRequests", "string", token_requests),
                    column("RequiresRepublish", "boolean", |o| {
                        switch(o, "/spec/requiresRepublish", false)
                    }),
                    column("Modes", "string", modes),
                    AGE,
                ]
            },
            ..storage("CSIDriver", "csidrivers", "csidriver")
        },
        Resource {
            strategy: &Node,
            columns: const {
                &[
                    NAME,
                    column("Drivers", "integer", |o| {
                        items(o, "/spec/drivers").len().into()
                    }),
                    AGE,
                ]
            },
            ..storage("CSINode", "csinodes", "csinode")
        },
        Resource {
            namespaced: true,
            strategy: &Capacity,
            columns: const { &[NAME, CREATED] },
            ..storage(
                "CSIStorageCapacity",
                "csistoragecapacities",
                "csistoragecapacity",
            )
        },
        Resource {
            has_status: true,
            strategy: &Attachment,
            columns: const {
                &[
                    NAME,
                    crate::registry::Column {
                        format: "name",
                        ..column("Attacher", "string", |o| text(o, "/spec/attacher").into())
                    },
                    column("PV", "string", |o| {
                        text(o, "/spec/source/persistentVolumeName").into()
                    }),
                    column("Node", "string", |o| text(o, "/spec/nodeName").into()),
                    column("Attached", "boolean", |o| {
                        switch(o, "/status/attached", false)
                    }),
                    AGE,
                ]
            },
            ..storage("VolumeAttachment", "volumeattachments", "volumeattachment")
        },
        Resource {
            short_names: &["vac"],
            strategy: &AttributesClass,
            columns: const {
                &[
                    NAME,
                    column("DriverName", "string", |o| text(o, "/driverName").into()),
                    AGE,
                ]
            },
            ..storage(
                "VolumeAttributesClass",
                "volumeattributesclasses",
                "volumeattributesclass",
            )
        },
    ]
}
