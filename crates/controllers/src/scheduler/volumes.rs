//! A pod's claims: are they bound, reach the volumes the node, can they be bound or made there (`volumebinding`, `volumerestrictions`, `volumezone`, `nodevolumelimits`).

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    machinery::cache::Cache,
    objects::{
        csi::{CsiDriver, CsiNode, StorageCapacity, VolumeAttachment},
        node::Node,
        pod::Pod,
        volume::{Claim, StorageClass, Volume},
    },
    volume::matching,
};

use super::{
    verdict::{Refusal, Rule},
    view::{Place, Placed, View},
};

/// Annotation on a claim: the node that its first consumer goes to.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotation on a claim: it and its volume know of each other.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const ZONES: [&str; 4] = [
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// Where claims, volumes and their kin are looked up.
#[derive(Clone)]
pub struct Storage {
    /// claims
    pub claims: Arc<Cache<Claim>>,
    /// volumes
    pub volumes: Arc<Cache<Volume>>,
    /// classes
    pub classes: Arc<Cache<StorageClass>>,
    /// drivers on nodes
    pub drivers: Arc<Cache<CsiNode>>,
    /// drivers
    pub all_drivers: Arc<Cache<CsiDriver>>,
    /// room that drivers have
    pub capacities: Arc<Cache<StorageCapacity>>,
    /// volumes on nodes
    pub attachments: Arc<Cache<VolumeAttachment>>,
}

/// The claim has its volume.
pub fn is_bound(claim: &Claim) -> bool {
    !claim.spec.volume_name.is_empty()
        && (&*claim.status.phase == "Bound"
            || claim.metadata.annotations.get(BIND_COMPLETED).is_some())
}

/// The volume can be used on the node.
fn reaches(volume: &Volume, node: &Node) -> bool {
    volume
        .spec
        .node_affinity
        .as_ref()
        .and_then(|a| a.required.as_ref())
        .is_none_or(|s| s.matches(&node.metadata.name, &node.metadata.labels))
}

/// The volume's zone and region are the node's.
fn same_zone(volume: &Volume, node: &Node) -> bool {
    let labels = &node.metadata.labels;
    if ZONES.iter().all(|z| labels.get(z).is_none()) {
        return true;
    }
    ZONES.iter().all(|key| {
        let Some(want) = volume.metadata.labels.get(key) else {
            return true;
        };
        let newer = match *key {
            "failure-domain.beta.kubernetes.io/zone" => ZONES[2],
            "failure-domain.beta.kubernetes.io/region" => ZONES[3],
            other => other,
        };
        let has = labels.get(key).or_else(|| labels.get(newer));
        has.is_some_and(|v| want.split("__").any(|w| w == v))
    })
}

impl Storage {
    /// The driver has room for the claim where the node can use it, or doesn't say how much it has (`hasEnoughCapacity`).
    fn has_room(&self, claim: &Claim, class: &StorageClass, node: &Node) -> bool {
        let says = self
            .all_drivers
            .get("", &class.provisioner)
            .is_some_and(|d| d.spec.storage_capacity == Some(true));
        let bytes = claim.spec.resources.requests.bytes();
        if !says || bytes == 0 {
            return true;
        }
        let mut found = false;
        self.capacities.each(|c| {
            found |= c.storage_class_name == class.metadata.name
                && c.has(bytes)
                && c.node_topology
                    .as_ref()
                    .is_some_and(|t| t.matches(&node.metadata.labels));
        });
        found
    }
}

/// What is to be done for the claims once the node is chosen.
#[derive(Debug, Default, Clone)]
pub struct Plan {
    /// claims that get a volume which is there
    pub bind: Vec<(Arc<Claim>, Arc<Volume>)>,
    /// claims for which one is made
    pub provision: Vec<Arc<Claim>>,
}

impl Plan {
    /// Nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.bind.is_empty() && self.provision.is_empty()
    }
}

/// A pod's claims.
#[derive(Default, Clone)]
pub struct Claims {
    bound: Vec<(Arc<Claim>, Option<Arc<Volume>>)>,
    delayed: Vec<(Arc<Claim>, Arc<StorageClass>)>,
    /// for each class of the delayed: its volumes
    free: HashMap<Box<str>, Vec<Arc<Volume>>>,
    /// claims that one pod alone may use, and how many pods use them
    alone: HashSet<Box<str>>,
    used_by: i64,
    namespace: Box<str>,
}

