//! What a controller wrote and its cache hasn't shown yet: until it has, the controller waits, so that it doesn't write the same again.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::objects::meta::{Key, Meta};

/// A write that isn't seen by then is no longer waited for: its object may have gone before it was.
const EXPIRES: Duration = Duration::from_secs(5);

/// Revisions of the last writes, by what was worked on. Bounded by the keys written within [`EXPIRES`] before the last write.
#[derive(Default)]
pub struct Written {
    by_key: Mutex<HashMap<Key, (u64, Instant)>>,
}

impl Written {
    /// This came of a write.
    pub fn note(&self, key: &Key, object: &Meta) {
        let Ok(revision) = object.resource_version.parse::<u64>() else {
            return;
        };
        let now = Instant::now();
        let mut all = self.by_key.lock();
        all.retain(|_, (_, at)| now.duration_since(*at) < EXPIRES);
        let newest = all.get(key).map_or(0, |(r, _)| *r).max(revision);
        all.insert(key.clone(), (newest, now));
    }
    /// How long to wait at most until a cache that has `seen` this revision shows what was written; None when it does. What shows it is an event, which comes sooner.
    pub fn ahead(&self, key: &Key, seen: u64) -> Option<Duration> {
        let mut all = self.by_key.lock();
        let (revision, at) = all.get(key)?;
        let left = EXPIRES.checked_sub(at.elapsed());
        if *revision <= seen || left.is_none() {
            all.remove(key);
            return None;
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_until_it_is_seen() {
        let (w, key, other) = (Written::default(), Key::new("n", "a"), Key::new("n", "b"));
        let meta = |revision: &str| Meta {
            resource_version: revision.into(),
            ..Default::default()
        };
        w.note(&key, &meta("7"));
        w.note(&key, &meta("5"));
        w.note(&other, &meta("opaque"));
        assert!(w.ahead(&key, 6).is_some());
        assert!(w.ahead(&other, 0).is_none());
        assert!(w.ahead(&key, 7).is_none());
        assert!(w.ahead(&key, 6).is_none(), "seen once, it is forgotten");
    }
}
