//! The runtime itself: what callers see, and how the parts work together.

use std::{fs, io, os::fd::OwnedFd, path::Path, sync::Arc};

use tokio::sync::oneshot;

use crate::{
    cgroup::{self, Besides},
    entry::{Entry, lock},
    error::{During, Error},
    inner::{Inner, KILL},
    plan::ShimPlan,
    rootfs::Tree,
    sandbox,
    spec::{Config, Container, ContainerSpec, Exit, Resources, Sandbox, SandboxSpec, State, Stats},
    state::{self, SPEC},
    sys,
};

/// A handle; clones work on the same containers.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

fn valid_id(what: &'static str, id: &str) -> Result<(), Error> {
    let ok = (1..=63).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if ok {
        return Ok(());
    }
    Err(Error::Invalid {
        what,
        value: id.into(),
        rule: "1 to 63 of a-z, 0-9 and -",
    })
}

fn valid_group(path: &str) -> Result<(), Error> {
    if path.split('/').any(|p| matches!(p, "" | "." | "..")) {
        return Err(Error::Invalid {
            what: "cgroup",
            value: path.into(),
            rule: "a relative path without empty, . or .. parts, unique to the container",
        });
    }
    Ok(())
}

/// Runs what touches files off the async threads; finishes even when the caller goes away.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::Other(format!("a bug in the container runtime: {e}"))),
    }
}

impl Runtime {
    /// Opens or makes the root and finds the sandboxes and containers already there (adoption). Blocking.
    pub fn open(config: Config) -> Result<Runtime, Error> {
        let inner = Arc::new(Inner::new(config)?);
        crate::adopt::all(&inner)?;
        Ok(Runtime { inner })
    }

