//! The one thread that writes: it takes what has queued up while the last batch was being synced, decides each
//! commit in order, makes the whole batch durable with one write and one sync, and only then lets anybody see it.

use crate::error::CommitError;
use crate::frame::Builder;
use crate::keeper;
use crate::recovery;
use crate::ring::Event;
use crate::seal::{self, Sealer};
use crate::segment::{AppendError, DATA_START, Segment};
use crate::state::State;
use crate::store::Shared;
use crate::types::{Expect, Op, Revision};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// A batch takes no more commits beyond this size.
const BATCH_BYTES_MAX: usize = 1 << 20;
const MAKE_ROOM_EVERY: Duration = Duration::from_secs(1);
/// The frame buffer's size between batches.
const BUFFER_BYTES_KEPT: usize = 64 << 10;

pub(crate) enum Request {
    Commit(Commit),
    Close { done: oneshot::Sender<()> },
}

pub(crate) struct Commit {
    pub(crate) ops: Vec<Op>,
    pub(crate) bytes_max: usize,
    pub(crate) reply: oneshot::Sender<Result<Revision, CommitError>>,
    /// The commit's share of the queue's bytes, given back when it is answered.
    pub(crate) _share: OwnedSemaphorePermit,
}

pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) active: Segment,
    pub(crate) keeper: JoinHandle<()>,
    /// Held for as long as anything may be written.
    pub(crate) lock: File,
    pub(crate) frame: Builder,
    pub(crate) spare_wanted: bool,
    /// Log bytes since the last snapshot was asked for.
    pub(crate) unsnapped_bytes: u64,
    /// When, and of which revision, a snapshot was last tried to get out of a full disk.
    pub(crate) room_made: Option<(Instant, Revision)>,
}

/// A commit that was decided, waiting for the batch to be durable.
struct Decided {
    reply: oneshot::Sender<Result<Revision, CommitError>>,
    outcome: Result<Revision, CommitError>,
    _share: OwnedSemaphorePermit,
}

impl Writer {
    /// The thread's body: until the last handle is gone, or one asks to close.
    pub(crate) fn run(mut self) {
        let mut held_over = None;
        loop {
            let request = match held_over.take() {
                Some(commit) => Request::Commit(commit),
                None => match self.requests.blocking_recv() {
                    Some(request) => request,
                    None => return self.finish(false, None),
                },
            };
            match request {
                Request::Close { done } => return self.finish(true, Some(done)),
                Request::Commit(first) => {
                    let (closing, next) = self.batch(first);
                    held_over = next;
                    if let Some(done) = closing {
                        return self.finish(true, Some(done));
                    }
                }
            }
        }
    }

