//! What policies are about, with only the fields that matter: a typed Pod is ten times its size.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::{core::v1 as core, networking::v1::NetworkPolicySpec};
use serde::Deserialize;

use super::selector::Labels;
use crate::services::{objects::meta, resource};

/// A Pod as it is watched.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Pod {
    #[serde(deserialize_with = "meta", default)]
    pub(crate) metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    #[serde(default)]
    pub(crate) spec: PodSpec,
    #[serde(default)]
    pub(crate) status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    pub(crate) node_name: Option<String>,
    pub(crate) host_network: Option<bool>,
    pub(crate) containers: Vec<Container>,
    pub(crate) init_containers: Option<Vec<Container>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    pub(crate) ports: Option<Vec<ContainerPort>>,
    pub(crate) restart_policy: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerPort {
    pub(crate) name: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) container_port: i32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    pub(crate) phase: Option<String>,
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub(crate) pod_ips: Option<Vec<PodIp>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodIp {
    pub(crate) ip: String,
}

/// A Namespace, of which only the labels matter.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Namespace {
    #[serde(deserialize_with = "meta", default)]
    pub(crate) metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
}

resource!(Pod, core::Pod, k8s_openapi::NamespaceResourceScope);
resource!(
    Namespace,
    core::Namespace,
    k8s_openapi::ClusterResourceScope
);

/// What policies look at in a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) labels: Labels,
    pub(crate) ips: Vec<IpAddr>,
    /// name, IP protocol number, number
    pub(crate) ports: Vec<(String, u8, u16)>,
    /// On this node, where the policies that select it are enforced.
    pub(crate) here: bool,
}

impl Facts {
    /// None for a Pod that policies don't reach: one in the node's own network, or one that has ended.
    pub(crate) fn of(pod: &Pod, node: &str) -> Option<Facts> {
        let ended = matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if ended || pod.spec.host_network == Some(true) {
            return None;
        }
        let listed = pod.status.pod_ips.iter().flatten().map(|ip| &ip.ip);
        let mut ips = Vec::new();
        for ip in listed.chain(&pod.status.pod_ip) {
            if let Ok(ip) = ip.parse()
                && !ips.contains(&ip)
            {
                ips.push(ip);
            }
        }
        let sidecars = pod
            .spec
            .init_containers
            .iter()
            .flatten()
            .filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let ports = pod.spec.containers.iter().chain(sidecars);
        let ports = ports.flat_map(|container| container.ports.iter().flatten());
        let ports = ports.filter_map(|port| {
            Some((
                port.name.clone().filter(|name| !name.is_empty())?,
                crate::services::view::protocol(port.protocol.as_deref())?,
                u16::try_from(port.container_port).ok()?,
            ))
        });
        Some(Facts {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            ips,
            ports: ports.collect(),
            here: pod.spec.node_name.as_deref() == Some(node),
        })
    }
}

/// A policy: its namespace, its uid, and what it says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) spec: NetworkPolicySpec,
}

/// Everything a plan is made from.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// namespace and name
    pub(crate) policies: BTreeMap<(String, String), Policy>,
    pub(crate) pods: BTreeMap<(String, String), Facts>,
    pub(crate) namespaces: BTreeMap<String, Labels>,
}
