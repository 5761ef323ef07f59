//! The Kubernetes API server as a `tower::Service`.
//!
//! It is: resources, discovery, watch, patches, authentication, over a registry of resource descriptors.
//! It is not: a controller.
//! It must never know: containers, the network, files of the node (but the store's and PKI's handed to it).
#![forbid(unsafe_code)]

mod access;
mod admission;
mod advertise;
mod agent_port;
mod agent_streams;
mod aggregate;
mod audit;
mod body;
mod bootstrap;
mod catalog;
mod certs;
mod commit;
mod compare;
mod components;
mod computed;
mod crd;
mod deadline;
mod decode;
mod delete;
mod discovery;
mod discovery_order;
mod encoding;
mod encryption;
mod eviction;
mod expressions;
mod fairness;
mod field_error;
mod finalizers;
mod frames;
mod health;
mod held_addresses;
mod identity;
mod json_patch6902;
mod kept;
pub mod kinds;
mod list;
mod local;
mod log_options;
mod measured;
mod metrics;
mod names;
mod namespaces;
mod negotiate;
mod object;
mod openapi;
mod own;
mod pages;
mod patch;
mod pki;
mod pods;
mod pretty;
mod proxy;
mod query;
pub mod registry;
mod request_info;
mod resource;
mod scale;
mod selector;
mod serve;
mod server;
mod slis;
mod status;
mod table;
mod text;
mod versions;
mod view;
mod watch;
mod webhook;
mod write;
mod yaml_words;
mod zpages;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
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
    /// Connects to a port inside the Pod, as its own `127.0.0.1` reaches it. Err = what the user is told.
    async fn dial(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> Result<tokio::net::TcpStream, String>;
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
    /// Of Services' second addresses; None on a host without IPv6
    pub service_cidr6: Option<(Ipv6Addr, u8)>,
    /// Addresses clients use beside loopback and the Service's; the serving certificate is for them, too
    pub addresses: Vec<IpAddr>,
    pub dns_ip: Ipv4Addr,
    pub cluster_domain: String,
    pub node_port_range: (u16, u16),
}

/// Shared handle (Clone = same server).
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<server::Inner>,
}

impl ApiServer {
    /// The API over a store, with all built-in kinds. Makes keys and certificates when there are none (blocking file
    /// I/O); the first request makes the default namespaces.
    pub fn new(config: Config) -> Result<ApiServer, Error> {
        ApiServer::with_resources(config, kinds::builtin())
    }

    /// Like [`ApiServer::new`], serving these resources only.
    pub fn with_resources(
        config: Config,
        resources: &'static [registry::Resource],
    ) -> Result<ApiServer, Error> {
        let (base, _) = config.service_cidr;
        let service_ip = Ipv4Addr::from(u32::from(base).wrapping_add(1));
        let pki = pki::Pki::open(
            &config.pki_dir,
            service_ip,
            &config.cluster_domain,
            &config.addresses,
        )?;
        let access = access::Access::open(&config.pki_dir)?;
        let catalog = catalog::Catalog::new(resources);
        Ok(ApiServer {
            inner: Arc::new(server::Inner::new(config, catalog, pki, access)),
        })
    }

    /// A server with its store and keys below `dir`, for tests of crates that talk to the API: all built-in kinds,
    /// services in 10.43.0.0/16, `cluster.local`. Panics when `dir` can't be used.
    ///
    /// ```no_run
    /// # async fn example() {
    /// let dir = std::env::temp_dir().join("my-test");
    /// let api = knarr_api::ApiServer::for_tests(&dir);
    /// let client = api.client("test", &["system:masters"], "my-test");
    /// # }
    /// ```
    pub fn for_tests(dir: &std::path::Path) -> ApiServer {
        let config = Config::for_tests(dir);
        // for tests: a server that can't start is a failed test
        #[allow(clippy::panic)]
        ApiServer::new(config).unwrap_or_else(|e| panic!("test API server in {dir:?}: {e}"))
    }

    /// Like [`ApiServer::for_tests`], but EndpointSlices may name loopback addresses, which upstream refuses: for tests of
    /// what sends traffic to endpoints, which must stay on loopback. No scale subresources.
    pub fn for_tests_on_loopback(dir: &std::path::Path) -> ApiServer {
        // for tests: a server that can't start is a failed test
        #[allow(clippy::panic)]
        ApiServer::with_resources(Config::for_tests(dir), kinds::on_loopback())
            .unwrap_or_else(|e| panic!("test API server in {dir:?}: {e}"))
    }

    /// Hands over a node's streams; until then log, exec and attach of its Pods answer 503.
    pub fn set_pod_streams(&self, node: &str, streams: Arc<dyn PodStreams>) {
        self.inner.streams.rcu(|all| {
            let mut all = std::collections::BTreeMap::clone(all);
            all.insert(node.to_owned(), streams.clone());
            all
        });
    }

    /// From now on this one answers for a node: what it and its Pods use (`metrics.k8s.io`), and `nodes/…/proxy`.
    pub fn set_node_agent(&self, node: &str, agent: Arc<dyn NodeAgent>) {
        self.inner.agents.set(node, agent);
    }

    /// From now on this one says whether the scheduler and the other controllers run (ComponentStatus, `kubectl get cs`).
    pub fn set_components(&self, check: Arc<ComponentCheck>) {
        self.inner.components.set(check);
    }

    /// What `/flagz` tells: the flags the server was started with and their values, without secrets.
    pub fn set_flags(&self, flags: std::collections::BTreeMap<String, String>) {
        self.inner.zpages.set_flags(flags);
    }

    /// Writes requests down from now on; the first log given stays.
    pub fn set_audit(&self, audit: Audit) {
        let _ = self.inner.audit.set(audit);
    }

