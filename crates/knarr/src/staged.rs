//! An update that goes on in batches: the pause between two of them, how many may fail, and when what is new counts.
//!
//! A Deployment itself knows how many are replaced at a time and how long each must last (`minReadySeconds`). A pause is
//! that time, made longer until the last batch has begun; replicas that may fail are let go of as they fail
//! (`maxUnavailable`). When all is over, the Deployment says what the file says.
//!
//! Source: moby/swarmkit `manager/orchestrator/update/updater.go`.

use crate::{
    apply::Applier,
    error::Error,
    ready::{self, Readiness},
    work::{Replace, Unit, Work},
};
use k8s_openapi::api::apps::v1::ReplicaSet;
use knarr_compose::Update;
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// How long what replaces nothing must run until it counts: nobody is worse off when it ends later.
const STEADY: Duration = Duration::from_secs(2);

/// How far a workload has come.
#[derive(Default)]
pub struct Stage {
    /// Its Pods replace others.
    rolls: bool,
    /// The pause between two batches is in force.
    pauses: bool,
    /// The new Pods that have failed, and that the update goes on without.
    failed: BTreeSet<String>,
    /// Since when all run.
    runs_since: Option<Instant>,
}

impl Stage {
    /// What is to be applied first, and nothing is yet.
    ///
    /// # Errors
    /// When the server can't be asked what would change.
    pub async fn begin(
        &mut self,
        applier: &Applier,
        work: &Work,
        unit: &Unit,
    ) -> Result<Value, Error> {
        let object = &unit.document.object;
        let Some(update) = &unit.update else {
            return Ok(object.clone());
        };
        if !pauses(object, update) {
            return Ok(object.clone());
        }
        let asked = applier.apply(object, &work.namespace, true).await?;
        let replaces = asked.before.as_ref().is_some_and(|before| {
            unit.replace == Replace::Always
                || before["spec"]["template"] != asked.object["spec"]["template"]
        });
        self.pauses = replaces;
        Ok(match replaces {
            true => paused(object, update),
            false => object.clone(),
        })
    }

    /// It was applied, and its Pods will be replaced.
    pub fn rolls(&mut self) {
        self.rolls = true;
    }

    /// Ends the pauses once the last batch has begun; the object as it then is.
    ///
    /// # Errors
    /// When it can't be applied.
    pub async fn advance(
        &mut self,
        applier: &Applier,
        work: &Work,
        unit: &Unit,
        newest: &Value,
    ) -> Result<Option<Value>, Error> {
        let seen = Counts::of(newest);
        if !self.pauses || !seen.current || seen.updated < seen.wanted {
            return Ok(None);
        }
        self.pauses = false;
        self.apply(applier, work, unit).await.map(Some)
    }

    /// Whether the update goes on though these new Pods have failed; and sees to it that it can.
    ///
    /// # Errors
    /// When it can't be applied.
    pub async fn goes_on(
        &mut self,
        applier: &Applier,
        work: &Work,
        unit: &Unit,
        failed: BTreeSet<String>,
    ) -> Result<bool, Error> {
        let replicas = unit.document.object["spec"]["replicas"]
            .as_i64()
            .unwrap_or(1);
        let may = unit.update.as_ref().map_or(0, |u| u.may_fail(replicas));
        if !self.rolls || usize::try_from(may).unwrap_or(0) < failed.len() {
            return Ok(false);
        }
        if failed.len() > self.failed.len() {
            self.failed = failed;
            self.apply(applier, work, unit).await?;
        }
        Ok(true)
    }

    async fn apply(&self, applier: &Applier, work: &Work, unit: &Unit) -> Result<Value, Error> {
        let mut object = unit.document.object.clone();
        if let Some(update) = unit.update.as_ref().filter(|_| self.pauses) {
            object = paused(&object, update);
        }
        if let Some(most) = object.pointer_mut("/spec/strategy/rollingUpdate/maxUnavailable")
            && let Some(said) = most.as_u64()
        {
            *most = json!(said.max(self.failed.len() as u64));
        }
        Ok(applier.apply(&object, &work.namespace, false).await?.object)
    }

