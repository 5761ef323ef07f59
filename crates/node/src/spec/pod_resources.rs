//! What a Pod's containers ask for together, and the cgroups above theirs.
//!
//! Source: k8s.io/component-helpers `resource/helpers.go` (PodRequests, PodLimits), kubernetes `pkg/kubelet/cm/helpers_linux.go` (ResourceConfigForPod), `pod_container_manager_linux.go`.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use knarr_runtime::Resources;

use super::{
    extras,
    resources::{self, List, huge_page_size, qos_class},
};
use crate::quantity;

/// Thousandths of a resource's unit, by name.
pub(crate) type Amounts = BTreeMap<String, i128>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Requests,
    Limits,
}

fn amounts(list: Option<&List>) -> Amounts {
    list.into_iter()
        .flatten()
        .filter_map(|(name, q)| Some((name.clone(), quantity::milli(&q.0)?)))
        .collect()
}

fn of(container: &Container, side: Side) -> Amounts {
    let resources = container.resources.as_ref();
    amounts(match side {
        Side::Requests => resources.and_then(|r| r.requests.as_ref()),
        Side::Limits => resources.and_then(|r| r.limits.as_ref()),
    })
}

fn add(into: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *into.entry(name.clone()).or_default() += amount;
    }
}

fn at_least(into: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        let known = into.entry(name.clone()).or_default();
        *known = (*known).max(*amount);
    }
}

/// All containers together: those that run side by side added up, or what one init container needs while it runs, whichever is more; then what the Pod itself says, and its overhead.
pub(crate) fn total(pod: &Pod, side: Side) -> Amounts {
    let Some(spec) = &pod.spec else {
        return Amounts::new();
    };
    let mut all = Amounts::new();
    for container in &spec.containers {
        add(&mut all, &of(container, side));
    }
    let mut sidecars = Amounts::new();
    let mut most = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let mut needed = of(container, side);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut all, &needed);
            add(&mut sidecars, &needed);
            needed = sidecars.clone();
        } else {
            add(&mut needed, &sidecars);
        }
        at_least(&mut most, &needed);
    }
    at_least(&mut all, &most);
    let own = spec.resources.as_ref();
    all.extend(amounts(match side {
        Side::Requests => own.and_then(|r| r.requests.as_ref()),
        Side::Limits => own.and_then(|r| r.limits.as_ref()),
    }));
    for (name, amount) in amounts(spec.overhead.as_ref()) {
        match all.get_mut(&name) {
            Some(known) => *known += amount,
            None if side == Side::Requests => drop(all.insert(name, amount)),
            // no limit stays no limit
            None => {}
        }
    }
    all
}

/// Whole units, rounded up.
pub(crate) fn units(milli: i128) -> i64 {
    let whole = milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) > 0);
    i64::try_from(whole).unwrap_or(i64::MAX)
}

/// The Pod's `status.allocatedResources` and `status.resources`; none where it asks for nothing.
///
/// Source: kubernetes `pkg/kubelet/kubelet_pods.go` (getEffectiveAllocatedResources).
pub(crate) fn shown(pod: &Pod) -> (Option<List>, Option<ResourceRequirements>) {
    let text = |name: &str, milli: i128| match name {
        "cpu" => quantity::cpu_text(i64::try_from(milli).unwrap_or(i64::MAX)),
        _ => quantity::memory_text(units(milli)),
    };
    let list = |side: Side| -> Option<List> {
        let all = total(pod, side);
        let list = all.into_iter().map(|(name, milli)| {
            let text = text(&name, milli);
            (name, Quantity(text))
        });
        Some(list.collect()).filter(|l: &List| !l.is_empty())
    };
    let (requests, limits) = (list(Side::Requests), list(Side::Limits));
    let any = requests.is_some() || limits.is_some();
    let resources = any.then(|| ResourceRequirements {
        requests: requests.clone(),
        limits,
        claims: None,
    });
    (requests, resources)
}

/// Every container (of `side` limits) names this resource, or the Pod does.
fn declared(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let positive = |list: Option<&List>| amounts(list).get(name).is_some_and(|a| *a > 0);
    let own = spec.resources.as_ref().and_then(|r| r.limits.as_ref());
    let inits = spec.init_containers.iter().flatten();
    positive(own)
        || spec
            .containers
            .iter()
            .chain(inits)
            .all(|c| positive(c.resources.as_ref().and_then(|r| r.limits.as_ref())))
}

/// The cgroup of a Pod, below the runtime's own.
pub(crate) fn cgroup_path(pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match qos_class(pod) {
        "Guaranteed" => format!("{ALL}/pod{uid}"),
        "Burstable" => format!("{BURSTABLE}/pod{uid}"),
        _ => format!("{BEST_EFFORT}/pod{uid}"),
    }
}

/// The cgroups above Pods', by class of quality of service.
pub(crate) const ALL: &str = "kubepods";
pub(crate) const BURSTABLE: &str = "kubepods/burstable";
pub(crate) const BEST_EFFORT: &str = "kubepods/besteffort";

