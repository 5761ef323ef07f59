//! What a controller has asked for and its cache hasn't shown yet (`controller.ControllerExpectations`): until it has, no more is asked for, so a stale cache never makes too many pods.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::objects::meta::Key;

/// After this what was expected is given up: an event got lost.
const EXPIRES: Duration = Duration::from_secs(300);

/// Creations (counted) and deletions (by uid) on their way, by owner.
#[derive(Default)]
pub struct Expectations {
    by_owner: Mutex<HashMap<Key, Expected>>,
}

struct Expected {
    creations: i64,
    deletions: HashSet<Box<str>>,
    since: Instant,
}

impl Expectations {
    fn set(&self, owner: &Key, creations: i64, deletions: HashSet<Box<str>>) {
        self.by_owner.lock().insert(
            owner.clone(),
            Expected {
                creations,
                deletions,
                since: Instant::now(),
            },
        );
    }
    /// About to create `n` and delete these uids.
    pub fn expect(&self, owner: &Key, creations: usize, deletions: HashSet<Box<str>>) {
        self.set(owner, creations as i64, deletions);
    }
    /// A creation was seen, or failed.
    pub fn created(&self, owner: &Key) {
        if let Some(e) = self.by_owner.lock().get_mut(owner) {
            e.creations -= 1;
        }
    }
    /// A deletion was seen, or failed.
    pub fn deleted(&self, owner: &Key, uid: &str) {
        if let Some(e) = self.by_owner.lock().get_mut(owner) {
            e.deletions.remove(uid);
        }
    }
    /// All that was asked for has been seen (or given up).
    pub fn met(&self, owner: &Key) -> bool {
        self.by_owner.lock().get(owner).is_none_or(|e| {
            (e.creations <= 0 && e.deletions.is_empty()) || e.since.elapsed() > EXPIRES
        })
    }
    /// The owner is gone.
    pub fn forget(&self, owner: &Key) {
        self.by_owner.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn met_when_all_is_seen() {
        let e = Expectations::default();
        let k = Key::new("n", "a");
        assert!(e.met(&k));
        e.expect(&k, 2, ["x".into()].into());
        e.created(&k);
        e.deleted(&k, "x");
        assert!(!e.met(&k));
        e.deleted(&k, "unrelated");
        assert!(!e.met(&k));
        e.created(&k);
        assert!(e.met(&k));
    }
}
