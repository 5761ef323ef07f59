//! podman with a store, settings and state of its own, so that it meets nothing of the machine's and leaves nothing there.
//!
//! Its runtime is `KNARR_BENCH_OCI` or runc (crun refuses hybrid cgroups). The network of a Pod is the first that works
//! here: a bridge (needs CNI's or netavark's programs and iptables), the host's, none.

use super::{Result, knarr, run};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// What the benchmarks run in it: busybox that sleeps, as `Platform::pack_busybox` makes it.
pub const IMAGE: &str = "docker.io/library/bench:1";

pub struct OwnPodman {
    dir: PathBuf,
    /// Its state: podman takes names of at most 50 bytes for it.
    state: tempfile::TempDir,
    runtime: String,
}

impl OwnPodman {
    /// One in a folder of its own; its store gets `bench:1` of the store in `data`, which is its Pods' pause as well.
    ///
    /// # Errors
    /// When podman isn't here, or doesn't take the image: as it said.
    pub fn new(dir: &Path, data: &Path) -> Result<OwnPodman> {
        let dir = dir.join("podman");
        fs::create_dir_all(&dir)?;
        // raising limits needs CAP_SYS_RESOURCE
        let settings = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\ninfra_image = \"{IMAGE}\"\n\
             infra_command = \"/bin/busybox sleep 1000000\"\n"
        );
        fs::write(dir.join("containers.conf"), settings)?;
        let podman = OwnPodman {
            runtime: std::env::var("KNARR_BENCH_OCI").unwrap_or_else(|_| "runc".into()),
            dir,
            state: tempfile::tempdir_in("/run")?,
        };
        let archive = podman.dir.join("bench.tar");
        let path = archive.display().to_string();
        run(knarr(data).args(["image", "save", "bench:1", &path]))?;
        run(podman.command().args(["load", "--input", &path]))?;
        fs::remove_file(archive)?;
        Ok(podman)
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new("podman");
        let dir = |name: &str| self.dir.join(name);
        command
            .env("CONTAINERS_CONF", dir("containers.conf"))
            .arg("--root")
            .arg(dir("root"))
            .arg("--runroot")
            .arg(self.state.path().join("run"))
            .arg("--tmpdir")
            .arg(self.state.path().join("tmp"))
            .args(["--storage-driver=overlay", "--cgroup-manager=cgroupfs"])
            .args(["--runtime", &self.runtime])
            .current_dir("/");
        command
    }

    /// The first network that `kube play` works with here.
    pub fn network(&self) -> Result<&'static str> {
        let mut last = None;
        for network in ["bridge", "host", "none"] {
            let file = self.pod(&format!("try-{network}"))?;
            let tried = self.play(&file, network);
            let _ = self.down(&file);
            match tried {
                Ok(_) => return Ok(network),
                Err(e) => {
                    eprintln!("podman kube play --network={network}: {e}");
                    last = Some(e);
                }
            }
        }
        Err(last.unwrap_or("no network".into()))
    }

    /// A file with the Pod that the platform gets, too.
    pub fn pod(&self, name: &str) -> Result<PathBuf> {
        let file = self.dir.join(format!("{name}.json"));
        let mut spec = super::ready::sleeping();
        spec["containers"][0]["image"] = IMAGE.into();
        let pod = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name },
            "spec": spec,
        });
        fs::write(&file, serde_json::to_vec(&pod)?)?;
        Ok(file)
    }

    /// `kube play`, from start to return: then its containers run.
    pub fn play(&self, file: &Path, network: &str) -> Result<Duration> {
        let begin = Instant::now();
        let network = format!("--network={network}");
        run(self.command().args(["kube", "play", &network]).arg(file))?;
        Ok(begin.elapsed())
    }

    pub fn down(&self, file: &Path) -> Result<()> {
        run(self.command().args(["kube", "down"]).arg(file))?;
        fs::remove_file(file)?;
        Ok(())
    }

    /// A sleeping container, by `run --detach`: how long it took, and its id.
    pub fn start(&self) -> Result<(Duration, String)> {
        let begin = Instant::now();
        let id = run(self
            .command()
            .args(["run", "--detach", "--network=none", IMAGE]))?;
        Ok((begin.elapsed(), id))
    }

    /// The command that runs a container to its end and removes it.
    pub fn once(&self, network: &str, words: &[&str]) -> Command {
        let mut command = self.command();
        let network = format!("--network={network}");
        command.args(["run", "--rm", &network, IMAGE]).args(words);
        command
    }

    pub fn remove(&self, id: &str) -> Result<()> {
        run(self.command().args(["rm", "--force", "--time=0", id]))?;
        Ok(())
    }
}

impl Drop for OwnPodman {
    fn drop(&mut self) {
        for words in [
            &["pod", "rm", "--all", "--force", "--time=0"][..],
            &["rm", "--all", "--force", "--time=0"],
        ] {
            if let Err(e) = run(self.command().args(words)) {
                eprintln!("removing podman's containers: {e}");
            }
        }
        // the store's own mount, which would keep the folder
        let _ = run(Command::new("umount")
            .arg("-q")
            .arg(self.dir.join("root/overlay")));
    }
}
