//! From what is on disk to a state, an event ring and a segment to go on with.
//!
//! The rule: an incomplete *last* batch was never acknowledged, so it is dropped. Anything else that doesn't fit was
//! acknowledged once, so the store is refused: better no platform than one that forgot something.

use crate::disk::{Disk, SPARE};
use crate::error::OpenError;
use crate::frame::{self, HEADER_BYTES, Header, Logged, SECTOR_BYTES};
use crate::ring::{Event, Ring};
use crate::seal::{Opener, Sealer};
use crate::segment::{self, DATA_START, Segment};
use crate::snapfile;
use crate::state::State;
use crate::types::{Entry, Options};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) ring: Ring,
    /// The segment to append to.
    pub(crate) active: Segment,
    /// All segments that are still needed, the active one last.
    pub(crate) segments: VecDeque<segment::Header>,
    pub(crate) snapshot_revision: u64,
}

/// Reads everything, then tidies up. Changes nothing when it refuses.
pub(crate) fn recover(
    disk: &Disk,
    options: &Options,
    sealer: Option<&dyn Sealer>,
) -> Result<Recovered, OpenError> {
    let mut opener = Opener {
        sealer,
        stale: false,
    };
    let listing = disk.list()?;
    let snapshot_revision = listing.snapshots.last().copied().unwrap_or(0);
    let mut state = match listing.snapshots.last() {
        Some(&revision) => snapfile::read(disk, revision, &mut opener)?,
        None => State::default(),
    };
    let ring = Ring::new(
        snapshot_revision,
        options.ring_events_max,
        options.ring_bytes_max,
    );

    let mut segments = VecDeque::new();
    for &id in &listing.segments {
        segments.push_back(Segment::open(disk, id)?);
    }
    // what the snapshot covers wholly is no longer needed
    let mut covered = Vec::new();
    while segments
        .get(1)
        .is_some_and(|next| next.header.first_revision <= snapshot_revision + 1)
    {
        covered.extend(segments.pop_front().map(|old| old.header));
    }
    match segments.front() {
        Some(first) if first.header.first_revision > snapshot_revision + 1 => {
            let what = format!(
                "the operations {} to {} are missing: neither a snapshot nor an older segment has them",
                snapshot_revision + 1,
                first.header.first_revision - 1
            );
            return Err(OpenError::corrupt(
                disk.segment_path(first.header.id),
                32,
                what,
            ));
        }
        None if !listing.snapshots.is_empty() => {
            let what = "the snapshot has no log segment beside it: all writes after it are missing";
            return Err(OpenError::corrupt(
                disk.snapshot_path(snapshot_revision),
                0,
                what,
            ));
        }
        _ => {}
    }

    let mut last_frame = None;
    let starts: Vec<u64> = segments.iter().map(|s| s.header.first_revision).collect();
    for (i, segment) in segments.iter_mut().enumerate() {
        let replayed = replay(disk, segment, &mut state, &ring, &mut opener)?;
        if let Some(&next_start) = starts.get(i + 1)
            && next_start != replayed.next_revision
        {
            let what = format!(
                "operation {} should be here, the next segment goes on at {next_start}",
                replayed.next_revision
            );
            return Err(OpenError::corrupt(
                disk.segment_path(segment.header.id),
                segment.end,
                what,
            ));
        }
        last_frame = replayed.last_frame;
    }

    // From here on things are changed.
    if opener.stale {
        // neither may become the new segment
        let mut unused = listing.leftovers;
        unused.push(disk.path(SPARE));
        remove(unused);
        let kept = segments.iter().map(|s| &s.header);
        let mut old: Vec<PathBuf> = kept
            .chain(&covered)
            .map(|header| disk.segment_path(header.id))
            .collect();
        let others = listing.snapshots.iter();
        old.extend(
            others
                .filter(|&&revision| revision != state.revision)
                .map(|&revision| disk.snapshot_path(revision)),
        );
        let last = segments.back().map_or(0, |s| s.header.id);
        return rewrite(disk, options, sealer, state, ring, last, old);
    }
    disk.has_spare.store(listing.spare, Relaxed);
    let active = match segments.pop_back() {
        Some(active) => {
            reverify(disk, &active, last_frame)?;
            active
        }
        None => Segment::create(disk, 1, 1, options.segment_bytes).map_err(OpenError::io(
            "create the first log segment in",
            &options.dir,
        ))?,
    };
    let mut kept: VecDeque<_> = segments.iter().map(|s| s.header).collect();
    kept.push_back(active.header);
    let mut obsolete = listing.leftovers;
    obsolete.extend(covered.iter().map(|old| disk.segment_path(old.id)));
    obsolete.extend(
        listing
            .snapshots
            .iter()
            .filter(|&&revision| revision != snapshot_revision)
            .map(|&revision| disk.snapshot_path(revision)),
    );
    remove(obsolete);
    Ok(Recovered {
        state,
        ring,
        active,
        segments: kept,
        snapshot_revision,
    })
}

