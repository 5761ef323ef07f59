//! The Pod's status as the API shows it, made from the task's state; sent when it has changed, one patch at a time.
//!
//! Source: kubernetes `pkg/kubelet/kubelet_pods.go` (getPhase, generateAPIPodStatus), `pkg/kubelet/status/generate.go`.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, ContainerUser, Pod, VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::PartialObjectMeta,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    jobs::{Done, PatchError},
    phase::{self, Progress, View},
    resize::amounts::Amounts,
    restart,
    state::{self, Ended, Kind, Stage, State, Unit},
    worker::Worker,
};
use crate::{
    context::Context,
    spec::{pod_resources, resources},
};

const CALL_DEADLINE: Duration = Duration::from_secs(20);

impl Worker {
    /// Sends the status if the API has another one and nothing is on its way.
    pub(super) fn report(&mut self, pod: &Arc<Pod>) {
        if self.gone
            || self.was_terminal.is_some()
            || matches!(self.stage, Stage::Settled | Stage::Deleting | Stage::Gone)
        {
            self.reported = true;
            return;
        }
        if self.sent.in_flight {
            return;
        }
        let now = Instant::now();
        let replaced = self.units.iter().filter_map(|u| u.replaced_by).max();
        if let Some(at) = replaced.filter(|at| now < *at && self.kill_at.is_none()) {
            self.wake_by(at);
            return;
        }
        if let Some(at) = self.sent.retry_at
            && now < at
        {
            self.wake_by(at);
            return;
        }
        let status = self.status(pod);
        let uid = match &self.entry.mirror {
            None => pod.metadata.uid.clone(),
            Some(mirror) => match mirror.uid() {
                Some(uid) => Some(uid.into()),
                // there is nobody to tell
                None => {
                    self.reported = true;
                    return;
                }
            },
        };
        let text = format!("{uid:?} {status}");
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        if hash == self.sent.hash {
            self.reported = true;
            return;
        }
        self.sent.in_flight = true;
        let patch = json!({"metadata": {"uid": uid}, "status": status});
        let job = patch_status(
            self.context.clone(),
            self.entry.namespace.clone(),
            self.entry.name.clone(),
            hash,
            patch,
        );
        match self.starts_again(pod) {
            true => {
                let context = self.context.clone();
                self.launch(async move { context.turns.tell(job).await });
            }
            false => self.launch(job),
        }
    }

    /// It runs, and what there is to tell is that containers have ended and start again.
    fn starts_again(&self, pod: &Pod) -> bool {
        let again = |(index, unit): (usize, &Unit)| match unit.state {
            State::Ended(_) => !self.ended_for_good(pod, index),
            _ => unit.attempt > 0,
        };
        self.stage == Stage::Live
            && self.kill_at.is_none()
            && self.units.iter().enumerate().any(again)
    }

