//! The checks of a HorizontalPodAutoscaler (`pkg/apis/autoscaling/validation`), in its v2 form.

use super::{
    path::{Errors, Path},
    quantity::{self, Quantity},
    rules,
};
use crate::{
    kinds::json::{list, str_of},
    registry::FieldError,
};
use serde_json::Value;

const WINDOW_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;
/// Fields with sources, in the order they are looked at.
const SOURCES: [(&str, &str); 5] = [
    ("object", "Object"),
    ("external", "External"),
    ("pods", "Pods"),
    ("resource", "Resource"),
    ("containerResource", "ContainerResource"),
];
const TYPES: [&str; 5] = [
    "ContainerResource",
    "External",
    "Object",
    "Pods",
    "Resource",
];

/// `old`: what it replaces. What is scaled may stay as it was named there.
pub(crate) fn autoscaler(o: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &o["spec"];
    let at = Path::Root("spec");
    let least = spec["minReplicas"].as_i64();
    if let Some(n) = least.filter(|n| *n < 1) {
        let detail = "must be greater than or equal to 1";
        errors.invalid(&at.child("minReplicas"), n, detail);
    }
    let most = spec["maxReplicas"].as_i64().unwrap_or(0);
    let place = at.child("maxReplicas");
    match most {
        0 => errors.required(&place, "must be set and greater than 0"),
        n if n < 0 => errors.invalid(&place, n, "must be greater than or equal to 1"),
        _ => {}
    }
    if least.is_some_and(|n| most < n) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.invalid(&place, most, detail);
    }
    reference(
        &spec["scaleTargetRef"],
        &at.child("scaleTargetRef"),
        &mut errors,
    );
    let of = &spec["scaleTargetRef"];
    let same = |old: &Value| {
        let was = &old["spec"]["scaleTargetRef"];
        str_of(was, "apiVersion") == str_of(of, "apiVersion")
            && str_of(was, "kind") == str_of(of, "kind")
    };
    let version = str_of(of, "apiVersion");
    if !version.contains('/')
        && str_of(of, "kind") != "ReplicationController"
        && !old.is_some_and(same)
    {
        let at = at.child("scaleTargetRef");
        let detail = "apiVersion must specify API group";
        errors.invalid(&at.child("apiVersion"), version, detail);
    }
    metrics(spec, &at.child("metrics"), &mut errors);
    for field in ["scaleUp", "scaleDown"] {
        let rules = &spec["behavior"][field];
        if rules.is_object() {
            scaling(rules, &at.child("behavior").child(field), &mut errors);
        }
    }
    errors.0
}

fn segment(o: &Value, field: &str, at: &Path<'_>, errors: &mut Errors) {
    let at = at.child(field);
    match str_of(o, field) {
        "" => errors.required(&at, ""),
        name => errors.broken(&at, name, rules::path_segment(name)),
    }
}

/// A CrossVersionObjectReference.
fn reference(o: &Value, at: &Path<'_>, errors: &mut Errors) {
    segment(o, "kind", at, errors);
    segment(o, "name", at, errors);
    let version = str_of(o, "apiVersion");
    if version.matches('/').count() > 1 {
        errors.invalid(
            &at.child("apiVersion"),
            version,
            format!("unexpected GroupVersion string: {version}"),
        );
    }
}

fn metrics(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let all = list(spec, "metrics");
    for (i, m) in all.iter().enumerate() {
        metric(m, &at.index(i), errors);
    }
    let wakes = |m: &Value| m["type"] == "Object" || m["type"] == "External";
    if spec["minReplicas"] == 0 && !all.iter().any(wakes) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(at, detail);
    }
}

fn metric(m: &Value, at: &Path<'_>, errors: &mut Errors) {
    let kind = str_of(m, "type");
    let place = at.child("type");
    if kind.is_empty() {
        errors.required(&place, "must specify a metric source type");
    }
    if !TYPES.contains(&kind) {
        errors.not_supported(&place, kind, &TYPES);
    }
    let present: Vec<&str> = SOURCES
        .iter()
        .map(|(field, _)| *field)
        .filter(|field| m[*field].is_object())
        .collect();
    if let Some(field) = present.first() {
        source(field, &m[*field], &at.child(field), errors);
    }
    let expected = SOURCES.iter().find(|(_, k)| *k == kind).map(|(f, _)| *f);
    match expected {
        Some(field) if !m[field].is_object() => {
            let detail = "must populate information for the given metric source";
            errors.required(&at.child(field), detail);
        }
        Some(_) => {}
        None => errors.not_supported(&place, kind, &TYPES),
    }
    if present.len() != 1 {
        for field in present.iter().filter(|f| Some(**f) != expected) {
            let detail = "must populate the given metric source only";
            errors.forbidden(&at.child(field), detail);
        }
    }
}

