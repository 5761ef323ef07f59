//! The rooms put together: the only place that sees them all.

use crate::{
    error::Error,
    links::host_addresses,
    nodes::{self, Which},
    paths::{Paths, Settings},
    serve::ServeArguments,
};
use knarr_api::ApiServer;
use knarr_node::{LogRequest, Node};
use knarr_runtime::ExecSpec;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, unix::pipe},
    sync::watch,
    task::JoinSet,
};

/// What the API server does to its own objects, as upstream's `system:apiserver`.
pub const MASTERS: &[&str] = &["system:masters"];

/// The running platform.
pub struct Platform {
    pub kubeconfig: String,
    store: knarr_store::Store,
    nodes: Vec<Node>,
    tasks: JoinSet<()>,
}

/// Starts every room. Independent ones start side by side.
pub async fn start(
    paths: &Paths,
    settings: &Settings,
    arguments: &ServeArguments,
) -> Result<Platform, Error> {
    let listener = listen(settings.api).await?;
    let failed = |room: &'static str| move |e: String| Error::Platform(format!("{room}: {e}"));
    let (store_dir, images_dir) = (paths.sub("store"), paths.images());
    let (pki_dir, encryption) = (
        paths.sub("pki"),
        arguments.encryption_provider_config.clone(),
    );
    let which = |number| Which {
        paths,
        settings,
        number,
    };
    let node_settings = arguments.node_settings()?;
    let store = tokio::task::spawn_blocking(move || {
        let sealer = knarr_api::Encryption::open(&pki_dir, encryption.as_deref())
            .map_err(|e| e.to_string())?;
        open_store(&store_dir, sealer).map_err(|e| e.to_string())
    });
    let images = tokio::task::spawn_blocking(move || knarr_image::ImageStore::open(&images_dir));
    let first = which(1).open().await?;
    let joined = |e: tokio::task::JoinError| Error::Failed(e.to_string());
    let store = store.await.map_err(joined)?.map_err(failed("store"))?;
    let images = images.await.map_err(joined)??;

    let node_ip = first.network.node_ip();
    let api = ApiServer::new(knarr_api::Config {
        store: store.clone(),
        pki_dir: paths.sub("pki"),
        service_cidr: settings.service_cidr,
        service_cidr6: which(1).network_config()?.ipv6.map(|v6| v6.service_cidr),
        addresses: vec![
            match settings.api.ip() {
                any if any.is_unspecified() => host_addresses(false)[0],
                one => one,
            },
            node_ip.into(),
        ],
        dns_ip: settings.dns_ip(),
        cluster_domain: settings.cluster_domain.clone(),
        node_port_range: (30000, 32767),
    })
    .map_err(|e| failed("api")(e.to_string()))?;
    api.set_flags(arguments.flags(settings));
    if let Some(audit) = arguments.audit.open()? {
        api.set_audit(audit);
    }
    let kubeconfig = api
        .kubeconfig(settings.api, "knarr")
        .map_err(|e| failed("api")(e.to_string()))?;

    let mut tasks = JoinSet::new();
    let server = api.clone();
    tasks.spawn(async move {
        if let Err(e) = server.serve(listener).await {
            tracing::error!(error = %e, "the API server ended");
        }
    });
    let for_pods = for_pods(settings.api, node_ip).await;
    let server = api.clone();
    tasks.spawn(async move {
        match for_pods {
            Ok((address, listener)) => {
                if let Err(e) = server.advertise(address).await {
                    tracing::error!(error = %e, "Pods are not told where the API is");
                }
                let Some(listener) = listener else { return };
                if let Err(e) = server.serve(listener).await {
                    tracing::error!(error = %e, "the API server for Pods ended");
                }
            }
            Err(e) => tracing::error!(error = %e, "Pods can't reach the API"),
        }
    });
    let running = knarr_controllers::Running::default();
    let asked = running.clone();
    api.set_components(Arc::new(move |component| asked.check(component)));
    let controllers_api = api.clone();
    tasks.spawn(knarr_controllers::run(knarr_controllers::Config {
        client: Arc::new(move |name| {
            let who = knarr_controllers::identity(name);
            controllers_api.client(&who.user, who.groups, name)
        }),
        authority: Some(Arc::new(crate::authority::Authority(api.authority()))),
        running: running.clone(),
        node_grace: knarr_controllers::NODE_GRACE,
        volumes_dir: paths.sub("volumes"),
        only: None,
    }));
    let mut further = Vec::new();
    for number in 2..=settings.nodes {
        further.push((number, which(number).open().await?));
    }
    let host_ip = host_addresses(false)[0];
    let (neighbour, place) = knarr_gateway::Neighbour::new();
    tasks.spawn(knarr_gateway::run(
        knarr_gateway::Config {
            neighbour: Some(neighbour),
            bind: arguments.bind,
            ingress_http: SocketAddr::new(arguments.bind, arguments.http_port),
            ingress_https: SocketAddr::new(arguments.bind, arguments.https_port),
            address: host_ip,
            further: further
                .iter()
                .map(|(number, ground)| nodes::published_on(which(*number), &ground.network))
                .collect(),
        },
        api.client("system:gateway", &[], "gateway"),
    ));
    crate::registry::start(
        &arguments.registry,
        images.clone(),
        api.client("system:registry", MASTERS, "registry"),
        crate::registry::Spot {
            place,
            note: paths.registry(),
        },
        &mut tasks,
    )
    .await?;
    let common = nodes::Common {
        api,
        images,
        registries: crate::registries::config(paths),
        settings: node_settings,
    };
    let runtime = first.runtime.clone();
    let mut all = vec![nodes::start(which(1), first, &common, &mut tasks).await?];
    let hands = crate::docker::Hands {
        node: all[0].clone(),
        runtime,
        data_dir: which(1).data_dir(),
    };
    crate::docker::start(
        &which(1),
        node_ip.into(),
        arguments,
        &common,
        hands,
        &mut tasks,
    )?;
    for (number, ground) in further {
        all.push(nodes::start(which(number), ground, &common, &mut tasks).await?);
    }
    Ok(Platform {
        kubeconfig,
        store,
        nodes: all,
        tasks,
    })
}

