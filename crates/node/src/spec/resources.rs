//! Requests and limits to cgroup numbers, quality-of-service class and OOM score.
//!
//! Source: kubernetes `pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos/policy.go`, `pkg/apis/core/v1/helper/qos`.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use knarr_runtime::Resources;

use crate::{machine::Machine, quantity};

const CPU_PERIOD_US: i64 = 100_000;
const CPU_QUOTA_US_MIN: i64 = 1_000;
const CPU_SHARES_MIN: i64 = 2;
const CPU_SHARES_MAX: i64 = 262_144;
const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

pub(crate) type List = BTreeMap<String, Quantity>;

fn get(list: Option<&List>, name: &str) -> Option<Quantity> {
    list.and_then(|l| l.get(name)).cloned()
}

/// Thousandths of a CPU as v1 shares.
pub(crate) fn shares(milli_cpu: i64) -> u64 {
    let shares = milli_cpu.max(0).saturating_mul(1024) / 1000;
    shares.clamp(CPU_SHARES_MIN, CPU_SHARES_MAX).unsigned_abs()
}

/// Thousandths of a CPU as quota and period in µs; none for none.
pub(crate) fn quota(milli_cpu: i64) -> (Option<i64>, Option<u64>) {
    if milli_cpu <= 0 {
        return (None, None);
    }
    let quota = milli_cpu.saturating_mul(CPU_PERIOD_US) / 1000;
    (
        Some(quota.max(CPU_QUOTA_US_MIN)),
        Some(CPU_PERIOD_US.unsigned_abs()),
    )
}

/// Bytes of the page that `hugepages-2Mi` names.
pub(crate) fn huge_page_size(resource: &str) -> Option<u64> {
    let size = quantity::milli(resource.strip_prefix("hugepages-")?)? / 1000;
    u64::try_from(size).ok().filter(|s| *s > 0)
}

/// The sizes of huge pages that this machine has, in bytes.
pub(crate) fn huge_page_sizes() -> &'static [u64] {
    static SIZES: std::sync::OnceLock<Vec<u64>> = std::sync::OnceLock::new();
    SIZES.get_or_init(|| {
        let entries = std::fs::read_dir("/sys/kernel/mm/hugepages");
        let mut sizes: Vec<u64> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| {
                let name = e.file_name();
                let kib = name
                    .to_str()?
                    .strip_prefix("hugepages-")?
                    .strip_suffix("kB")?;
                Some(kib.parse::<u64>().ok()? << 10)
            })
            .collect();
        sizes.sort_unstable();
        sizes
    })
}

