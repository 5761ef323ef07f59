//! The states of a Pod's task, and of each of its containers.
//!
//! ```text
//! Preparing ──► Live ──► Stopping ──► Cleaning ──► Settled ──► Cleaning ──► Deleting ──► (task ends)
//!     └───────────────────────▲           └────────── object deleted ──────────►
//! ```

use std::{borrow::Cow, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, LinuxContainerUser, Pod};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{backoff::Crash, own_policy::OwnPolicy, resize::amounts::Amounts};
use crate::probe::{Probe, Track};

/// Where the Pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// sandbox, network and volumes are being made (each with its own retry)
    Preparing,
    /// containers are started, watched and restarted
    Live,
    /// every container is being stopped; none is started any more
    Stopping,
    /// nothing runs: sandbox, network and volumes are being taken down
    Cleaning,
    /// the Pod has ended, its object stays: only logs are left here
    Settled,
    /// all is gone but the object: it's being deleted from the API
    Deleting,
    /// the task may end
    Gone,
}

/// One thing that has to be done once, with retries.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Todo,
    /// a job is on its way
    Doing {
        tries: u32,
    },
    Done,
    Failed {
        until: Instant,
        tries: u32,
    },
}

impl Step {
    /// Whether it should be started at `now`.
    pub(crate) fn due(&self, now: Instant) -> bool {
        match self {
            Step::Todo => true,
            Step::Failed { until, .. } => now >= *until,
            Step::Doing { .. } | Step::Done => false,
        }
    }
    pub(crate) fn begin(&mut self) {
        *self = Step::Doing {
            tries: self.tries(),
        };
    }
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Step::Done)
    }
    pub(crate) fn is_doing(&self) -> bool {
        matches!(self, Step::Doing { .. })
    }
    pub(crate) fn tries(&self) -> u32 {
        match self {
            Step::Failed { tries, .. } | Step::Doing { tries } => *tries,
            _ => 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Init,
    /// an init container with restartPolicy Always
    Sidecar,
    App,
    /// added to a Pod that runs, for looking into it: starts once, at any time, and never again
    Ephemeral,
}

impl Kind {
    /// As the kubelet's metrics call it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Kind::Init | Kind::Sidecar => "init_container",
            Kind::App => "container",
            Kind::Ephemeral => "ephemeral_container",
        }
    }
}

/// How a container's process ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ended {
    /// the runtime's id
    pub id: Box<str>,
    pub exit_code: i32,
    pub reason: Box<str>,
    pub message: Option<Box<str>>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
    /// the same moment on the clock of timers
    pub finished: Instant,
}

pub(crate) struct Running {
    pub id: Box<str>,
    pub since: Timestamp,
    /// postStart is still running
    pub in_post_start: bool,
    /// postStart and the startup probe are through
    pub started: bool,
    pub ready: bool,
    /// a stop job is on its way
    pub stopping: bool,
    /// lets that job go on from the hook to the signal
    pub turn: Option<oneshot::Sender<()>>,
    pub probes: [Option<ProbeRun>; 3],
    /// probes that sleep end with the container
    pub over: DropGuard,
}

impl Running {
    pub(crate) fn new(id: Box<str>, since: Timestamp) -> Running {
        Running {
            id,
            since,
            in_post_start: false,
            started: false,
            ready: false,
            stopping: false,
            turn: None,
            probes: [None, None, None],
            over: CancellationToken::new().drop_guard(),
        }
    }
}

pub(crate) struct ProbeRun {
    pub probe: Arc<Probe>,
    pub track: Track,
}

pub(crate) enum State {
    /// never started, or can't be started at the moment
    Waiting {
        reason: &'static str,
        message: Box<str>,
        since: Instant,
        /// None: as soon as it's its turn
        retry_at: Option<Instant>,
    },
    /// a start job is on its way
    Starting,
    Running(Box<Running>),
    Ended(Box<Ended>),
}

pub(crate) struct Unit {
    pub name: Box<str>,
    pub kind: Kind,
    pub state: State,
    /// of the newest container that was made; the restart count
    pub attempt: u32,
    /// at least one container was made
    pub made: bool,
    /// …in the present sandbox
    pub made_here: bool,
    /// its image was changed in the Pod: it starts again, whatever the policy
    pub redo: bool,
    /// the change that it starts again for is one of its resources
    pub resized: bool,
    /// requests and limits that are in force
    pub amounts: Amounts,
    /// its next start is no restart that the back-off counts
    pub uncounted: bool,
    /// it ended to be replaced because it was changed in the Pod: until then, or till its successor runs, the API isn't told
    pub replaced_by: Option<Instant>,
    pub last: Option<Box<Ended>>,
    pub crash: Crash,
    /// what annotations say of its restarts
    pub own: Option<OwnPolicy>,
    /// of its restarts, those after a run that had come right
    pub forgiven: u32,
    /// the wait for its restart has been told in an event
    pub backing_off: bool,
    /// failed tries to get the image or the configuration, for the back-off
    pub tries: u32,
    /// the one that its start lacked: its own, or that of a volume
    pub missing_image: Box<str>,
    pub image: Box<str>,
    pub image_id: Box<str>,
    /// as whom the newest one was started
    pub user: Option<Box<LinuxContainerUser>>,
}

