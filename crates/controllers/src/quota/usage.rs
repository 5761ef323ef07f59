//! What one object uses of a quota, by resource name (`pkg/quota/v1/evaluator/core`).

use std::collections::BTreeMap;

use serde_json::Value;

use knarr_quantity::Quantity;

use crate::objects::meta::{Seconds, parse_time};

/// Amounts by resource name.
pub type Amounts = BTreeMap<Box<str>, Quantity>;

/// The evaluator that a quota's resource name belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counts<'a> {
    /// what Pods ask for
    Pods,
    /// Services, and their kinds of ports
    Services,
    /// claims and their storage
    Claims,
    /// ResourceClaims and their devices
    Devices,
    /// objects of `resource.group`
    Objects(&'a str),
}

const CLASS: &str = ".storageclass.storage.k8s.io/";
/// After a device class's name.
const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";
/// Devices that a request for all of them may get (resource/v1 `AllocationResultsMaxSize`).
const DEVICES_MAX: i64 = 32;

/// Whose usage a resource name of a quota is.
pub fn counts(name: &str) -> Counts<'_> {
    match name {
        "count/pods" => return Counts::Pods,
        "services" | "services.nodeports" | "services.loadbalancers" | "count/services" => {
            return Counts::Services;
        }
        "persistentvolumeclaims" | "requests.storage" | "count/persistentvolumeclaims" => {
            return Counts::Claims;
        }
        "count/resourceclaims.resource.k8s.io" => return Counts::Devices,
        "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets" => {
            return Counts::Objects(name);
        }
        _ => {}
    }
    match name.strip_prefix("count/") {
        Some(resource) => Counts::Objects(resource),
        None if name.contains(CLASS) => Counts::Claims,
        None if name.ends_with(DEVICES) => Counts::Devices,
        None => Counts::Pods,
    }
}

/// Adds each amount under its name.
pub fn add(into: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        into.entry(name.clone())
            .or_insert(Quantity::ZERO)
            .add(amount);
    }
}
fn max(into: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        match into.get_mut(name) {
            Some(have) if *have >= *amount => {}
            _ => drop(into.insert(name.clone(), amount.clone())),
        }
    }
}
fn list(of: &Value, pointer: &str) -> Amounts {
    let map = of.pointer(pointer).filter(|v| v.is_object()).cloned();
    let amounts = map.and_then(|m| serde_json::from_value(m).ok());
    amounts.unwrap_or_default()
}

