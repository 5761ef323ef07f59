//! The API's objects as far as the search looks at them. Fields are the API's (`k8s.io/api/resource/v1`).

use std::collections::BTreeMap;

use knarr_quantity::Quantity;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::node::NodeSelector;

pub(crate) type Text = Box<str>;

/// What is null is as if it weren't there.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Option::deserialize(d).map(Option::unwrap_or_default)
}

macro_rules! read {
    ($($(#[$doc:meta])* pub struct $name:ident { $($(#[$field:meta])* pub $f:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($(#[$field])* #[serde(deserialize_with = "nullable")] pub $f: $ty,)*
        }
    )*};
}

read! {
    /// `ResourceSliceSpec`
    pub struct SliceSpec {
        pub driver: Text,
        pub pool: PoolRef,
        pub node_name: Text,
        pub node_selector: Option<NodeSelector>,
        pub all_nodes: bool,
        pub devices: Vec<Device>,
        pub per_device_node_selection: bool,
        pub shared_counters: Vec<CounterSet>,
    }
    /// `ResourcePool`
    pub struct PoolRef {
        pub name: Text,
        pub generation: i64,
        pub resource_slice_count: i64,
    }
    /// `CounterSet`, and what a device takes of one (`DeviceCounterConsumption`)
    pub struct CounterSet {
        pub name: Text,
        pub counter_set: Text,
        pub counters: BTreeMap<Text, Counter>,
    }
    /// `Counter`
    pub struct Counter {
        pub value: Option<Quantity>,
    }
    /// `Device`
    pub struct Device {
        pub name: Text,
        pub attributes: BTreeMap<Text, Attribute>,
        pub capacity: BTreeMap<Text, Capacity>,
        pub consumes_counters: Vec<CounterSet>,
        pub node_name: Text,
        pub node_selector: Option<NodeSelector>,
        pub all_nodes: bool,
        pub taints: Vec<Taint>,
        pub binds_to_node: bool,
        pub binding_conditions: Vec<Text>,
        pub binding_failure_conditions: Vec<Text>,
        pub allow_multiple_allocations: bool,
    }
    /// `DeviceCapacity`
    pub struct Capacity {
        pub value: Option<Quantity>,
        pub request_policy: Option<RequestPolicy>,
    }
    /// `CapacityRequestPolicy`
    pub struct RequestPolicy {
        pub default: Option<Quantity>,
        pub valid_values: Vec<Quantity>,
        pub valid_range: Option<ValidRange>,
    }
    /// `CapacityRequestPolicyRange`
    pub struct ValidRange {
        pub min: Option<Quantity>,
        pub max: Option<Quantity>,
        pub step: Option<Quantity>,
    }
    /// `DeviceTaint`
    pub struct Taint {
        pub key: Text,
        pub value: Text,
        pub effect: Text,
    }
    /// `DeviceClassSpec`
    pub struct ClassSpec {
        pub selectors: Vec<Selector>,
        pub config: Vec<BTreeMap<String, Value>>,
    }
    /// `DeviceSelector`
    pub struct Selector {
        pub cel: Option<Cel>,
    }
    /// `CELDeviceSelector`
    pub struct Cel {
        pub expression: Text,
    }
    /// `ResourceClaimSpec`
    pub struct ClaimSpec {
        pub devices: DeviceClaim,
    }
    /// `DeviceClaim`
    pub struct DeviceClaim {
        pub requests: Vec<Request>,
        pub constraints: Vec<Constraint>,
        pub config: Vec<BTreeMap<String, Value>>,
    }
    /// `DeviceRequest`
    pub struct Request {
        pub name: Text,
        pub exactly: Option<Wanted>,
        pub first_available: Vec<Wanted>,
    }
    /// `ExactDeviceRequest`, or a `DeviceSubRequest`, which has a name
    pub struct Wanted {
        pub name: Text,
        pub device_class_name: Text,
        pub selectors: Vec<Selector>,
        pub allocation_mode: Text,
        pub count: i64,
        pub admin_access: bool,
        pub tolerations: Vec<Toleration>,
        pub capacity: Option<CapacityRequests>,
    }
    /// `CapacityRequirements`
    pub struct CapacityRequests {
        pub requests: BTreeMap<Text, Quantity>,
    }
    /// `DeviceConstraint`
    pub struct Constraint {
        pub requests: Vec<Text>,
        pub match_attribute: Option<Text>,
        pub distinct_attribute: Option<Text>,
    }
}

/// `DeviceAttribute`: one of them
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attribute {
    Int(i64),
    Bool(bool),
    String(Text),
    Version(Text),
    /// What only later versions know.
    #[serde(untagged)]
    Other(Value),
}

/// `DeviceToleration`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub key: Text,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub operator: Text,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub value: Text,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub effect: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    /// `resourceclaim.ToleratesTaint`
    pub(crate) fn tolerates(&self, taint: &Taint) -> bool {
        if !self.effect.is_empty() && self.effect != taint.effect {
            return false;
        }
        if !self.key.is_empty() && self.key != taint.key {
            return false;
        }
        match &*self.operator {
            "" | "Equal" => self.value == taint.value,
            "Exists" => true,
            _ => false,
        }
    }
}

/// `AllocationResult`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Allocation {
    pub devices: Results,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<NodeSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation_timestamp: Option<String>,
}

/// `DeviceAllocationResult`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Results {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<AllocationResult>,
    /// `DeviceAllocationConfiguration`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<BTreeMap<String, Value>>,
}

/// `DeviceRequestAllocationResult`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllocationResult {
    pub request: Text,
    pub driver: Text,
    pub pool: Text,
    pub device: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_access: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub binding_conditions: Vec<Text>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub binding_failure_conditions: Vec<Text>,
    #[serde(rename = "shareID", skip_serializing_if = "Option::is_none")]
    pub share_id: Option<Text>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub consumed_capacity: BTreeMap<Text, Quantity>,
}

/// A slice by its name.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    pub name: &'a str,
    pub spec: &'a SliceSpec,
}

/// A class by its name.
#[derive(Debug, Clone, Copy)]
pub struct Class<'a> {
    pub name: &'a str,
    pub spec: &'a ClassSpec,
}

/// A claim that is to get devices.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// `namespace/name`, for messages
    pub key: &'a str,
    pub spec: &'a ClaimSpec,
}
