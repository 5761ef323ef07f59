//! What CSI drivers there are on a node.

use serde::Deserialize;

use super::meta::{Meta, nullable, object};

/// `storage.k8s.io/v1.CSINode`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CsiNode {
    /// metadata; the name is the node's
    pub metadata: Meta,
    /// spec
    pub spec: CsiNodeSpec,
}
object!(CsiNode, "storage.k8s.io", "v1", "csinodes", "CSINode");

/// `storage.k8s.io/v1.CSINodeSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CsiNodeSpec {
    /// drivers
    #[serde(deserialize_with = "nullable")]
    pub drivers: Vec<CsiNodeDriver>,
}

/// `storage.k8s.io/v1.CSINodeDriver`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CsiNodeDriver {
    /// e.g. `hostpath.csi.k8s.io`
    pub name: Box<str>,
    /// what it can take; None: anything
    pub allocatable: Option<VolumeNodeResources>,
}

/// `storage.k8s.io/v1.VolumeNodeResources`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct VolumeNodeResources {
    /// volumes at a time; None: any number
    pub count: Option<i64>,
}

/// `v1.CSIPersistentVolumeSource`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsiSource {
    /// driver
    pub driver: Box<str>,
    /// the driver's name of the volume
    pub volume_handle: Box<str>,
}

/// `v1.TopologySelectorTerm`: all must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopologySelectorTerm {
    /// on labels of nodes
    #[serde(deserialize_with = "nullable")]
    pub match_label_expressions: Vec<TopologyRequirement>,
}

/// `v1.TopologySelectorLabelRequirement`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TopologyRequirement {
    /// label
    pub key: Box<str>,
    /// one of these
    #[serde(deserialize_with = "nullable")]
    pub values: Vec<Box<str>>,
}

impl TopologySelectorTerm {
    /// All hold for the labels.
    pub fn matches(&self, labels: &super::meta::Labels) -> bool {
        self.match_label_expressions.iter().all(|r| {
            labels
                .get(&r.key)
                .is_some_and(|v| r.values.iter().any(|x| &**x == v))
        })
    }
}
