//! DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice.

use super::{
    PLAIN,
    cells::{AGE, NAME, column},
    json::{default, items, items_mut, text},
};
use crate::registry::{FieldError, Lookup, Resource, Strategy};
use serde_json::{Value, json};

/// The requests of a claim's spec.
fn requests(spec: Option<&mut Value>) {
    let Some(devices) = spec.and_then(|s| s.get_mut("devices")) else {
        return;
    };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = request.get_mut("exactly").filter(|e| e.is_object()) {
            count(exactly);
        }
        for sub in items_mut(request, "firstAvailable") {
            count(sub);
        }
    }
}

fn count(request: &mut Value) {
    default(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" && request["count"].as_i64().unwrap_or(0) == 0 {
        request["count"] = 1.into();
    }
    for t in items_mut(request, "tolerations") {
        default(t, "operator", "Equal");
    }
}

struct Claim;
impl Strategy for Claim {
    fn default(&self, o: &mut Value) {
        requests(o.get_mut("spec"));
    }
    fn prepare_create(&self, o: &mut Value, _: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({});
        Ok(())
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        immutable_spec(new, old)
    }
}

struct Template;
impl Strategy for Template {
    fn default(&self, o: &mut Value) {
        requests(o.pointer_mut("/spec/spec"));
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        immutable_spec(new, old)
    }
}

fn immutable_spec(new: &Value, old: &Value) -> Vec<FieldError> {
    if new["spec"] == old["spec"] {
        return vec![];
    }
    vec![FieldError::Invalid {
        field: "spec".into(),
        value: new["spec"].clone(),
        detail: "field is immutable".into(),
    }]
}

fn state(o: &Value) -> Value {
    let deleted = !text(o, "/metadata/deletionTimestamp").is_empty();
    let mut states = Vec::new();
    if deleted {
        states.push("deleted");
    }
    if o.pointer("/status/allocation")
        .is_some_and(Value::is_object)
    {
        states.push("allocated");
        if !items(o, "/status/reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !deleted {
        states.push("pending");
    }
    states.join(",").into()
}

pub(crate) fn resources() -> Vec<Resource> {
    let resource = |kind, plural, singular| Resource {
        group: "resource.k8s.io",
        kind,
        plural,
        singular,
        columns: const { &[NAME, AGE] },
        ..PLAIN
    };
    vec![
        Resource {
            namespaced: false,
            ..resource("DeviceClass", "deviceclasses", "deviceclass")
        },
        Resource {
            has_status: true,
            strategy: &Claim,
            columns: const { &[NAME, column("State", "string", state), AGE] },
            ..resource("ResourceClaim", "resourceclaims", "resourceclaim")
        },
        Resource {
            strategy: &Template,
            ..resource(
                "ResourceClaimTemplate",
                "resourceclaimtemplates",
                "resourceclaimtemplate",
            )
        },
        Resource {
            namespaced: false,
            selectable_fields: &[
                ("spec.nodeName", |o| text(o, "/spec/nodeName").into()),
                ("spec.driver", |o| text(o, "/spec/driver").into()),
            ],
            columns: const {
                &[
                    NAME,
                    column("Node", "string", |o| text(o, "/spec/nodeName").into()),
                    column("Driver", "string", |o| text(o, "/spec/driver").into()),
                    column("Pool", "string", |o| text(o, "/spec/pool/name").into()),
                    AGE,
                ]
            },
            ..resource("ResourceSlice", "resourceslices", "resourceslice")
        },
    ]
}
