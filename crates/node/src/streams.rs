//! `logs` and `exec`: which container is meant, and upstream's words when it can't be.
//!
//! Source: kubernetes `pkg/registry/core/pod/strategy.go` (LogLocation), `pkg/kubelet/kubelet_pods.go` (validateContainerLogStatus).

use std::sync::Arc;

use futures::stream::BoxStream;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use knarr_runtime::{ExecProcess, ExecSpec};
use kube::Api;

use crate::{
    LogRequest, StreamError,
    context::Context,
    logs,
    pod::{
        entry::{Entry, Registry, UnitView},
        state::Kind,
    },
    spec::build,
};

fn bad_request(message: String) -> StreamError {
    StreamError {
        status: 400,
        reason: "BadRequest".into(),
        message,
    }
}
fn not_found(message: String) -> StreamError {
    StreamError {
        status: 404,
        reason: "NotFound".into(),
        message,
    }
}
fn internal(message: String) -> StreamError {
    StreamError {
        status: 500,
        reason: "InternalError".into(),
        message,
    }
}

/// The Pod's task, or why there is none.
async fn entry(
    context: &Context,
    registry: &Registry,
    namespace: &str,
    name: &str,
) -> Result<Arc<Entry>, StreamError> {
    if let Some(entry) = registry.named(namespace, name) {
        return Ok(entry);
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    match api.get_opt(name).await {
        Ok(None) => Err(not_found(format!("pods {name:?} not found"))),
        Ok(Some(pod))
            if pod
                .spec
                .as_ref()
                .is_none_or(|s| s.node_name.as_deref().unwrap_or_default().is_empty()) =>
        {
            Err(bad_request(format!(
                "pod {name} does not have a host assigned"
            )))
        }
        Ok(Some(_)) => Err(bad_request(format!(
            "pod {name:?} has not been taken up by its node yet"
        ))),
        Err(error) => Err(internal(error.to_string())),
    }
}

fn unit(entry: &Entry, container: Option<&str>, guess: bool) -> Result<UnitView, StreamError> {
    let units = entry.units.lock();
    let names = |kinds: &[Kind]| {
        let all = units
            .iter()
            .filter(|u| kinds.contains(&u.kind))
            .map(|u| u.name.as_ref());
        all.collect::<Vec<_>>().join(" ")
    };
    let given = container.filter(|c| !c.is_empty());
    let default = entry.default_container.lock().clone();
    let apps: Vec<&UnitView> = units.iter().filter(|u| u.kind == Kind::App).collect();
    match (given, default, apps.as_slice()) {
        (Some(name), ..) => units
            .iter()
            .find(|u| &*u.name == name)
            .cloned()
            .ok_or_else(|| {
                bad_request(format!(
                    "container {name} is not valid for pod {}",
                    entry.name
                ))
            }),
        (None, _, [only]) => Ok((*only).clone()),
        (None, Some(name), _) if guess && units.iter().any(|u| u.name == name) => Ok(units
            .iter()
            .find(|u| u.name == name)
            .cloned()
            .unwrap_or_else(|| apps[0].clone())),
        _ => {
            let inits = names(&[Kind::Init, Kind::Sidecar]);
            let mut message = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                entry.name,
                names(&[Kind::App])
            );
            if !inits.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{inits}]"));
            }
            Err(bad_request(message))
        }
    }
}