impl Claims {
    /// Looks them up; Err: why no node will do. `taken` are volumes that other pods' claims are about to get.
    pub fn new(
        pod: &Pod,
        storage: &Storage,
        view: &View,
        taken: &HashSet<Box<str>>,
    ) -> Result<Claims, Refusal> {
        let mut all = Claims {
            namespace: pod.metadata.namespace.clone(),
            ..Default::default()
        };
        let lasting = |reason: String| Refusal::lasting(Rule::VolumeBinding, reason);
        let mut immediate = false;
        for v in &pod.spec.volumes {
            let ephemeral = v.persistent_volume_claim.is_none();
            let name: Cow<str> = match &v.persistent_volume_claim {
                Some(c) => (&*c.claim_name).into(),
                None if v.ephemeral.is_some() => format!("{}-{}", pod.metadata.name, v.name).into(),
                None => continue,
            };
            let Some(claim) = storage.claims.get(&pod.metadata.namespace, &name) else {
                return Err(lasting(if ephemeral {
                    format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                    )
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                }));
            };
            if &*claim.status.phase == "Lost" {
                let volume = &*claim.spec.volume_name;
                return Err(lasting(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                )));
            }
            if claim.metadata.deleting() {
                return Err(lasting(format!(
                    "persistentvolumeclaim {name:?} is being deleted"
                )));
            }
            if ephemeral && !claim.metadata.controlled_by(&pod.metadata.uid) {
                return Err(lasting(format!(
                    "PVC {}/{name} was not created for pod {} (pod is not owner)",
                    pod.metadata.namespace,
                    pod.metadata.key()
                )));
            }
            if claim
                .spec
                .access_modes
                .iter()
                .any(|m| &**m == "ReadWriteOncePod")
            {
                all.alone.insert(claim.metadata.name.clone());
            }
            if is_bound(&claim) {
                let volume = storage.volumes.get("", &claim.spec.volume_name);
                all.bound.push((claim, volume));
                continue;
            }
            let class = claim
                .spec
                .storage_class_name
                .as_deref()
                .filter(|c| !c.is_empty())
                .and_then(|c| storage.classes.get("", c));
            match class {
                Some(c) if c.waits_for_consumer() && claim.spec.volume_name.is_empty() => {
                    all.delayed.push((claim, c));
                }
                _ => immediate = true,
            }
        }
        if immediate {
            return Err(lasting(
                "pod has unbound immediate PersistentVolumeClaims".into(),
            ));
        }
        if !all.alone.is_empty() {
            for (_, place) in view.nodes() {
                for p in place.pods.values() {
                    all.count(p, 1);
                }
            }
        }
        if !all.delayed.is_empty() {
            all.delayed
                .sort_by_key(|(c, _)| c.spec.resources.requests.bytes());
            for (_, class) in &all.delayed {
                all.free.entry(class.metadata.name.clone()).or_default();
            }
            storage.volumes.each(|v| {
                if let Some(of_class) = all.free.get_mut(&v.spec.storage_class_name)
                    && !taken.contains(&v.metadata.name)
                {
                    of_class.push(v.clone());
                }
            });
        }
        Ok(all)
    }

    /// A pod is on a node (1), or isn't any more (-1).
    pub fn count(&mut self, pod: &Placed, n: i64) {
        if !self.alone.is_empty()
            && pod.pod.metadata.namespace == self.namespace
            && pod.pod.claims().any(|c| self.alone.contains(&*c))
        {
            self.used_by += n;
        }
    }

    /// Why the pod's volumes can't be had on the node.
    pub fn check(&self, node: &Node, place: &Place, storage: &Storage) -> Result<Plan, Refusal> {
        if self.used_by > 0 {
            let reason = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
            return Err(Refusal::passing(Rule::VolumeRestrictions, reason));
        }
        self.limits(node, place, storage)?;
        let plan = self.binding(node, storage)?;
        let volumes = self.bound.iter().filter_map(|(_, v)| v.as_deref());
        if !volumes.into_iter().all(|v| same_zone(v, node)) {
            let reason = "node(s) had no available volume zone";
            return Err(Refusal::lasting(Rule::VolumeZone, reason));
        }
        Ok(plan)
    }

    fn binding(&self, node: &Node, storage: &Storage) -> Result<Plan, Refusal> {
        let mut refusal = Refusal {
            rule: Rule::VolumeBinding,
            reasons: vec![],
            resolvable: false,
            broken: false,
        };
        if self
            .bound
            .iter()
            .any(|(_, v)| v.as_ref().is_some_and(|v| !reaches(v, node)))
        {
            let reason = "node(s) didn't match PersistentVolume's node affinity";
            refusal.reasons.push(reason.into());
        }
        let mut plan = Plan::default();
        let (mut found, mut room) = (true, true);
        let mut chosen: HashSet<Box<str>> = HashSet::new();
        for (claim, class) in &self.delayed {
            let annotations = &claim.metadata.annotations;
            if let Some(selected) = annotations.get(SELECTED_NODE) {
                if *selected != *node.metadata.name {
                    found = false;
                    break;
                }
                room &= storage.has_room(claim, class, node);
                plan.provision.push(claim.clone());
                continue;
            }
            let free: Vec<Arc<Volume>> = self
                .free
                .get(&class.metadata.name)
                .into_iter()
                .flatten()
                .filter(|v| !chosen.contains(&v.metadata.name))
                .cloned()
                .collect();
            if let Some(v) = matching::best(claim, &free, Some(node)) {
                chosen.insert(v.metadata.name.clone());
                plan.bind.push((claim.clone(), v));
                continue;
            }
            let labels = &node.metadata.labels;
            let topologies = &class.allowed_topologies;
            found &= !matches!(&*class.provisioner, "" | NO_PROVISIONER)
                && (topologies.is_empty() || topologies.iter().any(|t| t.matches(labels)));
            room &= storage.has_room(claim, class, node);
            plan.provision.push(claim.clone());
        }
        if !found {
            let reason = "node(s) didn't find available persistent volumes to bind";
            refusal.reasons.push(reason.into());
        } else if !room {
            let reason = "node(s) did not have enough free storage";
            refusal.reasons.push(reason.into());
        }
        if self.bound.iter().any(|(_, v)| v.is_none()) {
            let reason =
                "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
            refusal.reasons.push(reason.into());
        }
        if refusal.reasons.is_empty() {
            Ok(plan)
        } else {
            Err(refusal)
        }
    }

    /// No driver is asked for more volumes than it can take.
    fn limits(&self, node: &Node, place: &Place, storage: &Storage) -> Result<(), Refusal> {
        let csi = |v: &Volume| {
            let c = v.spec.csi.as_ref()?;
            Some((c.driver.clone(), c.volume_handle.clone()))
        };
        let mut new: HashSet<(Box<str>, Box<str>)> = self
            .bound
            .iter()
            .filter_map(|(_, v)| csi(v.as_ref()?))
            .collect();
        // those to be made count by the name of their claim
        for (claim, class) in &self.delayed {
            new.insert((
                class.provisioner.clone(),
                claim.metadata.key().to_string().into(),
            ));
        }
        if new.is_empty() {
            return Ok(());
        }
        let Some(limits) = storage.drivers.get("", &node.metadata.name) else {
            return Ok(());
        };
        let limit = |driver: &str| {
            let d = limits.spec.drivers.iter().find(|d| &*d.name == driver)?;
            d.allocatable.as_ref()?.count
        };
        if !new.iter().any(|(driver, _)| limit(driver).is_some()) {
            return Ok(());
        }
        let mut there: HashSet<(Box<str>, Box<str>)> = HashSet::new();
        for p in place.pods.values() {
            for name in p.pod.claims() {
                let volume = storage
                    .claims
                    .get(&p.pod.metadata.namespace, &name)
                    .and_then(|c| storage.volumes.get("", &c.spec.volume_name));
                there.extend(volume.and_then(|v| csi(&v)));
            }
        }
        new.retain(|v| !there.contains(v));
        storage.attachments.each(|a| {
            if a.spec.node_name == node.metadata.name {
                let volume = &a.spec.source.persistent_volume_name;
                let volume = storage.volumes.get("", volume);
                there.extend(volume.and_then(|v| csi(&v)));
            }
        });
        for (driver, _) in &new {
            let of = |set: &HashSet<(Box<str>, Box<str>)>| {
                set.iter().filter(|(d, _)| d == driver).count() as i64
            };
            if limit(driver).is_some_and(|max| of(&there) + of(&new) > max) {
                let reason = "node(s) exceed max volume count";
                return Err(Refusal::passing(Rule::VolumeLimits, reason));
            }
        }
        Ok(())
    }
}
