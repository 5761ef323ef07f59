//! Pod links, addresses, service VIPs and DNS of one node.
//!
//! It is: veths and routes by netlink, an nf_tables rule set whose maps alone change, a DNS server over a swapped map.
//! It is not: a proxy of bytes.
//! It must never know: HTTP.

mod alone;
mod clients;
mod config;
mod dns;
mod error;
mod fronts;
mod further;
mod keeper;
mod kernel;
mod lease;
mod link;
// Raw netlink sockets: the one module that must speak to the kernel.
#[allow(unsafe_code)]
mod nft;
mod place;
mod pod;
mod policy;
mod services;
mod state;

pub use alone::{Internal, Member, serve_names};
pub use config::{Config, Ipv6, has_ipv6};
pub use error::Error;
pub use lease::give_back_alone;
pub use place::Place;
pub use pod::{HostPort, Pod};

use arc_swap::ArcSwap;
use keeper::Keeper;
use lease::Leases;
use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
};
use tokio::sync::watch;

/// The gateway of every Pod, on the node's `lo` (link-local, RFC 3927).
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Where containers of Docker's and Compose's networks ask for names; the rule set turns it to the DNS server.
/// SOURCE: moby `libnetwork/sandbox_dns_unix.go`.
pub(crate) const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Shared handle on the node's network.
#[derive(Clone)]
pub struct Network {
    config: Arc<Config>,
    leases: Arc<Leases>,
    state: Arc<state::State>,
    keeper: Arc<Keeper>,
    policies: Arc<policy::feed::Policies>,
    /// The Pods that DNS tells apart.
    clients: Arc<clients::Clients>,
    /// What DNS answers from and the rule set is made of.
    views: Arc<ArcSwap<services::view::Views>>,
    /// Turns true when `views` holds everything the API had.
    synced: Arc<watch::Sender<bool>>,
    health: Arc<watch::Sender<Arc<HealthPorts>>>,
}

/// By namespace and name of the Service: its `healthCheckNodePort`, and how many ready endpoints it has on this node.
pub type HealthPorts = std::collections::BTreeMap<(Box<str>, Box<str>), (u16, usize)>;

impl Network {
    /// Sets up the node: addresses of the gateway, of DNS and of the node among its Pods on `lo`, the route of the service range, forwarding, and
    /// the nf_tables table. Idempotent, and keeps what a former process left running: Services go on during a restart.
    ///
    /// # Errors
    /// [`Error::Denied`] without CAP_NET_ADMIN, [`Error::NoNftables`], [`Error::Netlink`] and [`Error::Nft`] when the
    /// kernel refuses, [`Error::Io`] for files.
    pub async fn open(config: Config) -> Result<Network, Error> {
        let _gate = blocking(state::gate).await?;
        let config = Arc::new(config);
        let leases = Leases::open(&config.state_dir.join(lease::LEASES), config.node_cidr)?;
        let state = Arc::new(state::State::open(&config.state_dir)?);
        place::open(&config).await?;
        link::set_up_node(&config, &state).await?;
        let (c, s) = (config.clone(), state.clone());
        let notes = leases.all_notes();
        let known = clients::Clients::default();
        for (_, address, notes) in &notes {
            let second = config.ipv6_of(*address).map(IpAddr::V6);
            let all: Vec<IpAddr> = std::iter::once(IpAddr::V4(*address))
                .chain(second)
                .collect();
            if let Some(client) = clients::parse(notes) {
                known.put(&all, Some(client));
            }
        }
        for (_, address) in leases.all() {
            let second = config.ipv6_of(address).map(IpAddr::V6);
            let all: Vec<IpAddr> = std::iter::once(IpAddr::V4(address)).chain(second).collect();
            known.put_pod(&all, Some(services::own::Pod::at(address)));
        }
        let ports = notes
            .into_iter()
            .map(|(pod, address, notes)| (pod, pod::fronts(&c, address, &pod::parse(&notes))))
            .collect();
        let keeper = blocking(move || Keeper::start(c, s, ports)).await?;
        Ok(Network {
            config,
            leases: Arc::new(leases),
            state,
            keeper: Arc::new(keeper),
            policies: Arc::default(),
            clients: Arc::new(known),
            views: Arc::default(),
            synced: Arc::new(watch::Sender::new(false)),
            health: Arc::default(),
        })
    }

    /// See [`Config::node_ip`].
    pub fn node_ip(&self) -> Ipv4Addr {
        self.config.node_ip()
    }

    /// A TCP listener in the node's network.
    ///
    /// # Errors
    /// [`Error::Io`] when the address can't be had.
    pub fn listen(&self, address: std::net::SocketAddr) -> Result<std::net::TcpListener, Error> {
        place::within(self.config.place.as_ref(), || {
            let what = std::path::PathBuf::from(address.to_string());
            std::net::TcpListener::bind(address).map_err(error::io(what))
        })
    }

