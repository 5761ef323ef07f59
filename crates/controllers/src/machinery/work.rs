//! The loop of a controller: key by key, some at a time, failures later again.

use std::{future::Future, hash::Hash, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;

use super::queue::Queue;
use crate::error::Result;

/// Keys that a controller works on at a time.
pub const WORKERS: usize = 4;

/// A failure that may come of a cache that lags behind is told of when it stays so long.
const PASSING: Duration = Duration::from_millis(500);

/// What follows a reconciliation that went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// nothing until something changes
    Wait,
    /// another look after this
    After(Duration),
}

impl Next {
    /// The sooner of two.
    pub fn sooner(self, other: Next) -> Next {
        match (self, other) {
            (Next::After(a), Next::After(b)) => Next::After(a.min(b)),
            (Next::Wait, x) | (x, Next::Wait) => x,
        }
    }
    /// After this many seconds, and a little so that whole seconds have passed.
    pub fn after_s(seconds: i64) -> Next {
        Next::After(Duration::from_secs(seconds.max(0) as u64) + Duration::from_millis(20))
    }
}

/// Works on `queue` until dropped. A panic of `reconcile` counts as a failure.
pub async fn work<K, F, Fut>(name: &str, queue: &Queue<K>, workers: usize, reconcile: F)
where
    K: Hash + Eq + Ord + Clone + std::fmt::Display,
    F: Fn(K) -> Fut,
    Fut: Future<Output = Result<Next>>,
{
    let worker = || async {
        loop {
            let key = queue.next().await;
            let result = AssertUnwindSafe(async { reconcile(key.clone()).await })
                .catch_unwind()
                .await;
            match result {
                Ok(Ok(next)) => {
                    queue.forget(&key);
                    if let Next::After(pause) = next {
                        queue.add_after(key.clone(), pause);
                    }
                }
                Ok(Err(e)) => {
                    let pause = queue.retry(key.clone());
                    // what went or came while it was worked on is seen soon
                    let passing = pause < PASSING && (e.is_not_found() || e.is_already_exists());
                    if e.is_conflict() || e.is_namespace_terminating() || passing {
                        tracing::debug!(controller = name, %key, ?pause, error = %e, "trying again");
                    } else {
                        tracing::warn!(controller = name, %key, ?pause, error = %e, "trying again");
                    }
                }
                Err(_) => {
                    let pause = queue.retry(key.clone());
                    tracing::error!(controller = name, %key, ?pause, "a bug: the controller panicked on this object; trying again");
                }
            }
            queue.done(&key);
        }
    };
    futures::future::join_all((0..workers).map(|_| worker())).await;
}
