//! The task of one Pod: takes in what has happened, decides, and has jobs done; never waits inside a decision.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    adopt::Found,
    conditions::{Condition, OWN},
    entry::{Entry, Registry, UnitView},
    jobs::{self, Done, Job},
    mailbox::Mail,
    resize::{self, Resize},
    restart,
    state::{self, Kind, Stage, State, Step, Unit},
};
use crate::{
    context::Context,
    eviction::Verdict,
    sources::Subscription,
    turns::New,
    volumes::{self, Paths},
};

/// A new Pod counts as one that starts for so long, whatever it waits for.
const NEW_MAX: Duration = Duration::from_secs(1);

/// What has gone out to the API, and what is on its way.
#[derive(Default)]
pub(crate) struct Sent {
    pub in_flight: bool,
    /// hash of the status the API has taken
    pub hash: u64,
    pub tries: u32,
    pub retry_at: Option<Instant>,
}

pub(crate) struct Worker {
    pub(super) context: Arc<Context>,
    pub(super) entry: Arc<Entry>,
    pub(super) registry: Registry,
    /// the object, without what doesn't matter here, as JSON: a tenth of its typed size
    bytes: Bytes,
    pub(super) cache: Option<Arc<Pod>>,
    pub(super) resize: Option<Box<Resize>>,
    /// stands for what the Pod's own cgroup was last given; 0: not known
    pub(super) group_mark: u64,
    pub(super) stage: Stage,
    pub(super) sandbox: Step,
    pub(super) volumes: Step,
    /// volumes are out of date and must be done again after the present run
    pub(super) volumes_stale: bool,
    pub(super) renew_volumes_at: Option<Instant>,
    /// nothing is waited for any more: the Pod is to stop
    pub(super) stopping: CancellationToken,
    pub(super) cleaning: Step,
    /// the clean-up took the logs, too
    pub(super) cleaned_all: bool,
    pub(super) deleting: Step,
    pub(super) pod_ip: Option<IpAddr>,
    pub(super) paths: Arc<Paths>,
    pub(super) units: Vec<Unit>,
    pub(super) start_time: Timestamp,
    pub(super) conditions: [Condition; OWN.len()],
    pub(super) sent: Sent,
    /// the last decision found that the API has the present status
    pub(super) reported: bool,
    /// what the API had as podIP before
    pub(super) old_ip: Option<Box<str>>,
    pub(super) kill_at: Option<watch::Sender<Instant>>,
    /// the object is gone from the API
    pub(super) gone: bool,
    /// all containers are stopped and stay so
    pub(super) over: bool,
    /// it was not taken: nothing of it will ever run here
    pub(super) rejected: bool,
    /// a rule demands that all containers start anew
    pub(super) resetting: bool,
    /// why the Pod failed as a whole (`DeadlineExceeded`, …)
    pub(super) failed: Option<(&'static str, Box<str>)>,
    /// the node has no room for it any more: how, and since when
    pub(super) evicted: Option<(Verdict, Timestamp)>,
    /// its phase was terminal when it was found
    pub(super) was_terminal: Option<Box<str>>,
    /// running containers taken over, with (started, ready) as the API has them
    pub(super) resume: Vec<(usize, Option<(bool, bool)>)>,
    /// containers that ended while the platform was away: nothing is decided before their exit records are read
    pub(super) exits_to_learn: Vec<Box<str>>,
    /// it starts for the first time, until the API has heard that it runs; and for how long at most
    new: Option<(New, Instant)>,
    subscriptions: Vec<Subscription>,
    env_watched: bool,
    jobs: FuturesUnordered<Job>,
    /// the earliest timer of the last decision
    wake_at: Option<Instant>,
}

impl Worker {
    pub(crate) fn new(
        context: Arc<Context>,
        registry: Registry,
        entry: Arc<Entry>,
        pod: &Arc<Pod>,
        found: Found,
    ) -> Worker {
        let mut units: Vec<Unit> = state::containers(pod)
            .map(|(kind, c)| Unit::new(pod, &c, kind))
            .collect();
        // it is most often one, and room is made for four
        units.shrink_to_fit();
        let mut worker = Worker {
            context,
            entry,
            registry,
            bytes: pack(pod),
            cache: Some(pod.clone()),
            resize: None,
            group_mark: 0,
            stage: Stage::Preparing,
            sandbox: Step::Todo,
            volumes: Step::Todo,
            volumes_stale: false,
            renew_volumes_at: None,
            stopping: CancellationToken::new(),
            cleaning: Step::Todo,
            cleaned_all: false,
            deleting: Step::Todo,
            pod_ip: None,
            paths: Arc::default(),
            units,
            start_time: Timestamp::now(),
            conditions: Default::default(),
            sent: Sent::default(),
            reported: false,
            old_ip: None,
            kill_at: None,
            gone: false,
            over: false,
            rejected: false,
            resetting: false,
            failed: None,
            evicted: None,
            was_terminal: None,
            resume: Vec::new(),
            exits_to_learn: Vec::new(),
            new: None,
            subscriptions: Vec::new(),
            env_watched: false,
            jobs: FuturesUnordered::new(),
            wake_at: None,
        };
        worker.adopt(pod, found);
        for reference in volumes::references(pod) {
            let subscription = worker
                .context
                .sources
                .subscribe(reference, &worker.entry.mailbox);
            worker.subscriptions.push(subscription);
        }
        worker.publish();
        worker
    }

