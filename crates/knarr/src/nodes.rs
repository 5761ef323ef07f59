//! The nodes that this machine is: what each is called, where it keeps its things, and its start.
//!
//! The first has the machine's own network. Each further one has network and host name namespaces, a cgroup tree and a
//! folder of its own; images are shared.

use crate::{
    error::{Error, io},
    links::{Links, host_addresses},
    paths::{Paths, Settings},
    wiring,
};
use knarr_api::ApiServer;
use knarr_network::{Network, Place};
use knarr_node::Node;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};
use tokio::{net::TcpListener, task::JoinSet};

/// A node sees and does what the node authorizer lets it.
const NODES: &[&str] = &["system:nodes"];

/// One of them, counted from 1.
#[derive(Clone, Copy)]
pub struct Which<'a> {
    pub paths: &'a Paths,
    pub settings: &'a Settings,
    pub number: u8,
}

/// What a node is made on.
pub struct Ground {
    pub runtime: knarr_runtime::Runtime,
    pub network: Network,
}

impl Which<'_> {
    pub fn name(&self) -> String {
        match self.number {
            1 => self.settings.node.clone(),
            number => format!("{}-{number}", self.settings.node),
        }
    }

    fn sub(&self, name: &str) -> PathBuf {
        sub(self.paths, self.number, name)
    }

    /// Where the node agent keeps its things.
    pub fn data_dir(&self) -> PathBuf {
        self.sub("node")
    }

    fn place(&self) -> Option<Place> {
        (self.number > 1).then(|| Place {
            dir: self.sub("place"),
            hostname: self.name(),
            number: self.number,
            machine_ip: Which { number: 1, ..*self }.node_ip(),
            machine_ip6: self.settings.ipv6(1).map(|ipv6| ipv6.node_ip()),
            machine_outside: host_addresses(true)
                .into_iter()
                .filter(|ip| !ip.is_loopback())
                .collect(),
        })
    }

    /// As [`knarr_network::Config::node_ip`].
    fn node_ip(&self) -> Ipv4Addr {
        let cidr = self.settings.node_cidr(self.number);
        let (base, _) = cidr.unwrap_or(self.settings.pod_cidr);
        Ipv4Addr::from(u32::from(base).wrapping_add(1))
    }

    /// # Errors
    /// When there is no room for this node among the Pods' addresses.
    pub fn network_config(&self) -> Result<knarr_network::Config, Error> {
        let settings = self.settings;
        let (base, bits) = settings.pod_cidr;
        let node_cidr = settings.node_cidr(self.number).ok_or_else(|| {
            Error::Platform(format!(
                "{base}/{bits} is too small a range for Pods of more than one node: start a fresh data directory with a --pod-cidr of at most 21 bits"
            ))
        })?;
        Ok(knarr_network::Config {
            instance: settings.instance.clone(),
            node: self.name(),
            state_dir: self.sub("network"),
            pod_cidr: settings.pod_cidr,
            node_cidr,
            place: self.place(),
            service_cidr: settings.service_cidr,
            dns_ip: settings.dns_ip(),
            cluster_domain: settings.cluster_domain.clone(),
            ipv6: settings
                .ipv6(self.number)
                .filter(|_| knarr_network::has_ipv6()),
        })
    }

    pub fn runtime_config(&self) -> Result<knarr_runtime::Config, Error> {
        let place = self.place();
        let instance = &self.settings.instance;
        Ok(knarr_runtime::Config {
            root: self.sub("runtime"),
            exe: std::env::current_exe().map_err(io("this program's own path"))?,
            cgroup_parent: match self.number {
                1 => format!("/knarr-{instance}"),
                number => format!("/knarr-{instance}-{number}"),
            },
            host: knarr_runtime::HostNamespaces {
                net: place.as_ref().map(Place::net),
                uts: place.as_ref().map(Place::uts),
            },
        })
    }

    /// Opens what the node is made on; finds again what an earlier process left.
    pub async fn open(&self) -> Result<Ground, Error> {
        let failed =
            |room: &str, e: String| Error::Platform(format!("{}: {room}: {e}", self.name()));
        let config = self.runtime_config()?;
        let open = || tokio::task::spawn_blocking(move || wiring::open_runtime(config));
        // The network makes the namespaces that a further node's containers join.
        let network = Network::open(self.network_config()?);
        let (network, runtime) = match self.number {
            1 => tokio::join!(network, open()),
            _ => (network.await, open().await),
        };
        let network = network.map_err(|e| failed("network", e.to_string()))?;
        let runtime = runtime
            .map_err(|e| Error::Failed(e.to_string()))?
            .map_err(|e| failed("runtime", e.to_string()))?;
        Ok(Ground { runtime, network })
    }

    /// Ends every container and removes all that the node has on the machine.
    pub async fn purge(&self) -> Result<(), Error> {
        let failed = |what: &'static str| move |e: String| Error::Failed(format!("{what}: {e}"));
        let Ground { runtime, network } = self.open().await?;
        runtime
            .purge()
            .await
            .map_err(|e| failed("runtime")(e.to_string()))?;
        drop(runtime);
        // Only now: volumes may have been in use by containers.
        knarr_node::purge(&self.data_dir()).map_err(|e| failed("node")(e.to_string()))?;
        network
            .purge()
            .await
            .map_err(|e| failed("network")(e.to_string()))
    }
}

