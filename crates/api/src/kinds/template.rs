//! What all kinds with a pod template share.

use super::{
    json::{items, map},
    pod_defaults,
};
use serde_json::Value;

/// Fills the template's PodSpec.
pub(crate) fn fill(o: &mut Value) {
    if let Some(spec) = o
        .pointer_mut("/spec/template/spec")
        .filter(|s| s.is_object())
    {
        pod_defaults::template_spec(spec);
    }
}

/// A LabelSelector against labels.
pub(crate) fn matches(selector: &Value, labels: &Value) -> bool {
    let equal = map(selector, "/matchLabels")
        .into_iter()
        .flatten()
        .all(|(k, v)| labels.get(k) == Some(v));
    equal
        && items(selector, "/matchExpressions").iter().all(|e| {
            let value = labels.get(e["key"].as_str().unwrap_or_default());
            let listed = value.is_some_and(|v| items(e, "/values").contains(v));
            match e["operator"].as_str().unwrap_or_default() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}
