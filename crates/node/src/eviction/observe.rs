//! What the machine has left. Blocking.
//!
//! Source: kubernetes `pkg/kubelet/eviction/helpers.go` (makeSignalObservations). Available memory is the kernel's own estimate (MemAvailable), where upstream takes the capacity less the root cgroup's working set: it also counts what can be had back from the kernel's caches.

use std::{fs, path::Path};

use super::{
    decide::{Observation, Observations},
    threshold::Signal,
};
use crate::{context::Context, measure::files::Room, spec::pod_resources};

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
    let Some(room) = Room::of(dir) else {
        return (None, None);
    };
    let inodes = (room.inodes > 0).then_some((room.inodes_free, room.inodes));
    (Some((room.available_bytes, room.capacity_bytes)), inodes)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_something_left() {
        assert!(mem_available().unwrap() > 0);
        let (left, most) = pids().unwrap();
        assert!(left > 0 && left < most);
        let (bytes, _) = room(Path::new("/"));
        assert!(bytes.unwrap().1 > 0);
    }
}