impl Platform {
    /// Ends the platform; containers stay.
    pub async fn stop(mut self) {
        futures::future::join_all(self.nodes.iter().map(Node::stop)).await;
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        self.store.close().await;
    }
}

/// SIGTERM or SIGINT.
pub async fn until_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (terminate, interrupt) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    match (terminate, interrupt) {
        (Ok(mut t), Ok(mut i)) => tokio::select! { _ = t.recv() => {}, _ = i.recv() => {} },
        _ => std::future::pending().await,
    }
}

/// A platform that was killed while it started a child leaves its locks and ports with that child until it execs.
const HELD_SECONDS_MAX: u64 = 3;
/// The same for the API's port, which another program may just as well hold: told soon.
const PORT_HELD_MILLIS_MAX: u64 = 500;
const TRY_AGAIN: Duration = Duration::from_millis(10);

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let end = Instant::now() + Duration::from_millis(PORT_HELD_MILLIS_MAX);
    loop {
        let error = match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        let held = error.kind() == std::io::ErrorKind::AddrInUse;
        if !held || Instant::now() > end {
            let why = match held {
                true => "another program holds it".to_string(),
                false => error.to_string(),
            };
            return Err(Error::Platform(format!(
                "the API can't listen on {address}: {why}: stop what holds it, or choose another address with `knarr --data-dir A-FRESH-FOLDER serve --api ADDRESS:PORT`"
            )));
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// Where Pods reach the API, and the listener they need when it isn't the one for everybody: loopback is their own.
async fn for_pods(
    api: SocketAddr,
    node: Ipv4Addr,
) -> Result<(SocketAddr, Option<TcpListener>), Error> {
    let address = SocketAddr::new(node.into(), api.port());
    if api.ip().is_unspecified() {
        return Ok((address, None));
    }
    listen(address).await.map(|l| (address, Some(l)))
}

/// Tries again for a while as long as the error says that somebody else has it.
fn patiently<T, E>(
    mut open: impl FnMut() -> Result<T, E>,
    held: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let end = Instant::now() + Duration::from_secs(HELD_SECONDS_MAX);
    loop {
        match open() {
            Err(error) if held(&error) && Instant::now() < end => std::thread::sleep(TRY_AGAIN),
            other => return other,
        }
    }
}

fn open_store(
    dir: &Path,
    sealer: Arc<knarr_api::Encryption>,
) -> Result<knarr_store::Store, knarr_store::OpenError> {
    patiently(
        || knarr_store::Store::open_sealed(knarr_store::Options::new(dir), Some(sealer.clone())),
        |error| matches!(error, knarr_store::OpenError::Locked { .. }),
    )
}

/// Blocking; within a tokio runtime.
pub fn open_runtime(
    config: knarr_runtime::Config,
) -> Result<knarr_runtime::Runtime, knarr_runtime::Error> {
    patiently(
        || knarr_runtime::Runtime::open(config.clone()),
        |error| matches!(error, knarr_runtime::Error::Locked(_)),
    )
}

/// The API server's view of the node.
pub struct Streams {
    pub node: Node,
    /// See [`Paths::tokens`].
    pub tokens: std::path::PathBuf,
}

impl Streams {
    /// What a command is to have that Kubernetes has no words for, of requests from this machine's own command line. Another
    /// user, and all capabilities, only for who may write to the data directory: a namespace's rules may forbid them.
    fn exec_more(&self, query: &Query, spec: &mut ExecSpec) -> Result<(), String> {
        spec.env = query.all("knarr.dev/env");
        spec.cwd = query.get("knarr.dev/workdir").map(Into::into);
        let user = query.get("knarr.dev/user");
        let privileged = query.flag("knarr.dev/privileged");
        if user.is_none() && !privileged {
            return Ok(());
        }
        let token = query.get("knarr.dev/token").unwrap_or_default();
        let is_word = !token.is_empty() && token.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_word || std::fs::remove_file(self.tokens.join(token)).is_err() {
            return Err(
                "another user, and all capabilities, are for this machine's root only".into(),
            );
        }
        spec.privileged = privileged;
        if let Some(text) = user {
            let numbers: Result<Vec<u32>, _> = text.split(':').map(str::parse).collect();
            let numbers = numbers.map_err(|_| format!("{text:?} is no list of numbers"))?;
            if let [uid, gid, more @ ..] = &numbers[..] {
                spec.user = Some(knarr_runtime::User {
                    uid: *uid,
                    gid: *gid,
                    additional_gids: more.to_vec(),
                    umask: None,
                });
            }
        }
        Ok(())
    }
}

/// Query parameters, decoded; repeated ones (`command`) keep their order.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(raw: &str) -> Query {
        Query(
            form_urlencoded::parse(raw.as_bytes())
                .into_owned()
                .collect(),
        )
    }
    fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }
    fn all(&self, key: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(k, _)| k == key)
            .map(|(_, v)| v.clone())
            .collect()
    }
    fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| matches!(v, "true" | "1"))
    }
}

