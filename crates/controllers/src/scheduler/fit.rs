//! Can a pod run on a node, and where best: pure.

use std::collections::BTreeMap;

use crate::objects::{
    node::{Node, Taint},
    pod::{Pod, Requests},
};

/// What runs on a node, or is about to.
#[derive(Debug, Default, Clone)]
pub struct Load {
    /// sum of requests
    pub requests: Requests,
    /// pods
    pub pods: i64,
    /// host ports in use: address, port, protocol
    pub ports: Vec<HostPort>,
}

/// A port of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    address: Box<str>,
    port: i32,
    protocol: Box<str>,
}

impl HostPort {
    fn clashes(&self, other: &HostPort) -> bool {
        let any = |a: &str| a.is_empty() || a == "0.0.0.0" || a == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.address) || any(&other.address) || self.address == other.address)
    }
}

/// Host ports that a pod asks for.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    pod.spec
        .containers
        .iter()
        .chain(
            pod.spec
                .init_containers
                .iter()
                .filter(|c| &*c.restart_policy == "Always"),
        )
        .flat_map(|c| &c.ports)
        .filter(|p| p.host_port > 0)
        .map(|p| HostPort {
            address: p.host_ip.clone(),
            port: p.host_port,
            protocol: if p.protocol.is_empty() {
                "TCP".into()
            } else {
                p.protocol.clone()
            },
        })
        .collect()
}

impl Load {
    /// A pod more.
    pub fn add(&mut self, pod: &Pod) {
        self.requests.add(&pod.requests());
        self.pods += 1;
        self.ports.extend(host_ports(pod));
    }
}

/// Taints of a node, with those that its state implies (node lifecycle puts them there a moment later).
fn taints(node: &Node) -> Vec<Taint> {
    let mut all = node.spec.taints.clone();
    let mut imply = |key: &str| {
        if !all.iter().any(|t| &*t.key == key) {
            all.push(Taint {
                key: key.into(),
                value: "".into(),
                effect: "NoSchedule".into(),
            });
        }
    };
    if !node.ready() {
        imply("node.kubernetes.io/not-ready");
    }
    if node.spec.unschedulable {
        imply("node.kubernetes.io/unschedulable");
    }
    all
}

/// The node's labels, name and fields are what the pod asks for.
pub fn selects(pod: &Pod, node: &Node) -> bool {
    pod.spec.node_selector.subset_of(&node.metadata.labels)
        && pod
            .spec
            .affinity
            .as_ref()
            .and_then(|a| a.node_affinity.as_ref())
            .and_then(|a| a.required.as_ref())
            .is_none_or(|s| s.matches(&node.metadata.name, &node.metadata.labels))
}

/// Why the pod can't run on the node, in the words of upstream's scheduler; empty when it can.
pub fn obstacles(pod: &Pod, wants: &Requests, node: &Node, load: &Load) -> Vec<String> {
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        value: "".into(),
        effect: "NoSchedule".into(),
    };
    if node.spec.unschedulable && !cordon.tolerated(&pod.spec.tolerations) {
        return vec!["node(s) were unschedulable".into()];
    }
    if let Some(t) = taints(node)
        .iter()
        .find(|t| &*t.effect != "PreferNoSchedule" && !t.tolerated(&pod.spec.tolerations))
    {
        return vec![format!(
            "node(s) had untolerated taint {{{}: {}}}",
            t.key, t.value
        )];
    }
    if !selects(pod, node) {
        return vec!["node(s) didn't match Pod's node affinity/selector".into()];
    }
    if host_ports(pod)
        .iter()
        .any(|p| load.ports.iter().any(|q| q.clashes(p)))
    {
        return vec!["node(s) didn't have free ports for the requested pod ports".into()];
    }
    let room = &node.status.allocatable;
    let used = &load.requests;
    let mut lacks = vec![];
    if room.other("pods").is_some_and(|max| load.pods + 1 > max) {
        lacks.push("Too many pods".into());
    }
    if wants.cpu_milli > 0 && used.cpu_milli + wants.cpu_milli > room.cpu_milli {
        lacks.push("Insufficient cpu".into());
    }
    if wants.memory_bytes > 0 && used.memory_bytes + wants.memory_bytes > room.memory_bytes {
        lacks.push("Insufficient memory".into());
    }
    for (name, amount) in wants.other.iter().filter(|(_, n)| *n > 0) {
        let free = room.other(name).unwrap_or(0) - used.other(name).unwrap_or(0);
        if *amount > free {
            lacks.push(format!("Insufficient {name}"));
        }
    }
    lacks
}

