//! The audit log: who asked what, when, and how it ended (KEP-22; apiserver `pkg/audit`).
//!
//! A request has a [`Span`]. What it notes costs the request a few reference counts; events are put together and written
//! by a thread of their own ([`log`]), to which a bounded queue leads. When the queue is full, requests wait; one that
//! has waited for five seconds goes on without its event, which is counted and told in the platform's log.

mod event;
mod log;
mod policy;
mod rotate;
mod span;

pub use log::{Audit, Error};
pub use policy::{Policy, PolicyError};
pub use rotate::Options as LogOptions;
pub use span::{Peer, Span, audit_id};
