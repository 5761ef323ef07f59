//! One container as this process knows it.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::sync::{oneshot, watch};

use crate::{
    cgroup::Group,
    plan::Answer,
    spec::{Container, ContainerSpec, Exit, State},
    state::{self, EXIT, FAILED, ProcessId, Started},
    sys,
};

/// A lock whose holder can't panic half-way through a change.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Entry {
    pub(crate) spec: Mutex<Arc<ContainerSpec>>,
    pub(crate) dir: PathBuf,
    pub(crate) group: Group,
    pub(crate) state: watch::Sender<State>,
    /// becomes true when the shim's process is gone
    pub(crate) shim_gone: watch::Sender<bool>,
    /// handles, so that a reused pid can't be hit
    pub(crate) init: Mutex<Option<Arc<OwnedFd>>>,
    pub(crate) shim: Mutex<Option<Arc<OwnedFd>>>,
    /// who waits for the start
    pub(crate) start: Mutex<Option<oneshot::Sender<Result<(), String>>>>,
    /// one delete at a time
    pub(crate) deleting: tokio::sync::Mutex<()>,
}

/// The exit of a container whose end nobody saw.
pub(crate) fn unknown_exit() -> Exit {
    Exit {
        code: 255,
        signal: None,
        oom_killed: false,
        at: SystemTime::now(),
    }
}

/// A handle on a process, if it still is the one that was named.
pub(crate) fn open_process(process: &ProcessId) -> Option<OwnedFd> {
    let pidfd = sys::pidfd_open(process.pid).ok()?;
    // read after opening: if the start time is right, the handle is of the right process
    (sys::start_time(process.pid)? == process.start_time).then_some(pidfd)
}

impl Entry {
    pub(crate) fn new(spec: ContainerSpec, dir: PathBuf, group: Group, state: State) -> Entry {
        Entry {
            spec: Mutex::new(Arc::new(spec)),
            dir,
            group,
            state: watch::Sender::new(state),
            shim_gone: watch::Sender::new(false),
            init: Mutex::new(None),
            shim: Mutex::new(None),
            start: Mutex::new(None),
            deleting: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn spec(&self) -> Arc<ContainerSpec> {
        lock(&self.spec).clone()
    }

    pub(crate) fn describe(&self) -> Container {
        Container {
            spec: (*self.spec()).clone(),
            state: self.state.borrow().clone(),
        }
    }

    pub(crate) fn init(&self) -> Option<Arc<OwnedFd>> {
        lock(&self.init).clone()
    }

    pub(crate) fn running(&self, started: &Started) {
        *lock(&self.init) = open_process(&started.process).map(Arc::new);
        self.state.send_replace(State::Running {
            pid: started.process.pid,
            since: started.since,
        });
    }

    pub(crate) fn exited(&self, exit: Exit) {
        *lock(&self.init) = None;
        self.state.send_modify(|state| {
            let since = match state {
                State::Running { since, .. } => Some(*since),
                State::Exited { since, .. } => *since,
                _ => None,
            };
            *state = State::Exited { since, exit };
        });
    }

    pub(crate) fn failed(&self, text: String) {
        self.state.send_replace(State::Failed(text));
    }

    fn started(&self, result: Result<(), String>) {
        if let Some(waiting) = lock(&self.start).take() {
            // whoever waited may have gone
            let _ = waiting.send(result);
        }
    }

    /// What the shim says.
    pub(crate) fn hear(&self, answer: Answer) {
        match answer {
            Answer::Started(started) => {
                self.running(&started);
                self.started(Ok(()));
            }
            Answer::Failed(text) => {
                self.failed(text.clone());
                self.started(Err(text));
            }
            Answer::Exited(exit) => self.exited(exit),
            Answer::Tty(_) => {}
        }
    }

    /// The shim is gone and has said all it will: whatever is still open is settled from what it wrote down.
    pub(crate) fn settle(&self) {
        let state = self.state.borrow().clone();
        match state {
            State::Exited { .. } | State::Failed(_) => {}
            State::Created | State::Running { .. } => {
                if let Some(exit) = state::read::<Exit>(&self.dir, EXIT) {
                    self.exited(exit);
                } else if let Some(text) = state::read::<String>(&self.dir, FAILED) {
                    self.failed(text);
                } else {
                    self.lost(matches!(state, State::Running { .. }));
                }
            }
        }
        if let State::Failed(text) = &*self.state.borrow() {
            self.started(Err(text.clone()));
        }
        self.started(Err("the container's shim ended before the start".into()));
        self.shim_gone.send_replace(true);
    }

    /// The shim was killed: without it nobody keeps the log, so the container goes too.
    pub(crate) fn lost(&self, was_running: bool) {
        self.group.kill(std::time::Duration::from_secs(5));
        if was_running {
            let exit = Exit {
                oom_killed: self.group.oom_kills() > 0,
                ..unknown_exit()
            };
            let _ = state::write(&self.dir, EXIT, &exit, true);
            self.exited(exit);
        } else {
            let text = "the container's shim was killed before the start".to_owned();
            let _ = state::write(&self.dir, FAILED, &text, false);
            self.failed(text);
        }
    }
}
