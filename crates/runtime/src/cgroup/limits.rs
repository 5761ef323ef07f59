//! What a cgroup may use, in the words of each version.

use std::io;

use super::{Group, more, write_to};
use crate::{
    error::{During, Error},
    spec::Resources,
};

const CPU_SHARES_MIN: u64 = 2;
const CPU_SHARES_MAX: u64 = 262_144;
const CPU_PERIOD_US_DEFAULT: u64 = 100_000;

/// v1 shares as a v2 weight: 2 is 1, 1024 is 100, 262144 is 10000.
///
/// SOURCE: opencontainers/cgroups ConvertCPUSharesToCgroupV2Value, which replaced KEP-2254's linear conversion.
pub(crate) fn cpu_weight(shares: u64) -> u64 {
    if shares <= CPU_SHARES_MIN {
        return 1;
    }
    if shares >= CPU_SHARES_MAX {
        return 10_000;
    }
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    10f64.powf(exponent).ceil() as u64
}

/// As the kernel names a page size in file names: `64KB`, `2MB`, `1GB`.
fn page_size_name(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 => format!("{}GB", b >> 30),
        b if b >= 1 << 20 => format!("{}MB", b >> 20),
        b => format!("{}KB", b >> 10),
    }
}

impl Group {
    pub(super) fn write(&self, controller: &str, file: &str, value: &str) -> Result<(), Error> {
        let absent = || {
            Error::Other(format!(
                "this machine has no cgroup controller {controller:?}, which the limits ask for: enable it or leave the limit out"
            ))
        };
        let path = self.leaf(controller).ok_or_else(absent)?.path.join(file);
        match write_to(&path, value) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(absent()),
            other => other.during(|| format!("writing {value:?} to {}", path.display())),
        }
    }

    /// For what not every kernel has.
    pub(super) fn write_if_there(
        &self,
        controller: &str,
        file: &str,
        value: &str,
    ) -> Result<(), Error> {
        match self.leaf(controller).map(|leaf| leaf.path.join(file)) {
            Some(path) if path.exists() => self.write(controller, file, value),
            _ => Ok(()),
        }
    }

    /// Sets what is given and leaves the rest.
    pub(crate) fn limit(&self, limits: &Resources) -> Result<(), Error> {
        self.limit_cpu(limits)?;
        self.limit_memory(limits)?;
        if let Some(pids) = limits.pids_limit {
            let text = if pids <= 0 {
                "max".into()
            } else {
                pids.to_string()
            };
            self.write("pids", "pids.max", &text)?;
        }
        for (size, bytes) in &limits.huge_pages {
            self.limit_huge_pages(*size, *bytes)?;
        }
        self.limit_more(limits)?;
        if limits.oom_group {
            self.write_if_there("memory", "memory.oom.group", "1")?;
        }
        Ok(())
    }

    fn limit_cpu(&self, limits: &Resources) -> Result<(), Error> {
        if let Some(shares) = limits.cpu_shares.filter(|s| *s > 0) {
            let shares = shares.clamp(CPU_SHARES_MIN, CPU_SHARES_MAX);
            if self.v2 {
                self.write("cpu", "cpu.weight", &cpu_weight(shares).to_string())?;
            } else {
                self.write("cpu", "cpu.shares", &shares.to_string())?;
            }
        }
        let Some(quota) = limits.cpu_quota_us else {
            return Ok(());
        };
        let period = limits
            .cpu_period_us
            .filter(|p| *p > 0)
            .unwrap_or(CPU_PERIOD_US_DEFAULT);
        match (self.v2, quota) {
            (true, ..=0) => self.write("cpu", "cpu.max", &format!("max {period}")),
            (true, _) => self.write("cpu", "cpu.max", &format!("{quota} {period}")),
            // first without a quota: an old one in a new period may be more than the group above has, or less than one below
            (false, ..=0) => {
                self.write("cpu", "cpu.cfs_quota_us", "-1")?;
                self.write("cpu", "cpu.cfs_period_us", &period.to_string())
            }
            (false, _) => {
                self.write("cpu", "cpu.cfs_period_us", &period.to_string())?;
                self.write("cpu", "cpu.cfs_quota_us", &quota.to_string())
            }
        }
    }

    fn limit_memory(&self, limits: &Resources) -> Result<(), Error> {
        if self.v2 {
            // v1 has nothing that protects memory; SOURCE: KEP-2570, memory QoS is for v2 only
            for (file, bytes) in [
                ("memory.min", limits.memory_min_bytes),
                ("memory.low", limits.memory_low_bytes),
                ("memory.high", limits.memory_high_bytes),
            ] {
                if let Some(bytes) = bytes {
                    let text = match (file, bytes) {
                        ("memory.high", ..=0) => "max".to_owned(),
                        _ => bytes.max(0).to_string(),
                    };
                    self.write("memory", file, &text)?;
                }
            }
        }
        let Some(bytes) = limits.memory_limit_bytes else {
            return Ok(());
        };
        let text = match (bytes, self.v2) {
            (..=0, true) => "max".to_owned(),
            (..=0, false) => "-1".to_owned(),
            _ => bytes.to_string(),
        };
        if self.v2 {
            self.write("memory", "memory.max", &text)?;
            // SOURCE: KEP-2400, NoSwap is the default
            let swap = more::swap_alone(Some(bytes), limits.memory_swap_bytes);
            let swap = swap.unwrap_or_else(|| "0".into());
            return self.write_if_there("memory", "memory.swap.max", &swap);
        }
        let both = limits
            .memory_swap_bytes
            .map(|both| both.max(-1).to_string());
        self.limit_swap_v1(&text, &both.unwrap_or_else(|| text.clone()))
    }

    /// Both what is used and what is only reserved. A limit of nothing is no reason to fail where there are no huge pages to be had.
    fn limit_huge_pages(&self, size: u64, bytes: u64) -> Result<(), Error> {
        let v2 = self.leaf("hugetlb").is_some_and(|l| l.v2);
        let (end, name) = (
            if v2 { "max" } else { "limit_in_bytes" },
            page_size_name(size),
        );
        let (file, reserved) = (
            format!("hugetlb.{name}.{end}"),
            format!("hugetlb.{name}.rsvd.{end}"),
        );
        let text = bytes.to_string();
        if bytes == 0 {
            self.write_if_there("hugetlb", &file, &text)?;
        } else {
            self.write("hugetlb", &file, &text)?;
        }
        self.write_if_there("hugetlb", &reserved, &text)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cgroup::{Besides, Hierarchies, Unified, V1};

    #[test]
    fn weights_as_upstream() {
        for (shares, weight) in [
            (0, 1),
            (2, 1),
            (3, 2),
            (102, 17),
            (1024, 100),
            (2048, 174),
            (262_143, 10_000),
            (262_144, 10_000),
            (1 << 40, 10_000),
        ] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
    }

    /// A tree of plain files in place of the kernel's, with a group `g` that has these files.
    fn fake(root: &Path, folders: &[(&str, &[&str])]) {
        for (folder, files) in folders {
            let dir = root.join(folder);
            std::fs::create_dir_all(&dir).unwrap();
            for file in *files {
                std::fs::write(dir.join(file), "").unwrap();
            }
        }
    }

    /// All files below `root` that have been written, as `path=content`, sorted.
    fn written(root: &Path) -> Vec<String> {
        let mut out = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(dir) = folders.pop() {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                if !text.is_empty() {
                    let name = path.strip_prefix(root).unwrap().display().to_string();
                    out.push(format!("{name}={text}"));
                }
            }
        }
        out.sort();
        out
    }

    fn everything() -> Resources {
        Resources {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_limit_bytes: Some(1 << 20),
            memory_min_bytes: Some(4096),
            memory_low_bytes: Some(8192),
            memory_high_bytes: Some(0),
            pids_limit: Some(7),
            huge_pages: [(2 << 20, 4 << 20), (1 << 30, 0)].into(),
            oom_group: true,
            ..Resources::default()
        }
    }

    #[test]
    fn limits_of_v2() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            "cpu.weight",
            "cpu.max",
            "memory.max",
            "memory.min",
            "memory.low",
            "memory.high",
            "memory.swap.max",
            "memory.oom.group",
            "pids.max",
            "hugetlb.2MB.max",
            "hugetlb.2MB.rsvd.max",
        ];
        fake(
            dir.path(),
            &[("k/g", &files), ("", &["cgroup.subtree_control"])],
        );
        fake(dir.path(), &[("k", &["cgroup.subtree_control"])]);
        let group = Hierarchies::V2(dir.path().into()).group("/k", "g");
        group.create(&everything()).unwrap();
        let got = written(dir.path());
        assert_eq!(
            got,
            [
                // a file keeps what is written; the kernel adds each up
                "cgroup.subtree_control=+hugetlb",
                "k/cgroup.subtree_control=+hugetlb",
                "k/g/cpu.max=50000 100000",
                "k/g/cpu.weight=100",
                "k/g/hugetlb.2MB.max=4194304",
                "k/g/hugetlb.2MB.rsvd.max=4194304",
                "k/g/memory.high=max",
                "k/g/memory.low=8192",
                "k/g/memory.max=1048576",
                "k/g/memory.min=4096",
                "k/g/memory.oom.group=1",
                "k/g/memory.swap.max=0",
                "k/g/pids.max=7",
            ]
        );
    }

    #[test]
    fn limits_of_v1_and_of_hybrid() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fake(
            dir.path(),
            &[
                (
                    "cpu/k/g",
                    &["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"],
                ),
                (
                    "memory/k/g",
                    &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
                ),
                ("pids/k/g", &["pids.max"]),
                ("unified/k/g", &["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"]),
                ("unified", &["cgroup.subtree_control"]),
                ("unified/k", &["cgroup.subtree_control"]),
            ],
        );
        let v1 = |name: &str| V1 {
            mount: at(name),
            controllers: vec![name.into()],
            seldom: false,
        };
        let hierarchies = Hierarchies::V1(
            vec![v1("cpu"), v1("memory"), v1("pids")],
            Some(Unified {
                mount: at("unified"),
                controllers: true,
                pressure: false,
            }),
        );
        // without huge pages the v2 tree isn't touched
        let mut limits = everything();
        limits.huge_pages.clear();
        hierarchies
            .group_for("/k", "g", Besides::of(&limits))
            .create(&limits)
            .unwrap();
        let plain = [
            "cpu/k/g/cpu.cfs_period_us=100000",
            "cpu/k/g/cpu.cfs_quota_us=50000",
            "cpu/k/g/cpu.shares=1024",
            "memory/k/g/memory.limit_in_bytes=1048576",
            "memory/k/g/memory.memsw.limit_in_bytes=1048576",
            "pids/k/g/pids.max=7",
        ];
        assert_eq!(written(dir.path()), plain);
        hierarchies
            .group_for("/k", "g", Besides::of(&everything()))
            .create(&everything())
            .unwrap();
        let more = [
            "unified/cgroup.subtree_control=+hugetlb",
            "unified/k/cgroup.subtree_control=+hugetlb",
            "unified/k/g/hugetlb.2MB.max=4194304",
            "unified/k/g/hugetlb.2MB.rsvd.max=4194304",
        ];
        assert_eq!(written(dir.path()), [&plain[..], &more[..]].concat());
        // what the machine can't limit is said
        let only = Hierarchies::V1(vec![v1("cpu")], None);
        let error = only.group("/k", "g").limit(&everything()).unwrap_err();
        assert!(error.to_string().contains("\"memory\""), "{error}");
    }
}
