//! What of a Pod may change, and how.

use super::affinity;
use crate::{
    kinds::{
        checks::{
            difference::diff_of,
            path::{Errors, Path},
        },
        json::{entries, list, str_of},
    },
    registry::FieldError,
};
use serde_json::{Map, Value};
use std::collections::HashMap;

const CHANGEABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// `new` against `old`, after [`super::pod`] has looked at `new`.
pub(crate) fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    changes(new, old, &mut errors);
    errors.0
}

fn changes(new: &Value, old: &Value, errors: &mut Errors) {
    let (is, was) = (&new["spec"], &old["spec"]);
    let at = Path::Root("spec");
    for field in ["containers", "initContainers"] {
        let at = at.child(field);
        let (now, then) = (list(is, field), list(was, field));
        if now.len() != then.len() {
            errors.forbidden(&at, "pod updates may not add or remove containers");
            return;
        }
        for (i, c) in now.iter().enumerate() {
            if str_of(c, "image").is_empty() {
                errors.required(&at.index(i).child("image"), "");
            }
            super::containers::trimmed_image(c, &at.index(i), errors);
        }
    }
    if !deadline(is, was, &at.child("activeDeadlineSeconds"), errors) {
        return;
    }
    tolerations(is, was, &at.child("tolerations"), errors);
    gates(is, was, &at.child("schedulingGates"), errors);
    if is == was {
        return;
    }
    let mut munged = is.clone();
    for field in ["containers", "initContainers"] {
        if let Some(all) = munged.get_mut(field).and_then(Value::as_array_mut) {
            for (c, before) in all.iter_mut().zip(list(was, field)) {
                c["image"] = before["image"].clone();
            }
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        keep(&mut munged, was, field);
    }
    let negative = was["terminationGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|n| n < 0);
    if negative && is["terminationGracePeriodSeconds"] == 1 {
        keep(&mut munged, was, "terminationGracePeriodSeconds");
    }
    if !list(was, "schedulingGates").is_empty() {
        gated(&mut munged, was, &at, errors);
    }
    if munged != *was {
        errors.forbidden(
            &at,
            format!(
                "pod updates may not change fields other than {CHANGEABLE}\n{}",
                diff_of("core.PodSpec", was, &munged)
            ),
        );
    }
}

fn keep(to: &mut Value, from: &Value, field: &str) {
    let Some(map) = to.as_object_mut() else {
        return;
    };
    match from.get(field) {
        Some(v) => {
            map.insert(field.to_string(), v.clone());
        }
        None => {
            map.remove(field);
        }
    }
}

/// May be set, and may shrink. False: nothing else is looked at.
fn deadline(is: &Value, was: &Value, at: &Path<'_>, errors: &mut Errors) -> bool {
    let before = was["activeDeadlineSeconds"].as_i64();
    match (is["activeDeadlineSeconds"].as_i64(), before) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            errors.invalid(at, n, "must be between 0 and 2147483647, inclusive");
            false
        }
        (Some(n), Some(before)) if before < n => {
            errors.invalid(at, n, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.invalid(at, Value::Null, detail);
            true
        }
        _ => true,
    }
}

fn tolerations(is: &Value, was: &Value, at: &Path<'_>, errors: &mut Errors) {
    let bare = |t: &Value| {
        let mut t = t.clone();
        if let Some(map) = t.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        t
    };
    let now: Vec<Value> = list(is, "tolerations").iter().map(bare).collect();
    if !list(was, "tolerations")
        .iter()
        .all(|t| now.contains(&bare(t)))
    {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(at, detail);
        return;
    }
    affinity::tolerations(list(is, "tolerations"), at, errors);
}

fn gates(is: &Value, was: &Value, at: &Path<'_>, errors: &mut Errors) {
    for (i, gate) in list(is, "schedulingGates").iter().enumerate() {
        let name = str_of(gate, "name");
        if !list(was, "schedulingGates")
            .iter()
            .any(|g| str_of(g, "name") == name)
        {
            let detail =
                format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&at.index(i).child("name"), detail);
        }
    }
}

/// A gated Pod's node selectors may get narrower.
fn gated(munged: &mut Value, was: &Value, at: &Path<'_>, errors: &mut Errors) {
    let (now, then) = (&munged["nodeSelector"], &was["nodeSelector"]);
    if now != then {
        if entries(then).any(|(k, v)| now.get(k) != Some(v)) {
            let shown = if now.is_null() {
                Value::Object(Map::new())
            } else {
                now.clone()
            };
            let detail =
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.invalid(&at.child("nodeSelector"), shown, detail);
        }
        keep(munged, was, "nodeSelector");
    }
    let now = munged["affinity"]["nodeAffinity"].clone();
    let then = &was["affinity"]["nodeAffinity"];
    if now == *then {
        return;
    }
    let place = at.child("affinity");
    let place = place.child("nodeAffinity");
    let place = place.child(REQUIRED);
    node_affinity(&now, then, &place.child("nodeSelectorTerms"), errors);
    let others = ["podAffinity", "podAntiAffinity"];
    if was["affinity"].is_null() && others.iter().all(|f| munged["affinity"][*f].is_null()) {
        keep(munged, was, "affinity");
    } else {
        if munged["affinity"].is_null() {
            munged["affinity"] = Value::Object(Map::new());
        }
        keep(&mut munged["affinity"], &was["affinity"], "nodeAffinity");
    }
}

fn node_affinity(now: &Value, then: &Value, at: &Path<'_>, errors: &mut Errors) {
    let terms = |a: &Value| list(&a[REQUIRED], "nodeSelectorTerms").to_vec();
    let (now, then) = (terms(now), terms(then));
    if then.is_empty() {
        return;
    }
    if now.len() != then.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.invalid(at, now, detail);
        return;
    }
    for (i, (new, old)) in now.iter().zip(&then).enumerate() {
        let (e, f) = ("matchExpressions", "matchFields");
        let was_empty = list(old, e).is_empty() && list(old, f).is_empty();
        let filled = !list(new, e).is_empty() || !list(new, f).is_empty();
        let grown = [e, f]
            .iter()
            .all(|field| list(new, field).starts_with(list(old, field)));
        if (was_empty && filled) || !grown {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.invalid(&at.index(i), new.clone(), detail);
        }
    }
}

/// `new` from the `ephemeralcontainers` subresource: there may be more of them, none changed.
pub(crate) fn ephemeral(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if !old["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
        let detail = "static pods do not support ephemeral containers";
        errors.forbidden(&Path::Root(""), detail);
        return errors.0;
    }
    let now: HashMap<&str, &Value> = list(&new["spec"], "ephemeralContainers")
        .iter()
        .map(|c| (str_of(c, "name"), c))
        .collect();
    let at = Path::Root("spec.ephemeralContainers");
    for before in list(&old["spec"], "ephemeralContainers") {
        let name = str_of(before, "name");
        match now.get(name) {
            None => errors.forbidden(
                &at,
                format!("existing ephemeral containers {name:?} may not be removed\n"),
            ),
            Some(c) if *c != before => errors.forbidden(
                &at,
                format!(
                    "existing ephemeral containers {name:?} may not be changed\n{}",
                    diff_of("core.EphemeralContainer", before, c)
                ),
            ),
            Some(_) => {}
        }
    }
    errors.0
}
