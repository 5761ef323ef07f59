#![allow(dead_code, reason = "each test file uses a part")]
//! A runtime in a folder of its own, a busybox root file system, and the promise that nothing stays.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use knarr_runtime::{
    Config, Container, ContainerSpec, EnteredProcess, Error, ExecSpec, Exit, Runtime, SandboxSpec,
};

pub const EXE: &str = env!("CARGO_BIN_EXE_knarr-runtime-test");
/// Generous: the machine may be busy.
pub const SOON: Duration = Duration::from_secs(60);

pub struct World {
    pub dir: tempfile::TempDir,
    pub runtime: Option<Runtime>,
    pub cgroup_parent: String,
}

pub fn busybox(dir: &Path) {
    for d in [
        "bin", "etc", "tmp", "proc", "sys", "dev", "root", "home/web",
    ] {
        fs::create_dir_all(dir.join(d)).unwrap();
        // whatever the umask: containers of others than root look in there
        for made in [dir.join(d), dir.join("home"), dir.to_owned()] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            if made.is_dir() {
                fs::set_permissions(made, mode).unwrap();
            }
        }
    }
    fs::copy("/bin/busybox", dir.join("bin/busybox"))
        .expect("these tests need Debian's busybox-static in /bin/busybox");
    for applet in [
        "sh", "true", "false", "sleep", "cat", "echo", "id", "ls", "ps", "env", "mount", "dd",
        "head", "tail", "mkdir", "touch", "hostname", "stty", "seq", "yes", "kill", "mknod",
        "chroot", "readlink", "grep", "wc", "tty", "date", "unshare", "chmod", "rm", "stat", "cp",
        "chown", "ip", "umount", "ln", "mv", "find", "nsenter",
    ] {
        std::os::unix::fs::symlink("busybox", dir.join("bin").join(applet)).unwrap();
    }
    fs::write(
        dir.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n",
    )
    .unwrap();
}

impl World {
    pub fn new() -> World {
        assert!(
            rustix_is_root(),
            "the runtime's tests make containers: run them as root"
        );
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        busybox(&dir.path().join("image"));
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut world = World {
            dir,
            runtime: None,
            cgroup_parent: format!("/knarr-test-{}-{n}", std::process::id()),
        };
        world.open();
        world
    }

    pub fn config(&self) -> Config {
        Config {
            root: self.dir.path().join("rt"),
            exe: EXE.into(),
            cgroup_parent: self.cgroup_parent.clone(),
            host: Default::default(),
        }
    }

    pub fn open(&mut self) {
        self.runtime = Some(Runtime::open(self.config()).unwrap());
    }

