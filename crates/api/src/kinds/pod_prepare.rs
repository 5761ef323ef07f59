//! What upstream's strategy makes of a new Pod before it is looked at (`pkg/registry/core/pod`, `pkg/api/pod`).

use super::json::{items_mut, list, str_of};
use serde_json::{Map, Value, json};

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn remove(o: &mut Value, field: &str) {
    if let Some(map) = o.as_object_mut() {
        map.remove(field);
    }
}

/// Drops what belongs to features that v1.36 has switched off by default.
pub(crate) fn drop_disabled(spec: &mut Value) {
    remove(spec, "schedulingGroup");
    for field in CONTAINERS {
        for c in items_mut(spec, field) {
            let signal = c["lifecycle"].get("stopSignal").is_some();
            if signal {
                remove(&mut c["lifecycle"], "stopSignal");
                if c["lifecycle"].as_object().is_some_and(|l| l.is_empty()) {
                    remove(c, "lifecycle");
                }
            }
        }
    }
    for v in items_mut(spec, "volumes") {
        let Some(projected) = v.get_mut("projected").filter(|p| p.is_object()) else {
            continue;
        };
        for source in items_mut(projected, "sources") {
            remove(source, "clusterTrustBundle");
            remove(source, "podCertificate");
        }
    }
}

/// Writes the Pod's own labels into the selectors that go by keys.
pub(crate) fn label_keys(o: &mut Value) {
    let labels = o["metadata"]["labels"].clone();
    let spec = &mut o["spec"];
    if let Some(affinity) = spec.get_mut("affinity").filter(|a| a.is_object()) {
        for field in ["podAffinity", "podAntiAffinity"] {
            let Some(a) = affinity.get_mut(field).filter(|a| a.is_object()) else {
                continue;
            };
            for term in items_mut(a, REQUIRED) {
                select(term, &labels);
            }
            for term in items_mut(a, PREFERRED) {
                select(&mut term["podAffinityTerm"], &labels);
            }
        }
    }
    for constraint in items_mut(spec, "topologySpreadConstraints") {
        select(constraint, &labels);
    }
}

fn select(term: &mut Value, labels: &Value) {
    let mut made = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in list(term, field).iter().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                made.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    let Some(selector) = term.get_mut("labelSelector").filter(|s| s.is_object()) else {
        return;
    };
    if made.is_empty() {
        return;
    }
    match selector
        .get_mut("matchExpressions")
        .and_then(Value::as_array_mut)
    {
        Some(all) => all.extend(made),
        None => selector["matchExpressions"] = made.into(),
    }
}

/// A negative grace period has always meant one second.
pub(crate) fn grace(spec: &mut Value) {
    if spec["terminationGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|n| n < 0)
    {
        spec["terminationGracePeriodSeconds"] = 1.into();
    }
}

/// The status of a new Pod.
pub(crate) fn status(spec: &Value, class: &str) -> Value {
    let mut status = Map::new();
    status.insert("phase".into(), "Pending".into());
    status.insert("qosClass".into(), class.into());
    if !list(spec, "schedulingGates").is_empty() {
        status.insert(
            "conditions".into(),
            json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null,
                "lastTransitionTime": crate::object::now(),
            }]),
        );
    }
    Value::Object(status)
}

/// Warning of a name that is no host name.
pub(crate) fn name_warning(o: &Value) -> Option<String> {
    let messages = super::checks::rules::dns_label(str_of(&o["metadata"], "name"));
    (!messages.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            messages.join(" ")
        )
    })
}

/// What `…/resize` leaves of a changed Pod: amounts and resize policies. Added, renamed or reordered containers are left
/// for the checks to refuse.
pub(crate) fn only_resized(new: &mut Value, old: &Value) {
    const LISTS: [&str; 2] = ["containers", "initContainers"];
    let same_length = |f| list(&new["spec"], f).len() == list(&old["spec"], f).len();
    if !LISTS.into_iter().all(same_length) {
        return;
    }
    let mut spec = old["spec"].clone();
    put(&mut spec, "resources", new["spec"].get("resources"));
    for field in LISTS {
        let given = list(&new["spec"], field);
        let renamed = given
            .iter()
            .zip(list(&spec, field))
            .any(|(now, before)| str_of(now, "name") != str_of(before, "name"));
        if renamed {
            spec[field] = given.to_vec().into();
            continue;
        }
        for (to, from) in items_mut(&mut spec, field).zip(given) {
            for part in ["resources", "resizePolicy"] {
                put(to, part, from.get(part));
            }
        }
    }
    new["spec"] = spec;
    put(new, "status", old.get("status"));
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        put(&mut new["metadata"], field, old["metadata"].get(field));
    }
}

fn put(to: &mut Value, field: &str, value: Option<&Value>) {
    match (value, to.as_object_mut()) {
        (Some(v), Some(map)) => {
            map.insert(field.to_string(), v.clone());
        }
        (None, Some(map)) => {
            map.remove(field);
        }
        (_, None) => {}
    }
}
