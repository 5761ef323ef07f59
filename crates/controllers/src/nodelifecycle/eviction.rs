//! Ends Pods on nodes with a `NoExecute` taint that they don't bear, or bear only for a while (`pkg/controller/tainteviction`).

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        recorder::Recorder,
        rest::{Delete, Ignored, Rest},
        work::{Next, WORKERS, work},
    },
    objects::{
        meta::{Key, Object, now, rfc3339},
        node::{Node, Taint},
        pod::{Pod, Toleration},
    },
};

const NAME: &str = "tainteviction";
const SOURCE: &str = "taint-eviction-controller";
const REASON: &str = "TaintManagerEviction";

struct Controller {
    rest: Rest,
    recorder: Recorder,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
    /// Since when a Pod's patience is counted; at most one for each Pod on a node with such a taint.
    counting: Mutex<HashMap<Key, Instant>>,
    queue: Queue<Key>,
}

/// The taint manager.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        recorder: ctx.recorder.clone(),
        nodes: ctx.caches.nodes.clone(),
        pods: ctx.caches.pods.clone(),
        counting: Mutex::default(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.pods.on_change(move |old, new| match (old, new) {
        (Some(old), None) => drop(me.counting.lock().remove(&old.metadata.key())),
        (old, Some(pod)) => {
            let same = old.is_some_and(|old| {
                old.spec.node_name == pod.spec.node_name
                    && old.spec.tolerations == pod.spec.tolerations
            });
            let node = me.nodes.get("", &pod.spec.node_name);
            if !same && node.is_some_and(|node| tainted(&node).next().is_some()) {
                me.queue.add(pod.metadata.key());
            }
        }
        _ => {}
    });
    let me = c.clone();
    c.nodes.on_change(move |old, new| {
        let Some(node) = new else { return };
        let none = Node::default();
        let old = old.map_or(&none, |old| &**old);
        if tainted(old).eq(tainted(node)) {
            return;
        }
        me.pods.each(|pod| {
            if pod.spec.node_name == node.metadata.name {
                me.queue.add(pod.metadata.key());
            }
        });
    });
    Box::pin(async move {
        c.nodes.synced().await;
        c.pods.synced().await;
        work(NAME, &c.queue, WORKERS, |key| c.visit(key)).await;
    })
}

fn tainted(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec
        .taints
        .iter()
        .filter(|t| &*t.effect == "NoExecute")
}

#[derive(Debug, PartialEq)]
enum Patience {
    Endless,
    /// counted from when the taints were first seen with the Pod
    For(Duration),
}

/// How long these tolerations bear all of the taints together.
fn patience<'a>(taints: impl Iterator<Item = &'a Taint>, tolerations: &[Toleration]) -> Patience {
    let mut least = Patience::Endless;
    for taint in taints {
        // upstream: the first that matches counts
        let bearing = tolerations
            .iter()
            .find(|t| taint.tolerated(std::slice::from_ref(t)));
        let limit = match bearing {
            None => Some(0),
            Some(t) => t.toleration_seconds.map(|s| s.max(0).unsigned_abs()),
        };
        if let Some(limit) = limit.map(Duration::from_secs) {
            least = match least {
                Patience::For(before) => Patience::For(before.min(limit)),
                Patience::Endless => Patience::For(limit),
            };
        }
    }
    least
}

impl Controller {
    async fn visit(&self, key: Key) -> Result<Next> {
        let Some(pod) = self.pods.at(&key) else {
            self.counting.lock().remove(&key);
            return Ok(Next::Wait);
        };
        let node = self.nodes.get("", &pod.spec.node_name);
        let patience = node.as_ref().map_or(Patience::Endless, |n| {
            patience(tainted(n), &pod.spec.tolerations)
        });
        let Patience::For(limit) = patience else {
            if self.counting.lock().remove(&key).is_some() && !pod.metadata.deleting() {
                let message = format!("Cancelling deletion of Pod {}/{}", key.namespace, key.name);
                self.recorder.normal(&*pod, SOURCE, REASON, message);
            }
            return Ok(Next::Wait);
        };
        if pod.metadata.deleting() {
            return Ok(Next::Wait);
        }
        if !limit.is_zero() {
            let since = *self
                .counting
                .lock()
                .entry(key.clone())
                .or_insert_with(Instant::now);
            let waited = since.elapsed();
            if waited < limit {
                return Ok(Next::After(limit - waited));
            }
        }
        self.evict(&key, &pod).await?;
        self.counting.lock().remove(&key);
        Ok(Next::Wait)
    }

    async fn evict(&self, key: &Key, pod: &Pod) -> Result<()> {
        let message = format!("Marking for deletion Pod {}/{}", key.namespace, key.name);
        self.recorder.normal(pod, SOURCE, REASON, message);
        let meta = &pod.metadata;
        let path = Pod::KIND.at(meta);
        let condition = json!({"type": "DisruptionTarget", "status": "True",
            "reason": "DeletionByTaintManager", "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": rfc3339(now())});
        let patch = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}});
        let told = self
            .rest
            .strategic::<Ignored>(&format!("{path}/status"), &patch)
            .await;
        match told {
            Err(e) if e.is_not_found() => return Ok(()),
            done => _ = done?,
        }
        match self.rest.delete(&path, &Delete::uid(&meta.uid)).await {
            Err(e) if e.is_not_found() => Ok(()),
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_least_patience_counts() {
        let check = |name: &str, taints: &[&str], tolerations: Value, want: Option<u64>| {
            let taints: Vec<Taint> = taints
                .iter()
                .map(|key| {
                    serde_json::from_value(json!({"key": key, "effect": "NoExecute"})).unwrap()
                })
                .collect();
            let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).unwrap();
            let want = want.map_or(Patience::Endless, |s| Patience::For(Duration::from_secs(s)));
            assert_eq!(patience(taints.iter(), &tolerations), want, "{name}");
        };
        let bears = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        check("no taint", &[], json!([]), None);
        check("not borne", &["a"], json!([]), Some(0));
        check("borne for ever", &["a"], json!([bears("a", None)]), None);
        check("for a while", &["a"], json!([bears("a", Some(5))]), Some(5));
        check(
            "negative is none",
            &["a"],
            json!([bears("a", Some(-5))]),
            Some(0),
        );
        check(
            "the least of two",
            &["a", "b"],
            json!([bears("a", Some(9)), bears("b", Some(5))]),
            Some(5),
        );
        check(
            "one not borne",
            &["a", "b"],
            json!([bears("a", None)]),
            Some(0),
        );
        check(
            "another effect",
            &["a"],
            json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]),
            Some(0),
        );
        check("everything", &["a"], json!([{"operator": "Exists"}]), None);
    }
}
