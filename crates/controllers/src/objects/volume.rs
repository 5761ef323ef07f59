//! Volumes, claims and storage classes, as controllers see them.

use serde::{Deserialize, Serialize};

use super::{
    affinity::NodeSelector,
    csi::{CsiSource, TopologySelectorTerm},
    meta::{Labels, Meta, nullable, object},
    selector::Selector,
};

/// `v1.PersistentVolumeClaim`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: ClaimSpec,
    /// status
    pub status: ClaimStatus,
}
object!(
    Claim,
    "",
    "v1",
    "persistentvolumeclaims",
    "PersistentVolumeClaim"
);

/// `v1.PersistentVolumeClaimSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSpec {
    /// ReadWriteOnce, …
    #[serde(deserialize_with = "nullable")]
    pub access_modes: Vec<Box<str>>,
    /// volumes that will do
    pub selector: Option<Selector>,
    /// size
    pub resources: ClaimResources,
    /// the volume
    pub volume_name: Box<str>,
    /// None: the default class; "": no class
    pub storage_class_name: Option<Box<str>>,
    /// Filesystem (also when empty) or Block
    pub volume_mode: Box<str>,
    /// VolumeAttributesClass
    pub volume_attributes_class_name: Option<Box<str>>,
    /// what it's filled with
    pub data_source_ref: Option<DataSource>,
}

/// `v1.TypedObjectReference`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataSource {
    /// group; empty for the core group
    pub api_group: Box<str>,
    /// e.g. `PersistentVolumeClaim`, `VolumeSnapshot`
    pub kind: Box<str>,
    /// name
    pub name: Box<str>,
    /// namespace; the claim's when empty
    pub namespace: Box<str>,
}

/// `v1.VolumeResourceRequirements`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ClaimResources {
    /// requests
    pub requests: Storage,
}

/// A resource list with `storage` alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Storage {
    /// a quantity
    #[serde(skip_serializing_if = "str::is_empty")]
    pub storage: Box<str>,
}

impl Storage {
    /// Bytes; 0 when absent.
    pub fn bytes(&self) -> i64 {
        super::quantity::units(&self.storage).unwrap_or(0)
    }
}

/// `v1.PersistentVolumeClaimStatus`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimStatus {
    /// Pending, Bound, Lost
    pub phase: Box<str>,
    /// what it has
    pub capacity: Storage,
    /// modes of its volume
    #[serde(deserialize_with = "nullable")]
    pub access_modes: Vec<Box<str>>,
    /// VolumeAttributesClass that it has
    pub current_volume_attributes_class_name: Option<Box<str>>,
    /// VolumeAttributesClass that it is to get
    pub modify_volume_status: Option<ModifyVolumeStatus>,
}

/// `v1.ModifyVolumeStatus`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModifyVolumeStatus {
    /// VolumeAttributesClass
    pub target_volume_attributes_class_name: Box<str>,
}

/// `v1.PersistentVolume`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: VolumeSpec,
    /// status
    pub status: VolumeStatus,
}
object!(Volume, "", "v1", "persistentvolumes", "PersistentVolume");

/// `v1.PersistentVolumeSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeSpec {
    /// size
    pub capacity: Storage,
    /// ReadWriteOnce, …
    #[serde(deserialize_with = "nullable")]
    pub access_modes: Vec<Box<str>>,
    /// the claim
    pub claim_ref: Option<ClaimRef>,
    /// Retain (also when empty), Delete, Recycle
    pub persistent_volume_reclaim_policy: Box<str>,
    /// class
    pub storage_class_name: Box<str>,
    /// Filesystem (also when empty) or Block
    pub volume_mode: Box<str>,
    /// where it can be mounted
    pub node_affinity: Option<VolumeNodeAffinity>,
    /// a directory of the node
    pub host_path: Option<HostPath>,
    /// a directory or device of the node
    pub local: Option<HostPath>,
    /// VolumeAttributesClass
    pub volume_attributes_class_name: Option<Box<str>>,
    /// a CSI driver's
    pub csi: Option<CsiSource>,
}

