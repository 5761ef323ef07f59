//! `/metrics/resource`: what metrics-server and the like scrape.
//!
//! Source: kubernetes `pkg/kubelet/metrics/collectors/resource_metrics.go`.

use super::{
    exposition::{COUNTER, Exposition, GAUGE},
    gather::{Counted, Seen},
};

const NS: f64 = 1e9;

/// What is told of a node, a Pod and a container alike: CPU, memory, swap.
type Names = [(&'static str, &'static str, &'static str); 3];

const NODE: Names = [
    (
        "node_cpu_usage_seconds_total",
        COUNTER,
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    ),
    (
        "node_memory_working_set_bytes",
        GAUGE,
        "[STABLE] Current working set of the node in bytes",
    ),
    (
        "node_swap_usage_bytes",
        GAUGE,
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
    ),
];
const POD: Names = [
    (
        "pod_cpu_usage_seconds_total",
        COUNTER,
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    ),
    (
        "pod_memory_working_set_bytes",
        GAUGE,
        "[STABLE] Current working set of the pod in bytes",
    ),
    (
        "pod_swap_usage_bytes",
        GAUGE,
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
    ),
];
const CONTAINER: Names = [
    (
        "container_cpu_usage_seconds_total",
        COUNTER,
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    ),
    (
        "container_memory_working_set_bytes",
        GAUGE,
        "[STABLE] Current working set of the container in bytes",
    ),
    (
        "container_swap_usage_bytes",
        GAUGE,
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
    ),
];

/// The text; None: nothing could be read.
pub(crate) fn write(seen: Option<&Seen>) -> String {
    let mut all = Exposition::default();
    if let Some(seen) = seen {
        if let Some(machine) = &seen.machine {
            add(&mut all, NODE, &[], machine);
        }
        for p in &seen.pods {
            let of_pod = [("pod", &*p.name), ("namespace", &*p.namespace)];
            for c in &p.containers {
                let labels = [("container", &*c.name), of_pod[0], of_pod[1]];
                let started = (
                    "container_start_time_seconds",
                    GAUGE,
                    "[STABLE] Start time of the container since unix epoch in seconds",
                );
                let since = c.since.as_nanosecond() as f64 / NS;
                all.add(started, &[&labels], since, None);
                add(&mut all, CONTAINER, &labels, &c.counted);
                if let Some(limit) = c.counted.usage.memory.swap_limit_bytes {
                    let name = (
                        "container_swap_limit_bytes",
                        GAUGE,
                        "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
                    );
                    let at = Some(c.counted.at.as_millisecond());
                    all.add(name, &[&labels], limit as f64, at);
                }
            }
            if let Some(counted) = &p.counted {
                add(&mut all, POD, &of_pod, counted);
            }
        }
    }
    let failed = f64::from(u8::from(seen.is_none()));
    for name in [
        (
            "scrape_error",
            GAUGE,
            "[ALPHA] (Deprecated since 1.29.0) 1 if there was an error while getting container metrics, 0 otherwise",
        ),
        (
            "resource_scrape_error",
            GAUGE,
            "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        ),
    ] {
        all.add(name, &[], failed, None);
    }
    all.finish()
}

fn add(all: &mut Exposition, names: Names, labels: &[(&str, &str)], c: &Counted) {
    let at = Some(c.at.as_millisecond());
    let [cpu, memory, swap] = names;
    all.add(cpu, &[labels], c.usage.cpu.total_ns as f64 / NS, at);
    let working_set = c.usage.memory.working_set_bytes as f64;
    all.add(memory, &[labels], working_set, at);
    all.add(swap, &[labels], c.usage.memory.swap_bytes as f64, at);
}
