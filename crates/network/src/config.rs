//! What the network of a node is made from.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use crate::{
    GATEWAY, Place,
    nft::{family::Family, ruleset::Plan},
};

#[derive(Debug, Clone)]
pub struct Config {
    /// Short id of this instance, at most 6 characters: names its links.
    pub instance: String,
    /// Name of this node: endpoints of that node are local.
    pub node: String,
    /// Address leases (`pods/`, one file a pod), and what the node's set-up must remember (`node`).
    pub state_dir: PathBuf,
    /// The range of all nodes' Pods and of the nodes' addresses among them: what goes there keeps its source.
    pub pod_cidr: (Ipv4Addr, u8),
    /// This node's part of it.
    pub node_cidr: (Ipv4Addr, u8),
    /// Where the node is, when it isn't in the machine's own network.
    pub place: Option<Place>,
    pub service_cidr: (Ipv4Addr, u8),
    /// VIP of cluster DNS.
    pub dns_ip: Ipv4Addr,
    pub cluster_domain: String,
    /// None on a host without it (see [`has_ipv6`]).
    pub ipv6: Option<Ipv6>,
}

/// The second family's ranges, as the first's. Its `node_cidr` must have room for as many addresses.
#[derive(Debug, Clone)]
pub struct Ipv6 {
    pub pod_cidr: (Ipv6Addr, u8),
    pub node_cidr: (Ipv6Addr, u8),
    pub service_cidr: (Ipv6Addr, u8),
    pub dns_ip: Ipv6Addr,
}

impl Ipv6 {
    /// See [`Config::node_ip`].
    pub fn node_ip(&self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.node_cidr.0).wrapping_add(1))
    }
}

impl Config {
    /// The node's own address among its Pods' (the first of their range, which no Pod gets): where Pods reach what
    /// listens for them on the node, and others don't.
    pub fn node_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.node_cidr.0).wrapping_add(1))
    }

    /// The second address of the Pod whose first one this is: at the same place in its range.
    pub(crate) fn ipv6_of(&self, pod: Ipv4Addr) -> Option<Ipv6Addr> {
        let place = u32::from(pod).wrapping_sub(u32::from(self.node_cidr.0));
        let base = u128::from(self.ipv6.as_ref()?.node_cidr.0);
        Some(Ipv6Addr::from(base + u128::from(place)))
    }

    /// A plan for each family.
    pub(crate) fn plans(&self) -> Vec<Plan> {
        let wide = |(base, bits): (Ipv4Addr, u8)| (IpAddr::V4(base), bits);
        let mut all = vec![Plan {
            family: Family::V4,
            pods: wide(self.node_cidr),
            cluster: wide(self.pod_cidr),
            services: wide(self.service_cidr),
            node: GATEWAY.into(),
            dns_ip: self.dns_ip.into(),
        }];
        all.extend(self.ipv6.as_ref().map(|ipv6| {
            let wide = |(base, bits): (Ipv6Addr, u8)| (IpAddr::V6(base), bits);
            Plan {
                family: Family::V6,
                pods: wide(ipv6.node_cidr),
                cluster: wide(ipv6.pod_cidr),
                services: wide(ipv6.service_cidr),
                node: ipv6.node_ip().into(),
                dns_ip: ipv6.dns_ip.into(),
            }
        }));
        all
    }
}

/// Does this network namespace speak IPv6?
pub fn has_ipv6() -> bool {
    ["all", "default", "lo"].iter().all(|link| {
        std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"))
            .is_ok_and(|off| off.trim() == "0")
    })
}
