//! The options of `run` that few need: devices, and limits by the kernel's own names.

use super::options::bytes;
use clap::Args;
use knarr_runtime::{Device, Resources};
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Less is not enough to start anything. SOURCE: moby `linuxMinMemory`
const MEMORY_MIN: i64 = 6 << 20;

#[derive(Args, Clone, Default)]
pub struct MoreOptions {
    /// DEVICE[:PATH[:rwm]], a device of the machine that it may use
    #[arg(long, value_parser = given, value_name = "DEVICE")]
    pub device: Vec<Given>,
    /// Which CPUs it may use, e.g. 0-2,7
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Which memory nodes it may use
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Microseconds of CPU in each --cpu-period
    #[arg(long, value_name = "N")]
    pub cpu_quota: Option<i64>,
    /// In microseconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1000..=1_000_000))]
    pub cpu_period: Option<u64>,
    /// Most memory and swap together; -1 = no limit
    #[arg(long, allow_hyphen_values = true, value_parser = swap, value_name = "BYTES")]
    pub memory_swap: Option<i64>,
    /// How readily it is swapped out, 0 to 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=100))]
    pub memory_swappiness: Option<u64>,
    /// What it has when the machine is short of memory
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    pub memory_reservation: Option<u64>,
    /// When it needs more memory than there is, it waits
    #[arg(long)]
    pub oom_kill_disable: bool,
    /// Who is ended first when the machine is out of memory: -1000 to 1000
    #[arg(long, allow_negative_numbers = true, value_name = "N", value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub oom_score_adj: Option<i32>,
    /// Size of /dev/shm
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    pub shm_size: Option<u64>,
    /// A further group of its user, by name or number
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// `host` to see the machine's processes, container:NAME to see another container's
    #[arg(long, value_parser = pid_mode, value_name = "MODE")]
    pub pid: Option<String>,
    /// `host` to share the machine's shared memory
    #[arg(long, value_parser = ipc_mode, value_name = "MODE")]
    pub ipc: Option<String>,
    /// A file of labels, one a line
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<PathBuf>,
    /// Publish all ports that the image exposes, to any that are free
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// A port that -P publishes, too
    #[arg(long, value_name = "PORT")]
    pub expose: Vec<String>,
    /// The image's platform; only this machine's are possible
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
}

/// A device as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    pub source: PathBuf,
    pub target: PathBuf,
    pub access: String,
}

/// `DEVICE[:PATH][:ACCESS]`
fn given(text: &str) -> Result<Given, String> {
    let bad =
        || format!("invalid device {text:?}: expected DEVICE[:PATH[:rwm]], paths from the root");
    let is_access = |t: &str| !t.is_empty() && t.bytes().all(|b| b"rwm".contains(&b));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, access) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, access] if is_access(access) => (source, source, access),
        [source, target] => (source, target, "rwm"),
        [source, target, access] if is_access(access) => (source, target, access),
        _ => return Err(bad()),
    };
    match source.starts_with('/') && target.starts_with('/') {
        true => Ok(Given {
            source: source.into(),
            target: target.into(),
            access: access.into(),
        }),
        false => Err(bad()),
    }
}

fn pid_mode(text: &str) -> Result<String, String> {
    match text {
        "" | "host" | "private" => Ok(text.into()),
        text if text
            .strip_prefix("container:")
            .is_some_and(|name| !name.is_empty()) =>
        {
            Ok(text.into())
        }
        _ => Err("--pid: invalid PID mode".into()),
    }
}

fn ipc_mode(text: &str) -> Result<String, String> {
    match text {
        "" | "host" | "private" | "shareable" => Ok(text.into()),
        "none" => Err("--ipc none is not there: it has shared memory of its own".into()),
        text if text.starts_with("container:") => {
            Err("--ipc container: is not there: --ipc host, or a volume at /dev/shm".into())
        }
        _ => Err(format!("Invalid IPC mode: {text}")),
    }
}

fn swap(text: &str) -> Result<i64, String> {
    match text {
        "-1" => Ok(-1),
        text => bytes(text).map(|n| i64::try_from(n).unwrap_or(i64::MAX)),
    }
}

impl Given {
    /// The device itself.
    pub fn device(&self) -> Result<Device, String> {
        let told = |why: String| {
            format!(
                "error gathering device information while adding custom device {:?}: {why}",
                self.source
            )
        };
        let stat = rustix::fs::stat(&self.source).map_err(|e| told(e.to_string()))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
            return Err(told("not a device node".into()));
        }
        Ok(Device {
            path: self.target.clone(),
            block: kind == FileType::BlockDevice,
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
            mode: stat.st_mode & 0o7777,
            access: self.access.clone(),
        })
    }
}

