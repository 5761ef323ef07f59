//! Who is served first when many containers start at once.
//!
//! A start costs some tens of milliseconds of a processor. Without turns, a hundred restarts at once (a broken dependency,
//! an update) or a thousand new Pods share the machine, and each is done when all are. Here as many begin as the machine has
//! use for, in the order of their asking; what starts for the first time doesn't wait behind what starts again, which lets
//! it pass for a while. The same holds for what is told of containers that start again: a status write costs the API and all
//! who watch it more than the end of the container did, and a hundred of them at once are ahead of all that a new Pod's
//! start has to ask and to tell.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// What hangs (a slow disk, a stuck mount) holds its turn for so long, and then the next goes ahead beside it.
const HELD_MAX: Duration = Duration::from_secs(20);

/// What starts again waits for so long until nothing starts for the first time: a new Pod's whole start, and not for ever
/// where new ones come all the time.
const DEFERENCE_MAX: Duration = Duration::from_millis(200);

/// The same for one that stands in a line and lets new ones pass again and again: in all.
const PATIENCE_MAX: Duration = Duration::from_secs(1);

/// What is noted and told of containers that end and start again takes half of the time at most when they are more than so
/// many, and the next one's turn comes after so long at the latest.
const FEW: usize = 4;
const BREATH_MAX: Duration = Duration::from_millis(10);

/// The same for what is looked up before a start: it costs a millisecond or two, unless a registry or a disk is slow.
const LOOKED_MAX: Duration = Duration::from_millis(50);

/// The node's turns. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Turns {
    sandboxes: Arc<Semaphore>,
    first: Arc<Semaphore>,
    again: Arc<Semaphore>,
    told: Arc<Semaphore>,
    looked: Arc<Semaphore>,
    ended: Arc<Semaphore>,
    /// how many are being noted, or wait for their turn
    ending: Arc<AtomicUsize>,
    /// the same of what is told
    telling: Arc<AtomicUsize>,
    new: Arc<watch::Sender<Newcomers>>,
    held_max: Duration,
    patience_max: Duration,
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
    /// what such a container is made of
    Look,
}

/// What starts for the first time, or waits for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Newcomers {
    count: usize,
    /// since when there has always been one
    since: Option<Instant>,
}

/// Something that starts for the first time, while it does.
pub(crate) struct New(Arc<watch::Sender<Newcomers>>);

impl New {
    fn begin(new: &Arc<watch::Sender<Newcomers>>) -> New {
        // who waits does so for none to be left: a second one is nothing to wake them for
        new.send_if_modified(|all| {
            all.count += 1;
            all.since = all.since.or_else(|| Some(Instant::now()));
            false
        });
        New(new.clone())
    }
}

