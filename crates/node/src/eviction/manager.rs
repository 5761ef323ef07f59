//! Looks at the machine every ten seconds, and acts.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{Api, api::ListParams};
use tokio::time::Instant;

use super::{
    Verdict,
    decide::{self, Memory, Observations},
    observe,
    rank::{self, Candidate, ContainerUsed, Used},
    storage,
    threshold::{Signal, Threshold},
};
use crate::{
    context::Context,
    events::Note,
    image_gc::ImageGc,
    pod::entry::{Entry, Registry},
    spec::pod_resources,
};

/// Between two looks.
const EVERY: Duration = if cfg!(test) {
    Duration::from_millis(200)
} else {
    Duration::from_secs(10)
};
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// How long a Pod that was told to go is waited for before another is.
const GOING: Duration = Duration::from_secs(30);
/// Patience with a Pod that a hard threshold evicts.
const GRACE_AT_ONCE: u64 = 1;

pub(crate) struct Manager {
    pub context: Arc<Context>,
    pub registry: Registry,
    pub images: Arc<ImageGc>,
}

impl Manager {
    /// Until cancelled.
    pub(crate) async fn run(self) {
        let mut memory = Memory::default();
        let mut beat = tokio::time::interval(EVERY);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            self.share_cpu().await;
            self.look(&mut memory).await;
        }
    }

    /// Best-effort Pods share the least, burstable ones together what they ask for.
    ///
    /// Source: kubernetes `pkg/kubelet/cm/qos_container_manager_linux.go` (setCPUCgroupConfig).
    async fn share_cpu(&self) {
        let asked: i64 = self
            .registry
            .all()
            .iter()
            .filter(|e| e.burstable)
            .filter_map(|e| e.share.lock().has)
            .map(|has| has.cpu_milli)
            .sum();
        for (path, milli) in [
            (pod_resources::ALL, self.context.cpus_milli),
            (pod_resources::BURSTABLE, asked),
            (pod_resources::BEST_EFFORT, 0),
        ] {
            let resources = knarr_runtime::Resources {
                cpu_shares: Some(crate::spec::resources::shares(milli)),
                ..knarr_runtime::Resources::default()
            };
            if let Err(error) = self.context.engine.set_group(path, resources).await {
                tracing::debug!(path, %error, "the share of a class of pods was not set");
            }
        }
    }

    async fn observe(&self) -> Observations {
        let context = self.context.clone();
        tokio::task::spawn_blocking(move || observe::node(&context))
            .await
            .unwrap_or_default()
    }

    async fn look(&self, memory: &mut Memory) {
        let settings = &self.context.settings.eviction;
        let observations = self.observe().await;
        let decision = memory.decide(
            &settings.thresholds,
            &observations,
            settings.pressure_transition,
            Instant::now(),
        );
        self.context.pressure.send_if_modified(|known| {
            let changed = *known != decision.conditions;
            known.clone_from(&decision.conditions);
            changed
        });
        if self.hold_to_limits().await {
            return;
        }
        if let Some(threshold) = decision.starved.first() {
            self.relieve(threshold, &observations).await;
        }
    }

    /// Pods that have written more than they may. Tells whether one had to go.
    async fn hold_to_limits(&self) -> bool {
        let limited: Vec<Arc<Entry>> = self
            .registry
            .all()
            .into_iter()
            .filter(|e| e.storage.is_some() && runs(e))
            .collect();
        if limited.is_empty() {
            return false;
        }
        let context = self.context.clone();
        let over = tokio::task::spawn_blocking(move || -> Vec<(Arc<Entry>, String)> {
            let over = |e: Arc<Entry>| Some((e.clone(), storage::exceeded(&context, &e)?));
            limited.into_iter().filter_map(over).collect()
        });
        let over = over.await.unwrap_or_default();
        let mut gone = false;
        for (entry, message) in over {
            gone |= entry.mailbox.evict(Verdict {
                message,
                grace_seconds: GRACE_AT_ONCE,
                disrupted: false,
            });
        }
        gone
    }

    async fn relieve(&self, threshold: &Threshold, observations: &Observations) {
        let resource = threshold.signal.resource();
        tracing::warn!(
            signal = threshold.signal.name(),
            "the node is short of {resource}"
        );
        let node = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.context.name.clone()),
            uid: Some(self.context.name.clone()),
            ..ObjectReference::default()
        };
        self.context.events.send(Note {
            object: node,
            warning: true,
            reason: "EvictionThresholdMet",
            message: format!("Attempting to reclaim {resource}"),
        });
        if matches!(resource, "ephemeral-storage" | "inodes") {
            self.images.remove_unused().await;
            let now = self.observe().await;
            if decide::relieved(&self.context.settings.eviction.thresholds, &now) {
                return;
            }
        }
        let mut candidates = match self.candidates(threshold.signal).await {
            Ok(candidates) => candidates,
            Err(error) => {
                tracing::warn!(%error, "no pod can be evicted now");
                return;
            }
        };
        rank::rank(&mut candidates, threshold.signal);
        // one at a time: it may be enough
        for candidate in &candidates {
            let pod = &candidate.pod;
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let Some(entry) = self.registry.get(uid) else {
                continue;
            };
            if rank::is_critical(pod) {
                continue;
            }
            let verdict = Verdict {
                message: rank::message(candidate, threshold, observations),
                grace_seconds: self.patience(pod, threshold),
                disrupted: true,
            };
            if entry.mailbox.evict(verdict) {
                tracing::warn!(pod = %entry.name, namespace = %entry.namespace, "evicted for want of {resource}");
                self.gone(&entry).await;
                return;
            }
        }
        tracing::warn!("no pod can be evicted to reclaim {resource}");
    }

    fn patience(&self, pod: &Pod, threshold: &Threshold) -> u64 {
        if threshold.grace.is_none() {
            return GRACE_AT_ONCE;
        }
        let most = self.context.settings.eviction.pod_grace_max.as_secs();
        let spec = pod.spec.as_ref();
        let own = spec.and_then(|s| s.termination_grace_period_seconds);
        own.map_or(most, |own| most.min(own.max(0).unsigned_abs()))
    }

    /// Until nothing of it runs any more, for so long as that may take.
    async fn gone(&self, entry: &Entry) {
        let until = Instant::now() + GOING;
        while runs(entry) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// The node's Pods that have anything running, and what each uses.
    async fn candidates(&self, signal: Signal) -> Result<Vec<Candidate>, String> {
        let api: Api<Pod> = Api::all(self.context.client.clone());
        let params = ListParams::default().fields(&format!("spec.nodeName={}", self.context.name));
        let list = tokio::time::timeout(CALL_DEADLINE, api.list(&params))
            .await
            .map_err(|_| "the API server did not answer in time")?
            .map_err(|e| e.to_string())?;
        let entries: Vec<(Pod, Arc<Entry>)> = list
            .items
            .into_iter()
            .filter_map(|pod| {
                let entry = self.registry.get(pod.metadata.uid.as_deref()?)?;
                runs(&entry).then_some((pod, entry))
            })
            .collect();
        let context = self.context.clone();
        let on_disk = matches!(signal.resource(), "ephemeral-storage" | "inodes");
        let measured = tokio::task::spawn_blocking(move || {
            let one = |(pod, entry): (Pod, Arc<Entry>)| Candidate {
                used: used(&context, &entry, on_disk),
                pod,
            };
            entries.into_iter().map(one).collect()
        });
        measured.await.map_err(|e| e.to_string())
    }
}

