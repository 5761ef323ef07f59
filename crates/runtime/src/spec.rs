//! What callers ask for and what they are told: plain data.

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::Rlimit;

/// `[a-z0-9-]{1,63}`, unique in one runtime root.
pub type Id = String;

#[derive(Debug, Clone)]
pub struct Config {
    /// state, sockets, pins; one runtime per root
    pub root: PathBuf,
    /// the binary to re-exec in shim role (std::env::current_exe())
    pub exe: PathBuf,
    /// parent of all cgroups made, relative to each hierarchy's root, e.g. `/knarr-1f2e`
    pub cgroup_parent: String,
    /// what counts as the host's
    pub host: HostNamespaces,
}

/// What a sandbox on the host's network gets to see: None is the caller's own.
#[derive(Debug, Clone, Default)]
pub struct HostNamespaces {
    pub net: Option<PathBuf>,
    pub uts: Option<PathBuf>,
}

/// The namespaces that containers of one sandbox share (net, ipc, uts), pinned by bind mount; no process, but for `share_pid`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    pub id: Id,
    pub hostname: String,
    pub host_network: bool,
    pub host_ipc: bool,
    pub host_pid: bool,
    /// containers see each other's processes; an idle process of ours is their PID 1
    pub share_pid: bool,
    /// dotted names of namespaced kernel parameters (`net.*`, `kernel.shm*`, `kernel.msg*`, `kernel.sem`, `fs.mqueue.*`)
    pub sysctls: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// cgroup above those of its containers, below Config::cgroup_parent, e.g. `kubepods/burstable/pod<uid>`; made and removed with the sandbox. Empty: none
    pub cgroup: String,
    /// what all its containers together may use; only with a `cgroup`
    pub resources: Resources,
    /// its containers have a user namespace of their own, in which 0 and up are these ids of the host. Not with `host_network`, `host_ipc` or `host_pid`
    pub user_namespace: Option<IdRange>,
    /// the sandbox whose network is its own, too; neither with `host_network` nor with a user namespace
    pub net_of: Option<Id>,
    /// the sandbox whose IPC namespace and /dev/shm are its own, too; neither with `host_ipc` nor with a user namespace
    pub ipc_of: Option<Id>,
    /// most that fits into its /dev/shm; None: 64 MiB
    pub shm_bytes: Option<u64>,
}

/// A range of user and group ids of the host.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
pub struct IdRange {
    pub first: u32,
    pub length: u32,
}

impl IdRange {
    /// The host's id for one of the namespace; None when it is beyond the range.
    pub fn on_host(self, id: u32) -> Option<u32> {
        (id < self.length).then(|| self.first + id)
    }
}

#[derive(Debug, Clone)]
pub struct Sandbox {
    pub spec: SandboxSpec,
    /// None with host_network, unless the host's is another than the caller's (see [`HostNamespaces`])
    pub netns: Option<PathBuf>,
}

/// A bind mount of a host path. Propagation as in Kubernetes: `private` (None), `rslave` (HostToContainer), `rshared` (Bidirectional).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mount {
    pub source: PathBuf,
    pub destination: PathBuf,
    pub read_only: bool,
    /// "private" | "rslave" | "rshared"
    pub propagation: String,
    pub recursive_read_only: bool,
}

/// Limits of a cgroup. None: left as it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Resources {
    /// cgroup v1 shares (2..=262144); turned into a weight on v2
    pub cpu_shares: Option<u64>,
    /// 0 and below: none
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    /// 0 and below: none
    pub memory_limit_bytes: Option<i64>,
    /// v2 only: never reclaimed
    pub memory_min_bytes: Option<i64>,
    /// v2 only: reclaimed last
    pub memory_low_bytes: Option<i64>,
    /// v2 only: slowed down and reclaimed from here on
    pub memory_high_bytes: Option<i64>,
    /// 0 and below: none
    pub pids_limit: Option<i64>,
    /// page size in bytes → most bytes of such pages
    pub huge_pages: BTreeMap<u64, u64>,
    /// v2 only: one process out of memory takes all in the cgroup down
    pub oom_group: bool,
    /// CPUs that may be used, `0-2,7`; empty: all
    pub cpuset_cpus: String,
    /// memory nodes that may be used; empty: all
    pub cpuset_mems: String,
    /// memory and swap together; -1: no limit, None: as much as there is memory, hence no swap
    pub memory_swap_bytes: Option<i64>,
    /// v1 only: 0 to 100
    pub memory_swappiness: Option<u64>,
    /// reclaimed from what is above, when the machine is short of memory
    pub memory_soft_bytes: Option<i64>,
    /// v1 only: who needs more memory than there is waits until there is some
    pub oom_kill_disable: bool,
    pub io: IoLimits,
}

