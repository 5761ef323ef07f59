//! The last events, in order, for any number of watchers: cursors pull, nothing is queued per watcher.

use crate::error::Compacted;
use crate::types::{Entry, Revision};
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;

/// One operation as watchers see it.
#[derive(Debug)]
pub struct Event {
    pub revision: Revision,
    pub key: Arc<str>,
    /// None: deleted
    pub value: Option<Bytes>,
    /// state before this event
    pub prev: Option<Entry>,
    /// for a delete: the last state, carrying the delete's revision
    pub last: Option<Bytes>,
    pub create_revision: Revision,
}

impl Event {
    /// Bytes only this event keeps alive: its value is the live one, or the `prev` of a later event.
    fn weight(&self) -> usize {
        self.prev.as_ref().map_or(0, |prev| prev.value.len())
            + match (&self.last, &self.prev) {
                (Some(last), Some(prev)) if last.as_ptr() == prev.value.as_ptr() => 0,
                (Some(last), _) => last.len(),
                (None, _) => 0,
            }
            + self.key.len()
            + size_of::<Event>()
    }
}

struct Events {
    /// Revisions `floor + 1 ..= floor + queue.len()`, without gaps.
    queue: VecDeque<Arc<Event>>,
    floor: Revision,
    bytes: usize,
}

pub(crate) struct Ring {
    events: RwLock<Events>,
    /// The newest revision; cursors wait on it.
    head: watch::Sender<Revision>,
    events_max: usize,
    bytes_max: usize,
}

impl Ring {
    /// An empty ring after `revision`.
    pub(crate) fn new(revision: Revision, events_max: usize, bytes_max: usize) -> Ring {
        Ring {
            events: RwLock::new(Events {
                queue: VecDeque::new(),
                floor: revision,
                bytes: 0,
            }),
            head: watch::Sender::new(revision),
            events_max,
            bytes_max,
        }
    }

    /// Adds the events that follow the newest one, drops the oldest over the bounds, wakes cursors.
    pub(crate) fn push(&self, new: Vec<Arc<Event>>) {
        let Some(head) = new.last().map(|event| event.revision) else {
            return;
        };
        let mut dropped = Vec::new();
        {
            let mut events = self.events.write();
            for event in new {
                debug_assert_eq!(event.revision, events.floor + events.queue.len() as u64 + 1);
                events.bytes += event.weight();
                events.queue.push_back(event);
                while events.queue.len() > self.events_max || events.bytes > self.bytes_max {
                    let Some(old) = events.queue.pop_front() else {
                        break;
                    };
                    events.bytes -= old.weight();
                    events.floor = old.revision;
                    dropped.push(old);
                }
            }
        }
        // freed outside the lock
        drop(dropped);
        self.head.send_replace(head);
    }

    /// (events, bytes, lowest revision that can be watched from)
    pub(crate) fn size(&self) -> (usize, usize, Revision) {
        let events = self.events.read();
        (events.queue.len(), events.bytes, events.floor)
    }

    pub(crate) fn watch(
        self: &Arc<Ring>,
        prefix: &str,
        from: Revision,
    ) -> Result<Cursor, Compacted> {
        let oldest = self.events.read().floor;
        if from < oldest {
            return Err(Compacted {
                asked: from,
                oldest,
            });
        }
        Ok(Cursor {
            ring: self.clone(),
            head: self.head.subscribe(),
            prefix: prefix.into(),
            position: from,
        })
    }

    /// Up to `max` matching events after `from`, and the revision up to which they are complete.
    fn pull(
        &self,
        prefix: &str,
        from: Revision,
        max: usize,
    ) -> Result<(Vec<Arc<Event>>, Revision), Compacted> {
        let events = self.events.read();
        if from < events.floor {
            return Err(Compacted {
                asked: from,
                oldest: events.floor,
            });
        }
        let head = events.floor + events.queue.len() as u64;
        // past the head (a watch from the future): nothing yet, and the position must not go back
        let skip = usize::try_from(from - events.floor)
            .map_or(events.queue.len(), |n| n.min(events.queue.len()));
        let mut found = Vec::new();
        for event in events.queue.range(skip..) {
            if event.key.starts_with(prefix) {
                found.push(event.clone());
                if found.len() == max {
                    return Ok((found, event.revision));
                }
            }
        }
        Ok((found, head.max(from)))
    }
}

/// A pull cursor on the event ring: holds no queue of its own.
pub struct Cursor {
    ring: Arc<Ring>,
    head: watch::Receiver<Revision>,
    prefix: Box<str>,
    position: Revision,
}

impl Cursor {
    /// Waits for at least one matching event and returns at most `max` (at least 1) of them, in order; `Compacted`
    /// when the cursor fell behind the ring. Cancel-safe: a dropped call has consumed nothing.
    /// After the store is closed it waits for ever.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        loop {
            // marked as seen before the look, so that an event between the look and the wait still wakes
            self.head.borrow_and_update();
            let (found, position) = self.ring.pull(&self.prefix, self.position, max.max(1))?;
            self.position = position;
            if !found.is_empty() {
                return Ok(found);
            }
            if self.head.changed().await.is_err() {
                // can't be: the ring we hold owns the sender
                std::future::pending::<()>().await;
            }
        }
    }

    /// Like [`Cursor::next`], without waiting: empty when nothing new matches.
    pub fn pending(&mut self, max: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        let (found, position) = self.ring.pull(&self.prefix, self.position, max.max(1))?;
        self.position = position;
        Ok(found)
    }

    /// All matching events up to and including this revision have been returned (for bookmarks).
    pub fn position(&self) -> Revision {
        self.position
    }
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor")
            .field("prefix", &self.prefix)
            .field("position", &self.position)
            .finish()
    }
}
