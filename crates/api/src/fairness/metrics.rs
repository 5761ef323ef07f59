//! `apiserver_flowcontrol_*` in the Prometheus text format.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{Fairness, level::Refusal};

/// Upper bounds of the waits' buckets, in seconds (upstream's).
const BUCKETS_SECONDS: [f64; 10] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 15.0];
const REFUSALS: [Refusal; 3] = [
    Refusal::QueueFull,
    Refusal::ConcurrencyLimit,
    Refusal::TimeOut,
];
/// A wait shorter than this is none, in microseconds.
const WAIT_MICROS_MIN: u64 = 50;

/// What became of a schema's requests.
#[derive(Default)]
pub struct Counts {
    dispatched: AtomicU64,
    refused: [AtomicU64; REFUSALS.len()],
    /// waits by bucket, the last for those above all bounds
    waits: [AtomicU64; BUCKETS_SECONDS.len() + 1],
    wait_micros: AtomicU64,
}

impl Counts {
    /// Counts one request.
    pub fn note(&self, waited: Duration, refused: Option<Refusal>) {
        match refused.and_then(|r| REFUSALS.iter().position(|o| *o == r)) {
            Some(i) => self.refused[i].fetch_add(1, Ordering::Relaxed),
            None => self.dispatched.fetch_add(1, Ordering::Relaxed),
        };
        let micros = waited.as_micros() as u64;
        let micros = if micros < WAIT_MICROS_MIN { 0 } else { micros };
        let seconds = micros as f64 / 1e6;
        let bucket = BUCKETS_SECONDS.iter().position(|b| seconds <= *b);
        self.waits[bucket.unwrap_or(BUCKETS_SECONDS.len())].fetch_add(1, Ordering::Relaxed);
        self.wait_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // writing to a String can't fail
    let _ = write!(
        out,
        "# HELP apiserver_flowcontrol_{name} {help}\n# TYPE apiserver_flowcontrol_{name} {kind}\n"
    );
}

impl Fairness {
    /// All of them.
    pub fn metrics(&self) -> String {
        let mut out = String::new();
        let configuration = self.configuration.load();
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let mut levels: Vec<_> = configuration.levels.values().collect();
        levels.sort_by(|a, b| a.name.cmp(&b.name));
        let levels: Vec<_> = levels.iter().map(|l| (&l.name, l.figures())).collect();
        type Figure = fn(&super::level::Figures) -> f64;
        let gauges: [(&str, &str, Figure); 9] = [
            (
                "nominal_limit_seats",
                "Nominal number of execution seats configured for each priority level",
                |f| f.limits.nominal.into(),
            ),
            (
                "lower_limit_seats",
                "Configured lower bound on number of execution seats available to each priority level",
                |f| f.limits.lower.into(),
            ),
            (
                "upper_limit_seats",
                "Configured upper bound on number of execution seats available to each priority level",
                |f| f.limits.upper.into(),
            ),
            (
                "current_limit_seats",
                "current derived number of execution seats available to each priority level",
                |f| f.current.into(),
            ),
            (
                "request_concurrency_limit",
                "Nominal number of execution seats configured for each priority level",
                |f| f.limits.nominal.into(),
            ),
            (
                "current_executing_requests",
                "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage",
                |f| f.executing.into(),
            ),
            (
                "current_executing_seats",
                "Concurrency (number of seats) occupied by the currently executing requests",
                |f| f.executing_seats.into(),
            ),
            (
                "current_inqueue_requests",
                "Number of requests currently pending in queues",
                |f| f.waiting as f64,
            ),
            (
                "current_inqueue_seats",
                "Number of seats currently pending in queues",
                |f| f.waiting_seats.into(),
            ),
        ];
        for (name, help, figure) in gauges {
            head(&mut out, name, "gauge", help);
            for (level, f) in &levels {
                let n = figure(f);
                let _ = writeln!(
                    out,
                    "apiserver_flowcontrol_{name}{{priority_level=\"{level}\"}} {n}"
                );
            }
        }
        let labels: Vec<_> = configuration
            .schemas
            .iter()
            .map(|s| {
                (
                    format!(
                        "flow_schema=\"{}\",priority_level=\"{}\"",
                        s.name, s.level.name
                    ),
                    &s.counts,
                )
            })
            .collect();
        head(
            &mut out,
            "dispatched_requests_total",
            "counter",
            "Number of requests executed",
        );
        for (label, c) in &labels {
            let _ = writeln!(
                out,
                "apiserver_flowcontrol_dispatched_requests_total{{{label}}} {}",
                read(&c.dispatched)
            );
        }
        head(
            &mut out,
            "rejected_requests_total",
            "counter",
            "Number of requests rejected",
        );
        for (label, c) in &labels {
            for (reason, n) in REFUSALS.iter().zip(&c.refused).filter(|(_, n)| read(n) > 0) {
                let _ = writeln!(
                    out,
                    "apiserver_flowcontrol_rejected_requests_total{{{label},reason=\"{}\"}} {}",
                    reason.name(),
                    read(n)
                );
            }
        }
        head(
            &mut out,
            "request_wait_duration_seconds",
            "histogram",
            "Length of time a request spent waiting in its queue",
        );
        for (label, c) in &labels {
            let mut sum = 0;
            for (i, n) in c.waits.iter().enumerate() {
                sum += read(n);
                let bound = BUCKETS_SECONDS
                    .get(i)
                    .map_or("+Inf".to_string(), f64::to_string);
                if read(n) > 0 || i == BUCKETS_SECONDS.len() {
                    let _ = writeln!(
                        out,
                        "apiserver_flowcontrol_request_wait_duration_seconds_bucket{{{label},le=\"{bound}\"}} {sum}"
                    );
                }
            }
            let seconds = read(&c.wait_micros) as f64 / 1e6;
            let _ = writeln!(
                out,
                "apiserver_flowcontrol_request_wait_duration_seconds_sum{{{label}}} {seconds}"
            );
            let _ = writeln!(
                out,
                "apiserver_flowcontrol_request_wait_duration_seconds_count{{{label}}} {sum}"
            );
        }
        out
    }
}
