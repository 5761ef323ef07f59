//! What others may see of a Pod's task: enough for logs and exec.

use std::{collections::HashMap, sync::Arc};

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
}

/// All Pods of the node, by uid; a name can stand for two for a moment (one force-deleted, one new).
#[derive(Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<HashMap<Box<str>, Arc<Entry>>>>);

impl Registry {
    pub(crate) fn insert(&self, entry: Arc<Entry>) {
        self.0.lock().insert(entry.uid.clone(), entry);
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
