//! From policies, Pods and Namespaces to what the kernel shall hold. Pure.
//!
//! A Pod that policies isolate leads to a chain that asks each of them in turn, and drops what none lets through; Pods
//! that the same policies isolate share it. A policy's chain has a jump for each peer of a rule to that rule's ports.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
};

use k8s_openapi::{
    api::networking::v1::{IPBlock, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{
    Block, Desired, Direction, Peer, Port, Rule, Then,
    objects::{Facts, Policy, World},
    selector::matches,
};
use crate::services::view::protocol;

/// A name made of what it stands for, so that the same stays the same.
fn name(prefix: &str, of: impl Hash) -> String {
    // Keys are fixed: the same for every process of the same build.
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    format!("{prefix}-{:016x}", hasher.finish())
}

pub(crate) fn plan(world: &World) -> Desired {
    let mut planner = Planner {
        world,
        desired: Desired::default(),
    };
    for direction in [Direction::Ingress, Direction::Egress] {
        planner.direction(direction);
    }
    planner.desired
}

struct Planner<'a> {
    world: &'a World,
    desired: Desired,
}

/// Does the policy isolate in this direction? (`policyTypes`, and its default)
fn isolates(policy: &Policy, direction: Direction) -> bool {
    let named = match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    };
    match &policy.spec.policy_types {
        Some(types) if !types.is_empty() => types.iter().any(|kind| kind == named),
        _ => direction == Direction::Ingress || policy.spec.egress.is_some(),
    }
}

/// A rule's peers and ports, whichever way it goes.
type Parts<'a> = (
    Option<&'a Vec<NetworkPolicyPeer>>,
    Option<&'a Vec<NetworkPolicyPort>>,
);

fn rules(policy: &Policy, direction: Direction) -> Vec<Parts<'_>> {
    match direction {
        Direction::Ingress => {
            let rules = policy.spec.ingress.iter().flatten();
            rules.map(|r| (r.from.as_ref(), r.ports.as_ref())).collect()
        }
        Direction::Egress => {
            let rules = policy.spec.egress.iter().flatten();
            rules.map(|r| (r.to.as_ref(), r.ports.as_ref())).collect()
        }
    }
}

impl<'a> Planner<'a> {
    fn direction(&mut self, direction: Direction) {
        let world = self.world;
        let policies = world
            .policies
            .iter()
            .filter(|(_, policy)| isolates(policy, direction))
            .collect::<Vec<_>>();
        // Pods by the policies that isolate them.
        let mut isolated = BTreeMap::<Vec<&(String, String)>, Vec<&Facts>>::new();
        for pod in world.pods.values().filter(|pod| pod.here) {
            let by = policies
                .iter()
                .filter(|(_, policy)| selects(policy, pod))
                .map(|(key, _)| *key)
                .collect::<Vec<_>>();
            if !by.is_empty() {
                isolated.entry(by).or_default().push(pod);
            }
        }
        let prefix = match direction {
            Direction::Ingress => "in",
            Direction::Egress => "out",
        };
        let mut done = BTreeSet::new();
        for (by, pods) in isolated {
            let chain = name(prefix, &by);
            let mut steps = Vec::new();
            for key in by {
                let Some(policy) = world.policies.get(key) else {
                    continue;
                };
                let of = name(&format!("{prefix}-policy"), (key, &policy.uid));
                if done.insert(of.clone()) {
                    self.policy(&of, policy, direction);
                }
                steps.push(Rule {
                    direction,
                    peer: Peer::Any,
                    port: Port::Any,
                    then: Then::Jump(of),
                });
            }
            steps.push(Rule {
                direction,
                peer: Peer::Any,
                port: Port::Any,
                then: Then::Drop,
            });
            self.desired.chains.insert(chain.clone(), steps);
            let to = match direction {
                Direction::Ingress => &mut self.desired.ingress,
                Direction::Egress => &mut self.desired.egress,
            };
            for ip in pods.iter().flat_map(|pod| &pod.ips) {
                to.insert(*ip, chain.clone());
            }
        }
    }

    /// The chain of one policy, and those of its rules' ports.
    fn policy(&mut self, chain: &str, policy: &'a Policy, direction: Direction) {
        let mut steps = Vec::new();
        for (at, (peers, ports)) in rules(policy, direction).into_iter().enumerate() {
            let ports = ports.filter(|ports| !ports.is_empty());
            let peers = peers.filter(|peers| !peers.is_empty());
            let then = match ports {
                None => Then::Allow,
                Some(ports) => {
                    let of = format!("{chain}-{at}");
                    let allowed = ports
                        .iter()
                        .filter_map(|port| self.port(&of, policy, peers, port, direction))
                        .map(|port| Rule {
                            direction,
                            peer: Peer::Any,
                            port,
                            then: Then::Allow,
                        })
                        .collect();
                    self.desired.chains.insert(of.clone(), allowed);
                    Then::Jump(of)
                }
            };
            let peers = match peers {
                None => vec![Peer::Any],
                Some(peers) => peers
                    .iter()
                    .filter_map(|peer| self.peer(policy, peer))
                    .collect(),
            };
            steps.extend(peers.into_iter().map(|peer| Rule {
                direction,
                peer,
                port: Port::Any,
                then: then.clone(),
            }));
        }
        self.desired.chains.insert(chain.to_string(), steps);
    }

