//! A machine of its own for each test: a network namespace, a data directory, and the real program.
//!
//! When a test ends, also by a panic, everything it started is purged; and then nothing may be left.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use serde_json::Value;

pub const KNARR: &str = env!("CARGO_BIN_EXE_knarr");
/// Far more than anything takes, on the slowest machine.
pub const DEADLINE: Duration = Duration::from_secs(180);

static TURN: Mutex<()> = Mutex::new(());

/// One test at a time: each may use the whole machine, and a process that another one is just starting would hold what
/// this one has open.
pub fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|e| e.into_inner())
}

pub struct Crew {
    dir: tempfile::TempDir,
    pub data: PathBuf,
    served: Mutex<Option<Child>>,
}

/// Runs a test on a machine of its own.
pub fn crew(test: impl FnOnce(&Crew) + Send) {
    let _turn = turn();
    let work = move || {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root: they run containers"
        );
        // SAFETY: only this thread's network namespace changes; children and threads made from here on share it.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        shell("ip link set lo up");
        let (before, settings_before) = (traces(), settings());
        let dir = tempfile::Builder::new().prefix("kn").tempdir().unwrap();
        let crew = Crew {
            data: dir.path().join("d"),
            dir,
            served: Mutex::default(),
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&crew)));
        if result.is_err() {
            eprintln!("--- log of the platform\n{}", crew.log());
        }
        let (cgroup, pids) = (crew.cgroup(), crew.shims());
        let purged = crew.knarr(&["stop", "--purge"]);
        crew.wait_served();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let data = crew.data.to_str().unwrap();
        if mounts.lines().any(|l| l.split(' ').nth(4) == Some(data)) {
            shell(&format!("umount {data}; rmdir {data}")); // a disk that the test made
        }
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        assert!(purged.status.success(), "{}", text(&purged));
        assert_eq!(
            before,
            traces(),
            "what the machine looks like before and after"
        );
        // More of them than before come with the kernel's modules, which stay once they were needed.
        let settings = settings();
        let changed = settings_before.difference(&settings);
        assert_eq!(
            changed.collect::<Vec<_>>(),
            [""; 0],
            "settings of the kernel were changed"
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let left = mounts.lines().filter(|l| l.contains(dir_name(&crew)));
        assert_eq!(left.collect::<Vec<_>>(), [""; 0], "mounts are left");
        if let Some(cgroup) = cgroup {
            // others' groups come and go meanwhile
            let left = shell(&format!(
                "find /sys/fs/cgroup -name {cgroup} 2>/dev/null || true"
            ));
            assert_eq!(left, "", "control groups are left");
        }
        for pid in pids {
            // A zombie is for whoever is process 1 here to reap.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let left = stat.contains("(knarr") && !stat.contains(") Z ");
            assert!(!left, "a process is left: {stat}");
        }
        assert!(!crew.data.exists(), "files are left in the data directory");
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(work).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn dir_name(crew: &Crew) -> &str {
    crew.dir.path().to_str().unwrap()
}

/// The kernel's settings of this network namespace, with their values.
fn settings() -> BTreeSet<String> {
    let mut folders = ["ipv4", "ipv6", "core", "netfilter"]
        .map(|name| PathBuf::from("/proc/sys/net").join(name))
        .to_vec();
    let mut all = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type().is_ok_and(|t| t.is_dir()) {
                true => folders.push(entry.path()),
                // A count of connections, and keys the kernel draws when first asked, are no settings.
                false => all.extend(fs::read_to_string(entry.path()).ok().and_then(|value| {
                    let name = entry.path().display().to_string();
                    let counts = name.ends_with("_count") || name.ends_with("fastopen_key");
                    (!counts).then(|| format!("{name} = {}", value.trim()))
                })),
            }
        }
    }
    assert!(all.len() > 100, "settings can be read: {all:?}");
    all
}

/// What knarr could leave behind outside its data directory, but for control groups.
fn traces() -> Vec<String> {
    let mine = |path: &str| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        names
            .filter(|name| name.contains("knarr"))
            .collect::<BTreeSet<_>>()
    };
    let mut all = [
        "nft list ruleset",
        "ip -o addr",
        "ip -o link",
        "ip route show table all",
        "ip netns list",
    ]
    .map(shell)
    .to_vec();
    all.push(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap());
    for dir in ["/run", "/var/lib", "/var/run/netns", "/etc"] {
        all.push(format!("{dir}: {:?}", mine(dir)));
    }
    all
}

