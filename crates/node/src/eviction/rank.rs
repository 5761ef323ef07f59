//! Who goes first, and what it is told. Pure.
//!
//! Source: kubernetes `pkg/kubelet/eviction/helpers.go` (rankMemoryPressure and its like, evictionMessage), `pkg/kubelet/types/pod_update.go` (IsCriticalPod).

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::Pod;

use super::{
    decide::Observations,
    threshold::{Signal, Threshold},
};
use crate::spec::pod_resources::{self, Side};

/// What a Pod's containers use.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Used {
    pub containers: Vec<ContainerUsed>,
    pub memory_bytes: u64,
    /// writable layers, logs and emptyDirs
    pub disk_bytes: u64,
    pub inodes: u64,
    pub processes: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ContainerUsed {
    pub name: String,
    /// the working set
    pub memory_bytes: u64,
    /// writable layer and log
    pub disk_bytes: u64,
}

/// A Pod that could go, and what it uses; None: nobody knows, so it goes before others.
pub(crate) struct Candidate {
    pub pod: Pod,
    pub used: Option<Used>,
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
}

fn requested(pod: &Pod, resource: &str) -> u64 {
    let all = pod_resources::total(pod, Side::Requests);
    let units = all
        .get(resource)
        .map_or(0, |milli| pod_resources::units(*milli));
    units.max(0).unsigned_abs()
}

/// Static Pods, their mirrors and those of the highest priorities never go for a shortage.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    const SYSTEM_CRITICAL: i32 = 2_000_000_000;
    let annotations = pod.metadata.annotations.as_ref();
    let has = |key: &str| annotations.and_then(|a| a.get(key));
    let is_static = has("kubernetes.io/config.source").is_some_and(|s| s != "api");
    is_static || has("kubernetes.io/config.mirror").is_some() || priority(pod) >= SYSTEM_CRITICAL
}

/// The first is the first to go: those above their requests, then those of less priority, then those furthest above.
pub(crate) fn rank(candidates: &mut [Candidate], signal: Signal) {
    candidates.sort_by_cached_key(|candidate| {
        let pod = &candidate.pod;
        let priority = priority(pod);
        let Some(used) = &candidate.used else {
            return (false, false, priority, Reverse(0));
        };
        let (amount, request) = match signal.resource() {
            "memory" => (used.memory_bytes, requested(pod, "memory")),
            "ephemeral-storage" => (used.disk_bytes, requested(pod, "ephemeral-storage")),
            "inodes" => (used.inodes, 0),
            // no one asks for process numbers
            _ => return (true, true, priority, Reverse(i128::from(used.processes))),
        };
        let over = i128::from(amount) - i128::from(request);
        (true, over <= 0, priority, Reverse(over))
    });
}

/// As a quantity in powers of two prints: the largest unit that leaves a whole number.
pub(crate) fn binary(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut amount = bytes;
    let mut unit = 0;
    while amount > 0 && amount.is_multiple_of(1024) && unit + 1 < UNITS.len() {
        amount /= 1024;
        unit += 1;
    }
    format!("{amount}{}", UNITS[unit])
}

fn shown(signal: Signal, amount: u64) -> String {
    if signal.in_bytes() {
        binary(amount)
    } else {
        amount.to_string()
    }
}

