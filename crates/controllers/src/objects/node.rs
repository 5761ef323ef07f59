//! Nodes, Namespaces and ServiceAccounts, as controllers see them.

use serde::Deserialize;

use super::{
    meta::{Condition, Meta, nullable, object},
    pod::{Requests, Toleration},
};

/// `v1.Node`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: NodeSpec,
    /// status
    pub status: NodeStatus,
}
object!(Node, "", "v1", "nodes", "Node");

/// `v1.NodeSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// cordoned
    pub unschedulable: bool,
    /// taints
    #[serde(deserialize_with = "nullable")]
    pub taints: Vec<Taint>,
}

/// `v1.Taint`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// key
    pub key: Box<str>,
    /// value
    pub value: Box<str>,
    /// NoSchedule, PreferNoSchedule, NoExecute
    pub effect: Box<str>,
}

/// `v1.AttachedVolume`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AttachedVolume {
    /// `kubernetes.io/csi/<driver>^<handle>`
    pub name: Box<str>,
}

/// `v1.NodeStatus`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// attached volumes that are mounted, `kubernetes.io/csi/<driver>^<handle>`
    #[serde(deserialize_with = "nullable")]
    pub volumes_in_use: Vec<Box<str>>,
    /// attached volumes
    #[serde(deserialize_with = "nullable")]
    pub volumes_attached: Vec<AttachedVolume>,
    /// what pods may use
    pub allocatable: Requests,
    /// conditions
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    /// images that are there
    #[serde(deserialize_with = "nullable")]
    pub images: Vec<Image>,
}

/// `v1.ContainerImage`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Image {
    /// what it is called
    #[serde(deserialize_with = "nullable")]
    pub names: Vec<Box<str>>,
    /// bytes
    pub size_bytes: i64,
}

impl Node {
    /// The Ready condition holds.
    pub fn ready(&self) -> bool {
        self.status
            .conditions
            .iter()
            .any(|c| &*c.kind == "Ready" && &*c.status == "True")
    }
}

impl Taint {
    /// One of the tolerations bears it.
    pub fn tolerated(&self, tolerations: &[Toleration]) -> bool {
        tolerations.iter().any(|t| {
            (t.effect.is_empty() || t.effect == self.effect)
                && (t.key.is_empty() || t.key == self.key)
                && match &*t.operator {
                    "Exists" => true,
                    "" | "Equal" => !t.key.is_empty() && t.value == self.value,
                    // upstream's TaintTolerationComparisonOperators is off by default
                    _ => false,
                }
        })
    }
}

/// `v1.Namespace`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: NamespaceSpec,
    /// status
    pub status: NamespaceStatus,
}
object!(Namespace, "", "v1", "namespaces", "Namespace");

/// `v1.NamespaceSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceSpec {
    /// what must be done before it's gone
    #[serde(deserialize_with = "nullable")]
    pub finalizers: Vec<Box<str>>,
}

/// `v1.NamespaceStatus`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceStatus {
    /// Active or Terminating
    pub phase: Box<str>,
    /// conditions
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}

/// `v1.ServiceAccount`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceAccount {
    /// metadata
    pub metadata: Meta,
}
object!(
    ServiceAccount,
    "",
    "v1",
    "serviceaccounts",
    "ServiceAccount"
);