/// Output of a command line that must succeed.
pub fn shell(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// Both outputs, for messages.
pub fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

/// Tries until it gives something.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) if Instant::now() > end => {
                panic!("{what}: not within {DEADLINE:?}; last seen: {last}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

impl Crew {
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.data.join("knarr.log")).unwrap_or_default()
    }

    pub fn cgroup(&self) -> Option<String> {
        let text = fs::read(self.data.join("settings.json")).ok()?;
        let settings: Value = serde_json::from_slice(&text).ok()?;
        Some(format!("knarr-{}", settings["instance"].as_str()?))
    }

    fn shims(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.data.join("runtime/containers"));
        let shim = |dir: PathBuf| {
            let text = fs::read(dir.join("shim.json")).ok()?;
            serde_json::from_slice::<Value>(&text).ok()?["pid"].as_u64()
        };
        let entries = entries.into_iter().flatten().flatten();
        entries.filter_map(|e| shim(e.path())).collect()
    }

    /// A file in the test's folder; answers its path.
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_string()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.in_crew(KNARR);
        command.args(arguments);
        command
    }

    /// Any program, with knarr's environment.
    pub fn in_crew(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("KNARR_DATA_DIR", &self.data)
            .env_remove("KUBECONFIG")
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    pub fn knarr(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Output of a verb that must succeed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.knarr(arguments);
        assert!(
            output.status.success(),
            "knarr {arguments:?}: {}",
            text(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Packs the machine's busybox as `busybox:1`, with the applets that tests use.
    pub fn busybox(&self) {
        let bin = self.dir.path().join("root/bin");
        fs::create_dir_all(&bin).unwrap();
        // whatever the umask: containers of others than root look in there
        shell(&format!("chmod 755 {0} {0}/..", bin.display()));
        let applets = [
            "sh", "sleep", "echo", "cat", "date", "ls", "wget", "nslookup", "httpd", "nc", "env",
            "kill", "touch", "rm", "mkdir", "true", "false", "id", "tar", "ps", "seq", "hostname",
            "grep",
        ];
        for applet in applets {
            let _ = std::os::unix::fs::symlink("/bin/busybox", bin.join(applet));
        }
        let root = format!("{}:/", self.dir.path().join("root").display());
        self.ok(&[
            "image",
            "pack",
            "--name",
            "busybox:1",
            "/bin/busybox",
            "--add",
            &root,
            "--cmd",
            "sh",
        ]);
    }

    /// The platform in the foreground, as the test's child.
    pub fn serve(&self) {
        self.serve_with(&[]);
    }

    /// The same, with more arguments.
    pub fn serve_with(&self, arguments: &[&str]) {
        let mut command = self.command(&["serve"]);
        command.args(arguments);
        self.serve_as(command);
    }

    /// The same, with more in its environment.
    pub fn serve_env(&self, environment: &[(&str, &str)]) {
        let mut command = self.command(&["serve"]);
        command.envs(environment.iter().copied());
        self.serve_as(command);
    }

    /// The platform as this command starts it.
    pub fn serve_as(&self, mut command: Command) {
        let log = || {
            let path = self.data.join("knarr.log");
            fs::create_dir_all(&self.data).unwrap();
            fs::File::options()
                .create(true)
                .append(true)
                .open(path)
                .unwrap()
        };
        let child = command.stdout(log()).stderr(log()).spawn().unwrap();
        *self.served.lock().unwrap() = Some(child);
        eventually("the API answers", || {
            let output = self.kubectl(&["get", "--raw", "/readyz"]);
            match output.status.success() {
                true => Ok(()),
                false => Err(text(&output)),
            }
        });
    }

    /// The platform's process, dead at once.
    pub fn kill(&self) {
        let served = self.served.lock().unwrap().take();
        let mut child = served.expect("the platform is the test's own child");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn wait_served(&self) {
        if let Some(mut child) = self.served.lock().unwrap().take() {
            let _ = child.wait();
        }
    }

    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        // `:` parts several; the first is the one that .ci/run unpacks.
        let all = std::env::var("KNARR_KUBECTL").unwrap_or_else(|_| "kubectl".into());
        let mut command = Command::new(all.split(':').next().unwrap());
        command
            .args(arguments)
            .env("KUBECONFIG", self.data.join("kubeconfig"))
            .env("HOME", self.dir.path())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_command(arguments)
            .output()
            .expect("kubectl runs: install Debian's kubernetes-client or set KNARR_KUBECTL")
    }

    /// Output of a kubectl line that must succeed.
    pub fn kube(&self, line: &str) -> String {
        let arguments = line.split_whitespace().collect::<Vec<_>>();
        let output = self.kubectl(&arguments);
        assert!(output.status.success(), "kubectl {line}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    }

    /// Pod name → id of its first container, of Pods that are to stay.
    pub fn containers(&self, namespace: &str) -> Vec<(String, String)> {
        let list: Value =
            serde_json::from_str(&self.kube(&format!("-n {namespace} get pods -o json"))).unwrap();
        let pod = |pod: &Value| {
            // one that is to go may go at any time
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                return None;
            }
            let id = &pod["status"]["containerStatuses"][0]["containerID"];
            let name = pod["metadata"]["name"].as_str()?;
            Some((name.to_string(), id.as_str()?.to_string()))
        };
        let mut all = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(pod)
            .collect::<Vec<_>>();
        all.sort();
        all
    }

    /// The processes of that name in this test's containers.
    pub fn processes(&self, name: &str) -> BTreeSet<String> {
        let cgroup = self.cgroup().unwrap();
        // groups come and go meanwhile
        let lists = shell(&format!(
            "find /sys/fs/cgroup -path '*/{cgroup}/*' -name cgroup.procs 2>/dev/null || true"
        ));
        lists
            .lines()
            .filter_map(|list| fs::read_to_string(list).ok())
            .flat_map(|text| text.lines().map(str::to_string).collect::<Vec<_>>())
            .filter(|pid| {
                let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                comm.trim() == name
            })
            .collect()
    }

    /// Kills the processes of that name in this test's containers.
    pub fn kill_process(&self, name: &str) {
        let pids = self.processes(name);
        assert!(!pids.is_empty(), "no {name} runs");
        for pid in pids {
            shell(&format!("kill -9 {pid}"));
        }
    }

    pub fn http(&self, url: &str) -> Result<String, String> {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "60", "--fail", url])
            .output()
            .expect("curl; .ci/run installs it");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(text(&output)),
        }
    }
}
