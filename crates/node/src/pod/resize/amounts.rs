//! The part of a Pod that a resize changes: what its containers, and it as a whole, ask for and may use.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::quantity;

type List = BTreeMap<String, Quantity>;

/// CPU in thousandths, memory in bytes; 0: not given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub cpu_request: i64,
    pub cpu_limit: i64,
    pub memory_request: i64,
    pub memory_limit: i64,
}

fn cpu(list: Option<&List>) -> i64 {
    list.and_then(|l| l.get("cpu"))
        .map_or(0, quantity::milli_value)
}

fn memory(list: Option<&List>) -> i64 {
    list.and_then(|l| l.get("memory"))
        .map_or(0, quantity::value)
}

impl Amounts {
    pub(crate) fn of(resources: Option<&ResourceRequirements>) -> Amounts {
        let requests = resources.and_then(|r| r.requests.as_ref());
        let limits = resources.and_then(|r| r.limits.as_ref());
        Amounts {
            cpu_request: cpu(requests),
            cpu_limit: cpu(limits),
            memory_request: memory(requests),
            memory_limit: memory(limits),
        }
    }

    /// What counts for a container: a limit that it hasn't got is its Pod's.
    pub(crate) fn effective(pod: &Pod, container: &Container) -> Amounts {
        let mut own = Amounts::of(container.resources.as_ref());
        let of_pod = Amounts::of(pod.spec.as_ref().and_then(|s| s.resources.as_ref()));
        if own.cpu_limit == 0 {
            own.cpu_limit = of_pod.cpu_limit;
        }
        if own.memory_limit == 0 {
            own.memory_limit = of_pod.memory_limit;
        }
        own
    }

    /// Whether a change from these to `wanted` restarts the container by its `resizePolicy`.
    pub(super) fn restarts(self, wanted: Amounts, container: &Container) -> bool {
        let restart = |resource: &str| {
            let mut policies = container.resize_policy.iter().flatten();
            let found = policies.find(|p| p.resource_name == resource);
            found.is_some_and(|p| p.restart_policy == "RestartContainer")
        };
        let cpu = (self.cpu_request, self.cpu_limit) != (wanted.cpu_request, wanted.cpu_limit);
        let memory = (self.memory_request, self.memory_limit)
            != (wanted.memory_request, wanted.memory_limit);
        (cpu && restart("cpu")) || (memory && restart("memory"))
    }

    /// `given` with these values in place of its own: what is in force of it.
    pub(crate) fn shown_in(self, given: &ResourceRequirements) -> ResourceRequirements {
        let mut out = given.clone();
        if Amounts::of(Some(given)) == self {
            return out;
        }
        let set = |list: &mut Option<List>, cpu: i64, memory: i64| {
            let Some(list) = list else { return };
            for (name, amount, text) in [
                ("cpu", cpu, quantity::cpu_text(cpu)),
                ("memory", memory, quantity::memory_text(memory)),
            ] {
                if amount > 0 {
                    list.insert(name.into(), Quantity(text));
                } else {
                    list.remove(name);
                }
            }
        };
        set(&mut out.requests, self.cpu_request, self.memory_request);
        set(&mut out.limits, self.cpu_limit, self.memory_limit);
        out
    }
}

/// The resources of a Pod as it was admitted, kept while a resize of it has to wait.
#[derive(Debug, Clone)]
pub(crate) struct Allocation {
    pod: Option<ResourceRequirements>,
    /// init containers first
    containers: Vec<Option<ResourceRequirements>>,
}

fn containers_mut(pod: &mut Pod) -> impl Iterator<Item = &mut Container> {
    pod.spec.iter_mut().flat_map(|spec| {
        let inits = spec.init_containers.iter_mut().flatten();
        inits.chain(spec.containers.iter_mut())
    })
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| {
        let inits = spec.init_containers.iter().flatten();
        inits.chain(&spec.containers)
    })
}

impl Allocation {
    pub(crate) fn of(pod: &Pod) -> Allocation {
        Allocation {
            pod: pod.spec.as_ref().and_then(|s| s.resources.clone()),
            containers: containers(pod).map(|c| c.resources.clone()).collect(),
        }
    }