/// How free the node is with the pod on it, in thousandths; more is better (`LeastAllocated`).
pub fn score(wants: &Requests, node: &Node, load: &Load) -> i64 {
    // pods that ask for nothing count as upstream counts them
    let part = |room: i64, used: i64, wants: i64, least: i64| {
        if room <= 0 {
            0
        } else {
            ((room - used - wants.max(least)).max(0) as i128 * 1000 / room as i128) as i64
        }
    };
    let room = &node.status.allocatable;
    let cpu = part(
        room.cpu_milli,
        load.requests.cpu_milli,
        wants.cpu_milli,
        100,
    );
    let memory = part(
        room.memory_bytes,
        load.requests.memory_bytes,
        wants.memory_bytes,
        200 << 20,
    );
    (cpu + memory) / 2
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
pub fn summary(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let list: Vec<_> = reasons.iter().map(|(r, n)| format!("{n} {r}")).collect();
    format!("0/{nodes} nodes are available: {}.", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(extra: Value) -> Node {
        let mut n = json!({
            "metadata":{"name":"n1","labels":{"disk":"ssd"}},
            "spec":{},
            "status":{"allocatable":{"cpu":"2","memory":"1Gi","pods":"3","example.com/gpu":"1"},
                "conditions":[{"type":"Ready","status":"True"}]}});
        for (k, v) in extra.as_object().unwrap() {
            *n.pointer_mut(k).unwrap() = v.clone();
        }
        serde_json::from_value(n).unwrap()
    }
    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata":{"name":"p"},"spec":spec})).unwrap()
    }
    fn wanting(requests: Value) -> Pod {
        pod(json!({"containers":[{"resources":{"requests":requests}}]}))
    }

    #[test]
    fn fits_or_says_why() {
        let plain = json!({});
        let cases = [
            ("fits", wanting(json!({"cpu":"1"})), plain.clone(), ""),
            (
                "exactly",
                wanting(json!({"cpu":"1900m"})),
                plain.clone(),
                "",
            ),
            (
                "cpu",
                wanting(json!({"cpu":"1901m"})),
                plain.clone(),
                "Insufficient cpu",
            ),
            (
                "both",
                wanting(json!({"cpu":"3","memory":"2Gi"})),
                plain.clone(),
                "Insufficient cpu, Insufficient memory",
            ),
            (
                "gpu",
                wanting(json!({"example.com/gpu":"2"})),
                plain.clone(),
                "Insufficient example.com/gpu",
            ),
            (
                "pods",
                wanting(json!({})),
                json!({"/status/allocatable/pods":"1"}),
                "Too many pods",
            ),
            (
                "cordoned",
                wanting(json!({})),
                json!({"/spec":{"unschedulable":true}}),
                "node(s) were unschedulable",
            ),
            (
                "not ready",
                wanting(json!({})),
                json!({"/status/conditions":[]}),
                "node(s) had untolerated taint {node.kubernetes.io/not-ready: }",
            ),
            (
                "taint",
                wanting(json!({})),
                json!({"/spec":{"taints":[{"key":"a","value":"b","effect":"NoSchedule"}]}}),
                "node(s) had untolerated taint {a: b}",
            ),
            (
                "preferred",
                wanting(json!({})),
                json!({"/spec":{"taints":[{"key":"a","effect":"PreferNoSchedule"}]}}),
                "",
            ),
            (
                "tolerated",
                pod(json!({"tolerations":[{"key":"a","operator":"Exists"}]})),
                json!({"/spec":{"taints":[{"key":"a","value":"b","effect":"NoSchedule"}]}}),
                "",
            ),
            (
                "other value",
                pod(json!({"tolerations":[{"key":"a","value":"c"}]})),
                json!({"/spec":{"taints":[{"key":"a","value":"b","effect":"NoExecute"}]}}),
                "node(s) had untolerated taint {a: b}",
            ),
            (
                "tolerates all",
                pod(json!({"tolerations":[{"operator":"Exists"}]})),
                json!({"/spec":{"unschedulable":true,"taints":[{"key":"a","effect":"NoExecute"}]}}),
                "",
            ),
            (
                "selector",
                pod(json!({"nodeSelector":{"disk":"hdd"}})),
                plain.clone(),
                "node(s) didn't match Pod's node affinity/selector",
            ),
            (
                "affinity",
                pod(
                    json!({"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"disk","operator":"In","values":["ssd"]}]}]}}}}),
                ),
                plain.clone(),
                "",
            ),
            (
                "other node",
                pod(
                    json!({"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchFields":[{"key":"metadata.name","operator":"In","values":["n2"]}]}]}}}}),
                ),
                plain.clone(),
                "node(s) didn't match Pod's node affinity/selector",
            ),
            (
                "host port",
                pod(json!({"containers":[{"ports":[{"hostPort":80}]}]})),
                plain.clone(),
                "node(s) didn't have free ports for the requested pod ports",
            ),
            (
                "other protocol",
                pod(json!({"containers":[{"ports":[{"hostPort":80,"protocol":"UDP"}]}]})),
                plain,
                "",
            ),
        ];
        let mut load = Load::default();
        load.add(&pod(json!({"containers":[{"ports":[{"hostPort":80,"hostIP":"10.0.0.1"}],"resources":{"requests":{"cpu":"100m"}}}]})));
        for (name, pod, on, want) in cases {
            let got = obstacles(&pod, &pod.requests(), &node(on), &load).join(", ");
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn emptier_is_better() {
        let wants = wanting(json!({"cpu":"100m"})).requests();
        let mut busy = Load::default();
        busy.add(&wanting(json!({"cpu":"1","memory":"100Mi"})));
        let n = node(json!({}));
        assert!(score(&wants, &n, &Load::default()) > score(&wants, &n, &busy));
    }
}
