//! A container's processes held where they are, and let go on.
//!
//! On cgroup v2 its freezer does it, unseen by the processes. On v1 containers are in no freezer's hierarchy: there each process is stopped by a signal.

use std::{collections::BTreeSet, fs};

use crate::{
    error::{During, Error},
    runtime::Runtime,
};

/// A process that forks is stopped with its children in a few rounds.
const ROUNDS_MAX: usize = 32;

impl Runtime {
    /// Freezes a running container, or thaws it. Blocking.
    ///
    /// # Errors
    /// [`Error::NotRunning`], or when processes appear faster than they can be stopped.
    pub fn freeze(&self, id: &str, frozen: bool) -> Result<(), Error> {
        let entry = self.inner.entry(id)?;
        if entry.init().is_none() {
            return Err(Error::NotRunning(id.into()));
        }
        let cgroup = self.cgroup(id)?;
        let file = cgroup.join("cgroup.freeze");
        if file.exists() {
            let value = if frozen { "1" } else { "0" };
            return fs::write(&file, value).during(|| format!("writing {}", file.display()));
        }
        let signal = if frozen {
            rustix::process::Signal::STOP
        } else {
            rustix::process::Signal::CONT
        };
        let mut done = BTreeSet::new();
        for _ in 0..ROUNDS_MAX {
            let all: BTreeSet<i32> = self.processes(&cgroup).into_iter().collect();
            let fresh: Vec<i32> = all.difference(&done).copied().collect();
            if fresh.is_empty() {
                return Ok(());
            }
            for pid in fresh {
                done.insert(pid);
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    // one that has ended needs no stopping
                    let _ = rustix::process::kill_process(pid, signal);
                }
            }
        }
        Err(Error::Other(format!(
            "container {id} makes processes faster than they can be stopped"
        )))
    }
}