    /// As [`Network::listen`], for datagrams.
    ///
    /// # Errors
    /// [`Error::Io`] when the address can't be had.
    pub fn listen_udp(&self, address: std::net::SocketAddr) -> Result<std::net::UdpSocket, Error> {
        place::within(self.config.place.as_ref(), || {
            let what = std::path::PathBuf::from(address.to_string());
            std::net::UdpSocket::bind(address).map_err(error::io(what))
        })
    }

    /// The addresses of a Pod whose first one this is: with IPv6, one of either family.
    pub fn addresses(&self, pod: Ipv4Addr) -> Vec<IpAddr> {
        let second = self.config.ipv6_of(pod).map(IpAddr::V6);
        std::iter::once(IpAddr::V4(pod)).chain(second).collect()
    }

    /// Gives the namespace at `netns` its addresses and routes, and the Pod its ports on the node; the same Pod keeps its
    /// address while leased. The network policies about the Pod hold when this returns (or after ten seconds, if the API
    /// is away). Idempotent.
    ///
    /// # Errors
    /// [`Error::Full`] when no address is left; otherwise as [`Network::open`].
    pub async fn attach(&self, pod: &Pod, netns: &Path) -> Result<Ipv4Addr, Error> {
        let address = self.connect(pod, netns).await?;
        let name = (pod.namespace.clone(), pod.name.clone());
        let further = pod.further.iter().map(|(ip, _)| IpAddr::V4(*ip));
        let facts = pod.facts(self.addresses(address).into_iter().chain(further).collect());
        self.policies.admit(&self.keeper, name, facts).await;
        Ok(address)
    }

    /// As [`Network::attach`], for a container that no API knows of: nothing is asked about policies.
    ///
    /// # Errors
    /// As [`Network::attach`].
    pub async fn connect(&self, pod: &Pod, netns: &Path) -> Result<Ipv4Addr, Error> {
        let (address, slot) = self.leases.take(&pod.uid)?;
        let name = self.link_name(slot);
        let all = self.addresses(address);
        let nodes = self.config.plans().into_iter().map(|plan| plan.node);
        let client = clients::client(&pod.namespace, &pod.labels);
        let end = link::End {
            pod: all.iter().copied().zip(nodes).collect(),
            further: pod.further.clone(),
            mac: pod.mac,
            interface: pod.interface.clone(),
            resolver: client.is_some() || pod.resolver,
        };
        let place = self.config.place.as_ref();
        let done = match further::check(&self.config, &pod.further) {
            Ok(()) => link::attach(place, &name, end, netns).await,
            refused => refused,
        };
        if let Err(error) = done {
            let _ = self.leases.give_back(&pod.uid);
            return Err(error);
        }
        let ports = pod::fronts(&self.config, address, &pod.host_ports);
        if !ports.is_empty() || client.is_some() {
            let client = client.as_ref().map(clients::format).unwrap_or_default();
            let notes = pod::format(&pod.host_ports) + &client;
            self.leases.note(&pod.uid, &notes)?;
        }
        self.clients.put(&all, client);
        let itself = services::own::Pod {
            address,
            namespace: pod.namespace.as_str().into(),
            labels: pod.labels.clone(),
            generation: services::own::Generation::of(&pod.name),
        };
        self.clients.put_pod(&all, Some(itself));
        if !ports.is_empty() {
            // The thread lives as long as this handle.
            let _ = self.keeper.host_ports(&pod.uid, ports).await;
        }
        Ok(address)
    }

    /// Frees what [`Network::connect`] gave; its ports are closed when this returns. Its link goes with its namespace, which
    /// the caller takes down.
    ///
    /// # Errors
    /// As [`Network::open`].
    pub async fn disconnect(&self, pod: &str) -> Result<(), Error> {
        if self.leases.slot(pod).is_some() {
            self.forget_client(pod);
            let _ = self.keeper.host_ports(pod, Vec::new()).await;
            self.leases.give_back(pod)?;
        }
        Ok(())
    }

    /// Frees the pod's address. Its link goes with its namespace, or in some seconds if something keeps that. Nothing to
    /// do is fine.
    ///
    /// # Errors
    /// As [`Network::open`].
    pub async fn detach(&self, pod: &str) -> Result<(), Error> {
        if let Some(slot) = self.leases.slot(pod) {
            self.forget_client(pod);
            drop(self.keeper.host_ports(pod, Vec::new()));
            self.policies.dismiss(&self.keeper, pod);
            self.leases.give_back(pod)?;
            link::remove_later(self.config.place.clone(), self.link_name(slot)).await?;
        }
        Ok(())
    }