    /// Makes the namespaces that containers will share.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, Error> {
        valid_id("sandbox id", &spec.id)?;
        if !spec.cgroup.is_empty() {
            valid_group(&spec.cgroup)?;
        }
        if let Some(ids) = spec.user_namespace {
            let fits =
                ids.first > 0 && ids.length > 0 && ids.first.checked_add(ids.length).is_some();
            if !fits || spec.host_network || spec.host_ipc || spec.host_pid {
                return Err(Error::Invalid {
                    what: "user namespace",
                    value: format!("{} ids from {}", ids.length, ids.first),
                    rule: "ids of the host other than root's, and no namespace of the host beside it",
                });
            }
        }
        let inner = self.inner.clone();
        blocking(move || {
            sandbox::create(
                &inner.layout,
                &inner.config,
                &inner.hierarchies,
                &inner.program,
                &spec,
            )?;
            lock(&inner.sandboxes).insert(spec.id.clone(), spec.clone());
            Ok(sandbox::describe(&inner.layout, &inner.config, spec))
        })
        .await
    }

    /// Removes a sandbox none of whose containers runs; those that have ended stay as they are. Idempotent.
    pub async fn delete_sandbox(&self, id: &str) -> Result<(), Error> {
        valid_id("sandbox id", id)?;
        let inner = self.inner.clone();
        let id = id.to_owned();
        blocking(move || {
            let ended =
                |c: &Entry| matches!(*c.state.borrow(), State::Exited { .. } | State::Failed(_));
            let used = lock(&inner.containers)
                .values()
                .any(|c| lock(&c.spec).sandbox == id && !ended(c));
            if used {
                return Err(Error::InUse(id));
            }
            sandbox::delete(&inner.layout, &inner.config, &inner.hierarchies, &id)?;
            lock(&inner.sandboxes).remove(&id);
            Ok(())
        })
        .await
    }

    pub fn sandboxes(&self) -> Vec<Sandbox> {
        lock(&self.inner.sandboxes)
            .values()
            .map(|s| sandbox::describe(&self.inner.layout, &self.inner.config, s.clone()))
            .collect()
    }

    pub fn sandbox(&self, id: &str) -> Option<Sandbox> {
        let spec = lock(&self.inner.sandboxes).get(id).cloned()?;
        Some(sandbox::describe(
            &self.inner.layout,
            &self.inner.config,
            spec,
        ))
    }

    /// Creates and starts; returns when the container's process has been exec'd or could not be. In the second case the container stays in the list as [`State::Failed`] until it's deleted.
    pub async fn run(&self, spec: ContainerSpec) -> Result<Container, Error> {
        let inner = &self.inner;
        valid_id("container id", &spec.id)?;
        valid_group(&spec.cgroup)?;
        let sandbox = lock(&inner.sandboxes)
            .get(&spec.sandbox)
            .cloned()
            .ok_or_else(|| Error::NoSandbox(spec.sandbox.clone()))?;
        let pid_of = match &spec.pid_of {
            Some(target) => {
                let target_entry = inner.entry(target)?;
                let runs = matches!(*target_entry.state.borrow(), State::Running { .. });
                let process = target_entry.init().filter(|_| runs);
                Some(process.ok_or_else(|| Error::NotRunning(target.clone()))?)
            }
            None => match spec.pid_of_process {
                Some(pid) => {
                    let process = sys::pidfd_open(pid);
                    Some(Arc::new(
                        process.during(|| format!("opening process {pid}"))?,
                    ))
                }
                None => None,
            },
        };
        let process = inner.process(&spec)?;
        let id = spec.id.clone();
        let group = inner.group(&spec);
        let dir = inner.layout.container(&id);
        let plan = ShimPlan {
            process,
            pins: sandbox::joined(&inner.layout, &inner.config, &sandbox),
            own_pids: !sandbox.host_pid,
            ids: sandbox.user_namespace,
            tree: Tree {
                dir: dir.clone(),
                shm: inner.layout.pin(&sandbox.id).join("shm"),
                host_network: sandbox.host_network,
                host_ipc: sandbox.host_ipc,
                no_devices: inner.no_device_lists && !spec.privileged,
            },
            lean: false,
            cgroups: group.clone(),
            boot: inner.boot.clone(),
            spec: spec.clone(),
        };
        let entry = Arc::new(Entry::new(spec, dir, group, State::Created));
        let (sender, started) = oneshot::channel();
        *lock(&entry.start) = Some(sender);
        {
            let mut containers = lock(&inner.containers);
            if containers.contains_key(&id) {
                return Err(Error::Exists(id));
            }
            containers.insert(id.clone(), entry.clone());
        }
        let (work, work_entry) = (inner.clone(), entry.clone());
        let launched = blocking(move || {
            let launched = work
                .filters(&plan.spec, plan.process.capabilities)
                .and_then(|filters| work.launch(&work_entry, plan, &filters, pid_of));
            if launched.is_err() {
                lock(&work.containers).remove(&lock(&work_entry.spec).id);
                work_entry.failed("could not be started".into());
                work_entry.shim_gone.send_replace(true);
            }
            launched
        })
        .await;
        launched?;
        match started.await {
            Ok(Ok(())) => Ok(entry.describe()),
            Ok(Err(text)) => Err(Error::Create(text)),
            Err(_) => Err(Error::Create(
                "the container's shim ended before the start".into(),
            )),
        }
    }

    pub fn containers(&self) -> Vec<Container> {
        let entries: Vec<Arc<Entry>> = lock(&self.inner.containers).values().cloned().collect();
        entries.iter().map(|e| e.describe()).collect()
    }

    /// Ids of the containers in a sandbox.
    pub fn containers_in(&self, sandbox: &str) -> Vec<String> {
        let all = lock(&self.inner.containers);
        let ids = all.iter().filter(|(_, e)| e.spec().sandbox == sandbox);
        ids.map(|(id, _)| id.clone()).collect()
    }

    pub fn container(&self, id: &str) -> Option<Container> {
        self.inner.entry(id).ok().map(|e| e.describe())
    }

    /// Resolves when the container has exited (at once if it has). Event-driven, no polling. One that never started gives [`Error::Create`] with the reason.
    pub async fn wait(&self, id: &str) -> Result<Exit, Error> {
        let entry = self.inner.entry(id)?;
        let mut states = entry.state.subscribe();
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                State::Exited { exit, .. } => return Ok(exit),
                State::Failed(text) => return Err(Error::Create(text)),
                State::Created | State::Running { .. } => {}
            }
            if states.changed().await.is_err() {
                return Err(Error::NoContainer(id.into()));
            }
        }
    }

    /// What the container has changed of its root: its overlay's upper layer, gone with [`Runtime::delete`]. Who wants to keep it moves it away once the container has exited.
    pub fn upper(&self, id: &str) -> std::path::PathBuf {
        self.inner.layout.container(id).join("upper")
    }

    /// Sends a signal to the container's first process.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<(), Error> {
        let entry = self.inner.entry(id)?;
        let Some(init) = entry.init() else {
            return Err(Error::NotRunning(id.into()));
        };
        match sys::pidfd_signal(&init, signal) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(Error::NotRunning(id.into())),
            other => other.during(|| format!("sending signal {signal} to container {id}")),
        }
    }

    /// Kills what is left of it and removes cgroup, mounts, state; the log file stays. Idempotent.
    pub async fn delete(&self, id: &str) -> Result<(), Error> {
        valid_id("container id", id)?;
        let Ok(entry) = self.inner.entry(id) else {
            return Ok(());
        };
        let _one = entry.deleting.lock().await;
        self.stop(&entry).await;
        let (inner, work) = (self.inner.clone(), entry.clone());
        let id = id.to_owned();
        blocking(move || {
            inner.remove_group(&work.group)?;
            let mut containers = lock(&inner.containers);
            // deleted by another call meanwhile, and perhaps made anew
            if containers.get(&id).is_some_and(|e| Arc::ptr_eq(e, &work)) {
                inner.trash(&work.dir);
                inner.dismiss(&work);
                containers.remove(&id);
            }
            Ok(())
        })
        .await
    }

    /// Until the container has ended, by force.
    async fn stop(&self, entry: &Entry) {
        let mut states = entry.state.subscribe();
        let ended = |s: &State| matches!(s, State::Exited { .. } | State::Failed(_));
        let wait = async {
            loop {
                {
                    let state = states.borrow_and_update();
                    if ended(&state) {
                        return;
                    }
                }
                // while it's being started there's no handle yet: the next state brings one
                if let Some(init) = entry.init() {
                    let _ = sys::pidfd_signal(&init, libc::SIGKILL);
                }
                if states.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(KILL, wait).await.is_ok() {
            return;
        }
        let shim: Option<Arc<OwnedFd>> = lock(&entry.shim).clone();
        if let Some(shim) = shim {
            let _ = sys::pidfd_signal(&shim, libc::SIGKILL);
            let mut gone = entry.shim_gone.subscribe();
            let _ = tokio::time::timeout(KILL, gone.wait_for(|g| *g)).await;
        }
    }

    /// Reads the cgroup. Blocking, a few small reads of a memory file system.
    pub fn stats(&self, id: &str) -> Result<Stats, Error> {
        let entry = self.inner.entry(id)?;
        entry
            .group
            .stats()
            .map_err(|_| Error::NotRunning(id.into()))
    }

    /// Sets the given limits on a running container and remembers them.
    pub async fn update_resources(&self, id: &str, resources: Resources) -> Result<(), Error> {
        let entry = self.inner.entry(id)?;
        blocking(move || {
            entry.group.limit(&resources)?;
            let mut held = lock(&entry.spec);
            let mut spec = (**held).clone();
            spec.resources = spec.resources.overlaid(&resources);
            state::write(&entry.dir, SPEC, &spec, false)
                .during(|| format!("writing {}", entry.dir.display()))?;
            *held = Arc::new(spec);
            Ok(())
        })
        .await
    }

    /// Makes a cgroup above containers', or sets its limits when it's there: that of a sandbox, or of a class of them. The path is below Config::cgroup_parent, "" is that one itself; the limits are kept only by the kernel.
    ///
    /// # Errors
    /// When the path leads elsewhere, or this machine can't limit what is asked.
    pub async fn set_group(&self, path: &str, resources: Resources) -> Result<(), Error> {
        if !path.is_empty() {
            valid_group(path)?;
        }
        let inner = self.inner.clone();
        let path = path.to_owned();
        blocking(move || inner.upper_group(&path, &resources).create(&resources)).await
    }

    /// What is used by all below such a cgroup. Blocking, a few small reads of a memory file system.
    ///
    /// # Errors
    /// When it isn't there.
    pub fn group_stats(&self, path: &str) -> Result<Stats, Error> {
        valid_group(path)?;
        self.inner
            .upper_group(path, &Resources::default())
            .stats()
            .during(|| format!("reading the cgroup {path:?}"))
    }

    /// The containers recorded below `root`, also while another process works there: takes no lock, starts nothing.
    /// Blocking, one small file each.
    pub fn recorded(root: &Path) -> Vec<ContainerSpec> {
        let layout = state::Layout { root: root.into() };
        let folders = fs::read_dir(layout.containers()).into_iter().flatten();
        folders
            .flatten()
            .filter_map(|folder| state::read(&folder.path(), SPEC))
            .collect()
    }

    /// Everything gone: containers, sandboxes, cgroups, mounts. For `stop --purge`.
    pub async fn purge(&self) -> Result<(), Error> {
        let entries: Vec<(String, Arc<Entry>)> = lock(&self.inner.containers)
            .iter()
            .map(|(id, e)| (id.clone(), e.clone()))
            .collect();
        // all at once, then one after the other
        for (_, entry) in &entries {
            if let Some(init) = entry.init() {
                let _ = sys::pidfd_signal(&init, libc::SIGKILL);
            }
        }
        for (id, _) in &entries {
            self.delete(id).await?;
        }
        let leaving = std::mem::take(&mut *lock(&self.inner.leaving));
        for entry in leaving {
            let mut gone = entry.shim_gone.subscribe();
            let waited = tokio::time::timeout(KILL, gone.wait_for(|g| *g)).await;
            if waited.is_err() {
                return Err(Error::Other(format!(
                    "the shim of container {} does not end",
                    entry.spec().id
                )));
            }
        }
        for sandbox in self.sandboxes() {
            self.delete_sandbox(&sandbox.spec.id).await?;
        }
        let inner = self.inner.clone();
        blocking(move || {
            sandbox::remove_pins(&inner.layout)?;
            let all = inner
                .hierarchies
                .group_for(&inner.config.cgroup_parent, "", Besides::ALL);
            for leaf in &all.leaves {
                cgroup::remove_tree(&leaf.path)
                    .during(|| format!("removing {}", leaf.path.display()))?;
            }
            for dir in [
                inner.layout.containers(),
                inner.layout.sandboxes(),
                inner.layout.pins(),
                inner.layout.trash(),
            ] {
                remove_all(&dir)?;
            }
            Ok(())
        })
        .await
    }
}

/// Someone else may be emptying the same folder.
fn remove_all(dir: &std::path::Path) -> Result<(), Error> {
    let mut left = 20;
    loop {
        match fs::remove_dir_all(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !dir.exists() => return Ok(()),
            Err(_) if left > 0 => left -= 1,
            Err(e) => return Err(e).during(|| format!("removing {}", dir.display())),
        }
    }
}
