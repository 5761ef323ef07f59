//! The Kubernetes API server as a `tower::Service`.
//!
//! It is: resources, discovery, watch, patches, authentication, over a registry of resource descriptors.
//! It is not: a controller.
//! It must never know: containers, the network, files of the node (but the store's and PKI's handed to it).
#![forbid(unsafe_code)]

pub mod kinds;
pub mod registry;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

/// What the API server asks of the node for the streaming subresources (knarr wires it to `knarr-node`).
#[async_trait::async_trait]
pub trait PodStreams: Send + Sync + 'static {
    /// `query` is the raw query string of `…/log`. Err = a `metav1.Status` to send (status code, reason, message).
    async fn log(
        &self,
        namespace: &str,
        pod: &str,
        query: &str,
    ) -> Result<
        futures::stream::BoxStream<'static, std::io::Result<bytes::Bytes>>,
        (u16, String, String),
    >;
    /// Runs the command and pumps the streams until it ends, then sends the status. Called after `check`.
    async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        query: &str,
        streams: knarr_remotecommand::ServerStreams,
    );
    /// Cheap test that exec/log can go ahead (container exists and runs), so that a clean 4xx can be sent before the upgrade.
    async fn check(
        &self,
        namespace: &str,
        pod: &str,
        query: &str,
    ) -> Result<(), (u16, String, String)>;
}

#[derive(Clone)]
pub struct Config {
    pub store: knarr_store::Store,
    /** CA, serving and admin keys live here; made at first start, 0600 */
    pub pki_dir: PathBuf,
    pub service_cidr: (Ipv4Addr, u8),
    pub dns_ip: Ipv4Addr,
    pub cluster_domain: String,
    pub node_port_range: (u16, u16),
}

/// Shared handle.
#[derive(Clone)]
pub struct ApiServer {
    _p: (),
}
impl ApiServer {
    pub fn new(config: Config) -> Result<ApiServer, Error> {
        let _ = config;
        todo!()
    }
    pub fn set_pod_streams(&self, streams: Arc<dyn PodStreams>) {
        let _ = streams;
        todo!()
    }
    /// In-process client acting as `user` in `groups` (e.g. `system:kube-controller-manager`, [`system:masters`]); `user_agent` becomes the default field manager.
    pub fn client(&self, user: &str, groups: &[&str], user_agent: &str) -> kube::Client {
        let _ = (user, groups, user_agent);
        todo!()
    }
    /// HTTPS (HTTP/1.1 + HTTP/2 by ALPN) with client certificates, until dropped.
    pub async fn serve(&self, listener: tokio::net::TcpListener) -> Result<(), Error> {
        let _ = listener;
        todo!()
    }
    /// Admin kubeconfig (YAML) for `server`, with client certificate and CA inline.
    pub fn kubeconfig(&self, server: SocketAddr, context: &str) -> Result<String, Error> {
        let _ = (server, context);
        todo!()
    }
}
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Other(String),
}