/// The resources of a Pod's containers, its own, and its overhead (`component-helpers/resource`); `list` is requests or limits.
fn resources(pod: &Value, which: &str) -> Amounts {
    let pointer = format!("/resources/{which}");
    let items = |p: &str| {
        pod.pointer(p)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let infeasible = items("/status/conditions")
        .any(|c| c["type"] == "PodResizePending" && c["reason"] == "Infeasible");
    // While it is resized, the larger of what is wanted and what it has counts.
    let effective = |container: &Value, statuses: &str| {
        let wanted = list(container, &pointer);
        let status =
            items(statuses).find(|s| s["name"] == container["name"] && s["resources"].is_object());
        let Some(status) = status else { return wanted };
        let mut has = list(status, &pointer);
        if which == "requests" {
            max(&mut has, &list(status, "/allocatedResources"));
        }
        if !infeasible {
            max(&mut has, &wanted);
        }
        has
    };
    let mut total = Amounts::new();
    for c in items("/spec/containers") {
        add(&mut total, &effective(c, "/status/containerStatuses"));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for c in items("/spec/initContainers") {
        if c["restartPolicy"] == "Always" {
            let its = effective(c, "/status/initContainerStatuses");
            add(&mut total, &its);
            add(&mut sidecars, &its);
            max(&mut peak, &sidecars);
        } else {
            let mut its = list(c, &pointer);
            add(&mut its, &sidecars);
            max(&mut peak, &its);
        }
    }
    max(&mut total, &peak);
    for (name, amount) in list(pod, &format!("/spec/resources/{which}")) {
        if matches!(&*name, "cpu" | "memory") || name.starts_with("hugepages-") {
            total.insert(name, amount);
        }
    }
    let mut overhead = list(pod, "/spec/overhead");
    if which == "limits" {
        overhead.retain(|name, _| total.get(name).is_some_and(|a| !a.is_zero()));
    }
    add(&mut total, &overhead);
    total
}

/// It still uses what it asks for: it has not ended, and is not overdue on its way out.
fn lives(pod: &Value, now: Seconds) -> bool {
    let text = |p: &str| pod.pointer(p).and_then(Value::as_str);
    if matches!(text("/status/phase"), Some("Failed" | "Succeeded")) {
        return false;
    }
    overdue_at(pod).is_none_or(|at| now <= at)
}

/// When a Pod on its way out stops to count.
pub fn overdue_at(pod: &Value) -> Option<Seconds> {
    let grace = pod
        .pointer("/metadata/deletionGracePeriodSeconds")?
        .as_i64()?;
    let at = pod.pointer("/metadata/deletionTimestamp")?.as_str();
    Some(parse_time(at)?.saturating_add(grace))
}

/// A Pod's.
pub fn pod(pod: &Value, now: Seconds) -> Amounts {
    let mut used = Amounts::from([("count/pods".into(), Quantity::whole(1))]);
    if !lives(pod, now) {
        return used;
    }
    used.insert("pods".into(), Quantity::whole(1));
    for (name, amount) in resources(pod, "requests") {
        let native = !name.contains('/') || name.contains("kubernetes.io/");
        match &*name {
            "cpu" | "memory" | "ephemeral-storage" => {}
            hugepages if hugepages.starts_with("hugepages-") => {}
            _ if native => continue,
            // an extended resource is counted by its request alone
            _ => {
                used.insert(format!("requests.{name}").into(), amount);
                continue;
            }
        }
        used.insert(format!("requests.{name}").into(), amount.clone());
        used.insert(name, amount);
    }
    for (name, amount) in resources(pod, "limits") {
        if matches!(&*name, "cpu" | "memory" | "ephemeral-storage") {
            used.insert(format!("limits.{name}").into(), amount);
        }
    }
    used
}

/// A Service's.
pub fn service(service: &Value) -> Amounts {
    let spec = service.get("spec").unwrap_or(&Value::Null);
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let all = ports.len() as i64;
    let (balancers, node_ports) = match spec["type"].as_str() {
        Some("NodePort") => (0, all),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => {
            let given = |p: &&Value| p["nodePort"].as_i64().unwrap_or(0) != 0;
            (1, ports.iter().filter(given).count() as i64)
        }
        Some("LoadBalancer") => (1, all),
        _ => (0, 0),
    };
    Amounts::from([
        ("count/services".into(), Quantity::whole(1)),
        ("services".into(), Quantity::whole(1)),
        ("services.loadbalancers".into(), Quantity::whole(balancers)),
        ("services.nodeports".into(), Quantity::whole(node_ports)),
    ])
}

/// A PersistentVolumeClaim's.
pub fn claim(claim: &Value) -> Amounts {
    let text = |p: &str| claim.pointer(p).and_then(Value::as_str);
    let class = text("/metadata/annotations/volume.beta.kubernetes.io~1storage-class")
        .or_else(|| text("/spec/storageClassName"))
        .filter(|c| !c.is_empty());
    let one = Quantity::whole(1);
    let mut used = Amounts::from([
        ("count/persistentvolumeclaims".into(), one.clone()),
        ("persistentvolumeclaims".into(), one.clone()),
    ]);
    if let Some(class) = class {
        used.insert(format!("{class}{CLASS}persistentvolumeclaims").into(), one);
    }
    let storage = |p: &str| list(claim, p).remove("storage");
    if let Some(wanted) = storage("/spec/resources/requests") {
        // one that shrinks back after a failed expansion still has what was allocated
        let mut storage = match storage("/status/allocatedResources") {
            Some(allocated) => wanted.max(allocated),
            None => wanted,
        };
        storage.round_up(0);
        if let Some(class) = class {
            used.insert(
                format!("{class}{CLASS}requests.storage").into(),
                storage.clone(),
            );
        }
        used.insert("requests.storage".into(), storage);
    }
    used
}

/// A ResourceClaim's; of alternatives the most of each class.
pub fn devices(claim: &Value) -> Amounts {
    let one = Quantity::whole(1);
    let mut used = Amounts::from([("count/resourceclaims.resource.k8s.io".into(), one)]);
    let list = |of: &Value, p: &str| of.pointer(p).and_then(Value::as_array).cloned();
    for request in list(claim, "/spec/devices/requests").unwrap_or_default() {
        let mut wanted = list(&request, "/firstAvailable").unwrap_or_default();
        wanted.extend(request.get("exactly").cloned());
        let mut most = Amounts::new();
        for w in wanted {
            let n = match w["allocationMode"].as_str() {
                Some("ExactCount") => w["count"].as_i64().unwrap_or(0),
                Some("All") => DEVICES_MAX,
                _ => 0,
            };
            let class = w["deviceClassName"].as_str().unwrap_or("");
            let name = format!("{class}{DEVICES}").into();
            max(&mut most, &Amounts::from([(name, Quantity::whole(n))]));
        }
        add(&mut used, &most);
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Seconds = 1_700_000_000;

    #[track_caller]
    fn check(used: Amounts, want: &str) {
        let got: Vec<_> = used
            .iter()
            .filter(|(_, a)| !a.is_zero())
            .map(|(n, a)| format!("{n}={a}"))
            .collect();
        assert_eq!(got.join(" "), want);
    }

    #[test]
    fn whose_usage() {
        for (name, want) in [
            ("cpu", Counts::Pods),
            ("limits.memory", Counts::Pods),
            ("count/pods", Counts::Pods),
            ("requests.example.com/dongle", Counts::Pods),
            ("services.nodeports", Counts::Services),
            ("requests.storage", Counts::Claims),
            (
                "gold.storageclass.storage.k8s.io/requests.storage",
                Counts::Claims,
            ),
            ("count/resourceclaims.resource.k8s.io", Counts::Devices),
            ("gold.deviceclass.resource.k8s.io/devices", Counts::Devices),
            ("secrets", Counts::Objects("secrets")),
            (
                "count/deployments.apps",
                Counts::Objects("deployments.apps"),
            ),
        ] {
            assert_eq!(counts(name), want, "{name}");
        }
    }

    #[test]
    fn pods() {
        check(
            pod(
                &json!({"spec":{
                    "containers":[
                        {"resources":{"requests":{"cpu":"500m","memory":"252Mi","example.com/x":"2","kubernetes.io/y":"1"},
                            "limits":{"cpu":"1"}}},
                        {"resources":{"requests":{"cpu":"1"}}}],
                    "initContainers":[{"resources":{"requests":{"cpu":"1","memory":"1Gi"}}}]}}),
                NOW,
            ),
            "count/pods=1 cpu=1500m limits.cpu=1 memory=1Gi pods=1 requests.cpu=1500m requests.example.com/x=2 requests.memory=1Gi",
        );
        // a sidecar runs beside the others, and beside the init containers after it
        check(
            pod(
                &json!({"spec":{
                    "containers":[{"resources":{"requests":{"cpu":"1"}}}],
                    "initContainers":[
                        {"restartPolicy":"Always","resources":{"requests":{"cpu":"1"}}},
                        {"resources":{"requests":{"cpu":"3"}}}]}}),
                NOW,
            ),
            "count/pods=1 cpu=4 pods=1 requests.cpu=4",
        );
        check(
            pod(
                &json!({"spec":{"overhead":{"cpu":"100m","memory":"1Mi"},
                    "resources":{"limits":{"cpu":"2"}},
                    "containers":[{"resources":{"requests":{"cpu":"1"}}}]}}),
                NOW,
            ),
            "count/pods=1 cpu=1100m limits.cpu=2100m memory=1Mi pods=1 requests.cpu=1100m requests.memory=1Mi",
        );
        check(
            pod(&json!({"status":{"phase":"Succeeded"},"spec":{}}), NOW),
            "count/pods=1",
        );
        // overdue, and still in time
        let leaving = |grace: i64| {
            json!({"metadata":{"deletionTimestamp":"2023-11-14T22:13:00Z",
                "deletionGracePeriodSeconds":grace},"spec":{}})
        };
        check(pod(&leaving(10), NOW), "count/pods=1");
        check(pod(&leaving(20), NOW), "count/pods=1 pods=1");
    }

    #[test]
    fn a_resize_counts_the_larger() {
        let resized = |conditions: Value| {
            json!({
                "spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"3"}}}]},
                "status":{"conditions":conditions,"containerStatuses":[{"name":"a",
                    "allocatedResources":{"cpu":"1"},"resources":{"requests":{"cpu":"2"}}}]}
            })
        };
        check(
            pod(&resized(json!([])), NOW),
            "count/pods=1 cpu=3 pods=1 requests.cpu=3",
        );
        check(
            pod(
                &resized(json!([{"type":"PodResizePending","reason":"Infeasible"}])),
                NOW,
            ),
            "count/pods=1 cpu=2 pods=1 requests.cpu=2",
        );
    }

    #[test]
    fn services_and_claims() {
        let of = |kind: &str, allocate: bool| {
            json!({"spec":{"type":kind,"allocateLoadBalancerNodePorts":allocate,
                "ports":[{"port":1},{"port":2,"nodePort":30001}]}})
        };
        check(
            service(&of("ClusterIP", true)),
            "count/services=1 services=1",
        );
        check(
            service(&of("NodePort", true)),
            "count/services=1 services=1 services.nodeports=2",
        );
        check(
            service(&of("LoadBalancer", true)),
            "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2",
        );
        check(
            service(&of("LoadBalancer", false)),
            "count/services=1 services=1 services.loadbalancers=1 services.nodeports=1",
        );
        check(
            claim(
                &json!({"spec":{"storageClassName":"gold","resources":{"requests":{"storage":"1Gi"}}}}),
            ),
            "count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/requests.storage=1Gi persistentvolumeclaims=1 requests.storage=1Gi",
        );
        check(
            claim(&json!({"spec":{"resources":{"requests":{"storage":"1Gi"}}},
                "status":{"allocatedResources":{"storage":"2Gi"}}})),
            "count/persistentvolumeclaims=1 persistentvolumeclaims=1 requests.storage=2Gi",
        );
    }
    #[test]
    fn devices_of_claims() {
        let all = |class: &str| json!({"deviceClassName": class, "allocationMode": "All"});
        let some = |class: &str, n: i64| json!({"deviceClassName": class, "allocationMode": "ExactCount", "count": n});
        check(
            devices(&json!({"spec":{"devices":{"requests":[
                {"name": "a", "exactly": some("gold", 2)},
                {"name": "b", "firstAvailable": [some("gold", 1), some("tin", 5), some("gold", 3)]},
                {"name": "c", "exactly": all("iron")}]}}})),
            "count/resourceclaims.resource.k8s.io=1 gold.deviceclass.resource.k8s.io/devices=5 iron.deviceclass.resource.k8s.io/devices=32 tin.deviceclass.resource.k8s.io/devices=5",
        );
        check(
            devices(&json!({})),
            "count/resourceclaims.resource.k8s.io=1",
        );
    }
}