/// `v1.ObjectReference` to a claim
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimRef {
    /// namespace
    pub namespace: Box<str>,
    /// name
    pub name: Box<str>,
    /// uid; empty when the volume was made for a claim to come
    #[serde(skip_serializing_if = "str::is_empty")]
    pub uid: Box<str>,
}

/// `v1.VolumeNodeAffinity`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct VolumeNodeAffinity {
    /// must hold
    pub required: Option<NodeSelector>,
}

/// `v1.HostPathVolumeSource`, `v1.LocalVolumeSource`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct HostPath {
    /// directory
    pub path: Box<str>,
}

/// `v1.PersistentVolumeStatus`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct VolumeStatus {
    /// Available, Bound, Released, Failed
    pub phase: Box<str>,
}

/// `storage.k8s.io/v1.StorageClass`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageClass {
    /// metadata
    pub metadata: Meta,
    /// who makes the volumes
    pub provisioner: Box<str>,
    /// Delete (also when empty) or Retain
    pub reclaim_policy: Box<str>,
    /// Immediate (also when empty) or WaitForFirstConsumer
    pub volume_binding_mode: Box<str>,
    /// options
    pub parameters: Labels,
    /// volumes may grow
    pub allow_volume_expansion: Option<bool>,
    /// of the volumes
    #[serde(deserialize_with = "nullable")]
    pub mount_options: Vec<Box<str>>,
    /// nodes that volumes can be made for; all when empty
    #[serde(deserialize_with = "nullable")]
    pub allowed_topologies: Vec<TopologySelectorTerm>,
}
object!(
    StorageClass,
    "storage.k8s.io",
    "v1",
    "storageclasses",
    "StorageClass"
);

impl StorageClass {
    /// Claims without a class get it.
    pub fn is_default(&self) -> bool {
        self.metadata
            .annotations
            .get("storageclass.kubernetes.io/is-default-class")
            == Some("true")
    }
    /// Volumes are made when a pod that uses them is placed.
    pub fn waits_for_consumer(&self) -> bool {
        &*self.volume_binding_mode == "WaitForFirstConsumer"
    }
}

/// Name of a class before it had a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// `storage.k8s.io/v1.VolumeAttributesClass`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AttributesClass {
    /// metadata
    pub metadata: Meta,
}
object!(
    AttributesClass,
    "storage.k8s.io",
    "v1",
    "volumeattributesclasses",
    "VolumeAttributesClass"
);

impl Claim {
    /// VolumeAttributesClasses that it has, wants or is getting.
    pub fn attributes_classes(&self) -> impl Iterator<Item = &str> {
        let status = &self.status;
        let target = status.modify_volume_status.as_ref();
        [
            self.spec.volume_attributes_class_name.as_deref(),
            status.current_volume_attributes_class_name.as_deref(),
            target.map(|m| &*m.target_volume_attributes_class_name),
        ]
        .into_iter()
        .flatten()
        .filter(|n| !n.is_empty())
    }
    /// Its class; None: the default one, "": none.
    pub fn class(&self) -> Option<&str> {
        let old = self.metadata.annotations.get(OLD_CLASS);
        old.or(self.spec.storage_class_name.as_deref())
    }
}

impl Volume {
    /// Its class; "": none.
    pub fn class(&self) -> &str {
        let old = self.metadata.annotations.get(OLD_CLASS);
        old.unwrap_or(&self.spec.storage_class_name)
    }
    /// It was made for this claim, or bound to it.
    pub fn is_for(&self, claim: &Claim) -> bool {
        self.spec.claim_ref.as_ref().is_some_and(|r| {
            r.namespace == claim.metadata.namespace
                && r.name == claim.metadata.name
                && (r.uid.is_empty() || r.uid == claim.metadata.uid)
        })
    }
    /// Both say so.
    pub fn is_bound_to(&self, claim: &Claim) -> bool {
        self.metadata.name == claim.spec.volume_name
            && self
                .spec
                .claim_ref
                .as_ref()
                .is_some_and(|r| r.uid == claim.metadata.uid)
    }
    /// It may be on one node at a time.
    pub fn exclusive(&self) -> bool {
        let modes = &self.spec.access_modes;
        !modes.is_empty()
            && !modes
                .iter()
                .any(|m| matches!(&**m, "ReadWriteMany" | "ReadOnlyMany"))
    }
}
