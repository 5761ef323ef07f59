//! Docker's API on its socket: what it asks of the machine, answered by the first node's runtime.

use crate::{
    error::Error,
    nodes::{Common, Which},
    paths::Paths,
    serve::ServeArguments,
};
use knarr_docker::{Check, Checks, Exec, Limits, Machine, Output, PodName, Streams, Usage};
use knarr_node::Node;
use knarr_runtime::{ExecSpec, IoLimits, Resources, Runtime, State, User};
use std::{
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    net::UnixListener,
    task::JoinSet,
};

/// Bytes on their way between a container and who is attached to it.
const PIPE: usize = 64 << 10;
const FILE_BYTES_MAX: u64 = 1 << 20;
/// As the node labels its containers.
const POD: &str = "io.kubernetes.pod.name";
const NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// The first node, for Docker.
pub struct Hands {
    pub node: Node,
    pub runtime: Runtime,
    pub data_dir: PathBuf,
}

impl Hands {
    /// The Pod's running container: its id in the runtime, and its first process.
    fn running(&self, pod: &PodName) -> Option<(String, i32)> {
        let all = self.runtime.containers();
        all.into_iter().find_map(|c| {
            let label = |key: &str| c.spec.labels.get(key).map(String::as_str);
            let mine = label(POD) == Some(&pod.name) && label(NAMESPACE) == Some(&pod.namespace);
            match c.state {
                State::Running { pid, .. } if mine => Some((c.spec.id, pid)),
                _ => None,
            }
        })
    }

    /// The control group of the container's Pod, below the runtime's own.
    fn pods_group(&self, id: &str) -> Option<String> {
        let mut all = self.runtime.containers().into_iter();
        let own = all.find(|c| c.spec.id == id)?.spec.cgroup;
        own.rsplit_once('/').map(|(above, _)| above.to_string())
    }

    fn need(&self, pod: &PodName) -> Result<(String, i32), String> {
        self.running(pod)
            .ok_or_else(|| "the container is not running".into())
    }
}

/// A file of a container's own, however its links lead.
fn read_inside(pid: i32, path: &str) -> Option<String> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    use std::io::Read;
    let root = rustix::fs::open(
        format!("/proc/{pid}/root"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let file = rustix::fs::openat2(
        root.ok()?,
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    );
    let file = std::fs::File::from(file.ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// `user[:group]` by the container's own accounts.
///
/// SOURCE: moby/sys `user.GetExecUser`
pub fn user(pid: i32, asked: &str) -> Result<User, String> {
    let (name, group) = match asked.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (asked, None),
    };
    let table = |file: &str| -> Vec<Vec<String>> {
        let text = read_inside(pid, file).unwrap_or_default();
        let fields = |l: &str| l.split(':').map(str::to_string).collect();
        text.lines().map(fields).collect()
    };
    let (accounts, groups) = (table("etc/passwd"), table("etc/group"));
    let number = |row: &[String], at: usize| row.get(at).and_then(|n| n.parse::<u32>().ok());
    let uid: Option<u32> = name.parse().ok();
    let account = accounts.iter().find(|row| {
        row.first().is_some_and(|n| n == name) || (uid.is_some() && number(row, 2) == uid)
    });
    let uid = account.and_then(|row| number(row, 2)).or(uid);
    let uid = uid
        .ok_or_else(|| format!("unable to find user {name}: no matching entries in passwd file"))?;
    let own = account.and_then(|row| number(row, 3)).unwrap_or(0);
    let gid = match group {
        None => own,
        Some(group) => {
            let row = groups
                .iter()
                .find(|row| row.first().is_some_and(|n| n == group));
            let gid = row.and_then(|row| number(row, 2)).or(group.parse().ok());
            gid.ok_or_else(|| {
                format!("unable to find group {group}: no matching entries in group file")
            })?
        }
    };
    let login = account.and_then(|row| row.first().cloned());
    let is_member = |row: &&Vec<String>| {
        let members = row.get(3).map(String::as_str).unwrap_or_default();
        login
            .as_ref()
            .is_some_and(|l| members.split(',').any(|m| m == l))
    };
    let more = match group {
        None => groups
            .iter()
            .filter(is_member)
            .filter_map(|row| number(row, 2))
            .collect(),
        Some(_) => Vec::new(),
    };
    Ok(User {
        uid,
        gid,
        additional_gids: more,
        umask: None,
    })
}

/// Received bytes, packets, errors and drops, then those sent, of each interface but the loopback.
fn networks(pid: i32) -> Vec<(String, [u64; 8])> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let n: Vec<u64> = numbers
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect();
        let name = name.trim();
        (name != "lo" && n.len() >= 12).then(|| {
            (
                name.to_string(),
                [n[0], n[1], n[2], n[3], n[8], n[9], n[10], n[11]],
            )
        })
    });
    lines.collect()
}

