//! What a Pod's task has others do for it: futures that always end, whose results come back as `Done`.

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use knarr_runtime::{Exit, SandboxSpec, State as RuntimeState};
use tokio::{sync::watch, time::Instant};

use super::state::{self, Ended};
use crate::{
    context::Context,
    probe::{self, Outcome, Probe},
    spec::{build, files},
    volumes::{self, Paths},
};

const SANDBOX_DEADLINE: Duration = Duration::from_secs(60);
const VOLUMES_DEADLINE: Duration = Duration::from_secs(120);
const START_DEADLINE: Duration = Duration::from_secs(120);
const POST_START_DEADLINE: Duration = Duration::from_secs(600);
const KILL_DEADLINE: Duration = Duration::from_secs(30);
const CLEAN_DEADLINE: Duration = Duration::from_secs(120);
/// After a preStop hook that used the whole grace period, the process still gets this much.
const GRACE_MIN: Duration = Duration::from_secs(2);
const MESSAGE_BYTES_MAX: usize = 4096;
const LOG_MESSAGE_BYTES_MAX: usize = 2048;
const LOG_MESSAGE_LINES_MAX: usize = 80;

pub(crate) struct StartedContainer {
    pub id: Box<str>,
    pub since: Timestamp,
    pub image: Box<str>,
    pub image_id: Box<str>,
}

pub(crate) enum StartFailure {
    /// the image can't be had
    Image { reason: &'static str, message: String },
    /// nothing was made
    Config { reason: &'static str, message: String },
    /// a container was made and its process couldn't be started
    Run { id: Box<str>, message: String, image: Box<str>, image_id: Box<str> },
}

pub(crate) enum Done {
    Sandbox(Result<Option<IpAddr>, String>),
    Volumes(Result<volumes::Ready, String>),
    Started { index: usize, attempt: u32, result: Result<StartedContainer, StartFailure> },
    Exited { index: usize, ended: Box<Ended> },
    PostStart { index: usize, id: Box<str>, result: Result<(), String> },
    Stopped { index: usize, id: Box<str> },
    Probed { index: usize, id: Box<str>, kind: probe::Kind, outcome: Outcome },
    Cleaned(Result<(), String>),
    /// the hash of the status that was sent
    Patched { hash: u64, result: Result<(), PatchError> },
    Deleted(Result<(), String>),
}

pub(crate) enum PatchError {
    /// the object is gone, or is another one
    Gone,
    Failed(String),
}

pub(crate) type Job = BoxFuture<'static, Done>;

async fn within<T>(
    deadline: Duration,
    what: &str,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match tokio::time::timeout(deadline, work).await {
        Ok(result) => result,
        Err(_) => Err(format!("{what} took longer than {} s", deadline.as_secs())),
    }
}

/// Namespaces, address and shared files. Finds what is there already.
pub(crate) async fn sandbox(context: Arc<Context>, pod: Arc<Pod>) -> Done {
    let work = within(SANDBOX_DEADLINE, "creating the pod sandbox", make_sandbox(&context, &pod));
    Done::Sandbox(work.await)
}

async fn make_sandbox(context: &Arc<Context>, pod: &Arc<Pod>) -> Result<Option<IpAddr>, String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let host_network = spec.host_network.unwrap_or(false);
    let present = context.engine.sandboxes().into_iter().find(|s| s.spec.id == uid);
    let sandbox = match present {
        Some(sandbox) => sandbox,
        None => {
            let sysctls = spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten());
            let label = |key: &str, value: &Option<String>| (key.to_owned(), value.clone().unwrap_or_default());
            let request = SandboxSpec {
                id: uid.to_owned(),
                hostname: files::kernel_hostname(pod, &context.cluster_domain, &context.name),
                host_network,
                host_ipc: spec.host_ipc.unwrap_or(false),
                host_pid: spec.host_pid.unwrap_or(false),
                share_pid: spec.share_process_namespace.unwrap_or(false),
                sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
                labels: [
                    label(build::labels::POD_UID, &pod.metadata.uid),
                    label(build::labels::POD_NAME, &pod.metadata.name),
                    label(build::labels::POD_NAMESPACE, &pod.metadata.namespace),
                ]
                .into(),
            };
            let failed = |e| format!("Failed to create pod sandbox: {e}");
            context.engine.create_sandbox(request).await.map_err(failed)?
        }
    };
    let ip = match (&sandbox.netns, host_network) {
        (Some(netns), false) => {
            let attached = context.network.attach(uid, netns).await;
            let failed = |e| format!("Failed to create pod sandbox: failed to set up the network: {e}");
            Some(IpAddr::V4(attached.map_err(failed)?))
        }
        _ => Some(context.host_ip),
    };
    let (context, pod) = (context.clone(), pod.clone());
    tokio::task::spawn_blocking(move || build::write_shared_files(&context, &pod, ip))
        .await
        .unwrap_or_else(|e| Err(format!("a file task failed: {e}")))?;
    Ok(ip)
}

