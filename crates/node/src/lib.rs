//! The node agent (kubelet): Pods bound to this node become running containers, and their state goes back as status.
//!
//! It is: Pod lifecycle, probes, volumes, images, logs, exec.
//! It is not: a scheduler or an API server.
//! It must never know: the store, other nodes.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What the node asks of the network (knarr wires it to `knarr-network`).
#[async_trait::async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    async fn attach(&self, pod_uid: &str, netns: &Path) -> Result<Ipv4Addr, String>;
    async fn detach(&self, pod_uid: &str) -> Result<(), String>;
}

#[derive(Clone)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /** host address for status.hostIP */
    pub host_ip: std::net::IpAddr,
    pub dns_ip: Ipv4Addr,
    pub cluster_domain: String,
    pub runtime: knarr_runtime::Runtime,
    pub images: knarr_image::ImageStore,
    pub network: Arc<dyn PodNetwork>,
    /// one client per concern is better than one for all (each has its own buffer worker)
    pub client: Arc<dyn Fn() -> kube::Client + Send + Sync>,
}

#[derive(Clone)]
pub struct Node {
    _p: (),
}
impl Node {
    /// Registers the Node object, adopts running containers, then reconciles until dropped/stopped.
    pub async fn start(config: Config) -> Result<Node, Error> {
        let _ = config;
        todo!()
    }
    /// Stops reconciling; leaves all containers running.
    pub async fn stop(&self) {
        todo!()
    }
    /// Body of `GET …/pods/{name}/log` (query as upstream: follow, tailLines, sinceSeconds, sinceTime, timestamps, previous, limitBytes, container, stream): a byte stream, or an error with upstream's status and text.
    pub async fn logs(
        &self,
        request: LogRequest,
    ) -> Result<futures::stream::BoxStream<'static, std::io::Result<bytes::Bytes>>, StreamError>
    {
        let _ = request;
        todo!()
    }
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
        spec: knarr_runtime::ExecSpec,
    ) -> Result<knarr_runtime::ExecProcess, StreamError> {
        let _ = (namespace, pod, container, spec);
        todo!()
    }
}
#[derive(Debug, Clone, Default)]
pub struct LogRequest {
    pub namespace: String,
    pub pod: String,
    pub container: Option<String>,
    pub follow: bool,
    pub tail_lines: Option<i64>,
    pub since_seconds: Option<i64>,
    pub since_time: Option<jiff::Timestamp>,
    pub timestamps: bool,
    pub previous: bool,
    pub limit_bytes: Option<i64>,
}
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StreamError {
    pub status: u16,
    pub reason: String,
    pub message: String,
}
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Other(String),
}