impl Drop for New {
    fn drop(&mut self) {
        self.0.send_if_modified(|all| {
            all.count = all.count.saturating_sub(1);
            if all.count == 0 {
                all.since = None;
            }
            all.count == 0
        });
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
            told: of(cpus.div_ceil(4)),
            looked: of(cpus.div_ceil(4)),
            ended: of(cpus.div_ceil(4)),
            ending: Arc::default(),
            telling: Arc::default(),
            new: Arc::default(),
            held_max: HELD_MAX,
            patience_max: PATIENCE_MAX,
        }
    }

    /// What starts again lets a new Pod pass as long as this is held.
    pub(crate) fn new_pod(&self) -> New {
        New::begin(&self.new)
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
            For::Look => &self.looked,
        };
        let again = matches!(kind, For::Again | For::Look);
        let _new = (!again).then(|| New::begin(&self.new));
        // an error would mean that they are closed, which they never are
        let turn = stop.run_until_cancelled(turns.acquire()).await?.ok()?;
        if again {
            let end = Instant::now() + self.patience_max;
            let _ = stop.run_until_cancelled(self.quiet(end)).await;
        }
        let patience = match kind {
            For::Look => LOOKED_MAX.min(self.held_max),
            _ => self.held_max,
        };
        Some(hold(turn, patience, work).await)
    }

    /// Takes note of a container's end, at once when it is the only one.
    pub(crate) async fn end<T>(&self, work: impl Future<Output = T>) -> T {
        let waits = Counted::one_more(&self.ending);
        let turn = match self.ended.try_acquire() {
            Ok(turn) => Ok(turn),
            Err(_) => self.in_line(&self.ended).await,
        };
        match turn {
            Ok(turn) => {
                let patience = LOOKED_MAX.min(self.held_max);
                paced(&self.ended, turn, patience, waits, work).await
            }
            // they are never closed
            Err(_) => work.await,
        }
    }

    /// Tells the API of containers that start again, when it is its turn.
    pub(crate) async fn tell<T>(&self, work: impl Future<Output = T>) -> T {
        let waits = Counted::one_more(&self.telling);
        match self.in_line(&self.told).await {
            Ok(turn) => paced(&self.told, turn, self.held_max, waits, work).await,
            // they are never closed
            Err(_) => work.await,
        }
    }

    /// A turn, in which nothing starts for the first time.
    async fn in_line<'a>(
        &self,
        turns: &'a Semaphore,
    ) -> Result<SemaphorePermit<'a>, tokio::sync::AcquireError> {
        let end = Instant::now() + self.patience_max;
        // all wait side by side, so that it is once and not once for each before
        self.quiet(end).await;
        let turn = turns.acquire().await?;
        // somebody may have come meanwhile: the line can be long
        self.quiet(end).await;
        Ok(turn)
    }

    /// Until nothing starts for the first time, but not for ever.
    async fn quiet(&self, end: Instant) {
        let mut new = self.new.subscribe();
        let Some(since) = new.borrow_and_update().since else {
            return;
        };
        let quiet = new.wait_for(|all| all.count == 0);
        let _ = tokio::time::timeout_at(end.min(since + DEFERENCE_MAX), quiet).await;
    }
}

