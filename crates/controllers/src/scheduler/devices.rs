//! A pod's claims of devices: which devices they get on a node (`dynamicresources`).

use std::{collections::HashMap, sync::Arc};

use knarr_devices::{
    Allocation, Claim, Class, Expressions, Failure, Question, Slice, Taken, Target, allocate,
};
use ring::rand::SecureRandom;

use crate::{
    machinery::cache::Cache,
    objects::{
        device::{DeviceClass, ResourceClaim, ResourceSlice},
        node::Node,
        pod::Pod,
    },
    resourceclaim::{Named, claims, named, reserved},
};

use super::verdict::{Refusal, Rule};

/// What most alternatives of a request there may be (`FirstAvailableDeviceRequestMaxSize`).
const ALTERNATIVES_MAX: usize = 8;

/// Where claims, and what they are met with, are looked up.
#[derive(Default)]
pub struct Devices {
    /// claims
    pub claims: Arc<Cache<ResourceClaim>>,
    /// devices
    pub slices: Arc<Cache<ResourceSlice>>,
    /// classes
    pub classes: Arc<Cache<DeviceClass>>,
    /// compiled
    pub expressions: Expressions,
}

/// Devices that a claim gets, before the claim that comes in says so itself.
#[derive(Debug)]
pub struct Granted {
    /// uid of the pod for which they are
    pub pod: Box<str>,
    /// what is being written
    pub allocation: Arc<Allocation>,
    /// the claim's revision with it, once it is written
    pub written: Option<u64>,
}

/// By the claim's uid.
pub type Pending = HashMap<Box<str>, Granted>;

/// A claim that the pod is to be let into.
#[derive(Debug, Clone)]
pub struct Reserve {
    /// the claim
    pub claim: Arc<ResourceClaim>,
    /// what it gets; None: it has devices
    pub allocation: Option<Arc<Allocation>>,
}

/// What is asked of nodes for a pod's claims.
#[derive(Default)]
pub struct Wishes {
    /// claims with devices
    allocated: Vec<Arc<ResourceClaim>>,
    /// claims that get some, and what they are called
    open: Vec<(Arc<ResourceClaim>, String)>,
    /// claims that the pod is let into already
    reserved: Vec<Box<str>>,
    taken: Taken,
    slices: Vec<Arc<ResourceSlice>>,
    classes: HashMap<Box<str>, Arc<DeviceClass>>,
}

/// Why a pod's claims can't be looked at.
pub enum Unready {
    /// the claims aren't there yet
    Waits(String),
    /// no node will do
    Refused(Refusal),
}

fn refused(reason: String) -> Unready {
    Unready::Refused(Refusal::lasting(Rule::Devices, reason))
}

/// The pod's claims, in its order (`foreachPodResourceClaim`).
fn of_pod(pod: &Pod, devices: &Devices) -> Result<Vec<Arc<ResourceClaim>>, Unready> {
    let meta = &pod.metadata;
    let mut all = Vec::new();
    for wanted in claims(pod) {
        let (name, made) = match named(pod, wanted) {
            Named::Unneeded => continue,
            Named::NotYet => {
                let why = format!("pod \"{}\": ResourceClaim not created yet", meta.key());
                return Err(Unready::Waits(why));
            }
            Named::Is(name, made) => (name, made),
        };
        let Some(claim) = devices.claims.get(&meta.namespace, name) else {
            let why = format!("could not find claim \"{}/{name}\"", meta.namespace);
            return Err(Unready::Waits(why));
        };
        if claim.metadata.deleting() {
            return Err(Unready::Waits(format!(
                "resourceclaim {name:?} is being deleted"
            )));
        }
        if made && !claim.metadata.controlled_by(&meta.uid) {
            return Err(Unready::Waits(format!(
                "ResourceClaim {} was not created for Pod {} (Pod is not owner)",
                claim.metadata.key(),
                meta.key()
            )));
        }
        all.push(claim);
    }
    Ok(all)
}

impl Wishes {
    /// Looks them up.
    ///
    /// # Errors
    /// Why no node will do.
    pub fn new(pod: &Pod, devices: &Devices, pending: &Pending) -> Result<Wishes, Unready> {
        let mut wishes = Wishes::default();
        if claims(pod).is_empty() {
            return Ok(wishes);
        }
        for claim in of_pod(pod, devices)? {
            if reserved(pod, &claim) {
                wishes.reserved.push(claim.metadata.uid.clone());
            }
            if claim.status.allocation.is_some() {
                wishes.allocated.push(claim);
                continue;
            }
            let key = claim.metadata.key().to_string();
            if pending.contains_key(&claim.metadata.uid) {
                return Err(refused(format!(
                    "resource claim {key} is in the process of being allocated"
                )));
            }
            wishes.learn_classes(&claim, devices)?;
            wishes.open.push((claim, key));
        }
        if !wishes.open.is_empty() {
            devices.claims.each(|claim| {
                if let Some(allocation) = &claim.status.allocation {
                    wishes.taken.add(allocation);
                }
            });
            for granted in pending.values() {
                wishes.taken.add(&granted.allocation);
            }
            devices.slices.each(|s| wishes.slices.push(s.clone()));
        }
        Ok(wishes)
    }

