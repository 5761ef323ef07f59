//! One preallocated file of the write-ahead log.
//!
//! Its blocks have been written (with zeros, or by an earlier use of the file) before the first frame goes in, so
//! that making a frame durable needs no filesystem journal commit: neither size nor extents change.

use crate::disk::{Disk, SPARE, TMP_SUFFIX};
use crate::error::OpenError;
use crate::frame::{self, u32_at, u64_at};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Release};

const MAGIC: [u8; 8] = *b"KNARRWAL";
/// Raised whenever an older program could misread what a newer one writes.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// The header has a page of its own; the first frame follows.
pub(crate) const DATA_START: u64 = 4096;
const HEADER_BYTES: usize = 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: u64,
    /// Random; begins every checksum in the segment.
    pub(crate) salt: u64,
    /// The revision of the first operation written here: what came before is complete without this segment.
    pub(crate) first_revision: u64,
    /// Size of the whole file.
    pub(crate) bytes: u64,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.id.to_le_bytes());
        out[24..32].copy_from_slice(&self.salt.to_le_bytes());
        out[32..40].copy_from_slice(&self.first_revision.to_le_bytes());
        out[40..48].copy_from_slice(&self.bytes.to_le_bytes());
        let crc = frame::crc(0, &out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(path: &Path, bytes: &[u8; HEADER_BYTES]) -> Result<Header, OpenError> {
        check_magic_and_version(path, bytes, MAGIC)?;
        let mut zeroed = *bytes;
        zeroed[12..16].fill(0);
        if frame::crc(0, &zeroed) != u32_at(bytes, 12) {
            return Err(OpenError::corrupt(
                path,
                0,
                "the segment header's checksum does not match",
            ));
        }
        Ok(Header {
            id: u64_at(bytes, 16),
            salt: u64_at(bytes, 24),
            first_revision: u64_at(bytes, 32),
            bytes: u64_at(bytes, 40),
        })
    }
}

/// The first 12 bytes of every file of ours: eight of magic, then the format version.
pub(crate) fn check_magic_and_version(
    path: &Path,
    bytes: &[u8],
    magic: [u8; 8],
) -> Result<(), OpenError> {
    if bytes[..8] != magic {
        return Err(OpenError::corrupt(
            path,
            0,
            "this is not a file of the store (wrong magic)",
        ));
    }
    match u32_at(bytes, 8) {
        FORMAT_VERSION => Ok(()),
        0 => Err(OpenError::corrupt(
            path,
            8,
            "format version 0 does not exist",
        )),
        found => Err(OpenError::NewerFormat {
            path: path.to_owned(),
            found,
            supported: FORMAT_VERSION,
        }),
    }
}

pub(crate) struct Segment {
    pub(crate) file: File,
    pub(crate) header: Header,
    /// Where the next frame goes.
    pub(crate) end: u64,
}

impl Segment {
    /// Makes the segment that goes on at `first_revision`: from the spare file if there is one, else from new
    /// blocks. It has its final name only when it is complete. `ENOSPC` leaves nothing behind.
    pub(crate) fn create(
        disk: &Disk,
        id: u64,
        first_revision: u64,
        bytes: u64,
    ) -> io::Result<Segment> {
        let tmp = disk.path(&format!("wal{TMP_SUFFIX}"));
        if disk.has_spare.load(Acquire) {
            // out of the way before the keeper may put the next one there
            let taken = fs::rename(disk.path(SPARE), &tmp);
            disk.has_spare.store(false, Release);
            taken?;
        }
        let file = match File::options().read(true).write(true).open(&tmp) {
            Ok(file) if file.metadata()?.len() == bytes => file,
            _ => new_zeroed(&tmp, bytes)?,
        };
        let header = Header {
            id,
            salt: random(),
            first_revision,
            bytes,
        };
        file.write_all_at(&header.encode(), 0)?;
        disk.faults.before_sync()?;
        file.sync_all()?;
        disk.publish(&tmp, &disk.segment_path(id))?;
        Ok(Segment {
            file,
            header,
            end: DATA_START,
        })
    }

    /// Opens an existing segment; its `end` is still to be found.
    pub(crate) fn open(disk: &Disk, id: u64) -> Result<Segment, OpenError> {
        let path = disk.segment_path(id);
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(OpenError::io("open", &path))?;
        let mut bytes = [0; HEADER_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(OpenError::corrupt(
                    path,
                    0,
                    "the file ends within the segment header",
                ));
            }
            Err(error) => return Err(OpenError::io("read", path)(error)),
        }
        let header = Header::decode(&path, &bytes)?;
        if header.id != id {
            let what = format!("the header is that of segment {}", header.id);
            return Err(OpenError::corrupt(path, 16, what));
        }
        Ok(Segment {
            file,
            header,
            end: DATA_START,
        })
    }

    pub(crate) fn has_room_for(&self, frame_bytes: u64) -> bool {
        self.end + frame_bytes <= self.header.bytes
    }

    /// Writes a finished frame at the end and makes it durable. The end moves on success only.
    pub(crate) fn append(&mut self, disk: &Disk, frame: &[u8]) -> Result<(), AppendError> {
        let written = disk
            .faults
            .before_write()
            .and_then(|()| self.file.write_all_at(frame, self.end));
        if let Err(error) = written {
            // On copy-on-write filesystems even overwriting can run out of space. If the place can be shown to be
            // clean again, no reader will ever see this frame.
            let cleaned = error.kind() == io::ErrorKind::StorageFull
                && self
                    .file
                    .write_all_at(&[0; frame::SECTOR_BYTES], self.end)
                    .and_then(|()| self.file.sync_data())
                    .is_ok();
            return Err(match cleaned {
                true => AppendError::NoSpace(error),
                false => AppendError::Unknown("writing", error),
            });
        }
        // After a failed sync the kernel may call the lost pages clean: nothing may be acknowledged until the log
        // has been read, written and synced again, which is what opening does.
        disk.faults
            .before_sync()
            .and_then(|()| self.file.sync_data())
            .map_err(|error| AppendError::Unknown("syncing", error))?;
        self.end += frame.len() as u64;
        Ok(())
    }
}

pub(crate) enum AppendError {
    /// Nothing was written; it may work later.
    NoSpace(io::Error),
    /// What is on disk is unknown (what we were doing, why it failed).
    Unknown(&'static str, io::Error),
}

/// Makes the file that the next segment will be built from. Slow; for the keeper's thread.
pub(crate) fn make_spare(disk: &Disk, bytes: u64) -> io::Result<()> {
    let tmp = disk.path(&format!("spare{TMP_SUFFIX}"));
    new_zeroed(&tmp, bytes)?;
    disk.publish(&tmp, &disk.path(SPARE))
}

fn new_zeroed(path: &Path, bytes: u64) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let filled = fill_with_zeros(&file, 0, bytes);
    if filled.is_err() {
        // give the space back; the error to report is the first one
        let _ = fs::remove_file(path);
    }
    filled.map(|()| file)
}

/// Allocates and writes `from..to`: `fallocate` alone would leave extents "unwritten", and turning those into written
/// ones is a journal commit per frame.
pub(crate) fn fill_with_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), from, to - from) {
        // filesystems without it: writing zeros allocates as well, only less contiguously
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        other => other?,
    }
    let zeros = [0; 64 << 10];
    let mut at = from;
    while at < to {
        let n = (to - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..n as usize], at)?;
        at += n;
    }
    file.sync_all()
}

/// Random enough to tell one use of a block from another: std keys its hashers from the system's random source.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