    /// Runs until the Pod is gone from the machine and the API, or `cancel`.
    ///
    /// By its box, for a task that is moved into its own future has room for it twice.
    pub(crate) async fn run(mut self: Box<Self>, cancel: CancellationToken) {
        loop {
            self.step();
            self.publish();
            self.grow_up();
            if self.stage == Stage::Gone {
                break;
            }
            self.rest();
            let entry = self.entry.clone();
            let alarm = async {
                match self.wake_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = entry.mailbox.wait() => {
                    let mail = entry.mailbox.take();
                    self.read(mail);
                }
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => {
                    self.apply(done);
                    // Whatever else is ready goes into the same decision, and so into one status patch.
                    while let Some(Some(done)) = self.jobs.next().now_or_never() {
                        self.apply(done);
                    }
                }
                () = alarm => {}
            }
        }
        self.registry.remove(&self.entry.uid);
    }

    /// Nothing of it was here before: what starts again lets it pass.
    pub(crate) fn is_new(&mut self) {
        let until = Instant::now() + NEW_MAX;
        self.new = Some((self.context.turns.new_pod(), until));
    }

    /// It is no longer new when the API knows of all its containers, or one of them is through with its first start.
    fn grow_up(&mut self) {
        let Some((_, until)) = self.new else { return };
        let ended = |u: &Unit| u.kind != Kind::Init && matches!(u.state, State::Ended(_));
        let starts = matches!(self.stage, Stage::Preparing | Stage::Live)
            && !self.units.iter().any(|u| u.attempt > 0 || ended(u))
            && (!self.reported || self.units.iter().any(|u| !u.made));
        match starts && Instant::now() < until {
            true => self.wake_by(until),
            false => self.new = None,
        }
    }

    /// The Pod with what is allocated to it.
    pub(crate) fn pod(&mut self) -> Arc<Pod> {
        if let Some(pod) = &self.cache {
            return pod.clone();
        }
        let object = self.object();
        let pod = match &self.resize {
            Some(resize) => resize.seen(object),
            None => object,
        };
        let pod = Arc::new(pod);
        self.cache = Some(pod.clone());
        pod
    }

    /// The Pod as the API has it.
    pub(super) fn object(&self) -> Pod {
        // It was written by `pack` from a Pod.
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    /// Whether the API knows of containers that were made of it.
    pub(crate) fn ran(pod: &Pod) -> bool {
        let status = pod.status.as_ref();
        let lists = status
            .into_iter()
            .flat_map(|s| [&s.init_container_statuses, &s.container_statuses]);
        let mut statuses = lists.flatten().flatten();
        statuses.any(|c| c.container_id.is_some())
    }

    /// Lets go of the typed object while nothing is about to happen.
    fn rest(&mut self) {
        let busy = matches!(
            self.stage,
            Stage::Preparing | Stage::Stopping | Stage::Cleaning
        ) || self.sent.in_flight
            || self
                .units
                .iter()
                .any(|u| matches!(u.state, State::Starting));
        if !busy {
            self.cache = None;
        }
    }

    pub(super) fn launch(&mut self, job: impl Future<Output = Done> + Send + 'static) {
        self.jobs.push(Box::pin(job));
    }

    /// Asks to be woken at `at` at the latest.
    pub(super) fn wake_by(&mut self, at: Instant) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }
    pub(super) fn no_alarm(&mut self) {
        self.wake_at = None;
    }

    fn read(&mut self, mail: Mail) {
        self.gone |= mail.gone;
        if let Some(verdict) = mail.verdict {
            self.evict(verdict);
        }
        if let Some(pod) = mail.pod {
            let bytes = pack(&pod);
            if bytes != self.bytes {
                let before = self.pod();
                self.bytes = bytes;
                self.cache = None;
                let metadata =
                    |p: &Pod| (p.metadata.labels.clone(), p.metadata.annotations.clone());
                if volumes::shows_metadata(&pod) && metadata(&before) != metadata(&pod) {
                    self.volumes_stale = true;
                }
                self.grow(&pod);
                self.notice_resize(&before, &pod);
                self.replace_changed(&before, &pod);
            }
        }
        if mail.room {
            self.ask_for_room();
        }
        if mail.sources {
            self.volumes_stale = true;
            self.retry_now(|reason| reason == "CreateContainerConfigError");
            if let Step::Failed { until, .. } = &mut self.volumes {
                *until = Instant::now();
            }
        }
        if mail.images {
            self.retry_now(|reason| {
                matches!(
                    reason,
                    "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull"
                )
            });
        }
    }

    fn evict(&mut self, verdict: Verdict) {
        let pod = self.pod();
        if self.failed.is_some() || self.was_terminal.is_some() || self.over {
            return;
        }
        self.context
            .events
            .pod(&pod, None, true, "Evicted", verdict.message.clone());
        self.failed = Some(("Evicted", verdict.message.as_str().into()));
        self.evicted = Some((verdict, Timestamp::now()));
    }

