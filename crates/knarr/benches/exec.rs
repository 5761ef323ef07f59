//! `true` executed in a container that runs: over the API (WebSocket, as `kubectl exec`) and by `knarr exec`, in turns with
//! `runc exec`, `crun exec` and `podman exec` in containers of the same program.
//!
//! `cargo bench -p knarr --bench exec` as root. `KNARR_BENCH_RUNS` changes the hundred.
//!
//! The first row is the API's: TLS, an authorization, a WebSocket and its end are in it; runc and crun are processes that
//! are started, as the row of `knarr exec` is, which is compared with them.

mod common;

use common::{
    Platform, Result,
    figures::Figures,
    isolated, knarr,
    podman::OwnPodman,
    ready::{Pods, sleeping},
    run, setting,
};
use kube::api::AttachParams;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const TRUE: [&str; 2] = ["/bin/busybox", "true"];

fn main() -> Result<()> {
    isolated(bench())
}

async fn bench() -> Result<()> {
    let runs = setting("KNARR_BENCH_RUNS", 100)?;
    let platform = Platform::start()?;
    platform.pack_busybox()?;
    let pods = Pods::new(platform.client().await?);
    pods.start("target", sleeping()).await?;

    let alone = platform.data.path().join("alone");
    fs::create_dir_all(&alone)?;
    let alone = Alone::start(&alone)?;
    let runc = Oci::start("runc", platform.data.path());
    let crun = Oci::start("crun", platform.data.path());
    let podman = OwnPodman::new(platform.data.path(), platform.data.path())
        .and_then(|p| p.start().map(|(_, id)| (p, id)));

    let mut figures = Figures::times("exec of true");
    over_api(&pods).await?;
    for _ in 0..runs {
        figures.took("knarr exec, a container by itself", timed(alone.exec())?);
        for (name, oci) in [("runc exec", &runc), ("crun exec", &crun)] {
            figures.attempt(name, || {
                let oci = oci.as_ref().map_err(|e| e.to_string())?;
                Ok(common::ms(timed(oci.exec())?))
            });
        }
        figures.attempt("podman exec", || {
            let (podman, id) = podman.as_ref().map_err(|e| e.to_string())?;
            let mut command = podman.command();
            command.arg("exec").arg(id).args(TRUE);
            Ok(common::ms(timed(command)?))
        });
        figures.took("knarr's API, over a WebSocket", over_api(&pods).await?);
    }
    figures.print();
    Ok(())
}

fn timed(mut command: Command) -> Result<Duration> {
    let begin = Instant::now();
    run(&mut command)?;
    Ok(begin.elapsed())
}

/// From the request to the command's exit status.
async fn over_api(pods: &Pods) -> Result<Duration> {
    let begin = Instant::now();
    let mut process = pods
        .api
        .exec("target", TRUE, &AttachParams::default())
        .await?;
    let status = process.take_status().ok_or("no status")?;
    let status = status.await.ok_or("the session ended without a status")?;
    let took = begin.elapsed();
    match status.status.as_deref() {
        Some("Success") => Ok(took),
        _ => Err(format!("{status:?}").into()),
    }
}

/// A container without a platform.
struct Alone {
    data: PathBuf,
}

impl Alone {
    fn start(data: &Path) -> Result<Alone> {
        let alone = Alone { data: data.into() };
        let pack = [
            "image",
            "pack",
            "/bin/busybox",
            "--bare",
            "--name",
            "bench:1",
        ];
        run(knarr(data).args(pack))?;
        run(knarr(data)
            .args([
                "run",
                "--detach",
                "--name",
                "target",
                "--network=none",
                "bench:1",
            ])
            .args(["sleep", "1000000"]))?;
        Ok(alone)
    }

    fn exec(&self) -> Command {
        let mut command = knarr(&self.data);
        command.args(["exec", "target"]).args(TRUE);
        command
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Err(e) = run(knarr(&self.data).args(["stop", "--purge"])) {
            eprintln!("removing the container: {e}");
        }
    }
}

/// A container that sleeps, of an OCI runtime.
struct Oci {
    program: &'static str,
    id: String,
    process: Child,
}

impl Oci {
    fn start(program: &'static str, dir: &Path) -> Result<Oci> {
        let bundle = dir.join(program);
        fs::create_dir_all(bundle.join("rootfs/bin"))?;
        fs::copy("/bin/busybox", bundle.join("rootfs/bin/busybox"))?;
        run(Command::new(program).arg("spec").current_dir(&bundle))?;
        let path = bundle.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["/bin/busybox", "sleep", "1000000"]);
        // raising limits needs CAP_SYS_RESOURCE
        config["process"]["rlimits"] = serde_json::json!([]);
        fs::write(path, serde_json::to_vec(&config)?)?;
        let id = format!("knarr-bench-exec-{}", std::process::id());
        let process = Command::new(program)
            .args(["run", "--bundle"])
            .arg(&bundle)
            .arg(&id)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join(format!("{program}.log")))?)
            .spawn()?;
        let mut oci = Oci {
            program,
            id,
            process,
        };
        // until its first exec works
        let begin = Instant::now();
        loop {
            let Err(e) = run(&mut oci.exec()) else {
                return Ok(oci);
            };
            if oci.process.try_wait()?.is_some() || begin.elapsed() > Duration::from_secs(10) {
                let said = fs::read_to_string(dir.join(format!("{program}.log")))?;
                return Err(format!("{said}{e}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn exec(&self) -> Command {
        let mut command = Command::new(self.program);
        command.arg("exec").arg(&self.id).args(TRUE);
        command
    }
}

impl Drop for Oci {
    fn drop(&mut self) {
        let _ = run(Command::new(self.program).args(["delete", "--force", &self.id]));
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
