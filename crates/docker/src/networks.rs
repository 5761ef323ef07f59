//! Networks: who finds whom by name, and who reaches whom.
//!
//! A network that was made by hand is a ConfigMap that describes it, a headless Service whose endpoints have the names of
//! its containers, and a NetworkPolicy. `bridge`, `host` and `none` are always there.

mod change;
pub mod ipam;
pub mod links;
mod names_of;
mod policy;
mod show;

pub use change::{connect, create, disconnect, prune, ready, remove, settle};
pub use names_of::sync;
pub use show::{inspect, list, until};

use crate::{
    NAMESPACE,
    daemon::Daemon,
    error::{Fault, Result},
    http::Fields,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::ListParams};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// On the objects of a network; worth the first twelve digits of its id.
pub const LABEL: &str = "docker.knarr.dev/network";
const KEY: &str = "network.json";

/// On the Pods of a network's containers.
pub fn label(id: &str) -> String {
    format!("network.docker.knarr.dev/{id}")
}

/// A container's place in a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub network: String,
    #[serde(default)]
    pub network_id: String,
    #[serde(default)]
    pub aliases: Vec<String>,
    /// `container:alias`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// 64 hex digits
    #[serde(default)]
    pub id: String,
    /// `--ip`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<std::net::Ipv4Addr>,
    /// What it has, or had in its last run, in a network with subnets; else it has its Pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<ipam::Range>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<std::net::Ipv4Addr>,
    /// The container's hardware address, if it is asked for; it has one link.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
}

impl Endpoint {
    /// One of `EndpointsConfig`.
    pub fn read(network: &str, value: &Value) -> Result<Endpoint> {
        let map = value.as_object().cloned().unwrap_or_default();
        let mut f = Fields::new(map, "EndpointsConfig");
        let mut ipam = Fields::new(f.object("IPAMConfig")?, "IPAMConfig");
        let asked = ipam.text("IPv4Address")?.filter(|text| !text.is_empty());
        let asked = asked.map(|text| {
            text.parse().map_err(|_| {
                Fault::bad(format!(
                    "invalid endpoint settings:\ninvalid IPv4 address: {text}"
                ))
            })
        });
        for (key, flag) in [
            ("IPv6Address", "--ip6"),
            ("LinkLocalIPs", "--link-local-ip"),
        ] {
            if let Some(value) = ipam.take(key).filter(|v| !crate::http::is_zero(v)) {
                return Err(Fault::unsupported(format!(
                    "{flag} (EndpointsConfig.IPAMConfig.{key}={value})"
                )));
            }
        }
        ipam.finish()?;
        let links = f.texts("Links")?.unwrap_or_default();
        let aliases = f.texts("Aliases")?.unwrap_or_default();
        let mac = f.text("MacAddress")?.filter(|text| !text.is_empty());
        f.take("DriverOpts").map_or(Ok(()), |_| {
            Err(Fault::unsupported(
                "--driver-opt (EndpointsConfig.DriverOpts)",
            ))
        })?;
        // what the daemon tells, and clients send back
        for key in [
            "NetworkID",
            "EndpointID",
            "Gateway",
            "IPAddress",
            "IPPrefixLen",
            "IPv6Gateway",
            "GlobalIPv6Address",
            "GlobalIPv6PrefixLen",
            "DNSNames",
            "GwPriority",
        ] {
            f.take(key);
        }
        f.finish()?;
        Ok(Endpoint {
            network: network.to_string(),
            aliases,
            links,
            asked: asked.transpose()?,
            mac: mac.map_or(Ok(String::new()), |mac| ipam::mac(&mac))?,
            ..Endpoint::default()
        })
    }

    pub fn read_all(map: &Map<String, Value>) -> Result<Vec<Endpoint>> {
        let configs = map.get("EndpointsConfig").and_then(Value::as_object);
        let configs = configs.into_iter().flatten();
        configs
            .map(|(name, value)| Endpoint::read(name, value))
            .collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: String,
    pub name: String,
    pub created: String,
    pub driver: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    #[serde(default)]
    pub internal: bool,
    #[serde(default)]
    pub attachable: bool,
    /// Its subnets; without one, its containers have their Pods' addresses alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<ipam::Pool>,
}

impl Network {
    pub fn short(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
    /// Made by hand, not one of the three.
    pub fn is_own(&self) -> bool {
        !matches!(self.name.as_str(), "bridge" | "host" | "none")
    }
    /// The Service with its names, and its other objects.
    pub fn object(&self) -> String {
        format!("network-{}", self.short())
    }
    /// One of the three that are always there; its id is made of its name.
    fn always(name: &str) -> Network {
        use sha2::Digest;
        let driver = if name == "none" { "null" } else { name };
        Network {
            id: hex::encode(sha2::Sha256::digest(format!("knarr network {name}"))),
            name: name.into(),
            created: "2024-01-01T00:00:00Z".into(),
            driver: driver.into(),
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            internal: false,
            attachable: false,
            pools: vec![],
        }
    }
}

fn api<K>(daemon: &Daemon) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(daemon.client.clone(), NAMESPACE)
}

/// All networks, the three first.
pub async fn all(daemon: &Daemon) -> Result<Vec<Network>> {
    let mut all: Vec<Network> = ["bridge", "host", "none"].map(Network::always).into();
    let own = api::<ConfigMap>(daemon)
        .list(&ListParams::default().labels(LABEL))
        .await?;
    for map in own {
        let text = map.data.as_ref().and_then(|d| d.get(KEY));
        all.extend(text.and_then(|t| serde_json::from_str::<Network>(t).ok()));
    }
    Ok(all)
}

/// By name, id, or the beginning of an id.
pub fn pick<'a>(all: &'a [Network], reference: &str) -> Result<&'a Network> {
    let reference = if reference == "default" {
        "bridge"
    } else {
        reference
    };
    let exact = all
        .iter()
        .find(|n| n.name == reference || n.id == reference);
    if let Some(found) = exact {
        return Ok(found);
    }
    let mut by_prefix = all
        .iter()
        .filter(|n| !reference.is_empty() && n.id.starts_with(reference));
    match (by_prefix.next(), by_prefix.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(Fault::bad(format!("network {reference} is ambiguous"))),
        _ => Err(Fault::not_found(format!("network {reference} not found"))),
    }
}

pub async fn find(daemon: &Daemon, reference: &str) -> Result<Network> {
    let all = all(daemon).await?;
    pick(&all, reference).cloned()
}
