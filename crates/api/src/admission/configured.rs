//! What is made of stored configuration, made again only when the configuration has changed.

use std::sync::Arc;

use arc_swap::ArcSwap;
use knarr_store::{Revision, Snapshot};

use crate::server::Inner;

/// Which objects something was made of, and it.
struct Made<T> {
    from: Vec<(Arc<str>, Revision)>,
    what: Arc<T>,
}

/// Something made of all objects below some key prefixes.
pub struct Configured<T> {
    prefixes: &'static [&'static str],
    made: ArcSwap<Made<T>>,
}

impl<T: Default> Configured<T> {
    /// Of the objects below these prefixes.
    pub fn new(prefixes: &'static [&'static str]) -> Configured<T> {
        Configured {
            prefixes,
            made: ArcSwap::from_pointee(Made {
                from: vec![],
                what: Arc::default(),
            }),
        }
    }

    fn is_current(&self, made: &Made<T>, snapshot: &Snapshot) -> bool {
        let mut known = made.from.iter();
        for prefix in self.prefixes {
            for entry in snapshot.range(prefix, None) {
                match known.next() {
                    Some((key, revision))
                        if *revision == entry.mod_revision && *key == entry.key => {}
                    _ => return false,
                }
            }
        }
        known.next().is_none()
    }

    /// The newest, made by `make` from the objects (JSON bytes, in key order) when something has changed. It sees every
    /// write that was answered before.
    pub fn get(&self, inner: &Inner, make: impl FnOnce(&[Vec<serde_json::Value>]) -> T) -> Arc<T> {
        let snapshot = inner.store.snapshot();
        let made = self.made.load();
        if self.is_current(&made, &snapshot) {
            return made.what.clone();
        }
        let mut from = Vec::new();
        let mut objects = Vec::new();
        for prefix in self.prefixes {
            let mut list = Vec::new();
            for entry in snapshot.range(prefix, None) {
                from.push((entry.key.clone(), entry.mod_revision));
                list.extend(serde_json::from_slice(&entry.value).ok());
            }
            objects.push(list);
        }
        let what = Arc::new(make(&objects));
        self.made.store(Arc::new(Made {
            from,
            what: what.clone(),
        }));
        what
    }
}