pub(crate) async fn volumes(context: Arc<Context>, pod: Arc<Pod>, renew_tokens: bool) -> Done {
    let work = volumes::set_up(&context, &pod, renew_tokens);
    Done::Volumes(within(VOLUMES_DEADLINE, "setting up volumes", work).await)
}

pub(crate) struct StartRequest {
    pub context: Arc<Context>,
    pub pod: Arc<Pod>,
    pub index: usize,
    pub attempt: u32,
    pub paths: Arc<Paths>,
    pub pod_ip: Option<IpAddr>,
    /// the container of the attempt before, to be removed
    pub old: Option<Box<str>>,
}

pub(crate) async fn start(request: StartRequest) -> Done {
    let (index, attempt) = (request.index, request.attempt);
    let result = match tokio::time::timeout(START_DEADLINE, make_container(request)).await {
        Ok(result) => result,
        Err(_) => Err(StartFailure::Config {
            reason: "CreateContainerError",
            message: format!("starting the container took longer than {} s", START_DEADLINE.as_secs()),
        }),
    };
    Done::Started { index, attempt, result }
}

async fn make_container(request: StartRequest) -> Result<StartedContainer, StartFailure> {
    let StartRequest { context, pod, index, attempt, paths, pod_ip, old } = request;
    let config = |message: String| StartFailure::Config { reason: "CreateContainerConfigError", message };
    let kind = state::containers(&pod).nth(index).map(|(kind, _)| kind);
    let container = state::container_at(&pod, index).ok_or_else(|| config("no such container".into()))?;
    let field = kind.map(|k| state::field_path(k, &container.name));
    let event = |reason: &'static str, message: String| {
        context.events.pod(&pod, field.clone(), false, reason, message);
    };

    let name = container.image.clone().unwrap_or_default();
    let image = {
        let (images, name) = (context.images.clone(), name.clone());
        tokio::task::spawn_blocking(move || images.resolve(&name))
            .await
            .unwrap_or_else(|e| Err(e.to_string()))
    };
    let image = match image {
        Ok(Some(image)) => image,
        Ok(None) if container.image_pull_policy.as_deref() == Some("Never") => {
            return Err(StartFailure::Image {
                reason: "ErrImageNeverPull",
                message: format!("Container image {name:?} is not present with pull policy of Never: add it with `knarr image load` or `knarr image pack`"),
            });
        }
        Ok(None) => {
            return Err(StartFailure::Image {
                reason: "ErrImagePull",
                message: format!("image {name:?} is not on this machine, and this node does not pull from registries: add it with `knarr image load <archive>` or `knarr image pack`"),
            });
        }
        Err(error) => {
            let reason = if error.contains("invalid reference format") { "InvalidImageName" } else { "ErrImagePull" };
            return Err(StartFailure::Image { reason, message: format!("image {name:?}: {error}") });
        }
    };
    event("Pulled", format!("Container image {name:?} already present on machine"));
    if let Some(old) = old {
        let failed = |e| StartFailure::Config { reason: "CreateContainerError", message: e };
        context.engine.delete(&old).await.map_err(failed)?;
    }
    let id: String = hex::encode(rand::random::<[u8; 16]>());
    let spec = build::spec(build::Request {
        context: &context,
        pod: &pod,
        container,
        id: id.clone(),
        attempt,
        image: &image,
        paths: &paths,
        pod_ip,
    })
    .await
    .map_err(config)?;
    let image_id = build::image_id(&image).into();
    let image = image.name.into_boxed_str();
    event("Created", format!("Created container: {}", container.name));
    match context.engine.run(spec).await {
        Ok(made) => {
            let since = match &made.state {
                RuntimeState::Running { since, .. } => time(*since),
                RuntimeState::Exited { since: Some(since), .. } => time(*since),
                RuntimeState::Failed(message) => {
                    return Err(StartFailure::Run { id: id.into(), message: message.clone(), image, image_id });
                }
                _ => Timestamp::now(),
            };
            event("Started", format!("Started container {}", container.name));
            Ok(StartedContainer { id: id.into(), since, image, image_id })
        }
        Err(message) => Err(StartFailure::Run { id: id.into(), message, image, image_id }),
    }
}

