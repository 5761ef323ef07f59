//! What a pull or push tells while it works.

/// Where one blob stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Waiting,
    /// It is there already.
    Exists,
    /// Bytes so far, of how many.
    Transferring {
        at: u64,
        of: u64,
    },
    /// It broke off and goes on after a while: which attempt this is.
    Retrying {
        attempt: u32,
    },
    /// It is all here and is being unpacked (pull) or compressed (push).
    Working,
    /// The registry took it from another of its repositories.
    Mounted,
    Done,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The manifest was found (pull), or what is pushed is known.
    Resolved { reference: String, digest: String },
    /// A layer or config, by digest.
    Blob { digest: String, step: Step },
}

/// Who listens. It is called from several tasks at once, and must not block.
pub trait Progress: Send + Sync {
    fn event(&self, event: Event);
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event) {}
}

impl<F: Fn(Event) + Send + Sync> Progress for F {
    fn event(&self, event: Event) {
        self(event);
    }
}
