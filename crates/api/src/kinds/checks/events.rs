//! The checks of Events (`pkg/apis/core/validation/events.go`), on the form of core/v1.

use super::{
    path::{Errors, Go, Path},
    rules,
};
use crate::{
    kinds::json::{entries, str_of},
    registry::FieldError,
};
use serde_json::Value;

const LIMIT: usize = 128;
const NOTE_LIMIT: usize = 1024;
const OBJECT: Go = Go::Struct(&[
    ("kind", "Kind", Go::Text),
    ("namespace", "Namespace", Go::Text),
    ("name", "Name", Go::Text),
    ("uid", "UID", Go::Text),
    ("apiVersion", "APIVersion", Go::Text),
    ("resourceVersion", "ResourceVersion", Go::Text),
    ("fieldPath", "FieldPath", Go::Text),
]);
const SOURCE: Go = Go::Struct(&[
    ("component", "Component", Go::Text),
    ("host", "Host", Go::Text),
]);

/// What every Event must fulfil. `controller`: the served name of the field with the reporting controller.
pub(crate) fn legacy(o: &Value, controller: &str) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let of = str_of(&o["involvedObject"], "namespace");
    let namespace = str_of(&o["metadata"], "namespace");
    let timed = o["eventTime"].is_string();
    let matching = match (timed, of) {
        (false, "") => ["", "default"].contains(&namespace),
        (false, of) => namespace == of,
        (true, "") => ["default", "kube-system"].contains(&namespace),
        (true, _) => true,
    };
    if !matching {
        let at = Path::Root("involvedObject.namespace");
        errors.invalid(&at, of, "does not match event.namespace");
    }
    if timed {
        let name = str_of(o, "reportingComponent");
        let at = Path::Root(controller);
        if name.is_empty() {
            errors.required(&at, "");
        }
        errors.broken(&at, name, rules::qualified(name));
        for field in ["reportingInstance", "action", "reason"] {
            let at = Path::Root(field);
            match str_of(o, field).len() {
                0 => errors.required(&at, ""),
                n => bounded(n, LIMIT, &at, &mut errors),
            }
        }
        let at = Path::Root("message");
        bounded(str_of(o, "message").len(), NOTE_LIMIT, &at, &mut errors);
    }
    errors.0
}

fn bounded(length: usize, limit: usize, at: &Path<'_>, errors: &mut Errors) {
    if length > limit {
        errors.invalid(at, "", format!("can have at most {limit} characters"));
    }
}

fn series(o: &Value, errors: &mut Errors) {
    let series = &o["series"];
    if !series.is_object() {
        return;
    }
    if series["count"].as_i64().unwrap_or(0) < 2 {
        errors.invalid(&Path::Root("series.count"), "", "should be at least 2");
    }
    if !series["lastObservedTime"].is_string() {
        errors.required(&Path::Root("series.lastObservedTime"), "");
    }
}

/// What new Events of events.k8s.io must fulfil besides.
pub(crate) fn strict(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    series(o, &mut errors);
    if !o["eventTime"].is_string() {
        errors.required(&Path::Root("eventTime"), "");
    }
    let kind = str_of(o, "type");
    if !["Normal", "Warning"].contains(&kind) {
        let detail = format!("has invalid value: {kind}");
        errors.invalid(&Path::Root("type"), "", detail);
    }
    let source = &o["source"];
    for (field, set) in [
        ("firstTimestamp", o["firstTimestamp"].is_string()),
        ("lastTimestamp", o["lastTimestamp"].is_string()),
        ("count", o["count"].as_i64().unwrap_or(0) != 0),
        (
            "source",
            entries(source).any(|(_, v)| v.as_str().is_some_and(|v| !v.is_empty())),
        ),
    ] {
        if set {
            errors.invalid(&Path::Root(field), "", "needs to be unset");
        }
    }
    errors.0
}

/// What may not change through events.k8s.io.
pub(crate) fn strict_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if new["series"] != old["series"] {
        series(new, &mut errors);
    }
    for (field, go) in [
        ("involvedObject", &OBJECT),
        ("reason", &Go::Text),
        ("message", &Go::Text),
        ("source", &SOURCE),
        ("firstTimestamp", &Go::Plain),
        ("lastTimestamp", &Go::Plain),
        ("count", &Go::Plain),
        ("reason", &Go::Text),
        ("type", &Go::Text),
        ("eventTime", &Go::Plain),
        ("action", &Go::Text),
        ("related", &OBJECT),
    ] {
        same(field, field, new, old, go, &mut errors);
    }
    let controller = "reportingController";
    same(
        "reportingComponent",
        controller,
        new,
        old,
        &Go::Text,
        &mut errors,
    );
    let instance = "reportingInstance";
    same(instance, instance, new, old, &Go::Text, &mut errors);
    errors.0
}

fn same(field: &str, name: &str, new: &Value, old: &Value, go: &Go, errors: &mut Errors) {
    let (is, was) = (&new[field], &old[field]);
    let nothing = |v: &Value| v.is_null() || *v == "" || *v == 0;
    if is != was && !(nothing(is) && nothing(was)) {
        errors.invalid_go(&Path::Root(name), is, go, "field is immutable");
    }
}
