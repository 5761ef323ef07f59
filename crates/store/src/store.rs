//! The handle: what the rest of the program holds.

use crate::disk::Disk;
use crate::error::{CommitError, Compacted, OpenError};
use crate::frame::{HEADER_BYTES, SECTOR_BYTES, padded};
use crate::keeper::Keeper;
use crate::recovery::{self, Recovered};
use crate::ring::{Cursor, Ring};
use crate::seal::Sealer;
use crate::segment::{self, DATA_START};
use crate::state::{Snapshot, State};
use crate::types::{Op, Options, Revision};
use crate::writer::{Commit, Request, Writer};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Largest commit, in bytes of log.
const COMMIT_BYTES_MAX: usize = 4 << 20;
/// Most commits waiting for the writer.
const QUEUE_COMMITS_MAX: usize = 1024;
/// Most bytes waiting for the writer.
const QUEUE_BYTES_MAX: usize = 16 << 20;
const SEGMENT_BYTES_MIN: u64 = 16 << 10;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// What handles, cursors and the two threads share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    sealer: Option<Arc<dyn Sealer>>,
    pub(crate) disk: Disk,
    pub(crate) state: ArcSwap<State>,
    pub(crate) ring: Arc<Ring>,
    pub(crate) keeper: Keeper,
    /// All segments still needed, the active one last.
    pub(crate) segments: Mutex<VecDeque<segment::Header>>,
    /// Held while snapshots and spares are made.
    pub(crate) tidying: Mutex<()>,
    pub(crate) snapshot_revision: AtomicU64,
    pub(crate) counters: Counters,
    /// Why nothing can be written any more.
    failed: OnceLock<String>,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) batches: AtomicU64,
}

impl Shared {
    pub(crate) fn sealer(&self) -> Option<&dyn Sealer> {
        self.sealer.as_deref()
    }

    pub(crate) fn fail(&self, why: &str) {
        // the first reason is the one that explains
        let _ = self.failed.set(why.to_owned());
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    pub(crate) fn unavailable(&self) -> CommitError {
        let why = self
            .failed
            .get()
            .map_or("its writer has ended", String::as_str);
        CommitError::Unavailable(why.to_owned())
    }
}

/// Figures for operators and tests, taken one after the other (not at one instant).
#[derive(Debug, Clone)]
pub struct Stats {
    pub revision: Revision,
    pub keys: usize,
    /// Bytes of all live keys and values.
    pub state_bytes: u64,
    pub ring_events: usize,
    /// Bytes that only the ring keeps alive.
    pub ring_bytes: usize,
    /// The lowest revision that can be watched from.
    pub oldest_revision: Revision,
    pub segments: usize,
    /// Size of all log segments on disk.
    pub segment_bytes: u64,
    /// The state that segments are replayed onto at the next open.
    pub snapshot_revision: Revision,
    /// Since opening: commits that went through, and the syncs that took.
    pub commits: u64,
    pub batches: u64,
    /// Why the store takes no writes any more.
    pub read_only: Option<String>,
}

/// Shared handle (Clone = same store). Dropping the last one waits for commits under way, then lets go of the
/// directory.
#[derive(Clone)]
pub struct Store {
    pub(crate) handle: Arc<Handle>,
}

pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    /// `None` while dropping.
    requests: Option<mpsc::Sender<Request>>,
    queue_bytes: Arc<Semaphore>,
    writer: Option<JoinHandle<()>>,
}

impl Store {
    /// Recovers the log; blocking (reads the snapshot and what was logged since). Refuses a directory that is in use,
    /// damaged, or written by a newer version.
    pub fn open(options: Options) -> Result<Store, OpenError> {
        Store::open_sealed(options, None)
    }

    /// Like [`Store::open`], with values that are written in another form. What is found on disk in a form that would
    /// not be written now is written anew before the store is open, and the old files are removed.
    pub fn open_sealed(
        options: Options,
        sealer: Option<Arc<dyn Sealer>>,
    ) -> Result<Store, OpenError> {
        let options = checked(options)?;
        let disk = Disk::open(&options.dir)?;
        let lock = disk.lock()?;
        let Recovered {
            state,
            ring,
            active,
            segments,
            snapshot_revision,
        } = recovery::recover(&disk, &options, sealer.as_deref())?;
        let unsnapped_bytes = segments
            .iter()
            .rev()
            .skip(1)
            .map(|segment| segment.bytes)
            .sum::<u64>()
            + active.end;
        let shared = Arc::new(Shared {
            options,
            sealer,
            disk,
            state: ArcSwap::from_pointee(state),
            ring: Arc::new(ring),
            keeper: Keeper::default(),
            segments: Mutex::new(segments),
            tidying: Mutex::new(()),
            snapshot_revision: AtomicU64::new(snapshot_revision),
            counters: Counters::default(),
            failed: OnceLock::new(),
        });
        let (requests, receiver) = mpsc::channel(QUEUE_COMMITS_MAX);
        let keeper = spawn("store-keeper", &shared, |shared| shared.keeper.run(&shared))?;
        let writer = Writer {
            shared: shared.clone(),
            requests: receiver,
            active,
            keeper,
            lock,
            frame: Default::default(),
            spare_wanted: false,
            unsnapped_bytes,
            room_made: None,
        };
        let writer = match spawn("store-writer", &shared, move |_| writer.run()) {
            Ok(writer) => writer,
            Err(error) => {
                shared.keeper.stop(None);
                return Err(error);
            }
        };
        Ok(Store {
            handle: Arc::new(Handle {
                shared,
                requests: Some(requests),
                queue_bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
                writer: Some(writer),
            }),
        })
    }

