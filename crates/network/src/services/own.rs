//! Whether a Pod asks for what it is itself. Pure.
//!
//! A server that binds its own service's name (`PLAINTEXT://kafka:9092`) needs an address that it has, which a virtual one
//! isn't. So a Service that stands for its containers as a whole (`knarr.dev/ports`, `knarr.dev/dns-names`: those that
//! compose files become, never those of plain manifests) means to each of them its own address first, then its siblings',
//! as all of them are in Docker's answer; there, too, the C library puts the own one first (RFC 6724, rule 9).

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr},
};

use super::view::{Endpoint, View};

/// A Pod of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) address: Ipv4Addr,
    pub(crate) namespace: Box<str>,
    /// Empty when it was there before this process: endpoints know it by now.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) generation: Generation,
}

impl Pod {
    /// One that was there before this process.
    pub(crate) fn at(address: Ipv4Addr) -> Pod {
        Pod {
            address,
            namespace: Box::default(),
            labels: BTreeMap::new(),
            generation: Generation::default(),
        }
    }
}

/// Of what a Pod is one: its ReplicaSet and what makes ReplicaSets, by their names as numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation {
    set: u32,
    line: u32,
}

impl Generation {
    pub(crate) fn of(pod: &str) -> Generation {
        let before = |name: &'_ str| name.rsplit_once('-').map_or(name.len(), |(b, _)| b.len());
        let set = &pod[..before(pod)];
        let line = &set[..before(set)];
        let number = |name: &str| {
            let mut hasher = DefaultHasher::new();
            name.hash(&mut hasher);
            hasher.finish() as u32
        };
        Generation {
            set: number(set),
            line: number(line),
        }
    }

    /// Whether one takes the other's place.
    fn replaces(self, other: Generation) -> bool {
        self.line == other.line && self.set != other.set
    }
}

/// What a Service of `namespace` means to one of its own Pods, in order; None: it isn't one. It may not be among the
/// endpoints yet: what binds does so at once.
pub(crate) fn addresses(view: &View, namespace: &str, asks: &Pod) -> Option<Vec<IpAddr>> {
    let service = &view.service;
    if !service.any_port && service.names.is_empty() {
        return None;
    }
    let own = IpAddr::V4(asks.address);
    let among = view.endpoints().map(|(e, _)| e).find(|e| e.ip == own);
    let selected = !service.selector.is_empty()
        && *namespace == *asks.namespace
        && service
            .selector
            .iter()
            .all(|(key, value)| asks.labels.get(&**key).is_some_and(|v| **v == **value));
    if among.is_none() && !selected {
        return None;
    }
    let generation = among.map_or(asks.generation, |e| e.generation);
    let of = |wanted: &dyn Fn(&Endpoint) -> bool| {
        let all = view.endpoints().map(|(e, _)| e);
        let all = all.filter(|e| e.ip.is_ipv4() && e.ip != own && wanted(e));
        all.map(|e| (e.ip, e.generation)).collect::<BTreeSet<_>>()
    };
    let (ready, starting) = (of(&|e| e.ready), of(&|e| e.starting));
    // In the update of a lone container the other one is no sibling, which many a server would try to bind, too.
    if ready.len() + starting.len() == 1
        && ready
            .iter()
            .chain(&starting)
            .all(|e| e.1.replaces(generation))
    {
        return Some(vec![own]);
    }
    let siblings = match ready.is_empty() {
        true => starting,
        false => ready,
    };
    let siblings = siblings.into_iter().map(|(ip, _)| ip);
    Some(std::iter::once(own).chain(siblings).collect())
}
