//! What is written for a decision: bindings, conditions, events, claims; and pods that are made to go.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::{
    error::Result,
    machinery::rest::{Delete, Ignored},
    objects::{
        meta::{Object, now, rfc3339},
        pod::Pod,
        volume::{Claim, Volume},
    },
};

use super::{
    Scheduler,
    cycle::Todo,
    preempt::{BY_SCHEDULER, Candidate, DISRUPTION_TARGET},
    verdict::{Diagnosis, Freed},
    volumes::{Plan, SELECTED_NODE, is_bound},
};

/// Who events are from.
const SOURCE: &str = "default-scheduler";
/// A pod's volumes are there after this, or the pod is looked at again (`bindTimeoutSeconds`).
const VOLUMES: Duration = Duration::from_secs(600);
/// Pods that are told to go at a time.
const AT_A_TIME: usize = 8;
/// Longest message of an event, bytes.
const NOTE_BYTES_MAX: usize = 1024;
/// How often what is said of a Pod is written again when the Pod has changed meanwhile; the next attempt says it anyway.
const UNBOUND_TRIES: usize = 3;

/// Why a pod's volumes aren't there.
enum Volumes {
    Ready,
    Failed(String),
}

fn passed_by(result: Result<Ignored>) -> Result<()> {
    match result {
        Err(e) if !e.is_not_found() && !e.is_conflict() => Err(e),
        _ => Ok(()),
    }
}

impl Scheduler {
    /// Binds a pod, once its volumes are.
    pub async fn bind(&self, pod: Arc<Pod>, node: Box<str>, todo: Todo) {
        let bound: Result<Option<String>> = async {
            let plan = &todo.volumes;
            if !plan.is_empty() {
                self.start_volumes(&node, plan).await?;
                if let Volumes::Failed(why) = self.volumes(&pod, &node, plan).await {
                    return Ok(Some(why));
                }
            }
            for reserve in &todo.devices {
                if let Err(why) = self.reserve(&pod, reserve).await {
                    let why = format!("running PreBind plugin \"DynamicResources\": {why}");
                    return Ok(Some(why));
                }
            }
            self.post_binding(&pod, &node).await?;
            Ok(None)
        }
        .await;
        let key = pod.metadata.key();
        let why = match bound {
            Ok(None) => {
                let message = format!("Successfully assigned {key} to {node}");
                self.recorder.normal(&*pod, SOURCE, "Scheduled", message);
                return;
            }
            // it went away, or someone else bound it: the watch tells, or has told
            Err(e) if e.is_not_found() || e.is_conflict() => None,
            Err(e) => {
                tracing::warn!(pod = %key, %node, error = %e, "not bound; trying again");
                Some(e.to_string())
            }
            Ok(Some(why)) => Some(why),
        };
        self.change(|s| s.failed(&pod));
        if let Some(why) = why {
            self.tell(&pod, "SchedulerError", &why, None).await;
        }
    }

    async fn post_binding(&self, pod: &Pod, node: &str) -> Result<()> {
        let meta = &pod.metadata;
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let path = format!("{}/binding", Pod::KIND.at(meta));
        let _permit = self.calls.acquire().await;
        self.rest.create::<Ignored>(&path, &body).await.map(|_| ())
    }