/// What its status and event say. Upstream's words, down to the space at the end.
pub(crate) fn message(
    candidate: &Candidate,
    threshold: &Threshold,
    observations: &Observations,
) -> String {
    let resource = threshold.signal.resource();
    let mut text = format!("The node was low on resource: {resource}. ");
    if let Some(seen) = observations.get(&threshold.signal) {
        let quantity = shown(threshold.signal, threshold.amount.of(seen.capacity));
        let available = shown(threshold.signal, seen.available);
        text += &format!("Threshold quantity: {quantity}, available: {available}. ");
    }
    let pod = &candidate.pod;
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|s| {
        s.containers
            .iter()
            .chain(s.init_containers.iter().flatten())
    });
    for container in containers {
        let used = candidate.used.as_ref();
        let Some(used) = used.and_then(|u| u.containers.iter().find(|c| c.name == container.name))
        else {
            continue;
        };
        let amount = match resource {
            "memory" => used.memory_bytes,
            "ephemeral-storage" => used.disk_bytes,
            _ => continue,
        };
        let requests = container
            .resources
            .as_ref()
            .and_then(|r| r.requests.as_ref());
        let request = requests.and_then(|r| r.get(resource));
        let limit = request.map_or(0, crate::quantity::value);
        if i128::from(amount) > i128::from(limit) {
            text += &format!(
                "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
                container.name,
                binary(amount),
                request.map_or("0", |q| q.0.as_str()),
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::{decide::Observation, threshold::Amount};
    use serde_json::json;

    fn candidate(name: &str, request: &str, priority: i32, bytes: Option<u64>) -> Candidate {
        let pod = json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"memory": request, "ephemeral-storage": request}}}]}});
        Candidate {
            pod: serde_json::from_value(pod).unwrap(),
            used: bytes.map(|bytes| Used {
                containers: vec![ContainerUsed {
                    name: "c".into(),
                    memory_bytes: bytes,
                    disk_bytes: bytes,
                }],
                memory_bytes: bytes,
                disk_bytes: bytes,
                inodes: bytes,
                processes: bytes,
            }),
        }
    }

    #[test]
    fn who_goes_first() {
        let check = |signal: Signal, want: &[&str]| {
            let mut all = vec![
                candidate("below", "1000", 0, Some(900)),
                candidate("over", "100", 0, Some(200)),
                candidate("far-over", "100", 0, Some(900)),
                candidate("important", "0", 10, Some(5000)),
                candidate("unknown", "0", 10, None),
            ];
            rank(&mut all, signal);
            let got: Vec<_> = all
                .iter()
                .map(|c| c.pod.metadata.name.clone().unwrap())
                .collect();
            assert_eq!(got, want, "{signal:?}");
        };
        let over = ["unknown", "far-over", "over", "important", "below"];
        check(Signal::MemoryAvailable, &over);
        check(Signal::NodeFsAvailable, &over);
        check(
            Signal::PidAvailable,
            &["unknown", "below", "far-over", "over", "important"],
        );
    }

    #[test]
    fn what_it_is_told() {
        let threshold = Threshold {
            signal: Signal::MemoryAvailable,
            amount: Amount::Units(100 << 20),
            grace: None,
            reclaim_min: None,
        };
        let seen = Observation {
            available: 90 << 10,
            capacity: 1 << 30,
        };
        let observations = Observations::from([(Signal::MemoryAvailable, seen)]);
        let pod = candidate("p", "1Mi", 0, Some(3 << 20));
        assert_eq!(
            message(&pod, &threshold, &observations),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Ki. Container c was using 3Mi, request is 1Mi, has larger consumption of memory. "
        );
        let pod = candidate("p", "4Mi", 0, Some(3 << 20));
        assert_eq!(
            message(&pod, &threshold, &observations),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Ki. "
        );
    }

    #[test]
    fn some_never_go() {
        let check = |metadata: serde_json::Value, priority: i32, want: bool| {
            let pod =
                json!({"metadata": metadata, "spec": {"priority": priority, "containers": []}});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            assert_eq!(is_critical(&pod), want, "{metadata} {priority}");
        };
        check(json!({}), 0, false);
        check(json!({}), 2_000_000_000, true);
        let annotated = |key: &str, value: &str| json!({"annotations": {key: value}});
        check(annotated("kubernetes.io/config.mirror", "x"), 0, true);
        check(annotated("kubernetes.io/config.source", "file"), 0, true);
        check(annotated("kubernetes.io/config.source", "api"), 0, false);
    }
}
