//! Taints that say what a node's conditions and cordon say, so that no pod is put where it can't run, and none stays where
//! nobody looks after it (`pkg/controller/nodelifecycle`, the `NoSchedule` and `NoExecute` passes). The API server taints a new node; here the taint is taken away.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        rest::{Ignored, Rest},
        work::{Next, WORKERS, work},
    },
    objects::{
        meta::{Key, Object, now, rfc3339},
        node::Node,
    },
};

const NAME: &str = "nodelifecycle";
const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";
/// Condition, the status of it that is bad, and the taint.
const CONDITIONS: [(&str, &str, &str); 6] = [
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
    (
        "MemoryPressure",
        "True",
        "node.kubernetes.io/memory-pressure",
    ),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "True",
        "node.kubernetes.io/network-unavailable",
    ),
];
const CORDON: &str = "node.kubernetes.io/unschedulable";

/// Key and effect.
type Managed = (&'static str, &'static str);

struct Controller {
    rest: Rest,
    nodes: Arc<Cache<Node>>,
    queue: Queue<Key>,
}

/// The taint manager.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        nodes: ctx.caches.nodes.clone(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.nodes.on_change(move |old, new| {
        if let Some(node) = new {
            me.queue.add(node.metadata.key());
        }
        let ready = |node: Option<&Arc<Node>>| node.is_some_and(|n| n.ready());
        if ready(old) != ready(new) {
            // it may be the first, or the last
            me.nodes.each(|node| me.queue.add(node.metadata.key()));
        }
    });
    Box::pin(async move {
        c.nodes.synced().await;
        work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
    })
}

/// The managed taints the node should have. One that has not said whether it is ready keeps what it has. Where no node is
/// ready nothing is gained by ending Pods (upstream's full disruption).
fn taints(node: &Node, any_ready: bool) -> Vec<Managed> {
    let conditions = &node.status.conditions;
    let ready_known = conditions.iter().any(|c| &*c.kind == "Ready");
    let mut wanted: Vec<Managed> = vec![];
    for (kind, status, key) in CONDITIONS {
        let said = conditions
            .iter()
            .any(|c| &*c.kind == kind && &*c.status == status);
        for effect in [NO_SCHEDULE, NO_EXECUTE] {
            let silent = kind == "Ready" && !ready_known && has(node, (key, effect));
            let executes = kind == "Ready" && any_ready;
            if silent || (said && (effect == NO_SCHEDULE || executes)) {
                wanted.push((key, effect));
            }
        }
    }
    if node.spec.unschedulable {
        wanted.push((CORDON, NO_SCHEDULE));
    }
    wanted
}

/// The managed taints the node has.
fn present(node: &Node) -> Vec<Managed> {
    let mut all = vec![];
    for (kind, _, key) in CONDITIONS {
        for effect in [NO_SCHEDULE, NO_EXECUTE] {
            if (effect == NO_SCHEDULE || kind == "Ready") && has(node, (key, effect)) {
                all.push((key, effect));
            }
        }
    }
    all.extend(Some((CORDON, NO_SCHEDULE)).filter(|cordon| has(node, *cordon)));
    all
}

fn has(node: &Node, (key, effect): Managed) -> bool {
    let mut taints = node.spec.taints.iter();
    taints.any(|t| &*t.key == key && &*t.effect == effect)
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(node) = self.nodes.at(&key) else {
            return Ok(Next::Wait);
        };
        let mut any_ready = false;
        self.nodes.each(|node| any_ready |= node.ready());
        let (wanted, present) = (taints(&node, any_ready), present(&node));
        if wanted == present {
            return Ok(Next::Wait);
        }
        // the whole taints: the others' fields are theirs
        let path = Node::KIND.at(&node.metadata);
        let whole: Value = self.rest.get(&path).await?;
        let mut list: Vec<Value> = whole["spec"]["taints"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let managed =
            |t: &Value, (key, effect): &Managed| t["key"] == *key && t["effect"] == *effect;
        let stale = |t: &Value| {
            let gone = |m: &Managed| managed(t, m) && !wanted.contains(m);
            present.iter().any(gone)
        };
        list.retain(|t| !stale(t));
        for taint in &wanted {
            if !list.iter().any(|t| managed(t, taint)) {
                let (key, effect) = taint;
                list.push(json!({"key": key, "effect": effect, "timeAdded": rfc3339(now())}));
            }
        }
        let patch = json!({
            "metadata": {"resourceVersion": whole["metadata"]["resourceVersion"]},
            "spec": {"taints": if list.is_empty() { Value::Null } else { list.into() }},
        });
        match self.rest.merge::<Ignored>(&path, &patch).await {
            Err(e) if e.is_not_found() => Ok(Next::Wait),
            done => done.map(|_| Next::Wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_make_taints() {
        let check = |name: &str, node: Value, any_ready: bool, want: &[Managed]| {
            let node: Node = serde_json::from_value(node).unwrap();
            assert_eq!(taints(&node, any_ready), want, "{name}");
        };
        let with = |kind: &str, status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": kind, "status": status}]}});
        let ready =
            |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        let (not_ready, lost) = (
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable",
        );
        check("ready", ready("True"), true, &[]);
        check("silent", json!({}), true, &[]);
        let new = json!({"spec": {"taints": [{"key": not_ready, "effect": NO_SCHEDULE}]}});
        check("new", new, true, &[(not_ready, NO_SCHEDULE)]);
        let both = |key| [(key, NO_SCHEDULE), (key, NO_EXECUTE)];
        check("not ready", ready("False"), true, &both(not_ready));
        check("lost", ready("Unknown"), true, &both(lost));
        check("all are lost", ready("Unknown"), false, &both(lost)[..1]);
        for (kind, key) in [
            ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
            ("DiskPressure", "node.kubernetes.io/disk-pressure"),
            ("PIDPressure", "node.kubernetes.io/pid-pressure"),
            (
                "NetworkUnavailable",
                "node.kubernetes.io/network-unavailable",
            ),
        ] {
            check(kind, with(kind, "True"), true, &[(key, NO_SCHEDULE)]);
            check(kind, with(kind, "False"), true, &[]);
        }
        let cordoned = json!({"spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        check("cordoned", cordoned, true, &[(CORDON, NO_SCHEDULE)]);
    }

    #[test]
    fn others_taints_are_none_of_ours() {
        let node = json!({"spec": {"taints": [
            {"key": "node.kubernetes.io/memory-pressure", "effect": NO_EXECUTE},
            {"key": "mine", "effect": NO_SCHEDULE},
            {"key": CORDON, "effect": NO_SCHEDULE}]}});
        let node: Node = serde_json::from_value(node).unwrap();
        assert_eq!(present(&node), [(CORDON, NO_SCHEDULE)]);
    }
}
