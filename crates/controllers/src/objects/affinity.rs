//! Where a pod wants to be: nodes, other pods, spread.

use serde::Deserialize;

use super::{
    meta::{Labels, nullable},
    selector::{Requirement, Selector},
};

/// `v1.Affinity`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    /// node affinity
    pub node_affinity: Option<NodeAffinity>,
    /// where pods are that it wants to be with
    pub pod_affinity: Option<PodAffinity>,
    /// where pods are that it wants to be without
    pub pod_anti_affinity: Option<PodAffinity>,
}

/// `v1.PodAffinity`, `v1.PodAntiAffinity`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PodAffinity {
    /// must hold to be scheduled
    #[serde(
        rename = "requiredDuringSchedulingIgnoredDuringExecution",
        deserialize_with = "nullable"
    )]
    pub required: Vec<AffinityTerm>,
    /// better when they hold
    #[serde(
        rename = "preferredDuringSchedulingIgnoredDuringExecution",
        deserialize_with = "nullable"
    )]
    pub preferred: Vec<WeightedAffinityTerm>,
}

/// `v1.PodAffinityTerm` (the server has merged `matchLabelKeys` into the selector)
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AffinityTerm {
    /// pods meant; None: none
    pub label_selector: Option<Selector>,
    /// their namespaces; the pod's own when empty and no selector is set
    #[serde(deserialize_with = "nullable")]
    pub namespaces: Vec<Box<str>>,
    /// label of nodes: with its equal value is "with" the pod
    pub topology_key: Box<str>,
    /// their namespaces, too; empty: all
    pub namespace_selector: Option<Selector>,
}

/// `v1.WeightedPodAffinityTerm`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WeightedAffinityTerm {
    /// 1..=100
    pub weight: i32,
    /// the term
    pub pod_affinity_term: AffinityTerm,
}

/// `v1.PreferredSchedulingTerm`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PreferredTerm {
    /// 1..=100
    pub weight: i32,
    /// the term
    pub preference: NodeSelectorTerm,
}

/// `v1.NodeAffinity`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    /// must hold to be scheduled
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<NodeSelector>,
    /// better when they hold
    #[serde(
        rename = "preferredDuringSchedulingIgnoredDuringExecution",
        deserialize_with = "nullable"
    )]
    pub preferred: Vec<PreferredTerm>,
}

/// `v1.NodeSelector`: one of the terms must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector {
    /// terms
    #[serde(deserialize_with = "nullable")]
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

/// `v1.NodeSelectorTerm`: all must hold; an empty term holds for none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelectorTerm {
    /// on labels
    #[serde(deserialize_with = "nullable")]
    pub match_expressions: Vec<Requirement>,
    /// on `metadata.name`
    #[serde(deserialize_with = "nullable")]
    pub match_fields: Vec<Requirement>,
}

impl NodeSelector {
    /// A term holds for the node.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.node_selector_terms
            .iter()
            .any(|t| t.matches(name, labels))
    }
}

impl NodeSelectorTerm {
    /// All hold for the node; an empty term never does.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        !(self.match_expressions.is_empty() && self.match_fields.is_empty())
            && self
                .match_expressions
                .iter()
                .all(|r| r.matches(labels.get(&r.key)))
            && self
                .match_fields
                .iter()
                .all(|r| &*r.key == "metadata.name" && r.matches(Some(name)))
    }
}

/// `v1.TopologySpreadConstraint`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpreadConstraint {
    /// how uneven it may be
    pub max_skew: i32,
    /// label of nodes
    pub topology_key: Box<str>,
    /// DoNotSchedule or ScheduleAnyway
    pub when_unsatisfiable: Box<str>,
    /// its like; None: none
    pub label_selector: Option<Selector>,
    /// domains below which the emptiest counts as 0
    pub min_domains: Option<i32>,
    /// Honor (also when empty) or Ignore
    pub node_affinity_policy: Box<str>,
    /// Honor or Ignore (also when empty)
    pub node_taints_policy: Box<str>,
    /// labels in which its like are as it is
    #[serde(deserialize_with = "nullable")]
    pub match_label_keys: Vec<Box<str>>,
}