fn output(pipe: DuplexStream) -> Option<Output> {
    Some(Box::pin(pipe))
}

#[async_trait::async_trait]
impl Machine for Hands {
    async fn exec(&self, pod: &PodName, exec: Exec) -> Result<Streams, String> {
        let (id, pid) = self.need(pod)?;
        let asked = exec.user.clone();
        let user = match asked.is_empty() {
            true => None,
            false => {
                let found = tokio::task::spawn_blocking(move || user(pid, &asked)).await;
                Some(found.map_err(|e| e.to_string())??)
            }
        };
        let spec = ExecSpec {
            args: exec.args,
            env: exec.env,
            tty: exec.tty,
            tty_size: exec.size,
            stdin: exec.stdin,
            user,
            cwd: Some(exec.cwd).filter(|c| !c.is_empty()).map(PathBuf::from),
            privileged: exec.privileged,
        };
        let mut process = self
            .runtime
            .exec(&id, spec)
            .await
            .map_err(|e| e.to_string())?;
        let mut streams = Streams {
            stdin: None,
            stdout: None,
            stderr: None,
            resize: Box::new(|_, _| {}),
            end_input: None,
            exit: Box::pin(std::future::pending()),
            pid: 0,
        };
        match process.tty.take() {
            Some(tty) => {
                if exec.stdin {
                    streams.stdin = Some(Box::pin(tty.clone()));
                }
                streams.stdout = Some(Box::pin(tty.clone()));
                streams.resize = Box::new(move |columns, rows| tty.resize(columns, rows));
            }
            None => {
                if let Some(stdin) = process.stdin.take() {
                    streams.stdin = Some(Box::pin(stdin));
                }
                if let Some(stdout) = process.stdout.take() {
                    streams.stdout = Some(Box::pin(stdout));
                }
                if let Some(stderr) = process.stderr.take() {
                    streams.stderr = Some(Box::pin(stderr));
                }
            }
        }
        streams.exit = Box::pin(async move { process.wait().await });
        Ok(streams)
    }

    async fn attach(&self, pod: &PodName) -> Result<Streams, String> {
        let attached = self.node.attach(&pod.namespace, &pod.name, None).await;
        let attached = attached.map_err(|e| e.message)?;
        let (mut out_to, out) = tokio::io::duplex(PIPE);
        let (mut err_to, err) = tokio::io::duplex(PIPE);
        let voice = attached.voice.clone();
        // Ends with the container, or when nobody reads any more.
        tokio::spawn(async move {
            use knarr_runtime::Output as Piece;
            while let Some(piece) = voice.next().await {
                let written = match &piece {
                    Piece::Stdout(bytes) => out_to.write_all(bytes).await,
                    // whoever doesn't want it has closed it
                    Piece::Stderr(bytes) => err_to.write_all(bytes).await.or(Ok(())),
                };
                if written.is_err() {
                    return;
                }
            }
        });
        let (sizes, ending) = (attached.voice.clone(), attached.voice);
        let owns_input = attached.stdin_once && !attached.tty;
        Ok(Streams {
            stdin: attached
                .input
                .map(|input| Box::pin(input) as knarr_docker::Input),
            stdout: output(out),
            stderr: output(err).filter(|_| !attached.tty),
            resize: Box::new(move |columns, rows| {
                let voice = sizes.clone();
                tokio::spawn(async move { voice.resize(columns, rows).await });
            }),
            end_input: owns_input.then(|| {
                Box::pin(async move { ending.end_input().await }) as std::pin::Pin<Box<_>>
            }),
            exit: Box::pin(std::future::pending()),
            pid: 0,
        })
    }

