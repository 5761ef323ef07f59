//! Waiting longer after each failure.
//!
//! Source: client-go `util/flowcontrol/backoff.go`, kubelet `MaxContainerBackOff`.

use std::time::Duration;

use tokio::time::Instant;

/// How a container's restarts are spaced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pace {
    /// Before the first.
    pub at_first: Duration,
    /// Before the second, then doubled.
    pub least: Duration,
    pub most: Duration,
    /// A container that ran this long since its last restart starts over.
    pub forget_after: Duration,
}

pub(crate) const CRASH_MIN: Duration = Duration::from_secs(10);
pub(crate) const CRASH_MAX: Duration = Duration::from_secs(300);
/// The first is at once, then 10 s, 20 s … 300 s after the end of the one before.
pub(crate) const UPSTREAM: Pace = Pace {
    at_first: Duration::ZERO,
    least: CRASH_MIN,
    most: CRASH_MAX,
    forget_after: Duration::from_secs(600),
};

/// Restarts of one container.
#[derive(Debug, Clone)]
pub(crate) struct Crash {
    pace: Pace,
    delay: Duration,
    restarted_at: Option<Instant>,
}

impl Default for Crash {
    fn default() -> Self {
        Crash::at(UPSTREAM)
    }
}

impl Crash {
    pub(crate) fn at(pace: Pace) -> Crash {
        Crash {
            pace,
            delay: pace.at_first,
            restarted_at: None,
        }
    }
    /// As before the first restart.
    pub(crate) fn reset(&mut self) {
        *self = Crash::at(self.pace);
    }
    pub(crate) fn delay(&self) -> Duration {
        self.delay
    }
    /// When a container that ended at `ended` may start again.
    pub(crate) fn due(&self, ended: Instant) -> Instant {
        match self.restarted_at {
            Some(at) if ended.saturating_duration_since(at) > self.pace.forget_after => {
                ended + self.pace.at_first
            }
            _ => ended + self.delay,
        }
    }
    /// It was started at `now`, after it had ended at `ended`. Its run counts, not the pause after it: pauses grow longer
    /// than some paces forget after.
    pub(crate) fn restarted(&mut self, now: Instant, ended: Option<Instant>) {
        let ended = ended.unwrap_or(now);
        let forgotten = self
            .restarted_at
            .is_none_or(|at| ended.saturating_duration_since(at) > self.pace.forget_after);
        self.delay = if forgotten {
            self.pace.least
        } else {
            (self.delay * 2).clamp(self.pace.least, self.pace.most)
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
            crash.restarted(due, Some(now));
            now = due;
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        now += Duration::from_secs(601);
        assert_eq!(crash.due(now), now);
        crash.restarted(now, Some(now));
        assert_eq!(crash.delay(), CRASH_MIN);
    }

    #[test]
    fn pauses_longer_than_what_is_forgotten_after_go_on_growing() {
        let pace = Pace {
            at_first: Duration::ZERO,
            least: Duration::from_millis(100),
            most: Duration::from_secs(60),
            forget_after: Duration::from_secs(10),
        };
        let (mut crash, mut ended, mut waits) = (Crash::at(pace), Instant::now(), vec![]);
        for _ in 0..14 {
            let due = crash.due(ended);
            waits.push((due - ended).as_millis());
            crash.restarted(due, Some(ended));
            ended = due + Duration::from_millis(300);
        }
        let expected = [
            0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000, 60000,
        ];
        assert_eq!(waits, expected);
        ended += Duration::from_secs(10);
        crash.restarted(ended, Some(ended));
        assert_eq!(crash.delay(), pace.least);
    }
}
