//! What others may see of a Pod's task: enough for logs and exec.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::{
    mailbox::Mailbox,
    resize::share::{Lack, Requests, Share, Waiting},
    state::Kind,
};
use crate::{eviction::StorageLimits, probe::checks::Checks, statics::Reflection};

#[derive(Debug, Clone)]
pub(crate) struct UnitView {
    pub name: Box<str>,
    pub kind: Kind,
    /// number of the newest log, if it ever started
    pub attempt: Option<u32>,
    /// number of the log of the container that ended before
    pub previous: Option<u32>,
    /// the runtime's id while it runs
    pub running: Option<Box<str>>,
    /// why it doesn't run
    pub waiting: Option<Box<str>>,
}

/// A container, what it was asked, and the result.
pub(crate) type Probed = (Box<str>, &'static str, &'static str);

pub(crate) struct Entry {
    pub uid: Box<str>,
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub default_container: Mutex<Option<Box<str>>>,
    pub mailbox: Arc<Mailbox>,
    pub units: Mutex<Vec<UnitView>>,
    /// how often which probe of which container had which result
    pub probed: Mutex<BTreeMap<Probed, u64>>,
    /// what its container's check said lately, of Docker's containers
    pub checks: Mutex<Checks>,
    /// ports of the node that it has, until it has ended
    pub ports: Mutex<Vec<HostPort>>,
    /// CPU and memory of the node that it has, until it has ended
    pub share: Mutex<Share>,
    /// its class of quality of service is Burstable
    pub burstable: bool,
    /// the API has a mirror of it, for it is a static Pod
    pub mirror: Option<Reflection>,
    /// on what it writes to the node's disk
    pub storage: Option<Box<StorageLimits>>,
}

/// A port of the node that a container wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// None: all addresses
    address: Option<Box<str>>,
    protocol: Box<str>,
    port: i32,
}

impl HostPort {
    /// Those of a Pod's containers.
    pub(crate) fn of(pod: &Pod) -> Vec<HostPort> {
        let containers = pod.spec.iter().flat_map(|s| &s.containers);
        let ports = containers.flat_map(|c| c.ports.iter().flatten());
        ports
            .filter_map(|p| {
                let address = p.host_ip.as_deref();
                Some(HostPort {
                    address: address
                        .filter(|a| !matches!(*a, "" | "0.0.0.0" | "::"))
                        .map(Into::into),
                    protocol: p.protocol.as_deref().unwrap_or("TCP").into(),
                    port: p.host_port.filter(|p| *p > 0)?,
                })
            })
            .collect()
    }
    fn meets(&self, other: &HostPort) -> bool {
        let everywhere = self.address.is_none() || other.address.is_none();
        self.port == other.port
            && self.protocol == other.protocol
            && (everywhere || self.address == other.address)
    }
}

/// All Pods of the node, by uid; a name can stand for two for a moment (one force-deleted, one new).
#[derive(Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<HashMap<Box<str>, Arc<Entry>>>>);

