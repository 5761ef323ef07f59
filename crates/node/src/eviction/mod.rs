//! Node-pressure eviction: when the machine runs short of memory, disk, or process numbers, Pods that take more than they asked for go first.
//!
//! `threshold` says when that is, `observe` measures, `decide` draws the conclusions, `rank` says who goes, `storage` holds Pods to their own limits; here they come together, every ten seconds as in the kubelet.

mod admit;
mod decide;
mod manager;
mod observe;
mod rank;
mod storage;
pub(crate) mod threshold;

pub(crate) use self::{
    admit::refusal, decide::Conditions, manager::Manager, storage::StorageLimits,
};

/// What a Pod that has to go is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub message: String,
    pub grace_seconds: u64,
    /// it isn't its own fault: it gets the condition DisruptionTarget
    pub disrupted: bool,
}
