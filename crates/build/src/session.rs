//! What a running engine needs beside the cache, below `sessions/<id>/`: its runtime, mounts, half-made steps. A session
//! whose lock is free belongs to nobody: the next engine removes it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use knarr_runtime::{Config, HostNamespaces, Resources, Runtime};
use tokio::sync::OnceCell;

use crate::{
    engine::{Limits, Options},
    error::{Error, blocking, io},
    network::Networks,
};

pub(crate) struct Session {
    pub(crate) dir: PathBuf,
    config: Config,
    limits: Limits,
    runtime: OnceCell<Runtime>,
    networks: Option<Arc<dyn Networks>>,
    /// Was it opened? The error is why it can't be.
    network: OnceCell<Result<(), String>>,
    said: AtomicBool,
    _lock: fs::File,
    /// For the engine's own work.
    _lane: Arc<knarr_image::Lane>,
}

/// Where a session's cgroups are: written down, for the next engine's may be elsewhere.
const CGROUP: &str = "cgroup";

fn config(options: &Options, dir: &Path) -> Config {
    let id = dir.file_name().unwrap_or_default().to_string_lossy();
    let known = fs::read_to_string(dir.join(CGROUP)).ok();
    Config {
        root: dir.join("runtime"),
        exe: options.exe.clone(),
        cgroup_parent: known.unwrap_or_else(|| format!("{}-{id}", options.cgroup_parent)),
        host: HostNamespaces {
            net: options.host.net.clone(),
            uts: options.host.uts.clone(),
        },
    }
}

fn try_lock(dir: &Path) -> Result<Option<fs::File>, Error> {
    let path = dir.join("lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io(&path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(io(path)(e.into())),
    }
}

impl Session {
    pub(crate) fn open(options: &Options) -> Result<Session, Error> {
        let all = options.dir.join("sessions");
        fs::create_dir_all(&all).map_err(io(&all))?;
        let _gate = gate(&all)?;
        let mut left = vec![];
        for entry in fs::read_dir(&all).map_err(io(&all))?.flatten() {
            if entry.path().is_dir()
                && let Ok(Some(lock)) = try_lock(&entry.path())
            {
                left.push((entry.path(), lock));
            }
        }
        for (dir, _lock) in left {
            if let Err(e) = remove_left(options, &dir) {
                tracing::warn!(folder = %dir.display(), "what a killed build left cannot be removed: {e}");
            }
        }
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        let name = format!("{}-{:x}", std::process::id(), now.as_nanos());
        let dir = all.join(name);
        fs::create_dir(&dir).map_err(io(&dir))?;
        let lock = try_lock(&dir)?
            .ok_or_else(|| Error::Bug(format!("{} is locked already", dir.display())))?;
        for sub in ["mounts", "steps"] {
            fs::create_dir(dir.join(sub)).map_err(io(&dir))?;
        }
        let config = config(options, &dir);
        fs::write(dir.join(CGROUP), &config.cgroup_parent).map_err(io(&dir))?;
        Ok(Session {
            config,
            limits: options.limits.clone(),
            dir,
            runtime: OnceCell::new(),
            networks: options.networks.clone(),
            network: OnceCell::new(),
            said: false.into(),
            _lock: lock,
            _lane: knarr_image::Lane::hold(options.limits.cpu_shares),
        })
    }

    /// The runtime, opened at the first call.
    pub(crate) async fn runtime(&self) -> Result<&Runtime, Error> {
        let open = || async {
            let config = self.config.clone();
            let runtime = blocking(move || Ok(Runtime::open(config)?)).await?;
            let resources = Resources {
                cpu_shares: Some(self.limits.cpu_shares),
                memory_limit_bytes: self.limits.memory_max_bytes,
                pids_limit: self.limits.pids_max,
                ..Resources::default()
            };
            runtime.set_group("", resources).await?;
            Ok::<_, Error>(runtime)
        };
        self.runtime.get_or_try_init(open).await
    }

    /// Can containers have a network of their own? Opened at the first call; the error is why not.
    pub(crate) async fn networks(&self) -> Result<bool, String> {
        let Some(networks) = &self.networks else {
            return Ok(false);
        };
        let opened = self.network.get_or_init(|| networks.open()).await;
        opened.clone().map(|()| true)
    }

    /// True once.
    pub(crate) fn first_time(&self) -> bool {
        !self.said.swap(true, Ordering::Relaxed)
    }

    /// A folder for a half-made step; removed with the guard.
    pub(crate) fn temp(&self) -> Result<tempfile::TempDir, Error> {
        let path = self.dir.join("steps");
        tempfile::tempdir_in(&path).map_err(io(path))
    }

    pub(crate) async fn close(&self) -> Result<(), Error> {
        if let Some(runtime) = self.runtime.get() {
            runtime.purge().await?;
        }
        if let (Some(networks), Some(_)) = (&self.networks, self.network.get()) {
            // what can't be removed now goes with the next build's
            if let Err(why) = networks.close().await {
                tracing::warn!("the network of builds: {why}");
            }
        }
        let dir = self.dir.clone();
        blocking(move || {
            unmount_below(&dir)?;
            remove_own(&dir)
        })
        .await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // one that had containers is removed by `close`, or by the next engine
        if !self.runtime.initialized() && unmount_below(&self.dir).is_ok() {
            let _ = remove_own(&self.dir);
        }
    }
}

/// One engine at a time makes or removes sessions, so that nobody removes a new one before it is locked, or looks into one
/// that is half gone.
fn gate(all: &Path) -> Result<fs::File, Error> {
    let path = all.join("gate");
    let gate = fs::File::create(&path).map_err(io(&path))?;
    rustix::fs::flock(&gate, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| io(&path)(e.into()))?;
    Ok(gate)
}

fn remove_own(dir: &Path) -> Result<(), Error> {
    let _gate = gate(dir.parent().unwrap_or(dir))?;
    remove(dir)
}

fn remove(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(dir)(e)),
        _ => Ok(()),
    }
}

fn remove_left(options: &Options, dir: &Path) -> Result<(), Error> {
    if dir.join("runtime").is_dir() {
        let runtime = Runtime::open(config(options, dir))?;
        // the runtime's calls are async; this one is called before any task runs
        let done = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(io("/"))?
                .block_on(runtime.purge())
                .map_err(Error::from)
        });
        done.join()
            .map_err(|_| Error::Bug("removing leftovers".into()))??;
    }
    unmount_below(dir)?;
    remove(dir)
}

/// Takes off every mount below a folder, the last one first.
pub(crate) fn unmount_below(dir: &Path) -> Result<(), Error> {
    let table = "/proc/self/mountinfo";
    let text = fs::read_to_string(table).map_err(io(table))?;
    let below = |line: &str| {
        let path = line.split(' ').nth(4)?;
        let path = PathBuf::from(unescape(path));
        path.starts_with(dir).then_some(path)
    };
    let mut found: Vec<PathBuf> = text.lines().filter_map(below).collect();
    found.reverse();
    for path in found {
        rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH)
            .map_err(|e| io(&path)(e.into()))?;
    }
    Ok(())
}

/// `\040` of the mount table.
fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (code, plain) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        out = out.replace(code, plain);
    }
    out
}
