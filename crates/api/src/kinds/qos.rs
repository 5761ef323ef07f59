//! How well a Pod is served when there isn't enough for all (`pkg/apis/core/v1/helper/qos`).

use super::{
    checks::quantity::Quantity,
    json::{entries, items},
};
use serde_json::Value;
use std::collections::BTreeMap;

type Sums = BTreeMap<String, Quantity>;

/// Adds the amounts of cpu and memory that aren't zero; whether both are there.
fn add(to: &mut Sums, amounts: &Value) -> bool {
    let mut found = 0;
    for (name, value) in entries(amounts) {
        if !matches!(name, "cpu" | "memory") {
            continue;
        }
        let Some(q) = Quantity::of(value).filter(|q| q.sign() > 0) else {
            continue;
        };
        found += 1;
        let sum = to.get(name).map_or(q.clone(), |have| have.plus(&q));
        to.insert(name.to_string(), sum);
    }
    found == 2
}

/// `Guaranteed`, `Burstable` or `BestEffort`, by what the Pod itself asks for, else by what its containers do.
pub(crate) fn class(spec: &Value) -> &'static str {
    let (mut requests, mut limits) = (Sums::new(), Sums::new());
    let mut guaranteed = true;
    let own = &spec["resources"];
    if own.is_object() {
        add(&mut requests, &own["requests"]);
        let all = add(&mut limits, &own["limits"]);
        guaranteed = all || entries(&own["limits"]).next().is_none();
    } else {
        for list in ["/containers", "/initContainers"] {
            for c in items(spec, list) {
                add(&mut requests, &c["resources"]["requests"]);
                guaranteed &= add(&mut limits, &c["resources"]["limits"]);
            }
        }
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_class_follows_requests_and_limits() {
        let both = json!({ "cpu": "1", "memory": "1Gi" });
        let full = json!({ "limits": both, "requests": both });
        for (name, spec, want) in [
            ("none", json!({ "containers": [{}] }), "BestEffort"),
            (
                "zero is none",
                json!({ "containers": [{ "resources": { "requests": { "cpu": "0" } } }] }),
                "BestEffort",
            ),
            (
                "another resource is none",
                json!({ "containers": [{ "resources": { "requests": { "ephemeral-storage": "1Gi" } } }] }),
                "BestEffort",
            ),
            (
                "a request",
                json!({ "containers": [{ "resources": { "requests": { "cpu": "1" } } }] }),
                "Burstable",
            ),
            (
                "one limit",
                json!({ "containers": [{ "resources": { "limits": { "cpu": "1" } } }] }),
                "Burstable",
            ),
            (
                "all",
                json!({ "containers": [{ "resources": full }] }),
                "Guaranteed",
            ),
            (
                "equal amounts, written differently",
                json!({ "containers": [{ "resources": {
                    "limits": { "cpu": "1000m", "memory": "1024Mi" }, "requests": both } }] }),
                "Guaranteed",
            ),
            (
                "not all containers",
                json!({ "containers": [{ "resources": full }, {}] }),
                "Burstable",
            ),
            (
                "an init container counts",
                json!({ "containers": [{ "resources": full }], "initContainers": [{}] }),
                "Burstable",
            ),
            (
                "the Pod's own say counts alone",
                json!({ "resources": full, "containers": [{}] }),
                "Guaranteed",
            ),
            (
                "the Pod asks for one",
                json!({ "resources": { "requests": { "cpu": "1" } }, "containers": [{ "resources": full }] }),
                "Burstable",
            ),
        ] {
            assert_eq!(class(&spec), want, "{name}");
        }
    }
}
