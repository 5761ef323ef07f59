//! Event, in core/v1 and in events.k8s.io/v1: the same objects under two names.

use super::{
    PLAIN, age,
    cells::{NAME, column, wide},
    checks::events,
    json::{default, number, text},
};
use crate::registry::{Column, FieldError, NameRule, Resource, Stored, Strategy};
use serde_json::{Value, json};

struct Event;
impl Strategy for Event {
    fn name(&self) -> NameRule {
        // upstream's own checks forget it; the storage's remain
        NameRule::PathSegment
    }
    fn default(&self, o: &mut Value) {
        shown(o);
    }
    fn create_on_update(&self) -> bool {
        true
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        events::legacy(o, "reportingComponent")
    }
}

/// events.k8s.io asks for more.
struct Strict;
impl Strategy for Strict {
    fn create_on_update(&self) -> bool {
        true
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let o = to_core(o.clone());
        let mut errors = events::legacy(&o, "reportingController");
        errors.extend(events::strict(&o));
        errors
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let (new, old) = (to_core(new.clone()), to_core(old.clone()));
        let mut errors = events::legacy(&new, "reportingController");
        errors.extend(events::strict_update(&new, &old));
        errors
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
            stored: Some(&STORED),
            kind: "Event",
            plural: "events",
            singular: "event",
            short_names: &["ev"],
            strategy: &Strict,
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

/// The names of an Event's fields: in core/v1, in events.k8s.io/v1.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(o: &mut Value, names: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(map) = o.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(v) = map.remove(from) {
            map.insert(to.into(), v);
        }
    }
}

/// The fields that a form always shows, empty when there is nothing to show.
fn show(o: &mut Value, fields: &[&str], as_what: &Value) {
    for field in fields {
        default(o, field, as_what.clone());
    }
}

/// A core/v1 Event as events.k8s.io/v1 shows it.
fn from_core(mut o: Value) -> Value {
    rename(&mut o, RENAMED.into_iter());
    o["apiVersion"] = "events.k8s.io/v1".into();
    if let Some(map) = o.as_object_mut() {
        for field in ["reportingController", "reportingInstance"] {
            if map.get(field).is_some_and(|v| v == "") {
                map.remove(field);
            }
        }
    }
    show(&mut o, &["regarding", "deprecatedSource"], &json!({}));
    let times = ["deprecatedFirstTimestamp", "deprecatedLastTimestamp"];
    show(&mut o, &times, &Value::Null);
    show(&mut o, &["eventTime"], &Value::Null);
    o
}

/// An events.k8s.io/v1 Event as core/v1 stores it.
fn to_core(mut o: Value) -> Value {
    rename(
        &mut o,
        RENAMED.into_iter().map(|(core, events)| (events, core)),
    );
    o["apiVersion"] = "v1".into();
    shown(&mut o);
    o
}

/// What core/v1 always shows.
fn shown(o: &mut Value) {
    show(o, &["involvedObject", "source"], &json!({}));
    let times = ["firstTimestamp", "lastTimestamp", "eventTime"];
    show(o, &times, &Value::Null);
    let reporter = ["reportingComponent", "reportingInstance"];
    show(o, &reporter, &"".into());
}

static STORED: Stored = Stored {
    group: "",
    read: from_core,
    write: to_core,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_two_forms() {
        let core = json!({
            "kind": "Event", "apiVersion": "v1", "metadata": {"name": "a"},
            "involvedObject": {"kind": "Pod", "name": "web"}, "reason": "Started", "message": "m",
            "source": {"component": "kubelet"}, "firstTimestamp": "2026-01-01T00:00:00Z",
            "lastTimestamp": null, "count": 2, "type": "Normal", "eventTime": null,
            "reportingComponent": "", "reportingInstance": "",
        });
        let events = json!({
            "kind": "Event", "apiVersion": "events.k8s.io/v1", "metadata": {"name": "a"},
            "regarding": {"kind": "Pod", "name": "web"}, "reason": "Started", "note": "m",
            "deprecatedSource": {"component": "kubelet"},
            "deprecatedFirstTimestamp": "2026-01-01T00:00:00Z", "deprecatedLastTimestamp": null,
            "deprecatedCount": 2, "type": "Normal", "eventTime": null,
        });
        assert_eq!(from_core(core.clone()), events);
        assert_eq!(to_core(events), core);
    }
}
