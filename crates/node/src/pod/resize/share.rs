//! What each Pod of the node has of its CPU and memory, and whose turn it is when some becomes free.
//!
//! Source: kubernetes `pkg/kubelet/lifecycle/predicate.go` (Admit), `pkg/kubelet/allocation/allocation_manager.go`
//! (canAdmitPod, sortPendingResizes).

use std::cmp::Reverse;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::spec::{
    pod_resources::{self, Side},
    resources,
};

/// Requests of a Pod as a whole: thousandths of a CPU, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    pub cpu_milli: i64,
    pub memory_bytes: i64,
}

impl Requests {
    pub(crate) fn of(pod: &Pod) -> Requests {
        let all = pod_resources::total(pod, Side::Requests);
        let get = |name: &str| all.get(name).copied().unwrap_or(0);
        Requests {
            cpu_milli: i64::try_from(get("cpu")).unwrap_or(i64::MAX),
            memory_bytes: pod_resources::units(get("memory")),
        }
    }

    pub(crate) fn add(&mut self, other: Requests) {
        self.cpu_milli = self.cpu_milli.saturating_add(other.cpu_milli);
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
    }

    /// What is too little beside `used`; the first that is.
    pub(crate) fn lacks(self, used: Requests, capacity: Requests) -> Option<Lack> {
        let lack = |resource, requested: i64, used: i64, capacity: i64| {
            (requested > 0 && requested > capacity.saturating_sub(used)).then_some(Lack {
                resource,
                requested,
                used,
                capacity,
            })
        };
        lack("cpu", self.cpu_milli, used.cpu_milli, capacity.cpu_milli).or_else(|| {
            lack(
                "memory",
                self.memory_bytes,
                used.memory_bytes,
                capacity.memory_bytes,
            )
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
)]
pub(crate) struct Lack {
    pub resource: &'static str,
    requested: i64,
    used: i64,
    capacity: i64,
}

impl Lack {
    /// Why a Pod that lacks it is rejected.
    pub(crate) fn reason(self) -> &'static str {
        match self.resource {
            "cpu" => "OutOfcpu",
            _ => "OutOfmemory",
        }
    }
}

/// A resize that there was no room for yet.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub wanted: Requests,
    priority: i32,
    guaranteed: bool,
    since: Timestamp,
}

impl Waiting {
    pub(crate) fn of(pod: &Pod, since: Timestamp) -> Waiting {
        Waiting {
            wanted: Requests::of(pod),
            priority: pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0),
            guaranteed: resources::qos_class(pod) == "Guaranteed",
            since,
        }
    }

    /// Least first: who asks for no more than it has, then who matters more, then who has waited longer.
    pub(crate) fn rank(&self, has: Requests) -> impl Ord + use<> {
        let more =
            self.wanted.cpu_milli > has.cpu_milli || self.wanted.memory_bytes > has.memory_bytes;
        (
            more,
            Reverse(self.priority),
            Reverse(self.guaranteed),
            self.since,
        )
    }
}

/// A Pod's part of the node.
#[derive(Debug, Default)]
pub(crate) struct Share {
    /// None: it has none yet, or no longer
    pub has: Option<Requests>,
    pub waiting: Option<Waiting>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn requests(cpu_milli: i64, memory_bytes: i64) -> Requests {
        Requests {
            cpu_milli,
            memory_bytes,
        }
    }

    #[test]
    fn what_fits() {
        let capacity = requests(4000, 100);
        let check = |wanted: Requests, used: Requests, want: Option<&str>| {
            let got = wanted.lacks(used, capacity).map(|l| l.to_string());
            assert_eq!(got.as_deref(), want, "{wanted:?} beside {used:?}");
        };
        check(requests(4000, 100), requests(0, 0), None);
        check(requests(0, 0), requests(9000, 900), None);
        check(
            requests(1, 0),
            requests(4000, 0),
            Some("Node didn't have enough resource: cpu, requested: 1, used: 4000, capacity: 4000"),
        );
        check(
            requests(1, 50),
            requests(0, 51),
            Some(
                "Node didn't have enough resource: memory, requested: 50, used: 51, capacity: 100",
            ),
        );
    }

    #[test]
    fn whose_turn_it_is() {
        let waiting = |cpu: &str, priority: i32, guaranteed: bool, second: i64| {
            let mut resources = json!({"requests": {"cpu": cpu}});
            if guaranteed {
                resources = json!({"limits": {"cpu": cpu, "memory": "1Mi"}, "requests": {"cpu": cpu, "memory": "1Mi"}});
            }
            let pod: Pod = serde_json::from_value(json!({"spec": {
                "priority": priority, "containers": [{"name": "c", "resources": resources}],
            }}))
            .unwrap();
            Waiting::of(&pod, Timestamp::from_second(second).unwrap())
        };
        let has = requests(1000, 1 << 20);
        let order = [
            waiting("500m", 0, false, 9),
            waiting("2", 10, false, 8),
            waiting("2", 5, true, 7),
            waiting("2", 5, false, 1),
            waiting("2", 5, false, 2),
        ];
        assert!(order.is_sorted_by(|a, b| a.rank(has) < b.rank(has)));
    }
}
