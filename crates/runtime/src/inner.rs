//! What all handles of a runtime share, and the steps of its work that touch files.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::fs::FlockOperation;

use crate::{
    cgroup::{self, Besides, Group, Hierarchies},
    entry::{Entry, lock},
    error::{During, Error},
    lean::Lean,
    plan::{ShimPlan, send_plan},
    privileges::{Process, capability_bit, capability_mask},
    role::{Program, Role},
    sandbox,
    seccomp::{self, Programs},
    socket,
    spec::{Config, ContainerSpec, Resources, SandboxSpec, Seccomp},
    state::{self, LOCK, Layout, SPEC},
    sys,
    watcher::Watcher,
};

/// How long a killed container may take to be gone before its shim is killed too.
pub(crate) const KILL: Duration = Duration::from_secs(10);

/// How long somebody else may have the root's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    pub(crate) hierarchies: Hierarchies,
    /// v2, on a kernel that takes no programs
    pub(crate) no_device_lists: bool,
    pub(crate) program: Program,
    pub(crate) boot: String,
    pub(crate) watcher: Watcher,
    pub(crate) sandboxes: Mutex<HashMap<String, SandboxSpec>>,
    pub(crate) containers: Mutex<HashMap<String, Arc<Entry>>>,
    /// shims of deleted containers that have not ended yet
    pub(crate) leaving: Mutex<Vec<Arc<Entry>>>,
    /// compiled default filters by capabilities; callers use a handful of sets
    filters: Mutex<HashMap<u64, Arc<Programs>>>,
    lean: Lean,
    trashed: AtomicU64,
    _lock: File,
}

impl Inner {
    pub(crate) fn new(config: Config) -> Result<Inner, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let layout = Layout {
            root: config.root.clone(),
        };
        for dir in [layout.containers(), layout.sandboxes(), layout.trash()] {
            fs::create_dir_all(&dir).during(|| format!("making {}", dir.display()))?;
        }
        let lock_path = layout.root.join(LOCK);
        let lock_file =
            File::create(&lock_path).during(|| format!("opening {}", lock_path.display()))?;
        // a process that was killed while it started another can leave its lock with that one until it execs, which on a busy
        // machine can take seconds: hence a little patience
        state::take_lock(&lock_file, LOCK_PATIENCE)
            .map_err(|_| Error::Locked(layout.root.clone()))?;
        let hierarchies = Hierarchies::detect()?;
        let program = Program::open(&config.exe)
            .during(|| format!("opening the program {}", config.exe.display()))?;
        sandbox::prepare_pins(&layout)?;
        Ok(Inner {
            layout,
            no_device_lists: no_device_lists(&hierarchies),
            hierarchies,
            program,
            boot: sys::boot_id(),
            watcher: Watcher::start()?,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            leaving: Mutex::default(),
            filters: Mutex::default(),
            lean: Lean::default(),
            trashed: AtomicU64::new(std::process::id() as u64 * 1_000_000),
            config,
            _lock: lock_file,
        })
    }

    pub(crate) fn group(&self, spec: &ContainerSpec) -> Group {
        self.upper_group(&spec.cgroup, &spec.resources)
    }

    /// The cgroup at a path below the runtime's own.
    pub(crate) fn upper_group(&self, path: &str, resources: &Resources) -> Group {
        self.hierarchies
            .group_for(&self.config.cgroup_parent, path, Besides::of(resources))
    }

    pub(crate) fn entry(&self, id: &str) -> Result<Arc<Entry>, Error> {
        lock(&self.containers)
            .get(id)
            .cloned()
            .ok_or_else(|| Error::NoContainer(id.into()))
    }

    /// The filters of a container, compiled or remembered.
    pub(crate) fn filters(
        &self,
        spec: &ContainerSpec,
        capabilities: u64,
    ) -> Result<Arc<Programs>, Error> {
        if spec.privileged || spec.seccomp != Seccomp::RuntimeDefault {
            return filters_of(spec, capabilities).map(Arc::new);
        }
        if let Some(known) = lock(&self.filters).get(&capabilities) {
            return Ok(known.clone());
        }
        let made = Arc::new(filters_of(spec, capabilities)?);
        let mut filters = lock(&self.filters);
        if filters.len() >= 8 {
            filters.clear();
        }
        filters.insert(capabilities, made.clone());
        Ok(made)
    }

    /// See [`process_of`].
    pub(crate) fn process(&self, spec: &ContainerSpec) -> Result<Process, Error> {
        process_of(spec, self.no_device_lists)
    }

    /// Writes the container down and starts its shim. The lock that says "a shim lives" is taken here and travels to the shim, so that at no moment a crash leaves a starting shim unseen.
    pub(crate) fn launch(
        &self,
        entry: &Arc<Entry>,
        plan: ShimPlan,
        filters: &Programs,
        pid_of: Option<Arc<OwnedFd>>,
    ) -> Result<(), Error> {
        let dir = &entry.dir;
        fs::create_dir(dir).during(|| format!("making {}", dir.display()))?;
        let started = self.launch_in(entry, plan, filters, pid_of);
        if started.is_err() {
            self.trash(dir);
        }
        started
    }

    fn launch_in(
        &self,
        entry: &Arc<Entry>,
        mut plan: ShimPlan,
        filters: &Programs,
        pid_of: Option<Arc<OwnedFd>>,
    ) -> Result<(), Error> {
        let dir = &entry.dir;
        let id = plan.spec.id.clone();
        let told = || format!("starting the shim of container {id}");
        let shim_lock = File::create(dir.join(LOCK)).during(told)?;
        rustix::fs::flock(&shim_lock, FlockOperation::NonBlockingLockExclusive).during(told)?;
        state::write(dir, SPEC, &plan.spec, false)
            .during(|| format!("writing {}", dir.display()))?;
        let (ours, theirs) = socket::pair().during(told)?;
        let lean = self.lean.next(&self.layout.root);
        plan.lean = lean.is_some();
        let mut fds = vec![shim_lock.as_fd()];
        fds.extend(lean.as_ref().map(|namespace| namespace.as_fd()));
        fds.extend(pid_of.as_ref().map(|process| process.as_fd()));
        send_plan(&ours, &plan, filters, &fds).during(told)?;
        let pid = self
            .program
            .start(Role::Shim, &plan.spec.id, theirs)
            .during(told)?;
        // not reaped yet, so the pid is its own
        let pidfd = Arc::new(sys::pidfd_open(pid).during(told)?);
        *lock(&entry.shim) = Some(pidfd.clone());
        self.watcher.watch(entry, pidfd, Some(ours)).during(told)
    }

    /// A deleted container's shim may still be making its exit record safe, for nothing: it's ended, and waited for only by a purge.
    pub(crate) fn dismiss(&self, entry: &Arc<Entry>) {
        let mut leaving = lock(&self.leaving);
        leaving.retain(|e| !*e.shim_gone.borrow());
        let shim = lock(&entry.shim).clone();
        if let Some(shim) = shim {
            // it may be gone already
            let _ = sys::pidfd_signal(&shim, libc::SIGKILL);
        }
        if !*entry.shim_gone.borrow() {
            leaving.push(entry.clone());
        }
    }

    /// Takes a folder out of sight at once; its files go when there's time.
    pub(crate) fn trash(&self, dir: &std::path::Path) {
        let n = self.trashed.fetch_add(1, Ordering::Relaxed);
        let away = self.layout.trash().join(n.to_string());
        match fs::rename(dir, &away) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "a container's files stay until the next start");
                return;
            }
        }
        let work = move || {
            // what stays is looked at again when a runtime opens here
            let _ = fs::remove_dir_all(away);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(handle) => drop(handle.spawn_blocking(work)),
            Err(_) => work(),
        }
    }

    /// Removes a dead container's cgroup. Killed processes can take a moment to leave it.
    pub(crate) fn remove_group(&self, group: &Group) -> Result<(), Error> {
        let mut left = 100;
        loop {
            if !group.kill(KILL) {
                return Err(Error::Other(format!(
                    "processes in the cgroup {:?} can't be killed (stuck in the kernel, perhaps on a dead network volume)",
                    group.leaves.first().map(|l| &l.path)
                )));
            }
            match group.remove() {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && left > 0 => {
                    left -= 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(e) => return Err(e).during(|| "removing the container's cgroup".into()),
            }
        }
    }
}

