//! The store's directory: file names, its lock, durable renames. Also where tests make the disk fail.

use crate::error::OpenError;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub(crate) const SPARE: &str = "spare.seg";
pub(crate) const TMP_SUFFIX: &str = ".tmp";

/// The directory, made when absent.
pub(crate) struct Disk {
    dir: PathBuf,
    handle: File,
    /// `spare.seg` is there and nobody's. While this is true only the writer may touch the file, while it is false
    /// only who holds `Shared::tidying` may.
    pub(crate) has_spare: AtomicBool,
    pub(crate) faults: Faults,
}

/// What is in the directory.
#[derive(Default)]
pub(crate) struct Listing {
    /// ids, ascending
    pub(crate) segments: Vec<u64>,
    /// revisions, ascending
    pub(crate) snapshots: Vec<u64>,
    pub(crate) spare: bool,
    pub(crate) leftovers: Vec<PathBuf>,
}

impl Disk {
    pub(crate) fn open(dir: &Path) -> Result<Disk, OpenError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(OpenError::io("create directory", dir))?;
        let handle = File::open(dir).map_err(OpenError::io("open directory", dir))?;
        Ok(Disk {
            dir: dir.to_owned(),
            handle,
            has_spare: AtomicBool::new(false),
            faults: Faults::default(),
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn segment_path(&self, id: u64) -> PathBuf {
        self.dir.join(format!("wal-{id:020}.seg"))
    }

    pub(crate) fn snapshot_path(&self, revision: u64) -> PathBuf {
        self.dir.join(format!("snap-{revision:020}.snap"))
    }

    pub(crate) fn list(&self) -> Result<Listing, OpenError> {
        let mut listing = Listing::default();
        let failed = || OpenError::io("list directory", &self.dir);
        for item in fs::read_dir(&self.dir).map_err(failed())? {
            let item = item.map_err(failed())?;
            let name = item.file_name();
            let Some(name) = name.to_str() else { continue };
            let number = |prefix: &str, suffix: &str| -> Option<u64> {
                let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
                (digits.len() == 20).then(|| digits.parse().ok()).flatten()
            };
            if let Some(id) = number("wal-", ".seg") {
                listing.segments.push(id);
            } else if let Some(revision) = number("snap-", ".snap") {
                listing.snapshots.push(revision);
            } else if name == SPARE {
                listing.spare = true;
            } else if name.ends_with(TMP_SUFFIX) {
                listing.leftovers.push(item.path());
            }
        }
        listing.segments.sort_unstable();
        listing.snapshots.sort_unstable();
        Ok(listing)
    }

    /// One process at a time. The lock goes with the returned file, also when the process is killed.
    pub(crate) fn lock(&self) -> Result<File, OpenError> {
        let path = self.path("LOCK");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(OpenError::io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                // only to help the reader: an unreadable pid is left out
                let _ = file.read_to_string(&mut pid);
                return Err(OpenError::Locked {
                    dir: self.dir.clone(),
                    pid: pid.trim().parse().ok(),
                });
            }
            Err(error) => return Err(OpenError::io("lock", &path)(error.into())),
        }
        let write_pid = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        if let Err(error) = write_pid(&mut file) {
            // a full disk must not keep the store from being read
            tracing::debug!(%error, "pid not noted in the store's lock file");
        }
        Ok(file)
    }

    /// Makes creations, renames and removals in the directory durable.
    pub(crate) fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    /// Moves a complete, synced file to its final name, durably.
    pub(crate) fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        self.sync_dir()
    }
}

/// Where tests make the disk fail. Without tests there is nothing in it.
#[derive(Default)]
pub(crate) struct Faults {
    #[cfg(test)]
    pub(crate) sync_errno: std::sync::atomic::AtomicI32,
    #[cfg(test)]
    pub(crate) write_errno: std::sync::atomic::AtomicI32,
}

impl Faults {
    pub(crate) fn before_sync(&self) -> io::Result<()> {
        #[cfg(test)]
        fail(&self.sync_errno)?;
        Ok(())
    }

    /// How many bytes of a write get through before it fails.
    pub(crate) fn before_write(&self) -> io::Result<()> {
        #[cfg(test)]
        fail(&self.write_errno)?;
        Ok(())
    }
}

#[cfg(test)]
fn fail(errno: &std::sync::atomic::AtomicI32) -> io::Result<()> {
    match errno.swap(0, std::sync::atomic::Ordering::SeqCst) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
