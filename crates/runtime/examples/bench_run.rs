//! How long it takes to run `/bin/true` in a container, wait for it and remove it: ours beside crun, runc and podman, on the same root file system, taking turns.
//!
//! `cargo run --release -p knarr-runtime --example bench_run [rounds] [pause_ms]` as root; podman takes a tenth of the rounds.
//!
//! The pause before each run matters: moving a process between v1 cgroups by pid waits for an RCU grace period, unless somebody did so some milliseconds ago. With 0 the others ride on each other's waits.
//!
//! The others make new network, ipc and uts namespaces each time, so the row to compare with theirs is "own sandbox"; a Pod's second container costs "in a sandbox". Ours does more in both: an overlay, the default seccomp filter, a log, an exit record on disk. Each of the others is a process that is started; ours is a call, as the platform makes it.
//!
//! With `KNARR_BENCH_EXE=<the platform's binary>` the shims are that program: memory and start-up grow with its relocations.
//!
//! All work in a copy of the mount namespace without the v2 tree of a hybrid host, where crun refuses to work.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use knarr_runtime::{Config, ContainerSpec, Runtime, SandboxSpec, dispatch_role};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const INSIDE: &str = "KNARR_BENCH_INSIDE";

fn main() -> Result<()> {
    dispatch_role();
    if std::env::var_os(INSIDE).is_none() {
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
        let error = Command::new("unshare")
            .args(["-m", "sh", "-c", script, "sh"])
            .arg(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        return Err(error.into());
    }
    let rounds: usize = match std::env::args().nth(1) {
        Some(n) => n.parse()?,
        None => 100,
    };
    let pause = match std::env::args().nth(2) {
        Some(n) => n.parse()?,
        None => 50,
    };
    let pause = Duration::from_millis(pause);
    let dir = tempfile::tempdir()?;
    let rootfs = dir.path().join("rootfs");
    fs::create_dir_all(rootfs.join("bin"))?;
    fs::copy("/bin/busybox", rootfs.join("bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", rootfs.join("bin/true"))?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(bench(dir.path(), &rootfs, rounds.max(2), pause))
}

struct Row {
    name: &'static str,
    times: Vec<Duration>,
}

async fn bench(dir: &Path, rootfs: &Path, rounds: usize, pause: Duration) -> Result<()> {
    bundle(dir, rootfs)?;
    let ours = Ours {
        runtime: Runtime::open(Config {
            root: dir.join("rt"),
            exe: match std::env::var_os("KNARR_BENCH_EXE") {
                Some(exe) => exe.into(),
                None => std::env::current_exe()?,
            },
            cgroup_parent: format!("/knarr-bench-{}", std::process::id()),
            host: Default::default(),
        })?,
        root: dir.join("rt"),
        rootfs: rootfs.to_owned(),
        logs: dir.join("logs"),
    };
    ours.runtime.create_sandbox(sandbox("standing")).await?;
    let mut rows: Vec<Row> = ["own sandbox", "in a sandbox", "crun", "runc", "podman"]
        .map(|name| Row {
            name,
            times: Vec::new(),
        })
        .into();
    let mut broken = Vec::new();
    // the first round warms caches and shows who works at all
    for round in 0..=rounds {
        for row in &mut rows {
            if row.name == "podman" && round > 0 && round % 10 != 0 {
                continue;
            }
            tokio::time::sleep(pause).await;
            let start = Instant::now();
            let done = match row.name {
                "own sandbox" => ours.with_sandbox(round).await,
                "in a sandbox" => ours.run("standing", &format!("b{round}")).await,
                "podman" => podman(rootfs),
                other => oci(other, dir, round),
            };
            let took = start.elapsed();
            match done {
                Ok(()) if round > 0 => row.times.push(took),
                Ok(()) => {}
                Err(e) if round == 0 => {
                    println!("{} does not work here: {e}", row.name);
                    broken.push(row.name);
                }
                Err(e) => return Err(format!("{}: {e}", row.name).into()),
            }
        }
        if round == 0 {
            rows.retain(|r| !broken.contains(&r.name));
        }
    }
    let memory = ours.shim_memory().await?;
    ours.runtime.purge().await?;
    print(&mut rows);
    println!("\n{memory}");
    Ok(())
}

fn print(rows: &mut [Row]) {
    for row in rows.iter_mut() {
        row.times.sort();
    }
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let median = |row: &Row| row.times.get(row.times.len() / 2).copied();
    let base = rows.first().and_then(median).map_or(f64::NAN, ms);
    println!("| /bin/true: run, wait, remove | n | min ms | median ms | p99 ms | ratio to ours |");
    println!("|---|---:|---:|---:|---:|---:|");
    for row in rows.iter() {
        let (Some(min), Some(mid)) = (row.times.first(), median(row)) else {
            continue;
        };
        let p99 = row.times[(row.times.len() * 99).div_ceil(100) - 1];
        println!(
            "| {} | {} | {:.1} | {:.1} | {:.1} | {:.2} |",
            row.name,
            row.times.len(),
            ms(*min),
            ms(mid),
            ms(p99),
            ms(mid) / base,
        );
    }
}

fn sandbox(id: &str) -> SandboxSpec {
    SandboxSpec {
        id: id.into(),
        hostname: "bench".into(),
        ..SandboxSpec::default()
    }
}

struct Ours {
    runtime: Runtime,
    root: PathBuf,
    rootfs: PathBuf,
    logs: PathBuf,
}

impl Ours {
    fn spec(&self, sandbox: &str, id: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.into(),
            sandbox: sandbox.into(),
            lower: vec![self.rootfs.clone()],
            args: vec!["/bin/true".into()],
            env: vec!["PATH=/bin".into()],
            cwd: "/".into(),
            cgroup: format!("pod-{sandbox}/{id}"),
            capabilities: ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
                .map(String::from)
                .into(),
            no_new_privileges: true,
            log_path: self.logs.join(id).join("0.log"),
            ..ContainerSpec::default()
        }
    }

    async fn run(&self, sandbox: &str, id: &str) -> Result<()> {
        let spec = self.spec(sandbox, id);
        self.runtime.run(spec).await?;
        let exit = self.runtime.wait(id).await?;
        self.runtime.delete(id).await?;
        match exit.code {
            0 => Ok(()),
            code => Err(format!("exit code {code}").into()),
        }
    }

    /// What a shim costs while its container runs.
    async fn shim_memory(&self) -> Result<String> {
        let spec = ContainerSpec {
            args: vec!["/bin/busybox".into(), "sleep".into(), "1000".into()],
            ..self.spec("standing", "idle")
        };
        self.runtime.run(spec).await?;
        let file = self.root.join("containers/idle/shim.json");
        let shim: serde_json::Value = serde_json::from_slice(&fs::read(file)?)?;
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", shim["pid"]))?;
        let kib = |key: &str| -> u64 {
            text.lines()
                .filter(|l| l.starts_with(key))
                .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
                .sum()
        };
        Ok(format!(
            "shim of a running container: {} KiB its own (private and written to), {} KiB PSS",
            kib("Private_Dirty"),
            kib("Pss:")
        ))
    }

    async fn with_sandbox(&self, round: usize) -> Result<()> {
        let id = format!("s{round}");
        self.runtime.create_sandbox(sandbox(&id)).await?;
        self.run(&id, &format!("a{round}")).await?;
        self.runtime.delete_sandbox(&id).await?;
        Ok(())
    }
}

/// `config.json` as `runc spec` writes it, but for the command and the terminal.
fn bundle(dir: &Path, rootfs: &Path) -> Result<()> {
    let made = Command::new("runc").arg("spec").current_dir(dir).status();
    if !made.is_ok_and(|s| s.success()) {
        return Err("`runc spec` failed: install runc (Debian: apt-get install runc)".into());
    }
    let path = dir.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    config["root"] = serde_json::json!({ "path": rootfs, "readonly": false });
    // raising limits needs CAP_SYS_RESOURCE
    config["process"]["rlimits"] = serde_json::json!([]);
    fs::write(path, serde_json::to_vec(&config)?)?;
    Ok(())
}

fn quiet(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr)
        .trim()
        .to_owned()
        .into())
}

fn oci(program: &str, bundle: &Path, round: usize) -> Result<()> {
    let id = format!("knarr-bench-{}-{round}", std::process::id());
    quiet(
        Command::new(program)
            .arg("run")
            .arg("-b")
            .arg(bundle)
            .arg(id),
    )
}

fn podman(rootfs: &Path) -> Result<()> {
    let limits = [
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
    ];
    quiet(
        Command::new("podman")
            .args(["run", "--rm", "--network=none"])
            .args(limits)
            .arg("--rootfs")
            .arg(rootfs)
            .arg("/bin/true")
            .current_dir("/"),
    )
}
