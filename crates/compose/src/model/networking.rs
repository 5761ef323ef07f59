//! Ports, networks, and the names a service is found by.

use super::{Notes, Service, section};
use crate::{
    Error, read,
    tree::{Node, Value},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// The container's.
    pub target: u16,
    /// On the host, first and last of those that may be taken; None: any free one.
    pub published: Option<(u16, u16)>,
    /// The host's address to publish on.
    pub host_ip: Option<String>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    pub app_protocol: Option<String>,
    pub name: Option<String>,
}

/// A network that active services are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Without a way out.
    pub internal: bool,
    /// It is made elsewhere, and others are in it.
    pub external: bool,
    /// Its name outside of the project.
    pub name: String,
    /// It goes by a name of its own, by which other projects may join it.
    pub shared: bool,
}

pub(super) fn ports(service: &Node) -> Result<Vec<Port>, Error> {
    let mut all = Vec::new();
    for item in service.get("ports").map(Node::items).unwrap_or_default() {
        let number = |key: &str| item.text_of(key).filter(|t| !t.is_empty());
        let target = number("target")
            .and_then(|t| t.parse().ok())
            .filter(|t| *t > 0);
        let Some(target) = target else {
            return Err(
                item.error("ports: target is missing: say the container's port, 1 to 65535")
            );
        };
        let published = match number("published") {
            None => None,
            Some(text) => match read::ports::range(&text) {
                Some((0, 0)) => None,
                Some(range) if range.0 > 0 => Some(range),
                _ => {
                    return Err(
                        item.error(format!("ports: {text:?} is not a port from 1 to 65535"))
                    );
                }
            },
        };
        let protocol = item
            .text_of("protocol")
            .unwrap_or("tcp".into())
            .to_uppercase();
        if !matches!(protocol.as_str(), "TCP" | "UDP" | "SCTP") {
            return Err(item.error(format!(
                "ports: unknown protocol {protocol:?}: tcp, udp or sctp"
            )));
        }
        all.push(Port {
            target,
            published,
            host_ip: item.text_of("host_ip").filter(|ip| !ip.is_empty()),
            protocol,
            app_protocol: item.text_of("app_protocol"),
            name: item.text_of("name"),
        });
    }
    Ok(all)
}

/// `expose`: (port, `TCP` or `UDP`).
pub(super) fn expose(service: &Node) -> Result<Vec<(u16, String)>, Error> {
    let mut all = Vec::new();
    for item in service.get("expose").map(Node::items).unwrap_or_default() {
        let text = item.scalar().unwrap_or_default();
        let (number, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
        let wrong = || {
            item.error(format!(
                "expose: {text:?} is not a port or a range of ports"
            ))
        };
        let (first, last) = read::ports::range(number).ok_or_else(wrong)?;
        if first == 0 || last - first >= 1000 {
            return Err(wrong());
        }
        all.extend((first..=last).map(|p| (p, protocol.to_uppercase())));
    }
    Ok(all)
}

/// `HOST=IP`, `HOST:IP` or `HOST: IP`.
pub(super) fn extra_hosts(node: &Node) -> Vec<(String, String)> {
    let Some(hosts) = node.get("extra_hosts") else {
        return vec![];
    };
    let plain = |ip: &str| ip.trim_matches(['[', ']']).to_string();
    match &hosts.value {
        Value::Map(map) => map
            .iter()
            .flat_map(|(host, ips)| {
                let ips = match ips.items() {
                    [] => ips.scalar().into_iter().collect(),
                    _ => ips.texts(),
                };
                ips.into_iter().map(|ip| (host.clone(), plain(&ip)))
            })
            .collect(),
        _ => hosts
            .texts()
            .iter()
            .filter_map(|t| t.split_once('=').or(t.split_once(':')))
            .map(|(host, ip)| (host.trim().to_string(), plain(ip.trim())))
            .collect(),
    }
}

/// `ipv4_address`: where a service is also to be reached.
pub(super) fn addresses(service: &Node, tree: &Node) -> Result<Vec<(Ipv4Addr, bool)>, Error> {
    let mut all = Vec::new();
    for (network, at) in service
        .get("networks")
        .map(Node::entries)
        .into_iter()
        .flatten()
    {
        let Some(address) = at.get("ipv4_address") else {
            continue;
        };
        let text = address.scalar().unwrap_or_default();
        let ip = text.parse::<Ipv4Addr>().ok().filter(|ip| {
            let special = ip.is_unspecified() || ip.is_loopback() || ip.is_link_local();
            !special && !ip.is_multicast() && !ip.is_broadcast()
        });
        let Some(ip) = ip else {
            return Err(address.error(format!(
                "networks.{network}.ipv4_address: {text:?} is no address that a container can have"
            )));
        };
        let asked = super::refuse::mentions(tree, &text, &mut vec![]) > 1;
        all.push((ip, asked));
    }
    Ok(all)
}

pub(super) fn networks(
    tree: &Node,
    services: &BTreeMap<String, Service>,
    project: &str,
    notes: &mut Notes,
) -> Result<BTreeMap<String, Network>, Error> {
    let used: BTreeSet<&String> = services.values().flat_map(|s| &s.networks).collect();
    let mut all = BTreeMap::new();
    for (name, node) in section(tree, "networks").filter(|(n, _)| used.contains(n)) {
        let network = Network {
            internal: node.bool_of("internal"),
            external: node.bool_of("external"),
            name: node.text_of("name").unwrap_or(name.clone()),
            shared: node.bool_of("external")
                || node
                    .text_of("name")
                    .is_some_and(|n| n != format!("{project}_{name}")),
        };
        match node.text_of("driver").as_deref() {
            None | Some("" | "bridge" | "default" | "overlay" | "nat") => {}
            Some(driver) => {
                return Err(node.get("driver").unwrap_or(node).error(format!(
                    "networks.{name}.driver: knarr has no driver {driver:?}: leave it out to use its own network"
                )));
            }
        }
        for key in ["driver_opts", "ipam", "enable_ipv6", "enable_ipv4"] {
            if let Some(at) = node.get(key) {
                let empty = at.map().is_some_and(|m| m.is_empty());
                let usual = (key == "enable_ipv4" && at.value == Value::Bool(true))
                    || (key == "enable_ipv6" && at.value == Value::Bool(false));
                if !empty && !usual {
                    notes.say(at, format!("networks.{name}.{key} is ignored: all containers get addresses of knarr's own network"));
                }
            }
        }
        all.insert(name.clone(), network);
    }
    Ok(all)
}
