//! What happened, and which waiting pods it may help (upstream's queueing hints).

use std::sync::Arc;

use crate::objects::{node::Node, pod::Pod};

use super::{
    filter::{selects, untolerated},
    verdict::{Rule, Rules},
};

/// Something happened.
#[derive(Debug, Clone)]
pub enum Happening {
    /// a node came, or changed from this to that
    Node(Option<Arc<Node>>, Arc<Node>),
    /// a node went
    NodeGone,
    /// a pod got its node, or changed its labels there
    PodPlaced(Arc<Pod>),
    /// a pod went from its node, or takes less
    PodGone(Arc<Pod>),
    /// a pod for which room was being made went, or got other room
    Nomination,
    /// a claim of the namespace and name
    Claim(Box<str>, Box<str>),
    /// a volume, a class, or what drivers can take
    Storage,
    /// a namespace's labels
    Namespace,
    /// devices, their classes, or a claim of them
    Devices,
}

/// It may help a pod that was turned away by these rules.
pub fn helps(what: &Happening, rules: Rules, pod: &Pod) -> bool {
    // no rule: there was no node at all
    if rules.is_empty() {
        return matches!(what, Happening::Node(..));
    }
    let volumes = || {
        rules.has(Rule::VolumeBinding)
            || rules.has(Rule::VolumeZone)
            || rules.has(Rule::VolumeLimits)
            || rules.has(Rule::VolumeRestrictions)
    };
    match what {
        Happening::Node(old, new) => node(old.as_deref(), new, rules, pod),
        Happening::NodeGone => rules.has(Rule::Spread),
        Happening::PodPlaced(p) => {
            (rules.has(Rule::InterPod) && touches_affinity(pod, p))
                || (rules.has(Rule::Spread) && touches_spread(pod, p))
        }
        Happening::PodGone(p) => {
            // at least its place among the node's pods
            rules.has(Rule::Resources)
                || (rules.has(Rule::Ports) && gives_port(pod, p))
                || (rules.has(Rule::InterPod) && (touches_affinity(pod, p) || has_anti_affinity(p)))
                || (rules.has(Rule::Spread) && touches_spread(pod, p))
                || ((rules.has(Rule::VolumeRestrictions) || rules.has(Rule::VolumeLimits))
                    && p.claims().next().is_some())
        }
        Happening::Nomination => true,
        Happening::Claim(namespace, name) => {
            volumes() && *namespace == pod.metadata.namespace && pod.claims().any(|c| *c == **name)
        }
        Happening::Storage => volumes(),
        Happening::Namespace => rules.has(Rule::InterPod),
        Happening::Devices => rules.has(Rule::Devices),
    }
}

fn node(old: Option<&Node>, new: &Node, rules: Rules, pod: &Pod) -> bool {
    let labels = old.is_none_or(|o| o.metadata.labels != new.metadata.labels);
    let taints = old.is_none_or(|o| {
        o.spec.taints != new.spec.taints || o.spec.unschedulable != new.spec.unschedulable
    });
    let room = old.is_none_or(|o| o.status.allocatable != new.status.allocatable);
    // what the node can't be for the pod anyway
    if old.is_none() && (untolerated(pod, new).is_some() || !selects(pod, new)) {
        return rules.has(Rule::Spread);
    }
    let on_labels = [
        Rule::NodeAffinity,
        Rule::InterPod,
        Rule::Spread,
        Rule::VolumeBinding,
        Rule::VolumeZone,
        Rule::Devices,
    ];
    let on_taints = [Rule::Taints, Rule::NodeUnschedulable, Rule::Spread];
    (labels && on_labels.iter().any(|r| rules.has(*r)))
        || (taints && on_taints.iter().any(|r| rules.has(*r)) && untolerated(pod, new).is_none())
        || (room && rules.has(Rule::Resources))
        || (old.is_none() && selects(pod, new))
}

fn gives_port(pod: &Pod, gone: &Pod) -> bool {
    let (wants, frees) = (pod.host_ports(), gone.host_ports());
    wants.iter().any(|w| frees.iter().any(|f| f.clashes(w)))
}

fn has_anti_affinity(pod: &Pod) -> bool {
    pod.spec
        .affinity
        .as_deref()
        .is_some_and(|a| a.pod_anti_affinity.is_some())
}

/// A term of the pod's may mean the other; in doubt, it does.
fn touches_affinity(pod: &Pod, other: &Pod) -> bool {
    let Some(a) = pod.spec.affinity.as_deref() else {
        return false;
    };
    a.pod_affinity
        .iter()
        .chain(&a.pod_anti_affinity)
        .flat_map(|p| &p.required)
        .any(|t| {
            t.label_selector
                .as_ref()
                .is_some_and(|s| s.matches(&other.metadata.labels))
        })
}

fn touches_spread(pod: &Pod, other: &Pod) -> bool {
    pod.metadata.namespace == other.metadata.namespace
        && pod.spec.topology_spread_constraints.iter().any(|c| {
            c.label_selector
                .as_ref()
                .is_some_and(|s| s.matches(&other.metadata.labels))
        })
}
