//! Rules about one node and one pod alone: name, cordon, taints, node affinity, ports, resources.

use crate::objects::{
    node::{Node, Taint},
    pod::{Pod, Requests},
    requests::HostPort,
};

use super::{
    verdict::{Refusal, Rule},
    view::Place,
};

/// Key of the taint of cordoned nodes.
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The node's labels, name and fields are what the pod asks for (`nodeaffinity.GetRequiredNodeAffinity`).
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

/// The first taint that keeps the pod away.
pub fn untolerated<'a>(pod: &Pod, node: &'a Node) -> Option<&'a Taint> {
    node.spec
        .taints
        .iter()
        .filter(|t| matches!(&*t.effect, "NoSchedule" | "NoExecute"))
        .find(|t| !t.tolerated(&pod.spec.tolerations))
}

/// What is asked of each node alone.
pub struct NodeRules {
    /// what the pod takes
    pub wants: Requests,
    /// host ports it needs
    pub ports: Vec<HostPort>,
}

impl NodeRules {
    /// Reads a pod.
    pub fn new(pod: &Pod) -> NodeRules {
        NodeRules {
            wants: pod.requests(),
            ports: pod.host_ports(),
        }
    }

    /// Why the pod can't run there, by the first rule in upstream's order.
    pub fn check(&self, pod: &Pod, node: &Node, place: &Place) -> Result<(), Refusal> {
        if node.spec.unschedulable {
            let cordon = Taint {
                key: UNSCHEDULABLE.into(),
                value: "".into(),
                effect: "NoSchedule".into(),
            };
            if !cordon.tolerated(&pod.spec.tolerations) {
                let reason = "node(s) were unschedulable";
                return Err(Refusal::lasting(Rule::NodeUnschedulable, reason));
            }
        }
        if !pod.spec.node_name.is_empty() && pod.spec.node_name != node.metadata.name {
            let reason = "node(s) didn't match the requested node name";
            return Err(Refusal::lasting(Rule::NodeName, reason));
        }
        if untolerated(pod, node).is_some() {
            let reason = "node(s) had untolerated taint(s)";
            return Err(Refusal::lasting(Rule::Taints, reason));
        }
        if !selects(pod, node) {
            let reason = "node(s) didn't match Pod's node affinity/selector";
            return Err(Refusal::lasting(Rule::NodeAffinity, reason));
        }
        let taken = |p: &HostPort| place.ports.iter().any(|q| q.clashes(p));
        if self.ports.iter().any(taken) {
            let reason = "node(s) didn't have free ports for the requested pod ports";
            return Err(Refusal::passing(Rule::Ports, reason));
        }
        self.resources(node, place)
    }

    /// Every resource that isn't enough (`noderesources.fitsRequest`).
    fn resources(&self, node: &Node, place: &Place) -> Result<(), Refusal> {
        let room = &node.status.allocatable;
        let used = &place.requests;
        let mut refusal = Refusal {
            rule: Rule::Resources,
            reasons: vec![],
            resolvable: true,
            broken: false,
        };
        if place.pods.len() as i64 + 1 > room.other("pods").unwrap_or(0) {
            refusal.reasons.push("Too many pods".into());
        }
        let mut need = |name: &str, wants: i64, has: i64, used: i64| {
            if wants > 0 && wants > has - used {
                let reason = match name {
                    "cpu" => "Insufficient cpu".into(),
                    "memory" => "Insufficient memory".into(),
                    other => format!("Insufficient {other}").into(),
                };
                refusal.reasons.push(reason);
                refusal.resolvable &= wants <= has;
            }
        };
        let wants = &self.wants;
        need("cpu", wants.cpu_milli, room.cpu_milli, used.cpu_milli);
        need(
            "memory",
            wants.memory_bytes,
            room.memory_bytes,
            used.memory_bytes,
        );
        for (name, amount) in wants.other.iter().filter(|(n, _)| &**n != "pods") {
            let has = room.other(name).unwrap_or(0);
            need(name, *amount, has, used.other(name).unwrap_or(0));
        }
        if refusal.reasons.is_empty() {
            Ok(())
        } else {
            Err(refusal)
        }
    }
}
