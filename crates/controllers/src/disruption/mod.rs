//! PodDisruptionBudget: how many pods may be evicted (`pkg/controller/disruption`). The API server holds evictions against it.

mod plan;

use std::{collections::BTreeMap, sync::Arc};

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    error::{Error, Result},
    gc::inventory::Inventory,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        recorder::Recorder,
        rest::{Ignored, Rest},
        work::{Next, WORKERS, work},
    },
    objects::{
        meta::{Key, Labels, Object, OwnerRef, Seconds, now, parse_time, rfc3339},
        pod::Pod,
        policy::{Budget, BudgetStatus},
        workload::{Deployment, ReplicaSet, ReplicationController, StatefulSet},
    },
};

const NAME: &str = "disruption";
const SOURCE: &str = "controllermanager";
/// A pod that should have been disrupted and wasn't loses the condition after this, s.
const STALE_S: i64 = 120;
/// Another look at Pods whose controller is not known, in seconds.
const ABSENT_S: i64 = 5;

struct Controller {
    rest: Rest,
    recorder: Recorder,
    budgets: Arc<Cache<Budget>>,
    pods: Arc<Cache<Pod>>,
    deployments: Arc<Cache<Deployment>>,
    sets: Arc<Cache<ReplicaSet>>,
    controllers: Arc<Cache<ReplicationController>>,
    stateful: Arc<Cache<StatefulSet>>,
    inventory: Arc<Inventory>,
    queue: Queue<Key>,
    /// pods with the condition DisruptionTarget
    stale: Queue<Key>,
}

/// The disruption controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    ctx.inventory_wanted();
    let caches = &ctx.caches;
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        recorder: ctx.recorder.clone(),
        budgets: caches.budgets.clone(),
        pods: caches.pods.clone(),
        deployments: caches.deployments.clone(),
        sets: caches.replica_sets.clone(),
        controllers: caches.replication_controllers.clone(),
        stateful: caches.stateful_sets.clone(),
        inventory: ctx.inventory.clone(),
        queue: Queue::default(),
        stale: Queue::default(),
    });
    let me = c.clone();
    c.budgets.on_change(move |_, new| {
        if let Some(b) = new {
            me.queue.add(b.metadata.key());
        }
    });
    let me = c.clone();
    c.pods.on_change(move |old, new| {
        let labels: Vec<&Labels> = [old, new]
            .into_iter()
            .flatten()
            .map(|p| &p.metadata.labels)
            .collect();
        let Some(pod) = new.or(old) else { return };
        let namespace = &pod.metadata.namespace;
        let concerned = |b: &Budget| labels.iter().any(|l| b.selects(l));
        for budget in me.budgets.in_namespace(namespace, concerned) {
            me.queue.add(budget.metadata.key());
        }
        if new.is_some_and(|p| disrupted_since(p).is_some()) {
            me.stale.add(pod.metadata.key());
        }
    });
    // their scale is what some budgets are told by
    c.deployments.want();
    c.sets.want();
    c.controllers.want();
    c.stateful.want();
    Box::pin(async move {
        c.budgets.synced().await;
        c.pods.synced().await;
        c.deployments.synced().await;
        c.sets.synced().await;
        c.controllers.synced().await;
        c.stateful.synced().await;
        futures::join!(
            work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)),
            work(NAME, &c.stale, 1, |key| c.reset(key)),
        );
    })
}

