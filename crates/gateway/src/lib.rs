//! The L7 gateway: Ingress routes and published Service ports, balanced over ready endpoints.
//!
//! It is: HTTP/1.1, HTTP/2, WebSocket and TCP proxying with health, retries, draining, TLS.
//! It is not: a service mesh sidecar.
//! It must never know: Pods, containers.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

#[derive(Debug, Clone)]
pub struct Config {
    /** where published (LoadBalancer) ports listen */
    pub bind: IpAddr,
    /** Ingress listeners, bound only while an Ingress exists */
    pub ingress_http: SocketAddr,
    pub ingress_https: SocketAddr,
    pub threads: usize,
    /** written to status.loadBalancer.ingress */
    pub address: IpAddr,
}

/// Publishing ports is not built yet: says so once, and runs until dropped.
pub async fn run(config: Config, client: kube::Client) {
    drop((config, client));
    tracing::warn!("the gateway is not built yet: published ports and Ingresses do not answer");
    std::future::pending().await
}
