//! The decision: given the Pod's object and the state of things, what is to be done now. Never waits, and may be run at any time.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::{
    jobs::{self, StartRequest},
    restart,
    state::{self, Kind, Stage, State, Step},
    worker::Worker,
};

/// How long `ErrImagePull` shows before it's `ImagePullBackOff`.
const IMAGE_ERROR_SHOWS: Duration = Duration::from_secs(2);

impl Worker {
    pub(super) fn step(&mut self) {
        self.no_alarm();
        self.reported = false;
        if !self.exits_to_learn.is_empty() {
            return;
        }
        let pod = self.pod();
        loop {
            let before = self.stage;
            match self.stage {
                Stage::Preparing => self.prepare(&pod),
                Stage::Live => self.live(&pod),
                Stage::Stopping => self.stop_all(&pod),
                Stage::Cleaning => self.clean(&pod),
                Stage::Settled => {
                    if self.leaving(&pod) {
                        self.cleaning = Step::Todo;
                        self.stage = Stage::Cleaning;
                    }
                }
                Stage::Deleting => self.delete(&pod),
                Stage::Gone => break,
            }
            if self.stage == before {
                break;
            }
        }
        // Nothing runs any more: as for upstream, whose Pods that have ended don't count. A port that is still being taken
        // away goes over to the next.
        if matches!(
            self.stage,
            Stage::Cleaning | Stage::Settled | Stage::Deleting
        ) {
            self.entry.ports.lock().clear();
        }
        // Before the API hears that the Pod has ended, and the scheduler puts the next one here.
        if matches!(
            self.stage,
            Stage::Cleaning | Stage::Settled | Stage::Deleting | Stage::Gone
        ) {
            self.registry.leave(&self.entry, self.context.capacity());
        }
        self.report(&pod);
        // The report may be what the end was waiting for.
        if self.stage == Stage::Cleaning && matches!(self.cleaning, Step::Todo) {
            self.clean(&pod);
        }
    }

    /// The node can't take a Pod that was put on it past the scheduler (`pkg/kubelet/lifecycle/predicate.go`).
    pub(crate) fn reject(&mut self, pod: &Pod, predicate: &'static str, why: &str) {
        self.refuse(
            pod,
            predicate,
            format!("Predicate {predicate} failed: {why}"),
        );
    }

    /// As [`Worker::reject`], for any other reason.
    pub(crate) fn refuse(&mut self, pod: &Pod, reason: &'static str, message: String) {
        if self.was_terminal.is_some() || self.leaving(pod) {
            return;
        }
        self.context
            .events
            .pod(pod, None, true, reason, message.clone());
        let message = format!("Pod was rejected: {message}");
        self.rejected = true;
        self.failed = Some((reason, message.into()));
    }

    /// Its object is being deleted, or is gone.
    pub(super) fn leaving(&self, pod: &Pod) -> bool {
        self.gone || pod.metadata.deletion_timestamp.is_some()
    }

    fn prepare(&mut self, pod: &std::sync::Arc<Pod>) {
        self.resume(pod);
        if self.ends(pod) {
            return;
        }
        let now = Instant::now();
        if self.sandbox.due(now) {
            self.sandbox.begin();
            let stop = self.stopping.clone();
            self.launch(jobs::sandbox(self.context.clone(), pod.clone(), stop));
        }
        if self.volumes.due(now) {
            self.volumes.begin();
            self.launch_volumes(pod);
        }
        for step in [self.sandbox.clone(), self.volumes.clone()] {
            if let Step::Failed { until, .. } = step {
                self.wake_by(until);
            }
        }
        // What was found running goes on even when a volume's source is missing by now.
        let found_running = self.units.iter().any(|u| u.running().is_some());
        if self.sandbox.is_done() && (self.volumes.is_done() || found_running) {
            self.stage = Stage::Live;
        }
    }

