//! Work that gives way to what else runs on the machine: a build's, which nobody waits for as they do for an app.

use crate::lane::{Inside, Lane};
use std::cell::Cell;

/// As far as containers of a build give way by their cgroup.
const NICE: i32 = 10;

thread_local! {
    static IN_LANE: Cell<bool> = const { Cell::new(false) };
}

/// Has this thread, and those that it starts, give way, in the [`Lane`] if there is one; then it is as before. To be dropped by
/// the thread that made it, and no thread may be started meanwhile that outlives it.
pub struct Low {
    before: Option<i32>,
    inside: Option<Inside>,
}

impl Low {
    #[allow(clippy::new_without_default)] // it does something
    pub fn new() -> Low {
        let before = rustix::process::getpriority_process(None).ok();
        let lower = before.filter(|nice| *nice < NICE);
        if lower.is_some() {
            let _ = rustix::process::setpriority_process(None, NICE);
        }
        let inside = match IN_LANE.get() {
            true => None,
            false => Lane::enter(),
        };
        if inside.is_some() {
            IN_LANE.set(true);
        }
        Low {
            before: lower,
            inside,
        }
    }
}

impl Drop for Low {
    fn drop(&mut self) {
        if self.inside.take().is_some() {
            IN_LANE.set(false);
        }
        if let Some(before) = self.before {
            let _ = rustix::process::setpriority_process(None, before);
        }
    }
}

tokio::task_local! {
    static GENTLE: ();
}

/// What `work` does to files (reading, hashing, compressing for a push; writing and unpacking for a pull) is done at a low
/// priority.
pub async fn gently<T>(work: impl Future<Output = T>) -> T {
    GENTLE.scope((), work).await
}

/// Runs what blocks where it may, at the priority of who asks.
pub(crate) fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    let gentle = GENTLE.try_with(|()| ()).is_ok();
    tokio::task::spawn_blocking(move || {
        let _low = gentle.then(Low::new);
        work()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[tokio::test]
    async fn only_what_is_asked_for_gently_is_low() {
        let own = spawn_blocking(nice).await.unwrap();
        let low = gently(async { spawn_blocking(nice).await.unwrap() }).await;
        assert_eq!(low, own.max(NICE));
        // threads are used again
        for _ in 0..8 {
            assert_eq!(spawn_blocking(nice).await.unwrap(), own);
        }
    }
}