pub(crate) fn time(at: std::time::SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or_else(|_| Timestamp::now())
}

/// Where the container's last words are.
pub(crate) struct Words {
    pub uid: Box<str>,
    pub container: Box<str>,
    pub attempt: u32,
    /// terminationMessagePolicy FallbackToLogsOnError
    pub from_logs: bool,
}

/// Resolves when the container has ended.
pub(crate) async fn exit(context: Arc<Context>, index: usize, id: Box<str>, since: Option<Timestamp>, words: Words) -> Done {
    let exit = context.engine.wait(&id).await;
    let ended = match exit {
        Ok(exit) => ended(&context.data_dir, id, since, exit, words).await,
        Err(message) => Ended {
            id,
            exit_code: 137,
            reason: "ContainerStatusUnknown".into(),
            message: Some(format!("The container could not be located: {message}").into()),
            started_at: since,
            finished_at: Timestamp::now(),
            finished: Instant::now(),
        },
    };
    Done::Exited { index, ended: Box::new(ended) }
}

/// An exit record in the API's terms.
pub(crate) async fn ended(data_dir: &Path, id: Box<str>, since: Option<Timestamp>, exit: Exit, words: Words) -> Ended {
    let exit_code = exit.signal.map_or(exit.code, |signal| 128 + signal);
    let reason = match (exit.oom_killed, exit_code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        _ => "Error",
    };
    let path = build::message_path(data_dir, &words.uid, &words.container, words.attempt);
    let log = build::log_path(data_dir, &words.uid, &words.container, words.attempt);
    let wants_logs = words.from_logs && exit_code != 0;
    let message = tokio::task::spawn_blocking(move || {
        let text = head(&path, MESSAGE_BYTES_MAX);
        if text.is_empty() && wants_logs {
            crate::logs::tail_text(&log, LOG_MESSAGE_LINES_MAX, LOG_MESSAGE_BYTES_MAX)
        } else {
            text
        }
    })
    .await
    .unwrap_or_default();
    let age = exit.at.elapsed().unwrap_or_default();
    let now = Instant::now();
    Ended {
        id,
        exit_code,
        reason: reason.into(),
        message: Some(message).filter(|m| !m.is_empty()).map(Into::into),
        started_at: since,
        finished_at: time(exit.at),
        finished: now.checked_sub(age).unwrap_or(now),
    }
}

fn head(path: &Path, bytes_max: usize) -> String {
    use std::io::Read;
    let Ok(file) = std::fs::File::open(path) else {
        return String::new();
    };
    let mut bytes = Vec::new();
    let _ = file.take(bytes_max as u64).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) async fn post_start(context: Arc<Context>, pod: Arc<Pod>, index: usize, id: Box<str>, pod_ip: Option<IpAddr>) -> Done {
    let result = match state::container_at(&pod, index) {
        Some(container) => match container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) {
            Some(handler) => {
                let work = probe::hook(handler, container, &context.engine, &id, pod_ip);
                within(POST_START_DEADLINE, "the postStart hook", work).await
            }
            None => Ok(()),
        },
        None => Ok(()),
    };
    Done::PostStart { index, id, result }
}

pub(crate) struct StopRequest {
    pub context: Arc<Context>,
    pub pod: Arc<Pod>,
    pub index: usize,
    pub id: Box<str>,
    pub pod_ip: Option<IpAddr>,
    /// when patience ends; may move
    pub kill_at: watch::Receiver<Instant>,
}

