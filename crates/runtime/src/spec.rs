//! What callers ask for and what they are told: plain data.

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use serde::{Deserialize, Serialize};

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
}

impl Resources {
    /// This, with what `newer` gives in its place.
    pub fn overlaid(&self, newer: &Resources) -> Resources {
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

impl Device {
    /// As v1's `devices.allow` takes it.
    pub(crate) fn rule(&self) -> String {
        let kind = if self.block { 'b' } else { 'c' };
        format!("{kind} {}:{} {}", self.major, self.minor, self.access)
    }
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
    pub read_only_rootfs: bool,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: PathBuf,
    pub user: User,
    pub mounts: Vec<Mount>,
    /// besides the usual ones
    pub devices: Vec<Device>,
    pub resources: Resources,
    /// cgroup path below Config::cgroup_parent, e.g. `pod<uid>/<id>`
    pub cgroup: String,
    pub privileged: bool,
    /// full set of capability names, `CAP_…`
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// None: the usual list (none when privileged)
    pub masked_paths: Option<Vec<PathBuf>>,
    /// None: the usual list (none when privileged)
    pub readonly_paths: Option<Vec<PathBuf>>,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    /// CRI-format log file (`<RFC3339Nano> stdout|stderr F|P <line>`), rotated by the shim as `path`, `path.<timestamp>`…; empty: no log
    pub log_path: PathBuf,
    /// 0: never rotated
    pub log_max_bytes: u64,
    /// counts the live file; 0: nothing is ever removed
    pub log_files_max: u32,
    pub oom_score_adj: i32,
    /// the running container whose processes it sees and can trace: it joins that one's PID namespace instead of having its own or the sandbox's, and ends with it
    #[serde(default)]
    pub pid_of: Option<Id>,
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
    pub stdin: bool,
}

/// Point-in-time usage, summed over the container's cgroup.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    pub memory_working_set_bytes: u64,
    pub pids: u64,
}
