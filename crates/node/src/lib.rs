//! The node agent (kubelet): Pods bound to this node become running containers, and their state goes back as status.
//!
//! It is: Pod lifecycle, probes, volumes, images, logs, exec.
//! It is not: a scheduler or an API server.
//! It must never know: the store, other nodes.
#![forbid(unsafe_code)]

mod context;
mod devices;
mod engine;
mod events;
mod eviction;
mod extended;
mod id_ranges;
mod image_gc;
mod inotify;
mod kubelet;
mod logs;
mod machine;
mod measure;
mod pod;
mod pods;
mod probe;
mod quantity;
mod services;
mod settings;
mod sources;
mod spec;
mod statics;
mod streams;
mod system_logs;
#[cfg(test)]
mod tests;
mod turns;
mod volumes;

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use probe::checks::{Check, Checks};
pub use settings::{Settings, SettingsError};
pub use spec::copy_up::copy_up as fill_volume;
pub use spec::security::of_names as capabilities;
pub use spec::user::{Resolved as ImageUser, of_image as image_user};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use kubelet::KubeletAnswer;
pub use measure::{ContainerUse, NodeUse, Use};

/// How long the API server may take to answer the first call.
const REGISTER_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// What the node asks of the network (knarr wires it to `knarr-network`).
#[async_trait::async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives the namespace at `netns` its address, and the Pod its ports on the node; what network policies say about
    /// the Pod holds from then on. Idempotent: the same Pod keeps its address.
    async fn attach(
        &self,
        pod: &k8s_openapi::api::core::v1::Pod,
        netns: &Path,
    ) -> Result<Ipv4Addr, String>;
    /// All addresses of the Pod, or of the node, whose first one this is: one a family.
    fn addresses(&self, first: IpAddr) -> Vec<IpAddr> {
        vec![first]
    }
    /// Takes it back. Idempotent; a Pod that has none is no error.
    async fn detach(&self, pod_uid: &str) -> Result<(), String>;
}

/// Gives the specifications of containers.
pub type ImageUsers = Arc<dyn Fn() -> Vec<knarr_runtime::ContainerSpec> + Send + Sync>;

#[derive(Clone)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /** host address for status.hostIP */
    pub host_ip: IpAddr,
    pub dns_ip: Ipv4Addr,
    pub cluster_domain: String,
    pub runtime: knarr_runtime::Runtime,
    pub images: knarr_image::ImageStore,
    /// where images are pulled from
    pub registries: knarr_image::client::ClientConfig,
    /// containers beside the node's own that run on these images; blocking
    pub image_users: ImageUsers,
    pub network: Arc<dyn PodNetwork>,
    /// one client per concern is better than one for all (each has its own buffer worker)
    pub client: Arc<dyn Fn() -> kube::Client + Send + Sync>,
    /// folder of static Pods' manifests, unless the settings name another
    pub manifests: PathBuf,
    /// how many nodes share this machine: each offers Pods its part of it
    pub share: u32,
    /// port of the agent on `host_ip`, which others serve; 0: none
    pub port: u16,
    pub settings: Settings,
}

/// Shared handle: the node runs until it's stopped or the last handle is dropped.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    context: Arc<context::Context>,
    registry: pod::entry::Registry,
    gatherer: Arc<measure::gather::Gatherer>,
    operations: Arc<measure::Operations>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    _stop: DropGuard,
}

/// `Config` with the runtime and the image store behind the traits that tests can fake.
pub(crate) struct Parts {
    pub name: String,
    pub data_dir: PathBuf,
    pub host_ip: IpAddr,
    pub dns_ip: Ipv4Addr,
    pub cluster_domain: String,
    pub engine: engine::Engine,
    pub operations: Arc<measure::Operations>,
    pub images: Arc<dyn engine::ImageSource>,
    pub image_users: ImageUsers,
    pub network: Arc<dyn PodNetwork>,
    pub client: Arc<dyn Fn() -> kube::Client + Send + Sync>,
    pub manifests: PathBuf,
    pub share: u32,
    pub port: u16,
    pub settings: Settings,
    /// folders of what drivers of devices do to containers
    pub edits: Vec<std::path::PathBuf>,
}

impl Node {
    /// Registers the Node object, adopts running containers, then reconciles until dropped/stopped.
    ///
    /// # Errors
    /// When the data folder can't be made, or the API server doesn't take the Node object within 30 s.
    pub async fn start(config: Config) -> Result<Node, Error> {
        let operations = Arc::<measure::Operations>::default();
        Node::start_with(Parts {
            name: config.name,
            data_dir: config.data_dir,
            host_ip: config.host_ip,
            dns_ip: config.dns_ip,
            cluster_domain: config.cluster_domain,
            engine: Arc::new(engine::RuntimeEngine(config.runtime, operations.clone())),
            operations,
            images: Arc::new(engine::StoreImages(config.images, config.registries)),
            image_users: config.image_users,
            network: config.network,
            client: config.client,
            manifests: config.manifests,
            share: config.share.max(1),
            port: config.port,
            settings: config.settings,
            edits: devices::FOLDERS.map(Into::into).into(),
        })
        .await
    }