type StatusParts = (u16, String, String);

fn parts(e: knarr_node::StreamError) -> StatusParts {
    (e.status, e.reason, e.message)
}

#[async_trait::async_trait]
impl knarr_api::PodStreams for Streams {
    async fn log(
        &self,
        namespace: &str,
        pod: &str,
        query: &str,
    ) -> Result<futures::stream::BoxStream<'static, std::io::Result<bytes::Bytes>>, StatusParts>
    {
        let query = Query::parse(query);
        let request = LogRequest::read(namespace, pod, &query.0);
        self.node.logs(request).await.map_err(parts)
    }

    async fn check(&self, namespace: &str, pod: &str, query: &str) -> Result<(), StatusParts> {
        let query = Query::parse(query);
        self.node
            .check_exec(namespace, pod, query.get("container"))
            .await
            .map_err(parts)
    }

    async fn dial(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> Result<tokio::net::TcpStream, String> {
        let dialed = self.node.dial(namespace, pod, port).await;
        dialed.map_err(|e| e.message)
    }

    async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        query: &str,
        streams: knarr_remotecommand::ServerStreams,
    ) {
        let query = Query::parse(query);
        // the API's word for the other subresource
        if query.flag("attach") {
            match self
                .node
                .attach(namespace, pod, query.get("container"))
                .await
            {
                Ok(attachment) => crate::attach::pump(attachment, streams).await,
                Err(e) => {
                    let _ = streams
                        .status
                        .send(failure("InternalError", 500, &e.message, None));
                }
            }
            return;
        }
        let mut spec = ExecSpec {
            args: query.all("command"),
            tty: query.flag("tty"),
            stdin: query.flag("stdin"),
            ..ExecSpec::default()
        };
        if let Err(message) = self.exec_more(&query, &mut spec) {
            let status = failure("Forbidden", 403, &message, None);
            let _ = streams.status.send(status);
            return;
        }
        match self
            .node
            .exec(namespace, pod, query.get("container"), spec)
            .await
        {
            Ok(process) => pump(process, streams).await,
            Err(e) => {
                let _ = streams
                    .status
                    .send(failure("InternalError", 500, &e.message, None));
            }
        }
    }
}