pub(crate) async fn logs(
    context: &Arc<Context>,
    registry: &Registry,
    request: LogRequest,
) -> Result<BoxStream<'static, std::io::Result<bytes::Bytes>>, StreamError> {
    let entry = entry(context, registry, &request.namespace, &request.pod).await?;
    let unit = unit(&entry, request.container.as_deref(), false)?;
    let (name, pod) = (&unit.name, &entry.name);
    let newest = if request.previous {
        unit.previous
    } else {
        unit.attempt
    };
    let attempt = match (newest, request.previous) {
        (Some(attempt), _) => attempt,
        (None, true) => {
            return Err(bad_request(format!(
                "previous terminated container {name:?} in pod {pod:?} not found"
            )));
        }
        (None, false) => {
            let why = match unit.waiting.as_deref() {
                Some("ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull") => {
                    format!(
                        "container {name:?} in pod {pod:?} is waiting to start: trying and failing to pull image"
                    )
                }
                why => format!(
                    "container {name:?} in pod {pod:?} is waiting to start: {}",
                    why.unwrap_or("ContainerCreating")
                ),
            };
            return Err(bad_request(why));
        }
    };
    let path = build::log_path(&context.data_dir, &entry.uid, name, attempt);
    let since = match (request.since_seconds, request.since_time) {
        (Some(seconds), _) => Some(Timestamp::now() - jiff::SignedDuration::from_secs(seconds)),
        (None, time) => time,
    };
    let options = logs::Options {
        tail_lines: request.tail_lines.and_then(|n| u64::try_from(n).ok()),
        since,
        timestamps: request.timestamps,
        limit_bytes: request.limit_bytes.and_then(|n| u64::try_from(n).ok()),
        stream: request.stream,
    };
    let running = unit
        .running
        .clone()
        .filter(|_| request.follow && !request.previous);
    let end = running.map(|id| {
        let engine = context.engine.clone();
        let end: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let _ = engine.wait(&id).await;
        });
        end
    });
    logs::open(path, options, end)
        .await
        .map_err(|e| internal(e.to_string()))
}

/// The container's id in the runtime, if a command can be run in it.
pub(crate) async fn exec_target(
    context: &Context,
    registry: &Registry,
    namespace: &str,
    pod: &str,
    container: Option<&str>,
) -> Result<Box<str>, StreamError> {
    let entry = entry(context, registry, namespace, pod).await?;
    let unit = unit(&entry, container, true)?;
    unit.running
        .ok_or_else(|| not_found(format!("container not found ({:?})", unit.name)))
}

pub(crate) async fn attach(
    context: &Context,
    registry: &Registry,
    namespace: &str,
    pod: &str,
    container: Option<&str>,
) -> Result<knarr_runtime::Attachment, StreamError> {
    let id = exec_target(context, registry, namespace, pod, container).await?;
    context.engine.attach(&id).await.map_err(internal)
}

pub(crate) async fn exec(
    context: &Context,
    registry: &Registry,
    namespace: &str,
    pod: &str,
    container: Option<&str>,
    spec: ExecSpec,
) -> Result<ExecProcess, StreamError> {
    if spec.args.is_empty() {
        return Err(bad_request(
            "you must specify at least one command for the container".into(),
        ));
    }
    let id = exec_target(context, registry, namespace, pod, container).await?;
    context.engine.exec(&id, spec).await.map_err(internal)
}

/// How long a connection into a Pod may take.
const DIAL: std::time::Duration = std::time::Duration::from_secs(10);

pub(crate) async fn dial(
    context: &Context,
    registry: &Registry,
    namespace: &str,
    pod: &str,
    port: u16,
) -> Result<tokio::net::TcpStream, StreamError> {
    let entry = entry(context, registry, namespace, pod).await?;
    let sandbox = context
        .engine
        .sandbox(&entry.uid)
        .ok_or_else(|| bad_request(format!("pod {pod:?} is not running")))?;
    let netns = sandbox.netns;
    let (send, done) = tokio::sync::oneshot::channel();
    // A thread of its own: it enters the Pod's network and ends there.
    std::thread::Builder::new()
        .name("knarr-dial".into())
        .stack_size(128 << 10)
        .spawn(move || drop(send.send(connect_inside(netns.as_deref(), port))))
        .map_err(|e| internal(e.to_string()))?;
    let stream = done
        .await
        .map_err(|e| internal(e.to_string()))?
        .map_err(|e| {
            internal(format!(
                "failed to connect to localhost:{port} inside namespace: {e}"
            ))
        })?;
    tokio::net::TcpStream::from_std(stream).map_err(|e| internal(e.to_string()))
}

fn connect_inside(
    netns: Option<&std::path::Path>,
    port: u16,
) -> std::io::Result<std::net::TcpStream> {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
    if let Some(netns) = netns {
        let namespace = std::fs::File::open(netns)?;
        let kind = rustix::thread::LinkNameSpaceType::Network;
        let fd = std::os::fd::AsFd::as_fd(&namespace);
        rustix::thread::move_into_link_name_space(fd, Some(kind))?;
    }
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let stream = TcpStream::connect_timeout(&v4, DIAL)
        .or_else(|first| TcpStream::connect_timeout(&v6, DIAL).map_err(|_| first))?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