    pub(crate) async fn start_with(parts: Parts) -> Result<Node, Error> {
        let dir = parts.data_dir.join("pods");
        // Secrets are below: no other user of the machine may look in.
        std::fs::create_dir_all(&dir)
            .and_then(|()| {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
                std::fs::set_permissions(&dir, mode)
            })
            .map_err(|source| Error::DataDir {
                dir: dir.clone(),
                source,
            })?;
        let csi = volumes::csi::Csi::new(parts.data_dir.join("kubelet"));
        csi.prepare()
            .map_err(|source| Error::DataDir { dir, source })?;
        let devices = devices::Devices::new(parts.data_dir.join("devices"), parts.edits);
        let machine = machine::Machine::read();
        let pressure = tokio::sync::watch::Sender::new(eviction::Conditions::new());
        let registrar = machine::Registrar {
            client: (parts.client)(),
            name: parts.name.clone(),
            host_ips: parts.network.addresses(parts.host_ip),
            data_dir: parts.data_dir.clone(),
            machine: machine.clone(),
            share: parts.share,
            pressure: pressure.subscribe(),
            port: parts.port,
        };
        let uid = tokio::time::timeout(REGISTER_DEADLINE, registrar.register())
            .await
            .map_err(|_| Error::Register("the API server did not answer within 30 s".into()))?
            .map_err(|e| Error::Register(e.to_string()))?;

        let cancel = CancellationToken::new();
        let tasks = TaskTracker::new();
        let turns = turns::Turns::new(usize::try_from(machine.cpus).unwrap_or(1));
        let context = Arc::new(context::Context {
            name: parts.name.clone(),
            data_dir: parts.data_dir,
            host_ip: parts.host_ip,
            dns_ip: parts.dns_ip,
            cluster_domain: parts.cluster_domain,
            cpus_milli: i64::from(machine.cpus) * 1000 / i64::from(parts.share),
            memory_bytes: i64::try_from(machine.memory_bytes / u64::from(parts.share))
                .unwrap_or(i64::MAX),
            machine,
            engine: parts.engine,
            images: parts.images,
            pulls: tokio::sync::Semaphore::new(parts.settings.pulls_max),
            id_ranges: id_ranges::IdRanges::new(parts.settings.ids_per_pod),
            network: parts.network,
            client: (parts.client)(),
            events: events::Events::start((parts.client)(), parts.name),
            sources: sources::Sources::new((parts.client)()),
            services: services::Services::start((parts.client)(), cancel.clone()),
            settings: parts.settings,
            pressure,
            csi,
            devices,
            turns,
            app_armor: knarr_runtime::AppArmor::default(),
            operations: parts.operations.clone(),
        });
        let registry = pod::entry::Registry::default();
        let manifests = context.settings.static_pod_path.clone();
        let manifests = manifests.unwrap_or(parts.manifests);
        let statics = statics::Statics::open(context.clone(), manifests).await;
        let pods = Arc::new(pods::Pods {
            context: context.clone(),
            registry: registry.clone(),
            tasks: tasks.clone(),
            cancel: cancel.clone(),
            statics: statics.clone(),
        });
        let until = |work: futures::future::BoxFuture<'static, ()>| {
            let cancel = cancel.clone();
            tasks.spawn(async move {
                let _ = cancel.run_until_cancelled(work).await;
            });
        };
        let node_info = volumes::csi::node_info::NodeInfo {
            client: (parts.client)(),
            name: context.name.clone(),
            uid: uid.clone(),
        };
        let plugins = volumes::csi::registration::Registrar {
            drivers: context.csi.drivers.clone(),
            devices: context.devices.plugins.clone(),
            node: Arc::new(node_info),
            kubelet_dir: context.kubelet_dir(),
        };
        until(Box::pin(plugins.run()));
        let wiper = devices::Wiper {
            client: (parts.client)(),
            node: context.name.clone(),
            plugins: context.devices.plugins.clone(),
        };
        until(Box::pin(wiper.run()));
        let listener = devices::Listener {
            context: context.clone(),
            registry: registry.clone(),
        };
        until(Box::pin(listener.run()));
        until(Box::pin(registrar.run(uid)));
        let extended = extended::follow((parts.client)(), context.name.clone());
        until(Box::pin(extended));
        let image_gc = Arc::new(image_gc::ImageGc::new(context.clone(), parts.image_users));
        let evictions = eviction::Manager {
            context: context.clone(),
            registry: registry.clone(),
            images: image_gc.clone(),
        };
        until(Box::pin(evictions.run()));
        until(Box::pin(image_gc.run()));
        until(Box::pin(statics.run(pods.clone())));
        until(Box::pin(pods.clone().run()));
        until(Box::pin(pods.run_images()));
        let sampler = Arc::new(measure::Sampler::default());
        until(Box::pin(
            sampler.clone().run(context.clone(), registry.clone()),
        ));
        let stop = cancel.clone().drop_guard();
        let inner = Inner {
            gatherer: Arc::new(measure::gather::Gatherer {
                context: context.clone(),
                registry: registry.clone(),
                sampler,
                folders: Arc::default(),
            }),
            operations: parts.operations,
            context,
            registry,
            tasks,
            cancel,
            _stop: stop,
        };
        Ok(Node {
            inner: Arc::new(inner),
        })
    }

    /// Stops reconciling; leaves all containers running.
    pub async fn stop(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        if tokio::time::timeout(STOP_DEADLINE, self.inner.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some pod tasks did not stop in time; they end with the process");
        }
    }

    /// Body of `GET …/pods/{name}/log` (query as upstream: follow, tailLines, sinceSeconds, sinceTime, timestamps, previous, limitBytes, container): a byte stream, or an error with upstream's status and text.
    ///
    /// # Errors
    /// 404 for no such Pod, 400 for a container that isn't named clearly, isn't there or has no log yet.
    pub async fn logs(
        &self,
        request: LogRequest,
    ) -> Result<futures::stream::BoxStream<'static, std::io::Result<bytes::Bytes>>, StreamError>
    {
        streams::logs(&self.inner.context, &self.inner.registry, request).await
    }

    /// Runs a command in a running container; without a container name, in the only one or the one the Pod's `kubectl.kubernetes.io/default-container` annotation names.
    ///
    /// # Errors
    /// As `logs`, 404 when the container doesn't run, 500 when the runtime refuses.
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
        spec: knarr_runtime::ExecSpec,
    ) -> Result<knarr_runtime::ExecProcess, StreamError> {
        let inner = &self.inner;
        streams::exec(
            &inner.context,
            &inner.registry,
            namespace,
            pod,
            container,
            spec,
        )
        .await
    }

    /// Joins the streams of a running container's own process, from now on; containers are chosen as by `exec`.
    ///
    /// # Errors
    /// As `exec`.
    pub async fn attach(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
    ) -> Result<knarr_runtime::Attachment, StreamError> {
        let inner = &self.inner;
        streams::attach(&inner.context, &inner.registry, namespace, pod, container).await
    }

    /// Whether `exec` could go ahead now, so that a plain error can be sent before a connection is upgraded.
    ///
    /// # Errors
    /// As `exec`.
    pub async fn check_exec(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
    ) -> Result<(), StreamError> {
        let inner = &self.inner;
        streams::exec_target(&inner.context, &inner.registry, namespace, pod, container)
            .await
            .map(drop)
    }
}

