//! From what was measured to what is done about it: which conditions the node has, and which shortage Pods must go for. Pure.
//!
//! Source: kubernetes `pkg/kubelet/eviction/eviction_manager.go` (synchronize), `helpers.go` (thresholdsMet and what follows it).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::threshold::{Signal, Threshold};

/// What was measured of one signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observation {
    pub available: u64,
    pub capacity: u64,
}

pub(crate) type Observations = BTreeMap<Signal, Observation>;

/// The names of conditions that are True.
pub(crate) type Conditions = BTreeSet<&'static str>;

/// What is remembered between two looks.
#[derive(Default)]
pub(crate) struct Memory {
    /// met thresholds (by their place in the list), and since when
    met: BTreeMap<usize, Instant>,
    /// conditions, and when their thresholds were last met
    seen: BTreeMap<&'static str, Instant>,
    /// thresholds that were acted on: they stay met until so much is free that `reclaim_min` is satisfied
    acted: BTreeSet<usize>,
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Decision {
    pub conditions: Conditions,
    /// thresholds met for as long as their patience, the most urgent first
    pub starved: Vec<Threshold>,
}

/// Whether a threshold is met; with `whole`, also when it isn't any more but too little is free to let it rest.
fn is_met(threshold: &Threshold, observations: &Observations, whole: bool) -> bool {
    let Some(seen) = observations.get(&threshold.signal) else {
        return false;
    };
    let mut limit = threshold.amount.of(seen.capacity);
    if whole && let Some(more) = threshold.reclaim_min {
        limit = limit.saturating_add(more.of(seen.capacity));
    }
    limit > seen.available
}

impl Memory {
    pub(crate) fn decide(
        &mut self,
        thresholds: &[Threshold],
        observations: &Observations,
        transition: Duration,
        now: Instant,
    ) -> Decision {
        let met: BTreeSet<usize> = (0..thresholds.len())
            .filter(|i| is_met(&thresholds[*i], observations, self.acted.contains(i)))
            .collect();
        self.met.retain(|i, _| met.contains(i));
        for i in &met {
            self.met.entry(*i).or_insert(now);
        }
        for i in &met {
            self.seen.insert(thresholds[*i].signal.condition(), now);
        }
        self.seen
            .retain(|_, at| *at == now || now - *at < transition);
        let due = |i: &usize| {
            let patience = thresholds[*i].grace.unwrap_or_default();
            self.met
                .get(i)
                .is_some_and(|since| now - *since >= patience)
        };
        self.acted = met.iter().copied().filter(due).collect();
        let mut starved: Vec<Threshold> = self.acted.iter().map(|i| thresholds[*i]).collect();
        starved.sort_by_key(|t| t.signal);
        Decision {
            conditions: self.seen.keys().copied().collect(),
            starved,
        }
    }
}

/// Whether nothing is short any more, with what is to be free beyond each threshold.
pub(crate) fn relieved(thresholds: &[Threshold], observations: &Observations) -> bool {
    !thresholds.iter().any(|t| is_met(t, observations, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::threshold::Amount;

    fn threshold(signal: Signal, units: u64, grace: Option<u64>, more: Option<u64>) -> Threshold {
        Threshold {
            signal,
            amount: Amount::Units(units),
            grace: grace.map(Duration::from_secs),
            reclaim_min: more.map(Amount::Units),
        }
    }

    /// Seconds → what is free of memory and disk → conditions and what is acted on.
    #[test]
    fn conditions_come_at_once_and_go_later() {
        let thresholds = [
            threshold(Signal::MemoryAvailable, 100, None, None),
            threshold(Signal::MemoryAvailable, 200, Some(30), None),
            threshold(Signal::NodeFsAvailable, 100, None, Some(50)),
        ];
        let start = Instant::now();
        let mut memory = Memory::default();
        let mut check = |second: u64, free: [u64; 2], conditions: &[&str], starved: &[u64]| {
            let seen = |available| Observation {
                available,
                capacity: 1000,
            };
            let observations = Observations::from([
                (Signal::MemoryAvailable, seen(free[0])),
                (Signal::NodeFsAvailable, seen(free[1])),
            ]);
            let got = memory.decide(
                &thresholds,
                &observations,
                Duration::from_secs(60),
                start + Duration::from_secs(second),
            );
            let limits: Vec<u64> = got.starved.iter().map(|t| t.amount.of(1000)).collect();
            assert_eq!(
                (got.conditions.into_iter().collect::<Vec<_>>(), limits),
                (conditions.to_vec(), starved.to_vec()),
                "after {second} s"
            );
        };
        check(0, [500, 500], &[], &[]);
        // soft: the condition comes, and nothing is done before its patience ends
        check(10, [150, 500], &["MemoryPressure"], &[]);
        check(39, [150, 500], &["MemoryPressure"], &[]);
        check(40, [150, 500], &["MemoryPressure"], &[200]);
        check(41, [50, 500], &["MemoryPressure"], &[100, 200]);
        // over, but the condition stays for a while; the patience begins anew
        check(50, [500, 500], &["MemoryPressure"], &[]);
        check(60, [150, 500], &["MemoryPressure"], &[]);
        check(119, [500, 500], &["MemoryPressure"], &[]);
        check(120, [500, 500], &[], &[]);
        // once acted on, a little more must be free than the threshold
        check(200, [500, 90], &["DiskPressure"], &[100]);
        check(210, [500, 120], &["DiskPressure"], &[100]);
        check(220, [500, 150], &["DiskPressure"], &[]);
        check(230, [500, 120], &["DiskPressure"], &[]);
    }

    #[test]
    fn what_was_not_measured_is_not_short() {
        let thresholds = [threshold(Signal::PidAvailable, 1, None, None)];
        let got = Memory::default().decide(
            &thresholds,
            &Observations::new(),
            Duration::ZERO,
            Instant::now(),
        );
        assert_eq!(got, Decision::default());
        assert!(relieved(&thresholds, &Observations::new()));
    }
}
