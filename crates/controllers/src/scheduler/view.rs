//! What is where: nodes, the pods on them and what these take, kept up to date change by change (`backend/cache`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::objects::{
    meta::Labels,
    node::Node,
    pod::{Pod, Requests},
    requests::HostPort,
};

/// A pod on a node, or about to be.
#[derive(Debug, Clone)]
pub struct Placed {
    /// the pod
    pub pod: Arc<Pod>,
    /// what it takes
    pub requests: Requests,
    /// what it counts for when nodes are compared
    pub weight: Requests,
}

impl Placed {
    /// Sums up a pod.
    pub fn new(pod: Arc<Pod>) -> Placed {
        Placed {
            requests: pod.requests(),
            weight: pod.requests_for_score(),
            pod,
        }
    }
    fn affinity(&self, pick: fn(&crate::objects::affinity::Affinity) -> bool) -> bool {
        self.pod.spec.affinity.as_deref().is_some_and(pick)
    }
    /// Other pods' places matter to it.
    pub fn has_pod_affinity(&self) -> bool {
        self.affinity(|a| a.pod_affinity.is_some() || a.pod_anti_affinity.is_some())
    }
    /// It keeps others away.
    pub fn has_required_anti_affinity(&self) -> bool {
        self.affinity(|a| {
            a.pod_anti_affinity
                .as_ref()
                .is_some_and(|p| !p.required.is_empty())
        })
    }
}

/// A node and what is on it (`framework.NodeInfo`). A copy is cheap enough to try things out on.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// the node; None: pods were seen before it, or after it went
    pub node: Option<Arc<Node>>,
    /// pods by uid
    pub pods: HashMap<Box<str>, Arc<Placed>>,
    /// what they take together
    pub requests: Requests,
    /// what they count for
    pub weight: Requests,
    /// host ports they use
    pub ports: Vec<HostPort>,
    /// how many of them look where others are
    pub with_affinity: usize,
    /// how many of them keep others away
    pub with_anti_affinity: usize,
}

impl Place {
    /// A pod more.
    pub fn add(&mut self, pod: Arc<Placed>) {
        self.requests.add(&pod.requests);
        self.weight.add(&pod.weight);
        self.ports.extend(pod.pod.host_ports());
        self.with_affinity += usize::from(pod.has_pod_affinity());
        self.with_anti_affinity += usize::from(pod.has_required_anti_affinity());
        self.pods.insert(pod.pod.metadata.uid.clone(), pod);
    }
    /// A pod less.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<Placed>> {
        let pod = self.pods.remove(uid)?;
        self.requests.subtract(&pod.requests);
        self.weight.subtract(&pod.weight);
        for port in pod.pod.host_ports() {
            if let Some(i) = self.ports.iter().position(|p| *p == port) {
                self.ports.swap_remove(i);
            }
        }
        self.with_affinity -= usize::from(pod.has_pod_affinity());
        self.with_anti_affinity -= usize::from(pod.has_required_anti_affinity());
        Some(pod)
    }
}

/// All of it.
#[derive(Debug, Default)]
pub struct View {
    /// by name of the node
    pub places: BTreeMap<Box<str>, Place>,
    /// labels of namespaces
    pub namespaces: BTreeMap<Box<str>, Labels>,
    /// where each pod is, by uid; true: it is not seen there yet
    at: HashMap<Box<str>, (Box<str>, bool)>,
}

impl View {
    /// A node came or changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone();
        self.places.entry(name).or_default().node = Some(node);
    }
    /// A node went.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(place) = self.places.get_mut(name) {
            place.node = None;
            if place.pods.is_empty() {
                self.places.remove(name);
            }
        }
    }
    /// A pod is on a node, or changed there.
    pub fn set_pod(&mut self, pod: &Arc<Pod>) {
        self.put(pod, &pod.spec.node_name.clone(), false);
    }
    /// A pod is about to be on a node.
    pub fn assume(&mut self, pod: &Arc<Pod>, node: &str) {
        self.put(pod, node, true);
    }
    fn put(&mut self, pod: &Arc<Pod>, node: &str, assumed: bool) {
        self.remove_pod(&pod.metadata.uid);
        let place = self.places.entry(node.into()).or_default();
        place.add(Arc::new(Placed::new(pod.clone())));
        self.at
            .insert(pod.metadata.uid.clone(), (node.into(), assumed));
    }
    /// A pod went, ended, or isn't about to be there any more.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<Placed>> {
        let (node, _) = self.at.remove(uid)?;
        let place = self.places.get_mut(&node)?;
        let pod = place.remove(uid);
        if place.pods.is_empty() && place.node.is_none() {
            self.places.remove(&node);
        }
        pod
    }
    /// It is about to be on a node, or there already.
    pub fn is_placed(&self, uid: &str) -> bool {
        self.at.contains_key(uid)
    }
    /// It is about to be on a node.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.at.get(uid).is_some_and(|(_, assumed)| *assumed)
    }
    /// Nodes that there are, with what is on them, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&Arc<Node>, &Place)> {
        self.places
            .values()
            .filter_map(|p| Some((p.node.as_ref()?, p)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sums_follow_pods() {
        let mut view = View::default();
        let pod = |uid: &str, cpu: &str, node: &str| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(json!({"metadata":{"name":uid,"uid":uid},"spec":{"nodeName":node,
                    "affinity":{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"a"}]}},
                    "containers":[{"ports":[{"hostPort":80}],"resources":{"requests":{"cpu":cpu,"x/y":"1"}}}]}}))
                .unwrap(),
            )
        };
        let node: Node = serde_json::from_value(json!({"metadata":{"name":"n"}})).unwrap();
        view.set_pod(&pod("a", "100m", "n"));
        view.set_node(Arc::new(node));
        view.assume(&pod("b", "200m", ""), "n");
        assert!(view.is_assumed("b"));
        // seen there, and larger
        view.set_pod(&pod("b", "300m", "n"));
        assert!(view.is_placed("b") && !view.is_assumed("b"));
        let place = &view.places["n"];
        assert_eq!((place.requests.cpu_milli, place.pods.len()), (400, 2));
        assert_eq!((place.ports.len(), place.with_anti_affinity), (2, 2));
        view.remove_pod("a");
        view.remove_pod("a");
        view.remove_node("n");
        assert_eq!(view.nodes().count(), 0);
        view.remove_pod("b");
        assert!(view.places.is_empty() && view.at.is_empty());
    }
}
