//! The live keys, in a persistent B-tree: taking a snapshot is cloning one `Arc`.

use crate::types::{Entry, Revision};
use imbl::OrdSet;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

/// An entry ordered by its key alone (bytewise, as `str` is). A pointer wide, so that copying a tree node on write
/// is cheap.
#[derive(Clone)]
pub(crate) struct Keyed(pub(crate) Arc<Entry>);

impl Ord for Keyed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}
impl PartialOrd for Keyed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Keyed {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}
impl Eq for Keyed {}
impl Borrow<str> for Keyed {
    fn borrow(&self) -> &str {
        &self.0.key
    }
}

#[derive(Clone, Default)]
pub(crate) struct State {
    set: OrdSet<Keyed>,
    pub(crate) revision: Revision,
    /// Bytes of all keys and values.
    pub(crate) bytes: u64,
}

impl State {
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.set.get(key).map(|keyed| &keyed.0)
    }

    pub(crate) fn len(&self) -> usize {
        self.set.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.set.iter().map(|keyed| &keyed.0)
    }

    /// Replaces the entry of that key.
    pub(crate) fn insert(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        self.bytes += size(&entry);
        let old = self.set.insert(Keyed(entry));
        self.forget(old)
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Arc<Entry>> {
        let old = self.set.remove(key);
        self.forget(old)
    }

    fn forget(&mut self, old: Option<Keyed>) -> Option<Arc<Entry>> {
        let old = old.map(|keyed| keyed.0);
        self.bytes -= old.as_deref().map_or(0, size);
        old
    }
}

fn size(entry: &Entry) -> u64 {
    (entry.key.len() + entry.value.len()) as u64
}

/// An immutable view of all keys at one revision; O(1) to take and to clone.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) state: Arc<State>,
}

impl Snapshot {
    /// The last operation this view contains; 0 for a store never written to.
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.state.get(key).map(|entry| &**entry)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.state.len()
    }

    pub fn is_empty(&self) -> bool {
        self.state.len() == 0
    }

    /// Entries whose key starts with `prefix`, in bytewise key order, strictly after `after` when given.
    pub fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> Box<dyn Iterator<Item = &'a Entry> + 'a> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        Box::new(
            self.state
                .set
                .range::<_, str>((start, Bound::Unbounded))
                .map(|keyed| &*keyed.0)
                .take_while(move |entry| entry.key.starts_with(prefix)),
        )
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("revision", &self.state.revision)
            .field("keys", &self.state.len())
            .finish()
    }
}