/// The filters of a container, compiled.
pub(crate) fn filters_of(spec: &ContainerSpec, capabilities: u64) -> Result<Programs, Error> {
    // SOURCE: containerd, privileged means unconfined
    if spec.privileged {
        return Ok(Programs::default());
    }
    seccomp::compile(&spec.seccomp, capabilities)
}

/// v2, on a kernel that takes no programs
pub(crate) fn no_device_lists(hierarchies: &Hierarchies) -> bool {
    matches!(hierarchies, Hierarchies::V2(_)) && !cgroup::has_programs()
}

/// The part of a spec that says what runs and as whom.
pub(crate) fn process_of(spec: &ContainerSpec, no_device_lists: bool) -> Result<Process, Error> {
    let mut capabilities = if spec.privileged {
        u64::MAX
    } else {
        capability_mask(&spec.capabilities).map_err(|name| Error::Invalid {
            what: "capability",
            value: name,
            rule: "a name of capabilities(7), such as CAP_NET_BIND_SERVICE",
        })?
    };
    if no_device_lists
        && !spec.privileged
        && let Some(bit) = capability_bit("CAP_MKNOD")
    {
        // without a list of devices none can be made
        capabilities &= !(1 << bit);
    }
    Ok(Process {
        args: spec.args.clone(),
        env: spec.env.clone(),
        cwd: if spec.cwd.as_os_str().is_empty() {
            "/".into()
        } else {
            spec.cwd.clone()
        },
        user: spec.user.clone(),
        capabilities,
        no_new_privileges: spec.no_new_privileges,
        oom_score_adj: spec.oom_score_adj,
        tty: spec.tty,
        tty_size: spec.tty_size,
        rlimits: spec.rlimits.clone(),
        apparmor: spec.apparmor.clone(),
    })
}
