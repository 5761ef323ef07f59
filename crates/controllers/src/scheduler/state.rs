//! What the scheduler knows, kept up to date change by change, and whose turn it is.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::time::Instant;

use crate::objects::{
    device::ResourceClaim,
    meta::Labels,
    node::{Namespace, Node},
    pod::Pod,
    policy::Budget,
    selector::Selector,
};

use super::{
    cycle::{self, Decision, Nominated, World},
    devices::{Devices, Granted, Pending as PendingDevices},
    hints::{Happening, helps},
    queue::Pending,
    verdict::Diagnosis,
    view::{Placed, View},
    volumes::Storage,
};

/// Shapes of pods remembered that no node would take.
const HOPELESS_MAX: usize = 16;

/// What the scheduler knows.
#[derive(Default)]
pub struct State {
    /// nodes and what is on them
    pub view: View,
    /// pods that wait
    pub pending: Pending,
    nominated: Nominated,
    nominated_at: HashMap<Box<str>, Box<str>>,
    /// volumes that claims are about to get, and for which pod
    taken: HashMap<Box<str>, Box<str>>,
    /// devices that claims are about to get
    pending_devices: PendingDevices,
    /// pods for which others are being made to go; true: look at it when that's done
    preempting: HashMap<Box<str>, bool>,
    /// pods no node would take since the last change
    hopeless: Vec<(Arc<Pod>, Diagnosis)>,
    /// turns for which nodes were looked at
    #[cfg(test)]
    looked: usize,
}

/// It is scheduled here.
pub fn is_ours(pod: &Pod) -> bool {
    pod.spec.node_name.is_empty()
        && pod.active()
        && matches!(&*pod.spec.scheduler_name, "" | "default-scheduler")
}

/// A change of a waiting pod's that may help it.
fn may_help(old: &Pod, new: &Pod) -> bool {
    old.metadata.labels != new.metadata.labels
        || old.spec.tolerations != new.spec.tolerations
        || old.spec.node_selector != new.spec.node_selector
        || old.spec.affinity != new.spec.affinity
        || old.spec.scheduling_gates != new.spec.scheduling_gates
        || old.requests() != new.requests()
        || old.status.resource_claim_statuses != new.status.resource_claim_statuses
}

/// Nodes answer to both alike (their labels aside).
fn same_shape(a: &Pod, b: &Pod) -> bool {
    let (x, y) = (&a.spec, &b.spec);
    a.metadata.namespace == b.metadata.namespace
        && x.priority == y.priority
        && x.preemption_policy == y.preemption_policy
        && x.node_selector == y.node_selector
        && x.affinity == y.affinity
        && x.tolerations == y.tolerations
        && x.topology_spread_constraints == y.topology_spread_constraints
        && a.claims().next().is_none()
        && b.claims().next().is_none()
        && x.resource_claims.is_none()
        && y.resource_claims.is_none()
        && a.status.nominated_node_name.is_empty()
        && b.status.nominated_node_name.is_empty()
        && a.host_ports() == b.host_ports()
        && a.requests() == b.requests()
}

