//! A node's `healthCheckNodePort`s, and what it says of itself: the network knows which, the gateway answers.

use knarr_gateway::{HealthPort, HealthPorts};
use knarr_network::Network;
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::{net::TcpListener, sync::watch};

/// Until dropped.
pub async fn run(node: &str, network: &Network, client: kube::Client) {
    let mut known = network.health_ports();
    let (told, ports) = watch::channel(Arc::<HealthPorts>::default());
    let convert = async {
        loop {
            let now = known.borrow_and_update().clone();
            let all = now.iter().map(|(key, (port, local_endpoints))| {
                let (port, local_endpoints) = (*port, *local_endpoints);
                let health = HealthPort {
                    port,
                    local_endpoints,
                };
                (key.clone(), health)
            });
            told.send_replace(Arc::new(all.collect()));
            if known.changed().await.is_err() {
                return;
            }
        }
    };
    let at = network.clone();
    let listen = Arc::new(move |port: u16| {
        // both families, where the machine has both
        let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
        let listener = at
            .listen(any)
            .or_else(|_| at.listen((std::net::Ipv4Addr::UNSPECIFIED, port).into()))
            .map_err(std::io::Error::other)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    let at = network.clone();
    let inside = Arc::new(move |port: u16| {
        let listener = at
            .listen((Ipv4Addr::LOCALHOST, port).into())
            .map_err(std::io::Error::other)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    let addresses = network.addresses(network.node_ip());
    tokio::select! {
        () = convert => {}
        () = knarr_gateway::serve_health_ports(node, ports, listen.clone(), client.clone()) => {}
        () = knarr_gateway::serve_node_health(node, addresses, listen, inside, client) => {}
    }
}