/// Whether it has a container that runs.
fn runs(entry: &Entry) -> bool {
    entry.units.lock().iter().any(|u| u.running.is_some())
}

/// Blocking. Folders are walked only when it's the disk that is short.
fn used(context: &Context, entry: &Entry, on_disk: bool) -> Option<Used> {
    let mut all = Used::default();
    let written = on_disk.then(|| storage::containers(context, entry));
    for unit in entry.units.lock().clone() {
        let disk = written
            .iter()
            .flatten()
            .find(|(name, _)| *name == unit.name)
            .map(|(_, taken)| *taken)
            .unwrap_or_default();
        let usage = unit
            .running
            .as_deref()
            .and_then(|id| context.engine.cgroup(id))
            .and_then(|group| context.engine.usage(&group));
        let memory_bytes = usage.as_ref().map_or(0, |u| u.memory.working_set_bytes);
        all.memory_bytes += memory_bytes;
        all.processes += usage.map_or(0, |u| u.pids.current);
        all.disk_bytes += disk.bytes;
        all.inodes += disk.inodes;
        all.containers.push(ContainerUsed {
            name: unit.name.into(),
            memory_bytes,
            disk_bytes: disk.bytes,
        });
    }
    if on_disk {
        let volumes = storage::volumes_taken(context, entry);
        all.disk_bytes += volumes.bytes;
        all.inodes += volumes.inodes;
    }
    Some(all)
}
