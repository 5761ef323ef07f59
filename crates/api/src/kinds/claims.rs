//! DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice.

use super::{
    PLAIN,
    cells::{AGE, NAME, column},
    checks::devices,
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

/// On namespaces whose claims may have devices that others have, too.
const ADMIN_ACCESS: &str = "resource.kubernetes.io/admin-access";

/// Devices for administration are for namespaces that say so (`AuthorizedForAdmin`).
fn administration(o: &Value, at: &str, lookup: &dyn Lookup) -> Result<(), Vec<FieldError>> {
    let Some(devices) = o.pointer(at) else {
        return Ok(());
    };
    let wants = |r: &Value| r.pointer("/exactly/adminAccess") == Some(&Value::Bool(true));
    let Some(index) = items(devices, "/requests").iter().position(wants) else {
        return Ok(());
    };
    let namespace = lookup.get("", "namespaces", "", text(o, "/metadata/namespace"));
    let labels = namespace
        .as_ref()
        .and_then(|n| n.pointer("/metadata/labels"));
    if labels.is_some_and(|l| l[ADMIN_ACCESS] == "true") {
        return Ok(());
    }
    Err(vec![FieldError::Forbidden {
        field: format!("spec.devices.requests[{index}].adminAccess"),
        detail: format!(
            "admin access to devices requires the `{ADMIN_ACCESS}: true` label on the containing namespace"
        ),
    }])
}

struct Claim;
impl Strategy for Claim {
    fn default(&self, o: &mut Value) {
        requests(o.get_mut("spec"));
    }
    fn prepare_create(&self, o: &mut Value, lookup: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        o["status"] = json!({});
        administration(o, "/spec/devices", lookup)
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        devices::claim(o)
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        devices::claim_update(new, old)
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&ClaimStatus as &dyn Strategy)
    }
}

struct Template;
impl Strategy for Template {
    fn default(&self, o: &mut Value) {
        requests(o.pointer_mut("/spec/spec"));
    }
    fn prepare_create(&self, o: &mut Value, lookup: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        administration(o, "/spec/spec/devices", lookup)
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        devices::template(o)
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        devices::template_update(new, old)
    }
}

struct Class;
impl Strategy for Class {
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        devices::class(o)
    }
}

struct Slice;
impl Strategy for Slice {
    fn default(&self, o: &mut Value) {
        let Some(spec) = o.get_mut("spec") else {
            return;
        };
        for device in items_mut(spec, "devices") {
            for taint in items_mut(device, "taints") {
                default(taint, "timeAdded", crate::object::now());
            }
        }
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        devices::slice(o)
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        devices::slice_update(new, old)
    }
}

struct ClaimStatus;
impl Strategy for ClaimStatus {
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        devices::claim_status_update(new, old)
    }
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
            strategy: &Class,
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
            strategy: &Slice,
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
