//! Pod links, addresses, service VIPs and DNS of one node.
//!
//! It is: veths and routes by netlink, an nf_tables rule set whose maps alone change, a DNS server over a swapped map.
//! It is not: a proxy of bytes.
//! It must never know: HTTP.
//!
//! So far it gives Pods their links and addresses; Service VIPs and DNS are still to come (see `run_services`).
#![forbid(unsafe_code)]

mod error;
mod lease;
mod link;

pub use error::Error;

use lease::Leases;
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The gateway of every Pod, on the node's `lo` (link-local, RFC 3927).
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

#[derive(Debug, Clone)]
pub struct Config {
    /// Short id of this instance, at most 6 characters: names its links.
    pub instance: String,
    /// Address leases, one file a pod.
    pub state_dir: PathBuf,
    pub pod_cidr: (Ipv4Addr, u8),
    pub service_cidr: (Ipv4Addr, u8),
    /// VIP of cluster DNS.
    pub dns_ip: Ipv4Addr,
    pub cluster_domain: String,
}

/// Shared handle on the node's network.
#[derive(Clone)]
pub struct Network {
    config: Arc<Config>,
    leases: Arc<Leases>,
}

impl Network {
    /// Sets up the node (gateway address, forwarding); idempotent, and keeps what a former process left running.
    ///
    /// # Errors
    /// [`Error::Denied`] without CAP_NET_ADMIN, [`Error::Netlink`] when the kernel refuses, [`Error::Io`] for the leases.
    pub async fn open(config: Config) -> Result<Network, Error> {
        let leases = Leases::open(&config.state_dir, config.pod_cidr)?;
        link::set_up_node().await?;
        Ok(Network {
            config: Arc::new(config),
            leases: Arc::new(leases),
        })
    }

    /// Gives the namespace at `netns` its address and routes; same pod id, same address while leased. Idempotent.
    ///
    /// # Errors
    /// [`Error::Full`] when no address is left; otherwise as [`Network::open`].
    pub async fn attach(&self, pod: &str, netns: &Path) -> Result<Ipv4Addr, Error> {
        let (address, slot) = self.leases.take(pod)?;
        let name = format!("kn{}{slot:x}", self.config.instance);
        if let Err(error) = link::attach(&name, address, netns).await {
            let _ = self.leases.give_back(pod);
            return Err(error);
        }
        Ok(address)
    }

    /// Removes the pod's link and frees its address. Nothing to do is fine.
    ///
    /// # Errors
    /// As [`Network::open`].
    pub async fn detach(&self, pod: &str) -> Result<(), Error> {
        if let Some(slot) = self.leases.slot(pod) {
            link::remove(&format!("kn{}{slot:x}", self.config.instance)).await?;
            self.leases.give_back(pod)?;
        }
        Ok(())
    }

    /// Pod id → address of every lease.
    pub fn leases(&self) -> Vec<(String, Ipv4Addr)> {
        self.leases.all()
    }

    /// Service VIPs are not built yet: says so once, and runs until dropped.
    pub async fn run_services(&self, client: kube::Client) {
        drop(client);
        tracing::warn!(
            "Service addresses are not served yet: Pods reach each other by Pod address only"
        );
        std::future::pending().await
    }

    /// Cluster DNS is not built yet: says so.
    ///
    /// # Errors
    /// Always [`Error::NotBuilt`].
    pub async fn run_dns(&self, client: kube::Client) -> Result<(), Error> {
        drop(client);
        Err(Error::NotBuilt("cluster DNS"))
    }

    /// Removes links, addresses and leases. For `stop --purge`.
    ///
    /// # Errors
    /// As [`Network::open`].
    pub async fn purge(&self) -> Result<(), Error> {
        for (pod, _) in self.leases.all() {
            self.detach(&pod).await?;
        }
        link::tear_down_node().await
    }
}