    /// Watches NetworkPolicies, and what they select, and enforces them on this node's Pods. Runs until dropped.
    ///
    /// While there is a policy, it also sees which networks Pods join and leave by their labels, for DNS: Docker's networks
    /// have a policy each.
    pub async fn run_policies(&self, client: kube::Client) {
        let node = &self.config.node;
        let seen = |facts: &policy::objects::Facts| self.relabel(facts);
        self.policies.run(client, node, &self.keeper, &seen).await;
    }

    fn relabel(&self, facts: &policy::objects::Facts) {
        let Some(address) = self.leases.address(&facts.uid) else {
            return;
        };
        let now = clients::client(&facts.namespace, &facts.labels);
        if self.clients.get(address.into()).as_deref() == now.as_ref() {
            return;
        }
        let mut notes = clients::without(&self.leases.notes(&facts.uid));
        notes.extend(now.as_ref().map(clients::format));
        if let Err(error) = self.leases.note(&facts.uid, &notes) {
            tracing::warn!(%error, "after a restart, DNS won't know of a Pod's new labels");
        }
        self.clients.put(&self.addresses(address), now);
    }

    fn forget_client(&self, pod: &str) {
        if let Some(address) = self.leases.address(pod) {
            let all = self.addresses(address);
            self.clients.put(&all, None);
            self.clients.put_pod(&all, None);
        }
    }

    fn link_name(&self, slot: u32) -> String {
        format!("kn{}{slot:x}", self.config.instance)
    }

    /// Gives the next address from somewhere in the range: for programs that come and go, of which none knows what the one
    /// before it gave.
    pub fn scatter(&self) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        self.leases
            .go_on_at(now.map_or(0, |now| now.subsec_micros()));
    }

    /// Pod id → address of every lease.
    pub fn leases(&self) -> Vec<(String, Ipv4Addr)> {
        self.leases.all()
    }

    /// Watches Services and EndpointSlices and keeps their VIPs and node ports in the kernel, and [`Network::run_dns`]
    /// current. Runs until dropped; retries with back-off when the API or the kernel refuses.
    pub async fn run_services(&self, client: kube::Client) {
        let here = services::view::Here {
            node: self.config.node.as_str().into(),
            zone: None,
        };
        services::run(client, here, &self.views, |burst| {
            self.tell_health(&burst);
            self.keeper.post(burst);
            self.synced.send_replace(true);
        })
        .await;
    }

    /// What load balancers may ask this node about, as [`Network::run_services`] sees it.
    pub fn health_ports(&self) -> watch::Receiver<Arc<HealthPorts>> {
        self.health.subscribe()
    }

    fn tell_health(&self, burst: &services::Burst) {
        self.health.send_if_modified(|now| {
            let mut new = match burst.whole {
                true => HealthPorts::new(),
                false => HealthPorts::clone(now),
            };
            for (key, view) in &burst.changes {
                match view.as_ref().filter(|v| v.service.health_port != 0) {
                    Some(view) => {
                        let found = view.ready_here(&burst.here);
                        new.insert(key.clone(), (view.service.health_port, found));
                    }
                    None => drop(new.remove(key)),
                }
            }
            let changed = **now != new;
            if changed {
                *now = Arc::new(new);
            }
            changed
        });
    }

    /// Answers DNS on the cluster's DNS address (UDP and TCP 53) from what [`Network::run_services`] sees, and forwards
    /// other names to the host's resolvers. Runs until dropped.
    ///
    /// # Errors
    /// [`Error::Dns`] when the address can't be bound.
    pub async fn run_dns(&self) -> Result<(), Error> {
        let plans = self.config.plans();
        let options = dns::Options {
            place: self.config.place.clone(),
            listen: plans.iter().map(|p| (p.dns_ip, 53).into()).collect(),
            cluster_domain: self.config.cluster_domain.clone(),
            ranges: plans.iter().flat_map(|p| [p.cluster, p.services]).collect(),
            own: plans.iter().map(|p| p.node).collect(),
        };
        let (views, clients) = (self.views.clone(), self.clients.clone());
        dns::run(views, clients, self.synced.subscribe(), options).await?;
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
        let _gate = blocking(state::gate).await?;
        link::remove_all(place, &format!("kn{}", self.config.instance)).await?;
        for (pod, _) in self.leases.all() {
            self.leases.give_back(&pod)?;
        }
        let (keeper, config) = (self.keeper.clone(), self.config.clone());
        let shared = blocking(move || {
            keeper.stop();
            place::within(config.place.as_ref(), || keeper::remove_tables(&config))
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
