//! What Kubernetes has no fields for and Docker's users say all the same: settings of a container in the annotation
//! `knarr.dev/container.NAME`, as JSON. Nothing in it lets a Pod do what its security context does not.

use super::joins::Joins;
use crate::probe::checks::Pace;
use k8s_openapi::api::core::v1::{Container, Pod};
use knarr_runtime::{Device, IoLimits, MemoryMount, Mount, Resources, Rlimit};
use rustix::fs::FileType;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A user may be given by name, a first process with fewer rights; neither is more than the Pod could say itself.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Extras {
    /// `USER[:GROUP]`, names or numbers, in place of the image's.
    pub user: Option<String>,
    /// In place of the image's: `lifecycle.stopSignal` is of a feature that v1.36 has switched off.
    pub stop_signal: Option<String>,
    /// It begins as Docker's containers do: not even the API server's variables are in its environment, and its own name
    /// means its IPv4 address alone.
    pub no_services: bool,
    /// Further names that mean its own address to it.
    pub own_names: Vec<String>,
    /// Further groups by name.
    pub groups: Vec<String>,
    /// The first who attaches hears what was said before.
    pub early_output: bool,
    pub pids_limit: Option<i64>,
    /// 0 to 1000: only towards being ended earlier.
    pub oom_score_adj: Option<i32>,
    pub umask: Option<u32>,
    /// Mounts whose volume gets, while it is empty, what the image has at their place.
    pub copy_up: Vec<PathBuf>,
    pub ulimits: Vec<Ulimit>,
    /// Further limits of its cgroup, as [`Resources`] has them; bytes, and lists of CPUs and memory nodes.
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// With memory; -1: no limit.
    pub memory_swap_bytes: Option<i64>,
    pub memory_swappiness: Option<u64>,
    pub memory_soft_bytes: Option<i64>,
    pub oom_kill_disable: bool,
    pub io: Option<IoLimits>,
    /// In place of what the limit of CPU comes to.
    pub cpu_period_us: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    /// In place of what the request of CPU comes to.
    pub cpu_shares: Option<u64>,
    /// File systems in memory, made anew at each start.
    pub tmpfs: Vec<MemoryMount>,
    /// These only where the container may mount, hence see what is hidden anyway, and in Docker's containers.
    pub host_cgroups: bool,
    /// Nothing of /proc and /sys is masked or read-only.
    pub unmasked: bool,
    /// Lists in place of the usual ones.
    pub masked_paths: Option<Vec<PathBuf>>,
    pub readonly_paths: Option<Vec<PathBuf>>,
    /// Of a Pod's first container, for all; of Docker's containers alone.
    pub joins: Joins,
    /// Of a Pod's first container, for all: most that fits into /dev/shm.
    pub shm_bytes: Option<u64>,
    /// How often its readiness probe is asked, in place of the probe's own words.
    pub health: Option<Pace>,
    /// Nothing is mounted at /dev/shm.
    pub no_shm: bool,
    /// Lines of its /etc/hosts, `ADDRESS NAME…`; of a Pod's first container, for all.
    pub hosts: Vec<String>,
    /// Columns and rows that its terminal has from the start.
    pub tty_size: Option<(u16, u16)>,
    /// Of a Pod's first container, for all: kernel parameters of the Pod's own namespaces are set though the node's owner has not
    /// listed them, as Docker does. They stand in the security context all the same, where Pod Security forbids them.
    pub own_sysctls: bool,
    /// A file of its log has at most so many bytes, and there are so many files.
    pub log_max_bytes: Option<u64>,
    pub log_files_max: Option<u32>,
    /// Which of the mounted host paths are device files that it may use: mounting is what a security policy forbids.
    pub devices: Vec<DeviceAccess>,
    /// Further devices that it may open or make, as `c 189:* rwm`; only where the Pod asks for the machine's /dev as a volume, which
    /// a security policy forbids, too, and in Docker's containers.
    pub device_rules: Vec<String>,
}

/// As Docker writes it; -1: no limit.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Ulimit {
    pub name: String,
    pub soft: i64,
    pub hard: i64,
}

#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct DeviceAccess {
    pub target: PathBuf,
    /// Of `r`, `w` and `m`.
    pub access: String,
}