    /// Judges the newest object; what replaces nothing counts sooner than the cluster has it.
    pub fn judge(&mut self, newest: &Value, to_end: bool) -> Readiness {
        let judged = ready::readiness(newest, to_end);
        if matches!(judged, Readiness::Ready(_)) {
            return judged;
        }
        let seen = Counts::of(newest);
        if self.rolls && seen.known && !seen.current {
            return Readiness::Waiting("rolling out".into());
        }
        if !seen.known || !seen.current || seen.updated < seen.wanted || seen.all > seen.updated {
            self.runs_since = None;
            return judged;
        }
        let failed = self.failed.len() as i64;
        if failed > 0 && seen.available >= seen.wanted - failed {
            return Readiness::Ready(format!(
                "{}/{} ready, {failed} failed",
                seen.available, seen.wanted
            ));
        }
        if self.rolls || seen.ready < seen.wanted {
            self.runs_since = None;
            return judged;
        }
        let since = *self.runs_since.get_or_insert_with(Instant::now);
        match since.elapsed() >= STEADY {
            true => Readiness::Ready(format!("{0}/{0} ready", seen.wanted)),
            false => judged,
        }
    }

    /// How long until it may be judged otherwise, though nothing happens.
    pub fn due(&self) -> Option<Duration> {
        let left = STEADY.saturating_sub(self.runs_since?.elapsed());
        (!left.is_zero()).then_some(left)
    }
}

/// What the status of a Deployment or DaemonSet counts.
struct Counts {
    /// It is one of these.
    known: bool,
    /// The status is of the newest specification.
    current: bool,
    wanted: i64,
    all: i64,
    updated: i64,
    ready: i64,
    available: i64,
}

impl Counts {
    fn of(object: &Value) -> Counts {
        let status = |key: &str| object["status"][key].as_i64().unwrap_or(0);
        let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
        let current = status("observedGeneration") >= generation;
        match object["kind"].as_str() {
            Some("Deployment") => Counts {
                known: true,
                current,
                wanted: object["spec"]["replicas"].as_i64().unwrap_or(1),
                all: status("replicas"),
                updated: status("updatedReplicas"),
                ready: status("readyReplicas"),
                available: status("availableReplicas"),
            },
            kind => Counts {
                known: kind == Some("DaemonSet"),
                current,
                wanted: status("desiredNumberScheduled"),
                all: status("currentNumberScheduled"),
                updated: status("updatedNumberScheduled"),
                ready: status("numberReady"),
                available: status("numberAvailable"),
            },
        }
    }
}

/// Whether there is a pause to make between two batches.
fn pauses(object: &Value, update: &Update) -> bool {
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(1);
    object["kind"] == "Deployment" && !update.delay.is_zero() && update.batch(replicas) < replicas
}

