//! Waiting longer after each failure.
//!
//! Source: client-go `util/flowcontrol/backoff.go`, kubelet `MaxContainerBackOff`.

use std::time::Duration;

use tokio::time::Instant;

pub(crate) const CRASH_MIN: Duration = Duration::from_secs(10);
pub(crate) const CRASH_MAX: Duration = Duration::from_secs(300);
/// A container that ran this long since its last restart starts over.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Restarts of one container: the first is at once, then 10 s, 20 s … 300 s after the end of the one before.
#[derive(Debug, Default, Clone)]
pub(crate) struct Crash {
    delay: Duration,
    restarted_at: Option<Instant>,
}

impl Crash {
    pub(crate) fn delay(&self) -> Duration {
        self.delay
    }
    /// When a container that ended at `ended` may start again.
    pub(crate) fn due(&self, ended: Instant) -> Instant {
        match self.restarted_at {
            Some(at) if ended.saturating_duration_since(at) > FORGET_AFTER => ended,
            _ => ended + self.delay,
        }
    }
    pub(crate) fn restarted(&mut self, now: Instant) {
        let forgotten = self
            .restarted_at
            .is_none_or(|at| now.saturating_duration_since(at) > FORGET_AFTER);
        self.delay = if forgotten {
            CRASH_MIN
        } else {
            (self.delay * 2).clamp(CRASH_MIN, CRASH_MAX)
        };
        self.restarted_at = Some(now);
    }
}

/// `min · 2^tries`, at most `max`.
pub(crate) fn doubling(min: Duration, max: Duration, tries: u32) -> Duration {
    min.saturating_mul(1 << tries.min(16)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_five_minutes_and_forgets_after_ten() {
        let mut now = Instant::now();
        let mut crash = Crash::default();
        let mut waits = vec![];
        for _ in 0..8 {
            let due = crash.due(now);
            waits.push((due - now).as_secs());
            now = due;
            crash.restarted(now);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        now += Duration::from_secs(601);
        assert_eq!(crash.due(now), now);
        crash.restarted(now);
        assert_eq!(crash.delay(), CRASH_MIN);
    }
}
