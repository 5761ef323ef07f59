//! LimitRanger (`plugin/pkg/admission/limitranger`): a namespace's LimitRanges give containers their defaults and bound
//! what containers, Pods and claims ask for.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Attributes, Operation,
    json::{items, items_mut, map_mut, text},
    list, resources,
};
use crate::{kinds::checks::quantity::Quantity, object::meta_mut, server::Inner, status::Failure};

const NOTE: &str = "kubernetes.io/limit-ranger";

type Amounts = BTreeMap<String, Quantity>;

fn concerns(a: &Attributes<'_>) -> bool {
    let plain = a.subresource.is_empty();
    let kind = a.resource.group.is_empty().then_some(a.resource.plural);
    let supported = match (kind, a.operation) {
        (Some("pods"), Operation::Create) => plain,
        (Some("pods"), Operation::Update) => a.subresource == "resize",
        (Some("persistentvolumeclaims"), Operation::Create | Operation::Update) => plain,
        _ => false,
    };
    let going = a
        .old
        .is_some_and(|o| o.pointer("/metadata/deletionTimestamp").is_some());
    supported && !going
}

/// Gives containers the defaults.
pub fn admit(inner: &Inner, a: &mut Attributes<'_>) {
    if !concerns(a) || a.resource.plural != "pods" {
        return;
    }
    for range in list(inner, "", "limitranges", &a.namespace) {
        if let Some(pod) = a.object.as_mut() {
            defaults(&range, pod);
        }
    }
}

