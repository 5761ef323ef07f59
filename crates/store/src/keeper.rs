//! The store's slow work, off the commit path: snapshots, dropping segments they cover, zero-filling spares.

use crate::segment;
use crate::snapfile;
use crate::state::State;
use crate::store::Shared;
use parking_lot::{Condvar, Mutex};
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What the keeper is asked to do; the latest wish of each kind wins, so there is nothing to queue.
#[derive(Default)]
struct Wishes {
    snapshot: Option<Arc<State>>,
    spare: bool,
    stop: bool,
}

/// The mailbox between writer and keeper.
#[derive(Default)]
pub(crate) struct Keeper {
    wishes: Mutex<Wishes>,
    changed: Condvar,
}

impl Keeper {
    pub(crate) fn want_snapshot(&self, state: Arc<State>) {
        self.wishes.lock().snapshot = Some(state);
        self.changed.notify_one();
    }

    pub(crate) fn want_spare(&self) {
        self.wishes.lock().spare = true;
        self.changed.notify_one();
    }

    /// Ends the thread. A last snapshot is written when `state` is given; one under way otherwise is broken off.
    pub(crate) fn stop(&self, state: Option<Arc<State>>) {
        let mut wishes = self.wishes.lock();
        wishes.snapshot = state;
        wishes.spare = false;
        wishes.stop = true;
        self.changed.notify_one();
    }

    /// A snapshot under way has been overtaken by the end of the store.
    fn is_overtaken(&self) -> bool {
        self.wishes.lock().stop
    }

    /// The thread's body.
    pub(crate) fn run(&self, shared: &Shared) {
        loop {
            let (snapshot, spare, stop) = {
                let mut wishes = self.wishes.lock();
                while wishes.snapshot.is_none() && !wishes.spare && !wishes.stop {
                    self.changed.wait(&mut wishes);
                }
                let snapshot = wishes.snapshot.take();
                (snapshot, std::mem::take(&mut wishes.spare), wishes.stop)
            };
            if spare {
                make_spare(shared);
            }
            if let Some(state) = snapshot {
                let cancelled = || !stop && self.is_overtaken();
                match snapshot_and_trim(shared, &state, cancelled) {
                    Ok(true) => {
                        tracing::debug!(revision = state.revision, "store snapshot written")
                    }
                    Ok(false) => {}
                    // the log still has everything: the next wish tries again
                    Err(error) => {
                        tracing::warn!(%error, "store snapshot failed, the log is kept instead")
                    }
                }
            }
            if stop {
                return;
            }
        }
    }
}

/// Makes the next segment's file, unless there is one.
fn make_spare(shared: &Shared) {
    // on a full disk the writer trims, too, and may put an old segment there: taken into use between our rename and our
    // word that there is a spare, it would leave that word without a file
    let _one_at_a_time = shared.tidying.lock();
    if shared.disk.has_spare.load(Ordering::Acquire) {
        return;
    }
    match segment::make_spare(&shared.disk, shared.options.segment_bytes) {
        Ok(()) => shared.disk.has_spare.store(true, Ordering::Release),
        // the writer makes its own then, or reports that it can't
        Err(error) => tracing::warn!(%error, "no spare log segment could be made"),
    }
}

/// Writes a snapshot and lets go of the segments it covers. `Ok(false)`: there was nothing to do, or it was cancelled.
pub(crate) fn snapshot_and_trim(
    shared: &Shared,
    state: &State,
    cancelled: impl Fn() -> bool,
) -> io::Result<bool> {
    // the writer comes here itself when the disk is full
    let _one_at_a_time = shared.tidying.lock();
    let before = shared.snapshot_revision.load(Ordering::Acquire);
    if state.revision <= before {
        return Ok(false);
    }
    if snapfile::write(&shared.disk, state, shared.sealer(), cancelled)?.is_none() {
        return Ok(false);
    }
    shared
        .snapshot_revision
        .store(state.revision, Ordering::Release);
    if before > 0 {
        fs::remove_file(shared.disk.snapshot_path(before))?;
    }
    loop {
        let old = {
            let mut segments = shared.segments.lock();
            let covered = segments
                .get(1)
                .is_some_and(|next| next.first_revision <= state.revision + 1);
            match covered {
                true => segments.pop_front(),
                false => None,
            }
        };
        let Some(old) = old else {
            return Ok(true);
        };
        let path = shared.disk.segment_path(old.id);
        let reuse = !shared.disk.has_spare.load(Ordering::Acquire)
            && old.bytes == shared.options.segment_bytes;
        if reuse {
            // durable before the file can get a new header: no crash may show that under the old name
            shared
                .disk
                .publish(&path, &shared.disk.path(crate::disk::SPARE))?;
            shared.disk.has_spare.store(true, Ordering::Release);
        } else {
            fs::remove_file(path)?;
        }
    }
}
