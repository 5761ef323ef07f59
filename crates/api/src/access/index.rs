//! The index of roles and bindings, and the graph of what nodes may see, kept up to date from the store's events: whoever
//! asks sees every write that was answered before. Nothing is held before
//! somebody has asked.

use knarr_access::{
    node::Graph,
    rbac::{Kind, Rbac},
};
use knarr_store::{Cursor, Store};

/// Events taken in at once.
const BATCH: usize = 256;

/// Something that is true of the store up to a place in its event ring.
pub struct Follower<T> {
    state: T,
    cursor: Option<Cursor>,
}

impl<T: State> Default for Follower<T> {
    fn default() -> Follower<T> {
        Follower {
            state: T::default(),
            cursor: None,
        }
    }
}

/// What is made of the objects below some prefixes.
pub trait State: Default {
    /// Below which all the objects are.
    const PREFIX: &'static str;
    /// The parts of it that are looked at.
    const PARTS: &'static [&'static str];
    /// Takes an object in, or out.
    fn take(&mut self, key: &str, json: Option<&[u8]>);
}

impl<T: State> Follower<T> {
    /// Takes in what happened, if anybody has asked yet: so that the events don't run away under a flood of writes.
    pub fn keep(&mut self, store: &Store) {
        if self.cursor.is_some() {
            self.current(store);
        }
    }

    /// The state as of now.
    pub fn current(&mut self, store: &Store) -> &T {
        loop {
            let Some(cursor) = &mut self.cursor else {
                self.fill(store);
                return &self.state;
            };
            match cursor.pending(BATCH) {
                Ok(events) if events.is_empty() => return &self.state,
                Ok(events) => {
                    for e in &events {
                        self.state.take(&e.key, e.value.as_deref());
                    }
                }
                // nobody asked for so long that the ring has moved on
                Err(_) => self.cursor = None,
            }
        }
    }

    fn fill(&mut self, store: &Store) {
        let snapshot = store.snapshot();
        self.state = T::default();
        for part in T::PARTS {
            for entry in snapshot.range(part, None) {
                self.state.take(&entry.key, Some(&entry.value));
            }
        }
        // the head can always be watched from; if it moved on in between, the next question fills again
        self.cursor = store.watch(T::PREFIX, snapshot.revision()).ok();
    }
}

const ROLES: &str = "/registry/rbac.authorization.k8s.io/";

impl State for Rbac {
    const PREFIX: &'static str = ROLES;
    const PARTS: &'static [&'static str] = &[ROLES];
    fn take(&mut self, key: &str, json: Option<&[u8]>) {
        if let Some((kind, namespace, name)) = role_place(key) {
            self.apply(kind, namespace, name, json);
        }
    }
}

/// Kind, namespace and name in `/registry/<group>/<plural>/[<namespace>/]<name>`.
fn role_place(key: &str) -> Option<(Kind, &str, &str)> {
    let (plural, rest) = key.strip_prefix(ROLES)?.split_once('/')?;
    let kind = Kind::of(plural)?;
    let (namespace, name) = match kind {
        Kind::Role | Kind::RoleBinding => rest.split_once('/')?,
        Kind::ClusterRole | Kind::ClusterRoleBinding => ("", rest),
    };
    Some((kind, namespace, name))
}

const PODS: &str = "/registry/core/pods/";
const VOLUMES: &str = "/registry/core/persistentvolumes/";
const ATTACHMENTS: &str = "/registry/storage.k8s.io/volumeattachments/";
const SLICES: &str = "/registry/resource.k8s.io/resourceslices/";

impl State for Graph {
    const PREFIX: &'static str = "/registry/";
    const PARTS: &'static [&'static str] = &[PODS, VOLUMES, ATTACHMENTS, SLICES];
    fn take(&mut self, key: &str, json: Option<&[u8]>) {
        if let Some(rest) = key.strip_prefix(PODS) {
            if let Some((namespace, name)) = rest.split_once('/') {
                self.pod(namespace, name, json);
            }
        } else if let Some(name) = key.strip_prefix(VOLUMES) {
            self.volume(name, json);
        } else if let Some(name) = key.strip_prefix(ATTACHMENTS) {
            self.attachment(name, json);
        } else if let Some(name) = key.strip_prefix(SLICES) {
            self.slice(name, json);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let g = "/registry/rbac.authorization.k8s.io";
        let cases = [
            ("/roles/ns/a", Some((Kind::Role, "ns", "a"))),
            (
                "/rolebindings/ns/a:b",
                Some((Kind::RoleBinding, "ns", "a:b")),
            ),
            ("/clusterroles/a", Some((Kind::ClusterRole, "", "a"))),
            (
                "/clusterrolebindings/a",
                Some((Kind::ClusterRoleBinding, "", "a")),
            ),
            ("/others/a", None),
        ];
        for (key, want) in cases {
            assert_eq!(role_place(&format!("{g}{key}")), want, "{key}");
        }
    }
}
