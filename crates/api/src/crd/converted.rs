//! Events that a conversion webhook has brought into a version: asked for once, for all who watch the version.
//!
//! Watchers wake together and ask for the same events; whoever comes first has them converted in one review, the others
//! wait for it and take what it brought.

use std::{collections::BTreeMap, sync::Arc};

use knarr_store::{Entry, Event};
use tokio::{sync::Mutex, time::Instant};

use crate::{crd, registry::Resource, server::Inner, status::Failure};

/// Events kept: what a watcher takes of the ring at once.
const EVENTS_MAX: usize = 256;
/// Bytes of events kept.
const BYTES_MAX: usize = 512 << 10;

/// The newest events of one version.
#[derive(Default)]
pub struct Converted(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// By revision.
    events: BTreeMap<u64, Arc<Event>>,
    bytes: usize,
    /// When a webhook failed last, and how: those who waited for it fail with it.
    failed: Option<(Instant, Failure)>,
}

fn weight(e: &Event) -> usize {
    let value = e.value.as_ref().map_or(0, bytes::Bytes::len);
    let before = e.prev.as_ref().map_or(0, |p| p.value.len());
    value + before + e.last.as_ref().map_or(0, bytes::Bytes::len)
}

impl Kept {
    fn keep(&mut self, e: Arc<Event>) {
        self.bytes += weight(&e);
        if let Some(old) = self.events.insert(e.revision, e) {
            self.bytes -= weight(&old);
        }
        while self.events.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            let Some((_, oldest)) = self.events.pop_first() else {
                return;
            };
            self.bytes -= weight(&oldest);
        }
    }
}

impl Converted {
    /// These events in the version of the resource, in their order.
    pub async fn events(
        &self,
        inner: &Inner,
        r: &Resource,
        events: Vec<Arc<Event>>,
    ) -> Result<Vec<Arc<Event>>, Failure> {
        let asked = Instant::now();
        let mut kept = self.0.lock().await;
        if let Some((when, failure)) = &kept.failed
            && asked < *when
        {
            return Err(failure.clone());
        }
        let there = |e: &Arc<Event>| kept.events.get(&e.revision).cloned();
        let mut out: Vec<Option<Arc<Event>>> = events.iter().map(there).collect();
        let missing: Vec<Arc<Event>> = events
            .iter()
            .zip(&out)
            .filter(|(_, known)| known.is_none())
            .map(|(e, _)| e.clone())
            .collect();
        if !missing.is_empty() {
            let new = match convert(inner, r, &missing).await {
                Ok(new) => new,
                Err(failure) => {
                    kept.failed = Some((Instant::now(), failure.clone()));
                    return Err(failure);
                }
            };
            let mut new = new.into_iter();
            for place in out.iter_mut().filter(|o| o.is_none()) {
                if let Some(e) = new.next() {
                    kept.keep(e.clone());
                    *place = Some(e);
                }
            }
        }
        Ok(out.into_iter().flatten().collect())
    }
}

/// Asks the webhook, in one review for all.
async fn convert(
    inner: &Inner,
    r: &Resource,
    events: &[Arc<Event>],
) -> Result<Vec<Arc<Event>>, Failure> {
    let mut bytes = Vec::new();
    for e in events {
        bytes.extend(e.value.clone());
        bytes.extend(e.prev.as_ref().map(|p| p.value.clone()));
        bytes.extend(e.last.clone());
    }
    let mut all = crd::bring_all(inner, r, bytes).await?.into_iter();
    let mut out = Vec::with_capacity(events.len());
    for e in events {
        // as many as were given, in their order
        let value = e.value.as_ref().and_then(|_| all.next());
        let prev = e.prev.as_ref().and_then(|p| {
            Some(Entry {
                value: all.next()?,
                ..p.clone()
            })
        });
        let last = e.last.as_ref().and_then(|_| all.next());
        out.push(Arc::new(Event {
            revision: e.revision,
            key: e.key.clone(),
            value,
            prev,
            last,
            create_revision: e.create_revision,
        }));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded() {
        let mut kept = Kept::default();
        for revision in 0..2_000 {
            let size = if revision % 100 == 0 {
                BYTES_MAX + 1
            } else {
                4096
            };
            kept.keep(Arc::new(Event {
                revision,
                key: "k".into(),
                value: Some(vec![0; size].into()),
                prev: None,
                last: None,
                create_revision: revision,
            }));
            let weights: usize = kept.events.values().map(|e| weight(e)).sum();
            assert_eq!(weights, kept.bytes);
            assert!(kept.events.len() <= EVENTS_MAX && kept.bytes <= BYTES_MAX);
        }
    }
}