/// What a Pod's own cgroup gets.
pub(crate) fn cgroup(pod: &Pod, pids_limit: Option<i64>) -> Resources {
    let requests = total(pod, Side::Requests);
    let limits = total(pod, Side::Limits);
    let get = |of: &Amounts, name: &str| of.get(name).copied().unwrap_or(0);
    let class = qos_class(pod);
    let guaranteed = class == "Guaranteed";
    let milli_cpu = |of: &Amounts| i64::try_from(get(of, "cpu")).unwrap_or(i64::MAX);
    let mut out = Resources {
        cpu_shares: Some(resources::shares(match class {
            "BestEffort" => 0,
            _ => milli_cpu(&requests),
        })),
        pids_limit: pids_limit.filter(|p| *p > 0),
        huge_pages: requests
            .iter()
            .filter_map(|(name, amount)| {
                Some((huge_page_size(name)?, units(*amount).unsigned_abs()))
            })
            .collect(),
        ..Resources::default()
    };
    if class == "BestEffort" {
        return alone(pod, out);
    }
    if guaranteed || declared(pod, "cpu") {
        (out.cpu_quota_us, out.cpu_period_us) = resources::quota(milli_cpu(&limits));
    }
    if guaranteed || declared(pod, "memory") {
        out.memory_limit_bytes = Some(units(get(&limits, "memory"))).filter(|b| *b > 0);
    }
    alone(pod, out)
}

/// A Pod's only container has what it asks for besides: its Pod must not take it away.
fn alone(pod: &Pod, mut out: Resources) -> Resources {
    let Some([container]) = pod.spec.as_ref().map(|s| s.containers.as_slice()) else {
        return out;
    };
    // one that can't be read is told when the container is made
    let extras = extras::of(pod, container).unwrap_or_default();
    out.cpu_shares = extras.cpu_shares.or(out.cpu_shares);
    out.memory_swap_bytes = extras.memory_swap_bytes;
    if let (Some(quota), Some(period)) = (extras.cpu_quota_us, extras.cpu_period_us) {
        (out.cpu_quota_us, out.cpu_period_us) = (Some(quota), Some(period));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec})).unwrap()
    }
    fn with(requests: Value, limits: Value) -> Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn what_runs_side_by_side_is_added_up() {
        let check = |spec: Value, side: Side, cpu: i128| {
            let all = total(&pod(spec.clone()), side);
            assert_eq!(all.get("cpu").copied().unwrap_or(0), cpu, "{spec}");
        };
        let asks = |cpu: &str| with(json!({"cpu": cpu}), json!({}));
        let mut sidecar = asks("100m");
        sidecar["restartPolicy"] = json!("Always");
        check(
            json!({"containers": [asks("1"), asks("250m")]}),
            Side::Requests,
            1250,
        );
        check(
            json!({"containers": [asks("1")], "initContainers": [asks("3")]}),
            Side::Requests,
            3000,
        );
        // the init container after a sidecar runs beside it
        check(
            json!({"containers": [asks("1")], "initContainers": [sidecar, asks("2")]}),
            Side::Requests,
            2100,
        );
        check(
            json!({"containers": [asks("1")], "overhead": {"cpu": "50m"}}),
            Side::Requests,
            1050,
        );
        check(
            json!({"containers": [asks("1")], "overhead": {"cpu": "50m"}}),
            Side::Limits,
            0,
        );
        check(
            json!({"containers": [asks("1")], "resources": {"requests": {"cpu": "4"}}}),
            Side::Requests,
            4000,
        );
    }

    #[test]
    fn a_pods_cgroup() {
        let check = |spec: Value, path: &str, want: Resources| {
            let pod = pod(spec.clone());
            assert_eq!(cgroup_path(&pod), path, "{spec}");
            assert_eq!(cgroup(&pod, Some(100)), want, "{spec}");
        };
        let base = |shares: u64| Resources {
            cpu_shares: Some(shares),
            pids_limit: Some(100),
            ..Resources::default()
        };
        check(
            json!({"containers": [{"name": "c"}]}),
            "kubepods/besteffort/podu",
            base(2),
        );
        let full = json!({"cpu": "500m", "memory": "64Mi"});
        check(
            json!({"containers": [with(full.clone(), full.clone()), with(full.clone(), full.clone())]}),
            "kubepods/podu",
            Resources {
                cpu_quota_us: Some(100_000),
                cpu_period_us: Some(100_000),
                memory_limit_bytes: Some(128 << 20),
                ..base(1024)
            },
        );
        // one container without a limit: the Pod has none
        check(
            json!({"containers": [with(json!({}), full.clone()), {"name": "d"}]}),
            "kubepods/burstable/podu",
            base(2),
        );
        check(
            json!({"containers": [with(json!({"cpu": "1"}), json!({"memory": "64Mi", "hugepages-2Mi": "4Mi"})),
                                  with(json!({"hugepages-2Mi": "4Mi"}), json!({"memory": "1"}))]}),
            "kubepods/burstable/podu",
            Resources {
                memory_limit_bytes: Some((64 << 20) + 1),
                huge_pages: [(2 << 20, 4 << 20)].into(),
                ..base(1024)
            },
        );
    }
}
