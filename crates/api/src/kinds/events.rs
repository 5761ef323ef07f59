//! Events: core/v1 and events.k8s.io/v1.

use super::{
    PLAIN, age,
    cells::{NAME, column, wide},
    json::{number, text},
};
use crate::registry::{Resource, Strategy};
use serde_json::Value;

struct Event;
impl Strategy for Event {
    fn create_on_update(&self) -> bool {
        true
    }
}

fn last_seen(o: &Value) -> Value {
    for pointer in [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/metadata/creationTimestamp",
    ] {
        if !text(o, pointer).is_empty() {
            return age::since(&text(o, pointer).into()).into();
        }
    }
    "<unknown>".into()
}

fn object(o: &Value, root: &str) -> Value {
    format!(
        "{}/{}",
        text(o, &format!("/{root}/kind")).to_lowercase(),
        text(o, &format!("/{root}/name"))
    )
    .into()
}

fn source(o: &Value) -> String {
    match text(o, "/source/component") {
        "" => text(o, "/reportingComponent").to_string(),
        c => c.to_string(),
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            kind: "Event",
            plural: "events",
            singular: "event",
            short_names: &["ev"],
            strategy: &Event,
            selectable_fields: &[
                ("involvedObject.kind", |o| {
                    text(o, "/involvedObject/kind").into()
                }),
                ("involvedObject.namespace", |o| {
                    text(o, "/involvedObject/namespace").into()
                }),
                ("involvedObject.name", |o| {
                    text(o, "/involvedObject/name").into()
                }),
                ("involvedObject.uid", |o| {
                    text(o, "/involvedObject/uid").into()
                }),
                ("involvedObject.apiVersion", |o| {
                    text(o, "/involvedObject/apiVersion").into()
                }),
                ("involvedObject.resourceVersion", |o| {
                    text(o, "/involvedObject/resourceVersion").into()
                }),
                ("involvedObject.fieldPath", |o| {
                    text(o, "/involvedObject/fieldPath").into()
                }),
                ("reason", |o| text(o, "/reason").into()),
                ("reportingComponent", |o| {
                    text(o, "/reportingComponent").into()
                }),
                ("source", source),
                ("type", |o| text(o, "/type").into()),
            ],
            columns: const {
                &[
                    column("Last Seen", "string", last_seen),
                    column("Type", "string", |o| text(o, "/type").into()),
                    column("Reason", "string", |o| text(o, "/reason").into()),
                    column("Object", "string", |o| object(o, "involvedObject")),
                    wide("Subobject", "string", |o| {
                        text(o, "/involvedObject/fieldPath").into()
                    }),
                    wide("Source", "string", |o| source(o).into()),
                    column("Message", "string", |o| text(o, "/message").trim().into()),
                    wide("First Seen", "string", |o| {
                        match text(o, "/firstTimestamp") {
                            "" => last_seen(o),
                            _ => age::since(&o["firstTimestamp"]).into(),
                        }
                    }),
                    wide("Count", "string", |o| number(o, "/count").max(1).into()),
                    wide(NAME.name, "string", |o| text(o, "/metadata/name").into()),
                ]
            },
            ..PLAIN
        },
        Resource {
            group: "events.k8s.io",
            kind: "Event",
            plural: "events",
            singular: "event",
            short_names: &["ev"],
            strategy: &Event,
            selectable_fields: &[
                ("regarding.kind", |o| text(o, "/regarding/kind").into()),
                ("regarding.name", |o| text(o, "/regarding/name").into()),
                ("regarding.namespace", |o| {
                    text(o, "/regarding/namespace").into()
                }),
                ("regarding.uid", |o| text(o, "/regarding/uid").into()),
                ("reason", |o| text(o, "/reason").into()),
                ("reportingController", |o| {
                    text(o, "/reportingController").into()
                }),
                ("type", |o| text(o, "/type").into()),
            ],
            columns: const {
                &[
                    column("Last Seen", "string", last_seen),
                    column("Type", "string", |o| text(o, "/type").into()),
                    column("Reason", "string", |o| text(o, "/reason").into()),
                    column("Object", "string", |o| object(o, "regarding")),
                    column("Message", "string", |o| text(o, "/note").trim().into()),
                ]
            },
            ..PLAIN
        },
    ]
}
