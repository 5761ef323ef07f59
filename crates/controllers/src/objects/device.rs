//! Devices and claims of them, as controllers see them.

use std::sync::Arc;

use knarr_devices::{Allocation, ClaimSpec, ClassSpec, SliceSpec};
use serde::{Deserialize, Deserializer, Serialize};

use super::meta::{Meta, nullable, object};

/// `resource.k8s.io/v1.ResourceClaim`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ResourceClaim {
    /// metadata
    pub metadata: Meta,
    /// what is asked for
    pub spec: ClaimSpec,
    /// status
    pub status: ResourceClaimStatus,
}
object!(
    ResourceClaim,
    "resource.k8s.io",
    "v1",
    "resourceclaims",
    "ResourceClaim"
);

/// `resource.k8s.io/v1.ResourceClaimStatus`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceClaimStatus {
    /// devices that are set aside for it
    #[serde(deserialize_with = "shared")]
    pub allocation: Option<Arc<Allocation>>,
    /// who uses it
    #[serde(deserialize_with = "nullable")]
    pub reserved_for: Vec<Consumer>,
    /// what the drivers say of them
    #[serde(deserialize_with = "nullable")]
    pub devices: Vec<DeviceStatus>,
}

fn shared<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Arc<Allocation>>, D::Error> {
    Ok(Option::<Allocation>::deserialize(d)?.map(Arc::new))
}

/// `resource.k8s.io/v1.AllocatedDeviceStatus`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceStatus {
    /// driver
    pub driver: Box<str>,
    /// pool
    pub pool: Box<str>,
    /// device
    pub device: Box<str>,
    /// conditions
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<DeviceCondition>,
}

/// `meta/v1.Condition`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DeviceCondition {
    /// type
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// True, False or Unknown
    pub status: Box<str>,
}

/// `resource.k8s.io/v1.ResourceSlice`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ResourceSlice {
    /// metadata
    pub metadata: Meta,
    /// devices
    pub spec: SliceSpec,
}
object!(
    ResourceSlice,
    "resource.k8s.io",
    "v1",
    "resourceslices",
    "ResourceSlice"
);

/// `resource.k8s.io/v1.DeviceClass`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DeviceClass {
    /// metadata
    pub metadata: Meta,
    /// which devices are of it
    pub spec: ClassSpec,
}
object!(
    DeviceClass,
    "resource.k8s.io",
    "v1",
    "deviceclasses",
    "DeviceClass"
);

/// `resource.k8s.io/v1.ResourceClaimConsumerReference`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Consumer {
    /// group; empty for the core group
    #[serde(skip_serializing_if = "str::is_empty")]
    pub api_group: Box<str>,
    /// e.g. `pods`
    pub resource: Box<str>,
    /// name
    pub name: Box<str>,
    /// uid
    pub uid: Box<str>,
}

impl Consumer {
    /// It is a Pod.
    pub fn is_pod(&self) -> bool {
        self.api_group.is_empty() && &*self.resource == "pods"
    }
}

/// `v1.PodResourceClaim`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodClaim {
    /// what containers call it
    pub name: Box<str>,
    /// a claim in the Pod's namespace
    pub resource_claim_name: Option<Box<str>>,
    /// or what one is made of
    pub resource_claim_template_name: Option<Box<str>>,
}

/// `v1.PodResourceClaimStatus`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodClaimStatus {
    /// what containers call it
    pub name: Box<str>,
    /// the claim that was made; None: none is needed
    pub resource_claim_name: Option<Box<str>>,
}

/// `v1.PodExtendedResourceClaimStatus`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtendedClaim {
    /// the claim
    pub resource_claim_name: Box<str>,
}