/// What the container's cgroup gets. CPU without a request counts as its limit, and without both as the least share; a limit that only the Pod has counts for each of its containers.
pub(crate) fn cgroup(pod: &Pod, container: &Container) -> Resources {
    let empty = ResourceRequirements::default();
    let resources = container.resources.as_ref().unwrap_or(&empty);
    let of_pod = pod
        .spec
        .as_ref()
        .and_then(|s| s.resources.as_ref())
        .and_then(|r| r.limits.as_ref());
    let limited = |name: &str| {
        get(resources.limits.as_ref(), name)
            .filter(|q| quantity::milli(&q.0).is_some_and(|m| m > 0))
            .or_else(|| get(of_pod, name))
    };
    let limit = limited("cpu").map(|q| quantity::milli_value(&q));
    let request = get(resources.requests.as_ref(), "cpu")
        .map(|q| quantity::milli_value(&q))
        .or(limit)
        .unwrap_or(0);
    let (cpu_quota_us, cpu_period_us) = quota(limit.unwrap_or(0));
    let memory = limited("memory")
        .map(|q| quantity::value(&q))
        .filter(|bytes| *bytes > 0);
    // what isn't asked for may not be used
    let mut huge_pages: BTreeMap<u64, u64> = huge_page_sizes().iter().map(|s| (*s, 0)).collect();
    for (name, quantity) in of_pod
        .into_iter()
        .chain(resources.limits.as_ref())
        .flatten()
    {
        if let Some(size) = huge_page_size(name) {
            huge_pages.insert(size, quantity::value(quantity).max(0).unsigned_abs());
        }
    }
    Resources {
        cpu_shares: Some(shares(request)),
        cpu_quota_us,
        cpu_period_us,
        memory_limit_bytes: memory,
        huge_pages,
        ..Resources::default()
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn qos_class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else {
        return "BestEffort";
    };
    let inits = spec.init_containers.iter().flatten();
    let mut any = false;
    let mut guaranteed = true;
    let pod_level = spec.resources.as_ref();
    let each = |resources: Option<&ResourceRequirements>, any: &mut bool| -> bool {
        let mut all = true;
        for name in ["cpu", "memory"] {
            let positive = |list: Option<&List>| {
                get(list, name)
                    .and_then(|q| quantity::milli(&q.0))
                    .filter(|m| *m > 0)
            };
            let limit = positive(resources.and_then(|r| r.limits.as_ref()));
            let request = positive(resources.and_then(|r| r.requests.as_ref()));
            *any |= limit.is_some() || request.is_some();
            all &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
        all
    };
    if pod_level.is_some_and(|r| r.limits.is_some() || r.requests.is_some()) {
        guaranteed = each(pod_level, &mut any);
    } else {
        for container in spec.containers.iter().chain(inits) {
            guaranteed &= each(container.resources.as_ref(), &mut any);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Less is safer from the kernel's OOM killer, which knows the whole machine, whatever part of it is the node's.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, machine: &Machine) -> i32 {
    let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    if priority >= SYSTEM_CRITICAL_PRIORITY {
        return -997;
    }
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let requested = |c: &Container| {
                let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
                get(requests, "memory").map_or(0, |q| quantity::value(&q))
            };
            let spec = pod.spec.as_ref();
            let containers = || spec.into_iter().flat_map(|s| &s.containers);
            let inits = || {
                spec.into_iter()
                    .flat_map(|s| s.init_containers.iter().flatten())
            };
            let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
            // SOURCE: KEP-2837: what the Pod asks for beyond its containers is shared by them equally
            let lasting = || containers().chain(inits().filter(sidecar));
            let share = spec
                .and_then(|s| s.resources.as_ref())
                .and_then(|r| get(r.requests.as_ref(), "memory"))
                .map_or(0, |whole| {
                    let left = quantity::value(&whole) - lasting().map(requested).sum::<i64>();
                    let sharers = i64::try_from(lasting().count()).unwrap_or(1).max(1);
                    left.max(0) / sharers
                });
            let all = i64::try_from(machine.memory_bytes)
                .unwrap_or(i64::MAX)
                .max(1);
            let score = |bytes: i64| 1000 - bytes.saturating_mul(1000) / all;
            let mut out = score(requested(container) + share);
            // a sidecar is to live at least as long as what it serves
            if inits().filter(sidecar).any(|c| c.name == container.name) {
                let least = containers().map(requested).min().unwrap_or(0);
                out = out.min(score(least + share));
            }
            i32::try_from(out.clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {}, "spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn classes_scores_and_cgroups() {
        let machine = Machine {
            cpus: 4,
            memory_bytes: 4 << 30,
        };
        let check =
            |resources: serde_json::Value, class: &str, score: i32, cgroup_want: Resources| {
                let pod = pod(json!([{"name": "c", "resources": resources.clone()}]));
                let container = &pod.spec.as_ref().unwrap().containers[0];
                assert_eq!(qos_class(&pod), class, "{resources}");
                assert_eq!(
                    oom_score_adj(&pod, container, &machine),
                    score,
                    "{resources}"
                );
                let got = cgroup(&pod, container);
                assert_eq!(
                    (
                        got.cpu_shares,
                        got.cpu_quota_us,
                        got.cpu_period_us,
                        got.memory_limit_bytes
                    ),
                    (
                        cgroup_want.cpu_shares,
                        cgroup_want.cpu_quota_us,
                        cgroup_want.cpu_period_us,
                        cgroup_want.memory_limit_bytes
                    ),
                    "{resources}"
                );
            };
        let shares = |n| Resources {
            cpu_shares: Some(n),
            ..Resources::default()
        };
        check(json!({}), "BestEffort", 1000, shares(2));
        check(
            json!({"requests": {"cpu": "250m"}}),
            "Burstable",
            999,
            shares(256),
        );
        check(
            json!({"requests": {"memory": "1Gi"}}),
            "Burstable",
            750,
            shares(2),
        );
        check(
            json!({"limits": {"cpu": "500m", "memory": "64Mi"}}),
            "Guaranteed",
            -997,
            Resources {
                cpu_shares: Some(512),
                cpu_quota_us: Some(50_000),
                cpu_period_us: Some(100_000),
                memory_limit_bytes: Some(64 << 20),
                ..Resources::default()
            },
        );
        check(
            json!({"limits": {"cpu": "1m"}}),
            "Burstable",
            999,
            Resources {
                cpu_shares: Some(2),
                cpu_quota_us: Some(1000),
                cpu_period_us: Some(100_000),
                ..Resources::default()
            },
        );
    }

    #[test]
    fn one_burstable_container_decides() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let two = pod(json!([{"name": "a", "resources": full}, {"name": "b"}]));
        assert_eq!(qos_class(&two), "Burstable");
    }
}
