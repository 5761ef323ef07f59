//! What a Pod's task takes over from the process before it: containers that still run, and what the API remembers.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use knarr_runtime::{Container, State as RuntimeState};
use tokio::time::Instant;

use super::{
    jobs,
    phase::RESTARTING_ALL,
    state::{Ended, Kind, Running, State},
    worker::Worker,
};
use crate::spec::build::labels;

/// The newest container of each name that the runtime has for a Pod.
#[derive(Default)]
pub(crate) struct Found(pub(crate) Vec<Container>);

fn attempt_of(container: &Container) -> u32 {
    let label = container.spec.labels.get(labels::ATTEMPT);
    label.and_then(|a| a.parse().ok()).unwrap_or(0)
}

impl Worker {
    pub(super) fn adopt(&mut self, pod: &Pod, found: Found) {
        let status = pod.status.as_ref();
        if let Some(start) = status.and_then(|s| s.start_time.as_ref()) {
            self.start_time = start.0;
        }
        self.old_ip = status.and_then(|s| s.pod_ip.as_deref()).map(Into::into);
        let own = status
            .and_then(|s| s.conditions.as_ref())
            .into_iter()
            .flatten();
        for condition in own {
            let slot = super::conditions::OWN
                .iter()
                .position(|t| *t == condition.type_);
            if let Some(slot) = slot {
                self.conditions[slot].status = condition.status == "True";
                self.conditions[slot].since = condition.last_transition_time.as_ref().map(|t| t.0);
            }
        }
        self.resetting = self.conditions[5].status;
        let phase = status.and_then(|s| s.phase.as_deref());
        if let Some(phase @ ("Succeeded" | "Failed")) = phase {
            self.was_terminal = Some(phase.into());
        }
        let statuses: Vec<&ContainerStatus> = status
            .into_iter()
            .flat_map(|s| {
                s.init_container_statuses
                    .iter()
                    .chain(s.container_statuses.iter())
                    .chain(s.ephemeral_container_statuses.iter())
            })
            .flatten()
            .collect();
        let uid = &*self.entry.uid;
        let sandbox_stayed = self.context.engine.sandbox(uid).is_some();
        if sandbox_stayed {
            self.adopt_resize(pod, &statuses);
        } else {
            self.note_group(pod);
        }
        for index in 0..self.units.len() {
            let name = self.units[index].name.clone();
            let known = statuses.iter().find(|s| s.name == *name).copied();
            let newest = found
                .0
                .iter()
                .filter(|_| self.was_terminal.is_none())
                .filter(|c| {
                    c.spec.labels.get(labels::CONTAINER).map(String::as_str) == Some(&*name)
                })
                .max_by_key(|c| attempt_of(c));
            self.adopt_unit(pod, index, known, newest);
            let unit = &mut self.units[index];
            unit.made_here = unit.made && sandbox_stayed;
            if unit.kind == Kind::Init && !sandbox_stayed && self.was_terminal.is_none() {
                // The machine was restarted: what init containers did may be gone, so they run again.
                if let State::Ended(ended) = &unit.state {
                    unit.last = Some(ended.clone());
                    unit.state = State::Waiting {
                        reason: "",
                        message: "".into(),
                        since: Instant::now(),
                        retry_at: None,
                    };
                }
            }
        }
        if !self.resume.is_empty() {
            // What runs has its address already; the sandbox job confirms it.
            self.pod_ip = self.old_ip.as_deref().and_then(|ip| ip.parse().ok());
        }
    }

