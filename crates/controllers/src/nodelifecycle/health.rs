//! A node whose lease is renewed no more has fallen silent: nothing is known of its conditions, and its Pods are not ready
//! (`pkg/controller/nodelifecycle`, `monitorNodeHealth`; KEP-0009).
//!
//! Silence is measured by this process's own clock, from when a renewal was seen: a jump of the machine's time is none.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

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
        meta::{Condition, Key, Object, now, rfc3339},
        node::Node,
        pod::Pod,
    },
};

const NAME: &str = "nodelifecycle";
/// Who tells of it.
const SOURCE: &str = "node-controller";
const LEASES: &str = "kube-node-lease";
/// `--node-startup-grace-period`
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// Of these nothing is known of a silent node.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

struct Controller {
    rest: Rest,
    recorder: Recorder,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
    /// When each node was last heard of; one for each node there is.
    heard: Mutex<HashMap<Box<str>, Instant>>,
    queue: Queue<Key>,
    grace: Duration,
}

/// Watches over the nodes' signs of life.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        recorder: ctx.recorder.clone(),
        nodes: ctx.caches.nodes.clone(),
        pods: ctx.caches.pods.clone(),
        heard: Mutex::default(),
        queue: Queue::default(),
        grace: ctx.config.node_grace,
    });
    // one that says so late, of a node that nothing is known of already
    let me = c.clone();
    c.pods.on_change(move |_, new| {
        let Some(pod) = new.filter(|pod| pod.ready()) else {
            return;
        };
        let node = me.nodes.get("", &pod.spec.node_name);
        if let Some(node) = node.filter(|node| is_silent(node)) {
            me.queue.add(node.metadata.key());
        }
    });
    let me = c.clone();
    c.nodes.on_change(move |old, new| match (old, new) {
        (Some(old), None) => drop(me.heard.lock().remove(&old.metadata.name)),
        (old, Some(new)) if old.is_none_or(|old| beat(old) != beat(new)) => me.hear(new),
        _ => {}
    });
    let me = c.clone();
    ctx.caches.leases.on_change(move |old, new| {
        let Some(lease) = new.filter(|l| &*l.metadata.namespace == LEASES) else {
            return;
        };
        if old.is_none_or(|old| old.spec.renew_time != lease.spec.renew_time)
            && let Some(node) = me.nodes.get("", &lease.metadata.name)
        {
            me.hear(&node);
        }
    });
    Box::pin(async move {
        c.nodes.synced().await;
        c.pods.synced().await;
        work(NAME, &c.queue, WORKERS, |key| c.visit(key)).await;
    })
}

/// When the node last said of itself that it lives.
fn beat(node: &Node) -> Option<&str> {
    let ready = node.status.conditions.iter().find(|c| &*c.kind == "Ready");
    ready.and_then(|c| c.last_heartbeat_time.as_deref())
}

fn is_silent(node: &Node) -> bool {
    let is_unknown = |c: &Condition| &*c.kind == "Ready" && &*c.status == "Unknown";
    node.status.conditions.iter().any(is_unknown)
}

fn said_nothing_yet(node: &Node) -> bool {
    !node.status.conditions.iter().any(|c| &*c.kind == "Ready")
}

impl Controller {
    fn grace(&self, node: &Node) -> Duration {
        match said_nothing_yet(node) {
            true => STARTUP_GRACE.max(self.grace),
            false => self.grace,
        }
    }

    fn hear(&self, node: &Node) {
        let mut heard = self.heard.lock();
        heard.insert(node.metadata.name.clone(), Instant::now());
        self.queue.add_after(node.metadata.key(), self.grace(node));
    }