fn sub(paths: &Paths, number: u8, name: &str) -> PathBuf {
    match number {
        1 => paths.sub(name),
        number => paths.sub("nodes").join(number.to_string()).join(name),
    }
}

/// Where a node's containers are written down.
pub fn runtime_dir(paths: &Paths, number: u8) -> PathBuf {
    sub(paths, number, "runtime")
}

/// The numbers of the nodes that have something in the data directory, the first node last: the others' ways lead over it.
pub fn known(paths: &Paths) -> Vec<u8> {
    let entries = std::fs::read_dir(paths.sub("nodes"));
    let names = entries.into_iter().flatten().flatten();
    let mut numbers: Vec<u8> = names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 1)
        .collect();
    numbers.sort_unstable();
    numbers.push(1);
    numbers
}

/// What all nodes are given alike.
pub struct Common {
    pub api: ApiServer,
    pub images: knarr_image::ImageStore,
    pub registries: knarr_image::client::ClientConfig,
    pub settings: knarr_node::Settings,
}

/// The kubelet's port.
const AGENT_PORT: u16 = 10250;

/// Listeners on the same port of each address: the kubelet's own, or another one when somebody has that.
fn agent_listeners(network: &Network, ips: &[IpAddr]) -> Result<(u16, Vec<TcpListener>), Error> {
    let all = |mut port: u16| {
        let mut listeners = Vec::new();
        for ip in ips {
            let listener = network
                .listen(SocketAddr::new(*ip, port))
                .map_err(|e| Error::Platform(format!("the node agent's port: {e}")))?;
            let converted = listener
                .set_nonblocking(true)
                .and_then(|()| listener.local_addr())
                .and_then(|at| {
                    port = at.port();
                    TcpListener::from_std(listener)
                });
            listeners.push(converted.map_err(|e| Error::Platform(e.to_string()))?);
        }
        Ok((port, listeners))
    };
    all(AGENT_PORT).or_else(|_| all(0))
}

/// Where the gateway opens published ports on a further node.
pub fn published_on(which: Which<'_>, network: &Network) -> knarr_gateway::Ground {
    let (tcp, udp) = (network.clone(), network.clone());
    let other = std::io::Error::other;
    knarr_gateway::Ground::of_node(
        which.name(),
        move |at| tcp.listen(at).map_err(other),
        move |at| udp.listen_udp(at).map_err(other),
    )
}