    fn retry_now(&mut self, of: impl Fn(&str) -> bool) {
        let now = Instant::now();
        for unit in &mut self.units {
            if let State::Waiting {
                reason, retry_at, ..
            } = &mut unit.state
                && of(reason)
            {
                *retry_at = Some(now);
            }
        }
    }

    /// Watches what the environment refers to, from the first time that something was missing.
    pub(super) fn watch_env(&mut self) {
        if std::mem::replace(&mut self.env_watched, true) {
            return;
        }
        let pod = self.pod();
        for reference in volumes::env_references(&pod) {
            let subscription = self
                .context
                .sources
                .subscribe(reference, &self.entry.mailbox);
            self.subscriptions.push(subscription);
        }
    }

    /// Ephemeral containers may have been added since.
    fn grow(&mut self, pod: &Pod) {
        let known = self.units.len();
        let new = state::containers(pod).skip(known);
        self.units
            .extend(new.map(|(kind, c)| Unit::new(pod, &c, kind)));
    }

    /// A container whose image was changed in the Pod runs the new one.
    fn replace_changed(&mut self, before: &Pod, after: &Pod) {
        let pairs = state::containers(before).zip(state::containers(after));
        for (unit, ((_, a), (_, b))) in self.units.iter_mut().zip(pairs) {
            if unit.kind == Kind::Ephemeral || a.image == b.image {
                continue;
            }
            match &mut unit.state {
                State::Running(_) => unit.redo = true,
                // At once, whatever the back-off; one that has ended for good stays so.
                State::Ended(ended) => {
                    unit.redo = restart::restarts(after, &b, unit.kind, ended.exit_code);
                }
                // Waits for the image it had before.
                State::Waiting { retry_at, .. } => {
                    unit.tries = 0;
                    *retry_at = None;
                }
                State::Starting => {}
            }
        }
    }

    /// Shows the containers to logs and exec.
    fn publish(&mut self) {
        let views = self.units.iter().map(|u| UnitView {
            name: u.name.clone(),
            kind: u.kind,
            attempt: u.made.then_some(u.attempt),
            previous: match &u.state {
                State::Ended(_) if !u.backing_off => u.attempt.checked_sub(1),
                State::Running(_) => u.attempt.checked_sub(1),
                // What waits to be started again has itself as its last state.
                _ => u.made.then_some(u.attempt),
            },
            running: u.running().map(|r| r.id.clone()),
            waiting: match &u.state {
                State::Waiting { reason: "", .. } | State::Starting => {
                    Some(self.default_waiting().into())
                }
                State::Waiting { reason, .. } => Some((*reason).into()),
                _ => None,
            },
        });
        let mut views: Vec<UnitView> = views.collect();
        views.shrink_to_fit();
        *self.entry.units.lock() = views;
    }

    /// Why a container waits that nothing is known of: also an ephemeral one says that of its Pod.
    pub(super) fn default_waiting(&self) -> &'static str {
        let init = |u: &Unit| matches!(u.kind, Kind::Init | Kind::Sidecar);
        if self.units.iter().any(init) {
            "PodInitializing"
        } else {
            "ContainerCreating"
        }
    }

    pub(super) fn words(&self, index: usize, pod: &Pod) -> jobs::Words {
        let container = state::container_at(pod, index);
        let policy = container
            .as_ref()
            .and_then(|c| c.termination_message_policy.as_deref());
        jobs::Words {
            uid: self.entry.uid.clone(),
            container: self
                .units
                .get(index)
                .map(|u| u.name.clone())
                .unwrap_or_default(),
            attempt: self.units.get(index).map_or(0, |u| u.attempt),
            from_logs: policy == Some("FallbackToLogsOnError"),
        }
    }
}

/// The parts of the object that decide anything: all but managedFields, the version, and the node's own part of the status.
fn pack(pod: &Pod) -> Bytes {
    let mut lean = Pod {
        metadata: pod.metadata.clone(),
        spec: pod.spec.clone(),
        status: None,
    };
    lean.metadata.managed_fields = None;
    lean.metadata.resource_version = None;
    let status = pod.status.as_ref();
    let foreign: Vec<PodCondition> = status
        .and_then(|s| s.conditions.as_ref())
        .into_iter()
        .flatten()
        .filter(|c| !OWN.contains(&c.type_.as_str()))
        .filter(|c| !resize::CONDITIONS.contains(&c.type_.as_str()))
        .cloned()
        .collect();
    // names of the claims that were made for it
    let claims = status.and_then(|s| s.resource_claim_statuses.clone());
    if !foreign.is_empty() || claims.is_some() {
        lean.status = Some(k8s_openapi::api::core::v1::PodStatus {
            conditions: (!foreign.is_empty()).then_some(foreign),
            resource_claim_statuses: claims,
            ..Default::default()
        });
    }
    // A Pod has only string keys and finite numbers, so this can't fail.
    Bytes::from(serde_json::to_vec(&lean).unwrap_or_default())
}
