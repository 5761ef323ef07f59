//! How long nodes may keep Secrets and ConfigMaps before they ask again, by the cluster's size: an annotation on each Node
//! (`pkg/controller/ttl`).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures::future::BoxFuture;
use serde_json::json;

use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        rest::{Ignored, Rest},
        work::{Next, work},
    },
    objects::{
        meta::{Key, Object},
        node::Node,
    },
};

const NAME: &str = "nodettl";
const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Sizes from and to which a step holds (they overlap, so that it doesn't change to and fro), and its seconds.
const STEPS: [(usize, usize, u32); 5] = [
    (0, 100, 0),
    (90, 500, 15),
    (450, 1000, 30),
    (900, 2000, 60),
    (1800, usize::MAX, 300),
];

/// The step that follows from the one before and the number of nodes now.
fn step(mut at: usize, nodes: usize) -> usize {
    while nodes > STEPS[at].1 {
        at += 1;
    }
    while nodes < STEPS[at].0 {
        at -= 1;
    }
    at
}

struct Controller {
    rest: Rest,
    nodes: Arc<Cache<Node>>,
    step: AtomicUsize,
    queue: Queue<Key>,
}

/// The TTL controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        nodes: ctx.caches.nodes.clone(),
        step: AtomicUsize::new(0),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.nodes.on_change(move |old, new| {
        if let Some(node) = new {
            me.queue.add(node.metadata.key());
        }
        if old.is_some() && new.is_some() {
            return;
        }
        let mut count = 0;
        me.nodes.each(|_| count += 1);
        let was = me.step.load(Ordering::Relaxed);
        let is = step(was, count);
        if was != is {
            me.step.store(is, Ordering::Relaxed);
            me.nodes.each(|n| me.queue.add(n.metadata.key()));
        }
    });
    Box::pin(async move {
        c.nodes.synced().await;
        work(NAME, &c.queue, 1, |key| c.reconcile(key)).await;
    })
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(node) = self.nodes.at(&key) else {
            return Ok(Next::Wait);
        };
        let (_, _, seconds) = STEPS[self.step.load(Ordering::Relaxed)];
        let wanted = seconds.to_string();
        if node.metadata.annotations.get(ANNOTATION) == Some(&wanted) {
            return Ok(Next::Wait);
        }
        let patch = json!({"metadata": {"annotations": {ANNOTATION: wanted}}});
        let path = Node::KIND.at(&node.metadata);
        match self.rest.merge::<Ignored>(&path, &patch).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(Next::Wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_don_t_change_to_and_fro() {
        for (from, nodes, wanted) in [
            (0, 0, 0),
            (0, 100, 0),
            (0, 101, 1),
            (1, 95, 1),
            (1, 89, 0),
            (0, 5000, 4),
            (4, 1, 0),
            (4, 1800, 4),
        ] {
            assert_eq!(step(from, nodes), wanted, "{from} {nodes}");
        }
    }
}