impl Extras {
    /// The container's limits, with what is asked for here.
    pub(crate) fn limits(&self, usual: Resources) -> Resources {
        let mut limits = usual;
        limits.pids_limit = self.pids_limit.or(limits.pids_limit);
        limits.cpuset_cpus.clone_from(&self.cpuset_cpus);
        limits.cpuset_mems.clone_from(&self.cpuset_mems);
        limits.memory_swap_bytes = self.memory_swap_bytes;
        limits.memory_swappiness = self.memory_swappiness;
        limits.memory_soft_bytes = self.memory_soft_bytes;
        limits.oom_kill_disable = self.oom_kill_disable;
        limits.io = self.io.clone().unwrap_or_default();
        limits.cpu_shares = self.cpu_shares.or(limits.cpu_shares);
        if let (Some(quota), Some(period)) = (self.cpu_quota_us, self.cpu_period_us) {
            (limits.cpu_quota_us, limits.cpu_period_us) = (Some(quota), Some(period));
        }
        limits
    }

    /// As the runtime takes them.
    pub(crate) fn rlimits(&self) -> Vec<Rlimit> {
        let limit = |n: i64| u64::try_from(n).ok();
        let one = |u: &Ulimit| Rlimit {
            name: u.name.clone(),
            soft: limit(u.soft),
            hard: limit(u.hard),
        };
        self.ulimits.iter().map(one).collect()
    }
}

/// Whether a Pod has a hostPath volume with the machine's devices.
pub(crate) fn has_devices(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let mut paths = volumes.filter_map(|v| v.host_path.as_ref());
    paths.any(|h| Path::new("/dev").starts_with(&h.path))
}

/// The devices among the mounts; blocking.
pub(crate) fn devices(wanted: &[DeviceAccess], mounts: &[Mount]) -> Vec<Device> {
    let one = |access: &DeviceAccess| {
        let mount = mounts.iter().find(|m| m.destination == access.target)?;
        let stat = rustix::fs::stat(&mount.source).ok()?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        is_device.then(|| Device {
            path: access.target.clone(),
            block: kind == FileType::BlockDevice,
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
            mode: stat.st_mode & 0o7777,
            access: access
                .access
                .chars()
                .filter(|c| "rwm".contains(*c))
                .collect(),
        })
    };
    wanted.iter().filter_map(one).collect()
}

/// # Errors
/// When the annotation can't be read, as the text of a `CreateContainerConfigError`.
pub(crate) fn of(pod: &Pod, container: &Container) -> Result<Extras, String> {
    let key = format!("knarr.dev/container.{}", container.name);
    let Some(text) = pod.metadata.annotations.as_ref().and_then(|a| a.get(&key)) else {
        return Ok(Extras::default());
    };
    let mut extras: Extras =
        serde_json::from_str(text).map_err(|e| format!("annotation {key}: {e}"))?;
    extras.oom_score_adj = extras.oom_score_adj.map(|score| score.clamp(0, 1000));
    extras.pids_limit = extras.pids_limit.filter(|limit| *limit > 0);
    Ok(extras)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_read_and_bounded() {
        let read = |text: &str| {
            let pod = serde_json::from_value(
                json!({"metadata": {"annotations": {"knarr.dev/container.c": text}}}),
            )
            .unwrap();
            let container = Container {
                name: "c".into(),
                ..Container::default()
            };
            of(&pod, &container)
        };
        let plain = Extras::default();
        for (name, text, want) in [
            ("nothing", "{}", Ok(Extras::default())),
            (
                "all",
                r#"{"user":"www","pidsLimit":5,"umask":18,"copyUp":["/d"],"later":1}"#,
                Ok(Extras {
                    user: Some("www".into()),
                    pids_limit: Some(5),
                    umask: Some(18),
                    copy_up: vec!["/d".into()],
                    ..Extras::default()
                }),
            ),
            (
                "no protection, no end",
                r#"{"oomScoreAdj":-900,"pidsLimit":-1}"#,
                Ok(Extras {
                    oom_score_adj: Some(0),
                    ..plain
                }),
            ),
            ("broken", "{", Err(())),
        ] {
            assert_eq!(read(text).map_err(drop), want, "{name}");
        }
    }

    #[test]
    fn who_asks_for_the_machines_devices() {
        for (paths, wanted) in [
            (&[][..], false),
            (&["/devices", "/dev/null"], false),
            (&["/srv", "/dev"], true),
            (&["/dev/"], true),
            (&["/"], true),
        ] {
            let volumes: Vec<_> = paths
                .iter()
                .map(|p| json!({ "name": "v", "hostPath": { "path": p } }))
                .collect();
            let pod = json!({ "spec": { "containers": [], "volumes": volumes } });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            assert_eq!(has_devices(&pod), wanted, "{paths:?}");
        }
    }
}
