//! Label selectors (`metav1.LabelSelector`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub(crate) type Labels = BTreeMap<String, String>;

/// An empty selector matches everything. One that can't be understood matches nothing: the API lets none in.
pub(super) fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    equal
        .map(|(key, value)| labels.get(key) == Some(value))
        .chain(expressions.map(|expression| {
            let value = labels.get(&expression.key);
            let listed = || {
                let values = expression.values.as_ref();
                value.is_some_and(|value| values.is_some_and(|all| all.contains(value)))
            };
            match &*expression.operator {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        }))
        .all(|fits| fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors() {
        let labels = Labels::from([("app".into(), "web".into()), ("tier".into(), "1".into())]);
        for (selector, expected) in [
            (r#"{}"#, true),
            (r#"{"matchLabels":{"app":"web"}}"#, true),
            (r#"{"matchLabels":{"app":"web","x":"y"}}"#, false),
            (
                r#"{"matchExpressions":[{"key":"app","operator":"In","values":["db","web"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["db"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"none","operator":"NotIn","values":["db"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"tier","operator":"Exists"}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"tier","operator":"DoesNotExist"}]}"#,
                false,
            ),
            (
                r#"{"matchLabels":{"app":"web"},"matchExpressions":[{"key":"x","operator":"Exists"}]}"#,
                false,
            ),
        ] {
            let parsed = serde_json::from_str(selector).unwrap();
            assert_eq!(matches(&parsed, &labels), expected, "{selector}");
        }
    }
}
