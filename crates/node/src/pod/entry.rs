//! What others may see of a Pod's task: enough for logs and exec.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::{mailbox::Mailbox, state::Kind};

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

pub(crate) struct Entry {
    pub uid: Box<str>,
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub default_container: Mutex<Option<Box<str>>>,
    pub mailbox: Arc<Mailbox>,
    pub units: Mutex<Vec<UnitView>>,
    /// ports of the node that it has, until it has ended
    pub ports: Mutex<Vec<HostPort>>,
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
