//! A bound on what costs do not count: comparing or printing values that share their parts, so that a short expression
//! makes a value whose parts, counted one by one, are more than any computer can look at.

use std::cell::Cell;

/// How many parts one evaluation may look at; ordinary ones look at a few thousand.
const PARTS: u64 = 5_000_000;

thread_local! {
    // an evaluation stays on its thread
    static LEFT: Cell<u64> = const { Cell::new(PARTS) };
}

/// Starts an evaluation's account.
pub(crate) fn start() {
    LEFT.set(PARTS);
}

/// Counts one part; false once there were too many. Then the evaluation's result no longer matters.
pub(crate) fn spend() -> bool {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(1));
    left > 0
}

/// Counts many parts at once, before the work is done.
pub(crate) fn spend_many(parts: u64) -> bool {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(parts));
    left > parts
}

/// Whether the evaluation has looked at too much and must end.
pub(crate) fn exhausted() -> bool {
    LEFT.get() == 0
}
