//! Limits that few ask for: CPUs and memory nodes by number, swap, disks.
//!
//! SOURCE: opencontainers/cgroups `fs/{cpuset,memory,blkio}.go`, `fs2/{memory,io}.go`; on v2 what has no file there is refused
//! by those who offer it (see [`super::Hierarchies`]).

use std::{fs, io, path::Path};

use super::{Group, write_to};
use crate::{
    error::Error,
    spec::{IoLimit, Resources},
};

/// Memory and swap together as v2 counts it: swap alone. SOURCE: opencontainers/cgroups ConvertMemorySwapToCgroupV2Value
pub(super) fn swap_alone(memory: Option<i64>, both: Option<i64>) -> Option<String> {
    match (both, memory) {
        (Some(..0), _) => Some("max".into()),
        (Some(both), Some(memory)) if memory > 0 => Some((both - memory).max(0).to_string()),
        _ => None,
    }
}

/// 10 to 1000 as v2's 1 to 10000. SOURCE: opencontainers/cgroups ConvertBlkIOToIOWeightValue
fn io_weight(weight: u64) -> u64 {
    match weight {
        0 => 0,
        w => 1 + w.saturating_sub(10) * 9999 / 990,
    }
}

/// A new v1 cpuset has no CPUs and no memory, and may have what its parent has: from the top down, each gets that.
pub(super) fn inherit_cpuset(path: &Path, depth: usize) -> io::Result<()> {
    let mut folders: Vec<&Path> = path.ancestors().take(depth + 1).collect();
    folders.reverse();
    for pair in folders.windows(2) {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = fs::read_to_string(pair[1].join(file))?;
            if own.trim().is_empty() {
                let above = fs::read_to_string(pair[0].join(file))?;
                write_to(&pair[1].join(file), above.trim())?;
            }
        }
    }
    Ok(())
}

impl Group {
    pub(super) fn limit_more(&self, limits: &Resources) -> Result<(), Error> {
        for (file, list) in [
            ("cpuset.cpus", &limits.cpuset_cpus),
            ("cpuset.mems", &limits.cpuset_mems),
        ] {
            if !list.is_empty() {
                self.write("cpuset", file, list)?;
            }
        }
        if let Some(bytes) = limits.memory_soft_bytes {
            let file = match self.v2 {
                true => "memory.low",
                false => "memory.soft_limit_in_bytes",
            };
            self.write("memory", file, &bytes.to_string())?;
        }
        if !self.v2 {
            if let Some(swappiness) = limits.memory_swappiness {
                self.write("memory", "memory.swappiness", &swappiness.to_string())?;
            }
            if limits.oom_kill_disable {
                self.write("memory", "memory.oom_control", "1")?;
            }
        }
        self.limit_io(limits)
    }

    fn limit_io(&self, limits: &Resources) -> Result<(), Error> {
        let io = &limits.io;
        let lines = |list: &[IoLimit], text: &dyn Fn(u64) -> String| -> Vec<String> {
            let one = |l: &IoLimit| format!("{}:{} {}", l.major, l.minor, text(l.rate));
            list.iter().map(one).collect()
        };
        if let Some(weight) = io.weight {
            let weight = u64::from(weight);
            match self.v2 {
                // BFQ's own file where there is that scheduler: it takes the weight as it is
                true if self.has("io", "io.bfq.weight") => {
                    self.write("io", "io.bfq.weight", &weight.to_string())?;
                }
                true => self.write("io", "io.weight", &format!("default {}", io_weight(weight)))?,
                false if self.has("blkio", "blkio.weight") => {
                    self.write("blkio", "blkio.weight", &weight.to_string())?;
                }
                false => self.write("blkio", "blkio.bfq.weight", &weight.to_string())?,
            }
        }
        for line in lines(&io.weights, &|rate| rate.to_string()) {
            match self.v2 {
                true => self.write("io", "io.bfq.weight", &line)?,
                false if self.has("blkio", "blkio.weight_device") => {
                    self.write("blkio", "blkio.weight_device", &line)?;
                }
                false => self.write("blkio", "blkio.bfq.weight_device", &line)?,
            }
        }
        for (list, v1, v2) in [
            (&io.read_bps, "read_bps", "rbps"),
            (&io.write_bps, "write_bps", "wbps"),
            (&io.read_iops, "read_iops", "riops"),
            (&io.write_iops, "write_iops", "wiops"),
        ] {
            match self.v2 {
                true => {
                    for line in lines(list, &|rate| format!("{v2}={rate}")) {
                        self.write("io", "io.max", &line)?;
                    }
                }
                false => {
                    for line in lines(list, &|rate| rate.to_string()) {
                        self.write("blkio", &format!("blkio.throttle.{v1}_device"), &line)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn has(&self, controller: &str, file: &str) -> bool {
        self.leaf(controller)
            .is_some_and(|leaf| leaf.path.join(file).exists())
    }

    /// Both limits, in the order in which no step is refused; a kernel that doesn't count swap has one alone.
    pub(super) fn limit_swap_v1(&self, memory: &str, both: &str) -> Result<(), Error> {
        const SWAP: &str = "memory.memsw.limit_in_bytes";
        if !self.has("memory", SWAP) {
            return self.write("memory", "memory.limit_in_bytes", memory);
        }
        // memory+swap must never be below memory: raise it first, and lower it last
        let raised = self.write("memory", SWAP, both);
        self.write("memory", "memory.limit_in_bytes", memory)?;
        match raised {
            Ok(()) => Ok(()),
            Err(_) => self.write("memory", SWAP, both),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_and_weights_as_upstream() {
        for (memory, both, want) in [
            (Some(100), Some(150), Some("50")),
            (Some(100), Some(100), Some("0")),
            (Some(100), Some(-1), Some("max")),
            (None, Some(-1), Some("max")),
            (Some(100), None, None),
            (None, None, None),
        ] {
            assert_eq!(
                swap_alone(memory, both).as_deref(),
                want,
                "{memory:?} {both:?}"
            );
        }
        for (weight, want) in [(0, 0), (10, 1), (100, 910), (500, 4950), (1000, 10_000)] {
            assert_eq!(io_weight(weight), want, "{weight}");
        }
    }

    #[test]
    fn a_cpuset_has_what_is_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = dir.path().join("a/b");
        fs::create_dir_all(&leaf).unwrap();
        for (folder, cpus) in [("", "0-3\n"), ("a", ""), ("a/b", "1")] {
            let folder = dir.path().join(folder);
            fs::write(folder.join("cpuset.cpus"), cpus).unwrap();
            fs::write(folder.join("cpuset.mems"), cpus).unwrap();
        }
        inherit_cpuset(&leaf, 2).unwrap();
        let cpus = |folder: &str| {
            let text = fs::read_to_string(dir.path().join(folder).join("cpuset.cpus")).unwrap();
            text.trim().to_owned()
        };
        assert_eq!((cpus("a"), cpus("a/b")), ("0-3".into(), "1".into()));
    }
}
