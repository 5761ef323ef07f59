//! Services, EndpointSlices and Endpoints, as controllers see them.

use serde::{Deserialize, Serialize};

use super::{
    intstr::IntOrString,
    meta::{Labels, Meta, nullable, object},
};

/// `v1.Service`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: ServiceSpec,
}
object!(Service, "", "v1", "services", "Service");

/// `v1.ServiceSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// pods meant; None: endpoints are kept by someone else
    pub selector: Option<Labels>,
    /// address, `None` for headless
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Box<str>,
    /// all of its addresses
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub cluster_ips: Vec<Box<str>>,
    /// ClusterIP, NodePort, LoadBalancer, ExternalName
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// IPv4, IPv6
    #[serde(deserialize_with = "nullable")]
    pub ip_families: Vec<Box<str>>,
    /// ports
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ServicePort>,
    /// unready pods count as ready
    pub publish_not_ready_addresses: bool,
    /// PreferClose, PreferSameZone, PreferSameNode
    pub traffic_distribution: Box<str>,
}

/// `v1.ServicePort`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// name
    pub name: Box<str>,
    /// TCP unless set
    pub protocol: Box<str>,
    /// port of the service
    pub port: i32,
    /// port of the pod: number, or name of a container's port
    pub target_port: Option<IntOrString>,
    /// L7 protocol
    pub app_protocol: Option<Box<str>>,
}

impl Service {
    /// It has no address of its own.
    pub fn headless(&self) -> bool {
        &*self.spec.cluster_ip == "None"
    }
}

/// `discovery.k8s.io/v1.EndpointSlice`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// metadata
    #[serde(skip_serializing)]
    pub metadata: Meta,
    /// IPv4 or IPv6
    pub address_type: Box<str>,
    /// endpoints
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Vec<Endpoint>,
    /// ports
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<EndpointPort>,
}
object!(
    EndpointSlice,
    "discovery.k8s.io",
    "v1",
    "endpointslices",
    "EndpointSlice"
);

/// `discovery.k8s.io/v1.Endpoint`
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// one address
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<Box<str>>,
    /// conditions
    pub conditions: EndpointConditions,
    /// host name
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Box<str>>,
    /// the pod
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// the node
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Box<str>>,
    /// the node's zone
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Box<str>>,
    /// whose traffic it is meant for
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<EndpointHints>,
}

/// `discovery.k8s.io/v1.EndpointHints`
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    /// clients of these zones
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub for_zones: Vec<Named>,
    /// clients on these nodes
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub for_nodes: Vec<Named>,
}

/// `discovery.k8s.io/v1.ForZone` and `v1.ForNode`
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Named {
    /// name
    pub name: Box<str>,
}

/// `discovery.k8s.io/v1.EndpointConditions`
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// takes traffic
    pub ready: Option<bool>,
    /// could, terminating or not
    pub serving: Option<bool>,
    /// goes away
    pub terminating: Option<bool>,
}

/// `v1.ObjectReference` to a pod
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// Pod
    pub kind: Box<str>,
    /// namespace
    pub namespace: Box<str>,
    /// name
    pub name: Box<str>,
    /// uid
    pub uid: Box<str>,
}

/// `discovery.k8s.io/v1.EndpointPort` and `v1.EndpointPort`
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// name, "" for the only one
    pub name: Box<str>,
    /// number
    pub port: i32,
    /// TCP, UDP, SCTP
    pub protocol: Box<str>,
    /// L7 protocol
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<Box<str>>,
}

/// `v1.Endpoints`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    /// metadata
    pub metadata: Meta,
    /// subsets
    #[serde(deserialize_with = "nullable")]
    pub subsets: Vec<Subset>,
}
object!(Endpoints, "", "v1", "endpoints", "Endpoints");

/// `v1.EndpointSubset`
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// ready
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub addresses: Vec<Address>,
    /// not ready
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub not_ready_addresses: Vec<Address>,
    /// ports
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub ports: Vec<OldPort>,
}

/// `v1.EndpointPort`
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OldPort {
    /// name
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: Box<str>,
    /// number
    pub port: i32,
    /// TCP, UDP, SCTP
    pub protocol: Box<str>,
    /// L7 protocol
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<Box<str>>,
}

/// `v1.EndpointAddress`
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Address {
    /// address
    pub ip: Box<str>,
    /// host name
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Box<str>>,
    /// the node
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Box<str>>,
    /// the pod
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
}