    fn adopt_unit(
        &mut self,
        pod: &Pod,
        index: usize,
        known: Option<&ContainerStatus>,
        newest: Option<&Container>,
    ) {
        let now = Instant::now();
        let unit = &mut self.units[index];
        if let Some(known) = known {
            unit.attempt = u32::try_from(known.restart_count).unwrap_or(0);
            unit.made = known.container_id.is_some();
            unit.image = known.image.as_str().into();
            unit.image_id = known.image_id.as_str().into();
            let user = known.user.as_ref().and_then(|u| u.linux.clone());
            unit.user = user.map(Box::new);
            let last = known
                .last_state
                .as_ref()
                .and_then(|s| s.terminated.as_ref());
            unit.last = last.map(|t| Box::new(remembered(t, now)));
        }
        let waits_for = known.and_then(|k| k.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
        if waits_for == Some(RESTARTING_ALL) && newest.is_none_or(|c| attempt_of(c) <= unit.attempt)
        {
            unit.await_reset();
            return;
        }
        let Some(container) = newest else {
            let current = known.and_then(|k| k.state.as_ref());
            if let Some(terminated) = current.and_then(|s| s.terminated.as_ref()) {
                unit.state = State::Ended(Box::new(remembered(terminated, now)));
            } else if unit.made && self.was_terminal.is_none() {
                let id = known
                    .and_then(|k| k.container_id.as_deref())
                    .unwrap_or_default();
                let started = current
                    .and_then(|s| s.running.as_ref())
                    .and_then(|r| r.started_at.as_ref());
                if unit
                    .last
                    .as_ref()
                    .is_some_and(|last| format!("knarr://{}", last.id) == id)
                {
                    // It had ended and was to be started again.
                    if let Some(last) = unit.last.clone() {
                        unit.state = State::Ended(last);
                    }
                } else {
                    // It ran, and nothing is left of it: the machine was restarted.
                    unit.state = State::Ended(Box::new(Ended {
                        id: id.trim_start_matches("knarr://").into(),
                        exit_code: 137,
                        reason: "ContainerStatusUnknown".into(),
                        message: Some(
                            "The container could not be located when the pod was found again"
                                .into(),
                        ),
                        started_at: started.map(|t| t.0),
                        finished_at: Timestamp::now(),
                        finished: now,
                    }));
                }
            }
            return;
        };
        let attempt = attempt_of(container);
        if let Some(current) = known
            .and_then(|k| k.state.as_ref())
            .and_then(|s| s.terminated.as_ref())
            && attempt > unit.attempt
        {
            unit.last = Some(Box::new(remembered(current, now)));
        }
        unit.attempt = attempt;
        unit.made = true;
        let label = |key: &str| {
            container
                .spec
                .labels
                .get(key)
                .map(String::as_str)
                .unwrap_or_default()
        };
        unit.image = label(labels::IMAGE).into();
        unit.image_id = label(labels::IMAGE_ID).into();
        unit.user = Some(Box::new(jobs::linux_user(&container.spec.user)));
        let id: Box<str> = container.spec.id.as_str().into();
        match &container.state {
            RuntimeState::Running { since, .. } => {
                let same =
                    known.and_then(|k| k.container_id.as_deref()) == Some(&format!("knarr://{id}"));
                let before = known
                    .filter(|_| same)
                    .map(|k| (k.started.unwrap_or(false), k.ready));
                unit.state = State::Running(Box::new(Running::new(id, jobs::time(*since))));
                self.resume.push((index, before));
            }
            RuntimeState::Exited { since, .. } => {
                // The exit job finds it ended at once, and reads its last words.
                unit.state = State::Running(Box::new(Running::new(
                    id,
                    since.map(jobs::time).unwrap_or_else(Timestamp::now),
                )));
                self.exits_to_learn.push(container.spec.id.as_str().into());
                self.watch_exit(index, pod);
            }
            RuntimeState::Failed(message) => {
                unit.state = State::Ended(Box::new(Ended {
                    id,
                    exit_code: 128,
                    reason: "StartError".into(),
                    message: Some(message.as_str().into()),
                    started_at: None,
                    finished_at: Timestamp::now(),
                    finished: now,
                }));
            }
            RuntimeState::Created => {
                unit.state = State::Ended(Box::new(Ended {
                    id,
                    exit_code: 128,
                    reason: "StartError".into(),
                    message: Some("the platform stopped before the container was started".into()),
                    started_at: None,
                    finished_at: Timestamp::now(),
                    finished: now,
                }));
            }
        }
    }

    /// Goes on watching and probing what was running.
    pub(super) fn resume(&mut self, pod: &Pod) {
        for (index, before) in std::mem::take(&mut self.resume) {
            if self.units[index].running().is_some() {
                self.watch_exit(index, pod);
                self.begin_probes(index, before, Instant::now());
            }
        }
    }
}

fn remembered(terminated: &ContainerStateTerminated, now: Instant) -> Ended {
    let finished_at = terminated
        .finished_at
        .as_ref()
        .map_or_else(Timestamp::now, |t| t.0);
    let age = Timestamp::now().duration_since(finished_at);
    let age = std::time::Duration::try_from(age).unwrap_or_default();
    let id = terminated.container_id.as_deref().unwrap_or_default();
    Ended {
        id: id.trim_start_matches("knarr://").into(),
        exit_code: terminated.exit_code,
        reason: terminated.reason.as_deref().unwrap_or("Error").into(),
        message: terminated.message.as_deref().map(Into::into),
        started_at: terminated.started_at.as_ref().map(|t| t.0),
        finished_at,
        finished: now.checked_sub(age).unwrap_or(now),
    }
}