/// Starts a node's network tasks and its agent.
pub async fn start(
    which: Which<'_>,
    ground: Ground,
    common: &Common,
    tasks: &mut JoinSet<()>,
) -> Result<Node, Error> {
    let Ground { runtime, network } = ground;
    let (services, dns) = (network.clone(), network.clone());
    let services_client = common.api.client("system:kube-proxy", &[], "kube-proxy");
    tasks.spawn(async move { services.run_services(services_client).await });
    let (health, health_client) = (
        network.clone(),
        common.api.client("system:kube-proxy", &[], "kube-proxy"),
    );
    let health_node = which.name();
    tasks
        .spawn(async move { crate::health_ports::run(&health_node, &health, health_client).await });
    let policies = network.clone();
    let policies_client = common
        .api
        .client("system:network-policies", wiring::MASTERS, "policies");
    tasks.spawn(async move { policies.run_policies(policies_client).await });
    tasks.spawn(async move {
        if let Err(e) = dns.run_dns().await {
            tracing::error!(error = %e, "cluster DNS ended");
        }
    });
    let name = which.name();
    let own = network.addresses(network.node_ip());
    let host_ips = match (which.number, host_addresses(own.len() > 1)) {
        (1, machine) if !machine[0].is_loopback() => {
            // In a family that the machine has no address of, the node has one among its Pods.
            let missing = own.into_iter().filter(|ip| {
                let same = |other: &IpAddr| other.is_ipv4() == ip.is_ipv4();
                !machine.iter().any(same)
            });
            let missing = missing.collect::<Vec<_>>();
            [machine, missing].concat()
        }
        // the machine has no network, or the node has one of its own
        _ => own,
    };
    let mut ips = vec![host_ips[0], IpAddr::V4(network.node_ip())];
    ips.dedup();
    let (port, listeners) = agent_listeners(&network, &ips)?;
    let (server, agent) = (common.api.clone(), name.clone());
    tasks.spawn(async move {
        if let Err(e) = server.serve_agent(&agent, &ips, listeners).await {
            tracing::error!(error = %e, node = agent, "the node agent's port is closed");
        }
    });
    let (api, user) = (common.api.clone(), format!("system:node:{name}"));
    let node = Node::start(knarr_node::Config {
        name: name.clone(),
        data_dir: which.data_dir(),
        host_ip: host_ips[0],
        dns_ip: which.settings.dns_ip(),
        cluster_domain: which.settings.cluster_domain.clone(),
        runtime,
        images: common.images.clone(),
        registries: common.registries.clone(),
        image_users: {
            let (paths, number) = (which.paths.clone(), which.number);
            Arc::new(move || crate::image_users::but_for(&paths, Some(number)))
        },
        network: Arc::new(Links::new(network, host_ips)),
        client: Arc::new(move || api.client(&user, NODES, "kubelet")),
        port,
        manifests: which.sub("manifests"),
        share: u32::from(which.settings.nodes),
        settings: common.settings.clone(),
    })
    .await
    .map_err(|e| Error::Platform(format!("node {name}: {e}")))?;
    let streams = wiring::Streams {
        node: node.clone(),
        tokens: which.paths.tokens(),
    };
    common.api.set_pod_streams(&name, Arc::new(streams));
    let agent = crate::measured::Agent(node.clone());
    common.api.set_node_agent(&name, Arc::new(agent));
    say_what_it_is(&common.api, which).await?;
    Ok(node)
}

/// What no node may say of itself: its part of the Pods' range, and of the first that it runs the API.
async fn say_what_it_is(api: &ApiServer, which: Which<'_>) -> Result<(), Error> {
    use kube::api::{Api, Patch, PatchParams};
    let client = api.client("system:apiserver", wiring::MASTERS, "apiserver");
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client);
    let name = which.name();
    let failed = |e: kube::Error| Error::Platform(format!("describing node {name}: {e}"));
    let node = nodes.get(&name).await.map_err(failed)?;
    let mut patch = serde_json::json!({});
    if which.number == 1 {
        patch["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = "".into();
    }
    let has_range = node.spec.is_some_and(|spec| spec.pod_cidr.is_some());
    // it can't be changed once it is there
    if let Some((base, bits)) = which
        .settings
        .node_cidr(which.number)
        .filter(|_| !has_range)
    {
        let cidr = format!("{base}/{bits}");
        let second = which.network_config()?.ipv6.map(|ipv6| {
            let (base, bits) = ipv6.node_cidr;
            format!("{base}/{bits}")
        });
        let all: Vec<&String> = std::iter::once(&cidr).chain(&second).collect();
        patch["spec"] = serde_json::json!({ "podCIDR": cidr, "podCIDRs": all });
    }
    let done = nodes
        .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    done.map(drop).map_err(failed)
}
