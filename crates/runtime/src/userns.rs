//! User namespaces of sandboxes: the container's root is nobody on the host.
//!
//! A namespace can be made and entered only by a process with one thread, so a role makes it, together with the others of the sandbox (which then belong to it), and pins them all. A container's first process comes to be in three steps: the shim's child does, with the host's powers, what only they allow (mounts that map ids, devices); then it enters the user namespace, which is the end of those powers; then it makes a sibling in a mount namespace that belongs to the user namespace, and ends. [`beget`] is the last two.
//!
//! SOURCE: user_namespaces(7), mount_setattr(2), runc libcontainer/nsenter (the same dance).

use std::{
    fs, io,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::{
    plan::{Answer, Pins, answer, receive_plan},
    privileges::os_text,
    socket,
    spec::IdRange,
    state::{ProcessId, Started},
    sys::{self, Forked},
};

/// What the role is to make.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UsernsPlan {
    pub(crate) ids: IdRange,
    /// where each namespace is pinned; the user namespace always is
    pub(crate) pins: Pins,
}

/// The role: makes the namespaces, pins them, tells the caller, and ends.
pub(crate) fn main(socket: OwnedFd) -> i32 {
    let _ = rustix::process::setsid();
    let Ok((plan, _, _making)) = receive_plan::<UsernsPlan>(&socket) else {
        return 1;
    };
    match make(&plan) {
        Ok(()) => {
            let nobody = Started {
                process: ProcessId {
                    pid: 0,
                    start_time: 0,
                    boot: String::new(),
                },
                since: std::time::SystemTime::now(),
            };
            answer(&socket, &Answer::Started(nobody));
            0
        }
        Err(text) => {
            answer(&socket, &Answer::Failed(text));
            1
        }
    }
}

fn make(plan: &UsernsPlan) -> Result<(), String> {
    let told = |what: &'static str| move |e: io::Error| format!("{what}: {}", os_text(&e));
    let pins: Vec<(&Path, i32, &str)> = [
        (&plan.pins.user, libc::CLONE_NEWUSER, "user"),
        (&plan.pins.net, libc::CLONE_NEWNET, "net"),
        (&plan.pins.ipc, libc::CLONE_NEWIPC, "ipc"),
        (&plan.pins.uts, libc::CLONE_NEWUTS, "uts"),
    ]
    .into_iter()
    .filter_map(|(path, flag, name)| path.as_deref().map(|p| (p, flag, name)))
    .collect();
    let flags = pins.iter().fold(0, |all, (_, flag, _)| all | flag);
    let (wait, go_on) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| told("making a pipe")(e.into()))?;
    // SAFETY: a role process has one thread.
    let forked = unsafe { sys::fork(flags, None) }.map_err(|e| match e.raw_os_error() {
        Some(libc::ENOSPC) => {
            "making a user namespace: the limit is reached: raise user.max_user_namespaces"
                .to_owned()
        }
        _ => told("making a user namespace")(e),
    })?;
    let (pid, pidfd) = match forked {
        Forked::Child => {
            drop(go_on);
            let mut nothing = Vec::new();
            let _ = fs::File::from(wait).read_to_end(&mut nothing);
            sys::exit_now(0)
        }
        Forked::Parent { pid, pidfd } => (pid, pidfd),
    };
    let pinned = map_ids(pid, plan.ids)
        .map_err(told("mapping users and groups"))
        .and_then(|()| {
            pins.iter().try_for_each(|(path, _, name)| {
                fs::File::create(path)
                    .and_then(|_| {
                        rustix::mount::mount_bind(format!("/proc/{pid}/ns/{name}"), *path)
                            .map_err(Into::into)
                    })
                    .map_err(|e| format!("pinning {}: {}", path.display(), os_text(&e)))
            })
        });
    drop(go_on);
    let _ = sys::reap(&pidfd, true);
    pinned
}

fn map_ids(pid: i32, ids: IdRange) -> io::Result<()> {
    let line = format!("0 {} {}\n", ids.first, ids.length);
    for map in ["uid_map", "gid_map"] {
        // the kernel takes the whole map in one write
        fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/{pid}/{map}"))?
            .write_all(line.as_bytes())?;
    }
    Ok(())
}

/// The user namespace of a container, seen by a process that is still outside.
pub(crate) struct Mapping {
    pub(crate) namespace: OwnedFd,
    pub(crate) ids: IdRange,
}

impl Mapping {
    pub(crate) fn open(pin: &PathBuf, ids: IdRange) -> Result<Mapping, String> {
        let namespace = rustix::fs::open(pin, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| {
                format!(
                    "opening the namespace {}: {}",
                    pin.display(),
                    os_text(&e.into())
                )
            })?;
        Ok(Mapping { namespace, ids })
    }

    /// Makes the ids of a mount that hangs nowhere yet those of the namespace.
    pub(crate) fn apply(&self, mount: &impl AsFd, what: &Path) -> Result<(), String> {
        sys::mount_idmap(mount, &self.namespace).map_err(|e| {
            let hint = match e.raw_os_error() {
                Some(libc::EINVAL) => {
                    " (maybe its file system can't do that on this kernel: run the pod without hostUsers: false)"
                }
                _ => "",
            };
            format!(
                "failed to set MOUNT_ATTR_IDMAP on {}: {}{hint}",
                what.display(),
                os_text(&e)
            )
        })
    }
}

/// Which of the two goes on: the one that comes back from [`beget`] in the child.
///
/// Enters with `enter`, then makes the sibling with these namespaces of its own; a handle on it goes to `handle`. The calling process ends here. Runs in a process with one thread, which has nothing left to do outside.
pub(crate) fn beget(
    enter: impl FnOnce() -> Result<(), String>,
    flags: i32,
    handle: OwnedFd,
) -> Result<(), String> {
    enter()?;
    // SAFETY: a role's child has one thread.
    let forked = unsafe { sys::fork_sibling(flags) }
        .map_err(|e| format!("making the process in its user namespace: {}", os_text(&e)))?;
    match forked {
        Forked::Parent { pidfd, .. } => {
            let sent = socket::send(&handle, b"I", &[pidfd.as_fd()]);
            if sent.is_err() {
                let _ = sys::pidfd_signal(&pidfd, libc::SIGKILL);
            }
            sys::exit_now(0)
        }
        Forked::Child => {
            drop(handle);
            // until now an id that the namespace doesn't know
            sys::set_ids(0, 0, &[])
                .map_err(|e| format!("becoming root in its user namespace: {}", os_text(&e)))
        }
    }
}

/// The caller's end of [`beget`]: the number and a handle of the process that came of it. None: it never came to be.
pub(crate) fn begotten(handle: &OwnedFd) -> Option<(i32, OwnedFd)> {
    let (_, mut fds) = socket::receive(handle, 8, false).ok()?;
    let pidfd = fds.pop()?;
    Some((sys::pid_of(&pidfd)?, pidfd))
}
