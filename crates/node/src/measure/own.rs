//! `/metrics`: the kubelet's own counters that mean something here.
//!
//! Source: kubernetes `pkg/kubelet/metrics/metrics.go`, `collectors/volume_stats.go`.

use std::collections::BTreeMap;

use super::{
    exposition::{COUNTER, Exposition, GAUGE},
    gather::Seen,
    operations::Operations,
};
use crate::pod::entry::Registry;

type Name = (&'static str, &'static str, &'static str);

/// Of the build, for `kubernetes_build_info`.
pub(crate) struct Build<'a> {
    pub version: &'a str,
    pub platform: &'a str,
}

pub(crate) fn write(
    node: &str,
    seen: Option<&Seen>,
    registry: &Registry,
    operations: &Operations,
    v2: bool,
    build: &Build<'_>,
) -> String {
    let mut out = Exposition::default();
    let mut add = |name: Name, labels: &[(&str, &str)], value: f64| {
        out.add(name, &[labels], value, None);
    };
    add(
        (
            "kubelet_node_name",
            GAUGE,
            "[ALPHA] The node's name. The count is always 1.",
        ),
        &[("node", node)],
        1.0,
    );
    add(
        (
            "kubelet_cgroup_version",
            GAUGE,
            "[ALPHA] cgroup version on the hosts.",
        ),
        &[],
        if v2 { 2.0 } else { 1.0 },
    );
    let (major, minor) = ("1", "36");
    add(
        (
            "kubernetes_build_info",
            GAUGE,
            "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
        ),
        &[
            ("build_date", ""),
            ("compiler", ""),
            ("git_commit", ""),
            ("git_tree_state", ""),
            ("git_version", build.version),
            ("go_version", ""),
            ("major", major),
            ("minor", minor),
            ("platform", build.platform),
        ],
        1.0,
    );
    let entries = registry.all();
    let pods = entries.len() as f64;
    let running = entries
        .iter()
        .filter(|e| e.units.lock().iter().any(|u| u.running.is_some()))
        .count();
    for (name, value) in [
        (
            (
                "kubelet_desired_pods",
                GAUGE,
                "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.",
            ),
            pods,
        ),
        (
            (
                "kubelet_active_pods",
                GAUGE,
                "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.",
            ),
            pods,
        ),
    ] {
        add(name, &[("static", "")], value);
    }
    add(
        (
            "kubelet_running_pods",
            GAUGE,
            "[BETA] Number of pods that have a running pod sandbox",
        ),
        &[],
        running as f64,
    );
    let mut states: BTreeMap<&str, u64> =
        BTreeMap::from([("created", 0), ("exited", 0), ("running", 0)]);
    for entry in &entries {
        for unit in entry.units.lock().iter() {
            let state = match (&unit.running, unit.attempt) {
                (Some(_), _) => "running",
                (None, Some(_)) => "exited",
                (None, None) => "created",
            };
            *states.entry(state).or_default() += 1;
        }
    }
    for (state, count) in states {
        add(
            (
                "kubelet_running_containers",
                GAUGE,
                "[BETA] Number of containers currently running",
            ),
            &[("container_state", state)],
            count as f64,
        );
    }
    if let Some(seen) = seen {
        process(&mut out, seen);
        volumes(&mut out, seen);
    }
    operations.write(&mut out);
    out.finish()
}

fn process(out: &mut Exposition, seen: &Seen) {
    let own = &seen.own;
    for (name, value) in [
        (
            (
                "process_cpu_seconds_total",
                COUNTER,
                "Total user and system CPU time spent in seconds.",
            ),
            own.cpu_ns as f64 / 1e9,
        ),
        (
            (
                "process_resident_memory_bytes",
                GAUGE,
                "Resident memory size in bytes.",
            ),
            own.resident_bytes as f64,
        ),
        (
            (
                "process_virtual_memory_bytes",
                GAUGE,
                "Virtual memory size in bytes.",
            ),
            own.virtual_bytes as f64,
        ),
        (
            (
                "process_start_time_seconds",
                GAUGE,
                "Start time of the process since unix epoch in seconds.",
            ),
            own.started.map_or(0.0, |t| t.as_millisecond() as f64 / 1e3),
        ),
    ] {
        out.add(name, &[], value, None);
    }
}

fn volumes(out: &mut Exposition, seen: &Seen) {
    let mut told = std::collections::BTreeSet::new();
    for pod in &seen.pods {
        for v in &pod.volumes {
            let Some(claim) = v.claim.as_deref() else {
                continue;
            };
            if !told.insert((pod.namespace.clone(), claim.to_owned())) {
                continue;
            }
            let labels = [
                ("namespace", &*pod.namespace),
                ("persistentvolumeclaim", claim),
            ];
            for (name, value) in [
                (
                    (
                        "kubelet_volume_stats_capacity_bytes",
                        GAUGE,
                        "[ALPHA] Capacity in bytes of the volume",
                    ),
                    v.room.capacity_bytes,
                ),
                (
                    (
                        "kubelet_volume_stats_available_bytes",
                        GAUGE,
                        "[ALPHA] Number of available bytes in the volume",
                    ),
                    v.room.available_bytes,
                ),
                (
                    (
                        "kubelet_volume_stats_used_bytes",
                        GAUGE,
                        "[ALPHA] Number of used bytes in the volume",
                    ),
                    v.taken.bytes,
                ),
                (
                    (
                        "kubelet_volume_stats_inodes",
                        GAUGE,
                        "[ALPHA] Maximum number of inodes in the volume",
                    ),
                    v.room.inodes,
                ),
                (
                    (
                        "kubelet_volume_stats_inodes_free",
                        GAUGE,
                        "[ALPHA] Number of free inodes in the volume",
                    ),
                    v.room.inodes_free,
                ),
                (
                    (
                        "kubelet_volume_stats_inodes_used",
                        GAUGE,
                        "[ALPHA] Number of used inodes in the volume",
                    ),
                    v.taken.inodes,
                ),
            ] {
                out.add(name, &[&labels], value as f64, None);
            }
        }
    }
}

/// `/metrics/probes`
pub(crate) fn probes(registry: &Registry, started: Option<jiff::Timestamp>) -> String {
    let mut out = Exposition::default();
    if let Some(at) = started {
        let name = (
            "process_start_time_seconds",
            GAUGE,
            "[ALPHA] Start time of the process since unix epoch in seconds.",
        );
        out.add(name, &[], at.as_millisecond() as f64 / 1e3, None);
    }
    let name = (
        "prober_probe_total",
        COUNTER,
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
    );
    for entry in registry.all() {
        for ((container, kind, result), count) in entry.probed.lock().iter() {
            let labels = [
                ("container", &**container),
                ("namespace", &entry.namespace),
                ("pod", &entry.name),
                ("pod_uid", &entry.uid),
                ("probe_type", *kind),
                ("result", *result),
            ];
            out.add(name, &[&labels], *count as f64, None);
        }
    }
    out.finish()
}