/// `metav1.Status` for the error stream (remotecommand v4): success, or a non-zero exit code as a cause.
fn failure(reason: &str, code: u16, message: &str, exit: Option<i32>) -> bytes::Bytes {
    let mut status = serde_json::json!({
        "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code,
    });
    if let Some(exit) = exit {
        status["details"] = serde_json::json!({ "causes": [{ "reason": "ExitCode", "message": exit.to_string() }] });
        if let Some(map) = status.as_object_mut() {
            map.remove("code");
        }
    }
    status.to_string().into()
}

/// How long what a command left in the background is listened to.
const LEFT: Duration = Duration::from_secs(2);

/// Copies until the process has ended and its output is through.
async fn pump(
    mut process: knarr_runtime::ExecProcess,
    streams: knarr_remotecommand::ServerStreams,
) {
    let knarr_remotecommand::ServerStreams {
        stdin,
        stdout,
        stderr,
        mut resize,
        status,
    } = streams;
    let has_terminal = process.tty.is_some();
    let mut input = None;
    let mut outputs = JoinSet::new();
    let over = watch::Sender::new(false);
    if let Some(tty) = process.tty.take() {
        let (mut reader, mut writer, sized) = (tty.clone(), tty.clone(), tty);
        outputs.spawn(async move {
            if let Some(mut to) = stdout {
                copy(&mut reader, &mut to).await;
            }
        });
        input =
            stdin.map(|mut from| tokio::spawn(async move { copy(&mut from, &mut writer).await }));
        // Ends with the sender, which the connection's task holds.
        tokio::spawn(async move {
            loop {
                let size = *resize.borrow_and_update();
                if let Some(size) = size {
                    sized.resize(size.width, size.height);
                }
                if resize.changed().await.is_err() {
                    break;
                }
            }
        });
    } else {
        if let (Some(mut from), Some(mut to)) = (stdin, process.stdin.take()) {
            input = Some(tokio::spawn(async move { copy(&mut from, &mut to).await }));
        }
        for (from, to) in [
            (process.stdout.take(), stdout),
            (process.stderr.take(), stderr),
        ] {
            if let (Some(from), Some(mut to)) = (from, to) {
                let over = over.subscribe();
                outputs.spawn(async move { copy_written(from, &mut to, over).await });
            }
        }
    }
    let code = process.wait().await;
    // A background child may hold the pipes open: after that only what is written by now goes through, however long the
    // client takes to read it.
    let through = async { while outputs.join_next().await.is_some() {} };
    tokio::pin!(through);
    if tokio::time::timeout(LEFT, &mut through).await.is_err() {
        over.send_replace(true);
        if !has_terminal {
            through.await;
        }
    }
    if let Some(input) = input {
        input.abort();
    }
    let answer = match code {
        0 => serde_json::json!({ "metadata": {}, "status": "Success" })
            .to_string()
            .into(),
        code => failure(
            "NonZeroExitCode",
            0,
            &format!("command terminated with non-zero exit code: exit status {code}"),
            Some(code),
        ),
    };
    let _ = status.send(answer);
}

/// Copies to the end, or when it is `over`, what is in the pipe then.
async fn copy_written(
    mut from: pipe::Receiver,
    to: &mut (impl AsyncWrite + Unpin),
    mut over: watch::Receiver<bool>,
) {
    let mut buffer = vec![0u8; 16 << 10];
    let mut left = None;
    while left != Some(0) {
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            _ = over.wait_for(|over| *over), if left.is_none() => {
                left = Some(rustix::io::ioctl_fionread(&from).unwrap_or(0));
                continue;
            }
        };
        let Ok(n @ 1..) = read else { break };
        if to.write_all(&buffer[..n]).await.is_err() || to.flush().await.is_err() {
            break;
        }
        left = left.map(|left| left.saturating_sub(n as u64));
    }
    let _ = to.shutdown().await;
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
    let mut buffer = vec![0u8; 16 << 10];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 || to.write_all(&buffer[..n]).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