/// One of how many there are.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn one_more(all: &'a AtomicUsize) -> Counted<'a> {
        all.fetch_add(1, Ordering::Relaxed);
        Counted(all)
    }

    fn of(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Works in its turn; when many wait for theirs, the next one's comes after as long again. A new Pod has a way to go before
/// anybody here knows of it, and those in front of it are many.
async fn paced<T>(
    turns: &Arc<Semaphore>,
    turn: SemaphorePermit<'_>,
    patience: Duration,
    waits: Counted<'_>,
    work: impl Future<Output = T>,
) -> T {
    let begin = Instant::now();
    let (turn, done) = keep(turn, patience, work).await;
    if let (Some(turn), true) = (turn, waits.of() > FEW) {
        let breath = begin.elapsed().min(BREATH_MAX);
        // who is done doesn't wait for it
        let turns = turns.clone();
        turn.forget();
        tokio::spawn(async move {
            tokio::time::sleep(breath).await;
            turns.add_permits(1);
        });
    }
    done
}

/// Works in its turn, which ends early when it takes too long.
async fn hold<T>(
    turn: SemaphorePermit<'_>,
    patience: Duration,
    work: impl Future<Output = T>,
) -> T {
    keep(turn, patience, work).await.1
}

/// As [`hold`]; gives the turn back if it hasn't ended.
async fn keep<'a, T>(
    turn: SemaphorePermit<'a>,
    patience: Duration,
    work: impl Future<Output = T>,
) -> (Option<SemaphorePermit<'a>>, T) {
    let mut work = std::pin::pin!(work);
    match tokio::time::timeout(patience, &mut work).await {
        Ok(done) => (Some(turn), done),
        Err(_) => {
            drop(turn);
            (None, work.await)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

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
        // what is new is deferred to from its own beginning on, which is after this
        let begin = Instant::now();
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
        assert_eq!(turns.run(For::Again, &never, async {}).await, Some(()));
        assert!(begin.elapsed() >= DEFERENCE_MAX);
        end.cancel();
        assert_eq!(new.await.unwrap(), Some(()));
        assert_eq!(*turns.new.borrow(), Newcomers::default());
    }

    #[tokio::test]
    async fn what_is_told_of_restarts_comes_one_after_the_other() {
        let turns = Turns::new(4);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..110 {
            let (turns, running, most) = (turns.clone(), running.clone(), most.clone());
            all.spawn(async move {
                let work = async {
                    most.fetch_max(running.fetch_add(1, Relaxed) + 1, Relaxed);
                    tokio::task::yield_now().await;
                    running.fetch_sub(1, Relaxed);
                };
                turns.tell(work).await;
            });
        }
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
        assert_eq!(most.load(Relaxed), 1);
        // and lets what is new pass
        let begin = Instant::now();
        let _new = New::begin(&turns.new);
        turns.tell(async {}).await;
        assert!(begin.elapsed() >= DEFERENCE_MAX);
    }

    #[tokio::test]
    async fn who_stands_in_line_lets_pass_who_comes_later() {
        let mut turns = Turns::new(4);
        // however late the new one comes
        turns.patience_max = Duration::from_secs(3600);
        let (begun, end) = (
            Arc::new(tokio::sync::Notify::new()),
            CancellationToken::new(),
        );
        let first = tokio::spawn({
            let (turns, begun, end) = (turns.clone(), begun.clone(), end.clone());
            async move {
                let work = async {
                    begun.notify_one();
                    end.cancelled().await;
                };
                turns.tell(work).await;
            }
        });
        begun.notified().await;
        let second = tokio::spawn({
            let turns = turns.clone();
            async move { turns.tell(async { Instant::now() }).await }
        });
        while turns.telling.load(Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        let begin = Instant::now();
        let new = turns.new_pod();
        end.cancel();
        let told = second.await.unwrap();
        first.await.unwrap();
        assert!(told - begin >= DEFERENCE_MAX, "{:?}", told - begin);
        // and as long as it stays, nobody waits for it again
        let never = Instant::now() + Duration::from_secs(3600);
        turns.quiet(never).await;
        drop(new);
        assert_eq!(*turns.new.borrow(), Newcomers::default());
    }

    #[tokio::test]
    async fn much_to_tell_leaves_half_of_the_time_to_others() {
        const EACH: Duration = Duration::from_millis(5);
        let turns = Turns::new(4);
        let begin = Instant::now();
        let mut all = tokio::task::JoinSet::new();
        let many = FEW + 6;
        for _ in 0..many {
            let turns = turns.clone();
            all.spawn(async move { turns.tell(async { tokio::time::sleep(EACH).await }).await });
        }
        while turns.telling.load(Relaxed) < many {
            tokio::task::yield_now().await;
        }
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
        let least = EACH * (many + many - FEW - 1) as u32;
        assert!(begin.elapsed() >= least, "{:?}", begin.elapsed());
        // each turn came back
        assert!(turns.told.acquire().await.is_ok());
        assert_eq!(turns.told.available_permits(), 1);
    }

    #[tokio::test]
    async fn ends_are_noted_one_after_the_other_and_one_alone_at_once() {
        let turns = Turns::new(4);
        let begin = Instant::now();
        let _new = New::begin(&turns.new);
        let more = async {
            let both = async { tokio::join!(turns.end(async {}), turns.end(async {})) };
            both.await;
            begin.elapsed()
        };
        // it is the first of three
        let took = turns.end(more).await;
        assert!(
            took >= DEFERENCE_MAX,
            "the others let what is new pass: {took:?}"
        );
        assert_eq!(turns.ended.available_permits(), 1);
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
            let (turns, never) = (turns.clone(), never.clone());
            let (end, begun) = (end.clone(), begun.clone());
            async move {
                let work = async {
                    begun.notify_one();
                    end.cancelled().await;
                };
                turns.run(For::Again, &never, work).await
            }
        });
        begun.notified().await;
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