    /// Whether the Pod has to stop now (deleted, or past its deadline); then that has begun.
    fn ends(&mut self, pod: &Pod) -> bool {
        if self.was_terminal.is_some() {
            self.over = true;
            self.begin_stop(pod);
            return true;
        }
        if self.leaving(pod) || self.failed.is_some() {
            self.begin_stop(pod);
            return true;
        }
        let limit = pod.spec.as_ref().and_then(|s| s.active_deadline_seconds);
        if let Some(seconds) = limit.and_then(|s| u64::try_from(s).ok()) {
            let age = jiff::Timestamp::now()
                .duration_since(self.start_time)
                .unsigned_abs();
            let limit = Duration::from_secs(seconds);
            if age >= limit {
                let message = "Pod was active on the node longer than the specified deadline";
                self.failed = Some(("DeadlineExceeded", message.into()));
                self.context
                    .events
                    .pod(pod, None, false, "DeadlineExceeded", message.into());
                self.begin_stop(pod);
                return true;
            }
            self.wake_by(Instant::now() + (limit - age));
        }
        false
    }

    fn live(&mut self, pod: &std::sync::Arc<Pod>) {
        if self.ends(pod) {
            return;
        }
        if self.reset_all() {
            return;
        }
        self.actuate(pod);
        for index in 0..self.units.len() {
            let unit = &self.units[index];
            if unit.redo {
                let why = if unit.resized { "resized" } else { "changed" };
                self.kill(index, why, None);
            }
        }
        self.refresh_volumes(pod);
        let order: Vec<usize> = (0..self.units.len()).collect();
        let app_ran = self
            .units
            .iter()
            .any(|u| u.kind == Kind::App && u.made_here);
        let mut ready_for_next = true;
        for index in order {
            let kind = self.units[index].kind;
            match kind {
                Kind::Init if app_ran || self.succeeded(index) => continue,
                Kind::Init => {
                    if self.failed_for_good(pod, index) {
                        self.finish(pod);
                        return;
                    }
                    self.want_running(pod, index);
                    ready_for_next = false;
                }
                Kind::Sidecar => {
                    self.want_running(pod, index);
                    let started = self.units[index].running().is_some_and(|r| r.started);
                    ready_for_next &= started || app_ran;
                }
                Kind::App => {
                    if !self.ended_for_good(pod, index) {
                        self.want_running(pod, index);
                    }
                    let busy = matches!(self.units[index].state, State::Starting)
                        || self.units[index].running().is_some_and(|r| r.in_post_start);
                    ready_for_next &= !busy;
                }
                // Started below, whatever the others do.
                Kind::Ephemeral => continue,
            }
            if !ready_for_next {
                break;
            }
        }
        // Restarts don't wait for the turn of those before them.
        for index in 0..self.units.len() {
            let unit = &self.units[index];
            let turn = match unit.kind {
                Kind::App => unit.made_here,
                Kind::Ephemeral => true,
                Kind::Init | Kind::Sidecar => false,
            };
            if turn && !self.ended_for_good(pod, index) {
                self.want_running(pod, index);
            }
        }
        let all_over = (0..self.units.len())
            .filter(|i| self.units[*i].kind == Kind::App)
            .all(|i| self.ended_for_good(pod, i));
        if all_over {
            self.finish(pod);
        }
    }

    fn launch_volumes(&mut self, pod: &std::sync::Arc<Pod>) {
        let again = !self.paths.is_empty() || self.units.iter().any(|u| u.made);
        let (context, stop) = (self.context.clone(), self.stopping.clone());
        self.launch(jobs::volumes(context, pod.clone(), again, stop));
    }

    fn refresh_volumes(&mut self, pod: &std::sync::Arc<Pod>) {
        let now = Instant::now();
        let renew = self.renew_volumes_at.is_some_and(|at| now >= at);
        let retry = matches!(self.volumes, Step::Failed { .. }) && self.volumes.due(now);
        if (self.volumes_stale || renew || retry) && !self.volumes.is_doing() {
            self.volumes_stale = false;
            self.renew_volumes_at = None;
            self.volumes.begin();
            self.launch_volumes(pod);
        }
        if let Step::Failed { until, .. } = self.volumes {
            self.wake_by(until);
        }
        if let Some(at) = self.renew_volumes_at {
            self.wake_by(at);
        }
    }