    /// Durable (fsync) and visible to readers and watchers when it returns Ok. All ops go through or none.
    ///
    /// Each operation gets the next revision; the last one's is returned (of an empty commit: the current one).
    /// Waits while the queue (1,024 commits or 16 MiB) is full. When the future is dropped the commit may still go
    /// through.
    pub async fn commit(&self, ops: Vec<Op>) -> Result<Revision, CommitError> {
        let shared = &self.handle.shared;
        if ops.is_empty() {
            return Ok(shared.state.load().revision);
        }
        let bytes_max = ops.iter().map(Op::len_max).sum::<usize>();
        let room = (shared.options.segment_bytes - DATA_START) as usize;
        if bytes_max > COMMIT_BYTES_MAX || padded(HEADER_BYTES + bytes_max) > room {
            return Err(CommitError::TooLarge(bytes_max));
        }
        if shared.is_failed() {
            return Err(shared.unavailable());
        }
        let requests = self
            .handle
            .requests
            .as_ref()
            .ok_or_else(|| shared.unavailable())?;
        let weight = bytes_max.max(SECTOR_BYTES) as u32;
        let share = self
            .handle
            .queue_bytes
            .clone()
            .acquire_many_owned(weight)
            .await
            .map_err(|_| shared.unavailable())?;
        let (reply, answer) = oneshot::channel();
        let commit = Commit {
            ops,
            bytes_max,
            reply,
            _share: share,
        };
        requests
            .send(Request::Commit(commit))
            .await
            .map_err(|_| shared.unavailable())?;
        answer.await.unwrap_or_else(|_| Err(shared.unavailable()))
    }

    /// The state as of the last durable commit. O(1).
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            state: self.handle.shared.state.load_full(),
        }
    }

    /// Events with revision > `from` whose key starts with `prefix`. A `from` beyond the newest revision waits for it
    /// to be passed.
    pub fn watch(&self, prefix: &str, from: Revision) -> Result<Cursor, Compacted> {
        self.handle.shared.ring.watch(prefix, from)
    }

    /// Flushes, snapshots and closes; commits after it fail, reads go on. Returns when the directory is free.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if let Some(requests) = &self.handle.requests
            && requests.send(Request::Close { done }).await.is_ok()
        {
            // an error means that the writer has ended already
            let _ = closed.await;
        }
    }

    /// Whether commits are taken: false from a disk's first failed flush on, until the store is opened anew.
    pub fn takes_commits(&self) -> bool {
        !self.handle.shared.is_failed()
    }

    pub fn stats(&self) -> Stats {
        let shared = &self.handle.shared;
        let state = shared.state.load();
        let (ring_events, ring_bytes, oldest_revision) = shared.ring.size();
        let (segments, segment_bytes) = {
            let segments = shared.segments.lock();
            (
                segments.len(),
                segments.iter().map(|segment| segment.bytes).sum(),
            )
        };
        Stats {
            revision: state.revision,
            keys: state.len(),
            state_bytes: state.bytes,
            ring_events,
            ring_bytes,
            oldest_revision,
            segments,
            segment_bytes,
            snapshot_revision: shared.snapshot_revision.load(Ordering::Acquire),
            commits: shared.counters.commits.load(Ordering::Relaxed),
            batches: shared.counters.batches.load(Ordering::Relaxed),
            read_only: shared.failed.get().cloned(),
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.handle.shared.options.dir)
            .field("revision", &self.handle.shared.state.load().revision)
            .finish()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

fn spawn(
    name: &str,
    shared: &Arc<Shared>,
    body: impl FnOnce(Arc<Shared>) + Send + 'static,
) -> Result<JoinHandle<()>, OpenError> {
    let of_thread = shared.clone();
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(256 << 10)
        .spawn(move || body(of_thread))
        .map_err(OpenError::io("start the threads of", &shared.options.dir))
}

fn checked(mut options: Options) -> Result<Options, OpenError> {
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&options.segment_bytes) {
        return Err(OpenError::Options(format!(
            "segment_bytes is {}, it must be from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}",
            options.segment_bytes
        )));
    }
    options.segment_bytes = options.segment_bytes.next_multiple_of(DATA_START);
    Ok(options)
}