/// Writes everything anew: a snapshot, and a segment to go on with; then what was there is removed.
///
/// A crash between the two leaves segments that the snapshot covers, which the next open knows.
fn rewrite(
    disk: &Disk,
    options: &Options,
    sealer: Option<&dyn Sealer>,
    state: State,
    ring: Ring,
    last_segment: u64,
    old: Vec<PathBuf>,
) -> Result<Recovered, OpenError> {
    let failed = || OpenError::io("write the sealed state to", &options.dir);
    snapfile::write(disk, &state, sealer, || false).map_err(failed())?;
    disk.has_spare.store(false, Relaxed);
    let active = Segment::create(
        disk,
        last_segment + 1,
        state.revision + 1,
        options.segment_bytes,
    )
    .map_err(failed())?;
    remove(old);
    tracing::info!("the store's values have been sealed anew");
    Ok(Recovered {
        snapshot_revision: state.revision,
        state,
        ring,
        segments: VecDeque::from([active.header]),
        active,
    })
}

fn remove(paths: Vec<PathBuf>) {
    for path in paths {
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            // costs space, not correctness: the next open tries again
            tracing::warn!(path = %path.display(), %error, "old store file not removed");
        }
    }
}

struct Replayed {
    next_revision: u64,
    /// Offset and size of the last intact frame.
    last_frame: Option<(u64, u64)>,
}

/// Applies a segment's frames to the state and finds its end.
fn replay(
    disk: &Disk,
    segment: &mut Segment,
    state: &mut State,
    ring: &Ring,
    opener: &mut Opener<'_>,
) -> Result<Replayed, OpenError> {
    let path = disk.segment_path(segment.header.id);
    let failed = || OpenError::io("read", &path);
    let salt = segment.header.salt;
    let mut input = BufReader::with_capacity(128 << 10, &segment.file);
    input.seek(SeekFrom::Start(DATA_START)).map_err(failed())?;
    let mut next_revision = segment.header.first_revision;
    let mut last_frame = None;
    let mut payload = Vec::new();
    loop {
        let mut header_bytes = [0; HEADER_BYTES];
        if !fill(&mut input, &mut header_bytes).map_err(failed())? {
            break;
        }
        let Some(header) = Header::decode(&header_bytes, salt) else {
            break;
        };
        let frame_bytes = header.frame_bytes();
        if header.first_revision != next_revision
            || segment.end + frame_bytes > segment.header.bytes
        {
            // an intact header cannot be a torn one: a frame before it is gone
            let what = format!(
                "operation {next_revision} should be here, operation {} is",
                header.first_revision
            );
            return Err(OpenError::corrupt(&path, segment.end, what));
        }
        payload.resize(header.payload_bytes as usize, 0);
        if !fill(&mut input, &mut payload).map_err(failed())?
            || !header.payload_is_intact(&payload, salt)
        {
            break;
        }
        apply(&payload, header, state, ring, opener).map_err(|what| match what {
            Unfit::Forged(what) => OpenError::corrupt(&path, segment.end, what),
            Unfit::Sealed(what) => OpenError::sealed(&path, what),
        })?;
        let padding = frame_bytes - (HEADER_BYTES + payload.len()) as u64;
        input.seek_relative(padding as i64).map_err(failed())?;
        last_frame = Some((segment.end, frame_bytes));
        segment.end += frame_bytes;
        next_revision += u64::from(header.ops);
    }
    drop(input);
    if let Some(at) =
        find_later_frame(&segment.file, segment.end, salt, next_revision).map_err(failed())?
    {
        let what = format!(
            "operation {next_revision} cannot be read, but an acknowledged one follows it at byte {at}"
        );
        return Err(OpenError::corrupt(path, segment.end, what));
    }
    Ok(Replayed {
        next_revision,
        last_frame,
    })
}