    fn learn_classes(&mut self, claim: &ResourceClaim, devices: &Devices) -> Result<(), Unready> {
        for request in &claim.spec.devices.requests {
            let exactly = request.exactly.iter().map(|e| (e, false));
            let others = request.first_available.iter().map(|e| (e, true));
            for (wanted, is_alternative) in exactly.chain(others) {
                let name = &wanted.device_class_name;
                let Some(class) = devices.classes.get("", name) else {
                    let request = match is_alternative {
                        true => format!("{}/{}", request.name, wanted.name),
                        false => request.name.to_string(),
                    };
                    return Err(refused(format!(
                        "request {request}: device class {name} does not exist"
                    )));
                };
                self.classes.insert(name.clone(), class);
            }
        }
        Ok(())
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.allocated.is_empty() && self.open.is_empty()
    }

    /// Of the claims whose devices can't be reached from the node: one that nobody else uses.
    pub fn idle_elsewhere(&self, pod: &Pod, node: &Node) -> Option<Arc<ResourceClaim>> {
        let idle = |claim: &ResourceClaim| {
            let users = &claim.status.reserved_for;
            users.iter().all(|u| u.uid == pod.metadata.uid)
        };
        let mut unreachable = self.allocated.iter().filter(|c| !reaches(c, node));
        unreachable.find(|c| idle(c)).cloned()
    }

    /// What is to be written of the claims when the pod goes to the node.
    ///
    /// # Errors
    /// Why it can't.
    pub fn check(&self, node: &Node, devices: &Devices) -> Result<Vec<Reserve>, Refusal> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let mut plan: Vec<Reserve> = Vec::new();
        let granted = self.grant(node, devices);
        if !self.allocated.iter().all(|claim| reaches(claim, node)) {
            // as upstream: what is wrong with the other claims counts first
            granted?;
            let reason = "resourceclaim not available on the node";
            return Err(Refusal::lasting(Rule::Devices, reason));
        }
        for ((claim, _), allocation) in self.open.iter().zip(granted?) {
            plan.push(Reserve {
                claim: claim.clone(),
                allocation: Some(Arc::new(allocation)),
            });
        }
        for claim in &self.allocated {
            if !self.reserved.contains(&claim.metadata.uid) {
                plan.push(Reserve {
                    claim: claim.clone(),
                    allocation: None,
                });
            }
        }
        Ok(plan)
    }

    fn grant(&self, node: &Node, devices: &Devices) -> Result<Vec<Allocation>, Refusal> {
        if self.open.is_empty() {
            return Ok(Vec::new());
        }
        let claims = self.open.iter().map(|(claim, key)| Claim {
            key,
            spec: &claim.spec,
        });
        let slices = self.slices.iter().map(|s| Slice {
            name: &s.metadata.name,
            spec: &s.spec,
        });
        let answer = allocate(
            &Question {
                node: target(node, &|key| node.metadata.labels.get(key)),
                claims: &claims.collect::<Vec<_>>(),
                slices: &slices.collect::<Vec<_>>(),
                class: &|name| {
                    let class = self.classes.get(name)?;
                    Some(Class {
                        name: &class.metadata.name,
                        spec: &class.spec,
                    })
                },
                taken: &self.taken,
                expressions: &devices.expressions,
            },
            &mut share_id,
        );
        match answer {
            Ok(Some(all)) => Ok(all),
            Ok(None) => Err(Refusal::lasting(
                Rule::Devices,
                "cannot allocate all claims",
            )),
            Err(why @ Failure::InvalidPools) => {
                Err(Refusal::lasting(Rule::Devices, why.to_string()))
            }
            Err(why) => Err(Refusal::broken(
                Rule::Devices,
                "DynamicResources",
                &why.to_string(),
            )),
        }
    }
}

fn target<'a>(node: &'a Node, label: &'a dyn Fn(&str) -> Option<&'a str>) -> Target<'a> {
    Target {
        name: &node.metadata.name,
        label,
    }
}

/// The claim's devices can be used on the node.
fn reaches(claim: &ResourceClaim, node: &Node) -> bool {
    let allocation = claim.status.allocation.as_ref();
    let selector = allocation.and_then(|a| a.node_selector.as_ref());
    selector.is_none_or(|s| s.matches(target(node, &|key| node.metadata.labels.get(key))))
}

/// A name for a part of a device, as a uid.
fn share_id() -> Box<str> {
    let mut bytes = [0_u8; 16];
    if ring::rand::SystemRandom::new().fill(&mut bytes).is_err() {
        tracing::warn!("the system has no random numbers: a part of a device is named with zeros");
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
    .into()
}

/// How much the pod would rather have what it gets on a node: alternatives that come first count more (`computeScore`).
pub fn preference(plan: &[Reserve]) -> i64 {
    let mut score = 0;
    for Reserve { claim, allocation } in plan {
        let Some(allocation) = allocation else {
            continue;
        };
        for request in &claim.spec.devices.requests {
            for (i, wanted) in request.first_available.iter().enumerate() {
                let name = format!("{}/{}", request.name, wanted.name);
                let given = |r: &knarr_devices::AllocationResult| *r.request == *name;
                if allocation.devices.results.iter().any(given) {
                    score += ALTERNATIVES_MAX.saturating_sub(i) as i64;
                }
            }
        }
    }
    score
}
