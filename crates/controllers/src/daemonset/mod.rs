//! DaemonSet: a pod on each node that fits (`pkg/controller/daemon`).

mod plan;

use std::{collections::BTreeMap, sync::Arc};

use futures::future::{BoxFuture, join_all};
use serde_json::{Value, json};

use self::plan::{Nodes, TOLERATED, fit, node_of};
use crate::{
    error::Result,
    history::{self, REVISION_LABEL},
    machinery::{
        cache::Cache,
        context::Context,
        expectations::Expectations,
        ownership,
        pods::{PodControl, slow_start},
        queue::Queue,
        recorder::Recorder,
        rest::Rest,
        status,
        work::{Next, WORKERS, work},
    },
    objects::{
        meta::{Key, Object, now},
        node::Node,
        pod::Pod,
        template::PodName,
        workload::{ControllerRevision, DaemonSet},
    },
};

const NAME: &str = "daemonset";
const SOURCE: &str = "daemonset-controller";
/// Pods made or deleted in one go.
const BURST: usize = 250;

struct Controller {
    rest: Rest,
    recorder: Recorder,
    control: PodControl,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    sets: Arc<Cache<DaemonSet>>,
    revisions: Arc<Cache<ControllerRevision>>,
    queue: Queue<Key>,
    expected: Expectations,
}

/// The DaemonSet controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let rest = ctx.rest(NAME);
    let c = Arc::new(Controller {
        control: PodControl::new(rest.clone(), ctx.recorder.clone(), SOURCE),
        rest,
        recorder: ctx.recorder.clone(),
        pods: ctx.caches.pods.clone(),
        nodes: ctx.caches.nodes.clone(),
        sets: ctx.caches.daemon_sets.clone(),
        revisions: ctx.caches.revisions.clone(),
        queue: Queue::default(),
        expected: Expectations::default(),
    });
    c.revisions.want();
    let me = c.clone();
    c.sets.on_change(move |old, new| {
        if let Some(s) = new.or(old) {
            if new.is_none() {
                me.expected.forget(&s.metadata.key());
            }
            me.queue.add(s.metadata.key());
        }
    });
    let me = c.clone();
    c.nodes.on_change(move |old, new| {
        if let (Some(o), Some(n)) = (old, new)
            && o.metadata.labels == n.metadata.labels
            && o.spec.taints == n.spec.taints
        {
            return;
        }
        me.sets.each(|s| me.queue.add(s.metadata.key()));
    });
    let me = c.clone();
    c.pods.on_change(move |old, new| me.pod_changed(old, new));
    Box::pin(async move {
        c.sets.synced().await;
        c.pods.synced().await;
        c.nodes.synced().await;
        c.revisions.synced().await;
        work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
    })
}

