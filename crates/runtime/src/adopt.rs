//! Finding what an earlier process left: running containers go on, half-made things go away.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::FlockOperation;

use crate::{
    entry::{Entry, lock, open_process, unknown_exit},
    error::{During, Error},
    inner::Inner,
    sandbox,
    spec::{ContainerSpec, Exit, SandboxSpec, State},
    state::{self, EXIT, FAILED, LOCK, ProcessId, SHIM, SPEC, STARTED, Started},
    sys,
};

/// How long a shim that was just being started may take to say how it went.
const START: Duration = Duration::from_secs(20);

pub(crate) fn all(inner: &Arc<Inner>) -> Result<(), Error> {
    for id in names(&inner.layout.containers())? {
        if let Some(entry) = container(inner, &id)? {
            lock(&inner.containers).insert(id, entry);
        }
    }
    for id in names(&inner.layout.sandboxes())? {
        match whole_sandbox(inner, &id) {
            Some(spec) => {
                lock(&inner.sandboxes).insert(id, spec);
            }
            None => sandbox::delete(&inner.layout, &inner.config, &inner.hierarchies, &id)?,
        }
    }
    // pins whose sandbox never came to be, or was half deleted
    for id in names(&inner.layout.pins())? {
        if !lock(&inner.sandboxes).contains_key(&id) {
            sandbox::delete(&inner.layout, &inner.config, &inner.hierarchies, &id)?;
        }
    }
    let trash = inner.layout.trash();
    if !names(&trash)?.is_empty() {
        let spawned = std::thread::Builder::new()
            .name("trash".into())
            .spawn(move || {
                for name in names(&trash).unwrap_or_default() {
                    let _ = fs::remove_dir_all(trash.join(name));
                }
            });
        if let Err(error) = spawned {
            tracing::warn!(%error, "deleted containers' files stay until the next start");
        }
    }
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let told = || format!("reading {}", dir.display());
    fs::read_dir(dir)
        .during(told)?
        .map(|e| Ok(e.during(told)?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// A sandbox all of whose pins are there; after a restart of the machine none is.
fn whole_sandbox(inner: &Inner, id: &str) -> Option<SandboxSpec> {
    let spec: SandboxSpec = state::read(&inner.layout.sandbox(id), SPEC)?;
    let pins = sandbox::pins(&inner.layout, &spec);
    let holder = Some(inner.layout.pin(id));
    [holder, pins.user, pins.net, pins.ipc, pins.uts, pins.pid]
        .iter()
        .flatten()
        .all(|p| sandbox::is_mount(p))
        .then_some(spec)
}

/// None: it never became a container.
fn container(inner: &Arc<Inner>, id: &str) -> Result<Option<Arc<Entry>>, Error> {
    let dir = inner.layout.container(id);
    let alive = shim_alive(&dir);
    let Some(spec) = state::read::<ContainerSpec>(&dir, SPEC) else {
        inner.trash(&dir);
        return Ok(None);
    };
    let group = inner.group(&spec);
    let entry = Arc::new(Entry::new(spec, dir.clone(), group, State::Created));
    let shim = if alive { find_shim(&dir) } else { None };
    if let Some(shim) = shim {
        let shim = Arc::new(shim);
        *lock(&entry.shim) = Some(shim.clone());
        settled_start(&dir, &shim);
        recorded(inner, &entry);
        inner
            .watcher
            .watch(&entry, shim, None)
            .during(|| format!("watching container {id}"))?;
        return Ok(Some(entry));
    }
    recorded(inner, &entry);
    let open = matches!(
        *entry.state.borrow(),
        State::Running { .. } | State::Created
    );
    if open {
        let was_running = matches!(*entry.state.borrow(), State::Running { .. });
        entry.lost(was_running);
    }
    entry.shim_gone.send_replace(true);
    Ok(Some(entry))
}

/// Whether somebody holds the shim's lock.
pub(crate) fn shim_alive(dir: &Path) -> bool {
    let Ok(file) = fs::File::open(dir.join(LOCK)) else {
        return false;
    };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}

/// A handle on a living shim. One that was just spawned when its platform died names itself within moments.
fn find_shim(dir: &Path) -> Option<std::os::fd::OwnedFd> {
    let end = Instant::now() + START;
    loop {
        if let Some(process) = state::read::<ProcessId>(dir, SHIM) {
            return open_process(&process);
        }
        if !shim_alive(dir) || Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until a shim that was starting its container has written how that went, or has ended.
fn settled_start(dir: &Path, shim: &std::os::fd::OwnedFd) {
    let end = Instant::now() + START;
    while Instant::now() < end {
        let known = [STARTED, FAILED, EXIT].iter().any(|n| dir.join(n).exists());
        if known || sys::wait_readable(shim, Duration::from_millis(2)) {
            return;
        }
    }
}

/// Sets the state from the files.
fn recorded(inner: &Inner, entry: &Entry) {
    let started = state::read::<Started>(&entry.dir, STARTED);
    if let Some(started) = &started {
        if started.process.boot == inner.boot {
            entry.running(started);
        } else {
            // the machine was restarted: nothing runs any more
            entry.state.send_replace(State::Running {
                pid: started.process.pid,
                since: started.since,
            });
        }
    }
    if let Some(exit) = state::read::<Exit>(&entry.dir, EXIT) {
        entry.exited(exit);
    } else if started
        .as_ref()
        .is_some_and(|s| s.process.boot != inner.boot)
    {
        entry.exited(unknown_exit());
    } else if let Some(text) = state::read::<String>(&entry.dir, FAILED) {
        entry.failed(text);
    }
}