impl Registry {
    pub(crate) fn insert(&self, entry: Arc<Entry>) {
        self.0.lock().insert(entry.uid.clone(), entry);
    }
    /// Gives a Pod the ports of the node that it wants; false when another has one of them.
    pub(crate) fn take_ports(&self, entry: &Entry, wanted: Vec<HostPort>) -> bool {
        if wanted.is_empty() {
            return true;
        }
        let map = self.0.lock();
        let free = map.values().filter(|e| e.uid != entry.uid).all(|e| {
            let taken = e.ports.lock();
            !wanted.iter().any(|w| taken.iter().any(|t| t.meets(w)))
        });
        if free {
            *entry.ports.lock() = wanted;
        }
        free
    }
    /// Gives a Pod its part of the node's CPU and memory; one that runs already has it in any case.
    pub(crate) fn admit(
        &self,
        entry: &Entry,
        wanted: Requests,
        capacity: Requests,
        runs: bool,
    ) -> Result<(), Lack> {
        let map = self.0.lock();
        let lack = wanted.lacks(used(&map, &entry.uid), capacity);
        match lack.filter(|_| !runs) {
            Some(lack) => Err(lack),
            None => {
                entry.share.lock().has = Some(wanted);
                Ok(())
            }
        }
    }
    /// Gives a Pod what it is to have instead; else it waits and is told by mail when there may be room.
    pub(crate) fn resize(
        &self,
        entry: &Entry,
        waiting: Waiting,
        capacity: Requests,
    ) -> Result<(), Lack> {
        let map = self.0.lock();
        let before = entry.share.lock().has;
        if let Some(lack) = waiting.wanted.lacks(used(&map, &entry.uid), capacity) {
            entry.share.lock().waiting = Some(waiting);
            return Err(lack);
        }
        let mut share = entry.share.lock();
        share.has = Some(waiting.wanted);
        share.waiting = None;
        drop(share);
        if before != Some(waiting.wanted) {
            wake_next(&map, capacity);
        }
        Ok(())
    }
    /// A Pod has ended: what it had is free.
    pub(crate) fn leave(&self, entry: &Entry, capacity: Requests) {
        let mut share = entry.share.lock();
        share.waiting = None;
        if share.has.take().is_some() {
            drop(share);
            wake_next(&self.0.lock(), capacity);
        }
    }
    pub(crate) fn get(&self, uid: &str) -> Option<Arc<Entry>> {
        self.0.lock().get(uid).cloned()
    }
    pub(crate) fn remove(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
    /// The Pod of this name that isn't gone from the API, if there is one.
    pub(crate) fn named(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let map = self.0.lock();
        let mut found = map
            .values()
            .filter(|e| &*e.namespace == namespace && &*e.name == name);
        let first = found.next()?.clone();
        // Of two, the one whose object is still in the API is the one meant.
        let other = found.find(|e| !e.mailbox.is_gone()).cloned();
        Some(if first.mailbox.is_gone() {
            other.unwrap_or(first)
        } else {
            first
        })
    }
    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        self.0.lock().values().cloned().collect()
    }
}

type Map = HashMap<Box<str>, Arc<Entry>>;

/// What all Pods but one have. Those that the API no longer has don't count, as for the scheduler.
fn used(map: &Map, but: &str) -> Requests {
    let mut sum = Requests::default();
    for entry in map
        .values()
        .filter(|e| &*e.uid != but && !e.mailbox.is_gone())
    {
        if let Some(has) = entry.share.lock().has {
            sum.add(has);
        }
    }
    sum
}

/// Tells the first of the Pods that wait, in the order of their rank, that fits now. What it takes may leave room for
/// another: its own call wakes that one.
fn wake_next(map: &Map, capacity: Requests) {
    let mut waiting: Vec<_> = map
        .values()
        .filter_map(|entry| {
            let share = entry.share.lock();
            let waiting = share.waiting.as_ref()?;
            let rank = waiting.rank(share.has.unwrap_or_default());
            Some((rank, waiting.wanted, entry))
        })
        .collect();
    waiting.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let fits = waiting
        .iter()
        .find(|(_, wanted, e)| wanted.lacks(used(map, &e.uid), capacity).is_none());
    if let Some((.., entry)) = fits {
        entry.mailbox.room_made();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn which_ports_meet() {
        let of = |ports: serde_json::Value| {
            let pod = json!({"spec":{"containers":[{"name":"c","ports":ports}]}});
            HostPort::of(&serde_json::from_value(pod).unwrap())
        };
        assert_eq!(of(json!([{"containerPort":80}])), []);
        let port = |ip: &str, protocol: &str, port: i32| {
            let p = json!([{"containerPort":1,"hostIP":ip,"protocol":protocol,"hostPort":port}]);
            of(p).remove(0)
        };
        for (a, b, want) in [
            (port("", "TCP", 80), port("", "TCP", 80), true),
            (port("", "TCP", 80), port("", "TCP", 81), false),
            (port("", "TCP", 80), port("", "UDP", 80), false),
            (
                port("10.0.0.1", "TCP", 80),
                port("0.0.0.0", "TCP", 80),
                true,
            ),
            (
                port("10.0.0.1", "TCP", 80),
                port("10.0.0.2", "TCP", 80),
                false,
            ),
            (
                port("10.0.0.1", "TCP", 80),
                port("10.0.0.1", "TCP", 80),
                true,
            ),
        ] {
            assert_eq!(a.meets(&b), want, "{a:?} {b:?}");
            assert_eq!(b.meets(&a), want, "{b:?} {a:?}");
        }
    }
}