    /// As if the platform had gone and come back.
    pub fn reopen(&mut self) {
        self.runtime = None;
        // the old one's lock goes with its last clone, which a background task may hold for a moment
        let end = Instant::now() + SOON;
        loop {
            match Runtime::open(self.config()) {
                Ok(runtime) => {
                    self.runtime = Some(runtime);
                    return;
                }
                Err(e) if Instant::now() > end => panic!("{e}"),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    pub fn rt(&self) -> &Runtime {
        self.runtime.as_ref().unwrap()
    }

    pub fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    pub async fn sandbox(&self, id: &str) {
        self.sandbox_with(id, |_| {}).await;
    }

    pub async fn sandbox_with(&self, id: &str, change: impl FnOnce(&mut SandboxSpec)) {
        let mut spec = SandboxSpec {
            id: id.into(),
            hostname: format!("host-{id}"),
            ..SandboxSpec::default()
        };
        change(&mut spec);
        self.rt().create_sandbox(spec).await.unwrap();
    }

    /// A container `id` in sandbox `s` that runs a shell script.
    pub fn spec(&self, id: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.into(),
            sandbox: "s".into(),
            lower: vec![self.image()],
            args: vec!["/bin/sh".into(), "-c".into(), script.into()],
            env: vec!["PATH=/bin".into()],
            cwd: "/".into(),
            cgroup: format!("pod/{id}"),
            capabilities: default_capabilities(),
            log_path: self.log_path(id),
            ..ContainerSpec::default()
        }
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.dir.path().join("logs").join(id).join("0.log")
    }

    /// The log without times and tags.
    pub fn log(&self, id: &str) -> String {
        let text = fs::read_to_string(self.log_path(id)).unwrap_or_default();
        text.lines()
            .map(|l| l.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n")
            .collect()
    }

    /// The log once it is as wanted.
    pub async fn log_when(&self, id: &str, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + SOON;
        loop {
            let log = self.log(id);
            if wanted(&log) {
                return log;
            }
            assert!(Instant::now() < end, "the log of {id} stays {log:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn run(&self, spec: ContainerSpec) -> Container {
        self.rt().run(spec).await.unwrap()
    }

    pub async fn wait(&self, id: &str) -> Exit {
        tokio::time::timeout(SOON, self.rt().wait(id))
            .await
            .unwrap_or_else(|_| panic!("{id} did not end"))
            .unwrap()
    }

    /// Runs a script to its end; its exit code and its output.
    pub async fn output(&self, spec: ContainerSpec) -> (i32, String) {
        let id = spec.id.clone();
        self.run(spec).await;
        let exit = self.wait(&id).await;
        (exit.code, self.log(&id))
    }

    /// Runs a command in a container while no runtime is open; its exit code and what it says, which is little.
    pub fn enter(&self, id: &str, spec: &ExecSpec) -> Result<(i32, String, String), Error> {
        assert!(self.runtime.is_none(), "it holds the root");
        // whose lock goes with its last clone, which a background task may hold for a moment
        let end = Instant::now() + SOON;
        let process = loop {
            if let Some(process) = EnteredProcess::start(&self.config(), id, spec)? {
                break process;
            }
            assert!(Instant::now() < end, "{id} can't be entered");
            std::thread::sleep(Duration::from_millis(10));
        };
        let [out, err] = [&process.stdout, &process.stderr].map(|fd| {
            let mut text = String::new();
            let mut file = fs::File::from(fd.try_clone().unwrap());
            std::io::Read::read_to_string(&mut file, &mut text).unwrap();
            text
        });
        Ok((process.wait(), out, err))
    }

    /// What of this world can be seen on the machine: mounts, cgroups, processes.
    pub fn traces(&self) -> Vec<String> {
        traces(&self.dir.path().join("rt"), &self.cgroup_parent)
    }
}

pub fn traces(root: &Path, cgroup_parent: &str) -> Vec<String> {
    let mut found = Vec::new();
    let root_text = root.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(
        mounts
            .lines()
            .filter(|l| l.contains(root_text))
            .map(|l| format!("mount {l}")),
    );
    let name = cgroup_parent.trim_start_matches('/');
    let mut tops = vec![PathBuf::from("/sys/fs/cgroup")];
    tops.extend(
        fs::read_dir("/sys/fs/cgroup")
            .unwrap()
            .flatten()
            .map(|e| e.path()),
    );
    found.extend(
        tops.iter()
            .map(|t| t.join(name))
            .filter(|p| p.exists())
            .map(|p| format!("cgroup {}", p.display())),
    );
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let dir = entry.path();
        let text = |f: &str| fs::read_to_string(dir.join(f)).unwrap_or_default();
        // a dead orphan is the machine's first process's to take off
        let stat = text("stat");
        if stat.rsplit(')').next().is_some_and(|s| s.starts_with(" Z")) {
            continue;
        }
        if text("cgroup").contains(cgroup_parent) {
            found.push(format!("process {} {}", dir.display(), text("comm").trim()));
        }
        // shims hold their container's lock
        if text("comm").trim() == "knarr-shim"
            && let Ok(fds) = fs::read_dir(dir.join("fd"))
            && fds
                .flatten()
                .any(|f| fs::read_link(f.path()).is_ok_and(|t| t.starts_with(root)))
        {
            found.push(format!("shim {}", dir.display()));
        }
    }
    found
}

fn rustix_is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .any(|l| l.starts_with("Uid:\t0\t0"))
}

/// What containerd gives.
pub fn default_capabilities() -> Vec<String> {
    [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
    .iter()
    .map(|c| format!("CAP_{c}"))
    .collect()
}

impl Drop for World {
    fn drop(&mut self) {
        let runtime = self.runtime.take();
        let config = self.config();
        let left = std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            tokio.block_on(async {
                let runtime = match runtime {
                    Some(r) => r,
                    None => Runtime::open(config).map_err(|e| e.to_string())?,
                };
                runtime.purge().await.map_err(|e| e.to_string())
            })
        })
        .join();
        let traces = self.traces();
        if !std::thread::panicking() {
            assert!(matches!(left, Ok(Ok(()))), "purge: {left:?}");
            assert!(traces.is_empty(), "left behind: {traces:#?}");
        }
    }
}
