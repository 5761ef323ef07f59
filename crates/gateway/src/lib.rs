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

/// Watches Services (type LoadBalancer), Ingresses, IngressClasses, EndpointSlices and TLS Secrets through `client`, and serves. Runs until dropped. Reports a port it cannot bind as an Event and a Service condition.
pub async fn run(config: Config, client: kube::Client) {
    let _ = (config, client);
    todo!()
}
