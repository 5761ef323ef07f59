//! Who is served first when many containers start at once.
//!
//! A start costs some tens of milliseconds of a processor. Without turns, a hundred restarts at once (a broken dependency,
//! an update) or a thousand new Pods share the machine, and each is done when all are. Here as many begin as the machine has
//! use for, in the order of their asking; what starts for the first time doesn't wait behind what starts again, which lets
//! it pass for a while.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// What hangs (a slow disk, a stuck mount) holds its turn for so long, and then the next goes ahead beside it.
const HELD_MAX: Duration = Duration::from_secs(20);

/// What starts again waits for so long until nothing starts for the first time: a new Pod's whole start, and not for ever
/// where new ones come all the time.
const DEFERENCE_MAX: Duration = Duration::from_millis(200);

/// The node's turns. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Turns {
    sandboxes: Arc<Semaphore>,
    first: Arc<Semaphore>,
    again: Arc<Semaphore>,
    /// how many start for the first time, or wait for it
    new: Arc<watch::Sender<usize>>,
    held_max: Duration,
}

/// What a turn is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// a Pod's namespaces and network
    Sandbox,
    /// a container that has not run before
    First,
    /// a container that has
    Again,
}

/// Something that starts for the first time, while it does.
struct New<'a>(&'a watch::Sender<usize>);

impl<'a> New<'a> {
    fn begin(new: &'a watch::Sender<usize>) -> New<'a> {
        new.send_modify(|n| *n += 1);
        New(new)
    }
}

impl Drop for New<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n = n.saturating_sub(1));
    }
}

impl Turns {
    /// For a machine of so many processors.
    pub(crate) fn new(cpus: usize) -> Turns {
        let of = |n: usize| Arc::new(Semaphore::new(n));
        Turns {
            sandboxes: of(2 * cpus.max(1)),
            first: of(2 * cpus.max(1)),
            again: of(cpus.div_ceil(4)),
            new: Arc::default(),
            held_max: HELD_MAX,
        }
    }

    /// Does the work when it is its turn; None when `stop` came before that.
    pub(crate) async fn run<T>(
        &self,
        kind: For,
        stop: &CancellationToken,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let turns = match kind {
            For::Sandbox => &self.sandboxes,
            For::First => &self.first,
            For::Again => &self.again,
        };
        let _new = (kind != For::Again).then(|| New::begin(&self.new));
        // an error would mean that they are closed, which they never are
        let turn = stop.run_until_cancelled(turns.acquire()).await?.ok()?;
        if kind == For::Again {
            let mut new = self.new.subscribe();
            let quiet = stop.run_until_cancelled(new.wait_for(|n| *n == 0));
            let _ = tokio::time::timeout(DEFERENCE_MAX, quiet).await;
        }
        let mut work = std::pin::pin!(work);
        match tokio::time::timeout(self.held_max, &mut work).await {
            Ok(done) => Some(done),
            Err(_) => {
                drop(turn);
                Some(work.await)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[tokio::test]
    async fn restarts_wait_for_one_another_and_not_new_ones_for_them() {
        let turns = Turns::new(4);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let go = CancellationToken::new();
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..110 {
            let (turns, running, most) = (turns.clone(), running.clone(), most.clone());
            let go = go.clone();
            all.spawn(async move {
                let work = async {
                    most.fetch_max(running.fetch_add(1, Relaxed) + 1, Relaxed);
                    go.cancelled().await;
                    tokio::task::yield_now().await;
                    running.fetch_sub(1, Relaxed);
                };
                turns.run(For::Again, &CancellationToken::new(), work).await
            });
        }
        while running.load(Relaxed) < 1 {
            tokio::task::yield_now().await;
        }
        // all restarts hold still, and this one goes ahead
        let never = CancellationToken::new();
        assert_eq!(turns.run(For::First, &never, async {}).await, Some(()));
        go.cancel();
        while let Some(done) = all.join_next().await {
            assert_eq!(done.unwrap(), Some(()));
        }
        assert_eq!(most.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn a_restart_lets_what_is_new_pass_but_not_for_ever() {
        let turns = Turns::new(4);
        let (never, end) = (CancellationToken::new(), CancellationToken::new());
        let begun = Arc::new(tokio::sync::Notify::new());
        let new = tokio::spawn({
            let (turns, never) = (turns.clone(), never.clone());
            let (end, begun) = (end.clone(), begun.clone());
            async move {
                let work = async {
                    begun.notify_one();
                    end.cancelled().await;
                };
                turns.run(For::Sandbox, &never, work).await
            }
        });
        begun.notified().await;
        let begin = std::time::Instant::now();
        assert_eq!(turns.run(For::Again, &never, async {}).await, Some(()));
        assert!(begin.elapsed() >= DEFERENCE_MAX);
        end.cancel();
        assert_eq!(new.await.unwrap(), Some(()));
        assert_eq!(*turns.new.borrow(), 0);
    }

    #[tokio::test]
    async fn what_hangs_lets_the_others_pass_and_what_stops_does_not_wait() {
        let mut turns = Turns::new(1);
        let (never, stop, end) =
            <(CancellationToken, CancellationToken, CancellationToken)>::default();
        let begun = Arc::new(tokio::sync::Notify::new());
        let first = tokio::spawn({
            let (turns, never, end, begun) =
                (turns.clone(), never.clone(), end.clone(), begun.clone());
            async move {
                let work = async {
                    begun.notify_one();
                    end.cancelled().await;
                };
                turns.run(For::Again, &never, work).await
            }
        });
        begun.notified().await;
        stop.cancel();
        let stopped = turns.run(For::Again, &stop, async {}).await;
        assert_eq!(stopped, None, "it never had its turn");
        end.cancel();
        assert_eq!(first.await.unwrap(), Some(()));

        turns.held_max = Duration::from_millis(1);
        let end = CancellationToken::new();
        let hung = tokio::spawn({
            let (turns, never, end) = (turns.clone(), never.clone(), end.clone());
            async move { turns.run(For::Again, &never, end.cancelled()).await }
        });
        let next = turns.run(For::Again, &never, async {}).await;
        assert_eq!(next, Some(()), "after a while it goes ahead");
        end.cancel();
        assert_eq!(
            hung.await.unwrap(),
            Some(()),
            "what hung ends as it would have"
        );
    }
}
