//! CPU rates: two readings of each cgroup's CPU time, some seconds apart.
//!
//! Readings are taken while somebody asks, and until [`LATELY`] after the last question; then all is forgotten. Whoever asks
//! first waits [`FIRST`] for the second reading.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{MACHINE, subjects};
use crate::{context::Context, pod::entry::Registry};

/// Between readings; cadvisor's housekeeping interval in the kubelet.
const EVERY: Duration = Duration::from_secs(10);
const LATELY: Duration = Duration::from_secs(150);
/// The window of the first answer.
const FIRST: Duration = Duration::from_secs(1);
/// Rates over less than that say little when there is an older reading to count from.
const SHORT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    cpu_ns: u64,
}

/// CPU time per time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    pub nano_cores: u64,
    pub window: Duration,
}

#[derive(Default)]
struct Readings {
    /// when somebody asked last; None: nobody lately, and nothing is kept
    asked: Option<Instant>,
    newest: HashMap<PathBuf, Reading>,
    before: HashMap<PathBuf, Reading>,
}

#[derive(Default)]
pub(crate) struct Sampler {
    readings: Mutex<Readings>,
    wanted: Notify,
    /// held by who takes the first readings
    first: tokio::sync::Mutex<()>,
}

impl Sampler {
    /// Tells that rates are wanted now; ready when there is something to count from.
    pub(crate) async fn asked(self: &Arc<Self>, context: &Arc<Context>, registry: &Registry) {
        let _one = self.first.lock().await;
        let cold = {
            let mut readings = self.readings.lock();
            readings.asked = Some(Instant::now());
            readings.newest.is_empty()
        };
        self.wanted.notify_one();
        if cold {
            self.clone().read(context, registry).await;
            tokio::time::sleep(FIRST).await;
        }
    }

    /// Takes readings as long as somebody asks; ends never.
    pub(crate) async fn run(self: Arc<Self>, context: Arc<Context>, registry: Registry) {
        loop {
            self.wanted.notified().await;
            loop {
                tokio::time::sleep(EVERY).await;
                {
                    let mut readings = self.readings.lock();
                    if readings.asked.is_none_or(|at| at.elapsed() > LATELY) {
                        *readings = Readings::default();
                        break;
                    }
                }
                self.clone().read(&context, &registry).await;
            }
        }
    }

    async fn read(self: Arc<Self>, context: &Arc<Context>, registry: &Registry) {
        let (context, registry) = (context.clone(), registry.clone());
        let _ = tokio::task::spawn_blocking(move || {
            let mut groups: Vec<PathBuf> = subjects(&context, &registry)
                .into_iter()
                .flat_map(|s| {
                    let pod = s.group.parent().map(Path::to_owned);
                    [Some(s.group), pod]
                })
                .flatten()
                .collect();
            groups.sort();
            groups.dedup();
            groups.push(MACHINE.into());
            groups.extend(context.engine.group());
            let newest = groups
                .into_iter()
                .filter_map(|group| {
                    let cpu_ns = context.engine.cpu_ns(&group)?;
                    let at = Instant::now();
                    Some((group, Reading { at, cpu_ns }))
                })
                .collect();
            self.keep(newest);
        })
        .await;
    }

    fn keep(&self, newest: HashMap<PathBuf, Reading>) {
        let mut readings = self.readings.lock();
        readings.before = std::mem::replace(&mut readings.newest, newest);
    }

    /// The rate up to now, at a CPU time just read. A cgroup without a reading that has been there since `since` (with no CPU
    /// time then) is counted from there.
    pub(crate) fn rate(
        &self,
        group: &Path,
        cpu_ns: u64,
        since: Option<SystemTime>,
    ) -> Option<Rate> {
        let now = Instant::now();
        let known = {
            let readings = self.readings.lock();
            [&readings.newest, &readings.before].map(|r| r.get(group).copied())
        };
        between(known, Reading { at: now, cpu_ns }, || {
            let age = since?.elapsed().ok()?;
            (age >= FIRST).then_some(age)
        })
    }
}

/// The rate since the newer of the readings that is old enough, or since the older, or over the whole `age`.
fn between(
    known: [Option<Reading>; 2],
    now: Reading,
    age: impl Fn() -> Option<Duration>,
) -> Option<Rate> {
    // one that has counted more is of an earlier cgroup of that name
    let mut usable = known
        .into_iter()
        .flatten()
        .filter(|r| r.cpu_ns <= now.cpu_ns);
    let window = |r: &Reading| now.at.saturating_duration_since(r.at);
    let newer = usable.next();
    let chosen = match newer {
        Some(r) if window(&r) < SHORT => usable.next().or(Some(r)),
        other => other,
    };
    let (window, cpu_ns) = match chosen {
        Some(r) if !window(&r).is_zero() => (window(&r), now.cpu_ns - r.cpu_ns),
        _ => (age()?, now.cpu_ns),
    };
    let nano_cores = u128::from(cpu_ns) * 1_000_000_000 / window.as_nanos().max(1);
    Some(Rate {
        nano_cores: u64::try_from(nano_cores).unwrap_or(u64::MAX),
        window,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_readings_make_the_rate() {
        let start = Instant::now();
        let at = |seconds: u64, cpu_ms: u64| {
            Some(Reading {
                at: start + Duration::from_secs(seconds),
                cpu_ns: cpu_ms * 1_000_000,
            })
        };
        let check = |what: &str,
                     known: [Option<Reading>; 2],
                     age: Option<u64>,
                     wanted: Option<(u64, u64)>| {
            let now = at(20, 5000).unwrap();
            let got = between(known, now, || age.map(Duration::from_secs));
            let wanted = wanted.map(|(milli, seconds)| Rate {
                nano_cores: milli * 1_000_000,
                window: Duration::from_secs(seconds),
            });
            assert_eq!(got, wanted, "{what}");
        };
        check(
            "old enough",
            [at(10, 4000), at(0, 0)],
            None,
            Some((100, 10)),
        );
        check(
            "too new",
            [at(18, 4900), at(8, 2600)],
            None,
            Some((200, 12)),
        );
        check("too new, alone", [at(18, 4900), None], None, Some((50, 2)));
        check("none", [None, None], None, None);
        check("from its start", [None, None], Some(50), Some((100, 50)));
        check(
            "of another cgroup",
            [at(10, 6000), None],
            Some(10),
            Some((500, 10)),
        );
        check("at this very moment", [at(20, 5000), None], None, None);
    }
}