    fn status(&mut self, pod: &Pod) -> Value {
        let (mut inits, mut apps, mut ephemeral) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (_, container)) in state::containers(pod).enumerate() {
            let Some(unit) = self.units.get(index).filter(|_| !self.rejected) else {
                continue;
            };
            let status = self.container_status(pod, index, &container);
            match unit.kind {
                Kind::App => apps.push(status),
                Kind::Ephemeral => ephemeral.push(status),
                Kind::Init | Kind::Sidecar => inits.push(status),
            }
        }
        let phase = self.phase(pod, &inits, &apps);
        let conditions = self.conditions(pod, phase);
        let generation = pod.metadata.generation.filter(|g| *g > 0);
        let why = self.failed.as_ref().filter(|_| phase == "Failed");
        let addresses = |first| self.context.network.addresses(first).into_iter();
        let host_ip = self.context.host_ip;
        let host_ips = addresses(host_ip).map(|ip| json!({"ip": ip}));
        let mut status = json!({
            "phase": phase,
            "conditions": conditions,
            "hostIP": host_ip,
            "hostIPs": host_ips.collect::<Vec<_>>(),
            "startTime": Time(self.start_time),
            "qosClass": resources::qos_class(pod),
            "containerStatuses": apps,
            "reason": why.map(|(reason, _)| reason),
            "message": why.map(|(_, message)| message),
        });
        let (allocated, in_force) = pod_resources::shown(pod);
        if let Some(allocated) = allocated {
            status["allocatedResources"] = json!(allocated);
        }
        if let Some(resources) = in_force {
            status["resources"] = json!(resources);
        }
        if !inits.is_empty() {
            status["initContainerStatuses"] = json!(inits);
        }
        if !ephemeral.is_empty() {
            status["ephemeralContainerStatuses"] = json!(ephemeral);
        }
        if let Some(generation) = generation {
            status["observedGeneration"] = json!(generation);
        }
        if let Some(ip) = self.pod_ip {
            let mut ips: Vec<_> = addresses(ip).map(|ip| json!({"ip": ip})).collect();
            let old = self.old_ip.as_deref().and_then(|old| old.parse().ok());
            for old in old.into_iter().filter(|old| *old != ip).flat_map(addresses) {
                ips.push(json!({"ip": old, "$patch": "delete"}));
            }
            status["podIP"] = json!(ip);
            status["podIPs"] = json!(ips);
        }
        status
    }

    fn container_status(&self, pod: &Pod, index: usize, container: &Container) -> ContainerStatus {
        let unit = &self.units[index];
        let (mut current, mut last) = (
            ContainerState::default(),
            unit.last.as_deref().map(terminated),
        );
        let waiting = |reason: &str, message: &str| ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: (!message.is_empty()).then(|| message.to_owned()),
        };
        let default = self.default_waiting();
        let (mut ready, mut started, mut id) =
            (false, false, unit.last.as_ref().map(|e| e.id.clone()));
        match &unit.state {
            State::Waiting { .. } if self.lost(unit.kind) => {
                current.terminated = Some(ContainerStateTerminated {
                    exit_code: 137,
                    reason: Some("ContainerStatusUnknown".into()),
                    message: Some(
                        "The container could not be located when the pod was terminated".into(),
                    ),
                    ..ContainerStateTerminated::default()
                });
            }
            State::Waiting { reason: "", .. } => current.waiting = Some(waiting(default, "")),
            State::Waiting {
                reason, message, ..
            } => current.waiting = Some(waiting(reason, message)),
            State::Starting => match &unit.last {
                Some(ended) => current.terminated = Some(terminated(ended)),
                None => current.waiting = Some(waiting(default, "")),
            },
            State::Running(running) if running.in_post_start => {
                current.waiting = Some(waiting(default, ""));
                id = Some(running.id.clone());
            }
            State::Running(running) => {
                current.running = Some(ContainerStateRunning {
                    started_at: Some(Time(running.since)),
                });
                id = Some(running.id.clone());
                started = running.started;
                ready = running.ready && matches!(unit.kind, Kind::App | Kind::Sidecar);
            }
            State::Ended(ended) => {
                id = Some(ended.id.clone());
                let stays = self.over || self.kill_at.is_some() || self.ended_for_good(pod, index);
                if unit.backing_off && !stays {
                    let seconds = unit.crash.delay().as_secs();
                    let shown = if seconds >= 60 && seconds.is_multiple_of(60) {
                        format!("{}m0s", seconds / 60)
                    } else if seconds >= 60 {
                        format!("{}m{}s", seconds / 60, seconds % 60)
                    } else {
                        format!("{seconds}s")
                    };
                    let text = format!(
                        "back-off {shown} restarting failed container={} pod={}_{}({})",
                        unit.name, self.entry.name, self.entry.namespace, self.entry.uid
                    );
                    current.waiting = Some(waiting("CrashLoopBackOff", &text));
                    last = Some(terminated(ended));
                } else {
                    current.terminated = Some(terminated(ended));
                    ready = (unit.kind == Kind::Init && ended.exit_code == 0) || unit.rests_well();
                }
            }
        }
        let effective = Amounts::effective(pod, container);
        let given = container.resources.clone().unwrap_or_default();
        let resources = if current.running.is_some() && unit.amounts != effective {
            unit.amounts.shown_in(&given)
        } else {
            given.clone()
        };
        ContainerStatus {
            name: container.name.clone(),
            state: Some(current),
            last_state: Some(ContainerState {
                terminated: last,
                ..ContainerState::default()
            }),
            ready,
            started: Some(started),
            restart_count: i32::try_from(unit.attempt).unwrap_or(i32::MAX),
            image: if unit.image.is_empty() {
                container.image.clone().unwrap_or_default()
            } else {
                unit.image.to_string()
            },
            image_id: unit.image_id.to_string(),
            container_id: id.map(|id| format!("knarr://{id}")),
            resources: Some(resources),
            allocated_resources: given.requests,
            volume_mounts: mounts(container),
            allocated_resources_status: match unit.kind {
                Kind::App => self.context.devices.health_of(pod, container),
                _ => None,
            },
            user: unit.user.as_deref().map(|user| ContainerUser {
                linux: Some(user.clone()),
            }),
            ..ContainerStatus::default()
        }
    }

    /// Whether one of this kind that doesn't run at the end counts as failed: once the Pod was initialised, what is
    /// missing of it is a failure (`TerminatePod`).
    fn lost(&self, kind: Kind) -> bool {
        let inits = |u: &Unit| matches!(u.kind, Kind::Init | Kind::Sidecar);
        let initialized = self.conditions[1].status || !self.units.iter().any(inits);
        kind == Kind::App && self.over && initialized && !self.units.iter().any(Unit::alive)
    }

    fn phase(
        &self,
        pod: &Pod,
        inits: &[ContainerStatus],
        apps: &[ContainerStatus],
    ) -> &'static str {
        let containers: Vec<_> = state::containers(pod)
            .filter(|(kind, _)| *kind != Kind::Ephemeral)
            .collect();
        let again: Vec<_> = containers
            .iter()
            .map(|(kind, c)| move |code: i32| restart::restarts(pod, c, *kind, code))
            .collect();
        let empty = ContainerState::default();
        let statuses = inits.iter().chain(apps);
        let views: Vec<View<'_>> = statuses
            .zip(&containers)
            .zip(&again)
            .map(|((status, (kind, _)), restarts)| View {
                kind: *kind,
                now: status.state.as_ref().unwrap_or(&empty),
                before: status
                    .last_state
                    .as_ref()
                    .and_then(|s| s.terminated.as_ref()),
                started: status.started == Some(true),
                restarts,
            })
            .collect();
        let progress = Progress {
            app_ran: self
                .units
                .iter()
                .any(|u| u.kind == Kind::App && u.made_here),
            over: self.over && !self.units.iter().any(Unit::alive),
            failed: self.failed.is_some(),
        };
        phase::phase(&views, progress)
    }
}