/// What of the machine's disks may be used.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct IoLimits {
    /// 10 to 1000, as v1's `blkio.weight`
    pub weight: Option<u16>,
    pub weights: Vec<IoLimit>,
    /// bytes in a second
    pub read_bps: Vec<IoLimit>,
    pub write_bps: Vec<IoLimit>,
    /// operations in a second
    pub read_iops: Vec<IoLimit>,
    pub write_iops: Vec<IoLimit>,
}

/// A limit of one block device.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct IoLimit {
    pub major: u32,
    pub minor: u32,
    pub rate: u64,
}

/// A file system in memory of a container's own: made at its start, gone with its end.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct MemoryMount {
    pub destination: PathBuf,
    /// as `mount -t tmpfs -o` takes them: `noexec`, `size=64m`, `mode=0700`, …
    pub options: Vec<String>,
}

impl ContainerSpec {
    /// Where `upper` and `work` are of a container whose state is in `dir`.
    pub(crate) fn writable<'a>(&'a self, dir: &'a std::path::Path) -> &'a std::path::Path {
        self.kept_upper.as_deref().unwrap_or(dir)
    }
}

impl Resources {
    /// This, with what `newer` gives in its place.
    pub fn overlaid(&self, newer: &Resources) -> Resources {
        let later = |old: &String, new: &String| if new.is_empty() { old } else { new }.clone();
        let mut huge_pages = self.huge_pages.clone();
        huge_pages.extend(&newer.huge_pages);
        Resources {
            cpu_shares: newer.cpu_shares.or(self.cpu_shares),
            cpu_quota_us: newer.cpu_quota_us.or(self.cpu_quota_us),
            cpu_period_us: newer.cpu_period_us.or(self.cpu_period_us),
            memory_limit_bytes: newer.memory_limit_bytes.or(self.memory_limit_bytes),
            memory_min_bytes: newer.memory_min_bytes.or(self.memory_min_bytes),
            memory_low_bytes: newer.memory_low_bytes.or(self.memory_low_bytes),
            memory_high_bytes: newer.memory_high_bytes.or(self.memory_high_bytes),
            pids_limit: newer.pids_limit.or(self.pids_limit),
            huge_pages,
            oom_group: newer.oom_group || self.oom_group,
            cpuset_cpus: later(&self.cpuset_cpus, &newer.cpuset_cpus),
            cpuset_mems: later(&self.cpuset_mems, &newer.cpuset_mems),
            memory_swap_bytes: newer.memory_swap_bytes.or(self.memory_swap_bytes),
            memory_swappiness: newer.memory_swappiness.or(self.memory_swappiness),
            memory_soft_bytes: newer.memory_soft_bytes.or(self.memory_soft_bytes),
            oom_kill_disable: newer.oom_kill_disable || self.oom_kill_disable,
            io: match newer.io == IoLimits::default() {
                true => self.io.clone(),
                false => newer.io.clone(),
            },
        }
    }
}

/// A device node in the container's /dev (or elsewhere), and the right to use it.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Device {
    /// in the container
    pub path: PathBuf,
    /// else a character device
    pub block: bool,
    pub major: u32,
    pub minor: u32,
    /// permission bits of the node
    pub mode: u32,
    /// of `r`, `w` and `m`
    pub access: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub umask: Option<u32>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub enum Seccomp {
    /// the list that Docker and containerd ship
    #[default]
    RuntimeDefault,
    Unconfined,
    /// a profile in Docker's JSON format
    Profile(PathBuf),
}

