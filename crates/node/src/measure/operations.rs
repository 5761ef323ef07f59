//! Counts and durations of what is asked of the runtime (`kubelet_runtime_operations_*`).

use std::{collections::BTreeMap, time::Instant};

use parking_lot::Mutex;

use super::exposition::{COUNTER, Exposition};

/// `ExponentialBuckets(.005, 2.5, 14)`, in seconds.
const BUCKETS: [f64; 14] = [
    0.005,
    0.0125,
    0.03125,
    0.078125,
    0.1953125,
    0.48828125,
    1.220703125,
    3.0517578125,
    7.62939453125,
    19.073486328125,
    47.6837158203125,
    119.20928955078125,
    298.0232238769531,
    745.0580596923828,
];

#[derive(Default)]
struct Operation {
    counts: [u64; BUCKETS.len() + 1],
    seconds: f64,
    errors: u64,
}

/// By the operation's name: a fixed handful.
#[derive(Default)]
pub(crate) struct Operations(Mutex<BTreeMap<&'static str, Operation>>);

impl Operations {
    /// Runs and counts it.
    pub(crate) async fn time<T, E>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let start = Instant::now();
        let done = work.await;
        self.record(name, start.elapsed().as_secs_f64(), done.is_err());
        done
    }

    fn record(&self, name: &'static str, seconds: f64, failed: bool) {
        let mut all = self.0.lock();
        let one = all.entry(name).or_default();
        let at = BUCKETS.iter().position(|b| seconds <= *b);
        one.counts[at.unwrap_or(BUCKETS.len())] += 1;
        one.seconds += seconds;
        one.errors += u64::from(failed);
    }

    pub(crate) fn write(&self, out: &mut Exposition) {
        for (name, o) in self.0.lock().iter() {
            let labels = [("operation_type", *name)];
            let total = (
                "kubelet_runtime_operations_total",
                COUNTER,
                "[ALPHA] Cumulative number of runtime operations by operation type.",
            );
            let count: u64 = o.counts.iter().sum();
            out.add(total, &[&labels], count as f64, None);
            let errors = (
                "kubelet_runtime_operations_errors_total",
                COUNTER,
                "[ALPHA] Cumulative number of runtime operation errors by operation type.",
            );
            if o.errors > 0 {
                out.add(errors, &[&labels], o.errors as f64, None);
            }
            out.histogram(
                "kubelet_runtime_operations_duration_seconds",
                "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.",
                &labels,
                &BUCKETS,
                &o.counts,
                o.seconds,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn operations_are_counted() {
        let all = Operations::default();
        assert_eq!(all.time("exec", async { Ok::<_, ()>(1) }).await, Ok(1));
        assert_eq!(all.time("exec", async { Err::<(), _>(2) }).await, Err(2));
        all.record("exec", 1000.0, false);
        let mut out = Exposition::default();
        all.write(&mut out);
        let text = out.finish();
        for line in [
            "kubelet_runtime_operations_total{operation_type=\"exec\"} 3",
            "kubelet_runtime_operations_errors_total{operation_type=\"exec\"} 1",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"exec\",le=\"0.005\"} 2",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"exec\",le=\"+Inf\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
    }
}