/// Like `read_exact`, with the end of the file (a truncated segment) as a plain `false`.
fn fill(input: &mut impl Read, buf: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buf) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// A frame is written only when all before it are durable. So an intact frame header *behind* an unreadable place
/// shows that the place held acknowledged bytes.
fn find_later_frame(
    file: &File,
    end: u64,
    salt: u64,
    next_revision: u64,
) -> io::Result<Option<u64>> {
    let mut input = BufReader::with_capacity(128 << 10, file);
    let mut at = end + SECTOR_BYTES as u64;
    input.seek(SeekFrom::Start(at))?;
    let mut sector = [0; SECTOR_BYTES];
    while fill(&mut input, &mut sector)? {
        if Header::decode(&sector, salt)
            .is_some_and(|header| header.first_revision >= next_revision)
        {
            return Ok(Some(at));
        }
        at += SECTOR_BYTES as u64;
    }
    Ok(None)
}

/// Applies one intact frame, as far as the snapshot doesn't contain it.
fn apply(
    payload: &[u8],
    header: Header,
    state: &mut State,
    ring: &Ring,
    opener: &mut Opener<'_>,
) -> Result<(), Unfit> {
    let mut events = Vec::new();
    let mut ops = 0;
    for (op, revision) in frame::decode_ops(payload).zip(header.first_revision..) {
        let op = op.map_err(Unfit::Forged)?;
        if revision > state.revision {
            events.push(Arc::new(apply_op(&op, revision, state, opener)?));
        } else {
            opener.look(&op);
        }
        ops += 1;
    }
    if ops != header.ops {
        return Err(Unfit::Forged(format!(
            "the frame has {ops} operations, its header says {}",
            header.ops
        )));
    }
    ring.push(events);
    Ok(())
}

/// Why an intact frame can't be applied.
enum Unfit {
    Forged(String),
    Sealed(String),
}

fn apply_op(
    op: &Logged<'_>,
    revision: u64,
    state: &mut State,
    opener: &mut Opener<'_>,
) -> Result<Event, Unfit> {
    let event = match *op {
        Logged::Put { key, value } => {
            let value = opener.open(key, value).map_err(Unfit::Sealed)?;
            put(state, key.into(), value, revision)
        }
        Logged::Delete { key, last } => {
            let last = last.map(|last| opener.open(key, last)).transpose();
            delete(state, key, last.map_err(Unfit::Sealed)?, revision).ok_or_else(|| {
                Unfit::Forged(format!(
                    "operation {revision} deletes a key that is not there"
                ))
            })?
        }
    };
    Ok(event)
}

/// The effect of a put on the state; also the writer's.
pub(crate) fn put(state: &mut State, key: Arc<str>, value: Bytes, revision: u64) -> Event {
    let (key, create_revision) = match state.get(&key) {
        // one key string for as long as the key lives
        Some(old) => (old.key.clone(), old.create_revision),
        None => (key, revision),
    };
    let prev = state.insert(Arc::new(Entry {
        key: key.clone(),
        value: value.clone(),
        create_revision,
        mod_revision: revision,
    }));
    state.revision = revision;
    Event {
        revision,
        key,
        value: Some(value),
        prev: prev.map(Arc::unwrap_or_clone),
        last: None,
        create_revision,
    }
}

/// The effect of a delete on the state; also the writer's. `None`: nothing to delete.
pub(crate) fn delete(
    state: &mut State,
    key: &str,
    last: Option<Bytes>,
    revision: u64,
) -> Option<Event> {
    let prev = Arc::unwrap_or_clone(state.remove(key)?);
    state.revision = revision;
    Some(Event {
        revision,
        key: prev.key.clone(),
        value: None,
        last: Some(last.unwrap_or_else(|| prev.value.clone())),
        create_revision: prev.create_revision,
        prev: Some(prev),
    })
}

/// Makes sure that what has been read is on disk, not only in the page cache: a process killed (or failed) between
/// write and sync leaves its last frame there, maybe even marked clean. Only the last frame can be in that case.
fn reverify(
    disk: &Disk,
    active: &Segment,
    last_frame: Option<(u64, u64)>,
) -> Result<(), OpenError> {
    let path = disk.segment_path(active.header.id);
    let again = || -> io::Result<()> {
        let bytes = active.file.metadata()?.len();
        if bytes < active.header.bytes {
            segment::fill_with_zeros(&active.file, bytes, active.header.bytes)?;
        }
        if let Some((at, frame_bytes)) = last_frame {
            let mut frame = vec![0; frame_bytes as usize];
            active.file.read_exact_at(&mut frame, at)?;
            active.file.write_all_at(&frame, at)?;
        }
        active.file.sync_data()?;
        disk.sync_dir()
    };
    again().map_err(OpenError::io("make durable", path))
}