/// Since when the pod says that it is about to be disrupted, though nothing has come of it.
fn disrupted_since(pod: &Pod) -> Option<Seconds> {
    let c = pod
        .status
        .conditions
        .iter()
        .find(|c| &*c.kind == "DisruptionTarget")?;
    let waits = &*c.status == "True"
        && &*c.reason != "TerminationByKubelet"
        && !pod.metadata.deleting()
        && !pod.terminal();
    waits.then(|| parse_time(c.last_transition_time.as_deref()).unwrap_or(0))
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(budget) = self.budgets.at(&key) else {
            return Ok(Next::Wait);
        };
        let pods = self
            .pods
            .in_namespace(&key.namespace, |p| budget.selects(&p.metadata.labels));
        if pods.is_empty() {
            let message = "No matching pods found".into();
            self.recorder.normal(&*budget, SOURCE, "NoPods", message);
        }
        let now = now();
        let gone = plan::disrupted(&budget, &pods, now);
        for pod in &gone.overdue {
            let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.recorder.warning(&**pod, SOURCE, "NotDeleted", message);
        }
        let mut again_s = gone.again_s;
        let status = match self.needed(&budget, &pods).await {
            Ok(need) => plan::status(&budget, &pods, need, gone.pods, now),
            Err(why) => {
                let failed = plan::failed(&budget, &why.to_string(), now);
                if failed != budget.status {
                    let message = format!("Failed to calculate the number of expected pods: {why}");
                    let reason = "CalculateExpectedPodCountFailed";
                    self.recorder.warning(&*budget, SOURCE, reason, message);
                }
                // who made the Pods may be heard of after them, and nobody tells the budget
                if matches!(why, Error::Absent(_)) {
                    again_s = Some(again_s.map_or(ABSENT_S, |s| s.min(ABSENT_S)));
                }
                failed
            }
        };
        if status != budget.status {
            self.write(&budget, &status).await?;
        }
        Ok(again_s.map_or(Next::Wait, |s| Next::after_s(s + 1)))
    }

    async fn needed(&self, budget: &Budget, pods: &[Arc<Pod>]) -> Result<(i32, i32)> {
        let scale = match plan::needs_scale(budget) {
            true => self.scale(budget, pods).await?,
            false => 0,
        };
        plan::needed(budget, pods.len() as i32, scale).ok_or_else(|| {
            Error::Other(
                "minAvailable or maxUnavailable is neither a number nor a percentage".into(),
            )
        })
    }

    /// How many pods their controllers want in all.
    async fn scale(&self, budget: &Budget, pods: &[Arc<Pod>]) -> Result<i32> {
        let mut scales: BTreeMap<Box<str>, i32> = BTreeMap::new();
        let mut unmanaged = false;
        for pod in pods {
            let Some(owner) = pod.metadata.controller() else {
                unmanaged = true;
                continue;
            };
            if scales.contains_key(&owner.uid) {
                continue;
            }
            let found = self.scale_of(&pod.metadata.namespace, owner).await?;
            let Some((uid, scale)) = found else {
                return Err(Error::Absent(format!(
                    "found no controllers for pod {:?}",
                    pod.metadata.name
                )));
            };
            scales.insert(uid, scale);
        }
        if unmanaged {
            let selector = serde_json::to_string(&budget.spec.selector).unwrap_or_default();
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
            );
            self.recorder
                .warning(budget, SOURCE, "UnmanagedPods", message);
        }
        Ok(scales.values().sum())
    }

    /// A controller, or its own controller, and the pods that it wants.
    async fn scale_of(&self, namespace: &str, owner: &OwnerRef) -> Result<Option<(Box<str>, i32)>> {
        let name = &owner.name;
        let (group, _) = owner.api_version.rsplit_once('/').unwrap_or(("", ""));
        let is = |uid: &str| *uid == *owner.uid;
        Ok(match (group, &*owner.kind) {
            ("apps", "ReplicaSet") => {
                let Some(set) = self.sets.get(namespace, name) else {
                    return Ok(None);
                };
                if !is(&set.metadata.uid) {
                    return Ok(None);
                }
                match set.metadata.controller() {
                    Some(o) if &*o.kind == Deployment::KIND.kind => {
                        let deployment = self.deployments.get(namespace, &o.name);
                        let deployment = deployment.filter(|d| d.metadata.uid == o.uid);
                        deployment.map(|d| (d.metadata.uid.clone(), d.spec.replicas))
                    }
                    _ => Some((set.metadata.uid.clone(), set.spec.replicas)),
                }
            }
            ("apps", "StatefulSet") => self
                .stateful
                .get(namespace, name)
                .filter(|s| is(&s.metadata.uid))
                .map(|s| (s.metadata.uid.clone(), s.spec.replicas)),
            ("", "ReplicationController") => self
                .controllers
                .get(namespace, name)
                .filter(|c| is(&c.metadata.uid))
                .map(|c| (c.metadata.uid.clone(), c.spec.replicas)),
            _ => self.subresource(namespace, owner).await?,
        })
    }

    /// `…/scale` of any other kind.
    async fn subresource(
        &self,
        namespace: &str,
        owner: &OwnerRef,
    ) -> Result<Option<(Box<str>, i32)>> {
        #[derive(Deserialize)]
        struct Scale {
            metadata: crate::objects::meta::Meta,
            #[serde(default)]
            spec: Spec,
        }
        #[derive(Default, Deserialize)]
        struct Spec {
            #[serde(default)]
            replicas: i32,
        }
        let kind = self
            .inventory
            .kinds
            .read()
            .get(&owner.api_version, &owner.kind);
        let Some(kind) = kind else { return Ok(None) };
        let path = format!("{}/scale", kind.path(namespace, &owner.name));
        match self.rest.get::<Scale>(&path).await {
            Ok(s) if s.metadata.uid == owner.uid => Ok(Some((s.metadata.uid, s.spec.replicas))),
            Ok(_) => Ok(None),
            Err(e) if e.is_not_found() => Err(Error::Other(format!(
                "{} does not implement the scale subresource",
                kind.group_resource()
            ))),
            Err(e) => Err(e),
        }
    }

    async fn write(&self, budget: &Budget, status: &BudgetStatus) -> Result<()> {
        let gone = budget.status.disrupted_pods.keys();
        let gone = gone.filter(|name| !status.disrupted_pods.contains_key(*name));
        let disrupted: Map<String, Value> = status
            .disrupted_pods
            .iter()
            .map(|(name, at)| (name.to_string(), json!(at)))
            .chain(gone.map(|name| (name.to_string(), Value::Null)))
            .collect();
        let patch = json!({
            "metadata": {"resourceVersion": budget.metadata.resource_version},
            "status": {
                "observedGeneration": status.observed_generation,
                "disruptedPods": match disrupted.is_empty() {
                    true => Value::Null,
                    false => Value::Object(disrupted),
                },
                "disruptionsAllowed": status.disruptions_allowed,
                "currentHealthy": status.current_healthy,
                "desiredHealthy": status.desired_healthy,
                "expectedPods": status.expected_pods,
                "conditions": status.conditions,
            },
        });
        let path = format!("{}/status", Budget::KIND.at(&budget.metadata));
        match self.rest.merge::<Ignored>(&path, &patch).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Nothing came of the disruption: the pod goes on.
    async fn reset(&self, key: Key) -> Result<Next> {
        let Some(pod) = self.pods.at(&key) else {
            return Ok(Next::Wait);
        };
        let Some(since) = disrupted_since(&pod) else {
            return Ok(Next::Wait);
        };
        let left = since + STALE_S - now();
        if left > 0 {
            return Ok(Next::after_s(left));
        }
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"conditions": [{
                "type": "DisruptionTarget", "status": "False", "reason": Value::Null,
                "message": Value::Null, "lastTransitionTime": rfc3339(now()),
            }]},
        });
        let path = format!("{}/status", Pod::KIND.at(&pod.metadata));
        match self.rest.strategic::<Ignored>(&path, &patch).await {
            Ok(_) => Ok(Next::Wait),
            Err(e) if e.is_not_found() || e.is_conflict() => Ok(Next::Wait),
            Err(e) => Err(e),
        }
    }
}
