//! In-place resize: other requests and limits for a Pod that runs.
//!
//! ```text
//! the Pod is changed ──► room on the node? ──no──► PodResizePending, until there is
//!                              │ yes
//!                        allocated, PodResizeInProgress ──► cgroups set, containers restarted ──► in force
//! ```
//! Everything else in the node sees the Pod with what is allocated to it, not with what it waits for.
//!
//! Source: kubernetes `pkg/kubelet/allocation`, `pkg/kubelet/status/status_manager.go`, KEP-1287, KEP-5419.

mod actuate;
pub(crate) mod amounts;
pub(crate) mod share;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use knarr_runtime::Resources;
use serde_json::{Value, json};
use tokio::time::Instant;

pub(crate) use self::actuate::Outcome;
use self::{
    amounts::{Allocation, Amounts},
    share::Waiting,
};
use super::{
    backoff,
    state::{self, Kind, State},
    worker::Worker,
};
use crate::spec::{extras, pod_resources, resources};

const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The two conditions that only a resize brings.
pub(super) const CONDITIONS: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// One of them.
struct Told {
    reason: &'static str,
    message: String,
    generation: i64,
    since: Timestamp,
}

/// What is remembered of a Pod's resizes; a Pod that never had one has none of it.
#[derive(Default)]
pub(crate) struct Resize {
    /// what it still has while it waits for other resources
    allocated: Option<Allocation>,
    pending: Option<Told>,
    progress: Option<Told>,
    /// cgroups are being set
    busy: bool,
    /// the Pod's cgroup was made larger, if it's to be, for containers that restart
    prepared: bool,
    tries: u32,
    retry_at: Option<Instant>,
}

impl Resize {
    /// The Pod as it is for the node.
    pub(super) fn seen(&self, pod: Pod) -> Pod {
        let mut pod = pod;
        if let Some(allocated) = &self.allocated {
            allocated.put_into(&mut pod);
        }
        pod
    }
}

/// Stands for a Pod's own cgroup as it should be.
fn mark(limits: &Resources) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{limits:?}").hash(&mut hasher);
    hasher.finish()
}

/// Limits that are gone have to be taken away, not left as they are.
fn whole(limits: Resources) -> Resources {
    Resources {
        cpu_quota_us: limits.cpu_quota_us.or(Some(-1)),
        memory_limit_bytes: limits.memory_limit_bytes.or(Some(-1)),
        ..limits
    }
}

/// With what an annotation asks for; one that can't be read was told when the container was made.
fn asked_besides(pod: &Pod, container: &k8s_openapi::api::core::v1::Container) -> Resources {
    let extras = extras::of(pod, container).unwrap_or_default();
    extras.limits(resources::cgroup(pod, container))
}

fn told_in_full(pod: &Pod, what: &str, generation: i64, error: &str) -> String {
    let list = |containers: &mut dyn Iterator<Item = &k8s_openapi::api::core::v1::Container>| {
        let one = |c: &k8s_openapi::api::core::v1::Container| json!({"name": c.name, "resources": c.resources.clone().unwrap_or_default()});
        containers.map(one).collect::<Vec<Value>>()
    };
    let spec = pod.spec.as_ref();
    let inits = spec.and_then(|s| s.init_containers.as_ref());
    let mut summary = json!({"generation": generation});
    if let Some(inits) = inits.filter(|i| !i.is_empty()) {
        summary["initContainers"] = json!(list(&mut inits.iter()));
    }
    summary["containers"] = json!(list(&mut spec.iter().flat_map(|s| &s.containers)));
    if !error.is_empty() {
        summary["error"] = error.into();
    }
    format!("{what}: {summary}")
}

impl Worker {
    fn group_limits(&self, pod: &Pod) -> Resources {
        pod_resources::cgroup(pod, Some(self.context.settings.pod_pids_max))
    }

    /// The sandbox was made with this Pod's limits.
    pub(super) fn note_group(&mut self, pod: &Pod) {
        self.group_mark = mark(&self.group_limits(pod));
    }

