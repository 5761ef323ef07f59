//! The L7 gateway: Ingress routes and published Service ports, balanced over ready endpoints.
//!
//! It is: HTTP/1.1, HTTP/2, WebSocket and TCP proxying with health, retries, draining, TLS.
//! It is not: a service mesh sidecar.
//! It must never know: Pods, containers.
#![forbid(unsafe_code)]

mod answers;
mod body;
mod clients;
mod ground;
mod headers;
mod health;
mod ingress;
mod listen;
mod model;
mod neighbour;
mod node_health;
mod pool;
mod proxy;
mod publish;
mod report;
mod tls;
mod udp;
mod watched;

use std::{
    future::pending,
    net::{IpAddr, SocketAddr},
};

pub use ground::{Ground, tcp_on_machine, udp_on_machine};
pub use health::{HealthPort, HealthPorts, Key as HealthKey, Listen, serve_health_ports};
pub use neighbour::{Neighbour, Place};
pub use node_health::serve_node_health;

use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;

/// Changes taken in one go before they are acted upon.
const BURST_MAX: usize = 4096;
/// Status writes and Events waiting to be written.
const REPORTS_MAX: usize = 1024;

#[derive(Debug, Clone)]
pub struct Config {
    /// Where published (LoadBalancer) ports listen.
    pub bind: IpAddr,
    /// Ingress listeners, bound only while an Ingress exists; https only while one has TLS.
    pub ingress_http: SocketAddr,
    pub ingress_https: SocketAddr,
    /// Written to `status.loadBalancer.ingress` when `bind` is the unspecified address.
    pub address: IpAddr,
    /// Further nodes of the machine: what listens on all addresses listens there, too.
    pub further: Vec<Ground>,
    /// Who gives way when a port is published that it holds.
    pub neighbour: Option<Neighbour>,
}

/// Publishes the TCP and UDP ports of Services of type LoadBalancer, and Ingresses, until dropped.
///
/// Ports with `appProtocol` `http`, `kubernetes.io/ws` or `kubernetes.io/h2c` are HTTP; ports that name another
/// protocol are TCP; for those that name none the client's first bytes decide. A port that can't be opened gives its
/// Service a Warning Event `PortInUse` and no address in its status, and is tried again.
pub async fn run(config: Config, client: kube::Client) {
    let (reports, written) = mpsc::channel(REPORTS_MAX);
    let mut changes = model::changes(&client);
    let mut model = model::Model::default();
    let mut publisher = publish::Publisher::new(config, reports);
    let serve = async {
        loop {
            let retry = publisher.retry_at();
            let wake = async {
                match retry {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => pending().await,
                }
            };
            let mut changed = tokio::select! {
                Some(change) = changes.next() => model.take(change),
                () = wake => true,
            };
            for _ in 0..BURST_MAX {
                match changes.next().now_or_never() {
                    Some(Some(change)) => changed |= model.take(change),
                    _ => break,
                }
            }
            if changed && model.synced() {
                publisher.make_way(&model).await;
                publisher.apply(&model);
            }
        }
    };
    tokio::join!(serve, report::write(client, written));
}
