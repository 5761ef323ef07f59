//! Pods that nobody ends any more: of a node that is gone, never bound and deleted, or too many that ended long ago (`pkg/controller/podgc`).

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use serde_json::json;

use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        rest::{Delete, Ignored, Rest},
        work::{Next, work},
    },
    objects::{
        meta::{Key, Object, now, rfc3339},
        node::Node,
        pod::{Phase, Pod},
    },
};

const NAME: &str = "podgc";
/// A node may be late: its pods are left alone for so long.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Ended pods kept (`--terminated-pod-gc-threshold`).
const ENDED_MAX: usize = 12_500;

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Look {
    /// deleted and never bound
    Unbound(Key),
    /// a node that isn't there
    Node(Box<str>),
    /// too many have ended
    Ended,
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Look::Unbound(key) => write!(f, "pod {key}"),
            Look::Node(name) => write!(f, "node {name}"),
            Look::Ended => f.write_str("ended pods"),
        }
    }
}

struct Controller {
    rest: Rest,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    queue: Queue<Look>,
    ended: AtomicUsize,
    ended_max: usize,
}

/// The pod garbage collector.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        pods: ctx.caches.pods.clone(),
        nodes: ctx.caches.nodes.clone(),
        queue: Queue::default(),
        ended: AtomicUsize::new(0),
        ended_max: ENDED_MAX,
    });
    let me = c.clone();
    c.pods.on_change(move |old, new| {
        match (
            old.is_some_and(|p| p.terminal()),
            new.is_some_and(|p| p.terminal()),
        ) {
            (false, true) => {
                let before = me.ended.fetch_add(1, Ordering::Relaxed);
                if before >= me.ended_max {
                    me.queue.add(Look::Ended);
                }
            }
            (true, false) => {
                me.ended.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        }
        let Some(pod) = new else { return };
        let node = &pod.spec.node_name;
        if node.is_empty() {
            if pod.metadata.deleting() {
                me.queue.add(Look::Unbound(pod.metadata.key()));
            }
        } else if me.nodes.get("", node).is_none() {
            me.queue.add_after(Look::Node(node.clone()), QUARANTINE);
        }
    });
    let me = c.clone();
    c.nodes.on_change(move |old, new| {
        if let (Some(node), None) = (old, new) {
            let name = node.metadata.name.clone();
            me.queue.add_after(Look::Node(name), QUARANTINE);
        }
    });
    Box::pin(async move {
        c.pods.synced().await;
        c.nodes.synced().await;
        work(NAME, &c.queue, 1, |look| c.visit(look)).await;
    })
}

/// Of the pods that ended, those that go when so many are too many: evicted ones first, then the oldest.
fn too_many(mut ended: Vec<Arc<Pod>>, max: usize) -> Vec<Arc<Pod>> {
    let n = ended.len().saturating_sub(max);
    ended.sort_by_cached_key(|p| {
        let evicted = p.status.phase == Phase::Failed && &*p.status.reason == "Evicted";
        let meta = &p.metadata;
        (!evicted, meta.creation_timestamp, meta.key())
    });
    ended.truncate(n);
    ended
}

impl Controller {
    async fn visit(&self, look: Look) -> Result<Next> {
        match look {
            Look::Unbound(key) => {
                if let Some(pod) = self.pods.at(&key)
                    && pod.metadata.deleting()
                    && pod.spec.node_name.is_empty()
                {
                    self.remove(&pod, None).await?;
                }
            }
            Look::Node(name) => {
                if self.nodes.get("", &name).is_some() || self.node_exists(&name).await? {
                    return Ok(Next::Wait);
                }
                let mut orphans = vec![];
                self.pods.each(|p| {
                    if p.spec.node_name == name {
                        orphans.push(p.clone());
                    }
                });
                for pod in orphans {
                    self.remove(&pod, Some("PodGC: node no longer exists"))
                        .await?;
                }
            }
            Look::Ended => {
                let mut ended = vec![];
                self.pods.each(|p| {
                    if p.terminal() {
                        ended.push(p.clone());
                    }
                });
                for pod in too_many(ended, self.ended_max) {
                    self.remove(&pod, None).await?;
                }
            }
        }
        Ok(Next::Wait)
    }

    async fn node_exists(&self, name: &str) -> Result<bool> {
        match self.rest.get::<Ignored>(&Node::KIND.path("", name)).await {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Says that it failed, unless it has ended, and deletes it without waiting for a node.
    async fn remove(&self, pod: &Pod, why: Option<&str>) -> Result<()> {
        let meta = &pod.metadata;
        let path = Pod::KIND.at(meta);
        if !pod.terminal() {
            let condition = why.map(|why| {
                json!([{"type": "DisruptionTarget", "status": "True",
                    "reason": "DeletionByPodGC", "message": why,
                    "lastTransitionTime": rfc3339(now())}])
            });
            let mut status = json!({"phase": "Failed"});
            if let Some(conditions) = condition {
                status["conditions"] = conditions;
            }
            let patch = json!({"metadata": {"uid": meta.uid}, "status": status});
            let done = self
                .rest
                .strategic::<Ignored>(&format!("{path}/status"), &patch)
                .await;
            match done {
                Ok(_) => {}
                Err(e) if e.is_not_found() => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        tracing::info!(pod = %meta.key(), why = why.unwrap_or("it is of no more use"), "deleting a pod by force");
        self.rest
            .delete(&path, &Delete::uid(&meta.uid).by_force())
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evicted_and_old_ones_go_first() {
        let pod = |name: &str, at: i64, reason: &str| {
            let pod = json!({"metadata":{"name":name,"creationTimestamp":rfc3339(at)},
                "status":{"phase":"Failed","reason":reason}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let all = || {
            vec![
                pod("new", 30, ""),
                pod("old", 10, ""),
                pod("evicted", 20, "Evicted"),
            ]
        };
        for (max, want) in [(3, ""), (2, "evicted"), (1, "evicted old"), (9, "")] {
            let gone = too_many(all(), max);
            let names: Vec<_> = gone.iter().map(|p: &Arc<Pod>| &*p.metadata.name).collect();
            assert_eq!(names.join(" "), want, "{max}");
        }
    }
}
