//! A platform of its own for each benchmark: this build's program, a fresh data directory, a network namespace without the
//! outside, a mount namespace without the v2 tree of a hybrid host (where crun, and so podman, refuse to work).
#![allow(dead_code)] // each benchmark uses its part

pub mod figures;
pub mod podman;
pub mod ready;
pub mod web;
pub mod wrk;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub const KNARR: &str = env!("CARGO_BIN_EXE_knarr");
const INSIDE: &str = "KNARR_BENCH_INSIDE";

/// Starts this program again inside namespaces of its own. First thing in `main`.
pub fn isolate() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err("containers need root: run the benchmark as root".into());
    }
    let script =
        "umount /sys/fs/cgroup/unified 2>/dev/null; ip link set lo up || exit 1; exec \"$@\"";
    let error = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(error.into())
}

/// Runs the benchmark in namespaces of its own. All of `main`.
pub fn isolated(bench: impl Future<Output = Result<()>>) -> Result<()> {
    isolate()?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(bench)
}

/// A number from the environment, or `default`.
pub fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => Ok(text.parse()?),
        Err(_) => Ok(default),
    }
}

/// A platform that runs; its end takes everything with it.
pub struct Platform {
    pub data: tempfile::TempDir,
    /// From the start of the process to the API being served.
    pub started_in: Duration,
    process: Child,
}

impl Platform {
    pub fn start() -> Result<Platform> {
        Platform::start_with(&[])
    }

    /// As [`Platform::start`], with more said to `knarr serve`.
    pub fn start_with(arguments: &[&str]) -> Result<Platform> {
        let place = std::env::var_os("KNARR_BENCH_DIR")
            .unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
        fs::create_dir_all(&place)?;
        let data = tempfile::tempdir_in(place)?;
        let log = fs::File::create(data.path().join("serve.log"))?;
        let begin = Instant::now();
        let mut process = knarr(data.path())
            .arg("serve")
            .args(arguments)
            .env("KNARR_READY_FD", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let mut said = String::new();
        if let Some(out) = process.stdout.take() {
            BufReader::new(out).read_line(&mut said)?;
        }
        let platform = Platform {
            started_in: begin.elapsed(),
            process,
            data,
        };
        match said.trim() {
            "ready" => Ok(platform),
            other => Err(format!("the platform did not start: {other}").into()),
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// A verb of the command line on this platform.
    pub fn knarr(&self) -> Command {
        knarr(self.data.path())
    }

    pub async fn client(&self) -> Result<kube::Client> {
        let kubeconfig = kube::config::Kubeconfig::read_from(self.data.path().join("kubeconfig"))?;
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// Packs the machine's busybox as `bench:1`, which sleeps.
    pub fn pack_busybox(&self) -> Result<()> {
        run(self.knarr().args(["image", "pack", "/bin/busybox"]).args([
            "--bare",
            "--entrypoint",
            "/bin/busybox",
            "--name",
            "bench:1",
            "--cmd",
            "sleep",
            "--cmd",
            "1000000",
        ]))?;
        Ok(())
    }

    /// Process ids of the containers' shims.
    pub fn shims(&self) -> Result<Vec<u32>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.data.path().join("runtime/containers"))? {
            let Ok(text) = fs::read(entry?.path().join("shim.json")) else {
                continue;
            };
            let shim: serde_json::Value = serde_json::from_slice(&text)?;
            let pid = shim["pid"].as_u64().ok_or("a shim without a pid")?;
            if Path::new(&format!("/proc/{pid}")).exists() {
                all.push(pid as u32);
            }
        }
        Ok(all)
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
        if let Err(e) = run(self.knarr().args(["stop", "--purge"])) {
            eprintln!("cleaning up {}: {e}", self.data.path().display());
        }
    }
}

pub fn knarr(data: &Path) -> Command {
    let mut command = Command::new(KNARR);
    command.arg("--data-dir").arg(data);
    command
}

/// Runs to the end; gives the output, or the reason as it was said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_string();
        return Err(format!("{:?}: {text}", command.get_program()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// What a process keeps in memory, KiB.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    /// Its own and its share of what it shares.
    pub pss: u64,
    /// Heap, stacks and written data.
    pub anonymous: u64,
}

impl std::ops::Add for Memory {
    type Output = Memory;
    fn add(self, other: Memory) -> Memory {
        Memory {
            pss: self.pss + other.pss,
            anonymous: self.anonymous + other.anonymous,
        }
    }
}

pub fn memory(pid: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |key: &str| -> u64 {
        text.lines()
            .find_map(|l| l.strip_prefix(key))
            .and_then(|l| l.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    };
    Ok(Memory {
        pss: field("Pss:"),
        anonymous: field("Pss_Anon:"),
    })
}

pub fn memory_of(pids: &[u32]) -> Result<Memory> {
    pids.iter()
        .try_fold(Memory::default(), |sum, pid| Ok(sum + memory(*pid)?))
}

/// Time on a processor of all the threads that a process has now, and how often they slept.
pub fn cpu(pid: u32) -> Result<(Duration, u64)> {
    let (mut nanoseconds, mut sleeps) = (0, 0);
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        // a thread may end meanwhile
        let stat = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
        nanoseconds += stat
            .split(' ')
            .next()
            .and_then(|t| t.parse::<u64>().ok())
            .unwrap_or(0);
        let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
        sleeps += status
            .lines()
            .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))
            .and_then(|t| t.trim().parse::<u64>().ok())
            .unwrap_or(0);
    }
    Ok((Duration::from_nanos(nanoseconds), sleeps))
}

/// The value below which a share of all lies.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

pub fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

pub fn mb(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}

/// podman's containers that a benchmark made; their end is the benchmark's.
#[derive(Default)]
pub struct Podman {
    pub ids: Vec<String>,
    root: Option<PathBuf>,
}

impl Podman {
    /// A root file system that holds busybox.
    pub fn new(dir: &Path) -> Result<Podman> {
        let root = dir.join("podman-rootfs");
        fs::create_dir_all(root.join("bin"))?;
        fs::copy("/bin/busybox", root.join("bin/busybox"))?;
        Ok(Podman {
            ids: Vec::new(),
            root: Some(root),
        })
    }

    /// The command that starts a sleeping container and returns when it runs.
    pub fn start(&self) -> Command {
        let mut command = Command::new("podman");
        command
            .args(["run", "--detach", "--network=none"])
            // raising limits needs CAP_SYS_RESOURCE
            .args(["--ulimit", "nofile=1024:1024", "--ulimit"])
            .args(["nproc=1024:1024", "--rootfs"])
            .args(&self.root)
            .args(["/bin/busybox", "sleep", "1000000"])
            .current_dir("/");
        command
    }

    pub fn remove(id: &str) -> Result<()> {
        run(Command::new("podman").args(["rm", "--force", "--time=0", id]))?;
        Ok(())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        for id in &self.ids {
            if let Err(e) = Podman::remove(id) {
                eprintln!("removing podman's container {id}: {e}");
            }
        }
    }
}