/// The object, whose Pods each hold up the next batch.
fn paused(object: &Value, update: &Update) -> Value {
    let mut object = object.clone();
    let lasts = object["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
    let delay = update.delay.as_secs_f64().ceil() as i64;
    object["spec"]["minReadySeconds"] = json!(lasts.max(delay));
    object
}

/// An object by which a workload is brought back, at the pace that the file has for it.
pub fn backward(object: Value, rollback: Option<&Update>) -> Value {
    match rollback.filter(|r| pauses(&object, r)) {
        Some(rollback) => paused(&object, rollback),
        None => object,
    }
}

/// The time that the pauses take, and what has to last: nobody who asks for them is late.
pub fn allowance(object: &Value, update: Option<&Update>) -> Duration {
    let Some(update) = update else {
        return Duration::ZERO;
    };
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(1).max(1);
    let batches = (replicas + update.batch(replicas).max(1) - 1) / update.batch(replicas).max(1);
    let lasts = update.delay.max(update.monitor.unwrap_or_default());
    lasts.saturating_mul(u32::try_from(batches).unwrap_or(u32::MAX))
}

/// Whether the two differ in what their Pods are.
pub fn is_replaced(before: &Value, now: &Value) -> bool {
    before["spec"]["template"] != now["spec"]["template"]
}

/// What ran before an update that nobody brought to its end: `known` with the template of the newest of the other
/// ReplicaSets that still have Pods. None: there is no such update.
///
/// # Errors
/// When the server can't be asked.
pub async fn interrupted(client: &Client, known: &Value) -> Result<Option<Value>, Error> {
    let seen = Counts::of(known);
    let (Some(uid), Some(namespace)) = (
        known["metadata"]["uid"].as_str(),
        known["metadata"]["namespace"].as_str(),
    ) else {
        return Ok(None);
    };
    if known["kind"] != "Deployment" || seen.all <= seen.updated {
        return Ok(None);
    }
    let all = Api::<ReplicaSet>::namespaced(client.clone(), namespace)
        .list(&ListParams::default())
        .await?;
    const REVISION: &str = "deployment.kubernetes.io/revision";
    let revision_of = |set: &ReplicaSet| -> u64 {
        let said = set.annotations().get(REVISION);
        said.and_then(|r| r.parse().ok()).unwrap_or(0)
    };
    let owned = |set: &&ReplicaSet| set.owner_references().iter().any(|o| o.uid == uid);
    let mut sets: Vec<&ReplicaSet> = all.items.iter().filter(owned).collect();
    sets.sort_by_key(|set| std::cmp::Reverse(revision_of(set)));
    let older = sets
        .into_iter()
        .skip(1)
        .find(|set| set.status.as_ref().is_some_and(|s| s.replicas > 0));
    let Some(template) = older.and_then(|set| set.spec.as_ref()?.template.as_ref()) else {
        return Ok(None);
    };
    let mut template = serde_json::to_value(template).map_err(|e| Error::Failed(e.to_string()))?;
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    let mut before = known.clone();
    before["spec"]["template"] = template;
    Ok(Some(before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_compose::FailureAction;

    fn update(parallelism: i64, delay: u64, ratio: f64) -> Update {
        Update {
            parallelism,
            delay: Duration::from_secs(delay),
            start_first: None,
            failure_action: FailureAction::Rollback,
            monitor: None,
            max_failure_ratio: ratio,
        }
    }

    #[test]
    fn pauses_are_made_where_there_is_a_next_batch() {
        let object = |replicas: i64| json!({ "kind": "Deployment", "spec": { "replicas": replicas, "minReadySeconds": 5 } });
        // (replicas, at a time, delay, the object's minReadySeconds then, how much later it may be)
        for (replicas, parallelism, delay, lasts, late) in [
            (4, 2, 30, Some(30), 60),
            (4, 2, 3, Some(5), 6),
            (4, 3, 30, Some(30), 60),
            (4, 0, 30, None, 30),
            (4, 9, 30, None, 30),
            (1, 1, 30, None, 30),
            (4, 1, 0, None, 0),
        ] {
            let (object, update) = (object(replicas), update(parallelism, delay, 0.0));
            let found = pauses(&object, &update)
                .then(|| paused(&object, &update)["spec"]["minReadySeconds"].as_i64());
            let name = format!("{replicas} by {parallelism} each {delay} s");
            assert_eq!(found.flatten(), lasts, "{name}");
            assert_eq!(allowance(&object, Some(&update)).as_secs(), late, "{name}");
        }
        assert_eq!(update(1, 0, 0.5).may_fail(3), 1);
        assert_eq!(update(1, 0, 0.0).may_fail(3), 0);
        assert_eq!(update(1, 0, 1.0).may_fail(3), 3);
    }

    #[test]
    fn what_is_new_counts_sooner_than_what_replaces() {
        let object = |updated: i64, all: i64, ready: i64, available: i64| {
            json!({ "kind": "Deployment", "metadata": { "generation": 1 }, "spec": { "replicas": 2 }, "status": {
                "observedGeneration": 1, "replicas": all, "updatedReplicas": updated, "readyReplicas": ready,
                "availableReplicas": available } })
        };
        let is_ready = |stage: &mut Stage, object: &Value| {
            matches!(stage.judge(object, false), Readiness::Ready(_))
        };
        let long_ago = Instant::now().checked_sub(STEADY);
        let mut new = Stage::default();
        assert!(!is_ready(&mut new, &object(2, 2, 2, 0)), "it just runs");
        assert!(new.due().is_some());
        new.runs_since = long_ago;
        assert!(is_ready(&mut new, &object(2, 2, 2, 0)), "it has lasted");
        assert_eq!(new.due(), None, "nothing is waited for");
        assert!(!is_ready(&mut new, &object(2, 2, 1, 0)), "one has ended");
        assert_eq!(new.due(), None, "it begins anew");
        assert!(
            is_ready(&mut new, &object(2, 2, 2, 2)),
            "the cluster's word"
        );

        let mut rolls = Stage {
            rolls: true,
            runs_since: long_ago,
            ..Stage::default()
        };
        assert!(!is_ready(&mut rolls, &object(2, 2, 2, 1)), "it must last");
        rolls.failed = ["a".to_string()].into();
        assert!(is_ready(&mut rolls, &object(2, 2, 1, 1)), "one may fail");
        assert!(
            !is_ready(&mut rolls, &object(2, 3, 1, 1)),
            "an old one is left"
        );
        assert!(!is_ready(&mut rolls, &object(2, 2, 0, 0)), "two may not");
    }
}
