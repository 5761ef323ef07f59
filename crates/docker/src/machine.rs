//! What Docker asks of the machine that Kubernetes has no word for.

use crate::create::limits::Limits;
use jiff::Timestamp;
use std::{os::fd::BorrowedFd, path::PathBuf, pin::Pin};
use tokio::io::{AsyncRead, AsyncWrite};

/// A Pod of a container, by its names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
}

/// A command to run in a running container.
#[derive(Debug, Clone, Default)]
pub struct Exec {
    pub args: Vec<String>,
    /// `NAME=value`, in place of the container's own of the same name
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers; empty: the container's
    pub user: String,
    /// empty: the container's
    pub cwd: String,
    pub tty: bool,
    /// columns and rows of its terminal from the start
    pub size: Option<(u16, u16)>,
    pub stdin: bool,
    /// with all capabilities
    pub privileged: bool,
}

pub type Input = Pin<Box<dyn AsyncWrite + Send>>;
pub type Output = Pin<Box<dyn AsyncRead + Send>>;
/// Columns, rows.
pub type Resize = Box<dyn Fn(u16, u16) + Send + Sync>;

/// A process's own streams.
pub struct Streams {
    /// None: it takes no input
    pub stdin: Option<Input>,
    /// a terminal's is all here
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    pub resize: Resize,
    /// ends the container's input for all; for attached ones whose input is for one caller only
    pub end_input: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// the exit code of a command; never ready for the container's own process
    pub exit: Pin<Box<dyn Future<Output = i32> + Send>>,
    /// of a command, in the machine's numbers; 0 where nobody knows
    pub pid: i32,
}

/// Counters of a container since its start.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    pub cpu_nanos: u64,
    pub memory_bytes: u64,
    /// page cache that could be dropped at once
    pub inactive_file_bytes: u64,
    pub memory_limit_bytes: u64,
    pub pids: u64,
    /// per interface: received bytes, packets, errors, drops, then the same sent
    pub networks: Vec<(String, [u64; 8])>,
    pub read_bytes: u64,
    pub write_bytes: u64,
}

/// One answer of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub start: Timestamp,
    pub end: Timestamp,
    /// -1: it could not be run, or took too long
    pub exit_code: i32,
    pub timed_out: bool,
    pub output: String,
}

/// What a container's health check said lately.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checks {
    /// the oldest first
    pub last: Vec<Check>,
    /// failures in a row
    pub failing: u32,
}

/// The node that the containers run on. Errors are sentences for the client.
#[async_trait::async_trait]
pub trait Machine: Send + Sync + 'static {
    /// Starts a command in the Pod's running container.
    async fn exec(&self, pod: &PodName, exec: Exec) -> Result<Streams, String>;
    /// Joins the streams of the container's own process; the first one to come hears all from the start.
    async fn attach(&self, pod: &PodName) -> Result<Streams, String>;
    /// Sends the container's first process a signal.
    async fn signal(&self, pod: &PodName, signal: i32) -> Result<(), String>;
    /// Stops all the container's processes where they are, or lets them go on.
    async fn freeze(&self, pod: &PodName, frozen: bool) -> Result<(), String>;
    /// Sets what is given of a running container's limits, now. Memory in bytes, 0: left as it is.
    async fn limit(&self, pod: &PodName, memory: i64, limits: &Limits) -> Result<(), String>;
    /// How much of what was written to a socket its other end has not taken yet; None: nobody knows.
    fn untaken(&self, socket: BorrowedFd<'_>) -> Option<usize>;
    /// Whether a running container knows `user[:group]`.
    async fn knows(&self, pod: &PodName, user: &str) -> Result<(), String>;
    /// What the container's health check said since its start.
    fn checks(&self, pod: &PodName) -> Checks;
    /// The container's first process, in the machine's numbers; None: it doesn't run.
    fn pid(&self, pod: &PodName) -> Option<i32>;
    /// All of the container's processes. Blocking.
    fn processes(&self, pod: &PodName) -> Vec<i32>;
    /// Blocking.
    fn usage(&self, pod: &PodName) -> Option<Usage>;
    /// The folder of what containers of the namespace wrote into the root that they keep under this name; it may not be there yet.
    fn layer(&self, namespace: &str, name: &str) -> PathBuf;
    /// Forgets what was kept under this name. Blocking; nothing when there is nothing.
    fn drop_layer(&self, namespace: &str, name: &str) -> Result<(), String>;
}
