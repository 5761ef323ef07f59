//! What Docker tells of a container's health check: its last answers, and how many failures in a row there were.

use jiff::Timestamp;
use serde::Deserialize;
use std::{collections::VecDeque, time::Duration};

use super::Probe;

/// SOURCE: moby `daemon/health.go` maxLogEntries, maxOutputLen
const KEPT: usize = 5;
pub(super) const OUTPUT_BYTES_MAX: usize = 4096;

/// One answer of a command that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub start: Timestamp,
    pub end: Timestamp,
    /// -1: it could not be run, or took too long
    pub exit_code: i32,
    pub timed_out: bool,
    pub output: String,
}

/// The last answers.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    pub last: VecDeque<Check>,
    /// failures since the last success
    pub failing: u32,
}

impl Checks {
    pub(crate) fn add(&mut self, check: Check) {
        self.failing = match check.exit_code {
            0 => 0,
            _ => self.failing.saturating_add(1),
        };
        self.last.push_back(check);
        while self.last.len() > KEPT {
            self.last.pop_front();
        }
    }
}

/// How often is asked, finer than a Pod can say it.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Pace {
    interval_ms: u64,
    timeout_ms: u64,
    /// before the first success and within the period, it's asked so often
    start_interval_ms: u64,
    start_period_ms: u64,
}

impl Pace {
    /// The probe, asked at this pace.
    pub(crate) fn applied(&self, mut probe: Probe) -> Probe {
        let given = |ms: u64| Some(Duration::from_millis(ms)).filter(|d| !d.is_zero());
        probe.period = given(self.interval_ms).unwrap_or(probe.period);
        probe.timeout = given(self.timeout_ms).unwrap_or(probe.timeout);
        let early = given(self.start_interval_ms).zip(given(self.start_period_ms));
        probe.early = early;
        let first = early.map_or(probe.period, |(interval, _)| interval);
        probe.initial_delay = probe.initial_delay.min(first);
        probe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_five_are_kept() {
        let mut checks = Checks::default();
        for exit_code in [0, 1, 2, 0, 3, 4, 5] {
            checks.add(Check {
                start: Timestamp::UNIX_EPOCH,
                end: Timestamp::UNIX_EPOCH,
                exit_code,
                timed_out: false,
                output: String::new(),
            });
        }
        let codes: Vec<i32> = checks.last.iter().map(|c| c.exit_code).collect();
        assert_eq!((codes, checks.failing), (vec![2, 0, 3, 4, 5], 3));
    }
}
