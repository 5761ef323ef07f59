//! What the machine has left, and what folders take. Blocking.
//!
//! Source: kubernetes `pkg/kubelet/eviction/helpers.go` (makeSignalObservations). Available memory is the kernel's own estimate (MemAvailable), where upstream takes the capacity less the root cgroup's working set: it also counts what can be had back from the kernel's caches.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use super::{
    decide::{Observation, Observations},
    threshold::Signal,
};
use crate::{context::Context, spec::pod_resources};

/// Files looked at in one folder; a folder with more counts as far as that.
const FILES_MAX: u64 = 200_000;

pub(crate) fn node(context: &Context) -> Observations {
    let mut out = Observations::new();
    let mut put = |signal: Signal, seen: Option<(u64, u64)>| {
        if let Some((available, capacity)) = seen {
            let seen = Observation {
                available,
                capacity,
            };
            out.insert(signal, seen);
        }
    };
    let capacity = context.memory_bytes.max(0).unsigned_abs();
    put(
        Signal::MemoryAvailable,
        mem_available().map(|available| (available, capacity)),
    );
    let pods = context
        .engine
        .group()
        .and_then(|all| context.engine.usage(&all.join(pod_resources::ALL)));
    put(
        Signal::AllocatableMemoryAvailable,
        pods.map(|used| {
            let left = capacity.saturating_sub(used.memory.working_set_bytes);
            (left, capacity)
        }),
    );
    let (bytes, inodes) = room(&context.data_dir);
    put(Signal::NodeFsAvailable, bytes);
    put(Signal::NodeFsInodesFree, inodes);
    let images = context.images.watch_dir();
    let (bytes, inodes) = room(images.as_deref().unwrap_or(&context.data_dir));
    put(Signal::ImageFsAvailable, bytes);
    put(Signal::ImageFsInodesFree, inodes);
    put(Signal::PidAvailable, pids());
    out
}

fn mem_available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

type Seen = Option<(u64, u64)>;

/// (bytes available to anyone, capacity), (inodes free, inodes) of the file system of a folder. One without inodes of its own (btrfs) has none to run out of.
fn room(dir: &Path) -> (Seen, Seen) {
    let Ok(stat) = rustix::fs::statvfs(dir) else {
        return (None, None);
    };
    let inodes = (stat.f_files > 0).then_some((stat.f_ffree, stat.f_files));
    (
        Some((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize)),
        inodes,
    )
}

/// (numbers left, most processes and threads)
fn pids() -> Option<(u64, u64)> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let running: u64 = load
        .split_whitespace()
        .nth(3)?
        .split('/')
        .nth(1)?
        .parse()
        .ok()?;
    Some((most.saturating_sub(running), most))
}

/// What files take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub bytes: u64,
    pub inodes: u64,
}

impl std::ops::AddAssign for Taken {
    fn add_assign(&mut self, more: Taken) {
        self.bytes += more.bytes;
        self.inodes += more.inodes;
    }
}

/// What a folder takes, and all below it on the same file system. What goes while it's looked at counts nothing; symlinks are not followed, hard links count once each.
pub(crate) fn taken(dir: &Path) -> Taken {
    let mut out = Taken::default();
    let Ok(top) = fs::symlink_metadata(dir) else {
        return out;
    };
    out += Taken {
        bytes: top.blocks() * 512,
        inodes: 1,
    };
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.dev() != top.dev() {
                continue;
            }
            out += Taken {
                bytes: metadata.blocks() * 512,
                inodes: 1,
            };
            if out.inodes >= FILES_MAX {
                return out;
            }
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_counted_whole_and_links_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("big"), vec![0; 1 << 20]).unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/f"), vec![1; 64 << 10]).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("a/away")).unwrap();
        let got = taken(dir.path());
        assert_eq!(got.inodes, 5);
        assert!((64 << 10..1 << 20).contains(&got.bytes), "{got:?}");
        assert_eq!(taken(&dir.path().join("absent")), Taken::default());
    }

    #[test]
    fn the_machine_has_something_left() {
        assert!(mem_available().unwrap() > 0);
        let (left, most) = pids().unwrap();
        assert!(left > 0 && left < most);
        let (bytes, _) = room(Path::new("/"));
        assert!(bytes.unwrap().1 > 0);
    }
}
