//! What a cgroup has used, read out of its files: v1, hybrid and v2.
//!
//! What a kernel or a hierarchy doesn't count is None or empty, never zero. Names and units follow the kernel's
//! (`Documentation/admin-guide/cgroup-v2.rst`, `cgroup-v1/*.rst`); how v1's and v2's are brought together follows
//! opencontainers/cgroups and cadvisor (`container/libcontainer/handler.go`).

mod parse;
mod v1;
mod v2;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::cgroup::Hierarchies;

/// Point-in-time usage of a cgroup and all below it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    pub cpu: CpuUsage,
    pub memory: MemoryUsage,
    pub pids: PidsUsage,
    /// by block device; empty where the hierarchy of block I/O is missing or nothing was read or written
    pub io: Vec<IoUsage>,
    pub huge_pages: Vec<HugePageUsage>,
    pub pressure: Pressures,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuUsage {
    pub total_ns: u64,
    pub user_ns: u64,
    pub system_ns: u64,
    /// periods of the quota so far, and those in which there was too little of it
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    pub usage_bytes: u64,
    /// usage without the file pages that have not been used for a while
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub cache_bytes: u64,
    pub swap_bytes: u64,
    pub mapped_file_bytes: u64,
    pub kernel_bytes: u64,
    pub active_file_bytes: u64,
    pub inactive_file_bytes: u64,
    pub max_usage_bytes: Option<u64>,
    /// how often a limit was in the way
    pub fail_count: u64,
    /// None: no limit
    pub limit_bytes: Option<u64>,
    pub swap_limit_bytes: Option<u64>,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub oom_kills: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PidsUsage {
    /// tasks: processes and their threads
    pub current: u64,
    /// None: no limit
    pub limit: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoUsage {
    pub major: u64,
    pub minor: u64,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePageUsage {
    /// as the kernel names it, e.g. `2MB`
    pub size: String,
    pub usage_bytes: u64,
    pub max_usage_bytes: u64,
    pub fail_count: u64,
}

/// Pressure stall information by resource; None where the kernel doesn't count it for this cgroup.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pressures {
    pub cpu: Option<Pressure>,
    pub memory: Option<Pressure>,
    pub io: Option<Pressure>,
}

/// Time in which some task, and in which all tasks waited for a resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pressure {
    pub some: Stall,
    pub full: Stall,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stall {
    pub total_us: u64,
    /// share of the last 10, 60 and 300 seconds, in percent
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
}

/// The folders of one cgroup: for each hierarchy on v1, the one on v2.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    v2: bool,
    leaves: Vec<(Vec<String>, PathBuf)>,
    /// where pressure is counted: the v2 tree, of a hybrid one, too
    unified: Option<PathBuf>,
}

impl Place {
    /// The cgroup `path` (from the hierarchies' roots) of this machine.
    pub(crate) fn of(hierarchies: &Hierarchies, path: &Path) -> Place {
        let path = path.strip_prefix("/").unwrap_or(path);
        match hierarchies {
            Hierarchies::V1(all, unified) => {
                let mut leaves: Vec<(Vec<String>, PathBuf)> = all
                    .iter()
                    .map(|h| (h.controllers.clone(), h.mount.join(path)))
                    .collect();
                // not among those that containers must have, but counted where they are
                for more in ["blkio", "hugetlb"] {
                    let known = leaves.iter().any(|(c, _)| c.iter().any(|c| c == more));
                    let mount = Path::new("/sys/fs/cgroup").join(more);
                    if !known && mount.is_dir() {
                        leaves.push((vec![more.into()], mount.join(path)));
                    }
                }
                Place {
                    v2: false,
                    leaves,
                    unified: unified
                        .as_ref()
                        .map(|u| u.mount.join(path))
                        .filter(|p| p.is_dir()),
                }
            }
            Hierarchies::V2(mount) => Place::v2(mount.join(path)),
        }
    }

    fn v2(folder: PathBuf) -> Place {
        Place {
            v2: true,
            leaves: vec![(Vec::new(), folder.clone())],
            unified: Some(folder),
        }
    }

    fn folder(&self, controller: &str) -> Option<&Path> {
        self.leaves
            .iter()
            .find(|(names, _)| self.v2 || names.iter().any(|c| c == controller))
            .map(|(_, path)| path.as_path())
    }

    fn text(&self, controller: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.folder(controller)?.join(file)).ok()
    }

    fn number(&self, controller: &str, file: &str) -> Option<u64> {
        self.text(controller, file)?.trim().parse().ok()
    }

    /// CPU time alone, in nanoseconds: one small file.
    pub(crate) fn cpu_ns(&self) -> io::Result<u64> {
        let found = match self.v2 {
            true => self
                .text("cpu", "cpu.stat")
                .map(|t| parse::keyed(&t).get("usage_usec").saturating_mul(1000)),
            false => self.number("cpuacct", "cpuacct.usage"),
        };
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// All of it. Blocking: about ten small files of a file system in memory.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub(crate) fn read(&self) -> io::Result<Usage> {
        let mut usage = match self.v2 {
            true => v2::read(self)?,
            false => v1::read(self)?,
        };
        usage.pressure = self.pressures();
        Ok(usage)
    }

    fn pressures(&self) -> Pressures {
        let read = |file: &str| {
            let text = fs::read_to_string(self.unified.as_ref()?.join(file)).ok()?;
            parse::pressure(&text)
        };
        Pressures {
            cpu: read("cpu.pressure"),
            memory: read("memory.pressure"),
            io: read("io.pressure"),
        }
    }

    /// Processes in the cgroup and below. Blocking.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        if let Some((_, folder)) = self.leaves.first() {
            below(folder, &mut found);
        }
        found
    }
}

fn below(folder: &Path, found: &mut Vec<i32>) {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    let inside = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in inside {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            below(&entry.path(), found);
        }
    }
}

/// Pressure of the whole machine (`/proc/pressure`).
pub(crate) fn machine_pressures() -> Pressures {
    let read = |name: &str| {
        let text = fs::read_to_string(Path::new("/proc/pressure").join(name)).ok()?;
        parse::pressure(&text)
    };
    Pressures {
        cpu: read("cpu"),
        memory: read("memory"),
        io: read("io"),
    }
}

#[cfg(test)]
mod tests;
