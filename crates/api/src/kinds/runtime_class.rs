//! RuntimeClass.

use super::{
    PLAIN,
    cells::{AGE, NAME, column},
    checks::{cluster, quantity},
    json::text,
};
use crate::registry::{FieldError, Resource, Strategy};
use serde_json::Value;

struct RuntimeClass;
impl Strategy for RuntimeClass {
    fn unconditional_update(&self) -> bool {
        false
    }
    fn create_on_update(&self) -> bool {
        true
    }
    fn default(&self, o: &mut Value) {
        if let Some(overhead) = o.get_mut("overhead") {
            quantity::canonical_list(overhead.get_mut("podFixed"), true);
        }
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        cluster::runtime_class(o)
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        cluster::runtime_class_update(new, old)
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    vec![Resource {
        group: "node.k8s.io",
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        namespaced: false,
        strategy: &RuntimeClass,
        columns: const {
            &[
                NAME,
                column("Handler", "string", |o| text(o, "/handler").into()),
                AGE,
            ]
        },
        ..PLAIN
    }]
}
