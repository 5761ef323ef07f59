//! Services and EndpointSlices as they come over the wire, with only the fields this room needs:
//! a typed object is ten times its size.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1 as core, api::discovery::v1 as discovery,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, Deserializer};

/// Which ports a Service's address carries; `any`: all, of all protocols, whether the Service names them or not.
pub(crate) const PORTS: &str = "knarr.dev/ports";
/// By which names a Service is found besides its own, and by whom; see [`super::names`].
pub(crate) const NAMES: &str = "knarr.dev/dns-names";

/// The annotations that we read; they must be [`PORTS`] and [`NAMES`].
#[derive(Deserialize, Default)]
struct Annotations {
    #[serde(rename = "knarr.dev/ports")]
    ports: Option<String>,
    #[serde(rename = "knarr.dev/dns-names")]
    names: Option<String>,
}

/// The metadata fields we read; managed fields and other annotations aren't even parsed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<Annotations>,
}

pub(crate) fn meta<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let meta = Meta::deserialize(from)?;
    let annotations = meta.annotations.and_then(|a| {
        let all = [(PORTS, a.ports), (NAMES, a.names)];
        let said = all.into_iter().filter_map(|(k, v)| Some((k.into(), v?)));
        let said = said.collect::<BTreeMap<String, String>>();
        (!said.is_empty()).then_some(said)
    });
    Ok(ObjectMeta {
        annotations,
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        labels: meta.labels,
        ..ObjectMeta::default()
    })
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Service {
    #[serde(deserialize_with = "meta", default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: ServiceSpec,
    #[serde(default)]
    pub(crate) status: ServiceStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub(crate) cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    pub(crate) external_ips: Option<Vec<String>>,
    pub(crate) external_name: Option<String>,
    pub(crate) session_affinity: Option<String>,
    pub(crate) session_affinity_config: Option<AffinityConfig>,
    pub(crate) internal_traffic_policy: Option<String>,
    pub(crate) external_traffic_policy: Option<String>,
    pub(crate) load_balancer_source_ranges: Option<Vec<String>>,
    pub(crate) health_check_node_port: Option<i32>,
    pub(crate) ports: Option<Vec<ServicePort>>,
    pub(crate) selector: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AffinityConfig {
    #[serde(rename = "clientIP")]
    pub(crate) client_ip: Option<ClientIp>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClientIp {
    pub(crate) timeout_seconds: Option<i32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceStatus {
    pub(crate) load_balancer: Option<Balancer>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Balancer {
    pub(crate) ingress: Option<Vec<BalancerIngress>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct BalancerIngress {
    pub(crate) ip: Option<String>,
    pub(crate) ip_mode: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServicePort {
    pub(crate) name: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) port: i32,
    pub(crate) node_port: Option<i32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointSlice {
    #[serde(deserialize_with = "meta", default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) address_type: String,
    #[serde(default)]
    pub(crate) endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    pub(crate) ports: Option<Vec<EndpointPort>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Endpoint {
    pub(crate) addresses: Vec<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) node_name: Option<String>,
    pub(crate) hints: Option<Hints>,
    pub(crate) conditions: Option<Conditions>,
    pub(crate) target_ref: Option<Named>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Hints {
    pub(crate) for_zones: Option<Vec<Named>>,
    pub(crate) for_nodes: Option<Vec<Named>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Named {
    pub(crate) name: String,
}

/// A Node, of which only the labels matter.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Node {
    #[serde(deserialize_with = "meta", default)]
    pub(crate) metadata: ObjectMeta,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Conditions {
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointPort {
    pub(crate) name: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) port: Option<i32>,
}

/// Implements [`kube::Resource`] by what the typed kind says of itself.
macro_rules! resource {
    ($ours:ty, $typed:ty, $scope:ty) => {
        impl kube::Resource for $ours {
            type DynamicType = ();
            type Scope = $scope;
            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                <$typed as kube::Resource>::kind(&())
            }
            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                <$typed as kube::Resource>::group(&())
            }
            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                <$typed as kube::Resource>::version(&())
            }
            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                <$typed as kube::Resource>::plural(&())
            }
            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }
            fn meta_mut(
                &mut self,
            ) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
pub(crate) use resource;

resource!(Service, core::Service, k8s_openapi::NamespaceResourceScope);
resource!(
    EndpointSlice,
    discovery::EndpointSlice,
    k8s_openapi::NamespaceResourceScope
);
resource!(Node, core::Node, k8s_openapi::ClusterResourceScope);
