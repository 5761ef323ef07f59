//! What CSI drivers there are on a node.

use serde::Deserialize;

use super::{
    meta::{Meta, nullable, object},
    quantity::Quantity,
    selector::Selector,
};

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

/// `storage.k8s.io/v1.CSIDriver`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CsiDriver {
    /// metadata; the name is the driver's
    pub metadata: Meta,
    /// spec
    pub spec: CsiDriverSpec,
}
object!(CsiDriver, "storage.k8s.io", "v1", "csidrivers", "CSIDriver");

/// `storage.k8s.io/v1.CSIDriverSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsiDriverSpec {
    /// volumes are attached to nodes; None: so they are
    pub attach_required: Option<bool>,
    /// it says how much room there is
    pub storage_capacity: Option<bool>,
}

/// `storage.k8s.io/v1.CSIStorageCapacity`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageCapacity {
    /// metadata
    pub metadata: Meta,
    /// nodes from which it can be used; None: none
    pub node_topology: Option<Selector>,
    /// class of the volumes
    pub storage_class_name: Box<str>,
    /// room; None: not known
    pub capacity: Option<Quantity>,
    /// the largest volume; None: not known
    pub maximum_volume_size: Option<Quantity>,
}
object!(
    StorageCapacity,
    "storage.k8s.io",
    "v1",
    "csistoragecapacities",
    "CSIStorageCapacity"
);

impl StorageCapacity {
    /// A volume of so many bytes can be made.
    pub fn has(&self, bytes: i64) -> bool {
        let limit = self.maximum_volume_size.as_ref().or(self.capacity.as_ref());
        limit.is_some_and(|l| l.value() >= bytes)
    }
}

/// `storage.k8s.io/v1.VolumeAttachment`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct VolumeAttachment {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: VolumeAttachmentSpec,
    /// status
    pub status: VolumeAttachmentStatus,
}
object!(
    VolumeAttachment,
    "storage.k8s.io",
    "v1",
    "volumeattachments",
    "VolumeAttachment"
);

/// `storage.k8s.io/v1.VolumeAttachmentSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeAttachmentSpec {
    /// node
    pub node_name: Box<str>,
    /// volume
    pub source: VolumeAttachmentSource,
}

/// `storage.k8s.io/v1.VolumeAttachmentSource`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeAttachmentSource {
    /// name of the PersistentVolume; empty for an inline one
    pub persistent_volume_name: Box<str>,
}

/// `storage.k8s.io/v1.VolumeAttachmentStatus`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeAttachmentStatus {
    /// the driver has attached it
    pub attached: bool,
    /// why it could not
    pub attach_error: Option<VolumeError>,
}

/// `storage.k8s.io/v1.VolumeError`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct VolumeError {
    /// for people
    pub message: Box<str>,
}
