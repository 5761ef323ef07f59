//! A look at a container from outside its runtime: takes no lock, changes nothing.

use std::path::Path;

use crate::{
    entry::{open_process, unknown_exit},
    runtime::Runtime,
    spec::{Exit, State},
    state::{self, EXIT, FAILED, Layout, STARTED, Started},
    sys,
};

impl Runtime {
    /// How the container recorded below `root` is, as far as its files and the process table tell, also while another
    /// process works there. None: there is none. Blocking, a few small files.
    pub fn peek(root: &Path, id: &str) -> Option<State> {
        let layout = Layout { root: root.into() };
        let dir = layout.container(id);
        if !dir.is_dir() {
            return None;
        }
        let started = state::read::<Started>(&dir, STARTED);
        let since = started.as_ref().map(|s| s.since);
        if let Some(exit) = state::read::<Exit>(&dir, EXIT) {
            return Some(State::Exited { since, exit });
        }
        if let Some(text) = state::read::<String>(&dir, FAILED) {
            return Some(State::Failed(text));
        }
        let Some(started) = started else {
            return Some(State::Created);
        };
        let lives =
            started.process.boot == sys::boot_id() && open_process(&started.process).is_some();
        Some(match lives {
            true => State::Running {
                pid: started.process.pid,
                since: started.since,
            },
            false => State::Exited {
                since,
                exit: unknown_exit(),
            },
        })
    }
}
