//! Event, in core/v1 and in events.k8s.io/v1: the same objects under two names.

use super::{
    PLAIN, age,
    cells::{NAME, column, wide},
    json::{number, text},
};
use crate::registry::{Column, Resource, Strategy};
use serde_json::Value;

struct Event;
impl Strategy for Event {
    fn create_on_update(&self) -> bool {
        true
    }
}

/// Time since the first of these texts that is there.
fn since(o: &Value, pointers: &[&str]) -> Value {
    match pointers.iter().find(|p| !text(o, p).is_empty()) {
        Some(p) => age::since(&text(o, p).into()).into(),
        None => "<unknown>".into(),
    }
}

/// The fields that the two groups call by other names.
struct Names {
    object: &'static str,
    message: &'static str,
    first: &'static str,
    last: &'static str,
    count: &'static str,
    component: &'static str,
    host: &'static str,
    controller: &'static str,
}
const CORE: Names = Names {
    object: "/involvedObject",
    message: "/message",
    first: "/firstTimestamp",
    last: "/lastTimestamp",
    count: "/count",
    component: "/source/component",
    host: "/source/host",
    controller: "/reportingComponent",
};
const EVENTS: Names = Names {
    object: "/regarding",
    message: "/note",
    first: "/deprecatedFirstTimestamp",
    last: "/deprecatedLastTimestamp",
    count: "/deprecatedCount",
    component: "/deprecatedSource/component",
    host: "/deprecatedSource/host",
    controller: "/reportingController",
};

fn first_seen(o: &Value, n: &Names) -> Value {
    since(o, &[n.first, "/eventTime"])
}

fn last_seen(o: &Value, n: &Names) -> Value {
    if o["series"].is_object() {
        return since(o, &["/series/lastObservedTime"]);
    }
    since(o, &[n.last, n.first, "/eventTime"])
}

fn object(o: &Value, n: &Names) -> Value {
    let of = o.pointer(n.object).unwrap_or(&Value::Null);
    let kind = text(of, "/kind").to_lowercase();
    match text(of, "/name") {
        "" => kind.into(),
        name => format!("{kind}/{name}").into(),
    }
}

fn source(o: &Value, n: &Names) -> Value {
    let either = |a: &str, b: &str| match text(o, a) {
        "" => text(o, b).to_string(),
        a => a.to_string(),
    };
    let component = either(n.component, n.controller);
    let instance = either(n.host, "/reportingInstance");
    if instance.is_empty() {
        component.into()
    } else {
        format!("{component}, {instance}").into()
    }
}

fn count(o: &Value, n: &Names) -> Value {
    if o["series"].is_object() {
        return number(o, "/series/count").into();
    }
    match number(o, n.count) {
        0 => 1.into(),
        count => count.into(),
    }
}

/// The columns, for one group's names of the fields.
macro_rules! columns {
    ($names:expr) => {
        &[
            column("Last Seen", "string", |o| last_seen(o, &$names)),
            column("Type", "string", |o| text(o, "/type").into()),
            column("Reason", "string", |o| text(o, "/reason").into()),
            column("Object", "string", |o| object(o, &$names)),
            wide("Subobject", "string", |o| {
                let of = o.pointer($names.object).unwrap_or(&Value::Null);
                text(of, "/fieldPath").into()
            }),
            wide("Source", "string", |o| source(o, &$names)),
            column("Message", "string", |o| {
                text(o, $names.message).trim().into()
            }),
            wide("First Seen", "string", |o| first_seen(o, &$names)),
            wide("Count", "string", |o| count(o, &$names)),
            Column {
                priority: 1,
                ..NAME
            },
        ]
    };
}

/// The source's component, or the controller that reports.
fn reporter(o: &Value, n: &Names) -> String {
    match text(o, n.component) {
        "" => text(o, n.controller).to_string(),
        component => component.to_string(),
    }
}

macro_rules! field {
    ($name:literal, $pointer:literal) => {
        ($name, |o| text(o, $pointer).into())
    };
}

pub(crate) fn resources() -> Vec<Resource> {
    let event = Resource {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        strategy: &Event,
        ..PLAIN
    };
    vec![
        Resource {
            selectable_fields: &[
                field!("involvedObject.kind", "/involvedObject/kind"),
                field!("involvedObject.namespace", "/involvedObject/namespace"),
                field!("involvedObject.name", "/involvedObject/name"),
                field!("involvedObject.uid", "/involvedObject/uid"),
                field!("involvedObject.apiVersion", "/involvedObject/apiVersion"),
                field!(
                    "involvedObject.resourceVersion",
                    "/involvedObject/resourceVersion"
                ),
                field!("involvedObject.fieldPath", "/involvedObject/fieldPath"),
                field!("reason", "/reason"),
                field!("reportingComponent", "/reportingComponent"),
                ("source", |o| reporter(o, &CORE)),
                field!("type", "/type"),
            ],
            columns: const { columns!(CORE) },
            ..event
        },
        Resource {
            group: "events.k8s.io",
            kind: "Event",
            plural: "events",
            singular: "event",
            short_names: &["ev"],
            strategy: &Event,
            selectable_fields: &[
                field!("regarding.kind", "/regarding/kind"),
                field!("regarding.namespace", "/regarding/namespace"),
                field!("regarding.name", "/regarding/name"),
                field!("regarding.uid", "/regarding/uid"),
                field!("regarding.apiVersion", "/regarding/apiVersion"),
                field!("regarding.resourceVersion", "/regarding/resourceVersion"),
                field!("regarding.fieldPath", "/regarding/fieldPath"),
                field!("reason", "/reason"),
                field!("reportingController", "/reportingController"),
                field!("type", "/type"),
            ],
            columns: const { columns!(EVENTS) },
            ..PLAIN
        },
    ]
}