fn terminated(ended: &Ended) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: Some(format!("knarr://{}", ended.id)),
        exit_code: ended.exit_code,
        reason: Some(ended.reason.to_string()),
        message: ended.message.as_deref().map(str::to_owned),
        signal: None,
        started_at: ended.started_at.map(Time),
        finished_at: Some(Time(ended.finished_at)),
    }
}

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let list = container.volume_mounts.as_ref().filter(|m| !m.is_empty())?;
    let one = |mount: &k8s_openapi::api::core::v1::VolumeMount| {
        let read_only = mount.read_only.unwrap_or(false);
        let recursive = matches!(
            mount.recursive_read_only.as_deref(),
            Some("Enabled" | "IfPossible")
        );
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only
                .then(|| if recursive { "Enabled" } else { "Disabled" }.to_owned()),
            ..Default::default()
        }
    };
    Some(list.iter().map(one).collect())
}

async fn patch_status(
    context: Arc<Context>,
    namespace: Box<str>,
    name: Box<str>,
    hash: u64,
    patch: Value,
) -> Done {
    let api: Api<PartialObjectMeta<Pod>> = Api::namespaced(context.client.clone(), &namespace);
    let params = PatchParams::default();
    let patch = Patch::Strategic(patch);
    let call = api.patch_status(&name, &params, &patch);
    let result = match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(PatchError::Gone),
        Ok(Err(kube::Error::Api(status)))
            if status.code == 409 && status.message.to_lowercase().contains("uid") =>
        {
            Err(PatchError::Gone)
        }
        Ok(Err(error)) => Err(PatchError::Failed(error.to_string())),
        Err(_) => Err(PatchError::Failed(
            "the API server did not answer in time".into(),
        )),
    };
    Done::Patched { hash, result }
}

/// The last word: the object itself is deleted, now that nothing of it is left here.
pub(super) async fn delete_object(context: Arc<Context>, pod: Arc<Pod>) -> Done {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let api: Api<PartialObjectMeta<Pod>> = Api::namespaced(context.client.clone(), namespace);
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let result = match tokio::time::timeout(CALL_DEADLINE, api.delete(name, &params)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the API server did not answer in time".into()),
    };
    Done::Deleted(result)
}
