//! Everything that can go wrong, said so that the reader knows what to do next.

use crate::types::{Entry, Revision};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a commit did not go through. Unless said otherwise nothing of it is visible, nor will be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// A precondition failed; `current` is what is there.
    #[error("conflict on {key}: it is at revision {}", current.as_ref().map_or("none (absent)".to_owned(), |e| e.mod_revision.to_string()))]
    Conflict {
        key: Arc<str>,
        current: Option<Entry>,
    },
    /// The disk is full: reads go on, and writes do again as soon as there is space.
    #[error("no space left for the store's log: {0}; free some space on that filesystem and retry")]
    NoSpace(String),
    /// The disk failed at a point after which its contents are unknown (or the store was closed). Reads go on. The
    /// commit may be found done after the store is opened again, which verifies the log.
    #[error("store is read-only: {0}")]
    Unavailable(String),
    /// Bytes the commit would take in the log: more than 4 MiB, or than fit into one segment.
    #[error("commit too large: {0} bytes; split it, or store less in one value")]
    TooLarge(usize),
}

/// Why a store could not be opened. Nothing in the directory has been changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{} has store format {found}, this program knows up to {supported}: start it with the newer version that wrote it",
        path.display()
    )]
    NewerFormat {
        path: PathBuf,
        found: u32,
        supported: u32,
    },
    /// Acknowledged bytes are damaged or missing: opening anyway would lose writes silently.
    #[error(
        "{} is damaged at byte {offset}: {what}; restore the directory from a backup (a copy of the directory as it is now helps to find out more)",
        path.display()
    )]
    Corrupt {
        path: PathBuf,
        offset: u64,
        what: String,
    },
    #[error(
        "{} is in use by another process{}: stop it first, or use another directory",
        dir.display(),
        pid.map_or(String::new(), |pid| format!(" (pid {pid})"))
    )]
    Locked { dir: PathBuf, pid: Option<u32> },
    /// A sealed value can't be read.
    #[error("{} can't be read: {what}", path.display())]
    Sealed { path: PathBuf, what: String },
    #[error("bad store options: {0}")]
    Options(String),
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.into();
        move |source| OpenError::Io {
            doing,
            path,
            source,
        }
    }

    pub(crate) fn sealed(path: impl Into<PathBuf>, what: String) -> OpenError {
        OpenError::Sealed {
            path: path.into(),
            what,
        }
    }

    pub(crate) fn corrupt(
        path: impl Into<PathBuf>,
        offset: u64,
        what: impl Into<String>,
    ) -> OpenError {
        OpenError::Corrupt {
            path: path.into(),
            offset,
            what: what.into(),
        }
    }
}

/// The cursor's revision is older than the oldest event kept (HTTP 410 Expired upstairs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("revision {asked} is compacted; the oldest that can be watched from is {oldest}")]
pub struct Compacted {
    pub asked: Revision,
    /// The lowest `from` that [`crate::Store::watch`] accepts now.
    pub oldest: Revision,
}
