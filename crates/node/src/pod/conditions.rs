//! The conditions of a Pod that the node owns.
//!
//! Source: kubernetes `pkg/kubelet/status/generate.go`, `pkg/kubelet/types/pod_status.go`.

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use serde_json::{Value, json};

use super::{
    state::{Kind, Stage, Step, Unit},
    worker::Worker,
};

/// In upstream's order.
pub(super) const OWN: [&str; 6] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "AllContainersRestarting",
];

/// What is remembered of one of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Condition {
    pub status: bool,
    pub since: Option<Timestamp>,
}

struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

const TRUE: Verdict = Verdict {
    status: true,
    reason: None,
    message: None,
};

fn no(reason: Option<&'static str>, message: Option<String>) -> Verdict {
    Verdict {
        status: false,
        reason,
        message,
    }
}

impl Worker {
    /// As a part of a strategic merge patch; notes when each last changed.
    pub(super) fn conditions(&mut self, pod: &Pod, phase: &str) -> Vec<Value> {
        let generation = pod.metadata.generation.filter(|g| *g > 0);
        let verdicts = self.verdicts(pod, phase);
        let mut out = Vec::new();
        for (slot, (type_, verdict)) in self.conditions.iter_mut().zip(OWN.iter().zip(verdicts)) {
            let Some(verdict) = verdict else { continue };
            if slot.since.is_none() || slot.status != verdict.status {
                slot.since = Some(Timestamp::now());
                slot.status = verdict.status;
            }
            // Nulls, because a strategic merge would keep what's left out.
            out.push(json!({
                "type": type_,
                "status": if verdict.status { "True" } else { "False" },
                "lastProbeTime": null,
                "lastTransitionTime": slot.since.map(Time),
                "reason": verdict.reason,
                "message": verdict.message,
                "observedGeneration": generation,
            }));
        }
        out.extend(self.resize_conditions());
        if let Some((verdict, since)) = self.evicted.as_ref().filter(|(v, _)| v.disrupted) {
            out.push(json!({
                "type": "DisruptionTarget",
                "status": "True",
                "lastProbeTime": null,
                "lastTransitionTime": Time(*since),
                "reason": "TerminationByKubelet",
                "message": verdict.message,
                "observedGeneration": generation,
            }));
        }
        out
    }

    fn verdicts(&self, pod: &Pod, phase: &str) -> [Option<Verdict>; 6] {
        let containers_ready = self.containers_ready(phase);
        let mut ready = self.containers_ready(phase);
        if ready.status {
            let problems = gates(pod);
            if !problems.is_empty() {
                ready = no(Some("ReadinessGatesNotReady"), Some(problems.join(", ")));
            }
        }
        let sandboxed = match self.stage {
            Stage::Cleaning if !matches!(self.cleaning, Step::Todo) => false,
            _ => self.sandbox.is_done() || self.units.iter().any(|u| u.running().is_some()),
        };
        let sandbox = if sandboxed && !self.over {
            TRUE
        } else {
            no(None, None)
        };
        [
            Some(sandbox),
            Some(self.initialized(phase)),
            Some(ready),
            Some(containers_ready),
            Some(TRUE),
            self.all_restarting(pod, phase),
        ]
    }

    fn initialized(&self, phase: &str) -> Verdict {
        if phase == "Succeeded" {
            return Verdict {
                reason: Some("PodCompleted"),
                ..TRUE
            };
        }
        // Once initialised it stays so, even while all containers run again.
        let before = &self.conditions[1];
        if before.since.is_some() && before.status {
            return TRUE;
        }
        let app_ran = self
            .units
            .iter()
            .any(|u| u.kind == Kind::App && u.made_here);
        let incomplete = names(self.units.iter().enumerate().filter_map(|(i, u)| {
            let through = match u.kind {
                Kind::Init => self.succeeded(i),
                Kind::Sidecar => u.running().is_some_and(|r| r.started),
                Kind::App | Kind::Ephemeral => true,
            };
            (!through && !app_ran).then_some(u)
        }));
        if incomplete.is_empty() {
            return TRUE;
        }
        let message = format!("containers with incomplete status: [{incomplete}]");
        no(Some("ContainersNotInitialized"), Some(message))
    }

    fn containers_ready(&self, phase: &str) -> Verdict {
        match phase {
            "Succeeded" => return no(Some("PodCompleted"), None),
            "Failed" => return no(Some("PodFailed"), None),
            _ => {}
        }
        let unready = names(self.units.iter().filter(|u| {
            matches!(u.kind, Kind::App | Kind::Sidecar)
                && !u.running().is_some_and(|r| r.ready && !r.in_post_start)
                && !u.rests_well()
        }));
        if unready.is_empty() {
            return TRUE;
        }
        let message = format!("containers with unready status: [{unready}]");
        no(Some("ContainersNotReady"), Some(message))
    }

    /// None where no rule of the Pod asks for such a restart.
    fn all_restarting(&self, pod: &Pod, phase: &str) -> Option<Verdict> {
        if !super::restart::could_restart_all(pod) {
            return None;
        }
        Some(match phase {
            "Succeeded" => no(Some("PodCompleted"), None),
            "Failed" => no(Some("PodFailed"), None),
            _ if self.resetting => Verdict {
                status: true,
                reason: Some("RestartAllContainersStarted"),
                message: Some("container exited with restart policy rule".into()),
            },
            _ => no(None, None),
        })
    }
}

fn names<'a>(units: impl Iterator<Item = &'a Unit>) -> String {
    let names: Vec<&str> = units.map(|u| u.name.as_ref()).collect();
    names.join(" ")
}

/// What keeps the readiness gates shut.
fn gates(pod: &Pod) -> Vec<String> {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let gates = pod
        .spec
        .iter()
        .flat_map(|s| s.readiness_gates.iter().flatten());
    gates
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match conditions.into_iter().flatten().find(|c| &c.type_ == name) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {name:?} does not exist."
                )),
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate {name:?} is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect()
}
