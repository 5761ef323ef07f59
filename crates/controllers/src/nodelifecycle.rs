//! Taints that say what a node's conditions and cordon say, so that no pod is put where it can't run
//! (`pkg/controller/nodelifecycle`, the `NoSchedule` pass). The API server taints a new node; here the taint is taken away.

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
const EFFECT: &str = "NoSchedule";
/// Condition, the status of it that is bad, and the taint. Pressure is not among them: the node's agent frees nothing by
/// itself, so a single node would never take work again.
const CONDITIONS: [(&str, &str, &str); 3] = [
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
    (
        "NetworkUnavailable",
        "True",
        "node.kubernetes.io/network-unavailable",
    ),
];
const CORDON: &str = "node.kubernetes.io/unschedulable";

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
    c.nodes.on_change(move |_, new| {
        if let Some(node) = new.filter(|n| taints(n) != present(n)) {
            me.queue.add(node.metadata.key());
        }
    });
    Box::pin(async move {
        c.nodes.synced().await;
        work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
    })
}

/// The managed taints the node should have. One that has not said whether it is ready keeps what it has.
fn taints(node: &Node) -> Vec<&'static str> {
    let has = |key: &str| node.spec.taints.iter().any(|t| is(t, key));
    let conditions = &node.status.conditions;
    let ready_known = conditions.iter().any(|c| &*c.kind == "Ready");
    let mut wanted: Vec<&str> = CONDITIONS
        .iter()
        .filter(|(kind, status, key)| {
            let said = conditions
                .iter()
                .any(|c| &*c.kind == *kind && &*c.status == *status);
            said || (*kind == "Ready" && !ready_known && has(key))
        })
        .map(|(_, _, key)| *key)
        .collect();
    if node.spec.unschedulable {
        wanted.push(CORDON);
    }
    wanted
}

/// The managed taints the node has.
fn present(node: &Node) -> Vec<&'static str> {
    let keys = CONDITIONS.iter().map(|(_, _, key)| *key).chain([CORDON]);
    keys.filter(|key| node.spec.taints.iter().any(|t| is(t, key)))
        .collect()
}

fn is(taint: &crate::objects::node::Taint, key: &str) -> bool {
    &*taint.key == key && &*taint.effect == EFFECT
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(node) = self.nodes.at(&key) else {
            return Ok(Next::Wait);
        };
        let (wanted, present) = (taints(&node), present(&node));
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
        let managed = |t: &Value, key: &str| t["key"] == key && t["effect"] == EFFECT;
        let stale = |t: &Value| {
            let gone = |key: &&str| managed(t, key) && !wanted.contains(key);
            present.iter().any(gone)
        };
        list.retain(|t| !stale(t));
        for key in &wanted {
            if !list.iter().any(|t| managed(t, key)) {
                list.push(json!({"key": key, "effect": EFFECT, "timeAdded": rfc3339(now())}));
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
        for (name, node, want) in [
            (
                "ready",
                json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
                vec![],
            ),
            ("silent", json!({}), vec![]),
            (
                "new",
                json!({"spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}}),
                vec!["node.kubernetes.io/not-ready"],
            ),
            (
                "ready now",
                json!({"spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
                vec![],
            ),
            (
                "lost",
                json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
                vec!["node.kubernetes.io/unreachable"],
            ),
            (
                "full",
                json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}]}}),
                vec![],
            ),
            (
                "cordoned",
                json!({"spec": {"unschedulable": true}}),
                vec![CORDON],
            ),
        ] {
            let node: Node = serde_json::from_value(node).unwrap();
            assert_eq!(taints(&node), want, "{name}");
        }
    }
}
