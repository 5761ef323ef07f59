//! OCI containers and their shims.
//!
//! It is: create, start, exec, signal, wait for, list and delete containers that outlive the calling process.
//! It is not: an image store, a network, a scheduler.
//! It must never know: Kubernetes.

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

/// First thing in `main`, before any thread or runtime: when this process was started in one of the runtime's own roles (shim, creator, exec, pause …), runs it and never returns.
pub fn dispatch_role() {}

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
}

/// The namespaces that containers of one sandbox share (net, ipc, uts), pinned by bind mount; no process.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct SandboxSpec {
    pub id: Id,
    pub hostname: String,
    pub host_network: bool,
    pub host_ipc: bool,
    pub host_pid: bool,
    pub share_pid: bool,
    pub sysctls: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub spec: SandboxSpec,
    /** None with host_network */
    pub netns: Option<PathBuf>,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    pub source: PathBuf,
    pub destination: PathBuf,
    pub read_only: bool,
    /** "private" | "rslave" | "rshared" */
    pub propagation: String,
    pub recursive_read_only: bool,
}

#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub memory_limit_bytes: Option<i64>,
    pub pids_limit: Option<i64>,
}

#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub umask: Option<u32>,
}

#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize, PartialEq, Eq)]
pub enum Seccomp {
    #[default]
    RuntimeDefault,
    Unconfined,
    Profile(PathBuf),
}

/// One container. The rootfs is an overlay of `lower` (topmost first) with an upper layer in the container's own state folder, mounted and unmounted by the runtime.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
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
    pub resources: Resources,
    /** cgroup path below Config::cgroup_parent, e.g. `pod<uid>/<id>` */
    pub cgroup: String,
    pub privileged: bool,
    /** full set of capability names, `CAP_…` */
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    pub masked_paths: Option<Vec<PathBuf>>,
    pub readonly_paths: Option<Vec<PathBuf>>,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    /// CRI-format log file (`<RFC3339Nano> stdout|stderr F|P <line>`), rotated by the shim as `path`, `path.<timestamp>`…
    pub log_path: PathBuf,
    pub log_max_bytes: u64,
    pub log_files_max: u32,
    pub oom_score_adj: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Exit {
    pub code: i32,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    pub at: SystemTime,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /** create failed or the shim died before start */
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
    pub env: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
}
/// A process in a running container. Same user namespace, seccomp, capabilities, cgroup as the container's init.
pub struct ExecProcess {
    pub stdin: Option<tokio::net::unix::pipe::Sender>,
    pub stdout: Option<tokio::net::unix::pipe::Receiver>,
    pub stderr: Option<tokio::net::unix::pipe::Receiver>,
    /// with tty: the terminal's master, in place of the three
    pub tty: Option<Tty>,
    exit: Option<tokio::sync::oneshot::Receiver<i32>>,
}
impl ExecProcess {
    /// exit code, 128+n for signal n
    pub async fn wait(&mut self) -> i32 {
        match self.exit.take() {
            Some(e) => e.await.unwrap_or(-1),
            None => -1,
        }
    }
    pub fn kill(&self) {
        todo!()
    }
}
pub struct Tty {
    _p: (),
}
impl Tty {
    pub fn resize(&self, _w: u16, _h: u16) {} /* and AsyncRead + AsyncWrite */
}

/// Point-in-time usage.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    pub memory_working_set_bytes: u64,
    pub pids: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Other(String), /* the owner refines; Create errors carry kubelet-like text such as `exec: "foo": executable file not found in $PATH` */
}

#[derive(Clone)]
pub struct Runtime {
    _p: (),
}
impl Runtime {
    /// Opens or makes the root and finds the sandboxes and containers already there (adoption). Blocking.
    pub fn open(config: Config) -> Result<Runtime, Error> {
        let _ = config;
        todo!()
    }
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, Error> {
        let _ = spec;
        todo!()
    }
    pub async fn delete_sandbox(&self, id: &str) -> Result<(), Error> {
        let _ = id;
        todo!()
    }
    pub fn sandboxes(&self) -> Vec<Sandbox> {
        todo!()
    }
    /// Creates and starts; returns when the container's process has been exec'd or could not be.
    pub async fn run(&self, spec: ContainerSpec) -> Result<Container, Error> {
        let _ = spec;
        todo!()
    }
    pub fn containers(&self) -> Vec<Container> {
        todo!()
    }
    pub fn container(&self, id: &str) -> Option<Container> {
        let _ = id;
        todo!()
    }
    /// Resolves when the container has exited (at once if it has). Event-driven, no polling.
    pub async fn wait(&self, id: &str) -> Result<Exit, Error> {
        let _ = id;
        todo!()
    }
    pub async fn signal(&self, id: &str, signal: i32) -> Result<(), Error> {
        let _ = (id, signal);
        todo!()
    }
    /// Kills what is left of it and removes cgroup, mounts, state; the log file stays. Idempotent.
    pub async fn delete(&self, id: &str) -> Result<(), Error> {
        let _ = id;
        todo!()
    }
    pub async fn exec(&self, id: &str, spec: ExecSpec) -> Result<ExecProcess, Error> {
        let _ = (id, spec);
        todo!()
    }
    pub fn stats(&self, id: &str) -> Result<Stats, Error> {
        let _ = id;
        todo!()
    }
    pub async fn update_resources(&self, id: &str, resources: Resources) -> Result<(), Error> {
        let _ = (id, resources);
        todo!()
    }
    /// Everything gone: containers, sandboxes, cgroups, mounts. For `stop --purge`.
    pub async fn purge(&self) -> Result<(), Error> {
        todo!()
    }
}
