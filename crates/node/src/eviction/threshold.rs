//! When a node is short of something: thresholds as they are written, and what they come to on this machine.
//!
//! Source: kubernetes `pkg/kubelet/eviction/helpers.go` (ParseThresholdConfig), `defaults_linux.go`.

use std::{collections::BTreeMap, time::Duration};

use crate::{quantity, settings};

/// What is measured. In the order in which a shortage is dealt with: memory first (upstream's ByEvictionPriority).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Signal {
    MemoryAvailable,
    /// what the Pods' own cgroup has left
    AllocatableMemoryAvailable,
    NodeFsAvailable,
    NodeFsInodesFree,
    ImageFsAvailable,
    ImageFsInodesFree,
    PidAvailable,
}

impl Signal {
    pub(crate) const ALL: [Signal; 7] = [
        Signal::MemoryAvailable,
        Signal::AllocatableMemoryAvailable,
        Signal::NodeFsAvailable,
        Signal::NodeFsInodesFree,
        Signal::ImageFsAvailable,
        Signal::ImageFsInodesFree,
        Signal::PidAvailable,
    ];
    /// As a configuration writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Signal::MemoryAvailable => "memory.available",
            Signal::AllocatableMemoryAvailable => "allocatableMemory.available",
            Signal::NodeFsAvailable => "nodefs.available",
            Signal::NodeFsInodesFree => "nodefs.inodesFree",
            Signal::ImageFsAvailable => "imagefs.available",
            Signal::ImageFsInodesFree => "imagefs.inodesFree",
            Signal::PidAvailable => "pid.available",
        }
    }
    fn named(name: &str) -> Result<Signal, String> {
        Signal::ALL
            .into_iter()
            .find(|s| s.name() == name)
            .ok_or_else(|| format!("unsupported eviction signal {name}"))
    }
    /// As messages call it.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Signal::MemoryAvailable | Signal::AllocatableMemoryAvailable => "memory",
            Signal::NodeFsAvailable | Signal::ImageFsAvailable => "ephemeral-storage",
            Signal::NodeFsInodesFree | Signal::ImageFsInodesFree => "inodes",
            Signal::PidAvailable => "pids",
        }
    }
    /// Amounts are bytes; the others are numbers of things.
    pub(crate) fn in_bytes(self) -> bool {
        matches!(self.resource(), "memory" | "ephemeral-storage")
    }
    pub(crate) fn condition(self) -> &'static str {
        match self.resource() {
            "memory" => "MemoryPressure",
            "pids" => "PIDPressure",
            _ => "DiskPressure",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Amount {
    Units(u64),
    /// of the capacity: 0 to 1; with `most`, never more than so many units
    Share {
        of_capacity: f64,
        most: Option<u64>,
    },
}

impl Amount {
    pub(crate) fn of(self, capacity: u64) -> u64 {
        match self {
            Amount::Units(units) => units,
            Amount::Share { of_capacity, most } => {
                let units = (capacity as f64 * of_capacity) as u64;
                most.map_or(units, |most| units.min(most))
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Threshold {
    pub signal: Signal,
    pub amount: Amount,
    /// None: hard, acts at once
    pub grace: Option<Duration>,
    /// so much more than the threshold is to be free before the shortage is over
    pub reclaim_min: Option<Amount>,
}

impl Threshold {
    fn hard(signal: Signal, amount: Amount) -> Threshold {
        Threshold {
            signal,
            amount,
            grace: None,
            reclaim_min: None,
        }
    }
}

/// Upstream's, but that shares of a disk are capped: a tenth of a developer's large, well-filled disk is room enough for a long time.
pub(crate) fn defaults() -> Vec<Threshold> {
    const GIB: u64 = 1 << 30;
    let share = |percent: u32, most: Option<u64>| Amount::Share {
        of_capacity: f64::from(percent) / 100.0,
        most,
    };
    with_allocatable(vec![
        Threshold::hard(Signal::MemoryAvailable, Amount::Units(100 << 20)),
        Threshold::hard(Signal::NodeFsAvailable, share(10, Some(GIB))),
        Threshold::hard(Signal::NodeFsInodesFree, share(5, Some(100_000))),
        Threshold::hard(Signal::ImageFsAvailable, share(15, Some(2 * GIB))),
        Threshold::hard(Signal::ImageFsInodesFree, share(5, Some(100_000))),
    ])
}

/// What holds for the machine's memory holds for the Pods' cgroup, too.
fn with_allocatable(mut all: Vec<Threshold>) -> Vec<Threshold> {
    let more: Vec<Threshold> = all
        .iter()
        .filter(|t| t.signal == Signal::MemoryAvailable && t.grace.is_none())
        .map(|t| Threshold {
            signal: Signal::AllocatableMemoryAvailable,
            ..*t
        })
        .collect();
    all.extend(more);
    all
}

type Statements = BTreeMap<String, String>;

/// None: a threshold that is switched off (`0%`, `100%`).
fn amount(signal: Signal, text: &str) -> Result<Option<Amount>, String> {
    let name = signal.name();
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent
            .parse()
            .map_err(|_| format!("eviction threshold {name}: {text:?} is no percentage"))?;
        if percent < 0.0 {
            return Err(format!(
                "eviction percentage threshold {name} must be >= 0%: {text}"
            ));
        }
        if percent > 100.0 {
            return Err(format!(
                "eviction percentage threshold {name} must be <= 100%: {text}"
            ));
        }
        if percent == 0.0 || percent == 100.0 {
            return Ok(None);
        }
        return Ok(Some(Amount::Share {
            of_capacity: percent / 100.0,
            most: None,
        }));
    }
    let milli = quantity::milli(text)
        .ok_or_else(|| format!("eviction threshold {name}: {text:?} is no quantity"))?;
    match u64::try_from((milli + 999) / 1000) {
        Ok(units) if units > 0 => Ok(Some(Amount::Units(units))),
        _ => Err(format!(
            "eviction threshold {name} must be positive: {text}"
        )),
    }
}

/// What a configuration says; `hard` as None means the defaults.
pub(crate) fn parse(
    hard: Option<&Statements>,
    soft: &Statements,
    grace: &Statements,
    reclaim: &Statements,
) -> Result<Vec<Threshold>, String> {
    let one = |(name, text): (&String, &String)| -> Result<Option<Threshold>, String> {
        let signal = Signal::named(name)?;
        Ok(amount(signal, text)?.map(|a| Threshold::hard(signal, a)))
    };
    let list = |from: &Statements| -> Result<Vec<Threshold>, String> {
        from.iter().filter_map(|s| one(s).transpose()).collect()
    };
    let mut all = match hard {
        Some(hard) => with_allocatable(list(hard)?),
        None => defaults(),
    };
    for mut threshold in list(soft)? {
        let name = threshold.signal.name();
        let period = grace.get(name).ok_or_else(|| {
            format!("grace period must be specified for the soft eviction threshold {name}")
        })?;
        threshold.grace = Some(settings::duration(period)?);
        all.push(threshold);
    }
    for (name, text) in reclaim {
        let signal = Signal::named(name)?;
        let least = amount(signal, text)?;
        for threshold in all.iter_mut().filter(|t| t.signal == signal) {
            threshold.reclaim_min = least;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(pairs: &[(&str, &str)]) -> Statements {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn shares_of_a_large_disk_are_capped_only_by_default() {
        let find = |all: Vec<Threshold>| {
            let found = all
                .into_iter()
                .find(|t| t.signal == Signal::NodeFsAvailable);
            found.unwrap().amount.of(1000 << 30)
        };
        assert_eq!(find(defaults()), 1 << 30);
        let none = Statements::new();
        let given = statements(&[("nodefs.available", "10%")]);
        assert_eq!(
            find(parse(Some(&given), &none, &none, &none).unwrap()),
            100 << 30
        );
    }

    #[test]
    fn statements_as_upstream_takes_them() {
        let none = Statements::new();
        let check = |hard: &[(&str, &str)], want: Result<usize, &str>| {
            let got = parse(Some(&statements(hard)), &none, &none, &none);
            match want {
                Ok(n) => assert_eq!(got.map(|t| t.len()), Ok(n), "{hard:?}"),
                Err(text) => assert_eq!(got, Err(text.to_owned()), "{hard:?}"),
            }
        };
        check(&[], Ok(0));
        check(&[("memory.available", "150Mi")], Ok(2));
        check(&[("nodefs.available", "0%")], Ok(0));
        check(
            &[("mem.available", "1")],
            Err("unsupported eviction signal mem.available"),
        );
        check(
            &[("nodefs.available", "110%")],
            Err("eviction percentage threshold nodefs.available must be <= 100%: 110%"),
        );
        check(
            &[("nodefs.available", "0")],
            Err("eviction threshold nodefs.available must be positive: 0"),
        );
        let soft = statements(&[("pid.available", "100")]);
        let grace = statements(&[("pid.available", "1m30s")]);
        let reclaim = statements(&[("pid.available", "50")]);
        let got = parse(Some(&none), &soft, &grace, &reclaim).unwrap();
        assert_eq!(
            got,
            [Threshold {
                signal: Signal::PidAvailable,
                amount: Amount::Units(100),
                grace: Some(Duration::from_secs(90)),
                reclaim_min: Some(Amount::Units(50)),
            }]
        );
    }
}
