//! What is on disk, so that any later process finds it: one folder per container and per sandbox.
//!
//! ```text
//! root/lock                       held while a runtime works here
//! root/containers/<id>/spec.json  first file written: a folder without it was never a container
//!                     /shim.json  written by the shim, first thing
//!                     /lock       held by the shim while it lives (or is about to)
//!                     /started.json, exit.json, failed.json
//!                     /rootfs upper work stdin
//! root/sandboxes/<id>/spec.json
//! root/pins/<id>/net ipc uts pid     bind mounts, and the folder shm, in a tmpfs, in a private mount
//! root/trash/…                    on its way out
//! ```

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use rustix::fs::FlockOperation;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A process named for good: a pid alone can be reused.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// clock ticks since boot
    pub(crate) start_time: u64,
    pub(crate) boot: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) process: ProcessId,
    pub(crate) since: SystemTime,
}

pub(crate) const SPEC: &str = "spec.json";
pub(crate) const SHIM: &str = "shim.json";
pub(crate) const STARTED: &str = "started.json";
pub(crate) const EXIT: &str = "exit.json";
pub(crate) const FAILED: &str = "failed.json";
pub(crate) const LOCK: &str = "lock";

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }
    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }
    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }
    pub(crate) fn sandbox(&self, id: &str) -> PathBuf {
        self.sandboxes().join(id)
    }
    pub(crate) fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }
    pub(crate) fn pin(&self, id: &str) -> PathBuf {
        self.pins().join(id)
    }
    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }
}

/// Writes a whole file or leaves what was there. Readers see it after the rename; with `durable` it outlives a power cut once this returns.
pub(crate) fn write<T: Serialize>(
    dir: &Path,
    name: &str,
    value: &T,
    durable: bool,
) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    if durable {
        file.sync_data()?;
    }
    fs::rename(&temporary, dir.join(name))?;
    if durable {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// None: no such file, or one that can't be read as T (a torn write that never was acknowledged).
pub(crate) fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> Option<T> {
    serde_json::from_slice(&fs::read(dir.join(name)).ok()?).ok()
}

/// Takes a file's lock, waiting a little when somebody has it. An error of kind WouldBlock: somebody still does.
pub(crate) fn take_lock(file: &File, patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other.map_err(Into::into),
        }
    }
}