    /// Takes over from the process before: what was allocated and in force is what the status says.
    pub(super) fn adopt_resize(&mut self, object: &Pod, statuses: &[&ContainerStatus]) {
        let mut allocated = Allocation::of(object);
        let mut all_in_force = true;
        for (index, (kind, container)) in state::containers(object).enumerate() {
            let known = statuses.iter().find(|s| s.name == container.name);
            let Some(given) = known.and_then(|s| s.resources.as_ref()) else {
                self.units[index].amounts = Amounts::effective(object, &container);
                continue;
            };
            if kind == Kind::Ephemeral {
                continue;
            }
            let mut had = given.clone();
            had.requests = known.and_then(|s| s.allocated_resources.clone());
            allocated.remember(index, had);
        }
        let resized = allocated.differs(object);
        for (index, (_, container)) in state::containers(object).enumerate() {
            let known = statuses.iter().find(|s| s.name == container.name);
            let Some(given) = known.and_then(|s| s.resources.as_ref()) else {
                continue;
            };
            let mut as_had = container.into_owned();
            as_had.resources = Some(given.clone());
            self.units[index].amounts = Amounts::effective(object, &as_had);
            all_in_force &= !resized;
        }
        if all_in_force {
            self.note_group(object);
        }
        let conditions = object.status.as_ref().and_then(|s| s.conditions.as_ref());
        let mut told = conditions.into_iter().flatten();
        if told.any(|c| CONDITIONS.contains(&c.type_.as_str())) {
            self.resize = Some(Box::default());
        }
        if resized {
            let resize = self.resize.get_or_insert_default();
            resize.allocated = Some(allocated);
            self.cache = None;
            self.ask_for_room();
        }
    }

    /// The object has changed from `before` (as it was for the node): perhaps it asks for other resources.
    pub(super) fn notice_resize(&mut self, before: &Pod, object: &Pod) {
        let had = Allocation::of(before);
        if !had.differs(object) {
            if let Some(resize) = &mut self.resize {
                resize.allocated = None;
                resize.pending = None;
            }
            self.entry.share.lock().waiting = None;
            return;
        }
        self.resize.get_or_insert_default().allocated = Some(had);
        self.ask_for_room();
    }

    /// Whether what the object asks for can be given; then it is.
    pub(super) fn ask_for_room(&mut self) {
        let waits = self.resize.as_ref().is_some_and(|r| r.allocated.is_some());
        if !waits || self.over || self.was_terminal.is_some() {
            return;
        }
        let object = self.object();
        let generation = object.metadata.generation.unwrap_or(0);
        let since = self
            .resize
            .as_ref()
            .and_then(|r| r.pending.as_ref())
            .map_or_else(Timestamp::now, |p| p.since);
        let waiting = Waiting::of(&object, since);
        let answer = self
            .registry
            .resize(&self.entry, waiting, self.context.capacity());
        let events = self.context.events.clone();
        let resize = self.resize.get_or_insert_default();
        match answer {
            Ok(()) => {
                resize.allocated = None;
                resize.pending = None;
                resize.prepared = false;
                resize.tries = 0;
                resize.retry_at = None;
                resize.progress = Some(Told {
                    reason: "",
                    message: String::new(),
                    generation,
                    since: Timestamp::now(),
                });
                let text = told_in_full(&object, "Pod resize started", generation, "");
                events.pod(&object, None, false, "ResizeStarted", text);
                self.cache = None;
            }
            Err(lack) => {
                let message = lack.to_string();
                let known = resize.pending.as_ref();
                if known.is_none_or(|p| p.generation != generation) {
                    let text = told_in_full(&object, "Pod resize Deferred", generation, &message);
                    events.pod(&object, None, true, "ResizeDeferred", text);
                }
                resize.pending = Some(Told {
                    reason: "Deferred",
                    message,
                    generation,
                    since,
                });
            }
        }
    }

