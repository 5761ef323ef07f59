//! Nodes, and what selects them.

use serde::{Deserialize, Serialize};

use crate::model::Text;

/// A node.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub name: &'a str,
    /// the value of a label
    pub label: &'a dyn Fn(&str) -> Option<&'a str>,
}

/// `v1.NodeSelector`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector {
    pub node_selector_terms: Vec<Term>,
}

/// `v1.NodeSelectorTerm`: all must hold; an empty one never does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Term {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_fields: Vec<Requirement>,
}

/// `v1.NodeSelectorRequirement`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirement {
    pub key: Text,
    pub operator: Text,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Text>,
}

impl PartialEq for Requirement {
    /// The order of the values doesn't matter.
    fn eq(&self, other: &Requirement) -> bool {
        let within = |a: &[Text], b: &[Text]| a.iter().all(|v| b.contains(v));
        self.key == other.key
            && self.operator == other.operator
            && within(&self.values, &other.values)
            && within(&other.values, &self.values)
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let among = |v: &str| self.values.iter().any(|x| **x == *v);
        let number = |s: &str| s.parse::<i64>().ok();
        let bound = || number(self.values.first()?);
        match &*self.operator {
            "In" => value.is_some_and(among),
            "NotIn" => !value.is_some_and(among),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => matches!((value.and_then(number), bound()), (Some(v), Some(b)) if v > b),
            "Lt" => matches!((value.and_then(number), bound()), (Some(v), Some(b)) if v < b),
            _ => false,
        }
    }
}

impl NodeSelector {
    /// That node alone.
    pub(crate) fn only(name: &str) -> NodeSelector {
        NodeSelector {
            node_selector_terms: vec![Term {
                match_fields: vec![Requirement {
                    key: "metadata.name".into(),
                    operator: "In".into(),
                    values: vec![name.into()],
                }],
                ..Term::default()
            }],
        }
    }

    /// A term holds for the node.
    pub fn matches(&self, node: Target<'_>) -> bool {
        self.node_selector_terms.iter().any(|t| {
            !(t.match_expressions.is_empty() && t.match_fields.is_empty())
                && t.match_expressions
                    .iter()
                    .all(|r| r.holds((node.label)(&r.key)))
                && t.match_fields
                    .iter()
                    .all(|r| &*r.key == "metadata.name" && r.holds(Some(node.name)))
        })
    }
}

/// A slice or a device is there for the node (`NodeMatches`).
pub(crate) fn reaches(
    node: Target<'_>,
    name: &str,
    all: bool,
    selector: Option<&NodeSelector>,
) -> bool {
    match (name, all, selector) {
        ("", true, _) => true,
        ("", false, Some(selector)) => selector.matches(node),
        ("", false, None) => false,
        (name, ..) => name == node.name,
    }
}