impl State {
    /// Something happened: what was decided before may be different now.
    pub fn happened(&mut self, what: &Happening) {
        self.hopeless.clear();
        self.pending.happened(|rules, pod| helps(what, rules, pod));
    }
    /// A node came, changed or went.
    pub fn node(&mut self, old: Option<&Arc<Node>>, new: Option<&Arc<Node>>) {
        match (old, new) {
            (_, Some(node)) => {
                self.view.set_node(node.clone());
                let same = old.is_some_and(|o| {
                    o.spec.unschedulable == node.spec.unschedulable
                        && o.spec.taints == node.spec.taints
                        && o.status.allocatable == node.status.allocatable
                        && o.metadata.labels == node.metadata.labels
                });
                if !same {
                    self.happened(&Happening::Node(old.cloned(), node.clone()));
                }
            }
            (Some(node), None) => {
                self.view.remove_node(&node.metadata.name);
                self.happened(&Happening::NodeGone);
            }
            (None, None) => {}
        }
    }
    /// A namespace came, changed or went.
    pub fn namespace(&mut self, old: Option<&Arc<Namespace>>, new: Option<&Arc<Namespace>>) {
        let Some(any) = new.or(old) else { return };
        let name = &any.metadata.name;
        let labels: Option<&Labels> = new.map(|n| &n.metadata.labels);
        if self.view.namespaces.get(name) == labels {
            return;
        }
        match labels {
            Some(l) => drop(self.view.namespaces.insert(name.clone(), l.clone())),
            None => drop(self.view.namespaces.remove(name)),
        }
        self.happened(&Happening::Namespace);
    }
    /// A pod came, changed or went.
    pub fn pod(&mut self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        let Some(pod) = new.or(old) else { return };
        let uid = &*pod.metadata.uid;
        match new {
            Some(pod) if is_ours(pod) => {
                let worth = old.is_none_or(|o| may_help(o, pod));
                self.pending.put(pod, worth);
                let before = old.map_or("", |o| &*o.status.nominated_node_name);
                let now = &*pod.status.nominated_node_name;
                // what isn't said yet isn't forgotten
                if before != now {
                    self.nominate(pod, now);
                }
            }
            Some(pod) if !pod.spec.node_name.is_empty() && !pod.terminal() => {
                self.waits_no_more(uid);
                let there = self.view.is_placed(uid) && !self.view.is_assumed(uid);
                self.view.set_pod(pod);
                let labels = old.is_some_and(|o| o.metadata.labels != pod.metadata.labels);
                let shrank = there && old.is_some_and(|o| o.requests() != pod.requests());
                let deleting =
                    old.is_some_and(|o| !o.metadata.deleting() && pod.metadata.deleting());
                if !there || labels {
                    self.happened(&Happening::PodPlaced(pod.clone()));
                }
                if shrank || deleting {
                    self.happened(&Happening::PodGone(pod.clone()));
                }
            }
            _ => {
                let waited = self.waits_no_more(uid);
                if self.view.remove_pod(uid).is_some() {
                    self.happened(&Happening::PodGone(pod.clone()));
                } else if waited {
                    self.happened(&Happening::Nomination);
                }
            }
        }
    }
    /// True when room was being made for it.
    fn waits_no_more(&mut self, uid: &str) -> bool {
        self.pending.remove(uid);
        self.taken.retain(|_, of| **of != *uid);
        self.forget_nomination(uid)
    }
    fn forget_nomination(&mut self, uid: &str) -> bool {
        let Some(node) = self.nominated_at.remove(uid) else {
            return false;
        };
        if let Some(all) = self.nominated.get_mut(&node) {
            all.retain(|p| *p.pod.metadata.uid != *uid);
            if all.is_empty() {
                self.nominated.remove(&node);
            }
        }
        true
    }
    /// Room is made for the pod on the node; "": nowhere any more.
    pub fn nominate(&mut self, pod: &Arc<Pod>, node: &str) {
        self.hopeless.clear();
        let uid = &pod.metadata.uid;
        let was = self.forget_nomination(uid);
        if !node.is_empty() {
            self.nominated_at.insert(uid.clone(), node.into());
            let placed = Arc::new(Placed::new(pod.clone()));
            self.nominated.entry(node.into()).or_default().push(placed);
        } else if was {
            self.happened(&Happening::Nomination);
        }
    }
    /// Less important pods for which room is being made on the node.
    pub fn less_important(&self, node: &str, than: &Pod) -> Vec<Arc<Pod>> {
        let all = self.nominated.get(node).into_iter().flatten();
        all.filter(|p| p.pod.spec.priority < than.spec.priority)
            .map(|p| p.pod.clone())
            .collect()
    }
    /// The next pod, and what is to be done with it; what is decided counts from now on. The pod is looked at again when [`Pending::park`] or the like says so.
    pub fn turn(
        &mut self,
        storage: &Storage,
        devices: &Devices,
        like: &dyn Fn(&Pod) -> Option<Selector>,
        budgets: &dyn Fn() -> Vec<Arc<Budget>>,
    ) -> Option<(Arc<Pod>, Decision)> {
        loop {
            let pod = self.pending.pop()?;
            let uid = &pod.metadata.uid;
            if let Some(again) = self.preempting.get_mut(uid) {
                *again = true;
                self.pending.park(uid, Default::default());
                continue;
            }
            if self.view.is_placed(uid) {
                // its binding is on the way
                continue;
            }
            let decision = self.decide(&pod, storage, devices, like, budgets);
            match &decision {
                Decision::Bind(node, todo) => {
                    self.hopeless.clear();
                    self.view.assume(&pod, node);
                    for (_, volume) in &todo.volumes.bind {
                        self.taken.insert(volume.metadata.name.clone(), uid.clone());
                    }
                    for reserve in &todo.devices {
                        let Some(allocation) = &reserve.allocation else {
                            continue;
                        };
                        let granted = Granted {
                            pod: uid.clone(),
                            allocation: allocation.clone(),
                            written: None,
                        };
                        let claim = &reserve.claim.metadata.uid;
                        self.pending_devices.insert(claim.clone(), granted);
                    }
                }
                Decision::Preempt(candidate, diagnosis) => {
                    self.nominate(&pod, &candidate.node);
                    self.preempting.insert(uid.clone(), false);
                    self.pending.park(uid, diagnosis.rules);
                }
                Decision::Wait(diagnosis, forget) => {
                    if *forget {
                        self.forget_nomination(uid);
                    }
                    self.pending.park(uid, diagnosis.rules);
                }
            }
            return Some((pod, decision));
        }
    }
    fn decide(
        &mut self,
        pod: &Arc<Pod>,
        storage: &Storage,
        devices: &Devices,
        like: &dyn Fn(&Pod) -> Option<Selector>,
        budgets: &dyn Fn() -> Vec<Arc<Budget>>,
    ) -> Decision {
        let labels_matter = self.view.places.values().any(|p| p.with_anti_affinity > 0)
            || pod.spec.affinity.is_some()
            || !pod.spec.topology_spread_constraints.is_empty();
        let known = self.hopeless.iter().find(|(p, _)| {
            same_shape(p, pod) && (!labels_matter || p.metadata.labels == pod.metadata.labels)
        });
        if let Some((_, diagnosis)) = known {
            return Decision::Wait(diagnosis.clone(), true);
        }
        let taken: HashSet<Box<str>> = self.taken.keys().cloned().collect();
        let world = World {
            view: &self.view,
            storage,
            nominated: &self.nominated,
            taken: &taken,
            devices,
            pending: &self.pending_devices,
            like,
            budgets,
        };
        let decision = cycle::decide(pod, &world);
        #[cfg(test)]
        {
            self.looked += 1;
        }
        if let Decision::Wait(diagnosis, _) = &decision
            && !self.nominated_at.contains_key(&pod.metadata.uid)
        {
            if self.hopeless.len() == HOPELESS_MAX {
                self.hopeless.remove(0);
            }
            self.hopeless.push((pod.clone(), diagnosis.clone()));
        }
        decision
    }
    /// A claim has its devices, as of this revision.
    pub fn allocated(&mut self, claim: &str, revision: &str) {
        if let Some(granted) = self.pending_devices.get_mut(claim) {
            // a revision that is no number is never seen again: the claim that comes in will do
            granted.written = Some(revision.parse().unwrap_or(0));
        }
    }
    /// A claim of devices came, changed or went.
    pub fn device_claim(&mut self, claim: &ResourceClaim, gone: bool) {
        let meta = &claim.metadata;
        let seen = meta.resource_version.parse().unwrap_or(u64::MAX);
        let is_known = |granted: &Granted| granted.written.is_some_and(|at| seen >= at);
        let known = self.pending_devices.get(&meta.uid).is_some_and(is_known);
        if gone || known || claim.status.allocation.is_some() {
            self.pending_devices.remove(&meta.uid);
        }
        self.happened(&Happening::Devices);
    }
    /// The pod didn't get its node.
    pub fn failed(&mut self, pod: &Arc<Pod>) {
        let uid = &pod.metadata.uid;
        self.taken.retain(|_, of| of != uid);
        // what was written stays until it comes in
        let before = self.pending_devices.len();
        self.pending_devices
            .retain(|_, granted| granted.pod != *uid || granted.written.is_some());
        if self.pending_devices.len() < before {
            self.happened(&Happening::Devices);
        }
        if self.view.is_assumed(uid) {
            self.view.remove_pod(uid);
            self.happened(&Happening::PodGone(pod.clone()));
        }
        self.pending.retry(uid);
    }
    /// Those that have to go for it were told.
    pub fn preempted(&mut self, uid: &str, well: bool) {
        let again = self.preempting.remove(uid).unwrap_or(false);
        if again || !well {
            self.pending.now(uid);
        }
    }
    /// When there's something to do, if nothing happens.
    pub fn due(&self) -> Option<Instant> {
        self.pending.due()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(i: usize, node: &str, requests: Value) -> Arc<Pod> {
        let name = format!("p{i}");
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "uid": name, "namespace": "n", "labels": {"index": name}},
                "spec": {"nodeName": node, "containers": [{"resources": {"requests": requests}}]}}))
            .unwrap(),
        )
    }
    fn one_node(cpu: &str) -> State {
        let mut s = State::default();
        let node = json!({"metadata": {"name": "n1"}, "status": {"allocatable": {"cpu": cpu, "pods": "1000"}}});
        s.node(None, Some(&Arc::new(serde_json::from_value(node).unwrap())));
        s
    }
    fn storage() -> Storage {
        Storage {
            claims: Default::default(),
            volumes: Default::default(),
            classes: Default::default(),
            drivers: Default::default(),
            all_drivers: Default::default(),
            capacities: Default::default(),
            attachments: Default::default(),
        }
    }
    /// Takes turns until there is none left: pods bound, and those that wait.
    fn settle(s: &mut State) -> (Vec<Arc<Pod>>, usize) {
        let (mut bound, mut waits) = (vec![], 0);
        while let Some((pod, decision)) =
            s.turn(&storage(), &Devices::default(), &|_| None, &|| vec![])
        {
            match decision {
                Decision::Bind(..) => bound.push(pod),
                _ => waits += 1,
            }
        }
        (bound, waits)
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_that_wait_are_looked_at_once() {
        let mut s = one_node("10");
        let cpu = || json!({"cpu": "1"});
        for i in 0..1000 {
            s.pod(None, Some(&pod(i, "", cpu())));
        }
        let (bound, waits) = settle(&mut s);
        assert_eq!((bound.len(), waits), (10, 990));
        // each that was bound, and one that wasn't
        assert_eq!(s.looked, 11);
        for (i, p) in bound.iter().enumerate() {
            s.pod(Some(p), Some(&pod(i, "n1", cpu())));
        }
        s.looked = 0;
        s.pod(Some(&pod(3, "n1", cpu())), None);
        let (bound, waits) = settle(&mut s);
        assert_eq!((bound.len(), waits, s.looked), (1, 989, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_assumed_and_failed_is_given_back() {
        let mut s = one_node("1");
        for i in 0..2 {
            s.pod(None, Some(&pod(i, "", json!({"cpu": "1"}))));
        }
        let (bound, waits) = settle(&mut s);
        assert_eq!((bound.len(), waits), (1, 1));
        // its binding failed: the other has the room, it waits out a pause
        s.failed(&bound[0]);
        let (next, waits) = settle(&mut s);
        assert_eq!((&*next[0].metadata.name, waits), ("p1", 0));
        assert!(s.due().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_not_looked_at_while_others_are_told_to_go_for_it() {
        let mut s = one_node("1");
        s.pod(None, Some(&pod(0, "n1", json!({"cpu": "1"}))));
        let mut important = (*pod(1, "", json!({"cpu": "1"}))).clone();
        important.spec.priority = 5;
        s.pod(None, Some(&Arc::new(important)));
        let (bound, waits) = settle(&mut s);
        assert_eq!((bound.len(), waits), (0, 1));
        // the victim is gone before its deletion was answered
        s.pod(Some(&pod(0, "n1", json!({}))), None);
        assert_eq!(settle(&mut s).0.len(), 0);
        s.preempted("p1", true);
        assert_eq!(&*settle(&mut s).0[0].metadata.name, "p1");
    }
}
