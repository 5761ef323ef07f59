//! RuntimeClass.

use super::{
    PLAIN,
    cells::{AGE, NAME, column},
    json::text,
};
use crate::registry::{Resource, Strategy};

struct RuntimeClass;
impl Strategy for RuntimeClass {
    fn unconditional_update(&self) -> bool {
        false
    }
    fn create_on_update(&self) -> bool {
        true
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
