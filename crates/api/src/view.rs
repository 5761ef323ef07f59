//! What strategies may look up: one store snapshot.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use knarr_store::Snapshot;
use serde_json::Value;

use crate::{catalog, catalog::Catalog, identity::Identity, registry::Lookup};

/// A consistent view for one request.
pub struct View<'a> {
    /// The state looked at.
    pub snapshot: Snapshot,
    /// Resources known.
    pub catalog: Arc<Catalog>,
    /// Range of Service addresses.
    pub service_cidr: (Ipv4Addr, u8),
    /// Of second addresses.
    pub service_cidr6: Option<(Ipv6Addr, u8)>,
    /// First and last node port.
    pub node_port_range: (u16, u16),
    /// Whose request it is; None for the server's own.
    pub who: Option<&'a Identity>,
}

impl Lookup for View<'_> {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let r = self.catalog.preferred(group, plural)?;
        let entry = self.snapshot.get(&catalog::key(&r, namespace, name))?;
        serde_json::from_slice(&entry.value).ok()
    }
    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Value> {
        let Some(r) = self.catalog.preferred(group, plural) else {
            return vec![];
        };
        let prefix = catalog::prefix(&r, namespace.unwrap_or(""));
        self.snapshot
            .range(&prefix, None)
            .filter_map(|e| serde_json::from_slice(&e.value).ok())
            .collect()
    }
    fn service_cidr(&self) -> (Ipv4Addr, u8) {
        self.service_cidr
    }
    fn service_cidr6(&self) -> Option<(Ipv6Addr, u8)> {
        self.service_cidr6
    }
    fn node_port_range(&self) -> (u16, u16) {
        self.node_port_range
    }
    fn requester(&self) -> Value {
        self.who
            .map_or_else(|| Value::Object(Default::default()), Identity::user_info)
    }
}
