//! How containers and Pods end: stopped in order and within their grace, cleaned up, deleted.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{
    jobs::{self, StopRequest},
    state::{self, Kind, Stage, State, Step, Unit},
    worker::Worker,
};

const GRACE_SECONDS_DEFAULT: i64 = 30;
/// A force-deleted Pod's processes still get this long.
const GRACE_SECONDS_MIN: i64 = 1;
/// A status that can't be written holds up the end of a Pod at most for so many tries.
const PATCH_TRIES_MAX: u32 = 20;

impl Worker {
    fn grace_seconds(&self, pod: &Pod) -> u64 {
        let given = pod.metadata.deletion_grace_period_seconds;
        let of_spec = pod
            .spec
            .as_ref()
            .and_then(|s| s.termination_grace_period_seconds);
        let deleted = self.leaving(pod).then_some(given).flatten();
        let seconds = deleted.or(of_spec).unwrap_or(GRACE_SECONDS_DEFAULT);
        let seconds = seconds.max(GRACE_SECONDS_MIN).unsigned_abs();
        let evicted = self
            .evicted
            .as_ref()
            .map(|(verdict, _)| verdict.grace_seconds);
        evicted.map_or(seconds, |least| {
            seconds.min(least.max(GRACE_SECONDS_MIN.unsigned_abs()))
        })
    }

    pub(super) fn begin_stop(&mut self, pod: &Pod) {
        let at = Instant::now() + Duration::from_secs(self.grace_seconds(pod));
        self.kill_at = Some(watch::Sender::new(at));
        self.stage = Stage::Stopping;
        self.stopping.cancel();
    }

    pub(super) fn stop_all(&mut self, pod: &Arc<Pod>) {
        // A second delete may shorten the patience; nothing makes it longer.
        let wanted = Instant::now() + Duration::from_secs(self.grace_seconds(pod));
        if let Some(kill_at) = &self.kill_at {
            kill_at.send_if_modified(|at| {
                let shorter = wanted < *at;
                *at = wanted.min(*at);
                shorter
            });
        }
        for index in 0..self.units.len() {
            self.stop_one(pod, index);
        }
        let apps_alive = self
            .units
            .iter()
            .any(|u| u.kind != Kind::Sidecar && u.alive());
        if !apps_alive {
            // Sidecars go in reverse order, each when the one after it is gone.
            let last = |u: &Unit| u.kind == Kind::Sidecar && u.alive();
            if let Some(last) = self.units.iter().rposition(last) {
                self.give_turn(last);
            }
        }
        let busy = self.sandbox.is_doing() || self.volumes.is_doing();
        if !busy && !self.units.iter().any(|u| u.alive()) {
            self.over = true;
            self.cleaning = Step::Todo;
            self.stage = Stage::Cleaning;
        }
    }

    fn stop_one(&mut self, pod: &Arc<Pod>, index: usize) {
        let Some(kill_at) = self.kill_at.as_ref().map(watch::Sender::subscribe) else {
            return;
        };
        let message = format!("Stopping container {}", self.units[index].name);
        self.stop_job(pod, index, kill_at, message);
        if self.units[index].kind != Kind::Sidecar {
            self.give_turn(index);
        }
    }

    /// Its hook is through, or it has none: it may be told to stop.
    fn give_turn(&mut self, index: usize) {
        if let State::Running(running) = &mut self.units[index].state
            && let Some(turn) = running.turn.take()
        {
            // The job may have ended already.
            let _ = turn.send(());
        }
    }

    fn stop_job(
        &mut self,
        pod: &Arc<Pod>,
        index: usize,
        kill_at: watch::Receiver<Instant>,
        message: String,
    ) {
        let unit = &mut self.units[index];
        let field = Some(state::field_path(unit.kind, &unit.name));
        let State::Running(running) = &mut unit.state else {
            return;
        };
        if running.stopping {
            return;
        }
        running.stopping = true;
        let (sender, turn) = oneshot::channel();
        running.turn = Some(sender);
        let request = StopRequest {
            context: self.context.clone(),
            pod: pod.clone(),
            index,
            id: running.id.clone(),
            pod_ip: self.pod_ip,
            kill_at,
            turn,
        };
        self.context
            .events
            .pod(pod, field, false, "Killing", message);
        self.launch(jobs::stop(request));
    }

    /// Stops one container that will be restarted by its policy: a probe or a hook says it's unwell.
    pub(super) fn kill(&mut self, index: usize, why: &str, grace_seconds: Option<i64>) {
        let pod = self.pod();
        let of_spec = pod
            .spec
            .as_ref()
            .and_then(|s| s.termination_grace_period_seconds);
        let seconds = grace_seconds
            .or(of_spec)
            .unwrap_or(GRACE_SECONDS_DEFAULT)
            .max(GRACE_SECONDS_MIN);
        let name = &self.units[index].name;
        let message = match why {
            "liveness" | "startup" => {
                format!("Container {name} failed {why} probe, will be restarted")
            }
            "resized" => format!("Container {name} resize requires restart"),
            "changed" => format!("Container {name} definition changed, will be restarted"),
            why => why.to_owned(),
        };
        // The sender may go: the moment doesn't move.
        let (_, kill_at) =
            watch::channel(Instant::now() + Duration::from_secs(seconds.unsigned_abs()));
        self.stop_job(&pod, index, kill_at, message);
        self.give_turn(index);
    }

    /// Without hook, signal or patience.
    pub(super) fn kill_at_once(&mut self, index: usize) {
        let pod = self.pod();
        let (_, kill_at) = watch::channel(Instant::now());
        self.stop_job(&pod, index, kill_at, "killing".into());
        self.give_turn(index);
    }

    pub(super) fn clean(&mut self, pod: &Arc<Pod>) {
        let now = Instant::now();
        if matches!(self.cleaning, Step::Todo)
            && !self.reported
            && !self.gone
            && self.sent.tries <= PATCH_TRIES_MAX
        {
            // Exit codes live in the runtime until the API has them.
            return;
        }
        let keep_logs = !self.leaving(pod);
        match &self.cleaning {
            Step::Done if self.leaving(pod) && !self.cleaned_all => {
                self.cleaning = Step::Todo;
                self.clean(pod);
            }
            Step::Done if self.leaving(pod) => self.stage = Stage::Deleting,
            Step::Done => self.stage = Stage::Settled,
            Step::Failed { until, .. } if now < *until => {
                let until = *until;
                self.wake_by(until);
            }
            Step::Doing { .. } => {}
            Step::Todo | Step::Failed { .. } => {
                self.cleaned_all = !keep_logs;
                self.cleaning.begin();
                self.launch(jobs::clean(
                    self.context.clone(),
                    self.entry.uid.clone(),
                    keep_logs,
                ));
            }
        }
    }

    pub(super) fn delete(&mut self, pod: &Arc<Pod>) {
        // Finalizers may keep the object after our delete: then it's the others' turn, and the watch tells when it's gone.
        if self.gone || self.entry.mirror.is_some() {
            self.stage = Stage::Gone;
            return;
        }
        let now = Instant::now();
        if self.deleting.due(now) {
            self.deleting.begin();
            self.launch(super::status::delete_object(
                self.context.clone(),
                pod.clone(),
            ));
        } else if let Step::Failed { until, .. } = &self.deleting {
            let until = *until;
            self.wake_by(until);
        }
    }
}