    async fn visit(&self, key: Key) -> Result<Next> {
        let Some(node) = self.nodes.at(&key) else {
            return Ok(Next::Wait);
        };
        let heard = self.heard.lock().get(&*key.name).copied();
        let silence = heard.map_or(Duration::ZERO, |at| at.elapsed());
        let grace = self.grace(&node);
        if silence < grace {
            return Ok(Next::After(grace - silence));
        }
        let was_ready = node.ready();
        if let Some(conditions) = unknown(&node) {
            let path = format!("{}/status", Node::KIND.at(&node.metadata));
            let patch = json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": conditions}});
            match self.rest.strategic::<Ignored>(&path, &patch).await {
                Err(e) if e.is_not_found() => return Ok(Next::Wait),
                done => _ = done?,
            }
            tracing::warn!(node = %key.name, seconds = silence.as_secs(), "a node is heard of no more");
        }
        if was_ready {
            let name = &node.metadata.name;
            let message = format!("Node {name} status is now: NodeNotReady");
            self.recorder
                .normal(&*node, SOURCE, "NodeNotReady", message);
        }
        self.pods_are_not_ready(&node.metadata.name).await?;
        Ok(Next::Wait)
    }

    /// What runs on a node that nothing is known of must not be relied on.
    async fn pods_are_not_ready(&self, node: &str) -> Result<()> {
        let mut ready = vec![];
        self.pods.each(|pod| {
            if &*pod.spec.node_name == node && pod.ready() {
                ready.push(pod.clone());
            }
        });
        for pod in ready {
            let path = format!("{}/status", Pod::KIND.at(&pod.metadata));
            let condition =
                json!({"type": "Ready", "status": "False", "lastTransitionTime": rfc3339(now())});
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
            match self.rest.strategic::<Ignored>(&path, &patch).await {
                Err(e) if e.is_not_found() || e.is_conflict() => {}
                done => _ = done?,
            }
            self.recorder
                .warning(&*pod, SOURCE, "NodeNotReady", "Node is not ready".into());
        }
        Ok(())
    }
}

/// The conditions that a silent node is to have, when it hasn't.
fn unknown(node: &Node) -> Option<Vec<Value>> {
    let at = rfc3339(now());
    let mut all = vec![];
    for kind in CONDITIONS {
        let is = node.status.conditions.iter().find(|c| &*c.kind == kind);
        let (reason, message, heartbeat) = match is {
            Some(is) if &*is.status == "Unknown" => continue,
            Some(is) => (
                "NodeStatusUnknown",
                "Kubelet stopped posting node status.",
                is.last_heartbeat_time.as_deref().map(str::to_owned),
            ),
            None => (
                "NodeStatusNeverUpdated",
                "Kubelet never posted node status.",
                node.metadata.creation_timestamp.map(rfc3339),
            ),
        };
        all.push(
            json!({"type": kind, "status": "Unknown", "reason": reason, "message": message,
            "lastHeartbeatTime": heartbeat, "lastTransitionTime": at}),
        );
    }
    (!all.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_of_a_silent_node() {
        let check = |name: &str, conditions: Value, want: &[&str]| {
            let node = json!({"metadata": {"name": "n", "creationTimestamp": rfc3339(7)}, "status": {"conditions": conditions}});
            let node: Node = serde_json::from_value(node).unwrap();
            let got: Vec<String> = unknown(&node)
                .into_iter()
                .flatten()
                .map(|c| {
                    format!(
                        "{} {}",
                        c["type"].as_str().unwrap(),
                        c["reason"].as_str().unwrap()
                    )
                })
                .collect();
            assert_eq!(got, want, "{name}");
        };
        let all = |status: &str| {
            CONDITIONS
                .map(
                    |kind| json!({"type": kind, "status": status, "lastHeartbeatTime": rfc3339(9)}),
                )
                .to_vec()
        };
        check(
            "one that spoke",
            all("True").into(),
            &CONDITIONS
                .map(|kind| format!("{kind} NodeStatusUnknown"))
                .each_ref()
                .map(|s| s.as_str()),
        );
        check(
            "one that never did",
            json!([]),
            &CONDITIONS
                .map(|kind| format!("{kind} NodeStatusNeverUpdated"))
                .each_ref()
                .map(|s| s.as_str()),
        );
        check("one that is known to be silent", all("Unknown").into(), &[]);
    }
}