    /// Tells the claims' controllers and provisioners what the claims get.
    async fn start_volumes(&self, node: &str, plan: &Plan) -> Result<()> {
        for (claim, volume) in &plan.bind {
            let patch = json!({
                "metadata": {
                    "resourceVersion": volume.metadata.resource_version,
                    "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"},
                },
                "spec": {"claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "namespace": claim.metadata.namespace, "name": claim.metadata.name,
                    "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
                }},
            });
            self.rest
                .merge::<Ignored>(&Volume::KIND.at(&volume.metadata), &patch)
                .await?;
        }
        for claim in &plan.provision {
            if claim.metadata.annotations.get(SELECTED_NODE).is_some() {
                continue;
            }
            let patch = json!({"metadata": {
                "resourceVersion": claim.metadata.resource_version,
                "annotations": {SELECTED_NODE: node},
            }});
            self.rest
                .merge::<Ignored>(&Claim::KIND.at(&claim.metadata), &patch)
                .await?;
        }
        Ok(())
    }

    /// Waits until the claims are bound.
    async fn volumes(&self, pod: &Pod, node: &str, plan: &Plan) -> Volumes {
        let deadline = tokio::time::Instant::now() + VOLUMES;
        let mut changes = self.claims_changed.subscribe();
        // what was selected when it was first seen so: the cache may lag behind the write
        let mut selected = false;
        loop {
            changes.mark_unchanged();
            let mut ready = true;
            for claim in plan.bind.iter().map(|(c, _)| c).chain(&plan.provision) {
                let Some(now) = self.storage.claims.at(&claim.metadata.key()) else {
                    let name = &claim.metadata.name;
                    return Volumes::Failed(format!("persistentvolumeclaim {name:?} not found"));
                };
                ready &= is_bound(&now);
            }
            for claim in &plan.provision {
                let now = self.storage.claims.at(&claim.metadata.key());
                let on = now
                    .as_ref()
                    .and_then(|c| c.metadata.annotations.get(SELECTED_NODE));
                match on {
                    Some(n) if n == node => selected = true,
                    _ if selected && !now.as_ref().is_some_and(|c| is_bound(c)) => {
                        let key = claim.metadata.key();
                        return Volumes::Failed(format!(
                            "binding volumes: provisioning failed for PVC \"{key}\""
                        ));
                    }
                    _ => {}
                }
            }
            if ready {
                return Volumes::Ready;
            }
            let change = tokio::time::timeout_at(deadline, changes.changed());
            if change.await.is_err() {
                return Volumes::Failed("binding volumes: context deadline exceeded".into());
            }
            if self.state.lock().pending.get(&pod.metadata.uid).is_none() {
                return Volumes::Failed("the pod is gone".into());
            }
        }
    }

    /// Says why a pod can't be scheduled.
    pub async fn unschedulable(&self, pod: Arc<Pod>, diagnosis: Diagnosis, forget: bool) {
        if diagnosis.quiet {
            return;
        }
        if let Freed::Claim(claim) = &diagnosis.devices {
            self.deallocate(claim).await;
        }
        let reason = match diagnosis.error {
            Some(_) => "SchedulerError",
            None => "Unschedulable",
        };
        let nominated = (forget && !pod.status.nominated_node_name.is_empty()).then_some("");
        self.tell(&pod, reason, &diagnosis.message(), nominated)
            .await;
    }

    async fn tell(&self, pod: &Pod, reason: &str, message: &str, nominated: Option<&str>) {
        let known = pod.status.conditions.iter().any(|c| {
            &*c.kind == "PodScheduled"
                && &*c.status == "False"
                && *c.reason == *reason
                && *c.message == *message
        });
        if known && nominated.is_none() {
            return;
        }
        if !known {
            let mut note = message.to_owned();
            if note.len() > NOTE_BYTES_MAX {
                let end = (0..=NOTE_BYTES_MAX - 4)
                    .rev()
                    .find(|i| note.is_char_boundary(*i));
                note.truncate(end.unwrap_or(0));
                note.push_str(" ...");
            }
            self.recorder.warning(pod, SOURCE, "FailedScheduling", note);
        }
        let was = pod
            .status
            .conditions
            .iter()
            .find(|c| &*c.kind == "PodScheduled" && &*c.status == "False")
            .and_then(|c| c.last_transition_time.clone());
        let mut status = json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastTransitionTime": was.unwrap_or_else(|| rfc3339(now()).into()),
            "observedGeneration": pod.metadata.generation,
        }]});
        if let Some(node) = nominated {
            status["nominatedNodeName"] = if node.is_empty() {
                Value::Null
            } else {
                node.into()
            };
        }
        if let Err(e) = self.patch_unbound(pod, status).await {
            tracing::debug!(pod = %pod.metadata.key(), error = %e, "its condition wasn't written; it will be with the next attempt");
        }
    }

    /// As `patch_status`, but nothing is said of a Pod that a later attempt has bound: this write may be slow to arrive.
    async fn patch_unbound(&self, pod: &Pod, status: Value) -> Result<()> {
        let mut version = pod.metadata.resource_version.clone();
        let path = Pod::KIND.at(&pod.metadata);
        let at = format!("{path}/status");
        let _permit = self.calls.acquire().await;
        for _ in 0..UNBOUND_TRIES {
            let patch = json!({
                "metadata": {"uid": pod.metadata.uid, "resourceVersion": version},
                "status": status,
            });
            match self.rest.strategic::<Ignored>(&at, &patch).await {
                Err(e) if e.is_conflict() => {}
                other => return passed_by(other),
            }
            let now: Pod = match self.rest.get(&path).await {
                Err(e) if e.is_not_found() => return Ok(()),
                other => other?,
            };
            if now.metadata.uid != pod.metadata.uid || !now.spec.node_name.is_empty() {
                return Ok(());
            }
            version = now.metadata.resource_version;
        }
        Ok(())
    }

    async fn patch_status(&self, pod: &Pod, status: Value) -> Result<()> {
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
        let path = format!("{}/status", Pod::KIND.at(&pod.metadata));
        let _permit = self.calls.acquire().await;
        passed_by(self.rest.strategic::<Ignored>(&path, &patch).await)
    }

    /// Makes the victims go, so that the pod will have room.
    pub async fn preempt(&self, pod: Arc<Pod>, candidate: Candidate, diagnosis: Diagnosis) {
        if let Freed::Claim(claim) = &diagnosis.devices {
            self.deallocate(claim).await;
        }
        let message = diagnosis.message();
        let tell = self.tell(&pod, "Unschedulable", &message, Some(&candidate.node));
        let others = self.state.lock().less_important(&candidate.node, &pod);
        let clear = async {
            for other in others {
                self.change(|s| s.nominate(&other, ""));
                let status = json!({"nominatedNodeName": null});
                if let Err(e) = self.patch_status(&other, status).await {
                    tracing::debug!(pod = %other.metadata.key(), error = %e, "its nominated node wasn't cleared");
                }
            }
        };
        let mut victims = vec![];
        for victim in &candidate.victims {
            if !victim.metadata.deleting() {
                victims.push(self.send_off(victim, &pod, &candidate.node));
            }
        }
        let go = stream::iter(victims)
            .buffer_unordered(AT_A_TIME)
            .try_collect::<Vec<()>>();
        let (_, _, gone) = tokio::join!(tell, clear, go);
        if let Err(e) = &gone {
            tracing::warn!(pod = %pod.metadata.key(), error = %e, "not all less important pods could be made to go; trying again");
        }
        self.change(|s| s.preempted(&pod.metadata.uid, gone.is_ok()));
    }

    async fn send_off(&self, victim: &Arc<Pod>, by: &Pod, node: &str) -> Result<()> {
        let condition = json!({"conditions": [{
            "type": DISRUPTION_TARGET, "status": "True", "reason": BY_SCHEDULER,
            "message": "default-scheduler: preempting to accommodate a higher priority pod",
            "lastTransitionTime": rfc3339(now()),
            "observedGeneration": victim.metadata.generation,
        }]});
        self.patch_status(victim, condition).await?;
        let path = Pod::KIND.at(&victim.metadata);
        match self
            .rest
            .delete(&path, &Delete::uid(&victim.metadata.uid))
            .await
        {
            // another of its name
            Err(e) if e.is_conflict() => return Ok(()),
            other => other?,
        }
        let message = format!("Preempted by pod {} on node {node}", by.metadata.uid);
        self.recorder
            .normal(&**victim, SOURCE, "Preempted", message);
        Ok(())
    }
}
