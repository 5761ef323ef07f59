//! A durable ordered key→bytes log with watch.
//!
//! It is: one write-ahead log with group commit, the state in memory, snapshots, and one event ring.
//! It is not: a database with queries, indexes or tables.
//! It must never know: Kubernetes, JSON, or what a value means.
#![forbid(unsafe_code)]

use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;

/// The log sequence number of a commit; it becomes `metadata.resourceVersion`. The first commit is 1.
pub type Revision = u64;

#[derive(Debug, Clone)]
pub struct Options {
    pub dir: PathBuf,
    pub ring_events_max: usize,
    pub ring_bytes_max: usize,
    pub segment_bytes: u64,
    pub snapshot_after_bytes: u64,
}

/// One live key. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: Arc<str>,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
}

/// A value to write. `Spliced` lets the writer put the commit's own revision (decimal) between two parts, so that the bytes stored are the bytes served.
#[derive(Debug, Clone)]
pub enum Value {
    Bytes(Bytes),
    Spliced { before: Bytes, after: Bytes },
}

/// What must hold of the key for the commit to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    Revision(Revision),
}

#[derive(Debug, Clone)]
pub enum Op {
    Put {
        key: Arc<str>,
        value: Value,
        expect: Expect,
    },
    Delete {
        key: Arc<str>,
        expect: Expect,
        /// the last state to show watchers in the delete event (spliced with the delete's revision); None = the stored value
        last: Option<Value>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A precondition failed; `current` is what is there.
    #[error("conflict on {key}")]
    Conflict {
        key: Arc<str>,
        current: Option<Entry>,
    },
    #[error("store is read-only: {0}")]
    Unavailable(String),
    #[error("value too large: {0} bytes")]
    TooLarge(usize),
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Other(String), /* the store owner refines: NewerFormat, Corrupt, Locked, Io … */
}

/// The cursor's revision is older than the oldest event kept (HTTP 410 Expired upstairs).
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("revision {asked} is compacted; the oldest is {oldest}")]
pub struct Compacted {
    pub asked: Revision,
    pub oldest: Revision,
}

#[derive(Debug)]
pub struct Event {
    pub revision: Revision,
    pub key: Arc<str>,
    /** None: deleted */
    pub value: Option<Bytes>,
    /** state before this event */
    pub prev: Option<Entry>,
    /** for a delete: the last state, carrying the delete's revision */
    pub last: Option<Bytes>,
    pub create_revision: Revision,
}

/// An immutable view of all keys at one revision; O(1) to take and to clone.
#[derive(Clone)]
pub struct Snapshot {
    _p: (),
}
impl Snapshot {
    pub fn revision(&self) -> Revision {
        todo!()
    }
    pub fn get(&self, key: &str) -> Option<&Entry> {
        let _ = key;
        todo!()
    }
    /// Entries whose key starts with `prefix`, in key order, strictly after `after` when given.
    pub fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> Box<dyn Iterator<Item = &'a Entry> + 'a> {
        let _ = (prefix, after);
        todo!()
    }
}

/// Shared handle (Clone = same store).
#[derive(Clone)]
pub struct Store {
    _p: (),
}
impl Store {
    /// Recovers the log; blocking.
    pub fn open(options: Options) -> Result<Store, OpenError> {
        let _ = options;
        todo!()
    }
    /// Durable (fsync) and visible to readers and watchers when it returns Ok. All ops go through or none.
    pub async fn commit(&self, ops: Vec<Op>) -> Result<Revision, CommitError> {
        let _ = ops;
        todo!()
    }
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }
    /// Events with revision > `from` whose key starts with `prefix`.
    pub fn watch(&self, prefix: &str, from: Revision) -> Result<Cursor, Compacted> {
        let _ = (prefix, from);
        todo!()
    }
    /// Flushes, snapshots and closes; commits after it fail.
    pub async fn close(&self) {
        todo!()
    }
}

/// A pull cursor on the event ring: holds no queue of its own.
pub struct Cursor {
    _p: (),
}
impl Cursor {
    /// Waits for at least one matching event (cancel-safe); `Compacted` when it fell behind the ring.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        let _ = max;
        todo!()
    }
    /// All matching events up to and including this revision have been returned (for bookmarks).
    pub fn position(&self) -> Revision {
        todo!()
    }
}
