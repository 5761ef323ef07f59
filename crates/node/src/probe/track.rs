//! One probe's answers over time: thresholds, and when to ask next.

use std::time::Duration;

use tokio::time::Instant;

use super::{Action, Kind, Outcome, Probe};

/// The first quick step; each is half as long again as the one before, up to the period.
const QUICK_MIN: Duration = Duration::from_millis(10);
/// Exec costs a process each time, so it starts slower.
const QUICK_EXEC_MIN: Duration = Duration::from_millis(50);
/// A liveness probe gives the process this long before its first look.
const LIVENESS_HEAD_START: Duration = Duration::from_secs(1);

/// What an answer changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// a failure that counted, though the threshold isn't reached
    Failed,
    /// the result is now this
    Became(bool),
}

pub(crate) struct Track {
    kind: Kind,
    /// the current result; readiness and startup begin as false, liveness as true
    pub result: bool,
    last: Option<bool>,
    run: u32,
    /// how often in a row the probe couldn't be run, and when that was last told
    unknowns: u32,
    told_at: Option<Instant>,
    /// the next quick step; None once steps are regular
    quick: Option<Duration>,
    counted_at: Instant,
    started: Instant,
    next_at: Instant,
}

impl Track {
    /// `started`: when the container's process came to be; the initial delay counts from there, also after a startup probe. `result`: what's known from before a restart of the platform.
    pub(crate) fn new(
        kind: Kind,
        probe: &Probe,
        started: Instant,
        now: Instant,
        result: Option<bool>,
    ) -> Track {
        let quick_min = match probe.action {
            Action::Exec(_) => QUICK_EXEC_MIN,
            _ => QUICK_MIN,
        };
        let quick = kind != Kind::Liveness && probe.initial_delay.is_zero() && result != Some(true);
        let from = match kind {
            Kind::Liveness => now + LIVENESS_HEAD_START.min(probe.period),
            _ => now,
        };
        Track {
            kind,
            result: result.unwrap_or(kind == Kind::Liveness),
            last: result,
            run: 0,
            unknowns: 0,
            told_at: None,
            quick: quick.then_some(quick_min),
            counted_at: now,
            started,
            next_at: (started + probe.initial_delay).max(from),
        }
    }

    pub(crate) fn next_at(&self) -> Instant {
        self.next_at
    }

