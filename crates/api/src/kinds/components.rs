//! ComponentStatus: see [`crate::components`].

use serde_json::Value;

use super::{
    PLAIN,
    cells::{NAME, column},
    json::{items, text},
};
use crate::registry::Resource;

/// The condition that is printed.
fn healthy(o: &Value) -> Option<&Value> {
    items(o, "/conditions")
        .iter()
        .find(|c| c["type"] == "Healthy")
}

fn status(o: &Value) -> Value {
    match healthy(o).map(|c| text(c, "/status")) {
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    }
    .into()
}

fn of_condition(o: &Value, pointer: &str) -> Value {
    healthy(o).map_or("", |c| text(c, pointer)).into()
}

pub(crate) fn resource() -> Resource {
    Resource {
        kind: "ComponentStatus",
        plural: "componentstatuses",
        singular: "componentstatus",
        short_names: &["cs"],
        namespaced: false,
        columns: const {
            &[
                NAME,
                column("Status", "string", status),
                column("Message", "string", |o| of_condition(o, "/message")),
                column("Error", "string", |o| of_condition(o, "/error")),
            ]
        },
        ..PLAIN
    }
}