impl Controller {
    fn pod_changed(&self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        let Some(pod) = new.or(old) else { return };
        let Some(o) = pod.metadata.controller() else {
            for s in self.sets.in_namespace(&pod.metadata.namespace, |s| {
                !s.spec.selector.is_empty() && s.spec.selector.matches(&pod.metadata.labels)
            }) {
                self.queue.add(s.metadata.key());
            }
            return;
        };
        if &*o.kind != "DaemonSet" {
            return;
        }
        let Some(key) = self
            .sets
            .get(&pod.metadata.namespace, &o.name)
            .filter(|s| s.metadata.uid == o.uid)
            .map(|s| s.metadata.key())
        else {
            return;
        };
        if new.is_none() || pod.metadata.deleting() {
            self.expected.deleted(&key, &pod.metadata.uid);
        } else if old.is_none() {
            self.expected.created(&key);
        }
        self.queue.add(key);
    }

    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(set) = self.sets.at(&key) else {
            self.expected.forget(&key);
            return Ok(Next::Wait);
        };
        if set.spec.selector.is_empty() || set.metadata.deleting() {
            return Ok(Next::Wait);
        }
        let candidates = self.pods.in_namespace(&key.namespace, |_| true);
        let pods = ownership::claim(&self.rest, &*set, &set.spec.selector, candidates).await?;
        let history = history::sync(
            &self.rest,
            &self.revisions,
            &*set,
            &set.spec.selector,
            &set.spec.template,
            set.status.collision_count,
        )
        .await?;
        let newest = &history.newest.metadata;
        let hash: Box<str> = newest
            .labels
            .get(REVISION_LABEL)
            .or_else(|| newest.labels.get(history::HASH_LABEL))
            .unwrap_or(&newest.name)
            .into();
        let nodes = self.nodes(&set, &pods);
        let mut next = Next::Wait;
        let mut done = Ok(());
        if self.expected.met(&key) {
            let plan = plan::plan(&set, &nodes, &hash, now());
            next = plan.next.unwrap_or(Next::Wait);
            done = self.carry_out(&key, &set, plan, &hash).await;
        }
        let mut s = plan::status(&set, &nodes, &hash, now());
        s.collision_count = history.collisions.or(s.collision_count);
        if s != set.status {
            let keep = [
                "currentNumberScheduled",
                "desiredNumberScheduled",
                "numberMisscheduled",
                "numberReady",
            ];
            status::write(&self.rest, &*set, &s, &keep).await?;
        }
        done?;
        let label = |p: &Pod| p.metadata.labels.get(REVISION_LABEL).map(str::to_owned);
        let used: Vec<_> = pods.iter().filter_map(|p| label(p)).collect();
        history::truncate(
            &self.rest,
            &history,
            set.spec.revision_history_limit,
            |name| used.iter().any(|u| name.ends_with(u.as_str())),
        )
        .await?;
        Ok(next)
    }

    fn nodes(&self, set: &DaemonSet, pods: &[Arc<Pod>]) -> Nodes {
        // the template as a pod, for what it says of nodes
        let template: Pod = serde_json::from_str(set.spec.template.raw().get()).unwrap_or_default();
        let mut nodes: Nodes = BTreeMap::new();
        self.nodes.each(|n| {
            nodes.insert(n.metadata.name.clone(), (fit(&template, n), vec![]));
        });
        for pod in pods {
            // pods of nodes that are gone are the pod collector's
            if let Some((_, pods)) = node_of(pod).and_then(|n| nodes.get_mut(n)) {
                pods.push(pod.clone());
            }
        }
        nodes
    }

    async fn carry_out(
        &self,
        key: &Key,
        set: &DaemonSet,
        mut plan: plan::Plan,
        hash: &str,
    ) -> Result<()> {
        plan.create.truncate(BURST);
        plan.delete.truncate(BURST);
        if plan.create.is_empty() && plan.delete.is_empty() {
            return Ok(());
        }
        for pod in &plan.failed {
            let message = format!(
                "Found failed daemon pod {} on node {}, will try to kill it",
                pod.metadata.key(),
                pod.spec.node_name
            );
            self.recorder
                .warning(set, SOURCE, "FailedDaemonPod", message);
        }
        self.expected.expect(
            key,
            plan.create.len(),
            plan.delete.iter().map(|p| p.metadata.uid.clone()).collect(),
        );
        let owner = set.controller_ref();
        let prefix = format!("{}-", set.metadata.name);
        let (made, error) = slow_start(plan.create.len(), |i| {
            let node = &plan.create[i];
            let body = set.spec.template.pod_with_spec(
                PodName::Prefix(&prefix),
                &key.namespace,
                &owner,
                |m| {
                    m.labels.set(REVISION_LABEL, hash);
                },
                |spec| send_to(spec, node),
            );
            async move { self.control.create(set, body).await.map(|_| ()) }
        })
        .await;
        for _ in made..plan.create.len() {
            self.expected.created(key);
        }
        let deleted = join_all(plan.delete.iter().map(|pod| async move {
            let r = self.control.delete(set, pod).await;
            if r.is_err() {
                self.expected.deleted(key, &pod.metadata.uid);
            }
            r
        }))
        .await;
        match error {
            Some(e) if e.is_namespace_terminating() => {}
            Some(e) => return Err(e),
            None => {}
        }
        // a pod that fails again and again isn't made again at once
        if !plan.failed.is_empty() {
            return Err(crate::error::Error::Other(format!(
                "{} of the daemon's pods failed and are made again",
                plan.failed.len()
            )));
        }
        deleted.into_iter().find(Result::is_err).unwrap_or(Ok(()))
    }
}

/// The pod goes to this node, and bears what daemons bear.
fn send_to(spec: &mut serde_json::Map<String, Value>, node: &str) {
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    if tolerations.is_null() {
        *tolerations = json!([]);
    }
    let host_network = spec.get("hostNetwork") == Some(&json!(true));
    if let Some(all) = spec.get_mut("tolerations").and_then(Value::as_array_mut) {
        let network =
            host_network.then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
        for (key, effect) in TOLERATED.into_iter().chain(network) {
            all.push(json!({"key": key, "operator": "Exists", "effect": effect}));
        }
    }
    let field = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
    let affinity = spec.entry("affinity").or_insert_with(|| json!({}));
    if !affinity.is_object() {
        *affinity = json!({});
    }
    if !affinity["nodeAffinity"].is_object() {
        affinity["nodeAffinity"] = json!({});
    }
    // the template's terms on labels were looked at already: the node is what counts
    affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
        json!({"nodeSelectorTerms": [{"matchFields": field}]});
}