/// preStop hook, stop signal, patience, SIGKILL.
pub(crate) async fn stop(request: StopRequest) -> Done {
    let StopRequest { context, pod, index, id, pod_ip, mut kill_at } = request;
    let container = state::container_at(&pod, index);
    let hook = container.and_then(|c| c.lifecycle.as_ref()).and_then(|l| l.pre_stop.as_ref());
    let mut floor = Instant::now();
    if let (Some(container), Some(handler)) = (container, hook)
        && *kill_at.borrow() > Instant::now()
    {
        let work = probe::hook(handler, container, &context.engine, &id, pod_ip);
        let exited = context.engine.wait(&id);
        let result = tokio::select! {
            result = work => result,
            _ = exited => Ok(()),
            () = patience(&mut kill_at, floor) => Err("the hook did not finish within the grace period".into()),
        };
        if let Err(error) = result {
            let kind = state::containers(&pod).nth(index).map(|(k, _)| k);
            let field = kind.map(|k| state::field_path(k, &container.name));
            context.events.pod(&pod, field, true, "FailedPreStopHook", format!("PreStopHook failed: {error}"));
        }
        floor = Instant::now() + GRACE_MIN;
    }
    if Instant::now() < (*kill_at.borrow()).max(floor) {
        let signal = stop_signal(&context, container, &id);
        if let Err(error) = context.engine.signal(&id, signal).await {
            tracing::debug!(%id, %error, "the stop signal was not delivered");
        }
        tokio::select! {
            _ = context.engine.wait(&id) => return Done::Stopped { index, id },
            () = patience(&mut kill_at, floor) => {}
        }
    }
    if let Err(error) = context.engine.signal(&id, libc::SIGKILL).await {
        tracing::debug!(%id, %error, "SIGKILL was not delivered");
    }
    if tokio::time::timeout(KILL_DEADLINE, context.engine.wait(&id)).await.is_err() {
        tracing::warn!(%id, "a container does not die from SIGKILL; it's tried again");
    }
    Done::Stopped { index, id }
}

/// Until the moment in `kill_at`, wherever that moves, but at least until `floor`.
async fn patience(kill_at: &mut watch::Receiver<Instant>, floor: Instant) {
    loop {
        let at = (*kill_at.borrow_and_update()).max(floor);
        tokio::select! {
            () = tokio::time::sleep_until(at) => return,
            changed = kill_at.changed() => {
                if changed.is_err() {
                    tokio::time::sleep_until(at).await;
                    return;
                }
            }
        }
    }
}

fn stop_signal(context: &Context, container: Option<&k8s_openapi::api::core::v1::Container>, id: &str) -> i32 {
    let own = container.and_then(|c| c.lifecycle.as_ref()).and_then(|l| l.stop_signal.clone());
    let made = context.engine.container(id);
    let of_image = made.and_then(|c| c.spec.labels.get(build::labels::STOP_SIGNAL).cloned());
    own.or(of_image).and_then(|name| signal_number(&name)).unwrap_or(libc::SIGTERM)
}

/// `SIGQUIT`, `QUIT` or `3`.
pub(crate) fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    if let Some(offset) = full.strip_prefix("SIGRTMIN+") {
        return offset.parse::<i32>().ok().map(|n| 34 + n).filter(|n| *n <= 64);
    }
    full.parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
}

pub(crate) struct ProbeRequest {
    pub context: Arc<Context>,
    pub probe: Arc<Probe>,
    pub kind: probe::Kind,
    pub index: usize,
    pub id: Box<str>,
    pub pod_ip: Option<IpAddr>,
    pub at: Instant,
}

pub(crate) async fn probe(request: ProbeRequest) -> Done {
    let ProbeRequest { context, probe, kind, index, id, pod_ip, at } = request;
    tokio::time::sleep_until(at).await;
    // Boxed: the future rests in its sleep most of its life.
    let outcome = Box::pin(probe::run(&probe, &context.engine, &id, pod_ip)).await;
    Done::Probed { index, id, kind, outcome }
}

/// Takes down all that the Pod has on this machine, but (with `keep_logs`) its logs.
pub(crate) async fn clean(context: Arc<Context>, uid: Box<str>, keep_logs: bool) -> Done {
    let work = clean_up(&context, &uid, keep_logs);
    Done::Cleaned(within(CLEAN_DEADLINE, "cleaning up the pod", work).await)
}

pub(crate) async fn clean_up(context: &Context, uid: &str, keep_logs: bool) -> Result<(), String> {
    let mine = |c: &knarr_runtime::Container| c.spec.labels.get(build::labels::POD_UID).map(String::as_str) == Some(uid);
    for container in context.engine.containers().into_iter().filter(mine) {
        context.engine.delete(&container.spec.id).await?;
    }
    // Also without a sandbox: a lease may have outlived it (a reboot). It does nothing where there's nothing.
    context.network.detach(uid).await?;
    if context.engine.sandboxes().iter().any(|s| s.spec.id == uid) {
        context.engine.delete_sandbox(uid).await?;
    }
    volumes::tear_down(&context.data_dir, uid, keep_logs).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        let check = |name: &str, want: Option<i32>| assert_eq!(signal_number(name), want, "{name}");
        check("SIGQUIT", Some(3));
        check("quit", Some(3));
        check("9", Some(9));
        check("SIGRTMIN+3", Some(37));
        check("SIGNOPE", None);
        check("0", None);
        check("", None);
    }
}