    /// Takes in an answer that came at `now` and sets when to ask next.
    pub(crate) fn observe(&mut self, probe: &Probe, outcome: &Outcome, now: Instant) -> Change {
        // As a ticker: how long the answer took doesn't move the next time, unless that has passed.
        let early = probe.early.filter(|(_, period)| {
            let good = matches!(outcome, Outcome::Success | Outcome::Warning(_));
            !self.result && !good && now < self.started + *period
        });
        let wait = early.map_or(probe.period, |(interval, _)| interval);
        self.next_at = (self.next_at + wait).max(now);
        let good = match outcome {
            Outcome::Success | Outcome::Warning(_) => true,
            Outcome::Failure(_) => false,
            Outcome::Unknown(_) => {
                self.step_quickly(probe, now);
                self.unknowns = self.unknowns.saturating_add(1);
                return Change::None;
            }
        };
        self.unknowns = 0;
        if good {
            self.quick = None;
        } else if self.step_quickly(probe, now) && now < self.counted_at + probe.period {
            return Change::None;
        }
        if !good {
            self.counted_at = now;
        }
        if self.last == Some(good) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(good);
            self.run = 1;
        }
        let threshold = if good {
            probe.success_threshold
        } else {
            probe.failure_threshold
        };
        if self.run < threshold {
            return if good { Change::None } else { Change::Failed };
        }
        let acts_again = !good && self.kind != Kind::Readiness;
        if self.result == good && !acts_again {
            return if good { Change::None } else { Change::Failed };
        }
        self.result = good;
        Change::Became(good)
    }

    /// Whether it should be told that the probe can't be run: when that's no passing thing (a container that is just ending), and once a period.
    pub(crate) fn tell_unknown(&mut self, probe: &Probe, now: Instant) -> bool {
        let told_lately = self.told_at.is_some_and(|at| now < at + probe.period);
        if self.unknowns < 2 || told_lately {
            return false;
        }
        self.told_at = Some(now);
        true
    }

    /// While in the quick phase: shortens the wait. True when it's still that phase.
    fn step_quickly(&mut self, probe: &Probe, now: Instant) -> bool {
        let Some(step) = self.quick else {
            return false;
        };
        self.next_at = now + step.min(probe.period);
        self.quick = Some((step * 3 / 2).min(probe.period));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(period: u64, success: u32, failure: u32, delay: u64) -> Probe {
        Probe {
            action: Action::Tcp {
                host: None,
                port: 1,
            },
            initial_delay: Duration::from_secs(delay),
            timeout: Duration::from_secs(1),
            period: Duration::from_secs(period),
            early: None,
            success_threshold: success,
            failure_threshold: failure,
            grace_seconds: None,
        }
    }
    fn bad() -> Outcome {
        Outcome::Failure("no".into())
    }

    /// Answers with failure whenever asked, and gives the seconds after which the result is failure.
    fn fails_after(kind: Kind, probe: &Probe) -> f64 {
        let start = Instant::now();
        let mut track = Track::new(kind, probe, start, start, None);
        for _ in 0..10_000 {
            let at = track.next_at();
            if track.observe(probe, &bad(), at) == Change::Became(false) {
                return (at - start).as_secs_f64();
            }
        }
        panic!("it never fails");
    }

    #[test]
    fn a_startup_probe_gives_up_after_threshold_times_period_and_not_before() {
        let after = fails_after(Kind::Startup, &probe(10, 1, 3, 0));
        assert!((30.0..=41.0).contains(&after), "{after}");
        let after = fails_after(Kind::Startup, &probe(1, 1, 30, 0));
        assert!((30.0..=32.0).contains(&after), "{after}");
    }

    #[test]
    fn liveness_waits_its_delay_and_kills_at_the_threshold() {
        let after = fails_after(Kind::Liveness, &probe(10, 1, 3, 5));
        assert!((25.0..=25.1).contains(&after), "{after}");
        let after = fails_after(Kind::Liveness, &probe(10, 1, 1, 0));
        assert!((1.0..=1.1).contains(&after), "{after}");
    }

    #[test]
    fn ready_is_looked_for_quickly_at_first() {
        let probe = probe(10, 1, 3, 0);
        let start = Instant::now();
        let mut track = Track::new(Kind::Readiness, &probe, start, start, None);
        assert!(!track.result);
        let mut asked = 0;
        while track.next_at() < start + Duration::from_millis(300) {
            let at = track.next_at();
            assert_eq!(
                track.observe(&probe, &bad(), at),
                Change::None,
                "early failures don't count"
            );
            asked += 1;
        }
        assert!((6..=9).contains(&asked), "{asked}");
        let at = track.next_at();
        assert_eq!(
            track.observe(&probe, &Outcome::Success, at),
            Change::Became(true)
        );
        assert_eq!(
            track.next_at(),
            at + Duration::from_secs(10),
            "then as configured"
        );
        for n in 1..=3 {
            let at = track.next_at();
            let want = if n == 3 {
                Change::Became(false)
            } else {
                Change::Failed
            };
            assert_eq!(track.observe(&probe, &bad(), at), want, "failure {n}");
        }
        let at = track.next_at();
        assert_eq!(
            track.observe(&probe, &Outcome::Success, at),
            Change::Became(true)
        );
    }

    #[test]
    fn before_the_first_success_it_is_asked_more_often_for_a_while() {
        let seconds = Duration::from_secs;
        let probe = Probe {
            early: Some((seconds(1), seconds(3))),
            ..probe(10, 1, 3, 1)
        };
        let start = Instant::now();
        for (good_from, wanted) in [(2, [1, 2, 12, 22]), (99, [1, 2, 3, 13])] {
            let mut track = Track::new(Kind::Readiness, &probe, start, start, None);
            let asked = [0; 4].map(|_| {
                let at = track.next_at();
                let good = (at - start).as_secs() >= good_from;
                let answer = if good { Outcome::Success } else { bad() };
                track.observe(&probe, &answer, at);
                (at - start).as_secs()
            });
            assert_eq!(asked, wanted, "{good_from}");
        }
    }

    #[test]
    fn slow_answers_do_not_move_the_beat() {
        let probe = probe(10, 1, 3, 3);
        let start = Instant::now();
        let seconds = Duration::from_secs;
        let mut track = Track::new(Kind::Liveness, &probe, start, start, None);
        for (answered_after, next) in [(0, 13), (9, 23), (10, 33), (25, 58), (0, 68)] {
            let at = track.next_at();
            track.observe(&probe, &Outcome::Success, at + seconds(answered_after));
            assert_eq!(track.next_at() - start, seconds(next), "{answered_after}");
        }
    }

    #[test]
    fn the_delay_counts_from_the_start_of_the_process() {
        let start = Instant::now();
        let after = |kind: Kind, delay: u64, now: u64| {
            let probe = probe(10, 1, 3, delay);
            let now = start + Duration::from_secs(now);
            let track = Track::new(kind, &probe, start, now, None);
            (track.next_at() - start).as_secs()
        };
        // a startup probe took 20 s
        assert_eq!(after(Kind::Readiness, 5, 20), 20);
        assert_eq!(after(Kind::Readiness, 30, 20), 30);
        assert_eq!(after(Kind::Liveness, 5, 20), 21);
        assert_eq!(after(Kind::Liveness, 30, 20), 30);
        assert_eq!(after(Kind::Startup, 7, 0), 7);
    }

    #[test]
    fn success_needs_its_threshold_and_delay_is_kept() {
        let probe = probe(5, 2, 3, 7);
        let start = Instant::now();
        let mut track = Track::new(Kind::Readiness, &probe, start, start, None);
        assert_eq!(track.next_at(), start + Duration::from_secs(7));
        let at = track.next_at();
        assert_eq!(track.observe(&probe, &Outcome::Success, at), Change::None);
        let at = track.next_at();
        assert_eq!(
            track.observe(&probe, &Outcome::Success, at),
            Change::Became(true)
        );
    }

    #[test]
    fn what_was_ready_before_a_restart_of_the_platform_stays_ready() {
        let probe = probe(10, 1, 3, 0);
        let now = Instant::now();
        let mut track = Track::new(Kind::Readiness, &probe, now, now, Some(true));
        assert!(track.result);
        assert_eq!(track.observe(&probe, &bad(), now), Change::Failed);
        assert!(track.result);
    }
}
