//! Who owns whom: all objects of the API by uid, with the least about each.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::discovery::Resource;
use crate::objects::meta::{Meta, OwnerRef};

/// Finalizer: dependents go first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer: dependents lose their owner.
pub const ORPHAN: &str = "orphan";

/// Uid of an object.
pub type Uid = Arc<str>;

/// One object.
#[derive(Debug, Clone)]
pub struct Node {
    /// its resource; None: known only as someone's owner
    pub resource: Option<Arc<Resource>>,
    /// namespace, "" for none
    pub namespace: Box<str>,
    /// name
    pub name: Box<str>,
    /// owners
    pub owners: Arc<[OwnerRef]>,
    /// it goes away
    pub deleting: bool,
    /// … when its dependents have gone
    pub foreground: bool,
    /// … when its dependents have been let go
    pub orphan: bool,
    /// for one known only as an owner: how it's referred to
    pub referred: Option<Box<OwnerRef>>,
}

impl Node {
    /// The reference, in an object of that namespace, means this one: a uid alone isn't enough.
    pub fn is(&self, owner: &OwnerRef, namespace: &str) -> bool {
        let (group, _) = owner.api_version.rsplit_once('/').unwrap_or(("", ""));
        self.name == owner.name
            && (self.namespace.is_empty() || *self.namespace == *namespace)
            && self
                .resource
                .as_ref()
                .is_some_and(|r| r.kind == owner.kind && *r.group == *group)
    }
}

impl Node {
    /// One known only as an owner is referred to like this.
    fn is_called(&self, owner: &OwnerRef, namespace: &str) -> bool {
        *self.namespace == *namespace
            && self.referred.as_ref().is_some_and(|r| {
                r.name == owner.name && r.kind == owner.kind && r.api_version == owner.api_version
            })
    }
}

/// All objects.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, HashSet<Uid>>,
}