    async fn signal(&self, pod: &PodName, signal: i32) -> Result<(), String> {
        let (id, _) = self.need(pod)?;
        self.runtime
            .signal(&id, signal)
            .await
            .map_err(|e| e.to_string())
    }

    async fn freeze(&self, pod: &PodName, frozen: bool) -> Result<(), String> {
        let (id, _) = self.need(pod)?;
        let runtime = self.runtime.clone();
        let done = tokio::task::spawn_blocking(move || runtime.freeze(&id, frozen)).await;
        done.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }

    async fn limit(&self, pod: &PodName, memory: i64, limits: &Limits) -> Result<(), String> {
        let (id, _) = self.need(pod)?;
        let positive = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
        let resources = Resources {
            cpu_shares: positive(limits.cpu_shares),
            cpu_quota_us: limits.cpu_quota,
            cpu_period_us: positive(limits.cpu_period),
            memory_limit_bytes: Some(memory).filter(|m| *m > 0),
            memory_swap_bytes: limits.memory_swap,
            memory_soft_bytes: limits.memory_reservation,
            pids_limit: limits.pids,
            cpuset_cpus: limits.cpuset_cpus.clone(),
            cpuset_mems: limits.cpuset_mems.clone(),
            io: IoLimits {
                weight: limits.blkio_weight.and_then(|w| u16::try_from(w).ok()),
                ..IoLimits::default()
            },
            ..Resources::default()
        };
        // The Pod's group has the same quota, and the kernel refuses a container's that is more than that: the Pod's goes
        // away, and comes back as the container's is then.
        let quota = |quota_us| Resources {
            cpu_quota_us: Some(quota_us),
            cpu_period_us: resources.cpu_period_us,
            ..Resources::default()
        };
        let pods = limits.cpu_quota.zip(self.pods_group(&id));
        if let Some((_, group)) = &pods {
            let done = self.runtime.set_group(group, quota(-1)).await;
            done.map_err(|e| e.to_string())?;
        }
        let after = limits.cpu_quota.map(quota);
        let done = self.runtime.update_resources(&id, resources).await;
        done.map_err(|e| e.to_string())?;
        if let Some(((_, group), after)) = pods.zip(after) {
            let done = self.runtime.set_group(&group, after).await;
            done.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    async fn knows(&self, pod: &PodName, name: &str) -> Result<(), String> {
        let (_, pid) = self.need(pod)?;
        let name = name.to_owned();
        let found = tokio::task::spawn_blocking(move || user(pid, &name)).await;
        found.map_err(|e| e.to_string())?.map(drop)
    }

    fn checks(&self, pod: &PodName) -> Checks {
        let checks = self.node.checks(&pod.namespace, &pod.name);
        let shown = |c: knarr_node::Check| Check {
            start: c.start,
            end: c.end,
            exit_code: c.exit_code,
            timed_out: c.timed_out,
            output: c.output,
        };
        Checks {
            last: checks.last.into_iter().map(shown).collect(),
            failing: checks.failing,
        }
    }

    fn pid(&self, pod: &PodName) -> Option<i32> {
        self.running(pod).map(|(_, pid)| pid)
    }

    fn processes(&self, pod: &PodName) -> Vec<i32> {
        let group = self
            .running(pod)
            .and_then(|(id, _)| self.runtime.cgroup(&id).ok());
        group.map_or_else(Vec::new, |group| self.runtime.processes(&group))
    }

    fn usage(&self, pod: &PodName) -> Option<Usage> {
        let (id, pid) = self.running(pod)?;
        let usage = self.runtime.usage(&self.runtime.cgroup(&id).ok()?).ok()?;
        Some(Usage {
            cpu_nanos: usage.cpu.total_ns,
            memory_bytes: usage.memory.usage_bytes,
            inactive_file_bytes: usage.memory.inactive_file_bytes,
            memory_limit_bytes: usage.memory.limit_bytes.unwrap_or(0),
            pids: usage.pids.current,
            networks: networks(pid),
            read_bytes: usage.io.iter().map(|io| io.read_bytes).sum(),
            write_bytes: usage.io.iter().map(|io| io.write_bytes).sum(),
        })
    }

    fn layer(&self, namespace: &str, name: &str) -> PathBuf {
        knarr_node::kept_layer(&self.data_dir, namespace, name).join("upper")
    }

    fn untaken(&self, socket: std::os::fd::BorrowedFd<'_>) -> Option<usize> {
        knarr_runtime::untaken(socket).ok()
    }

    fn drop_layer(&self, namespace: &str, name: &str) -> Result<(), String> {
        let folder = knarr_node::kept_layer(&self.data_dir, namespace, name);
        match std::fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("{}: {e}", folder.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Where the socket is to be, if anywhere.
fn socket(paths: &Paths, arguments: &ServeArguments) -> Option<PathBuf> {
    match &arguments.docker_socket {
        Some(path) if path == Path::new("none") => None,
        Some(path) => Some(path.clone()),
        None => Some(paths.sub("docker.sock")),
    }
}

/// The id of a group of the machine.
fn group(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    let mut lines = text.lines().map(|l| l.split(':').collect::<Vec<_>>());
    lines
        .find(|l| l.first() == Some(&name))?
        .get(2)?
        .parse()
        .ok()
}

/// Listens there, in the place of a socket that nobody answers any more; for the owner and the group `docker`.
fn listen(path: &Path) -> Result<UnixListener, Error> {
    let failed = |e: std::io::Error| {
        Error::Platform(format!(
            "Docker's API can't be served on {}: {e}: choose another place with --docker-socket PATH",
            path.display()
        ))
    };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(failed(std::io::Error::other(
            "another daemon listens there",
        )));
    }
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => std::fs::remove_file(path).map_err(failed)?,
        // somebody's file is not for us to remove
        Ok(_) => return Err(failed(std::io::Error::other("a file is there"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    if let Some(gid) = group("docker") {
        std::os::unix::fs::chown(path, None, Some(gid)).map_err(failed)?;
    }
    let mode = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(path, mode).map_err(failed)?;
    Ok(listener)
}

/// Serves it, where it's asked for. A place of the platform's own choice that can't be had is told, and no more.
///
/// # Errors
/// When a place that was asked for can't be had.
pub fn start(
    which: &Which<'_>,
    gateway: std::net::IpAddr,
    arguments: &ServeArguments,
    common: &Common,
    hands: Hands,
    tasks: &mut JoinSet<()>,
) -> Result<(), Error> {
    let Some(path) = socket(which.paths, arguments) else {
        return Ok(());
    };
    let listener = match listen(&path) {
        Ok(listener) => listener,
        Err(error) if arguments.docker_socket.is_none() => {
            tracing::warn!(%error, "no Docker API");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let config = config(which, gateway, common, hands)?;
    tasks.spawn(knarr_docker::serve(listener, config));
    Ok(())
}

/// What Docker's API is told of the platform.
fn config(
    which: &Which<'_>,
    gateway: std::net::IpAddr,
    common: &Common,
    hands: Hands,
) -> Result<knarr_docker::Config, Error> {
    let settings = which.settings;
    let (base, bits) = settings.pod_cidr;
    let mut ranges = vec![format!("{base}/{bits}")];
    if let Some(v6) = which.network_config()?.ipv6 {
        ranges.push(format!("{}/{}", v6.pod_cidr.0, v6.pod_cidr.1));
    }
    Ok(knarr_docker::Config {
        client: common
            .api
            .client("system:docker", crate::wiring::MASTERS, "docker"),
        images: common.images.clone(),
        machine: std::sync::Arc::new(hands),
        builder: {
            let paths = which.paths.clone();
            std::sync::Arc::new(move |logins| {
                crate::dockerfile_build::engine_for(&paths, logins).map_err(|e| e.to_string())
            })
        },
        data_dir: which.paths.sub("docker"),
        seccomp_dir: which.data_dir().join("seccomp"),
        node: which.name(),
        gateway,
        pod_ranges: ranges,
        version: env!("CARGO_PKG_VERSION").into(),
    })
}