impl Node {
    /// What the machine and the running containers use now, over the last seconds; the first one to ask for a while waits
    /// a second for it.
    pub async fn usage(&self) -> NodeUse {
        let inner = &self.inner;
        measure::usage(&inner.context, &inner.registry, &inner.gatherer.sampler).await
    }

    /// What the check of a container of Docker's said lately.
    pub fn checks(&self, namespace: &str, pod: &str) -> Checks {
        let entry = self.inner.registry.named(namespace, pod);
        entry.map_or_else(Checks::default, |e| e.checks.lock().clone())
    }

    /// Connects to a port of a Pod as its own `127.0.0.1` (then `::1`) reaches it: servers that listen there only are
    /// reached, too, as by the kubelet.
    ///
    /// # Errors
    /// 404 and 400 as `exec`; 500 with the reason when nobody listens there.
    pub async fn dial(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> Result<tokio::net::TcpStream, StreamError> {
        let inner = &self.inner;
        streams::dial(&inner.context, &inner.registry, namespace, pod, port).await
    }
}

/// Where what containers of the namespace wrote is kept, when their Pods' annotation `knarr.dev/writable-layer` says `name`.
pub fn kept_layer(data_dir: &Path, namespace: &str, name: &str) -> PathBuf {
    spec::kept::place(data_dir, namespace, name)
}

/// Unmounts and removes all that Pods have below the node's folder: for `stop --purge`, when no container runs any more. Blocking.
///
/// # Errors
/// When something is still mounted or in use there; nothing that isn't the node's is touched.
pub fn purge(data_dir: &Path) -> Result<(), Error> {
    for folder in ["kubelet", "pods", "layers"] {
        volumes::mounts::remove_tree(&data_dir.join(folder)).map_err(Error::Purge)?;
    }
    Ok(())
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
    /// one of the two only
    pub stream: Option<LogStream>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// A `metav1.Status` to send.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StreamError {
    pub status: u16,
    pub reason: String,
    pub message: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot make the node's folder {dir}: {source}; choose a data folder that can be written"
    )]
    DataDir {
        dir: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "the node could not be registered: {0}; see that the API server runs and that its store has room"
    )]
    Register(String),
    #[error("the pods' folders can't be removed: {0}; stop what still uses them, then try again")]
    Purge(String),
}