    /// Ends both threads' work and lets go of the directory.
    fn finish(mut self, last_snapshot: bool, done: Option<oneshot::Sender<()>>) {
        self.shared.fail("it has been closed");
        self.requests.close();
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Commit(commit) => answer(commit.reply, Err(self.shared.unavailable())),
                Request::Close { done } => drop(done.send(())),
            }
        }
        let last_snapshot = last_snapshot.then(|| self.shared.state.load_full());
        self.shared.keeper.stop(last_snapshot);
        if self.keeper.join().is_err() {
            tracing::error!("the store's keeper thread panicked");
        }
        drop(self.lock);
        if let Some(done) = done {
            // whoever asked may have gone away
            let _ = done.send(());
        }
    }

    /// Commits `first` and all that queue up behind it and fit. Returns a commit that didn't fit, or the wish to close.
    fn batch(&mut self, first: Commit) -> (Option<oneshot::Sender<()>>, Option<Commit>) {
        let mut state = State::clone(&self.shared.state.load());
        let first_revision = state.revision + 1;
        let mut decided = Vec::new();
        let mut events = Vec::new();
        let mut bytes = 0;
        let mut closing = None;
        let mut held_over = None;
        self.frame.start(BUFFER_BYTES_KEPT);
        let batch_bytes_max = BATCH_BYTES_MAX.min(self.shared.options.segment_bytes as usize / 4);
        let mut next = Some(first);
        while let Some(commit) = next.take() {
            bytes += commit.bytes_max;
            let outcome = self.decide(&mut state, &commit.ops, &mut events);
            decided.push(Decided {
                reply: commit.reply,
                outcome,
                _share: commit._share,
            });
            match self.requests.try_recv() {
                Ok(Request::Commit(commit)) if bytes + commit.bytes_max > batch_bytes_max => {
                    held_over = Some(commit);
                }
                Ok(Request::Commit(commit)) => next = Some(commit),
                Ok(Request::Close { done }) => closing = Some(done),
                Err(_) => {}
            }
        }
        if let Err(error) = self.make_durable(first_revision) {
            for commit in decided {
                answer(commit.reply, Err(error.clone()));
            }
            return (closing, held_over);
        }
        let commits = decided
            .iter()
            .filter(|commit| commit.outcome.is_ok())
            .count();
        self.publish(state, events, commits as u64);
        for commit in decided {
            answer(commit.reply, commit.outcome);
        }
        self.ask_keeper();
        (closing, held_over)
    }

    /// Applies one commit to the batch, or leaves the batch as it was.
    fn decide(
        &mut self,
        state: &mut State,
        ops: &[Op],
        events: &mut Vec<Arc<Event>>,
    ) -> Result<Revision, CommitError> {
        let mark = self.frame.mark();
        let events_before = events.len();
        // a single operation is checked before it changes anything
        let before = (ops.len() > 1).then(|| state.clone());
        for op in ops {
            match decide_op(state, op, &mut self.frame, self.shared.sealer()) {
                Ok(event) => events.push(Arc::new(event)),
                Err(error) => {
                    self.frame.rewind(mark);
                    events.truncate(events_before);
                    if let Some(before) = before {
                        *state = before;
                    }
                    return Err(error);
                }
            }
        }
        Ok(state.revision)
    }

    /// Returns when the batch's frame is on disk. After an `Err`, nothing of it will be seen by anyone, unless the
    /// store has become read-only: then the next open decides.
    fn make_durable(&mut self, first_revision: Revision) -> Result<(), CommitError> {
        if self.frame.ops() == 0 {
            return Ok(());
        }
        if self.shared.is_failed() {
            return Err(self.shared.unavailable());
        }
        let frame_bytes = self.frame.frame_bytes();
        if !self.active.has_room_for(frame_bytes) {
            self.roll(first_revision)?;
        }
        let frame = self.frame.finish(self.active.header.salt, first_revision);
        match self.active.append(&self.shared.disk, frame) {
            Ok(()) => {
                self.unsnapped_bytes += frame_bytes;
                self.shared.counters.batches.fetch_add(1, Relaxed);
                Ok(())
            }
            Err(AppendError::NoSpace(error)) => Err(CommitError::NoSpace(error.to_string())),
            Err(AppendError::Unknown(doing, error)) => Err(self.fail(doing, &error)),
        }
    }

    /// Goes on in a new segment; on a full disk, after having made room.
    fn roll(&mut self, first_revision: Revision) -> Result<(), CommitError> {
        let created = match self.create_segment(first_revision) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.make_room() => {
                self.create_segment(first_revision)
            }
            other => other,
        };
        match created {
            Ok(segment) => {
                self.shared.segments.lock().push_back(segment.header);
                self.active = segment;
                self.spare_wanted = false;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                Err(CommitError::NoSpace(error.to_string()))
            }
            Err(error) => Err(self.fail("starting a segment of", &error)),
        }
    }

    fn create_segment(&self, first_revision: Revision) -> io::Result<Segment> {
        let id = self.active.header.id + 1;
        Segment::create(
            &self.shared.disk,
            id,
            first_revision,
            self.shared.options.segment_bytes,
        )
    }

    /// Where no segment fits any more a snapshot may, and it frees the segments it covers. True if it has.
    fn make_room(&mut self) -> bool {
        let state = self.shared.state.load_full();
        // with an unchanged state the next try is worth it only once someone else may have freed space
        let in_vain = self.room_made.is_some_and(|(at, revision)| {
            revision == state.revision && at.elapsed() < MAKE_ROOM_EVERY
        });
        if in_vain {
            return false;
        }
        self.room_made = Some((Instant::now(), state.revision));
        match keeper::snapshot_and_trim(&self.shared, &state, || false) {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(%error, "the disk is full, and a snapshot to make room failed");
                false
            }
        }
    }

    fn fail(&self, doing: &str, error: &io::Error) -> CommitError {
        let what = format!(
            "{doing} the log in {} failed: {error}; check that disk, then start again to verify the log",
            self.shared.options.dir.display()
        );
        tracing::error!("{what}");
        self.shared.fail(&what);
        self.shared.unavailable()
    }

    /// State first: who hears of an event must be able to read it.
    fn publish(&self, state: State, events: Vec<Arc<Event>>, commits: u64) {
        if events.is_empty() {
            return;
        }
        self.shared.state.store(Arc::new(state));
        self.shared.ring.push(events);
        self.shared.counters.commits.fetch_add(commits, Relaxed);
    }

    /// Slow work that is due.
    fn ask_keeper(&mut self) {
        let shared = &self.shared;
        let half_full = self.active.end > DATA_START + (self.active.header.bytes - DATA_START) / 2;
        if half_full && !self.spare_wanted && !shared.disk.has_spare.load(Acquire) {
            self.spare_wanted = true;
            shared.keeper.want_spare();
        }
        let state = shared.state.load();
        // a large state is written less often: the log then stays below twice the state's size
        if self.unsnapped_bytes >= shared.options.snapshot_after_bytes.max(state.bytes) {
            self.unsnapped_bytes = 0;
            shared.keeper.want_snapshot(state.clone());
        }
    }
}

fn answer(
    reply: oneshot::Sender<Result<Revision, CommitError>>,
    outcome: Result<Revision, CommitError>,
) {
    // a caller that has stopped waiting needs no answer
    let _ = reply.send(outcome);
}

/// Checks one operation against the state so far, applies it and logs it.
fn decide_op(
    state: &mut State,
    op: &Op,
    frame: &mut Builder,
    sealer: Option<&dyn Sealer>,
) -> Result<Event, CommitError> {
    let revision = state.revision + 1;
    let key = op.key();
    let current = state.get(key);
    let expect = match op {
        Op::Put { expect, .. } | Op::Delete { expect, .. } => *expect,
    };
    let holds = match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::Revision(expected) => current.is_some_and(|entry| entry.mod_revision == expected),
    };
    let conflict = |current: Option<&Arc<crate::types::Entry>>| CommitError::Conflict {
        key: key.clone(),
        current: current.map(|entry| (**entry).clone()),
    };
    if !holds {
        return Err(conflict(current));
    }
    let sealed = |value| seal::seal(sealer, key, value).map_err(CommitError::Unavailable);
    match op {
        Op::Put { value, .. } => {
            let value = value.render(revision);
            frame.put(key, &sealed(&value)?);
            Ok(recovery::put(state, key.clone(), value, revision))
        }
        Op::Delete { last, .. } => {
            let last = last.as_ref().map(|last| last.render(revision));
            let written = last.as_deref().map(sealed).transpose()?;
            let event = recovery::delete(state, key, last.clone(), revision)
                .ok_or_else(|| conflict(None))?;
            frame.delete(key, written.as_deref());
            Ok(event)
        }
    }
}