impl MoreOptions {
    /// What is said here, into the limits.
    pub fn limit(&self, limits: &mut Resources) -> Result<(), String> {
        let memory = limits.memory_limit_bytes;
        if let Some(quota) = self.cpu_quota {
            if limits.cpu_quota_us.is_some() {
                return Err("conflicting options: --cpus and --cpu-quota".into());
            }
            limits.cpu_quota_us = Some(quota);
            limits.cpu_period_us = Some(self.cpu_period.unwrap_or(100_000));
        }
        // SOURCE of the bounds and their words: moby `daemon/daemon_unix.go` verifyPlatformContainerResources
        if memory.is_some_and(|memory| memory < MEMORY_MIN) {
            return Err("Minimum memory limit allowed is 6MB".into());
        }
        match (self.memory_swap.filter(|both| *both > 0), memory) {
            (Some(_), None) => {
                return Err(
                    "You should always set the Memory limit when using Memoryswap limit, see usage"
                        .into(),
                );
            }
            (Some(both), Some(memory)) if both < memory => {
                return Err(
                    "Minimum memoryswap limit should be larger than memory limit, see usage".into(),
                );
            }
            _ => {}
        }
        if let (Some(soft), Some(memory)) = (self.memory_reservation, memory)
            && soft as i64 > memory
        {
            return Err(
                "Minimum memory limit can not be less than memory reservation limit, see usage"
                    .into(),
            );
        }
        if let (Some(quota), Some(period)) = (limits.cpu_quota_us, limits.cpu_period_us) {
            let there = std::thread::available_parallelism().map_or(1, usize::from);
            let asked = quota as f64 / period as f64;
            if self.cpu_quota.is_none() && !(0.01..=there as f64).contains(&asked) {
                return Err(format!(
                    "range of CPUs is from 0.01 to {there}.00, as there are only {there} CPUs available"
                ));
            }
        }
        // SOURCE: moby adaptContainerSettings, as much swap as memory
        limits.memory_swap_bytes = self.memory_swap.or(memory.map(|m| m.saturating_mul(2)));
        limits.memory_swappiness = self.memory_swappiness;
        limits.memory_soft_bytes = self.memory_reservation.map(|n| n as i64);
        limits.oom_kill_disable = self.oom_kill_disable;
        limits.cpuset_cpus = self.cpuset_cpus.clone().unwrap_or_default();
        limits.cpuset_mems = self.cpuset_mems.clone().unwrap_or_default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        for (text, wanted) in [
            ("/dev/null", Some(("/dev/null", "rwm"))),
            ("/dev/null:r", Some(("/dev/null", "r"))),
            ("/dev/null:/dev/x", Some(("/dev/x", "rwm"))),
            ("/dev/null:/dev/x:rw", Some(("/dev/x", "rw"))),
            ("/dev/null:/dev/x:z", None),
            ("null", None),
        ] {
            let got = given(text).ok();
            let got = got.map(|g| (g.target.display().to_string(), g.access));
            let wanted = wanted.map(|(t, a)| (t.to_string(), a.to_string()));
            assert_eq!(got, wanted, "{text}");
        }
        let null = given("/dev/null").unwrap().device().unwrap();
        assert_eq!((null.major, null.minor, null.block), (1, 3, false));
        assert!(given("/etc/hostname").unwrap().device().is_err());
    }

    #[test]
    fn limits_go_together() {
        let limit = |memory: Option<i64>, swap: Option<i64>| {
            let mut limits = Resources {
                memory_limit_bytes: memory,
                ..Resources::default()
            };
            let options = MoreOptions {
                memory_swap: swap,
                ..MoreOptions::default()
            };
            options
                .limit(&mut limits)
                .map(|()| limits.memory_swap_bytes)
        };
        assert_eq!(limit(None, None), Ok(None));
        let m = 1 << 20;
        assert_eq!(limit(Some(100 * m), None), Ok(Some(200 * m)));
        assert_eq!(limit(Some(100 * m), Some(-1)), Ok(Some(-1)));
        assert!(limit(Some(m), None).unwrap_err().contains("6MB"));
        assert!(limit(Some(100 * m), Some(50 * m)).is_err());
        assert!(limit(None, Some(50 * m)).is_err());
    }

    #[test]
    fn modes_of_namespaces() {
        for (mode, pid, ipc) in [
            ("host", true, true),
            ("private", true, true),
            ("container:web", true, false),
            ("container:", false, false),
            ("none", false, false),
            ("shareable", false, true),
        ] {
            assert_eq!(
                (pid_mode(mode).is_ok(), ipc_mode(mode).is_ok()),
                (pid, ipc),
                "{mode}"
            );
        }
    }
}
