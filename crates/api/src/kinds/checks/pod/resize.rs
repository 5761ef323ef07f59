//! What the `resize` subresource may change of a Pod, and how (`ValidatePodResize`).

use super::containers::is_sidecar;
use crate::{
    kinds::{
        checks::path::{Errors, Path},
        json::{entries, list, str_of},
        qos,
    },
    registry::FieldError,
};
use serde_json::{Map, Value};

/// `new` against `old`, after [`super::pod`] has looked at `new`.
pub(crate) fn resize(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if !old["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
        errors.forbidden(&Path::Root(""), "static pods cannot be resized");
        return errors.0;
    }
    let (is, was) = (&new["spec"], &old["spec"]);
    if was["os"]["name"] == "windows" {
        errors.forbidden(&Path::Root(""), "windows pods cannot be resized");
        return errors.0;
    }
    let at = Path::Root("spec");
    let class = match str_of(&old["status"], "qosClass") {
        "" => qos::class(was),
        class => class,
    };
    if class != qos::class(is) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.invalid(&at, str_of(&new["status"], "qosClass"), detail);
    }
    if !supported(old) {
        errors.forbidden(&at, "Pod running on node without support for resize");
    }
    let mut munged = is.clone();
    if any(&is["resources"]) || any(&was["resources"]) {
        of_pod(is, was, &mut munged, &at, &mut errors);
    }
    if !list(&old["status"], "nodeAllocatableResourceClaimStatuses").is_empty() {
        let detail = "pods with node allocatable resource claims cannot be resized";
        errors.forbidden(&at, detail);
    }
    if !in_order(is, was, &at, &mut errors) {
        return errors.0;
    }
    for field in ["initContainers", "containers"] {
        let at = at.child(field);
        for (i, (now, before)) in list(is, field).iter().zip(list(was, field)).enumerate() {
            let at = at.index(i);
            let at = at.child("resources");
            for (of, detail) in [
                ("requests", "resource requests cannot be removed"),
                ("limits", "resource limits cannot be removed"),
            ] {
                if removed(&now["resources"][of], &before["resources"][of]) {
                    errors.forbidden(&at.child(of), detail);
                }
            }
        }
    }
    only_amounts(&mut munged, was, &at, &mut errors);
    if errors.0.is_empty() && pruned(&munged) != pruned(was) {
        errors.forbidden(&at, "only cpu and memory resources are mutable");
    }
    errors.0
}

/// A running container whose resources its node tells of can be resized there; before any runs, nobody knows.
fn supported(old: &Value) -> bool {
    list(&old["status"], "containerStatuses")
        .iter()
        .find(|c| c["state"]["running"].is_object())
        .is_none_or(|c| c["resources"].is_object())
}

fn any(resources: &Value) -> bool {
    ["requests", "limits"]
        .iter()
        .any(|of| entries(&resources[*of]).next().is_some())
}

fn removed(now: &Value, before: &Value) -> bool {
    entries(before).any(|(name, _)| now.get(name).is_none())
}

/// The Pod's own amounts.
fn of_pod(is: &Value, was: &Value, munged: &mut Value, at: &Path<'_>, errors: &mut Errors) {
    let (now, before) = (&is["resources"], &was["resources"]);
    let place = at.child("resources");
    if before.is_object() && !now.is_object() {
        errors.forbidden(&place, "pod-level resources cannot be removed");
        return;
    }
    for (of, detail) in [
        ("requests", "pod-level resource requests cannot be removed"),
        ("limits", "pod-level resource limits cannot be removed"),
    ] {
        if removed(&now[of], &before[of]) {
            errors.forbidden(&place.child(of), detail);
        }
    }
    if let Some(r) = munged.get_mut("resources") {
        for of in ["requests", "limits"] {
            let kept = kept(&r[of], &before[of]);
            r[of] = kept;
        }
    }
    if pruned(&munged["resources"]) != pruned(before) {
        let detail = "only cpu and memory resources are mutable at pod-level";
        errors.forbidden(at, detail);
    }
}

fn in_order(is: &Value, was: &Value, at: &Path<'_>, errors: &mut Errors) -> bool {
    let before = errors.0.len();
    for field in ["containers", "initContainers"] {
        let at = at.child(field);
        let (now, then) = (list(is, field), list(was, field));
        if now.len() != then.len() {
            let detail = format!("{field} may not be added or removed on resize");
            errors.forbidden(&at, detail);
            continue;
        }
        for (i, (c, old)) in now.iter().zip(then).enumerate() {
            if str_of(c, "name") != str_of(old, "name") {
                let detail = format!("{field} may not be renamed or reordered on resize");
                errors.forbidden(&at.index(i).child("name"), detail);
            }
        }
    }
    errors.0.len() == before
}

/// Puts the old cpu and memory back into `munged`, and refuses what else changed of its containers.
fn only_amounts(munged: &mut Value, was: &Value, at: &Path<'_>, errors: &mut Errors) {
    for field in ["containers", "initContainers"] {
        let init = field == "initContainers";
        let place = at.child(field);
        let Some(all) = munged.get_mut(field).and_then(Value::as_array_mut) else {
            continue;
        };
        for (i, (c, before)) in all.iter_mut().zip(list(was, field)).enumerate() {
            let changed = pruned(c) != pruned(before);
            let amounts = |of: &str| kept(&c["resources"][of], &before["resources"][of]);
            // nothing but amounts: a container with claims can't be resized, as upstream
            c["resources"] = serde_json::json!({
                "limits": amounts("limits"), "requests": amounts("requests"),
            });
            if pruned(c) != pruned(before) {
                let (at, detail) = if init {
                    let detail =
                        "only cpu and memory resources for init or sidecar containers are mutable";
                    (&place.index(i), detail)
                } else {
                    (at, "only cpu and memory resources are mutable")
                };
                errors.forbidden(at, detail);
            }
            if init && changed && !is_sidecar(c) {
                for policy in list(c, "resizePolicy") {
                    if policy["restartPolicy"] == "RestartContainer" {
                        let detail = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
                        errors.forbidden(&place.index(i), detail);
                    }
                }
            }
        }
    }
}

/// `now` with cpu and memory as they were.
fn kept(now: &Value, before: &Value) -> Value {
    let mut amounts: Map<String, Value> = now.as_object().cloned().unwrap_or_default();
    for of in ["cpu", "memory"] {
        match before.get(of) {
            Some(v) => amounts.insert(of.to_string(), v.clone()),
            None => amounts.remove(of),
        };
    }
    Value::Object(amounts)
}

/// Without what is empty: upstream's comparison holds nil and empty for the same.
fn pruned(v: &Value) -> Value {
    let empty = |v: &Value| match v {
        Value::Null => true,
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    };
    match v {
        Value::Object(o) => o
            .iter()
            .map(|(k, v)| (k.clone(), pruned(v)))
            .filter(|(_, v)| !empty(v))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(a) => a.iter().map(pruned).collect(),
        v => v.clone(),
    }
}