    /// Brings into force what is allocated and isn't; a part of each decision while the Pod lives.
    pub(super) fn actuate(&mut self, pod: &Arc<Pod>) {
        let now = Instant::now();
        let busy = self.resize.as_ref().is_some_and(|r| r.busy);
        if busy {
            return;
        }
        if let Some(at) = self.resize.as_ref().and_then(|r| r.retry_at)
            && now < at
        {
            self.wake_by(at);
            return;
        }
        let (mut changes, mut restarts, mut underway) = (Vec::new(), Vec::new(), false);
        for (index, (kind, container)) in state::containers(pod).enumerate() {
            let Some(unit) = self.units.get(index) else {
                continue;
            };
            underway |= unit.redo || matches!(unit.state, State::Starting);
            let Some(running) = unit.running() else {
                continue;
            };
            let wanted = Amounts::effective(pod, &container);
            if kind == Kind::Ephemeral || unit.amounts == wanted || unit.redo || running.stopping {
                continue;
            }
            if unit.amounts.restarts(wanted, &container) {
                restarts.push(index);
                continue;
            }
            changes.push(actuate::Change {
                index,
                id: running.id.clone(),
                name: unit.name.clone(),
                from: unit.amounts,
                to: wanted,
                limits: whole(asked_besides(pod, &container)),
            });
        }
        let limits = self.group_limits(pod);
        let mark = mark(&limits);
        let of_pod = mark != self.group_mark;
        let prepared = self.resize.as_ref().is_some_and(|r| r.prepared);
        let first_of_two = !restarts.is_empty() && of_pod && !prepared;
        if restarts.is_empty() && changes.is_empty() && (!of_pod || underway) {
            if !underway {
                self.resized(pod);
            }
            return;
        }
        if !changes.is_empty() || first_of_two || (of_pod && restarts.is_empty()) {
            let resize = self.resize.get_or_insert_default();
            resize.busy = true;
            resize.prepared = true;
            let request = actuate::Request {
                context: self.context.clone(),
                group: pod_resources::cgroup_path(pod),
                limits: whole(limits),
                mark,
                changes,
                first_of_two,
            };
            self.launch(actuate::run(request));
            return;
        }
        for index in restarts {
            self.units[index].redo = true;
            self.units[index].resized = true;
        }
    }

    /// All that was allocated is in force.
    fn resized(&mut self, pod: &Pod) {
        let Some(resize) = &mut self.resize else {
            return;
        };
        if let Some(done) = resize.progress.take() {
            let text = told_in_full(pod, "Pod resize completed", done.generation, "");
            let events = &self.context.events;
            events.pod(pod, None, false, "ResizeCompleted", text);
        }
    }

    /// Cgroups were set, or not.
    pub(super) fn apply_resize(&mut self, outcome: Outcome, now: Instant) {
        for (index, id, amounts) in outcome.changed {
            if let Some(unit) = self.units.get_mut(index)
                && unit.running_mut(&id).is_some()
            {
                unit.amounts = amounts;
            }
        }
        if let Some(mark) = outcome.group {
            self.group_mark = mark;
        }
        let pod = self.pod();
        let generation = pod.metadata.generation.unwrap_or(0);
        let resize = self.resize.get_or_insert_default();
        resize.busy = false;
        let Some(error) = outcome.error else {
            resize.tries = 0;
            resize.retry_at = None;
            return;
        };
        resize.retry_at = Some(now + backoff::doubling(RETRY_MIN, RETRY_MAX, resize.tries));
        resize.tries += 1;
        let known = resize.progress.as_ref();
        let generation = known.map_or(generation, |p| p.generation);
        if known.is_none_or(|p| p.message != error) {
            let text = told_in_full(&pod, "Pod resize error", generation, &error);
            let events = &self.context.events;
            events.pod(&pod, None, true, "ResizeError", text);
            resize.progress = Some(Told {
                reason: "Error",
                message: error,
                generation,
                since: Timestamp::now(),
            });
        }
    }

    /// The conditions of a resize, as a part of a strategic merge patch.
    pub(super) fn resize_conditions(&self) -> Vec<Value> {
        let Some(resize) = &self.resize else {
            return Vec::new();
        };
        let both = [&resize.pending, &resize.progress];
        let one = |(type_, told): (&&str, &Option<Told>)| match told {
            Some(told) if !self.over => json!({
                "type": type_,
                "status": "True",
                "lastProbeTime": null,
                "lastTransitionTime": Time(told.since),
                "reason": Some(told.reason).filter(|r| !r.is_empty()),
                "message": Some(&told.message).filter(|m| !m.is_empty()),
                "observedGeneration": Some(told.generation).filter(|g| *g > 0),
            }),
            _ => json!({"type": type_, "$patch": "delete"}),
        };
        CONDITIONS.iter().zip(both).map(one).collect()
    }
}
