//! Request counters in the Prometheus text format.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use http::Method;
use parking_lot::Mutex;

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS_SECONDS: [f64; 8] = [0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0];

#[derive(Default)]
struct Latency {
    buckets: [u64; BUCKETS_SECONDS.len()],
    count: u64,
    sum_seconds: f64,
}

#[derive(Default)]
struct Counts {
    requests: BTreeMap<(&'static str, u16), u64>,
    latencies: BTreeMap<&'static str, Latency>,
}

/// Counts by verb and code: a few dozen series at most.
#[derive(Default)]
pub struct Metrics(Mutex<Counts>);

fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

impl Metrics {
    /// Counts one answered request.
    pub fn count(&self, method: &Method, code: u16, took: Duration) {
        let mut guard = self.0.lock();
        let Counts {
            requests: counts,
            latencies,
        } = &mut *guard;
        *counts.entry((known(method), code)).or_default() += 1;
        let latency = latencies.entry(known(method)).or_default();
        let seconds = took.as_secs_f64();
        latency.count += 1;
        latency.sum_seconds += seconds;
        for (bound, n) in BUCKETS_SECONDS.iter().zip(&mut latency.buckets) {
            if seconds <= *bound {
                *n += 1;
            }
        }
    }

    /// The exposition text.
    pub fn text(&self, revision: u64) -> String {
        let guard = self.0.lock();
        let Counts {
            requests: counts,
            latencies,
        } = &*guard;
        let mut out = String::from(
            "# HELP apiserver_request_total Requests answered, by verb and HTTP code.\n# TYPE apiserver_request_total counter\n",
        );
        // writing to a String can't fail
        for ((verb, code), n) in counts {
            let _ = writeln!(
                out,
                "apiserver_request_total{{verb=\"{verb}\",code=\"{code}\"}} {n}"
            );
        }
        out.push_str("# HELP apiserver_request_duration_seconds Time to the answer's head.\n# TYPE apiserver_request_duration_seconds histogram\n");
        const NAME: &str = "apiserver_request_duration_seconds";
        for (verb, l) in latencies {
            for (bound, n) in BUCKETS_SECONDS.iter().zip(&l.buckets) {
                let _ = writeln!(out, "{NAME}_bucket{{verb=\"{verb}\",le=\"{bound}\"}} {n}");
            }
            let _ = writeln!(
                out,
                "{NAME}_bucket{{verb=\"{verb}\",le=\"+Inf\"}} {}",
                l.count
            );
            let _ = writeln!(out, "{NAME}_sum{{verb=\"{verb}\"}} {}", l.sum_seconds);
            let _ = writeln!(out, "{NAME}_count{{verb=\"{verb}\"}} {}", l.count);
        }
        let _ = writeln!(
            out,
            "# HELP apiserver_resource_version Newest resourceVersion.\n# TYPE apiserver_resource_version gauge\napiserver_resource_version {revision}"
        );
        out
    }
}
