//! The checks of ResourceQuota and LimitRange (`pkg/apis/core/validation`).

use super::{
    path::{Errors, Go, Path},
    pod::resources,
    quantity::Quantity,
};
use crate::{
    kinds::json::{entries, list, str_of},
    registry::FieldError,
};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "VolumeAttributesClass",
    "CrossNamespacePodAffinity",
];
const COMPUTE: [&str; 6] = [
    "cpu",
    "memory",
    "limits.cpu",
    "limits.memory",
    "requests.cpu",
    "requests.memory",
];
const EXCLUSIVE: [[&str; 2]; 2] = [
    ["BestEffort", "NotBestEffort"],
    ["Terminating", "NotTerminating"],
];
const SCOPE_SELECTOR: Go = Go::Struct(&[(
    "matchExpressions",
    "MatchExpressions",
    Go::List(&Go::Struct(&[
        ("scopeName", "ScopeName", Go::Text),
        ("operator", "Operator", Go::Text),
        ("values", "Values", Go::Plain),
    ])),
)]);

fn standard(name: &str) -> bool {
    resources::is_standard(name) && name != "storage"
}

/// A list of what may be used, or is.
fn amounts(all: &Value, at: &Path<'_>, errors: &mut Errors) {
    for (name, value) in entries(all) {
        let at = at.key(name);
        resources::name(name, &at, errors);
        if !name.contains('/') && !standard(name) {
            errors.invalid(&at, name, "must be a standard resource for quota");
        }
        if let Some(q) = Quantity::of(value) {
            resources::amount(name, &q, &at, errors);
        }
    }
}

pub(crate) fn quota(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    spec(&o["spec"], &mut errors);
    errors.0.extend(status(o));
    errors.0
}

pub(crate) fn quota_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    spec(&new["spec"], &mut errors);
    let scopes = |o: &Value| -> BTreeSet<String> {
        let all = list(&o["spec"], "scopes").iter();
        all.filter_map(|s| Some(s.as_str()?.to_string())).collect()
    };
    if scopes(new) != scopes(old) {
        let given = new["spec"]["scopes"].clone();
        errors.invalid(&Path::Root("spec.scopes"), given, "field is immutable");
    }
    errors.0
}

/// `…/status`
pub(crate) fn status(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root("status");
    for field in ["hard", "used"] {
        amounts(&o["status"][field], &at.child(field), &mut errors);
    }
    errors.0
}

fn spec(spec: &Value, errors: &mut Errors) {
    let at = Path::Root("spec");
    amounts(&spec["hard"], &at.child("hard"), errors);
    let hard: Vec<&str> = entries(&spec["hard"]).map(|(name, _)| name).collect();
    let unfit = |scope: &str| hard.iter().filter(move |name| !fits(scope, name)).count();
    let scopes = &spec["scopes"];
    let place = at.child("scopes");
    let given: Vec<&str> = list(spec, "scopes")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for scope in &given {
        if !SCOPES.contains(scope) {
            errors.invalid(&place, scopes.clone(), "unsupported scope");
        }
        for _ in 0..unfit(scope) {
            errors.invalid(
                &place,
                scopes.clone(),
                "unsupported scope applied to resource",
            );
        }
    }
    exclusive(&given, scopes, &place, errors);
    let selector = &spec["scopeSelector"];
    if !selector.is_object() {
        return;
    }
    let at = at.child("scopeSelector");
    let at = at.child("matchExpressions");
    let all = list(selector, "matchExpressions");
    for e in all {
        let scope = str_of(e, "scopeName");
        if !SCOPES.contains(&scope) {
            errors.invalid(&at.child("scopeName"), scope, "unsupported scope");
        }
        for _ in 0..unfit(scope) {
            let detail = "unsupported scope applied to resource";
            errors.invalid_go(&at, selector, &SCOPE_SELECTOR, detail);
        }
        expression(e, scope, &at, errors);
    }
    let given: Vec<&str> = all.iter().map(|e| str_of(e, "scopeName")).collect();
    exclusive(&given, scopes, &at, errors);
}

fn expression(e: &Value, scope: &str, at: &Path<'_>, errors: &mut Errors) {
    let operator = str_of(e, "operator");
    let place = at.child("operator");
    if SCOPES.contains(&scope)
        && !["PriorityClass", "VolumeAttributesClass"].contains(&scope)
        && operator != "Exists"
    {
        errors.invalid(&place, operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity");
    }
    let values = list(e, "values");
    match operator {
        "In" | "NotIn" if values.is_empty() => errors.required(
            &at.child("values"),
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        ),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
            &at.child("values"),
            values.to_vec(),
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        ),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(&place, other, "not a valid selector operator"),
    }
}

/// Whether what a quota limits is something of which the scope speaks.
fn fits(scope: &str, name: &str) -> bool {
    if !standard(name) {
        return true;
    }
    match scope {
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => ["persistentvolumeclaims", "requests.storage"].contains(&name),
        s if SCOPES.contains(&s) => name == "pods" || COMPUTE.contains(&name),
        _ => true,
    }
}

fn exclusive(given: &[&str], shown: &Value, at: &Path<'_>, errors: &mut Errors) {
    for pair in EXCLUSIVE {
        if pair.iter().all(|s| given.contains(s)) {
            errors.invalid(at, shown.clone(), "conflicting scopes");
        }
    }
}