fn defaults(range: &Value, pod: &mut Value) {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    for limit in items(range, "/spec/limits") {
        if limit["type"] != "Container" {
            continue;
        }
        for (from, to) in [("defaultRequest", &mut requests), ("default", &mut limits)] {
            for (k, v) in limit[from].as_object().into_iter().flatten() {
                to.insert(k.clone(), v.clone());
            }
        }
    }
    let mut notes = Vec::new();
    for (group, label) in [
        ("containers", "container"),
        ("initContainers", "init container"),
    ] {
        for c in items_mut(&mut pod["spec"], group) {
            let name = text(c, "/name").to_string();
            for (key, what, wanted) in [
                ("requests", "request", &requests),
                ("limits", "limit", &limits),
            ] {
                if wanted.is_empty() {
                    continue;
                }
                if !c["resources"].is_object() {
                    map_mut(c, "resources");
                }
                let amounts = map_mut(&mut c["resources"], key);
                let mut set = Vec::new();
                for (k, v) in wanted {
                    if !amounts.contains_key(k) {
                        amounts.insert(k.clone(), v.clone());
                        set.push(k.as_str());
                    }
                }
                if !set.is_empty() {
                    notes.push(format!("{} {what} for {label} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let mut metadata = Value::Object(std::mem::take(meta_mut(pod)));
        map_mut(&mut metadata, "annotations").insert(
            NOTE.into(),
            format!("LimitRanger plugin set: {}", notes.join("; ")).into(),
        );
        if let Value::Object(m) = metadata {
            *meta_mut(pod) = m;
        }
    }
}

/// 403 for what is out of bounds.
pub fn validate(inner: &Inner, a: &Attributes<'_>) -> Result<(), Failure> {
    let Some(object) = a.object.as_ref().filter(|_| concerns(a)) else {
        return Ok(());
    };
    for range in list(inner, "", "limitranges", &a.namespace) {
        let mut faults = Vec::new();
        for limit in items(&range, "/spec/limits") {
            if a.resource.plural == "pods" {
                pod(limit, object, &mut faults);
            } else {
                claim(limit, object, &mut faults);
            }
        }
        if let Some(why) = aggregate(faults) {
            return Err(a.forbidden(&why));
        }
    }
    Ok(())
}

/// Upstream's aggregate error: one as it is, many in brackets, none twice.
fn aggregate(faults: Vec<String>) -> Option<String> {
    let mut unique: Vec<String> = Vec::new();
    for f in faults {
        if !unique.contains(&f) {
            unique.push(f);
        }
    }
    match unique.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

fn pod(limit: &Value, pod: &Value, faults: &mut Vec<String>) {
    match text(limit, "/type") {
        "Container" => {
            for group in ["/spec/containers", "/spec/initContainers"] {
                for c in items(pod, group) {
                    let requests = resources::amounts(&c["resources"]["requests"]);
                    let limits = resources::amounts(&c["resources"]["limits"]);
                    bounds(limit, "Container", &requests, &limits, faults);
                }
            }
        }
        "Pod" => {
            let requests = resources::of_pod(&pod["spec"], "requests");
            let limits = resources::of_pod(&pod["spec"], "limits");
            bounds(limit, "Pod", &requests, &limits, faults);
        }
        _ => {}
    }
}

fn claim(limit: &Value, claim: &Value, faults: &mut Vec<String>) {
    if text(limit, "/type") != "PersistentVolumeClaim" {
        return;
    }
    let requests = resources::amounts(&claim["spec"]["resources"]["requests"]);
    for (k, enforced) in resources::amounts(&limit["min"]) {
        faults.extend(min(
            "PersistentVolumeClaim",
            &k,
            &enforced,
            &requests,
            &Amounts::new(),
        ));
    }
    for (k, enforced) in resources::amounts(&limit["max"]) {
        let what = format!(
            "maximum {k} usage per PersistentVolumeClaim is {}",
            enforced.canonical()
        );
        match requests.get(&k) {
            None => faults.push(format!("{what}.  No request is specified")),
            Some(r) if *r > enforced => {
                faults.push(format!("{what}, but request is {}", r.canonical()));
            }
            Some(_) => {}
        }
    }
}

fn bounds(limit: &Value, kind: &str, requests: &Amounts, limits: &Amounts, out: &mut Vec<String>) {
    for (k, enforced) in resources::amounts(&limit["min"]) {
        out.extend(min(kind, &k, &enforced, requests, limits));
    }
    for (k, enforced) in resources::amounts(&limit["max"]) {
        out.extend(max(kind, &k, &enforced, requests, limits));
    }
    for (k, enforced) in resources::amounts(&limit["maxLimitRequestRatio"]) {
        out.extend(ratio(kind, &k, &enforced, requests, limits));
    }
}

fn min(
    kind: &str,
    name: &str,
    enforced: &Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let what = format!(
        "minimum {name} usage per {kind} is {}",
        enforced.canonical()
    );
    let Some(request) = requests.get(name) else {
        return Some(format!("{what}.  No request is specified"));
    };
    if request < enforced {
        return Some(format!("{what}, but request is {}", request.canonical()));
    }
    let limit = limits.get(name).filter(|l| *l < enforced)?;
    Some(format!("{what}, but limit is {}", limit.canonical()))
}

fn max(
    kind: &str,
    name: &str,
    enforced: &Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let what = format!(
        "maximum {name} usage per {kind} is {}",
        enforced.canonical()
    );
    let Some(limit) = limits.get(name) else {
        return Some(format!("{what}.  No limit is specified"));
    };
    if limit > enforced {
        return Some(format!("{what}, but limit is {}", limit.canonical()));
    }
    let request = requests.get(name).filter(|r| *r > enforced)?;
    Some(format!("{what}, but request is {}", request.canonical()))
}

fn ratio(
    kind: &str,
    name: &str,
    enforced: &Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let what = format!(
        "{name} max limit to request ratio per {kind} is {}",
        enforced.canonical()
    );
    let positive = |amounts: &Amounts| {
        amounts
            .get(name)
            .map(resources::float)
            .filter(|v| *v != 0.0)
    };
    let Some(request) = positive(requests) else {
        return Some(format!(
            "{what}, but no request is specified or request is 0"
        ));
    };
    let Some(limit) = positive(limits) else {
        return Some(format!("{what}, but no limit is specified or limit is 0"));
    };
    let observed = limit / request;
    (observed > resources::float(enforced))
        .then(|| format!("{what}, but provided ratio is {observed:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_noted() {
        let range = json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "1", "memory": "5Mi"},
            "defaultRequest": {"cpu": "500m", "memory": "5Mi"}}]}});
        let mut pod = json!({"metadata": {}, "spec": {
            "containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}}}],
            "initContainers": [{"name": "i", "resources": {"limits": {"cpu": "2"}}}]}});
        defaults(&range, &mut pod);
        assert_eq!(
            pod["metadata"]["annotations"][NOTE],
            "LimitRanger plugin set: cpu, memory request for container a; cpu, memory limit for container a; memory request for container b; cpu, memory request for init container i; memory limit for init container i"
        );
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "500m", "memory": "5Mi"}, "limits": {"cpu": "1", "memory": "5Mi"}})
        );
        assert_eq!(
            pod["spec"]["containers"][1]["resources"]["requests"]["memory"],
            "5Mi"
        );
    }

    #[test]
    fn bounds_are_told_in_upstreams_words() {
        let c = |requests: Value, limits: Value| json!({"spec": {"containers": [{"name": "a", "resources": {"requests": requests, "limits": limits}}]}});
        for (name, limit, object, want) in [
            (
                "in bounds",
                json!({"type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "500m"}}),
                c(json!({"cpu": "100m"}), json!({"cpu": "0.4"})),
                "",
            ),
            (
                "below",
                json!({"type": "Container", "min": {"cpu": "50m"}}),
                c(json!({"cpu": "10m"}), json!({"cpu": "100m"})),
                "minimum cpu usage per Container is 50m, but request is 10m",
            ),
            (
                "above",
                json!({"type": "Container", "max": {"memory": "500Mi"}}),
                c(json!({"memory": "1Gi"}), json!({"memory": "1Gi"})),
                "maximum memory usage per Container is 500Mi, but limit is 1Gi",
            ),
            (
                "two",
                json!({"type": "Pod", "min": {"cpu": "1"}, "max": {"memory": "1Gi"}}),
                c(json!({}), json!({})),
                "[minimum cpu usage per Pod is 1.  No request is specified, maximum memory usage per Pod is 1Gi.  No limit is specified]",
            ),
            (
                "ratio",
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "1.5"}}),
                c(json!({"cpu": "100m"}), json!({"cpu": "200m"})),
                "cpu max limit to request ratio per Container is 1500m, but provided ratio is 2.000000",
            ),
        ] {
            let mut faults = Vec::new();
            pod(&limit, &object, &mut faults);
            assert_eq!(aggregate(faults).unwrap_or_default(), want, "{name}");
        }
    }
}
