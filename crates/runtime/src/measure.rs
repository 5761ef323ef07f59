//! What containers, groups of them and the machine have used.

use std::path::{Path, PathBuf};

use crate::{
    error::Error,
    runtime::Runtime,
    usage::{self, Pressures, Usage},
};

use crate::usage::Place;

impl Runtime {
    /// The cgroup of a container, from the root of its hierarchy.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn cgroup(&self, id: &str) -> Result<PathBuf, Error> {
        let spec = self.inner.entry(id)?.spec();
        Ok(self.group(&spec.cgroup))
    }

    /// The cgroup `path` below the runtime's own, from the root of its hierarchy; empty: the runtime's own, in which all
    /// containers are.
    pub fn group(&self, path: &str) -> PathBuf {
        Path::new("/")
            .join(self.inner.config.cgroup_parent.trim_start_matches('/'))
            .join(path)
    }

    fn place(&self, group: &Path) -> Place {
        Place::of(&self.inner.hierarchies, group)
    }

    /// What a cgroup (as [`Runtime::cgroup`] and [`Runtime::group`] name it, `/` for the machine) has used. Blocking, about
    /// ten small reads of a memory file system.
    ///
    /// # Errors
    /// When there is no such cgroup.
    pub fn usage(&self, group: &Path) -> Result<Usage, Error> {
        self.place(group)
            .read()
            .map_err(|_| Error::NotRunning(group.display().to_string()))
    }

    /// The CPU time alone, in nanoseconds. Blocking, one small read.
    ///
    /// # Errors
    /// When there is no such cgroup.
    pub fn cpu_ns(&self, group: &Path) -> Result<u64, Error> {
        self.place(group)
            .cpu_ns()
            .map_err(|_| Error::NotRunning(group.display().to_string()))
    }

    /// The folder with what a container has written into its own root file system.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn written_dir(&self, id: &str) -> Result<PathBuf, Error> {
        let entry = self.inner.entry(id)?;
        Ok(entry.spec().writable(&entry.dir).join("upper"))
    }

    /// Processes in a cgroup and below it. Blocking.
    pub fn processes(&self, group: &Path) -> Vec<i32> {
        self.place(group).processes()
    }

    /// Pressure on the whole machine. Blocking.
    pub fn machine_pressures(&self) -> Pressures {
        usage::machine_pressures()
    }
}