/// One container. The rootfs is an overlay of `lower` (topmost first) with an upper layer in the container's own state folder; it is mounted only in the container's mount namespace and ends with it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    pub id: Id,
    pub sandbox: Id,
    pub labels: BTreeMap<String, String>,
    pub lower: Vec<PathBuf>,
    /// where the upper layer is instead, and stays when the container is deleted; for one container at a time
    pub kept_upper: Option<PathBuf>,
    pub read_only_rootfs: bool,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: PathBuf,
    pub user: User,
    pub mounts: Vec<Mount>,
    pub memory_mounts: Vec<MemoryMount>,
    /// nothing is mounted at /dev/shm
    pub no_shm: bool,
    /// besides the usual ones
    pub devices: Vec<Device>,
    /// further ones that it may open or make, as `c 189:* rwm`
    pub device_rules: Vec<String>,
    pub resources: Resources,
    /// cgroup path below Config::cgroup_parent, e.g. `pod<uid>/<id>`
    pub cgroup: String,
    pub privileged: bool,
    /// full set of capability names, `CAP_…`
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// sees all of the machine's cgroups, not only its own
    pub host_cgroups: bool,
    /// AppArmor profile of its processes, which the kernel must have (see [`crate::AppArmor`]); empty: they stay under the caller's
    pub apparmor: String,
    /// None: the usual list (none when privileged)
    pub masked_paths: Option<Vec<PathBuf>>,
    /// None: the usual list (none when privileged)
    pub readonly_paths: Option<Vec<PathBuf>>,
    pub tty: bool,
    /// columns and rows that its terminal has from the start
    pub tty_size: Option<(u16, u16)>,
    pub stdin: bool,
    pub stdin_once: bool,
    /// the first who attaches hears what was said before, as far as it's little; else, as Kubernetes has it, each hears what is said from then on
    pub early_output: bool,
    /// CRI-format log file (`<RFC3339Nano> stdout|stderr F|P <line>`), rotated by the shim as `path`, `path.<timestamp>`…; empty: no log
    pub log_path: PathBuf,
    /// 0: never rotated
    pub log_max_bytes: u64,
    /// counts the live file; 0: nothing is ever removed
    pub log_files_max: u32,
    pub oom_score_adj: i32,
    /// most that its processes may have of what `setrlimit(2)` bounds
    pub rlimits: Vec<Rlimit>,
    /// its output waits for the first who attaches (ten seconds at most), who so gets all of it
    pub hold_output: bool,
    /// a program of the host and its arguments, run when the container has ended and that is written down, unless somebody is attached then
    pub afterwards: Vec<String>,
    /// the running container whose processes it sees and can trace: it joins that one's PID namespace instead of having its own or the sandbox's, and ends with it
    #[serde(default)]
    pub pid_of: Option<Id>,
    /// as `pid_of`, a process of the machine, first in its PID namespace, that nobody ends meanwhile
    #[serde(default)]
    pub pid_of_process: Option<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 128+n for signal n; 255 when it could not be learned (machine restarted, shim killed)
    pub code: i32,
    pub signal: Option<i32>,
    /// the kernel killed a process of the container for want of memory
    pub oom_killed: bool,
    pub at: SystemTime,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// create failed or the shim died before start
    Failed(String),
    Created,
    Running {
        pid: i32,
        since: SystemTime,
    },
    Exited {
        since: Option<SystemTime>,
        exit: Exit,
    },
}

#[derive(Debug, Clone)]
pub struct Container {
    pub spec: ContainerSpec,
    pub state: State,
}

#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    pub args: Vec<String>,
    /// added to (and overriding) the container's own environment
    pub env: Vec<String>,
    pub tty: bool,
    /// columns and rows that its terminal has from the start
    pub tty_size: Option<(u16, u16)>,
    pub stdin: bool,
    /// instead of the container's
    pub user: Option<User>,
    /// instead of the container's
    pub cwd: Option<PathBuf>,
    /// with all capabilities, and without the filter of system calls
    pub privileged: bool,
}

/// Point-in-time usage, summed over the container's cgroup.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    pub memory_working_set_bytes: u64,
    pub pids: u64,
}