pub(crate) fn limit_range(o: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let at = Path::Root("spec.limits");
    let mut seen = HashSet::new();
    for (i, limit) in list(&o["spec"], "limits").iter().enumerate() {
        let at = at.index(i);
        let kind = str_of(limit, "type");
        type_name(kind, &at.child("type"), &mut errors);
        if !seen.insert(kind) {
            errors.duplicate(&at.child("type"), kind);
        }
        item(limit, kind, &at, &mut errors);
    }
    errors.0
}

fn type_name(kind: &str, at: &Path<'_>, errors: &mut Errors) {
    let messages = super::rules::qualified(kind);
    if !messages.is_empty() {
        errors.broken(at, kind, messages);
    } else if !kind.contains('/') && !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind)
    {
        let detail = "must be a standard limit type or fully qualified";
        errors.invalid(at, kind, detail);
    }
}

fn item(limit: &Value, kind: &str, at: &Path<'_>, errors: &mut Errors) {
    let name = match kind {
        "Pod" | "Container" => resources::container_name,
        _ => resources::name,
    };
    let mut keys = BTreeSet::new();
    let mut read = |field: &'static str, errors: &mut Errors| {
        let at = at.child(field);
        for (key, _) in entries(&limit[field]) {
            name(key, &at.key(key), errors);
            keys.insert(key.to_string());
        }
    };
    read("max", errors);
    read("min", errors);
    for field in ["default", "defaultRequest"] {
        if kind != "Pod" {
            read(field, errors);
        } else if entries(&limit[field]).next().is_some() {
            let detail = "may not be specified when `type` is 'Pod'";
            errors.forbidden(&at.child(field), detail);
        }
    }
    if kind == "PersistentVolumeClaim"
        && limit["min"]["storage"].is_null()
        && limit["max"]["storage"].is_null()
    {
        errors.required(
            &at.child("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        );
    }
    read("maxLimitRequestRatio", errors);
    for key in &keys {
        bounds(limit, kind, key, at, errors);
    }
}

/// The bounds of one resource against each other.
fn bounds(limit: &Value, kind: &str, key: &str, at: &Path<'_>, errors: &mut Errors) {
    let of = |field: &str| Quantity::of(&limit[field][key]);
    let (min, max, ratio) = (of("min"), of("max"), of("maxLimitRequestRatio"));
    let (default, request) = match kind {
        "Pod" => (None, None),
        _ => (of("default"), of("defaultRequest")),
    };
    // each: what it is called, what must not be more than what, where it is wrong, and what is shown there
    let (least, most) = (("min value", &min), ("max value", &max));
    let limited = ("default value", &default);
    let asked = ("default request value", &request);
    for (low, high, field, shown) in [
        (least, most, "min", &min),
        (least, asked, "defaultRequest", &request),
        (asked, most, "defaultRequest", &request),
        (
            asked,
            ("default limit value", &default),
            "defaultRequest",
            &request,
        ),
        (least, limited, "default", &min),
        (limited, most, "default", &max),
    ] {
        if let ((a, Some(low)), (b, Some(high))) = (low, high)
            && low > high
        {
            let (l, h) = (low.canonical(), high.canonical());
            let shown = shown.as_ref().map_or(Value::Null, |q| q.canonical().into());
            errors.invalid(
                &at.child(field).key(key),
                shown,
                format!("{a} {l} is greater than {b} {h}"),
            );
        }
    }
    let place = at.child("maxLimitRequestRatio");
    let place = place.key(key);
    if let Some(ratio) = &ratio {
        let text = ratio.canonical();
        if *ratio < Quantity::whole(1) {
            let detail = format!("ratio {text} is less than 1");
            errors.invalid(&place, text.as_str(), detail);
        }
        if let (Some(min), Some(max)) = (&min, &max) {
            let most = max.float() / min.float();
            if ratio.float() > most {
                let detail = format!("ratio {text} is greater than max/min = {most:.6}");
                errors.invalid(&place, text, detail);
            }
        }
    }
    if let (Some(d), Some(r)) = (&default, &request)
        && !resources::overcommits(key)
        && d != r
    {
        let (d, r) = (d.canonical(), r.canonical());
        let detail = format!("default value {d} must equal to defaultRequest value {r} in {key}");
        errors.invalid(&at.child("defaultRequest").key(key), r, detail);
    }
}

/// What a container gets follows from what is given of it (upstream's SetDefaults_LimitRangeItem).
pub(crate) fn fill_limits(limit: &mut Value) {
    if limit["type"] != "Container" {
        return;
    }
    for (to, from) in [
        ("default", "max"),
        ("defaultRequest", "default"),
        ("defaultRequest", "min"),
    ] {
        let given = limit[from].as_object().cloned().unwrap_or_default();
        if !limit[to].is_object() {
            limit[to] = json!({});
        }
        for (key, value) in given {
            crate::kinds::json::default(&mut limit[to], &key, value);
        }
    }
    for field in ["default", "defaultRequest"] {
        if limit[field].as_object().is_some_and(|m| m.is_empty())
            && let Some(map) = limit.as_object_mut()
        {
            map.remove(field);
        }
    }
}
