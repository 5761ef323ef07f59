//! What becomes of a node that is heard of no more, and of Pods on nodes that want them gone.
//!
//! `health` sees that a node has fallen silent and says so in its conditions; `taints` turns conditions and cordons into
//! taints; `eviction` ends the Pods that don't bear a `NoExecute` taint (any longer).

mod eviction;
mod health;
mod taints;

use futures::future::BoxFuture;

use crate::machinery::context::Context;

/// The controllers of nodes.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let all = [taints::start(ctx), health::start(ctx)];
    Box::pin(async move {
        futures::future::join_all(all).await;
    })
}

pub use eviction::start as eviction;