impl Graph {
    /// An object was seen. Returns whom to look at.
    pub fn seen(&mut self, resource: &Arc<Resource>, meta: &Meta) -> Vec<Uid> {
        let uid: Uid = self.intern(&meta.uid);
        let has = |f: &str| meta.finalizers.iter().any(|x| &**x == f);
        let node = Node {
            resource: Some(resource.clone()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            owners: meta.owner_references.as_slice().into(),
            deleting: meta.deleting(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
            referred: None,
        };
        let mut look = vec![];
        let old = self.nodes.get(&uid).cloned();
        let same = old.as_ref().is_some_and(|o| {
            o.resource.is_some()
                && o.owners == node.owners
                && o.deleting == node.deleting
                && o.foreground == node.foreground
                && o.orphan == node.orphan
        });
        if same {
            return look;
        }
        let old_owners = old.as_ref().map_or_else(Vec::new, |o| o.owners.to_vec());
        for owner in &old_owners {
            if !node.owners.iter().any(|n| n.uid == owner.uid) {
                self.leave(&owner.uid, &uid);
            }
            let blocks = |all: &[OwnerRef]| {
                all.iter()
                    .any(|o| o.uid == owner.uid && o.block_owner_deletion)
            };
            // one that waits for us in the foreground may go on
            if blocks(&old_owners) && !blocks(&node.owners) {
                look.push(self.intern(&owner.uid));
            }
        }
        for owner in node.owners.iter() {
            let owner_uid = self.intern(&owner.uid);
            if !self.nodes.contains_key(&owner_uid) {
                // not seen yet, or gone: to be found out
                self.nodes.insert(
                    owner_uid.clone(),
                    Node {
                        resource: None,
                        namespace: meta.namespace.clone(),
                        name: owner.name.clone(),
                        owners: Arc::from([]),
                        deleting: false,
                        foreground: false,
                        orphan: false,
                        referred: Some(Box::new(owner.clone())),
                    },
                );
                look.push(owner_uid.clone());
            }
            self.dependents
                .entry(owner_uid)
                .or_default()
                .insert(uid.clone());
        }
        let work = (node.deleting && (node.foreground || node.orphan))
            || node.owners.iter().any(|o| match self.nodes.get(&*o.uid) {
                Some(n) if n.resource.is_some() => n.deleting || !n.is(o, &node.namespace),
                // One not seen yet is asked for as the first of its dependents calls it; who calls it otherwise asks himself.
                Some(n) => !n.is_called(o, &node.namespace),
                None => true,
            })
            || (old.as_ref().is_some_and(|o| o.owners != node.owners) && !node.owners.is_empty());
        if work {
            look.push(uid.clone());
        }
        if old.as_ref().is_none_or(|o| o.resource.is_none()) {
            // those who waited for it, and mean another
            look.extend(self.dependents(&uid).into_iter().filter(|d| {
                self.nodes.get(d).is_some_and(|d| {
                    d.owners
                        .iter()
                        .any(|o| o.uid == meta.uid && !node.is(o, &d.namespace))
                })
            }));
        }
        self.nodes.insert(uid, node);
        look
    }

    /// Someone known only as an owner isn't there. Returns whom to look at; nothing when it has turned up meanwhile.
    pub fn never_was(&mut self, uid: &str) -> Vec<Uid> {
        match self.nodes.get(uid) {
            Some(n) if n.resource.is_none() => self.gone(uid),
            _ => vec![],
        }
    }
    /// An object is gone. Returns whom to look at: its dependents, and owners that wait for it.
    pub fn gone(&mut self, uid: &str) -> Vec<Uid> {
        let Some(node) = self.nodes.remove(uid) else {
            return vec![];
        };
        let mut look: Vec<Uid> = vec![];
        for owner in node.owners.iter() {
            self.leave(&owner.uid, uid);
            if let Some((key, o)) = self.nodes.get_key_value(&*owner.uid)
                && o.deleting
                && o.foreground
            {
                look.push(key.clone());
            }
        }
        // They stay noted until they leave: one who named the owner rightly still depends on it when another named it wrongly.
        look.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        look
    }

    /// The object, if known.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }
    /// Those that name it as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<Uid> {
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
    /// Dependents that a foreground deletion of it waits for.
    pub fn blocking(&self, uid: &str) -> Vec<Uid> {
        let blocks = |d: &Node| {
            d.owners
                .iter()
                .any(|o| &*o.uid == uid && o.block_owner_deletion)
        };
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .filter(|d| self.nodes.get(*d).is_some_and(blocks))
            .cloned()
            .collect()
    }
    /// One of its dependents waits for its own: they may wait for each other in a circle.
    pub fn may_be_circular(&self, uid: &str) -> bool {
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .filter_map(|d| self.nodes.get(d))
            .any(|d| d.deleting && d.foreground)
    }
    /// Objects of a resource that the predicate rejects are forgotten; returns them.
    pub fn absent(&self, resource: &Resource, mut there: impl FnMut(&str) -> bool) -> Vec<Uid> {
        self.nodes
            .iter()
            .filter(|(uid, n)| n.resource.as_deref() == Some(resource) && !there(uid))
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    fn leave(&mut self, owner: &str, dependent: &str) {
        if let Some(all) = self.dependents.get_mut(owner) {
            all.remove(dependent);
            if all.is_empty() {
                self.dependents.remove(owner);
                // one known only as an owner, of nobody now
                if self.nodes.get(owner).is_some_and(|n| n.resource.is_none()) {
                    self.nodes.remove(owner);
                }
            }
        }
    }
    /// One copy of each uid.
    fn intern(&self, uid: &str) -> Uid {
        match self.nodes.get_key_value(uid) {
            Some((k, _)) => k.clone(),
            None => uid.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource() -> Arc<Resource> {
        Arc::new(Resource {
            group: "".into(),
            version: "v1".into(),
            plural: "things".into(),
            kind: "Thing".into(),
            namespaced: true,
            watchable: true,
            deletable: true,
            collection_deletable: true,
        })
    }
    fn meta(uid: &str, owners: &[(&str, bool)], finalizer: Option<&str>) -> Meta {
        let owners: Vec<_> = owners
            .iter()
            .map(|(u, b)| json!({"apiVersion":"v1","kind":"Thing","name":u,"uid":u,"blockOwnerDeletion":b}))
            .collect();
        serde_json::from_value(
            json!({"name":uid,"uid":uid,"namespace":"n","ownerReferences":owners,
            "finalizers":finalizer.iter().collect::<Vec<_>>(),
            "deletionTimestamp":finalizer.map(|_| "2024-01-01T00:00:00Z")}),
        )
        .unwrap()
    }
    fn show(mut look: Vec<Uid>) -> String {
        look.sort();
        look.iter().map(|u| &**u).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn whom_to_look_at() {
        let r = resource();
        let mut g = Graph::default();
        assert_eq!(show(g.seen(&r, &meta("a", &[], None))), "");
        assert_eq!(show(g.seen(&r, &meta("b", &[("a", true)], None))), "");
        // an owner nobody has seen
        assert_eq!(show(g.seen(&r, &meta("c", &[("x", false)], None))), "x");
        assert!(g.get("x").unwrap().resource.is_none());
        // it turns up
        assert_eq!(show(g.seen(&r, &meta("x", &[], None))), "");
        assert_eq!(show(g.gone("x")), "c");
        // one that calls it otherwise is looked at itself
        assert_eq!(show(g.seen(&r, &meta("d", &[("y", false)], None))), "y");
        assert_eq!(show(g.seen(&r, &meta("e", &[("y", false)], None))), "");
        let mut far = meta("f", &[("y", false)], None);
        far.namespace = "m".into();
        assert_eq!(show(g.seen(&r, &far)), "f");
        // foreground: the owner is looked at, then again when its dependent has gone
        assert_eq!(show(g.seen(&r, &meta("a", &[], Some(FOREGROUND)))), "a");
        assert_eq!(g.blocking("a").len(), 1);
        assert_eq!(show(g.gone("b")), "a");
        assert_eq!(g.blocking("a").len(), 0);
        assert_eq!(show(g.gone("a")), "");
    }

    #[test]
    fn a_dependent_that_no_longer_blocks_frees_its_owner() {
        let r = resource();
        let mut g = Graph::default();
        g.seen(&r, &meta("a", &[], Some(FOREGROUND)));
        g.seen(&r, &meta("b", &[("a", true)], None));
        assert_eq!(show(g.seen(&r, &meta("b", &[("a", false)], None))), "a b");
        assert_eq!(g.blocking("a").len(), 0);
    }

    #[test]
    fn nothing_is_left_behind() {
        let r = resource();
        let mut g = Graph::default();
        for i in 0..10 {
            g.seen(
                &r,
                &meta(&format!("d{i}"), &[("o", true), ("p", false)], None),
            );
        }
        for i in 0..10 {
            g.gone(&format!("d{i}"));
        }
        assert!(g.nodes.is_empty() && g.dependents.is_empty());
    }
}
