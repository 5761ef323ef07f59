//! PodDisruptionBudgets, as controllers see them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{
    intstr::IntOrString,
    meta::{Meta, nullable, object},
    selector::Selector,
};

/// `policy/v1.PodDisruptionBudget`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Budget {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: BudgetSpec,
    /// status
    pub status: BudgetStatus,
}
object!(
    Budget,
    "policy",
    "v1",
    "poddisruptionbudgets",
    "PodDisruptionBudget"
);

/// `policy/v1.PodDisruptionBudgetSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetSpec {
    /// pods that must stay healthy
    pub min_available: Option<IntOrString>,
    /// pods meant; None: none
    pub selector: Option<Selector>,
    /// pods that may be away
    pub max_unavailable: Option<IntOrString>,
}

/// `policy/v1.PodDisruptionBudgetStatus`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetStatus {
    /// generation that this status is of
    pub observed_generation: i64,
    /// pods that are evicted, and when, until they go
    #[serde(deserialize_with = "nullable")]
    pub disrupted_pods: BTreeMap<Box<str>, Box<str>>,
    /// evictions allowed
    pub disruptions_allowed: i32,
    /// healthy pods
    pub current_healthy: i32,
    /// healthy pods needed
    pub desired_healthy: i32,
    /// pods
    pub expected_pods: i32,
    /// conditions, as they are
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Value>,
}

impl Budget {
    /// The pod is meant.
    pub fn selects(&self, labels: &super::meta::Labels) -> bool {
        self.spec
            .selector
            .as_ref()
            .is_some_and(|s| s.matches(labels))
    }
}
