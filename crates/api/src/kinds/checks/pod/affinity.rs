//! Where a Pod may run: affinity, tolerations, node selectors.

use crate::kinds::{
    checks::{
        path::{Errors, Path},
        rules, selectors,
    },
    json::{list, str_of},
};
use serde_json::Value;
use std::collections::HashSet;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn affinity(a: &Value, at: &Path<'_>, errors: &mut Errors) {
    let node = &a["nodeAffinity"];
    let place = at.child("nodeAffinity");
    if node[REQUIRED].is_object() {
        node_selector(&node[REQUIRED], &place.child(REQUIRED), errors);
    }
    let terms = place.child(PREFERRED);
    for (i, term) in list(node, PREFERRED).iter().enumerate() {
        let at = terms.index(i);
        weight(term, &at, errors);
        let preference = &term["preference"];
        node_term(preference, false, &at.child("preference"), errors);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let place = at.child(field);
        let terms = place.child(REQUIRED);
        for (i, term) in list(&a[field], REQUIRED).iter().enumerate() {
            pod_term(term, &terms.index(i), errors);
        }
        let terms = place.child(PREFERRED);
        for (i, term) in list(&a[field], PREFERRED).iter().enumerate() {
            let at = terms.index(i);
            weight(term, &at, errors);
            let place = at.child("podAffinityTerm");
            pod_term(&term["podAffinityTerm"], &place, errors);
        }
    }
}

fn weight(term: &Value, at: &Path<'_>, errors: &mut Errors) {
    let n = term["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&n) {
        errors.invalid(&at.child("weight"), n, "must be in the range 1-100");
    }
}

/// A NodeSelector: at least one term.
pub(crate) fn node_selector(s: &Value, at: &Path<'_>, errors: &mut Errors) {
    let at = at.child("nodeSelectorTerms");
    let terms = list(s, "nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&at, "must have at least one node selector term");
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(term, true, &at.index(i), errors);
    }
}

fn node_term(term: &Value, values: bool, at: &Path<'_>, errors: &mut Errors) {
    let place = at.child("matchExpressions");
    for (i, e) in list(term, "matchExpressions").iter().enumerate() {
        node_expression(e, values, &place.index(i), errors);
    }
    let place = at.child("matchFields");
    for (i, e) in list(term, "matchFields").iter().enumerate() {
        node_field(e, &place.index(i), errors);
    }
}

fn node_expression(e: &Value, check_values: bool, at: &Path<'_>, errors: &mut Errors) {
    let values = list(e, "values");
    let place = at.child("values");
    match str_of(e, "operator") {
        "In" | "NotIn" if values.is_empty() => errors.required(
            &place,
            "must be specified when `operator` is 'In' or 'NotIn'",
        ),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(
            &place,
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        "Gt" | "Lt" if values.len() != 1 => errors.required(
            &place,
            "must be specified single value when `operator` is 'Lt' or 'Gt'",
        ),
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(
            &at.child("operator"),
            other,
            "not a valid selector operator",
        ),
    }
    let key = str_of(e, "key");
    errors.broken(&at.child("key"), key, rules::qualified(key));
    if check_values {
        for (i, v) in values.iter().enumerate() {
            let v = v.as_str().unwrap_or_default();
            errors.broken(&place.index(i), v, rules::label_value(v));
        }
    }
}

fn node_field(e: &Value, at: &Path<'_>, errors: &mut Errors) {
    let values = list(e, "values");
    let place = at.child("values");
    match str_of(e, "operator") {
        "In" | "NotIn" if values.len() != 1 => errors.required(
            &place,
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        ),
        "In" | "NotIn" => {}
        other => errors.invalid(
            &at.child("operator"),
            other,
            "not a valid selector operator",
        ),
    }
    let key = str_of(e, "key");
    if key != "metadata.name" {
        errors.invalid(&at.child("key"), key, "not a valid field selector key");
        return;
    }
    for (i, v) in values.iter().enumerate() {
        let v = v.as_str().unwrap_or_default();
        errors.broken(&place.index(i), v, rules::dns_subdomain(v));
    }
}

fn pod_term(term: &Value, at: &Path<'_>, errors: &mut Errors) {
    for field in ["labelSelector", "namespaceSelector"] {
        selectors::labels(&term[field], &at.child(field), errors);
    }
    for name in list(term, "namespaces") {
        let name = name.as_str().unwrap_or_default();
        errors.broken(&at.child("namespace"), name, rules::dns_label(name));
    }
    label_keys(term, at, errors);
    let key = str_of(term, "topologyKey");
    let place = at.child("topologyKey");
    if key.is_empty() {
        errors.required(&place, "can not be empty");
    }
    errors.broken(&place, key, rules::qualified(key));
}

/// `matchLabelKeys` and `mismatchLabelKeys` beside a `labelSelector`.
pub(super) fn label_keys(term: &Value, at: &Path<'_>, errors: &mut Errors) {
    let selector = &term["labelSelector"];
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = list(term, field);
        let place = at.child(field);
        if keys.is_empty() {
            continue;
        }
        if selector.is_null() {
            let detail = "must not be specified when labelSelector is not set";
            errors.forbidden(&place, detail);
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            let key = key.as_str().unwrap_or_default();
            errors.broken(&place.index(i), key, rules::qualified(key));
        }
    }
    let (keys, others) = (
        list(term, "matchLabelKeys"),
        list(term, "mismatchLabelKeys"),
    );
    let mut selected: HashSet<&str> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, _)| k.as_str())
        .collect();
    for e in list(selector, "matchExpressions") {
        let key = str_of(e, "key");
        if let Some(i) = keys.iter().rposition(|k| k == key)
            && selected.contains(key)
        {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.invalid(&at.index(i), key, detail);
        }
        selected.insert(key);
    }
    let place = at.child("matchLabelKeys");
    for (i, key) in keys.iter().enumerate().filter(|(_, k)| others.contains(k)) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.invalid(&place.index(i), key.clone(), detail);
    }
}

/// A taint's effect, which may be empty in tolerations.
pub(crate) fn taint_effect(effect: &str, may_be_empty: bool, at: &Path<'_>, errors: &mut Errors) {
    let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if effect.is_empty() && !may_be_empty {
        errors.required(at, "");
    } else if !known.contains(&effect) {
        errors.not_supported(at, effect, &known);
    }
}

/// The list `tolerations`.
pub(crate) fn tolerations(all: &[Value], at: &Path<'_>, errors: &mut Errors) {
    for (i, t) in all.iter().enumerate() {
        let at = at.index(i);
        let (key, operator) = (str_of(t, "key"), str_of(t, "operator"));
        let (value, effect) = (str_of(t, "value"), str_of(t, "effect"));
        let place = at.child("operator");
        if !key.is_empty() {
            errors.broken(&at.child("key"), key, rules::qualified(key));
        } else if operator != "Exists" {
            errors.invalid(
                &place,
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if !t["tolerationSeconds"].is_null() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&at.child("effect"), effect, detail);
        }
        match operator {
            "Equal" | "" => {
                let messages = rules::label_value(value);
                if !messages.is_empty() {
                    errors.invalid(&place, value, messages.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    let detail = "value must be empty when `operator` is 'Exists'";
                    errors.invalid(&place, value, detail);
                }
            }
            "Lt" | "Gt" => {
                errors.not_supported(&place, operator, &["Equal", "Exists", "Lt", "Gt"]);
            }
            other => errors.not_supported(&place, other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            taint_effect(effect, true, &at.child("effect"), errors);
        }
    }
}
