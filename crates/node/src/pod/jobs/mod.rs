//! What a Pod's task has others do for it: futures that always end, whose results come back as `Done`.

mod exit;
pub(crate) mod handler;
mod image;
mod keyring;
mod start;
mod stop;

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use knarr_runtime::SandboxSpec;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    exit::{Words, exit, time},
    start::{StartFailure, StartRequest, StartedContainer, linux_user, start},
    stop::{StopRequest, signal_number, stop},
};
use super::{
    resize,
    state::{self, Ended},
};
use crate::{
    context::Context,
    devices::NOT_PREPARED,
    probe::{self, Outcome, Probe, checks::Check},
    spec::{build, extras, files, joins, pod_resources, sysctl},
    turns::For,
    volumes,
};

const SANDBOX_DEADLINE: Duration = Duration::from_secs(60);
const VOLUMES_DEADLINE: Duration = Duration::from_secs(300);
const POST_START_DEADLINE: Duration = Duration::from_secs(600);
const CLEAN_DEADLINE: Duration = Duration::from_secs(120);

pub(crate) enum Done {
    Sandbox(Result<Option<IpAddr>, String>),
    Volumes(Result<volumes::Ready, String>),
    Started {
        index: usize,
        attempt: u32,
        result: Result<StartedContainer, StartFailure>,
    },
    Exited {
        index: usize,
        ended: Box<Ended>,
    },
    PostStart {
        index: usize,
        id: Box<str>,
        result: Result<(), String>,
    },
    /// `ended`: it's over, and its exit job tells how
    Stopped {
        index: usize,
        id: Box<str>,
        ended: bool,
    },
    Probed {
        index: usize,
        id: Box<str>,
        kind: probe::Kind,
        outcome: Outcome,
        /// what a command answered
        check: Option<Box<Check>>,
    },
    Resized(resize::Outcome),
    Cleaned(Result<(), String>),
    /// the hash of the status that was sent
    Patched {
        hash: u64,
        result: Result<(), PatchError>,
    },
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
pub(crate) async fn sandbox(context: Arc<Context>, pod: Arc<Pod>, stop: CancellationToken) -> Done {
    let work = within(
        SANDBOX_DEADLINE,
        "creating the pod sandbox",
        make_sandbox(&context, &pod),
    );
    let done = context.turns.run(For::Sandbox, &stop, work).await;
    Done::Sandbox(done.unwrap_or_else(|| Err("the pod is stopped".into())))
}

async fn make_sandbox(context: &Arc<Context>, pod: &Arc<Pod>) -> Result<Option<IpAddr>, String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let prepared = Box::pin(context.devices.prepare(context, pod)).await;
    prepared.map_err(|e| format!("{NOT_PREPARED}{e}"))?;
    let host_network = spec.host_network.unwrap_or(false);
    let joins = joins::of(pod);
    let sandbox = match context.engine.sandbox(uid) {
        Some(sandbox) => sandbox,
        None => {
            let sysctls = spec
                .security_context
                .iter()
                .flat_map(|c| c.sysctls.iter().flatten());
            let failed = |e| format!("Failed to create pod sandbox: {e}");
            let first = spec.containers.first().map(|c| extras::of(pod, c));
            let extras = first.transpose().map_err(failed)?.unwrap_or_default();
            handler::check(context, spec).await.map_err(failed)?;
            let ids = match spec.host_users {
                Some(false) => {
                    let held = context.id_ranges.hold(uid, || context.engine.sandboxes());
                    Some(held.map_err(failed)?)
                }
                _ => None,
            };
            let label = |key: &str, value: &Option<String>| {
                (key.to_owned(), value.clone().unwrap_or_default())
            };
            let mut request = SandboxSpec {
                id: uid.to_owned(),
                hostname: files::fitting_hostname(pod, &context.cluster_domain, &context.name)?,
                host_network,
                host_ipc: spec.host_ipc.unwrap_or(false),
                host_pid: spec.host_pid.unwrap_or(false),
                share_pid: spec.share_process_namespace.unwrap_or(false),
                sysctls: sysctls
                    .map(|s| (sysctl::normalized(&s.name), s.value.clone()))
                    .collect(),
                labels: [
                    label(build::labels::POD_UID, &pod.metadata.uid),
                    label(build::labels::POD_NAME, &pod.metadata.name),
                    label(build::labels::POD_NAMESPACE, &pod.metadata.namespace),
                ]
                .into(),
                cgroup: pod_resources::cgroup_path(pod),
                resources: pod_resources::cgroup(pod, Some(context.settings.pod_pids_max)),
                user_namespace: ids.as_ref().map(|held| held.range),
                shm_bytes: extras.shm_bytes,
                ..SandboxSpec::default()
            };
            joins
                .apply(&*context.engine, &mut request)
                .map_err(failed)?;
            context
                .engine
                .create_sandbox(request)
                .await
                .map_err(failed)?
        }
    };
    let ip = match (&sandbox.netns, host_network) {
        // the address is the other's
        _ if !joins.network.is_empty() => None,
        (Some(netns), false) => {
            let attached = context.network.attach(pod, netns).await;
            let failed =
                |e| format!("Failed to create pod sandbox: failed to set up the network: {e}");
            Some(IpAddr::V4(attached.map_err(failed)?))
        }
        _ => Some(context.host_ip),
    };
    let (context, pod) = (context.clone(), pod.clone());
    tokio::task::spawn_blocking(move || files::write_shared_files(&context, &pod, ip))
        .await
        .unwrap_or_else(|e| Err(format!("a file task failed: {e}")))?;
    Ok(ip)
}

