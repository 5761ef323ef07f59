//! Scheduler: binds pods to nodes through `/binding`, and says why when it can't.

mod fit;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::json;

use self::fit::Load;
use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        recorder::Recorder,
        rest::{Ignored, Rest},
        work::{Next, WORKERS, work},
    },
    objects::{
        meta::{Key, Object, now, rfc3339},
        node::Node,
        pod::Pod,
        volume::{Claim, StorageClass, Volume},
    },
};

const NAME: &str = "scheduler";
const SOURCE: &str = "default-scheduler";
/// Annotation on a claim: the node that its first consumer goes to.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// The node a pod was given, and the pod as it was then.
type Assumed = (Box<str>, Arc<Pod>);

struct Scheduler {
    rest: Rest,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    claims: Arc<Cache<Claim>>,
    volumes: Arc<Cache<Volume>>,
    classes: Arc<Cache<StorageClass>>,
    queue: Queue<Key>,
    /// bound by us, not yet seen bound: by uid, the node
    assumed: Mutex<HashMap<Box<str>, Assumed>>,
    /// to look at again when nodes, pods or volumes change
    waiting: Mutex<HashSet<Key>>,
}

/// Where a pod may go, or what it waits for.
enum Decision {
    Bind(Box<str>),
    /// claims to provision on the node first
    Provision(Box<str>, Vec<Arc<Claim>>),
    Unschedulable(String),
}

/// The scheduler.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let caches = &ctx.caches;
    let s = Arc::new(Scheduler {
        rest: ctx.rest(NAME),
        recorder: ctx.recorder.clone(),
        pods: caches.pods.clone(),
        nodes: caches.nodes.clone(),
        claims: caches.claims.clone(),
        volumes: caches.volumes.clone(),
        classes: caches.classes.clone(),
        queue: Queue::default(),
        assumed: Mutex::default(),
        waiting: Mutex::default(),
    });
    let me = s.clone();
    s.pods.on_change(move |old, new| me.pod_changed(old, new));
    let me = s.clone();
    s.nodes.on_change(move |old, new| {
        if let (Some(o), Some(n)) = (old, new)
            && o.ready() == n.ready()
            && o.spec.unschedulable == n.spec.unschedulable
            && o.spec.taints == n.spec.taints
            && o.status.allocatable == n.status.allocatable
            && o.metadata.labels == n.metadata.labels
        {
            return;
        }
        me.wake();
    });
    let me = s.clone();
    s.claims.on_change(move |_, _| me.wake());
    let me = s.clone();
    s.volumes.on_change(move |_, _| me.wake());
    let me = s.clone();
    s.classes.on_change(move |_, _| me.wake());
    Box::pin(async move {
        s.pods.synced().await;
        s.nodes.synced().await;
        s.claims.synced().await;
        s.volumes.synced().await;
        s.classes.synced().await;
        work(NAME, &s.queue, WORKERS, |key| s.schedule(key)).await;
    })
}

fn ours(pod: &Pod) -> bool {
    pod.spec.node_name.is_empty()
        && pod.active()
        && matches!(&*pod.spec.scheduler_name, "" | "default-scheduler")
        && pod.spec.scheduling_gates.is_empty()
}

impl Scheduler {
    fn pod_changed(&self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        match new {
            Some(pod) if ours(pod) => {
                // a status of ours is no reason to look again
                if old.is_none_or(|o| !ours(o)) {
                    self.queue.add(pod.metadata.key());
                }
            }
            Some(pod) if pod.active() => {
                self.waiting.lock().remove(&pod.metadata.key());
                if !pod.spec.node_name.is_empty() {
                    self.assumed.lock().remove(&pod.metadata.uid);
                }
            }
            gone => {
                let Some(pod) = gone.or(old) else { return };
                self.assumed.lock().remove(&pod.metadata.uid);
                self.waiting.lock().remove(&pod.metadata.key());
                // room was made, when it goes or ends (once)
                if gone.is_none() || old.is_some_and(|o| !o.terminal() && pod.terminal()) {
                    self.wake();
                }
            }
        }
    }

    fn wake(&self) {
        for key in self.waiting.lock().drain() {
            self.queue.add(key);
        }
    }

    async fn schedule(&self, key: Key) -> Result<Next> {
        let Some(pod) = self.pods.at(&key).filter(|p| ours(p)) else {
            return Ok(Next::Wait);
        };
        let decision = {
            let mut assumed = self.assumed.lock();
            if assumed.contains_key(&pod.metadata.uid) {
                return Ok(Next::Wait);
            }
            // before looking: what changes from here on wakes it
            self.waiting.lock().insert(key.clone());
            let d = self.decide(&pod, &assumed);
            if let Decision::Bind(node) = &d {
                assumed.insert(pod.metadata.uid.clone(), (node.clone(), pod.clone()));
            }
            d
        };
        match decision {
            Decision::Bind(node) => {
                self.waiting.lock().remove(&key);
                let bound = self.bind(&pod, &node).await;
                if bound.is_err() {
                    self.assumed.lock().remove(&pod.metadata.uid);
                }
                match bound {
                    // it went away, or someone else bound it: the watch will tell
                    Err(e) if e.is_not_found() || e.is_conflict() => Ok(Next::Wait),
                    Err(e) => Err(e),
                    Ok(()) => {
                        let message = format!("Successfully assigned {key} to {node}");
                        self.recorder.normal(&*pod, SOURCE, "Scheduled", message);
                        Ok(Next::Wait)
                    }
                }
            }
            Decision::Provision(node, claims) => {
                for claim in claims {
                    let patch = json!({"metadata": {
                        "resourceVersion": claim.metadata.resource_version,
                        "annotations": {SELECTED_NODE: node},
                    }});
                    self.rest
                        .merge::<Ignored>(&Claim::KIND.at(&claim.metadata), &patch)
                        .await?;
                }
                Ok(Next::Wait)
            }
            Decision::Unschedulable(message) => {
                self.cannot(&pod, message).await?;
                Ok(Next::Wait)
            }
        }
    }

