//! What a finished job means for the Pod's state.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    backoff,
    jobs::{Done, PatchError, StartFailure, StartedContainer},
    state::{self, Ended, ProbeRun, Running, State, Step},
    worker::Worker,
};
use crate::{
    devices::NOT_PREPARED,
    probe::{
        self, Change, Outcome, Probe, Track,
        checks::{Check, Checks},
    },
    spec::{extras, joins},
    volumes::ATTACH_LIMIT,
};

const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(120);
/// A container that is replaced by a changed one doesn't show as gone for that moment: the kubelet, too, tells only of
/// what it finds after the replacement.
const REPLACEMENT_HIDES: Duration = Duration::from_secs(2);
const PATCH_RETRY_MIN: Duration = Duration::from_millis(200);
const PATCH_RETRY_MAX: Duration = Duration::from_secs(30);

impl Worker {
    pub(super) fn apply(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Sandbox(Ok(ip)) => {
                self.pod_ip = ip;
                self.sandbox = Step::Done;
            }
            Done::Sandbox(Err(message)) => {
                let pod = self.pod();
                let reason = match message.starts_with(NOT_PREPARED) {
                    true => "FailedPrepareDynamicResources",
                    false => "FailedCreatePodSandBox",
                };
                self.context
                    .events
                    .pod(&pod, None, true, reason, message.clone());
                tracing::warn!(pod = %self.entry.name, namespace = %self.entry.namespace, %message, "no sandbox");
                self.sandbox = again(&self.sandbox, now);
            }
            Done::Volumes(Ok(ready)) => {
                self.paths = ready.paths.into();
                self.renew_volumes_at = ready.renew_after.map(|after| now + after);
                self.volumes = Step::Done;
            }
            Done::Volumes(Err(message)) if message.starts_with(ATTACH_LIMIT) => {
                let pod = self.pod();
                self.refuse(&pod, "VolumeAttachmentLimitExceeded", message);
                self.volumes = again(&self.volumes, now);
            }
            Done::Volumes(Err(message)) => {
                let pod = self.pod();
                self.context
                    .events
                    .pod(&pod, None, true, "FailedMount", message);
                self.volumes = again(&self.volumes, now);
            }
            Done::Started {
                index,
                attempt,
                result,
            } => self.started(index, attempt, result, now),
            Done::Exited { index, ended } => self.exited(index, ended),
            Done::PostStart { index, id, result } => self.post_started(index, &id, result, now),
            // An ended one's exit comes by itself; the others are stopped again by the next decision.
            Done::Stopped { index, id, ended } => {
                if let Some(running) = self.units.get_mut(index).and_then(|u| u.running_mut(&id)) {
                    running.stopping = ended;
                }
            }
            Done::Probed {
                index,
                id,
                kind,
                outcome,
                check,
            } => {
                if let (probe::Kind::Readiness, Some(check)) = (kind, check) {
                    self.keep(index, &id, *check);
                }
                self.probed(index, &id, kind, &outcome, now);
            }
            Done::Resized(outcome) => self.apply_resize(outcome, now),
            Done::Cleaned(Ok(())) => self.cleaning = Step::Done,
            Done::Cleaned(Err(message)) => {
                tracing::warn!(pod = %self.entry.name, namespace = %self.entry.namespace, %message, "clean-up is retried");
                self.cleaning = again(&self.cleaning, now);
            }
            Done::Patched { hash, result } => {
                self.sent.in_flight = false;
                match result {
                    Ok(()) => {
                        self.sent.hash = hash;
                        self.sent.tries = 0;
                        self.sent.retry_at = None;
                    }
                    Err(PatchError::Gone) => {
                        self.sent.hash = hash;
                        // a mirror is made again
                        self.gone = self.entry.mirror.is_none();
                    }
                    Err(PatchError::Failed(error)) => {
                        tracing::debug!(pod = %self.entry.name, %error, "a status patch is retried");
                        let wait =
                            backoff::doubling(PATCH_RETRY_MIN, PATCH_RETRY_MAX, self.sent.tries);
                        self.sent.tries += 1;
                        self.sent.retry_at = Some(now + wait);
                    }
                }
            }
            Done::Deleted(Ok(())) => self.deleting = Step::Done,
            Done::Deleted(Err(error)) => {
                tracing::debug!(pod = %self.entry.name, %error, "the object's deletion is retried");
                self.deleting = again(&self.deleting, now);
            }
        }
    }

    fn started(
        &mut self,
        index: usize,
        attempt: u32,
        result: Result<StartedContainer, StartFailure>,
        now: Instant,
    ) {
        let pod = self.pod();
        let Some(unit) = self.units.get_mut(index) else {
            return;
        };
        let field = Some(state::field_path(unit.kind, &unit.name));
        unit.replaced_by = None;
        let (operations, kind) = (&self.context.operations, unit.kind.label());
        if !matches!(result, Err(StartFailure::Stopped)) {
            operations.container_begun(kind);
        }
        match &result {
            Err(StartFailure::Image { reason, .. } | StartFailure::Config { reason, .. }) => {
                operations.container_not_begun(kind, reason);
            }
            Err(StartFailure::Run { .. }) => {
                operations.container_not_begun(kind, "RunContainerError");
                operations.container_ended(kind, 128, "StartError");
            }
            Ok(_) | Err(StartFailure::Stopped) => {}
        }
        match result {
            Ok(started) => {
                if unit.made && attempt > unit.attempt && !unit.uncounted {
                    unit.crash
                        .restarted(now, unit.last.as_ref().map(|l| l.finished));
                }
                unit.uncounted = false;
                unit.attempt = attempt;
                unit.made = true;
                unit.made_here = true;
                unit.tries = 0;
                unit.amounts = started.amounts;
                unit.image = started.image;
                unit.image_id = started.image_id;
                unit.user = Some(started.user);
                let container = state::container_at(&pod, index);
                let hook = container
                    .as_ref()
                    .and_then(|c| c.lifecycle.as_ref())
                    .is_some_and(|l| l.post_start.is_some());
                let mut running = Running::new(started.id.clone(), started.since);
                running.in_post_start = hook;
                unit.state = State::Running(Box::new(running));
                self.watch_exit(index, &pod);
                if hook {
                    let job = super::jobs::post_start(
                        self.context.clone(),
                        pod,
                        index,
                        started.id,
                        self.pod_ip,
                    );
                    self.launch(job);
                } else {
                    self.begin_probes(index, None, now);
                }
            }
            Err(StartFailure::Image {
                reason,
                image,
                message,
            }) => {
                let wait = backoff::doubling(backoff::CRASH_MIN, backoff::CRASH_MAX, unit.tries);
                unit.tries += 1;
                unit.missing_image = image.into();
                unit.state = State::Waiting {
                    reason,
                    message: message.into(),
                    since: now,
                    retry_at: Some(now + wait),
                };
                let message = format!("Error: {reason}");
                self.context
                    .events
                    .pod(&pod, field, true, "Failed", message);
            }
            Err(StartFailure::Config { reason, message }) => {
                let wait =
                    backoff::doubling(Duration::from_secs(1), backoff::CRASH_MAX, unit.tries);
                unit.tries += 1;
                self.context
                    .events
                    .pod(&pod, field, true, "Failed", format!("Error: {message}"));
                unit.state = State::Waiting {
                    reason,
                    message: message.into(),
                    since: now,
                    retry_at: Some(now + wait),
                };
                self.watch_env();
            }
            Err(StartFailure::Stopped) => {
                unit.state = State::Waiting {
                    reason: "",
                    message: "".into(),
                    since: now,
                    retry_at: None,
                };
            }
            Err(StartFailure::Run {
                id,
                message,
                image,
                image_id,
            }) => {
                if unit.made && attempt > unit.attempt {
                    unit.crash
                        .restarted(now, unit.last.as_ref().map(|l| l.finished));
                }
                unit.attempt = attempt;
                unit.made = true;
                unit.made_here = true;
                unit.image = image;
                unit.image_id = image_id;
                self.context.events.pod(
                    &pod,
                    field,
                    true,
                    "Failed",
                    format!(
                        "Error: failed to start container {:?}: {message}",
                        unit.name
                    ),
                );
                unit.state = State::Ended(Box::new(Ended {
                    id,
                    // As containerd reports it.
                    exit_code: 128,
                    reason: "StartError".into(),
                    message: Some(message.into()),
                    started_at: Some(Timestamp::UNIX_EPOCH),
                    finished_at: Timestamp::now(),
                    finished: now,
                }));
            }
        }
    }

    pub(super) fn watch_exit(&mut self, index: usize, pod: &k8s_openapi::api::core::v1::Pod) {
        let words = self.words(index, pod);
        let Some(running) = self.units.get(index).and_then(|u| u.running()) else {
            return;
        };
        let job = super::jobs::exit(
            self.context.clone(),
            index,
            running.id.clone(),
            Some(running.since),
            words,
        );
        self.launch(job);
    }

    fn exited(&mut self, index: usize, ended: Box<Ended>) {
        self.exits_to_learn.retain(|id| *id != ended.id);
        if let Some(unit) = self.units.get_mut(index)
            && unit.running_mut(&ended.id).is_some()
        {
            unit.replaced_by = unit.redo.then(|| Instant::now() + REPLACEMENT_HIDES);
            let exit_code = ended.exit_code;
            // The restart that follows is after this one.
            if unit.own.is_some_and(|own| own.came_right(&ended)) {
                unit.forgiven = unit.attempt + 1;
            }
            let operations = &self.context.operations;
            operations.container_ended(unit.kind.label(), exit_code, &ended.reason);
            unit.state = State::Ended(ended);
            let pod = self.pod();
            self.note_end(&pod, index, exit_code);
        }
    }

    fn post_started(&mut self, index: usize, id: &str, result: Result<(), String>, now: Instant) {
        let pod = self.pod();
        let Some(unit) = self.units.get_mut(index) else {
            return;
        };
        let field = Some(state::field_path(unit.kind, &unit.name));
        let Some(running) = unit.running_mut(id) else {
            return;
        };
        running.in_post_start = false;
        match result {
            Ok(()) => self.begin_probes(index, None, now),
            Err(message) => {
                self.context.events.pod(
                    &pod,
                    field,
                    true,
                    "FailedPostStartHook",
                    format!("PostStartHook failed: {message}"),
                );
                self.kill(index, "FailedPostStartHook", None);
            }
        }
    }

    /// Sets up what's asked of a container that now runs. `ready_before`: what was known before a restart of the platform.
    pub(super) fn begin_probes(
        &mut self,
        index: usize,
        ready_before: Option<(bool, bool)>,
        now: Instant,
    ) {
        let pod = self.pod();
        let Some(container) = state::container_at(&pod, index) else {
            return;
        };
        let probes = probe::Kind::ALL.map(|kind| Probe::of(&container, kind));
        let Some(State::Running(running)) = self.units.get_mut(index).map(|u| &mut u.state) else {
            return;
        };
        let [startup, liveness, readiness] = probes;
        // one that can't be read is told when the container is made
        let extras = extras::of(&pod, &container).unwrap_or_default();
        let readiness = match extras.health {
            Some(pace) => readiness.map(|probe| pace.applied(probe)),
            None => readiness,
        };
        self.entry.checks.lock().clone_from(&Checks::default());
        let age = Timestamp::now()
            .duration_since(running.since)
            .unsigned_abs();
        let born = now.checked_sub(age).unwrap_or(now);
        let (started_before, was_ready) = ready_before.unwrap_or((false, false));
        running.started = startup.is_none() || started_before;
        running.ready = running.started && (readiness.is_none() || was_ready);
        let run = |probe: Option<Probe>, kind: probe::Kind, from: Instant, known: Option<bool>| {
            probe.map(|probe| ProbeRun {
                track: Track::new(kind, &probe, from, now, known),
                probe: probe.into(),
            })
        };
        let waits = !running.started;
        running.probes = [
            if waits {
                run(startup, probe::Kind::Startup, born, None)
            } else {
                None
            },
            run(liveness, probe::Kind::Liveness, born, None),
            run(
                readiness,
                probe::Kind::Readiness,
                born,
                was_ready.then_some(true),
            ),
        ];
        if waits {
            self.ask(index, probe::Kind::Startup);
        } else {
            self.ask(index, probe::Kind::Liveness);
            self.ask(index, probe::Kind::Readiness);
        }
    }

    /// Has the probe asked at its next time.
    fn ask(&mut self, index: usize, kind: probe::Kind) {
        let Some(running) = self.units.get(index).and_then(|u| u.running()) else {
            return;
        };
        let Some(run) = &running.probes[kind as usize] else {
            return;
        };
        let request = super::jobs::ProbeRequest {
            context: self.context.clone(),
            probe: run.probe.clone(),
            kind,
            index,
            id: running.id.clone(),
            pod_ip: self.pod_ip,
            at: run.track.next_at(),
            over: running.over.token().clone(),
        };
        self.launch(super::jobs::probe(request));
    }

    /// Docker's clients ask what their checks said.
    fn keep(&mut self, index: usize, id: &str, check: Check) {
        let dockers = joins::is_dockers(&self.pod());
        let unit = self.units.get_mut(index);
        if dockers && unit.is_some_and(|u| u.running_mut(id).is_some()) {
            self.entry.checks.lock().add(check);
        }
    }

    fn probed(
        &mut self,
        index: usize,
        id: &str,
        kind: probe::Kind,
        outcome: &Outcome,
        now: Instant,
    ) {
        let stopping_pod = self.kill_at.is_some();
        let Some(unit) = self.units.get_mut(index) else {
            return;
        };
        let field = Some(state::field_path(unit.kind, &unit.name));
        let name = unit.name.clone();
        let Some(running) = unit.running_mut(id) else {
            return;
        };
        // A Pod that is going is still asked whether it's ready, but no longer killed for being unwell.
        if kind != probe::Kind::Readiness && (stopping_pod || running.stopping) {
            return;
        }
        let Some(run) = &mut running.probes[kind as usize] else {
            return;
        };
        let change = run.track.observe(&run.probe, outcome, now);
        let result = match outcome {
            Outcome::Success | Outcome::Warning(_) => "successful",
            Outcome::Failure(_) => "failed",
            Outcome::Unknown(_) => "unknown",
        };
        let counted = (name, kind.name(), result);
        *self.entry.probed.lock().entry(counted).or_default() += 1;
        let grace = run.probe.grace_seconds;
        let errored = match outcome {
            Outcome::Unknown(text) if run.track.tell_unknown(&run.probe, now) => Some(text),
            _ => None,
        };
        match (kind, &change) {
            (probe::Kind::Startup, Change::Became(true)) => {
                running.started = true;
                running.probes[0] = None;
                running.ready = running.probes[2].is_none();
                let age = Timestamp::now()
                    .duration_since(running.since)
                    .unsigned_abs();
                let born = now.checked_sub(age).unwrap_or(now);
                for kind in [probe::Kind::Liveness, probe::Kind::Readiness] {
                    if let Some(run) = &mut running.probes[kind as usize] {
                        run.track = Track::new(kind, &run.probe, born, now, None);
                    }
                }
                self.ask(index, probe::Kind::Liveness);
                self.ask(index, probe::Kind::Readiness);
                return;
            }
            (probe::Kind::Readiness, Change::Became(ready)) => running.ready = *ready,
            _ => {}
        }
        if let Some(text) = errored {
            let pod = self.pod();
            let message = format!("{} probe errored: {text}", kind.name());
            self.context
                .events
                .pod(&pod, field.clone(), true, "Unhealthy", message);
        }
        if let Outcome::Warning(text) = outcome {
            let pod = self.pod();
            let message = format!("{} probe warning: {text}", kind.name());
            self.context
                .events
                .pod(&pod, field.clone(), true, "ProbeWarning", message);
        }
        if let (Change::Failed | Change::Became(false), Outcome::Failure(text)) = (&change, outcome)
        {
            let pod = self.pod();
            let message = format!("{} probe failed: {text}", kind.name());
            self.context
                .events
                .pod(&pod, field, true, "Unhealthy", message);
        }
        if kind != probe::Kind::Readiness && change == Change::Became(false) {
            let why = if kind == probe::Kind::Liveness {
                "liveness"
            } else {
                "startup"
            };
            self.kill(index, why, grace);
            return;
        }
        self.ask(index, kind);
    }
}

fn again(step: &Step, now: Instant) -> Step {
    let tries = step.tries();
    Step::Failed {
        until: now + backoff::doubling(RETRY_MIN, RETRY_MAX, tries),
        tries: tries + 1,
    }
}
