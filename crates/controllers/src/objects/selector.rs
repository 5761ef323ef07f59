//! Label selectors, as `metav1.LabelSelectorAsSelector` reads them.

use serde::{Deserialize, Serialize};

use super::meta::{Labels, nullable};

/// `metav1.LabelSelector`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// all must be equal
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub match_labels: Labels,
    /// all must hold
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub match_expressions: Vec<Requirement>,
}

/// `metav1.LabelSelectorRequirement` and `v1.NodeSelectorRequirement`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// label, or field
    pub key: Box<str>,
    /// In, NotIn, Exists, DoesNotExist, Gt, Lt
    pub operator: Box<str>,
    /// operands
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub values: Vec<Box<str>>,
}

impl Requirement {
    /// Does `value` (None: absent) satisfy it? An unknown operator never does.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let any = |v: &str| self.values.iter().any(|x| &**x == v);
        match &*self.operator {
            "In" => value.is_some_and(any),
            "NotIn" => !value.is_some_and(any),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" | "Lt" => {
                let (Some(have), Some(want)) = (
                    value.and_then(|v| v.parse::<i64>().ok()),
                    self.values.first().and_then(|v| v.parse::<i64>().ok()),
                ) else {
                    return false;
                };
                if &*self.operator == "Gt" {
                    have > want
                } else {
                    have < want
                }
            }
            _ => false,
        }
    }
}

impl Selector {
    /// Equality with every pair.
    pub fn of(labels: Labels) -> Selector {
        Selector {
            match_labels: labels,
            match_expressions: vec![],
        }
    }
    /// It selects everything, which a workload's selector must not.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
    /// All requirements hold for `labels`.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.subset_of(labels)
            && self
                .match_expressions
                .iter()
                .all(|r| r.matches(labels.get(&r.key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors() {
        let labels: Labels = [("app", "web"), ("tier", "1")].into_iter().collect();
        let cases = [
            ("{}", true),
            (r#"{"matchLabels":{"app":"web"}}"#, true),
            (r#"{"matchLabels":{"app":"db"}}"#, false),
            (r#"{"matchLabels":{"app":"web","x":"y"}}"#, false),
            (
                r#"{"matchExpressions":[{"key":"app","operator":"In","values":["db","web"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["web"]}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions":[{"key":"x","operator":"NotIn","values":["web"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"x","operator":"Exists"}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions":[{"key":"x","operator":"DoesNotExist","values":null}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"tier","operator":"Gt","values":["0"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"tier","operator":"Lt","values":["1"]}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions":[{"key":"app","operator":"Like","values":["w"]}]}"#,
                false,
            ),
        ];
        for (json, want) in cases {
            let s: Selector = serde_json::from_str(json).unwrap();
            assert_eq!(s.matches(&labels), want, "{json}");
        }
    }
}