    /// An init container that is through.
    pub(super) fn succeeded(&self, index: usize) -> bool {
        matches!(&self.units[index].state, State::Ended(ended) if ended.exit_code == 0)
    }

    pub(super) fn failed_for_good(&self, pod: &Pod, index: usize) -> bool {
        matches!(&self.units[index].state, State::Ended(ended) if ended.exit_code != 0)
            && self.ended_for_good(pod, index)
    }

    /// Ended, and won't be started again.
    pub(super) fn ended_for_good(&self, pod: &Pod, index: usize) -> bool {
        let unit = &self.units[index];
        let State::Ended(ended) = &unit.state else {
            return false;
        };
        if unit.redo && !self.over {
            return false;
        }
        match state::container_at(pod, index) {
            Some(container) => !restart::restarts(pod, &container, unit.kind, ended.exit_code),
            None => true,
        }
    }

    /// Nothing will run again: what still does (sidecars) is stopped.
    fn finish(&mut self, pod: &Pod) {
        self.over = true;
        self.begin_stop(pod);
    }

    fn want_running(&mut self, pod: &std::sync::Arc<Pod>, index: usize) {
        let now = Instant::now();
        let container_name = self.units[index].name.clone();
        let field = Some(state::field_path(self.units[index].kind, &container_name));
        let unit = &mut self.units[index];
        let rests = unit.rests();
        let old = match &mut unit.state {
            State::Running(_) | State::Starting => return,
            State::Waiting {
                reason,
                message,
                since,
                retry_at,
            } => {
                if let Some(at) = *retry_at
                    && now < at
                {
                    let shown_until = *since + IMAGE_ERROR_SHOWS;
                    if *reason == "ErrImagePull" && now >= shown_until {
                        let text = format!("Back-off pulling image {:?}", unit.missing_image);
                        *message = format!("{text}: ErrImagePull: {message}").into();
                        *reason = "ImagePullBackOff";
                        self.context.events.pod(pod, field, false, "BackOff", text);
                    } else if *reason == "ErrImagePull" {
                        self.wake_by(shown_until);
                    }
                    self.wake_by(at);
                    return;
                }
                // After a restart of all, and after a start that failed before anything was made.
                unit.last.as_ref().map(|ended| ended.id.clone())
            }
            State::Ended(_) if rests => return,
            State::Ended(ended) => {
                let due = unit.crash.due(ended.finished);
                if now < due && !unit.redo {
                    let text = format!(
                        "Back-off restarting failed container {container_name} in pod {}_{}({})",
                        self.entry.name, self.entry.namespace, self.entry.uid
                    );
                    if !unit.backing_off {
                        unit.backing_off = true;
                        self.context.events.pod(pod, field, true, "BackOff", text);
                    }
                    self.wake_by(due);
                    return;
                }
                let old = ended.id.clone();
                unit.last = Some(ended.clone());
                Some(old)
            }
        };
        unit.backing_off = false;
        let changed = unit.redo && !std::mem::take(&mut unit.resized);
        unit.uncounted |= unit.redo;
        if changed {
            // Another image: what was learnt of the one before doesn't count.
            unit.crash.reset();
        }
        unit.redo = false;
        unit.state = State::Starting;
        let attempt = unit.next_attempt();
        let target = state::target(pod, &container_name).and_then(|name| {
            let found = self.units.iter().find(|u| &*u.name == name)?;
            Some(found.running()?.id.clone())
        });
        let request = StartRequest {
            context: self.context.clone(),
            pod: pod.clone(),
            index,
            attempt,
            paths: self.paths.clone(),
            pod_ip: self.pod_ip,
            target,
            old,
            stop: self.stopping.clone(),
        };
        self.launch(jobs::start(request));
    }
}
