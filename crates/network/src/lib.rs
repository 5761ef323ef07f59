//! Pod links, addresses, service VIPs and DNS of one node.
//!
//! It is: veths and routes by netlink, an nf_tables rule set whose maps alone change, a DNS server over a swapped map.
//! It is not: a proxy of bytes.
//! It must never know: HTTP.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

#[derive(Debug, Clone)]
pub struct Config {
    /** short id of this instance: nft table `knarr-<instance>`, link names */
    pub instance: String,
    /** address leases, one file per pod */
    pub state_dir: PathBuf,
    pub pod_cidr: (Ipv4Addr, u8),
    pub service_cidr: (Ipv4Addr, u8),
    /** VIP of cluster DNS */
    pub dns_ip: Ipv4Addr,
    pub cluster_domain: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Other(String),
}

#[derive(Clone)]
pub struct Network {
    _p: (),
}
impl Network {
    /// Sets up the node (gateway address, forwarding, table), idempotent; keeps what a former process left running.
    pub async fn open(config: Config) -> Result<Network, Error> {
        let _ = config;
        todo!()
    }
    /// Gives the namespace at `netns` its address and routes; same pod id, same address while leased. Idempotent.
    pub async fn attach(&self, pod: &str, netns: &Path) -> Result<Ipv4Addr, Error> {
        let _ = (pod, netns);
        todo!()
    }
    pub async fn detach(&self, pod: &str) -> Result<(), Error> {
        let _ = pod;
        todo!()
    }
    /// pod id → address of every lease
    pub fn leases(&self) -> Vec<(String, Ipv4Addr)> {
        todo!()
    }
    /// Watches Services and EndpointSlices and keeps the VIP maps; runs until dropped.
    pub async fn run_services(&self, client: kube::Client) {
        let _ = client;
        todo!()
    }
    /// Serves cluster DNS on `dns_ip:53` (and forwards the rest to the host's resolvers); runs until dropped.
    pub async fn run_dns(&self, client: kube::Client) -> Result<(), Error> {
        let _ = client;
        todo!()
    }
    /// Removes table, links, routes, addresses. For `stop --purge`.
    pub async fn purge(&self) -> Result<(), Error> {
        todo!()
    }
}
