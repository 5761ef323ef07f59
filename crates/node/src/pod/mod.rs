//! One Pod from the API to the machine: a task of its own, whose state is small and whose waits all end.

pub(crate) mod adopt;
mod apply;
pub(crate) mod backoff;
mod conditions;
mod ending;
pub(crate) mod entry;
pub(crate) mod jobs;
pub(crate) mod mailbox;
mod own_policy;
mod phase;
pub(crate) mod resize;
mod restart;
pub(crate) mod state;
mod status;
mod step;
pub(crate) mod worker;
