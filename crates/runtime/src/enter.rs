//! One more process in a running container for a caller that does nothing else, as `exec` on a command line does.
//!
//! [`Runtime::exec`](crate::Runtime::exec) needs a runtime that is open: a thread that watches, all containers looked after, a mount
//! for the program. Here is only what one process takes, with the same role, plan and powers. Where anything isn't as it
//! is in a container that simply runs, nothing is done: the caller then takes the long way, which mends it or says why not.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::FlockOperation;

use crate::{
    adopt::shim_alive,
    cgroup::{Besides, Hierarchies},
    entry::open_process,
    error::{During, Error},
    exec::{Ends, START, empower, ended_meanwhile, give, overlay, took_long},
    inner::{filters_of, no_device_lists, process_of},
    plan::{Answer, ExecPlan, receive_answer},
    role::{Program, Role},
    socket,
    spec::{Config, ContainerSpec, ExecSpec, SandboxSpec},
    state::{self, EXIT, FAILED, LOCK, Layout, ProcessId, SHIM, SPEC, STARTED, Started},
    sys,
};

/// A process in a running container, which hears nothing. Same user namespace, seccomp, capabilities, cgroup as the container's init.
/// Dropped before it has ended, it is killed.
///
/// Its role isn't reaped: the caller ends when the process has.
pub struct EnteredProcess {
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// the role kills its process when it hears anything here, or the end
    voice: OwnedFd,
}

impl EnteredProcess {
    /// Returns when the command has been exec'd. Blocking. The runtime's root is in nobody else's hand meanwhile.
    ///
    /// None: nothing was done, and `Runtime::exec` is to do it.
    ///
    /// # Errors
    /// [`Error::Exec`] with the reason why the command could not be exec'd.
    pub fn start(
        config: &Config,
        id: &str,
        spec: &ExecSpec,
    ) -> Result<Option<EnteredProcess>, Error> {
        if spec.tty || spec.stdin || !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let layout = Layout {
            root: config.root.clone(),
        };
        let Some(_lock) = hold(&layout) else {
            return Ok(None);
        };
        let Some((voice, role)) = start_role(&layout, config, id) else {
            return Ok(None);
        };
        // while the role starts
        match given(&layout, config, id, spec, &voice) {
            Some(Ends {
                stdout: Some(stdout),
                stderr: Some(stderr),
                ..
            }) => {
                started(&voice)?;
                Ok(Some(EnteredProcess {
                    stdout,
                    stderr,
                    voice,
                }))
            }
            _ => {
                // it has heard of nothing, and ends
                drop(voice);
                let _ = sys::reap(&role, true);
                Ok(None)
            }
        }
    }

    /// Can be read when the process has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.voice.as_fd()
    }

    /// Its exit code, 128+n for signal n. Blocking.
    pub fn wait(self) -> i32 {
        loop {
            match receive_answer(&self.voice, true) {
                Ok(Some(Answer::Exited(exit))) => return exit.code,
                Ok(Some(_)) => {}
                // a role that vanished was killed with its container
                Ok(None) | Err(_) => return 128 + libc::SIGKILL,
            }
        }
    }
}

/// The root's lock, unless somebody works there.
fn hold(layout: &Layout) -> Option<File> {
    let file = File::open(layout.root.join(LOCK)).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

/// The role, which waits for its plan, and a handle on it.
fn start_role(layout: &Layout, config: &Config, id: &str) -> Option<(OwnedFd, OwnedFd)> {
    let dir = layout.container(id);
    if !shim_alive(&dir) {
        return None;
    }
    let shim: ProcessId = state::read(&dir, SHIM)?;
    let _shim = open_process(&shim)?;
    let program = Program::of_role(shim.pid, &config.exe)?;
    let (ours, theirs) = socket::pair().ok()?;
    let pid = program.start(Role::Exec, id, theirs).ok()?;
    Some((ours, sys::pidfd_open(pid).ok()?))
}

/// Sends the plan for entering a container that runs and is as its files tell.
fn given(
    layout: &Layout,
    config: &Config,
    id: &str,
    spec: &ExecSpec,
    voice: &OwnedFd,
) -> Option<Ends> {
    let dir = layout.container(id);
    let mut container: Arc<ContainerSpec> = Arc::new(state::read(&dir, SPEC)?);
    let Started { process, .. } = state::read(&dir, STARTED)?;
    let over = [EXIT, FAILED].iter().any(|name| dir.join(name).exists());
    if over || process.boot != sys::boot_id() {
        return None;
    }
    let init = open_process(&process)?;
    let sandbox: SandboxSpec = state::read(&layout.sandbox(&container.sandbox), SPEC)?;
    let hierarchies = Hierarchies::detect().ok()?;
    let besides = Besides::of(&container.resources);
    let cgroups = hierarchies.group_for(&config.cgroup_parent, &container.cgroup, besides);
    empower(&mut container, spec);
    let mut process = process_of(&container, no_device_lists(&hierarchies)).ok()?;
    overlay(&mut process, spec.clone());
    let filters = filters_of(&container, process.capabilities).ok()?;
    let plan = ExecPlan {
        process,
        cgroups,
        ids: sandbox.user_namespace,
    };
    give(&plan, &filters, false, voice, &init).ok()
}

/// Until the role says that the command has been exec'd.
fn started(voice: &OwnedFd) -> Result<(), Error> {
    let end = Instant::now() + START;
    loop {
        // at least a look, however late it is
        let left = end.saturating_duration_since(Instant::now());
        if !sys::wait_readable(voice, left.max(Duration::from_millis(1))) && left.is_zero() {
            return Err(took_long());
        }
        match receive_answer(voice, false) {
            Ok(Some(Answer::Started(_))) => return Ok(()),
            Ok(Some(Answer::Failed(text))) => return Err(Error::Exec(text)),
            Ok(Some(_)) => {}
            Ok(None) => return Err(ended_meanwhile()),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e).during(|| "starting a process in a container".into()),
        }
    }
}