    fn peer(&mut self, policy: &Policy, peer: &NetworkPolicyPeer) -> Option<Peer> {
        if let Some(block) = &peer.ip_block {
            return ip_block(block);
        }
        let of = name(
            "peers",
            (
                // Without a selector of namespaces: those of the policy's own.
                peer.namespace_selector
                    .as_ref()
                    .map_or_else(|| policy.namespace.clone(), |s| format!("{s:?}")),
                peer.namespace_selector.is_some(),
                format!("{:?}", peer.pod_selector),
            ),
        );
        if let Entry::Vacant(entry) = self.desired.peers.entry(of.clone()) {
            let pods = selected(self.world, policy, peer);
            entry.insert(pods.flat_map(|pod| pod.ips.iter().copied()).collect());
        }
        Some(Peer::Selected(of))
    }

    /// None for a port that is nowhere.
    fn port(
        &mut self,
        chain: &str,
        policy: &Policy,
        peers: Option<&Vec<NetworkPolicyPeer>>,
        port: &NetworkPolicyPort,
        direction: Direction,
    ) -> Option<Port> {
        let number = protocol(port.protocol.as_deref())?;
        let low = match &port.port {
            None => return Some(Port::Protocol(number)),
            Some(IntOrString::Int(low)) => u16::try_from(*low).ok()?,
            Some(IntOrString::String(wanted)) => {
                // The name is that of a port of whoever is sent to.
                let mut pods = Vec::<&Facts>::new();
                match (direction, peers) {
                    (Direction::Ingress, _) => {
                        let all = self.world.pods.values();
                        pods.extend(all.filter(|pod| selects(policy, pod)));
                    }
                    (Direction::Egress, None) => pods.extend(self.world.pods.values()),
                    (Direction::Egress, Some(peers)) => pods.extend(
                        peers
                            .iter()
                            .filter(|peer| peer.ip_block.is_none())
                            .flat_map(|peer| selected(self.world, policy, peer)),
                    ),
                }
                let places = pods.into_iter().flat_map(|pod| {
                    let ports = pod.ports.iter();
                    let ports = ports.filter(|(name, p, _)| name == wanted && *p == number);
                    ports.flat_map(|(_, p, port)| pod.ips.iter().map(move |ip| (*ip, *p, *port)))
                });
                let set = name("named", (chain, wanted, number));
                self.desired.named.insert(set.clone(), places.collect());
                return Some(Port::Named(set));
            }
        };
        let high = port.end_port.and_then(|high| u16::try_from(high).ok());
        Some(Port::Range(number, low, high.unwrap_or(low)))
    }
}

/// Is the policy about this Pod?
fn selects(policy: &Policy, pod: &Facts) -> bool {
    // Left out, it selects all of the namespace's Pods, as the empty one.
    let everything = LabelSelector::default();
    let selector = policy.spec.pod_selector.as_ref().unwrap_or(&everything);
    policy.namespace == pod.namespace && matches(selector, &pod.labels)
}

/// The Pods that a peer stands for.
fn selected<'a>(
    world: &'a World,
    policy: &'a Policy,
    peer: &'a NetworkPolicyPeer,
) -> impl Iterator<Item = &'a Facts> {
    let (namespaces, pods) = (&peer.namespace_selector, &peer.pod_selector);
    world.pods.values().filter(move |pod| {
        let there = match namespaces {
            None => pod.namespace == policy.namespace,
            Some(selector) => world
                .namespaces
                .get(&pod.namespace)
                .is_some_and(|labels| matches(selector, labels)),
        };
        there
            && pods
                .as_ref()
                .is_none_or(|selector| matches(selector, &pod.labels))
    })
}

fn ip_block(block: &IPBlock) -> Option<Peer> {
    let except = block.except.iter().flatten();
    Some(Peer::Block {
        block: parse(&block.cidr)?,
        except: except.filter_map(|cidr| parse(cidr)).collect(),
    })
}

/// `10.0.0.0/8`
fn parse(cidr: &str) -> Option<Block> {
    let (ip, bits) = cidr.split_once('/')?;
    let ip = ip.parse::<IpAddr>().ok()?;
    let bits = bits.parse::<u8>().ok()?;
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    (bits <= whole).then_some((ip, bits))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