impl Unit {
    pub(crate) fn new(pod: &Pod, container: &Container, kind: Kind) -> Unit {
        let own = OwnPolicy::of(pod, &container.name).filter(|_| kind == Kind::App);
        Unit {
            name: container.name.as_str().into(),
            kind,
            state: State::Waiting {
                reason: "",
                message: "".into(),
                since: Instant::now(),
                retry_at: None,
            },
            attempt: 0,
            made: false,
            made_here: false,
            redo: false,
            resized: false,
            amounts: Amounts::default(),
            uncounted: false,
            replaced_by: None,
            last: None,
            crash: own.map_or_else(Crash::default, |own| Crash::at(own.pace)),
            own,
            forgiven: 0,
            backing_off: false,
            tries: 0,
            missing_image: "".into(),
            image: "".into(),
            image_id: "".into(),
            user: None,
        }
    }
    pub(crate) fn running(&self) -> Option<&Running> {
        match &self.state {
            State::Running(running) => Some(running),
            _ => None,
        }
    }
    pub(crate) fn running_mut(&mut self, id: &str) -> Option<&mut Running> {
        match &mut self.state {
            State::Running(running) if &*running.id == id => Some(running),
            _ => None,
        }
    }
    /// Runs, or may run any moment.
    pub(crate) fn alive(&self) -> bool {
        matches!(self.state, State::Running(_) | State::Starting)
    }
    pub(crate) fn next_attempt(&self) -> u32 {
        if self.made { self.attempt + 1 } else { 0 }
    }
}

/// Init containers in order, then the others, then the ephemeral ones; the order of `Worker::units`, which only ever
/// grows at its end.
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = (Kind, Cow<'_, Container>)> {
    let spec = pod.spec.as_ref();
    let inits = spec
        .and_then(|s| s.init_containers.as_ref())
        .into_iter()
        .flatten();
    let apps = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
    inits
        .map(|c| {
            let sidecar = c.restart_policy.as_deref() == Some("Always");
            let kind = if sidecar { Kind::Sidecar } else { Kind::Init };
            (kind, Cow::Borrowed(c))
        })
        .chain(apps.iter().map(|c| (Kind::App, Cow::Borrowed(c))))
        .chain(ephemeral(pod).map(|c| (Kind::Ephemeral, Cow::Owned(plain(c)))))
}

fn ephemeral(pod: &Pod) -> impl Iterator<Item = &EphemeralContainer> {
    let spec = pod.spec.as_ref();
    let list = spec.and_then(|s| s.ephemeral_containers.as_ref());
    list.into_iter().flatten()
}

/// The name of the container whose processes an ephemeral one is to see.
pub(crate) fn target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let found = ephemeral(pod).find(|c| c.name == name)?;
    found
        .target_container_name
        .as_deref()
        .filter(|target| !target.is_empty())
}

/// An ephemeral container has the fields of any other, but one.
fn plain(given: &EphemeralContainer) -> Container {
    let given = given.clone();
    Container {
        args: given.args,
        command: given.command,
        env: given.env,
        env_from: given.env_from,
        image: given.image,
        image_pull_policy: given.image_pull_policy,
        lifecycle: given.lifecycle,
        liveness_probe: given.liveness_probe,
        name: given.name,
        ports: given.ports,
        readiness_probe: given.readiness_probe,
        resize_policy: given.resize_policy,
        resources: given.resources,
        restart_policy: given.restart_policy,
        restart_policy_rules: given.restart_policy_rules,
        security_context: given.security_context,
        startup_probe: given.startup_probe,
        stdin: given.stdin,
        stdin_once: given.stdin_once,
        termination_message_path: given.termination_message_path,
        termination_message_policy: given.termination_message_policy,
        tty: given.tty,
        volume_devices: given.volume_devices,
        volume_mounts: given.volume_mounts,
        working_dir: given.working_dir,
    }
}

pub(crate) fn container_at(pod: &Pod, index: usize) -> Option<Cow<'_, Container>> {
    containers(pod).nth(index).map(|(_, c)| c)
}

/// `spec.containers{web}`, as events name a container.
pub(crate) fn field_path(kind: Kind, name: &str) -> String {
    match kind {
        Kind::App => format!("spec.containers{{{name}}}"),
        Kind::Init | Kind::Sidecar => format!("spec.initContainers{{{name}}}"),
        Kind::Ephemeral => format!("spec.ephemeralContainers{{{name}}}"),
    }
}

pub(crate) fn restart_policy(pod: &Pod) -> &str {
    let policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    policy.unwrap_or("Always")
}
