//! An app's latency while an image is built: wrk on nginx in a Pod, with nothing beside it, with builds, and with the same
//! work that gives way to nobody; in turns.
//!
//! `cargo bench -p knarr --bench beside_build` as root, with wrk and nginx. `KNARR_BENCH_ROUNDS` changes the five, each of
//! `KNARR_BENCH_SECONDS` (5) a side; nginx has one worker, wrk a thread and four connections: it waits, as users do.
//! `KNARR_BENCH_COPY_MB` changes the 400.

mod common;

use common::{Platform, Result, figures::Figures, isolated, ready::Pods, run, setting, web, wrk};
use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Until what is beside it has come to its work.
const BEGIN: Duration = Duration::from_millis(700);

/// A folder is copied, hashed and compressed: the builder's own work.
const COPY: &str = "FROM bench:1\nCOPY big /big\n";
/// Every processor computes: a compiler's work.
const COMPUTE: &str = "FROM bench:1\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"for i in 1 2 3 4 5 6 7 8; do \
    (while true; do /bin/busybox head -c 64000000 /dev/zero | /bin/busybox gzip | /bin/busybox sha256sum > /dev/null; done) & done; wait\"]\n";

fn main() -> Result<()> {
    isolated(bench())
}

async fn bench() -> Result<()> {
    let rounds = setting("KNARR_BENCH_ROUNDS", 5)?;
    let seconds = setting("KNARR_BENCH_SECONDS", 5)?;
    let platform = Platform::start()?;
    platform.pack_busybox()?;
    web::pack(&platform)?;
    let pods = Pods::new(platform.client().await?);
    let at = format!("{}:{}", web::start(&platform, &pods).await?, web::PORT);
    web::until_there(&at)?;
    let context = platform.data.path().join("context");
    fill(&context.join("big"), setting("KNARR_BENCH_COPY_MB", 400)?)?;
    let mut half = Figures::times("latency of a request, the half");
    let mut most = Figures::times("latency of a request, 99 of 100");
    let mut worked = Figures::new("requests a second", "1/s", common::figures::Better::More);
    for round in 0..=rounds {
        for (name, beside) in [
            ("alone", None),
            (
                "a build copies and packs",
                Some(Beside::build(&platform, COPY)),
            ),
            ("a build computes", Some(Beside::build(&platform, COMPUTE))),
            ("the same computing, by itself", Some(Beside::plain())),
        ] {
            let beside = beside.transpose()?;
            if beside.is_some() {
                std::thread::sleep(BEGIN);
            }
            let load = wrk::load(&at, 1, 4, seconds)?;
            if let Some(beside) = beside {
                beside.end()?;
            }
            // the first round warms
            if round > 0 {
                half.add(name, load.half_ms);
                most.add(name, load.most_ms);
                worked.add(name, load.requests);
            }
        }
    }
    for figures in [&half, &most, &worked] {
        figures.print();
    }
    Ok(())
}

/// Files of a quarter of a megabyte that compress a little.
fn fill(dir: &Path, megabytes: u64) -> Result<()> {
    let mut seed = 1_u32;
    for number in 0..megabytes * 4 {
        let folder = dir.join((number / 64).to_string());
        fs::create_dir_all(&folder)?;
        let mut bytes = Vec::with_capacity(1 << 18);
        while bytes.len() < 1 << 18 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.extend_from_slice(&(seed >> 8 & 0x0f0f_ffff).to_le_bytes());
        }
        fs::File::create(folder.join(number.to_string()))?.write_all(&bytes)?;
    }
    Ok(())
}

/// What runs beside the app, again and again until its end.
struct Beside {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<std::result::Result<(), String>>,
}

impl Beside {
    fn build(platform: &Platform, dockerfile: &str) -> Result<Beside> {
        let context = platform.data.path().join("context");
        let file = platform.data.path().join("beside.Dockerfile");
        fs::write(&file, dockerfile)?;
        let out = format!(
            "type=oci,dest={},compression=gzip,force-compression=true",
            platform.data.path().join("out.tar").display()
        );
        let data = platform.data.path().to_owned();
        Beside::start(move || {
            let mut build = common::knarr(&data);
            build.args(["build", "--no-cache", "--quiet", "-o", &out, "-f"]);
            build.arg(&file).arg(&context);
            build
        })
    }

    fn plain() -> Result<Beside> {
        let script = "for i in 1 2 3 4 5 6 7 8; do (while true; do busybox head -c 64000000 /dev/zero | busybox gzip | busybox sha256sum > /dev/null; done) & done; wait";
        Beside::start(move || {
            let mut shell = Command::new("setsid");
            shell.args(["--wait", "busybox", "sh", "-c", script]);
            shell
        })
    }

    fn start(command: impl Fn() -> Command + Send + 'static) -> Result<Beside> {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let mut child = command()
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .map_err(|e| e.to_string())?;
                let stopped = until(&mut child, &ended)?;
                let output = child.wait_with_output().map_err(|e| e.to_string())?;
                if !stopped && !output.status.success() {
                    return Err(String::from_utf8_lossy(&output.stderr).into_owned());
                }
            }
            Ok(())
        });
        Ok(Beside { over, thread })
    }

    fn end(self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.map_err(|_| "what ran beside panicked")??;
        Ok(())
    }
}

/// Waits for a process, or interrupts it and all that it started when it is to end. Tells whether it was interrupted.
fn until(child: &mut Child, over: &AtomicBool) -> std::result::Result<bool, String> {
    loop {
        if child.try_wait().map_err(|e| e.to_string())?.is_some() {
            return Ok(false);
        }
        if over.load(Ordering::Relaxed) {
            end_tree(child.id());
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A build ends its containers itself; a shell's children are told one by one.
fn end_tree(pid: u32) {
    let children = run(Command::new("pgrep").args(["-P", &pid.to_string()])).unwrap_or_default();
    let signal = rustix::process::Signal::INT;
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        let _ = rustix::process::kill_process(pid, signal);
    }
    for child in children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
    {
        end_tree(child);
        if let Some(pid) = rustix::process::Pid::from_raw(child as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
