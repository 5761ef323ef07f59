//! `/metrics/slis`: how the server's own checks came out, for who works out its availability (component-base
//! `metrics/prometheus/slis`).

use std::{collections::BTreeMap, fmt::Write};

use parking_lot::Mutex;

#[derive(Default)]
struct Outcomes {
    /// the last one was good
    good: bool,
    errors: u64,
    successes: u64,
}

/// Checks by name and endpoint (`healthz`, `livez`, `readyz`).
#[derive(Default)]
pub struct Slis {
    checks: Mutex<BTreeMap<(&'static str, &'static str), Outcomes>>,
}

impl Slis {
    /// A check has been made.
    pub fn observe(&self, name: &'static str, endpoint: &'static str, good: bool) {
        let mut checks = self.checks.lock();
        let o = checks.entry((name, endpoint)).or_default();
        o.good = good;
        match good {
            true => o.successes += 1,
            false => o.errors += 1,
        }
    }

    /// In the Prometheus text format, with upstream's names.
    pub fn text(&self) -> String {
        let checks = self.checks.lock();
        let mut out = String::new();
        if checks.is_empty() {
            return out;
        }
        out.push_str("# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.\n# TYPE kubernetes_healthcheck gauge\n");
        for ((name, endpoint), o) in checks.iter() {
            let good = u8::from(o.good);
            // writing to a String can't fail
            let _ = writeln!(
                out,
                "kubernetes_healthcheck{{name=\"{name}\",type=\"{endpoint}\"}} {good}"
            );
        }
        out.push_str("# HELP kubernetes_healthchecks_total [STABLE] This metric records the results of all healthcheck.\n# TYPE kubernetes_healthchecks_total counter\n");
        for ((name, endpoint), o) in checks.iter() {
            for (status, count) in [("error", o.errors), ("success", o.successes)] {
                if count > 0 {
                    let _ = writeln!(
                        out,
                        "kubernetes_healthchecks_total{{name=\"{name}\",status=\"{status}\",type=\"{endpoint}\"}} {count}"
                    );
                }
            }
        }
        out
    }
}
