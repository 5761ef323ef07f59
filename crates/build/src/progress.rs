//! What a build tells while it runs.

use knarr_dockerfile::Check;
use std::time::Duration;

/// Number of a step in its build, from 1, in the order of the steps' starts.
pub type StepId = usize;

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Its result was there already.
    Cached,
    Failed(String),
    Canceled,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A step begins: `[build 2/5] RUN make`, `[internal] load build context`.
    Started { id: StepId, name: String },
    /// A piece of its output, as the program wrote it.
    Output {
        id: StepId,
        stderr: bool,
        bytes: Vec<u8>,
    },
    /// How far a transfer is, in bytes; `total` is 0 when it isn't known.
    Transfer {
        id: StepId,
        what: String,
        done: u64,
        total: u64,
    },
    Ended {
        id: StepId,
        outcome: Outcome,
        took: Duration,
    },
    /// Something that the user should know and that is no failure.
    Warning { text: String },
    /// What the Dockerfile should say otherwise, of a build that fails; of one that does not it is in what was built.
    Found { checks: Vec<Check> },
}

/// Who is told. Called from the build's own task: must not block.
pub trait Progress: Send + Sync {
    fn tell(&self, event: Event);
}

/// Nobody is.
pub struct Quiet;

impl Progress for Quiet {
    fn tell(&self, _: Event) {}
}

impl<F: Fn(Event) + Send + Sync> Progress for F {
    fn tell(&self, event: Event) {
        self(event);
    }
}
