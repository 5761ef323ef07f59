//! Containers that no API knows of, in networks of their own: who reaches whom, and who finds whom by name.

use crate::{
    Config, Error, Network, clients, dns,
    policy::{
        objects::{Facts, Policy, World},
        plan::plan,
    },
    services::{
        names,
        view::{Address, Endpoint, Service, Slice, View, Views},
    },
};
use arc_swap::ArcSwap;
use k8s_openapi::api::networking::v1::NetworkPolicySpec;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};
use tokio::sync::watch;

/// They are in one namespace, whose name nobody sees.
const NAMESPACE: &str = "run";

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: String,
    pub address: Ipv4Addr,
    /// Its networks, by their ids (hexadecimal digits), and its names in each. Empty: the one of those that have none.
    pub networks: BTreeMap<String, Vec<String>>,
    /// By which address it goes in those of them that have subnets, with the subnet's bits.
    #[serde(default)]
    pub further: BTreeMap<String, (Ipv4Addr, u8)>,
}

impl Member {
    /// By which it goes in this network.
    fn address_in(&self, network: &str) -> Ipv4Addr {
        self.further
            .get(network)
            .map_or(self.address, |(ip, _)| *ip)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let further = self.further.values().map(|(ip, _)| IpAddr::V4(*ip));
        std::iter::once(self.address.into())
            .chain(further)
            .collect()
    }
}

/// Networks without a way out.
pub type Internal = std::collections::BTreeSet<String>;

/// The network of those in none of their own.
const COMMON: &str = "common";

fn label(network: &str) -> String {
    format!("net.run.knarr.dev/{network}")
}

fn labels(member: &Member) -> BTreeMap<String, String> {
    let own = member.networks.keys().map(|n| label(n));
    let common = member.networks.is_empty().then(|| label(COMMON));
    own.chain(common).map(|key| (key, String::new())).collect()
}

impl Network {
    /// Lets containers reach those of their networks, the machine and the world, and nobody else; when this returns, that
    /// holds. While all of them are in none of their own there is nothing to enforce.
    ///
    /// # Errors
    /// [`Error::Worker`] when the kernel refuses.
    pub async fn isolate(&self, members: &[Member], internal: &Internal) -> Result<(), Error> {
        let world = world(&self.config, members, internal)?;
        let done = self.keeper.policy(Arc::new(plan(&world)));
        let held = tokio::time::timeout(std::time::Duration::from_secs(10), done).await;
        match held {
            Ok(Ok(())) => Ok(()),
            _ => Err(Error::Worker(
                "the kernel does not take the networks' rules".into(),
            )),
        }
    }
}

fn world(config: &Config, members: &[Member], internal: &Internal) -> Result<World, Error> {
    let mut world = World::default();
    if members.iter().all(|m| m.networks.is_empty()) {
        return Ok(world);
    }
    world.namespaces.insert(NAMESPACE.into(), BTreeMap::new());
    let mut networks = Internal::from([COMMON.to_string()]);
    for member in members {
        networks.extend(member.networks.keys().cloned());
        let facts = Facts {
            uid: member.id.clone(),
            namespace: NAMESPACE.into(),
            labels: labels(member),
            ips: member.addresses(),
            ports: vec![],
            here: true,
        };
        world
            .pods
            .insert((NAMESPACE.into(), member.id.clone()), facts);
    }
    // who has an address in one of these is nobody from outside
    let mut ranges = Internal::from([format!("{}/{}", config.pod_cidr.0, config.pod_cidr.1)]);
    for (ip, bits) in members.iter().flat_map(|m| m.further.values()) {
        let mask = u32::MAX.checked_shl(32 - u32::from(*bits)).unwrap_or(0);
        ranges.insert(format!("{}/{bits}", Ipv4Addr::from(u32::from(*ip) & mask)));
    }
    for network in networks {
        let member = json!({ "podSelector": { "matchLabels": { label(&network): "" } } });
        let outside = json!({ "ipBlock": { "cidr": "0.0.0.0/0", "except": ranges } });
        let mut spec = json!({
            "podSelector": member["podSelector"],
            "policyTypes": ["Ingress"],
            "ingress": [{ "from": [member, outside] }],
        });
        if internal.contains(&network) {
            spec["ingress"] = json!([{ "from": [member] }]);
            spec["policyTypes"] = json!(["Ingress", "Egress"]);
            spec["egress"] = json!([{ "to": [member] }]);
        }
        let spec: NetworkPolicySpec =
            serde_json::from_value(spec).map_err(|e| Error::Worker(e.to_string()))?;
        let policy = Policy {
            namespace: NAMESPACE.into(),
            uid: network.clone(),
            spec,
        };
        world.policies.insert((NAMESPACE.into(), network), policy);
    }
    Ok(world)
}

