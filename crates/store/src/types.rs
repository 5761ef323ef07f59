//! What goes into a commit and what comes out of a read.

use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;

/// The sequence number of one operation; it becomes `metadata.resourceVersion`. The first is 1.
///
/// Every operation of a commit gets the next number, without gaps; a commit answers the number of its last one.
pub type Revision = u64;

/// Where the store lives and how much it may keep.
#[derive(Debug, Clone)]
pub struct Options {
    /// The store's own directory; made when absent (mode 0700). No other file belongs in it.
    pub dir: PathBuf,
    /// How many events watchers may fall behind.
    pub ring_events_max: usize,
    /// How many bytes of superseded values the events may keep alive.
    pub ring_bytes_max: usize,
    /// Size of one preallocated log file, in bytes. It bounds the size of one commit, too.
    pub segment_bytes: u64,
    /// A snapshot is written once the log has grown by this many bytes (or by the size of the state, if larger).
    pub snapshot_after_bytes: u64,
}

impl Options {
    /// Small defaults for a store of some thousands of keys: 8 MiB segments, a snapshot per 16 MiB of log, and
    /// 4,096 events or 8 MiB of superseded values for watchers.
    pub fn new(dir: impl Into<PathBuf>) -> Options {
        Options {
            dir: dir.into(),
            ring_events_max: 4096,
            ring_bytes_max: 8 << 20,
            segment_bytes: 8 << 20,
            snapshot_after_bytes: 16 << 20,
        }
    }
}

/// One live key. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Arc<str>,
    pub value: Bytes,
    /// The operation that made the key (since it was last absent).
    pub create_revision: Revision,
    /// The operation that wrote this value.
    pub mod_revision: Revision,
}

/// A value to write. `Spliced` lets the writer put the operation's own revision (decimal) between two parts, so that
/// the bytes stored are the bytes served.
#[derive(Debug, Clone)]
pub enum Value {
    Bytes(Bytes),
    Spliced { before: Bytes, after: Bytes },
}

impl Value {
    /// Upper bound of the bytes this value takes once its revision is known.
    pub(crate) fn len_max(&self) -> usize {
        match self {
            Value::Bytes(bytes) => bytes.len(),
            // a u64 has at most 20 decimal digits
            Value::Spliced { before, after } => before.len() + after.len() + 20,
        }
    }

    /// The final bytes, in an allocation of exactly their size: a caller's slice of some large buffer must not keep
    /// that buffer alive for as long as the key lives.
    pub(crate) fn render(&self, revision: Revision) -> Bytes {
        match self {
            Value::Bytes(bytes) => Bytes::copy_from_slice(bytes),
            Value::Spliced { before, after } => {
                let digits = revision.to_string();
                let mut out = Vec::with_capacity(before.len() + digits.len() + after.len());
                out.extend_from_slice(before);
                out.extend_from_slice(digits.as_bytes());
                out.extend_from_slice(after);
                Bytes::from(out)
            }
        }
    }
}

/// What must hold of the key for the commit to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    /// The key's `mod_revision` is this.
    Revision(Revision),
}

/// One operation of a commit. Later operations see the effects of earlier ones of the same commit.
#[derive(Debug, Clone)]
pub enum Op {
    Put {
        key: Arc<str>,
        value: Value,
        expect: Expect,
    },
    /// Deleting a key that isn't there is a conflict with `current: None`, whatever is expected.
    Delete {
        key: Arc<str>,
        expect: Expect,
        /// the last state to show watchers in the delete event (spliced with the delete's revision); None = the stored value
        last: Option<Value>,
    },
}

impl Op {
    pub(crate) fn key(&self) -> &Arc<str> {
        match self {
            Op::Put { key, .. } | Op::Delete { key, .. } => key,
        }
    }

    /// Upper bound of the bytes this operation takes in the log.
    pub(crate) fn len_max(&self) -> usize {
        let value = match self {
            Op::Put { value, .. } => value.len_max(),
            Op::Delete { last, .. } => last.as_ref().map_or(0, Value::len_max),
        };
        crate::frame::OP_HEADER_BYTES + self.key().len() + value + crate::seal::SEAL_BYTES_MAX
    }
}