fn source(field: &str, s: &Value, at: &Path<'_>, errors: &mut Errors) {
    let goal = &s["target"];
    let place = at.child("target");
    let has = |name: &str| !goal[name].is_null();
    match field {
        "object" => {
            reference(&s["describedObject"], &at.child("describedObject"), errors);
            identifier(&s["metric"], &at.child("metric"), errors);
            target(goal, &place, errors);
            if !has("value") && !has("averageValue") {
                let detail = "must set either a target value or averageValue";
                errors.required(&place.child("averageValue"), detail);
            }
        }
        "external" => {
            identifier(&s["metric"], &at.child("metric"), errors);
            target(goal, &place, errors);
            if !has("value") && !has("averageValue") {
                let detail = "must set either a target value for metric or a per-pod target";
                errors.required(&place.child("averageValue"), detail);
            }
            if has("value") && has("averageValue") {
                let detail = "may not set both a target value for metric and a per-pod target";
                errors.forbidden(&place.child("value"), detail);
            }
        }
        "pods" => {
            identifier(&s["metric"], &at.child("metric"), errors);
            target(goal, &place, errors);
            if !has("averageValue") {
                let detail = "must specify a positive target averageValue";
                errors.required(&place.child("averageValue"), detail);
            }
        }
        _ => {
            if str_of(s, "name").is_empty() {
                errors.required(&at.child("name"), "must specify a resource name");
            }
            if field == "containerResource" {
                match str_of(s, "container") {
                    "" => errors.required(&at.child("container"), "must specify a container"),
                    c => errors.broken(&at.child("container"), c, rules::dns_label(c)),
                }
            }
            target(goal, &place, errors);
            if !has("averageUtilization") && !has("averageValue") {
                let detail = "must set either a target raw value or a target utilization";
                errors.required(&place.child("averageUtilization"), detail);
            }
            if has("averageUtilization") && has("averageValue") {
                let detail = "may not set both a target raw value and a target utilization";
                errors.forbidden(&place.child("averageValue"), detail);
            }
        }
    }
}

fn identifier(m: &Value, at: &Path<'_>, errors: &mut Errors) {
    let at = at.child("name");
    match str_of(m, "name") {
        "" => errors.required(&at, "must specify a metric name"),
        name => errors.broken(&at, name, rules::path_segment(name)),
    }
}

fn target(t: &Value, at: &Path<'_>, errors: &mut Errors) {
    let kind = str_of(t, "type");
    let place = at.child("type");
    if kind.is_empty() {
        errors.required(&place, "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.invalid(&place, kind, detail);
    }
    for field in ["value", "averageValue"] {
        if let Some(q) = Quantity::of(&t[field]).filter(|q| q.sign() < 1) {
            errors.invalid(&at.child(field), q.canonical(), "must be positive");
        }
    }
    if let Some(n) = t["averageUtilization"].as_i64().filter(|n| *n < 1) {
        let detail = "must be greater than 0";
        errors.invalid(&at.child("averageUtilization"), n, detail);
    }
}

fn scaling(r: &Value, at: &Path<'_>, errors: &mut Errors) {
    if let Some(n) = r["stabilizationWindowSeconds"].as_i64() {
        let at = at.child("stabilizationWindowSeconds");
        if n < 0 {
            errors.invalid(&at, n, "must be greater than or equal to zero");
        }
        if n > WINDOW_SECONDS_MAX {
            let detail = format!("must be less than or equal to {WINDOW_SECONDS_MAX}");
            errors.invalid(&at, n, detail);
        }
    }
    errors.supported(
        &at.child("selectPolicy"),
        &r["selectPolicy"],
        &["Disabled", "Max", "Min"],
    );
    let policies = list(r, "policies");
    let place = at.child("policies");
    if policies.is_empty() {
        errors.required(&place, "must specify at least one Policy");
    }
    for (i, p) in policies.iter().enumerate() {
        let at = place.index(i);
        let kind = str_of(p, "type");
        if !["Pods", "Percent"].contains(&kind) {
            errors.not_supported(&at.child("type"), kind, &["Percent", "Pods"]);
        }
        let value = p["value"].as_i64().unwrap_or(0);
        if value <= 0 {
            errors.invalid(&at.child("value"), value, "must be greater than zero");
        }
        let period = p["periodSeconds"].as_i64().unwrap_or(0);
        let at = at.child("periodSeconds");
        if period <= 0 {
            errors.invalid(&at, period, "must be greater than zero");
        }
        if period > PERIOD_SECONDS_MAX {
            let detail = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
            errors.invalid(&at, period, detail);
        }
    }
    quantity::nonnegative(&r["tolerance"], &at.child("tolerance"), errors);
}