/// A Service for each network, whose endpoints have the containers' names.
fn views(members: &[Member]) -> Views {
    let mut networks: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
    for member in members {
        for (network, names) in &member.networks {
            let endpoints = networks.entry(network).or_default();
            endpoints.extend(names.iter().map(|name| Endpoint {
                ip: member.address_in(network).into(),
                hostname: Some(dns::odd_name(&name.to_ascii_lowercase()).into()),
                node: None,
                for_zones: Box::default(),
                for_nodes: Box::default(),
                ready: true,
                draining: false,
                starting: false,
                generation: Default::default(),
            }));
        }
    }
    let view = |(network, endpoints): (&str, Vec<Endpoint>)| {
        let all = format!("{}@{}=", names::EVERY_HOST, label(network));
        let service = Service {
            address: Address::Headless,
            ports: Box::default(),
            more: Box::default(),
            sticky_seconds: 0,
            internal_local: false,
            external_local: false,
            health_port: 0,
            foreign: false,
            any_port: false,
            names: names::parse(&all),
            selector: Box::default(),
        };
        let slice = Slice {
            service: (NAMESPACE.into(), network.into()),
            ports: Box::default(),
            endpoints: endpoints.into(),
        };
        let view = View {
            service: Arc::new(service),
            slices: Box::new([Arc::new(slice)]),
        };
        (network.into(), Arc::new(view))
    };
    let services: HashMap<Box<str>, Arc<View>> = networks.into_iter().map(view).collect();
    Views::from([(NAMESPACE.into(), Arc::new(services))])
}

/// Answers the containers at the address (UDP and TCP 53), which an instance of [`Network`] has set up, and asks the
/// machine's resolvers for other names. Runs until dropped or until nobody tells of members any more.
///
/// # Errors
/// [`Error::Dns`] when the address can't be bound.
pub async fn serve_names(
    listen: Ipv4Addr,
    range: (Ipv4Addr, u8),
    mut told: watch::Receiver<Vec<Member>>,
) -> Result<(), Error> {
    let (all, who) = (
        Arc::new(ArcSwap::default()),
        Arc::new(clients::Clients::default()),
    );
    let options = dns::Options {
        place: None,
        listen: vec![(listen, 53).into()],
        cluster_domain: "cluster.local".into(),
        ranges: vec![(range.0.into(), range.1)],
        own: vec![crate::GATEWAY.into()],
    };
    let (_synced, synced) = watch::channel(true);
    let (seen, known) = (all.clone(), who.clone());
    let keep = async move {
        let mut before: Vec<IpAddr> = Vec::new();
        loop {
            let members = told.borrow_and_update().clone();
            known.put(&before, None);
            before = members.iter().flat_map(Member::addresses).collect();
            for member in &members {
                let client = clients::client(NAMESPACE, &labels(member));
                known.put(&member.addresses(), client);
            }
            seen.store(Arc::new(views(&members)));
            if told.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = keep => Ok(()),
        done = dns::run(all, who, synced, options) => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_there_when_a_network_is() {
        let config = Config {
            instance: "t".into(),
            node: "run".into(),
            state_dir: "/nowhere".into(),
            pod_cidr: (Ipv4Addr::new(10, 64, 0, 0), 17),
            node_cidr: (Ipv4Addr::new(10, 64, 0, 0), 17),
            place: None,
            service_cidr: (Ipv4Addr::new(10, 64, 128, 0), 24),
            dns_ip: Ipv4Addr::new(10, 64, 128, 10),
            cluster_domain: "cluster.local".into(),
            ipv6: None,
        };
        let member = |last: u8, networks: &[&str]| Member {
            id: last.to_string(),
            address: Ipv4Addr::new(10, 64, 0, last),
            networks: networks.iter().map(|n| (n.to_string(), vec![])).collect(),
            further: BTreeMap::new(),
        };
        for (members, want) in [
            (vec![], 0),
            (vec![member(2, &[]), member(3, &[])], 0),
            (vec![member(2, &[]), member(3, &["a"])], 2),
            (vec![member(2, &["a", "b"]), member(3, &["a"])], 2),
        ] {
            let world = world(&config, &members, &Internal::new()).unwrap();
            let desired = plan(&world);
            // who is in any network is closed to the others
            assert_eq!(desired.ingress.len(), want, "{members:?}");
        }
    }
}