    /// Makes `pod` ask for these instead.
    pub(crate) fn put_into(&self, pod: &mut Pod) {
        if let Some(spec) = &mut pod.spec {
            spec.resources = self.pod.clone();
        }
        for (container, resources) in containers_mut(pod).zip(&self.containers) {
            container.resources = resources.clone();
        }
    }

    /// Sets what one container had, from its status.
    pub(crate) fn remember(&mut self, index: usize, resources: ResourceRequirements) {
        if let Some(slot) = self.containers.get_mut(index) {
            *slot = Some(resources);
        }
    }

    /// Whether `pod` asks for anything else, other spellings of the same aside.
    pub(crate) fn differs(&self, pod: &Pod) -> bool {
        let own = pod.spec.as_ref().and_then(|s| s.resources.as_ref());
        let mut pairs = self.containers.iter().zip(containers(pod));
        !same(self.pod.as_ref(), own)
            || pairs.any(|(had, c)| !same(had.as_ref(), c.resources.as_ref()))
    }
}

fn same(a: Option<&ResourceRequirements>, b: Option<&ResourceRequirements>) -> bool {
    let values = |r: Option<&ResourceRequirements>| {
        let list = |list: Option<&List>| -> BTreeMap<String, Option<i128>> {
            let list = list.into_iter().flatten();
            list.map(|(name, q)| (name.clone(), quantity::milli(&q.0)))
                .collect()
        };
        (
            list(r.and_then(|r| r.requests.as_ref())),
            list(r.and_then(|r| r.limits.as_ref())),
        )
    };
    values(a) == values(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(resources: Value) -> Pod {
        let containers = json!([{"name": "c", "resources": resources}]);
        serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn other_spellings_are_no_resize() {
        let had = Allocation::of(&pod(json!({"limits": {"cpu": "1", "memory": "1Gi"}})));
        let check = |limits: Value, want: bool| {
            let now = pod(json!({"limits": limits.clone()}));
            assert_eq!(had.differs(&now), want, "{limits}");
        };
        check(json!({"cpu": "1000m", "memory": "1024Mi"}), false);
        check(json!({"cpu": "1001m", "memory": "1Gi"}), true);
        check(json!({"cpu": "1"}), true);
    }

    #[test]
    fn who_restarts() {
        let policy = json!([
            {"resourceName": "cpu", "restartPolicy": "NotRequired"},
            {"resourceName": "memory", "restartPolicy": "RestartContainer"},
        ]);
        let container: Container =
            serde_json::from_value(json!({"name": "c", "resizePolicy": policy})).unwrap();
        let now = Amounts {
            cpu_request: 100,
            memory_limit: 1 << 20,
            ..Amounts::default()
        };
        let check = |wanted: Amounts, want: bool| {
            assert_eq!(now.restarts(wanted, &container), want, "{wanted:?}");
        };
        check(now, false);
        check(
            Amounts {
                cpu_request: 200,
                ..now
            },
            false,
        );
        check(
            Amounts {
                cpu_limit: 200,
                ..now
            },
            false,
        );
        check(
            Amounts {
                memory_limit: 2 << 20,
                ..now
            },
            true,
        );
        check(
            Amounts {
                memory_request: 1,
                ..now
            },
            true,
        );
    }

    #[test]
    fn what_is_in_force_shows_in_the_spelling_of_the_pod_where_it_is_the_same() {
        let check = |given: Value, amounts: Amounts, want: Value| {
            let given = serde_json::from_value(given).unwrap();
            let got = serde_json::to_value(amounts.shown_in(&given)).unwrap();
            assert_eq!(got, want);
        };
        let amounts = Amounts {
            cpu_request: 1000,
            memory_limit: 64 << 20,
            ..Amounts::default()
        };
        let given = json!({"requests": {"cpu": "1000m"}, "limits": {"memory": "65536Ki"}});
        check(given.clone(), amounts, given);
        check(
            json!({"requests": {"cpu": "2"}, "limits": {"memory": "128Mi"}}),
            amounts,
            json!({"requests": {"cpu": "1"}, "limits": {"memory": "64Mi"}}),
        );
    }
}
