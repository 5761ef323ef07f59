//! Counts and durations of what is asked of the runtime (`kubelet_runtime_operations_*`).

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

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

#[derive(Default)]
pub(crate) struct Operations {
    /// by the operation's name: a fixed handful
    by_name: Mutex<BTreeMap<&'static str, Operation>>,
    /// Pods that were begun, and those that could not be made
    pods: (AtomicU64, AtomicU64),
    /// Pods with user namespaces of their own that were begun, and what went wrong of them or their containers
    user_namespaced: (AtomicU64, AtomicU64),
    /// containers that were begun, by what they are to their Pods
    begun: Mutex<BTreeMap<&'static str, u64>>,
    /// and that could not be, by that and the reason
    not_begun: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    /// containers' ends
    ends: Mutex<BTreeMap<End, u64>>,
}

/// What the container was to its Pod, its exit code, and the reason in its status.
type End = (&'static str, i32, Box<str>);

/// Exit codes and reasons are a handful; programs that end with ever other codes aren't all told apart.
const ENDS_MAX: usize = 256;

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

    /// A sandbox was made, or not.
    pub(crate) fn pod_begun(&self, failed: bool) {
        let (begun, errors) = &self.pods;
        begun.fetch_add(1, Ordering::Relaxed);
        errors.fetch_add(u64::from(failed), Ordering::Relaxed);
    }

    /// A container of a Pod with a user namespace of its own could not be started.
    pub(crate) fn user_namespaced_container_failed(&self) {
        self.user_namespaced.1.fetch_add(1, Ordering::Relaxed);
    }

    /// A container is to start.
    pub(crate) fn container_begun(&self, kind: &'static str) {
        *self.begun.lock().entry(kind).or_default() += 1;
    }

    /// It could not.
    pub(crate) fn container_not_begun(&self, kind: &'static str, reason: &'static str) {
        *self.not_begun.lock().entry((kind, reason)).or_default() += 1;
    }

    /// A container has ended.
    pub(crate) fn container_ended(&self, kind: &'static str, exit_code: i32, reason: &str) {
        let mut ends = self.ends.lock();
        let end = (kind, exit_code, reason.into());
        if ends.len() < ENDS_MAX || ends.contains_key(&end) {
            *ends.entry(end).or_default() += 1;
        }
    }

    /// A sandbox with a user namespace of its own was made, or not.
    pub(crate) fn user_namespaced(&self, failed: bool) {
        let (begun, errors) = &self.user_namespaced;
        begun.fetch_add(1, Ordering::Relaxed);
        errors.fetch_add(u64::from(failed), Ordering::Relaxed);
    }

    fn record(&self, name: &'static str, seconds: f64, failed: bool) {
        let mut all = self.by_name.lock();
        let one = all.entry(name).or_default();
        let at = BUCKETS.iter().position(|b| seconds <= *b);
        one.counts[at.unwrap_or(BUCKETS.len())] += 1;
        one.seconds += seconds;
        one.errors += u64::from(failed);
    }

    pub(crate) fn write(&self, out: &mut Exposition) {
        let (pods, pods_errors) = &self.pods;
        let (begun, errors) = &self.user_namespaced;
        for (name, help, value) in [
            (
                "kubelet_started_pods_total",
                "[ALPHA] Cumulative number of pods started",
                pods,
            ),
            (
                "kubelet_started_pods_errors_total",
                "[ALPHA] Cumulative number of errors when starting pods",
                pods_errors,
            ),
            (
                "kubelet_started_user_namespaced_pods_total",
                "[ALPHA] Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.",
                begun,
            ),
            (
                "kubelet_started_user_namespaced_pods_errors_total",
                "[ALPHA] Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.",
                errors,
            ),
        ] {
            let value = value.load(Ordering::Relaxed) as f64;
            out.add((name, COUNTER, help), &[&[]], value, None);
        }
        self.write_containers(out);
        for (name, o) in self.by_name.lock().iter() {
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

    fn write_containers(&self, out: &mut Exposition) {
        let name = (
            "kubelet_started_containers_total",
            COUNTER,
            "[ALPHA] Cumulative number of containers started",
        );
        for (kind, count) in self.begun.lock().iter() {
            out.add(name, &[&[("container_type", kind)]], *count as f64, None);
        }
        let name = (
            "kubelet_started_containers_errors_total",
            COUNTER,
            "[ALPHA] Cumulative number of errors when starting containers",
        );
        for ((kind, reason), count) in self.not_begun.lock().iter() {
            let labels = [("code", *reason), ("container_type", *kind)];
            out.add(name, &[&labels], *count as f64, None);
        }
        let name = (
            "kubelet_terminated_containers_total",
            COUNTER,
            "[ALPHA] Cumulative number of container terminations.",
        );
        for ((kind, exit_code, reason), count) in self.ends.lock().iter() {
            let exit_code = exit_code.to_string();
            let labels = [
                ("container_type", *kind),
                ("exit_code", &*exit_code),
                ("reason", reason),
            ];
            out.add(name, &[&labels], *count as f64, None);
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
        for seconds in [0.001, 0.004, 1000.0] {
            all.record("stop_container", seconds, false);
        }
        all.user_namespaced(false);
        all.user_namespaced(true);
        all.user_namespaced_container_failed();
        all.pod_begun(false);
        all.pod_begun(true);
        all.container_begun("init_container");
        all.container_not_begun("container", "RunContainerError");
        for code in 0..1000 {
            all.container_ended("container", code, "Error");
        }
        all.container_ended("container", 139, "Error");
        let mut out = Exposition::default();
        all.write(&mut out);
        let text = out.finish();
        for line in [
            "kubelet_started_user_namespaced_pods_total 2",
            "kubelet_started_user_namespaced_pods_errors_total 2",
            "kubelet_started_pods_total 2",
            "kubelet_started_pods_errors_total 1",
            "kubelet_started_containers_total{container_type=\"init_container\"} 1",
            "kubelet_started_containers_errors_total{code=\"RunContainerError\",container_type=\"container\"} 1",
            "kubelet_terminated_containers_total{container_type=\"container\",exit_code=\"139\",reason=\"Error\"} 2",
            "kubelet_runtime_operations_total{operation_type=\"exec\"} 2",
            "kubelet_runtime_operations_errors_total{operation_type=\"exec\"} 1",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"exec\",le=\"+Inf\"} 2",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"stop_container\",le=\"0.005\"} 2",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"stop_container\",le=\"+Inf\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
        let ends = text
            .matches("\nkubelet_terminated_containers_total{")
            .count();
        assert_eq!(ends, ENDS_MAX, "they are bounded");
    }
}
