//! What all kinds with a pod template share: defaults, and the checks of selector and template.

use super::{
    json::{items, map},
    pod_defaults, pod_validation,
};
use crate::registry::FieldError;
use serde_json::Value;

/// Fills the template's PodSpec.
pub(crate) fn fill(o: &mut Value) {
    if let Some(spec) = o
        .pointer_mut("/spec/template/spec")
        .filter(|s| s.is_object())
    {
        pod_defaults::pod_spec(spec);
    }
}

/// `spec.selector` there and matching the template's labels; the template valid and restarting always.
pub(crate) fn check(o: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if o["spec"]["replicas"].as_i64().is_some_and(|r| r < 0) {
        errors.push(FieldError::Invalid {
            field: "spec.replicas".into(),
            value: o["spec"]["replicas"].clone(),
            detail: "must be greater than or equal to 0".into(),
        });
    }
    let selector = &o["spec"]["selector"];
    if !selector.is_object() {
        errors.push(FieldError::Required {
            field: "spec.selector".into(),
            detail: String::new(),
        });
    } else if map(selector, "/matchLabels").is_none_or(|m| m.is_empty())
        && items(selector, "/matchExpressions").is_empty()
    {
        errors.push(FieldError::Invalid {
            field: "spec.selector".into(),
            value: selector.clone(),
            detail: "empty selector is invalid for deployment".into(),
        });
    } else if !matches(selector, &o["spec"]["template"]["metadata"]["labels"]) {
        errors.push(FieldError::Invalid {
            field: "spec.template.metadata.labels".into(),
            value: o["spec"]["template"]["metadata"]["labels"].clone(),
            detail: "`selector` does not match template `labels`".into(),
        });
    }
    errors.extend(pod_validation::pod_spec(
        &with_claims(o),
        "spec.template.spec",
        &["Always"],
    ));
    errors
}

/// The template's PodSpec, with the volumes that a StatefulSet's claims will be: they take the place of volumes of the
/// same name (`updateStorage` in `pkg/controller/statefulset/stateful_set_utils.go`).
fn with_claims(o: &Value) -> std::borrow::Cow<'_, Value> {
    let spec = &o["spec"]["template"]["spec"];
    let claims = items(&o["spec"], "/volumeClaimTemplates");
    if claims.is_empty() || !spec.is_object() {
        return std::borrow::Cow::Borrowed(spec);
    }
    let names = || claims.iter().map(|c| &c["metadata"]["name"]);
    let mut spec = spec.clone();
    let mut volumes = items(&spec, "/volumes").to_vec();
    volumes.retain(|v| !names().any(|n| *n == v["name"]));
    let claimed = names().map(
        |name| serde_json::json!({"name": name, "persistentVolumeClaim": {"claimName": name}}),
    );
    volumes.extend(claimed);
    spec["volumes"] = Value::Array(volumes);
    std::borrow::Cow::Owned(spec)
}

/// The selector may not change.
pub(crate) fn immutable_selector(new: &Value, old: &Value) -> Vec<FieldError> {
    if new["spec"]["selector"] == old["spec"]["selector"] {
        return vec![];
    }
    vec![FieldError::Invalid {
        field: "spec.selector".into(),
        value: new["spec"]["selector"].clone(),
        detail: "field is immutable".into(),
    }]
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn volumes_may_come_from_claims() {
        let set = |claims: Value| {
            let mut o = json!({"spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                    "containers": [{"name": "c", "image": "i",
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
                "volumeClaimTemplates": claims}});
            fill(&mut o);
            o
        };
        let errors = check(&set(json!([{"metadata": {"name": "data"}}])));
        assert!(errors.is_empty(), "{errors:?}");
        let errors = check(&set(json!([{"metadata": {"name": "other"}}])));
        assert!(
            matches!(&errors[..], [FieldError::NotFound { .. }]),
            "{errors:?}"
        );
    }
}