/// `again`: they have been ready before. `stop`: nothing is waited for any more.
pub(crate) async fn volumes(
    context: Arc<Context>,
    pod: Arc<Pod>,
    again: bool,
    stop: CancellationToken,
) -> Done {
    let request = volumes::Request {
        context: &context,
        pod: &pod,
        again,
        stop: &stop,
    };
    let work = Box::pin(volumes::set_up(&request));
    Done::Volumes(within(VOLUMES_DEADLINE, "setting up volumes", work).await)
}

pub(crate) async fn post_start(
    context: Arc<Context>,
    pod: Arc<Pod>,
    index: usize,
    id: Box<str>,
    pod_ip: Option<IpAddr>,
) -> Done {
    let result = match state::container_at(&pod, index) {
        Some(container) => match container
            .lifecycle
            .as_ref()
            .and_then(|l| l.post_start.as_ref())
        {
            Some(handler) => {
                let work = probe::hook(handler, &container, &context.engine, &id, pod_ip);
                within(POST_START_DEADLINE, "the postStart hook", work).await
            }
            None => Ok(()),
        },
        None => Ok(()),
    };
    Done::PostStart { index, id, result }
}

pub(crate) struct ProbeRequest {
    pub context: Arc<Context>,
    pub probe: Arc<Probe>,
    pub kind: probe::Kind,
    pub index: usize,
    pub id: Box<str>,
    pub pod_ip: Option<IpAddr>,
    pub at: Instant,
    /// the container has ended: nothing is asked any more
    pub over: CancellationToken,
}

pub(crate) async fn probe(request: ProbeRequest) -> Done {
    let ProbeRequest {
        context,
        probe,
        kind,
        index,
        id,
        pod_ip,
        at,
        over,
    } = request;
    let sleep = tokio::time::sleep_until(at);
    if over.run_until_cancelled(sleep).await.is_none() {
        let outcome = Outcome::Unknown(String::new());
        return Done::Probed {
            index,
            id,
            kind,
            outcome,
            check: None,
        };
    }
    // Boxed: the future rests in its sleep most of its life.
    let (outcome, check) = Box::pin(probe::run(&probe, &context.engine, &id, pod_ip)).await;
    Done::Probed {
        index,
        id,
        kind,
        outcome,
        check: check.map(Box::new),
    }
}

/// Takes down all that the Pod has on this machine, but (with `keep_logs`) its logs.
pub(crate) async fn clean(context: Arc<Context>, uid: Box<str>, keep_logs: bool) -> Done {
    let work = clean_up(&context, &uid, keep_logs);
    Done::Cleaned(within(CLEAN_DEADLINE, "cleaning up the pod", work).await)
}

pub(crate) async fn clean_up(context: &Context, uid: &str, keep_logs: bool) -> Result<(), String> {
    for id in context.engine.containers_in(uid) {
        context.engine.delete(&id).await?;
    }
    if context.engine.sandbox(uid).is_some() {
        context.engine.delete_sandbox(uid).await?;
    }
    context.devices.give_back(uid).await?;
    // After the sandbox: the links of a namespace go with it at once, deleting one by itself waits 25 ms for a grace
    // period. Also without a sandbox: a lease may have outlived it (a reboot). It does nothing where there's nothing.
    context.network.detach(uid).await?;
    Box::pin(volumes::tear_down(context, uid, keep_logs)).await
}
