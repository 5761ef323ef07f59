//! dockerd with its BuildKit, as Debian packs it, started for the comparison alone: data, sockets, network and mounts of its
//! own.
//!
//! `apt-get download docker.io containerd runc; for f in *.deb; do dpkg -x $f FOLDER; done` makes the folder.

use super::{run, text};
use anyhow::{Context, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub struct Docker {
    folder: PathBuf,
    socket: PathBuf,
    dir: PathBuf,
    process: Child,
}

/// The search path of what it starts: containerd, runc, its init.
fn path(folder: &Path) -> String {
    let own = ["usr/bin", "usr/sbin"].map(|d| folder.join(d).display().to_string());
    let machine = std::env::var("PATH").unwrap_or_default();
    format!("{}:{}:{machine}", own[0], own[1])
}

impl Docker {
    /// Starts the daemon of `folder`; what it writes is below `dir`.
    ///
    /// # Errors
    /// When it doesn't answer within a minute: with the end of its log.
    pub fn start(folder: &Path, dir: &Path) -> anyhow::Result<Docker> {
        fs::create_dir_all(dir)?;
        let (socket, log) = (dir.join("docker.sock"), dir.join("dockerd.log"));
        // raising limits needs CAP_SYS_RESOURCE, and containers need none of what Debian's settings say
        fs::write(dir.join("daemon.json"), "{}")?;
        // newer clients have BuildKit's part as a program of its own
        let plugins = folder.join("usr/libexec/docker/cli-plugins");
        if plugins.is_dir() {
            let _ = std::os::unix::fs::symlink(fs::canonicalize(plugins)?, dir.join("cli-plugins"));
        }
        let script =
            "umount /sys/fs/cgroup/unified 2>/dev/null; ip link set lo up || exit 1; exec \"$@\"";
        let process = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", script, "sh"])
            .arg(folder.join("usr/sbin/dockerd"))
            .arg("--config-file")
            .arg(dir.join("daemon.json"))
            .arg("--data-root")
            .arg(dir.join("data"))
            .arg("--exec-root")
            .arg(dir.join("exec"))
            .arg("--pidfile")
            .arg(dir.join("docker.pid"))
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .args([
                "--storage-driver=overlay2",
                "--exec-opt=native.cgroupdriver=cgroupfs",
            ])
            .env("PATH", path(folder))
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log)?)
            .stderr(fs::File::options().append(true).open(&log)?)
            .spawn()
            .context("unshare")?;
        let mut docker = Docker {
            folder: folder.into(),
            socket,
            dir: dir.into(),
            process,
        };
        let begin = Instant::now();
        loop {
            let Err(e) = run(&mut docker.command(&["version"])) else {
                return Ok(docker);
            };
            let ended = docker.process.try_wait()?.is_some();
            if ended || begin.elapsed() > Duration::from_secs(60) {
                let said = fs::read_to_string(&log)?;
                let lines: Vec<&str> = said.lines().rev().take(5).collect();
                bail!("dockerd does not start here: {e:#}\n{}", lines.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Its own client, with BuildKit.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.folder.join("usr/bin/docker"));
        command
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()))
            .env("DOCKER_CONFIG", &self.dir)
            .env("DOCKER_BUILDKIT", "1")
            .env("PATH", path(&self.folder))
            .args(arguments);
        command
    }

    /// Of the daemon: its network is not this process's.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Takes images from an archive.
    pub fn load(&self, archive: &str) -> anyhow::Result<String> {
        text(&mut self.command(&["load", "--input", archive]))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let begin = Instant::now();
        while matches!(self.process.try_wait(), Ok(None))
            && begin.elapsed() < Duration::from_secs(20)
        {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
