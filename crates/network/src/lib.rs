//! Pod links, addresses, service VIPs and DNS of one node.
//!
//! It is: veths and routes by netlink, an nf_tables rule set whose maps alone change, a DNS server over a swapped map.
//! It is not: a proxy of bytes.
//! It must never know: HTTP.

mod dns;
mod error;
mod keeper;
mod lease;
mod link;
// Raw netlink sockets: the one module that must speak to the kernel.
#[allow(unsafe_code)]
mod nft;
mod place;
mod services;
mod state;

pub use error::Error;
pub use place::Place;

use arc_swap::ArcSwap;
use keeper::Keeper;
use lease::Leases;
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;

/// The gateway of every Pod, on the node's `lo` (link-local, RFC 3927).
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

#[derive(Debug, Clone)]
pub struct Config {
    /// Short id of this instance, at most 6 characters: names its links.
    pub instance: String,
    /// Address leases (`pods/`, one file a pod), and what the node's set-up must remember (`node`).
    pub state_dir: PathBuf,
    /// The range of all nodes' Pods and of the nodes' addresses among them.
    pub pod_cidr: (Ipv4Addr, u8),
    /// This node's part of it.
    pub node_cidr: (Ipv4Addr, u8),
    /// Where the node is, when it isn't in the machine's own network.
    pub place: Option<Place>,
    pub service_cidr: (Ipv4Addr, u8),
    /// VIP of cluster DNS.
    pub dns_ip: Ipv4Addr,
    pub cluster_domain: String,
}

impl Config {
    /// The node's own address among its Pods' (the first of their range, which no Pod gets): where Pods reach what
    /// listens for them on the node, and others don't.
    pub fn node_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.node_cidr.0).wrapping_add(1))
    }
}

/// Shared handle on the node's network.
#[derive(Clone)]
pub struct Network {
    config: Arc<Config>,
    leases: Arc<Leases>,
    state: Arc<state::State>,
    keeper: Arc<Keeper>,
    /// What DNS answers from and the rule set is made of.
    views: Arc<ArcSwap<services::view::Views>>,
    /// Turns true when `views` holds everything the API had.
    synced: Arc<watch::Sender<bool>>,
}

impl Network {
    /// Sets up the node: addresses of the gateway, of DNS and of the node among its Pods on `lo`, the route of the service range, forwarding, and
    /// the nf_tables table. Idempotent, and keeps what a former process left running: Services go on during a restart.
    ///
    /// # Errors
    /// [`Error::Denied`] without CAP_NET_ADMIN, [`Error::NoNftables`], [`Error::Netlink`] and [`Error::Nft`] when the
    /// kernel refuses, [`Error::Io`] for files.
    pub async fn open(config: Config) -> Result<Network, Error> {
        let config = Arc::new(config);
        let leases = Leases::open(&config.state_dir.join("pods"), config.node_cidr)?;
        let state = Arc::new(state::State::open(&config.state_dir)?);
        place::open(&config).await?;
        link::set_up_node(&config, &state).await?;
        let (c, s) = (config.clone(), state.clone());
        let keeper = blocking(move || Keeper::start(c, s)).await?;
        Ok(Network {
            config,
            leases: Arc::new(leases),
            state,
            keeper: Arc::new(keeper),
            views: Arc::default(),
            synced: Arc::new(watch::Sender::new(false)),
        })
    }

    /// See [`Config::node_ip`].
    pub fn node_ip(&self) -> Ipv4Addr {
        self.config.node_ip()
    }

    /// Gives the namespace at `netns` its address and routes; same pod id, same address while leased. Idempotent.
    ///
    /// # Errors
    /// [`Error::Full`] when no address is left; otherwise as [`Network::open`].
    pub async fn attach(&self, pod: &str, netns: &Path) -> Result<Ipv4Addr, Error> {
        let (address, slot) = self.leases.take(pod)?;
        let name = self.link_name(slot);
        if let Err(error) = link::attach(self.config.place.as_ref(), &name, address, netns).await {
            let _ = self.leases.give_back(pod);
            return Err(error);
        }
        Ok(address)
    }

    /// Frees the pod's address. Its link goes with its namespace, or in some seconds if something keeps that. Nothing to
    /// do is fine.
    ///
    /// # Errors
    /// As [`Network::open`].
    pub async fn detach(&self, pod: &str) -> Result<(), Error> {
        if let Some(slot) = self.leases.slot(pod) {
            self.leases.give_back(pod)?;
            link::remove_later(self.config.place.clone(), self.link_name(slot)).await?;
        }
        Ok(())
    }

    fn link_name(&self, slot: u32) -> String {
        format!("kn{}{slot:x}", self.config.instance)
    }

    /// Pod id → address of every lease.
    pub fn leases(&self) -> Vec<(String, Ipv4Addr)> {
        self.leases.all()
    }

    /// Watches Services and EndpointSlices and keeps their VIPs and node ports in the kernel, and [`Network::run_dns`]
    /// current. Runs until dropped; retries with back-off when the API or the kernel refuses.
    pub async fn run_services(&self, client: kube::Client) {
        services::run(client, &self.views, |whole, changes| {
            self.keeper.post(whole, changes);
            self.synced.send_replace(true);
        })
        .await;
    }

    /// Answers DNS on the cluster's DNS address (UDP and TCP 53) from what [`Network::run_services`] sees, and forwards
    /// other names to the host's resolvers. Runs until dropped.
    ///
    /// # Errors
    /// [`Error::Dns`] when the address can't be bound.
    pub async fn run_dns(&self) -> Result<(), Error> {
        let options = dns::Options {
            place: self.config.place.clone(),
            listen: (self.config.dns_ip, 53).into(),
            cluster_domain: self.config.cluster_domain.clone(),
            pod_cidr: self.config.pod_cidr,
            service_cidr: self.config.service_cidr,
            gateway: GATEWAY,
        };
        dns::run(self.views.clone(), self.synced.subscribe(), options).await?;
        Ok(())
    }

    /// Removes links, rules, routes, addresses and leases, and puts sysctls back. For `stop --purge`.
    ///
    /// What instances share (the gateway's address, sysctls) stays while another one lives in this namespace.
    ///
    /// # Errors
    /// As [`Network::open`].
    pub async fn purge(&self) -> Result<(), Error> {
        let place = self.config.place.as_ref();
        link::remove_all(place, &format!("kn{}", self.config.instance)).await?;
        for (pod, _) in self.leases.all() {
            self.leases.give_back(&pod)?;
        }
        let (keeper, config) = (self.keeper.clone(), self.config.clone());
        let shared = blocking(move || {
            keeper.stop();
            place::within(config.place.as_ref(), || keeper::remove_table(&config))
        })
        .await?;
        link::tear_down_node(&self.config, shared).await?;
        if !shared && place.is_none() {
            self.state.restore_sysctls()?;
        }
        place::remove(&self.config).await?;
        self.state.remove()
    }
}

/// Runs what blocks for some milliseconds off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::Worker(e.to_string()))?
}