    fn decide(&self, pod: &Pod, assumed: &HashMap<Box<str>, (Box<str>, Arc<Pod>)>) -> Decision {
        let (bound, unbound) = match self.claims_of(pod) {
            Ok(c) => c,
            Err(message) => return Decision::Unschedulable(message),
        };
        let mut loads: HashMap<Box<str>, Load> = HashMap::new();
        self.pods.each(|p| {
            if !p.terminal() && !p.spec.node_name.is_empty() {
                loads.entry(p.spec.node_name.clone()).or_default().add(p);
            }
        });
        for (node, p) in assumed.values() {
            loads.entry(node.clone()).or_default().add(p);
        }
        let nothing = Load::default();
        let wants = pod.requests();
        let mut count = 0;
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut best: Option<(i64, i64, Arc<Node>)> = None;
        self.nodes.each(|node| {
            count += 1;
            let load = loads.get(&node.metadata.name).unwrap_or(&nothing);
            let mut obstacles = fit::obstacles(pod, &wants, node, load);
            if obstacles.is_empty() && !bound.iter().all(|v| reaches(v, node)) {
                obstacles.push("node(s) didn't match PersistentVolume's node affinity".into());
            }
            if obstacles.is_empty()
                && unbound
                    .iter()
                    .filter_map(|c| c.metadata.annotations.get(SELECTED_NODE))
                    .any(|n| n != &*node.metadata.name)
            {
                obstacles.push("node(s) aren't where the pod's volumes are being made".into());
            }
            if !obstacles.is_empty() {
                for o in obstacles {
                    *reasons.entry(o).or_default() += 1;
                }
                return;
            }
            let score = (fit::score(&wants, node, load), -load.pods);
            if best
                .as_ref()
                .is_none_or(|(s, p, n)| (score, &n.metadata.name) > ((*s, *p), &node.metadata.name))
            {
                best = Some((score.0, score.1, node.clone()));
            }
        });
        match best {
            None => Decision::Unschedulable(fit::summary(count, &reasons)),
            Some((_, _, node)) if unbound.is_empty() => Decision::Bind(node.metadata.name.clone()),
            Some((_, _, node)) => {
                let unmarked = unbound
                    .into_iter()
                    .filter(|c| c.metadata.annotations.get(SELECTED_NODE).is_none())
                    .collect();
                Decision::Provision(node.metadata.name.clone(), unmarked)
            }
        }
    }

    /// Volumes that the pod's claims are bound to, and claims that wait for it; Err: why it must wait.
    #[allow(clippy::type_complexity)]
    fn claims_of(&self, pod: &Pod) -> Result<(Vec<Arc<Volume>>, Vec<Arc<Claim>>), String> {
        let (mut bound, mut unbound) = (vec![], vec![]);
        for name in pod.claims() {
            let Some(claim) = self.claims.get(&pod.metadata.namespace, &name) else {
                return Err(format!("persistentvolumeclaim {:?} not found", &*name));
            };
            if claim.metadata.deleting() {
                return Err(format!(
                    "persistentvolumeclaim {:?} is being deleted",
                    &*name
                ));
            }
            if !claim.spec.volume_name.is_empty() && &*claim.status.phase == "Bound" {
                match self.volumes.get("", &claim.spec.volume_name) {
                    Some(v) => bound.push(v),
                    None => {
                        return Err(format!(
                            "persistentvolume {:?} not found",
                            &*claim.spec.volume_name
                        ));
                    }
                }
                continue;
            }
            let waits = claim
                .spec
                .storage_class_name
                .as_deref()
                .filter(|c| !c.is_empty())
                .and_then(|c| self.classes.get("", c))
                .is_some_and(|c| c.waits_for_consumer());
            if !waits {
                return Err("pod has unbound immediate PersistentVolumeClaims".into());
            }
            unbound.push(claim);
        }
        Ok((bound, unbound))
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Result<()> {
        let meta = &pod.metadata;
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        self.rest
            .create::<Ignored>(&format!("{}/binding", Pod::KIND.at(meta)), &body)
            .await
            .map(|_| ())
    }

    async fn cannot(&self, pod: &Pod, message: String) -> Result<()> {
        let known =
            pod.status.conditions.iter().any(|c| {
                &*c.kind == "PodScheduled" && &*c.status == "False" && *c.message == *message
            });
        if known {
            return Ok(());
        }
        self.recorder
            .warning(pod, SOURCE, "FailedScheduling", message.clone());
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": message, "lastTransitionTime": rfc3339(now()),
        }]}});
        let path = format!("{}/status", Pod::KIND.at(&pod.metadata));
        match self.rest.strategic::<Ignored>(&path, &patch).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// The volume can be mounted on the node.
fn reaches(volume: &Volume, node: &Node) -> bool {
    volume
        .spec
        .node_affinity
        .as_ref()
        .and_then(|a| a.required.as_ref())
        .is_none_or(|s| s.matches(&node.metadata.name, &node.metadata.labels))
}
