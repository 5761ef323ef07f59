//! Frames of watch events, encoded once for all who watch: whoever comes first writes the frame, the others share its bytes.
//!
//! Watchers wake together, so that the newest frames are enough. One who lags behind them encodes for itself again.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    negotiate::{Form, Media},
    registry::Handle,
    table::Include,
};

/// Frames kept: what a watcher takes of the ring at once.
const FRAMES_MAX: usize = 256;
/// Bytes of frames kept.
const BYTES_MAX: usize = 512 << 10;

/// What a frame is the frame of. A revision is one event of one object.
#[derive(Clone)]
pub struct Key {
    /// Of the event.
    pub revision: u64,
    /// As which the object is shown; held, so that no other comes to have its address.
    pub resource: Handle,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub kind: &'static str,
    /// The encoding.
    pub media: Media,
    /// The form.
    pub form: Form,
    /// Of a Table: what comes with its row, and whether the columns do.
    pub rows: Option<(Include, bool)>,
}

impl Key {
    fn is(&self, other: &Key) -> bool {
        self.revision == other.revision
            && std::ptr::eq(&*self.resource, &*other.resource)
            && self.kind == other.kind
            && self.media == other.media
            && self.form == other.form
            && self.rows == other.rows
    }
}

/// None: can't be encoded.
type Cell = Arc<OnceLock<Option<Bytes>>>;

struct Frame {
    key: Key,
    cell: Cell,
    counted_bytes: usize,
}

#[derive(Default)]
struct Kept {
    /// Oldest first.
    frames: VecDeque<Frame>,
    /// Of the frames that have been made and counted.
    bytes: usize,
}

/// The newest frames.
#[derive(Default)]
pub struct Frames(Mutex<Kept>);

impl Frames {
    /// The frame of this event: the one that is there, or what `encode` makes, once for all who ask meanwhile.
    pub fn get(&self, key: Key, encode: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
        let cell = self.cell(&key);
        let mut made = 0;
        let frame = cell.get_or_init(|| {
            let frame = encode();
            made = frame.as_ref().map_or(0, Bytes::len);
            frame
        });
        let frame = frame.clone();
        if made > 0 {
            self.count(&cell, made);
        }
        frame
    }

    fn cell(&self, key: &Key) -> Cell {
        let mut kept = self.0.lock();
        if let Some(there) = kept.frames.iter().rev().find(|f| f.key.is(key)) {
            return there.cell.clone();
        }
        if kept.frames.len() >= FRAMES_MAX {
            kept.drop_oldest();
        }
        let cell = Cell::default();
        kept.frames.push_back(Frame {
            key: key.clone(),
            cell: cell.clone(),
            counted_bytes: 0,
        });
        cell
    }

    /// Counts a frame that has been made, if it is still kept.
    fn count(&self, cell: &Cell, bytes: usize) {
        let mut kept = self.0.lock();
        let of_it = |f: &&mut Frame| Arc::ptr_eq(&f.cell, cell);
        let Some(frame) = kept.frames.iter_mut().rev().find(of_it) else {
            return;
        };
        frame.counted_bytes = bytes;
        kept.bytes += bytes;
        while kept.bytes > BYTES_MAX {
            kept.drop_oldest();
        }
    }
}

impl Kept {
    fn drop_oldest(&mut self) {
        let oldest = self.frames.pop_front();
        self.bytes -= oldest.map_or(self.bytes, |f| f.counted_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(revision: u64, kind: &'static str, media: Media) -> Key {
        Key {
            revision,
            resource: Handle::from(&crate::kinds::builtin()[0]),
            kind,
            media,
            form: Form::Plain,
            rows: None,
        }
    }

    #[test]
    fn a_frame_is_made_once_for_each_encoding() {
        let frames = Frames::default();
        let mut made = 0;
        for _ in 0..3 {
            for (revision, kind, media) in [
                (1, "ADDED", Media::Json),
                (1, "ADDED", Media::Protobuf),
                (1, "MODIFIED", Media::Json),
                (2, "ADDED", Media::Json),
            ] {
                let frame = frames.get(key(revision, kind, media), || {
                    made += 1;
                    Some(Bytes::from(format!("{revision} {kind} {media:?}")))
                });
                assert_eq!(frame.unwrap(), format!("{revision} {kind} {media:?}"));
            }
        }
        assert_eq!(made, 4);
    }

    #[test]
    fn many_who_ask_at_once_share_the_bytes() {
        let frames = Frames::default();
        let made = std::sync::atomic::AtomicUsize::new(0);
        let all: Vec<Bytes> = std::thread::scope(|s| {
            let ask = || {
                frames.get(key(7, "ADDED", Media::Json), || {
                    made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    Some(Bytes::from(vec![7; 1000]))
                })
            };
            let threads: Vec<_> = (0..8).map(|_| s.spawn(ask)).collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap().unwrap())
                .collect()
        });
        assert_eq!(made.into_inner(), 1);
        assert!(all.iter().all(|b| b.as_ptr() == all[0].as_ptr()));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let frames = Frames::default();
        for revision in 0..10_000 {
            let size = if revision % 100 == 0 {
                BYTES_MAX + 1
            } else {
                4096
            };
            frames.get(key(revision, "ADDED", Media::Json), || {
                Some(vec![0; size].into())
            });
            let kept = frames.0.lock();
            assert!(kept.frames.len() <= FRAMES_MAX && kept.bytes <= BYTES_MAX);
            let there = kept.frames.iter().filter_map(|f| f.cell.get()?.as_ref());
            assert_eq!(there.map(Bytes::len).sum::<usize>(), kept.bytes);
        }
    }
}
