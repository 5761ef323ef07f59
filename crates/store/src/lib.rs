//! A durable ordered key→bytes log with watch.
//!
//! It is: one write-ahead log with group commit, the state in memory, snapshots, and one event ring.
//! It is not: a database with queries, indexes or tables.
//! It must never know: Kubernetes, JSON, or what a value means.
//!
//! A commit's way: [`Store::commit`] → bounded queue → the *writer* thread (`writer.rs`: checks preconditions,
//! encodes a batch into one frame, one `pwrite` + `fdatasync`) → publish state, then events, then wake cursors →
//! answer. The *keeper* thread (`keeper.rs`) does what may be slow: snapshots, dropping old segments, zero-filling
//! spare ones. What is on disk is drawn in `FORMAT.md`.
#![forbid(unsafe_code)]

mod disk;
mod error;
#[cfg(test)]
mod fault_tests;
mod frame;
mod keeper;
mod recovery;
mod ring;
mod seal;
mod segment;
mod snapfile;
mod state;
mod store;
mod types;
mod writer;

pub use error::{CommitError, Compacted, OpenError};
pub use ring::{Cursor, Event};
pub use seal::{SEAL_BYTES_MAX, Sealer, Unsealed};
pub use state::Snapshot;
pub use store::{Stats, Store};
pub use types::{Entry, Expect, Op, Options, Revision, Value};