    /// The cluster's CA, for the controllers that sign certificate requests.
    pub fn authority(&self) -> Authority {
        Authority::new(&self.inner.config.pki_dir)
    }

    /// In-process client acting as `user` in `groups` (e.g. `system:kube-controller-manager`, [`system:masters`]); `user_agent`
    /// up to its first `/` becomes the default field manager. Must be called in a tokio runtime. Default namespace: `default`.
    pub fn client(&self, user: &str, groups: &[&str], user_agent: &str) -> kube::Client {
        let who = identity::Identity::new(user, groups);
        let service = local::LocalService::new(self.inner.clone(), who, user_agent);
        kube::Client::new(service, "default")
    }

    /// HTTPS (HTTP/1.1 + HTTP/2 by ALPN) with client certificates, until dropped.
    pub async fn serve(&self, listener: tokio::net::TcpListener) -> Result<(), Error> {
        self.serve_until(listener, std::future::pending()).await
    }
    /// Like [`ApiServer::serve`], until `stop` is ready: then no more connections are taken, watches (in-process ones,
    /// too) end, and requests under way have five seconds.
    pub async fn serve_until(
        &self,
        listener: tokio::net::TcpListener,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        self.inner
            .ready()
            .await
            .map_err(|f| Error::Bootstrap(f.message().to_string()))?;
        serve::serve(self.inner.clone(), serve::Door::Api, listener, stop).await;
        Ok(())
    }
    /// The HTTPS port of a node's agent, until dropped: with a certificate of the cluster's CA for these addresses and the
    /// node's name. Who may ask for what is decided as by the kubelet, by subresources of the node.
    pub async fn serve_agent(
        &self,
        node: &str,
        addresses: &[IpAddr],
        listeners: Vec<tokio::net::TcpListener>,
    ) -> Result<(), Error> {
        let (inner, name, addresses) = (self.inner.clone(), node.to_owned(), addresses.to_vec());
        let tls = tokio::task::spawn_blocking(move || {
            let names = addresses
                .iter()
                .map(IpAddr::to_string)
                .chain([name.clone()]);
            inner
                .pki
                .for_node(&inner.config.pki_dir, &name, names.collect())
        })
        .await
        .map_err(|e| Error::Bootstrap(e.to_string()))??;
        let tls = Arc::new(tls);
        let all = listeners.into_iter().map(|listener| {
            let door = serve::Door::Agent {
                node: node.into(),
                tls: tls.clone(),
            };
            serve::serve(self.inner.clone(), door, listener, std::future::pending())
        });
        futures::future::join_all(all).await;
        Ok(())
    }

    /// Tells Pods (by the endpoints of the Service `kubernetes`) that the API is served at `address`.
    pub async fn advertise(&self, address: SocketAddr) -> Result<(), Error> {
        let told = async {
            self.inner.ready().await?;
            advertise::run(&self.inner, address).await
        };
        told.await
            .map_err(|f| Error::Bootstrap(f.message().to_string()))
    }

    /// Admin kubeconfig (YAML) for `server`, with client certificate and CA inline.
    pub fn kubeconfig(&self, server: SocketAddr, context: &str) -> Result<String, Error> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let pki = &self.inner.pki;
        let ca = STANDARD.encode(&pki.ca_pem);
        let cert = STANDARD.encode(&pki.admin_cert_pem);
        let key = STANDARD.encode(pki.admin_key_pem()?);
        // JSON strings are YAML strings, whatever the context is called
        let context = serde_json::Value::from(context).to_string();
        Ok(format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: {context}\n  cluster:\n    server: https://{server}\n    certificate-authority-data: {ca}\nusers:\n- name: {context}\n  user:\n    client-certificate-data: {cert}\n    client-key-data: {key}\ncontexts:\n- name: {context}\n  context:\n    cluster: {context}\n    user: {context}\ncurrent-context: {context}\n"
        ))
    }
}

impl Config {
    /// See [`ApiServer::for_tests`].
    pub fn for_tests(dir: &std::path::Path) -> Config {
        let options = knarr_store::Options {
            dir: dir.join("store"),
            ring_events_max: 4096,
            ring_bytes_max: 8 << 20,
            segment_bytes: 4 << 20,
            snapshot_after_bytes: 16 << 20,
        };
        // for tests: a store that can't be opened is a failed test
        #[allow(clippy::panic)]
        let store = Encryption::open(&dir.join("pki"), None)
            .map_err(|e| e.to_string())
            .and_then(|sealer| {
                knarr_store::Store::open_sealed(options, Some(sealer)).map_err(|e| e.to_string())
            })
            .unwrap_or_else(|e| panic!("test store in {dir:?}: {e}"));
        Config {
            store,
            pki_dir: dir.join("pki"),
            service_cidr: (Ipv4Addr::new(10, 43, 0, 0), 16),
            service_cidr6: None,
            addresses: vec![],
            dns_ip: Ipv4Addr::new(10, 43, 0, 10),
            cluster_domain: "cluster.local".into(),
            node_port_range: (30000, 32767),
        }
    }
}

/// Why the API can't start or hand out credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Keys and certificates.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// Default objects.
    #[error("the default objects can't be made: {0}")]
    Bootstrap(String),
}
pub use audit::{
    Audit, Error as AuditError, LogOptions, Policy as AuditPolicy, PolicyError as AuditPolicyError,
};
pub use certs::{Authority, Error as CertificateError, Request as CertificateRequest};
pub use components::Check as ComponentCheck;
pub use encryption::{Encryption, Error as EncryptionError};
pub use measured::{AgentAnswer, ContainerUse, NodeAgent, NodeUse, Use};
pub use pki::Error as PkiError;
