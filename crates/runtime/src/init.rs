//! The container's first process, from birth to exec.

use std::{
    io::Write,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    mount::OpenTreeFlags,
};

use crate::{
    plan::ShimPlan,
    privileges::{become_program, os_text, set_oom_score},
    rootfs,
    seccomp::Programs,
    socket, sys,
    userns::{self, Mapping},
};

/// Standard streams of the container: its ends. None with a terminal.
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Runs in the child; on failure writes the reason to `errors` and ends. `errors` closes by itself on exec. With a user namespace, a handle on the process that goes on is sent to `handle` (see `userns`). The mount namespace is made from `lean` where that can be (see there).
pub(crate) fn main(
    plan: &ShimPlan,
    seccomp: &Programs,
    streams: Option<Streams>,
    terminal: Option<OwnedFd>,
    errors: OwnedFd,
    handle: Option<OwnedFd>,
    lean: Option<&OwnedFd>,
) -> ! {
    let text = match prepare(plan, streams, terminal, handle, lean) {
        Ok(()) => become_program(&plan.process, seccomp),
        Err(text) => text,
    };
    let _ = std::fs::File::from(errors).write_all(text.as_bytes());
    sys::exit_now(127)
}

fn prepare(
    plan: &ShimPlan,
    streams: Option<Streams>,
    terminal: Option<OwnedFd>,
    handle: Option<OwnedFd>,
    lean: Option<&OwnedFd>,
) -> Result<(), String> {
    sys::reset_signals();
    sys::block_signals(false);
    // until exec nobody inside may look into this process, which still holds host descriptors
    let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0, 0);
    sys::new_session_keyring().map_err(|e| format!("a session keyring: {}", os_text(&e)))?;
    plan.cgroups.join_self_v1().map_err(|e| e.to_string())?;
    if !plan.spec.host_cgroups {
        // its root is the cgroup just joined
        sys::unshare(libc::CLONE_NEWCGROUP)
            .map_err(|e| format!("making a cgroup namespace: {}", os_text(&e)))?;
    }
    set_oom_score(plan.process.oom_score_adj);
    for (path, kind) in [
        (&plan.pins.net, libc::CLONE_NEWNET),
        (&plan.pins.ipc, libc::CLONE_NEWIPC),
        (&plan.pins.uts, libc::CLONE_NEWUTS),
    ] {
        if let Some(path) = path {
            join_namespace(path, kind)?;
        }
    }
    let user = plan.process.user.uid;
    match (&plan.pins.user, plan.ids, handle) {
        (Some(pin), Some(ids), Some(handle)) => {
            let mapping = Mapping::open(pin, ids)?;
            if let Some(streams) = &streams {
                let owner = ids.on_host(user).ok_or_else(|| {
                    format!(
                        "user {user} is beyond the {} ids of the pod's user namespace",
                        ids.length
                    )
                })?;
                streams.give(owner);
            }
            rootfs::build_mapped(&plan.tree, &plan.spec, &plan.cgroups, &mapping, lean)?;
            let enter = || {
                sys::setns(&mapping.namespace, libc::CLONE_NEWUSER)
                    .map_err(|e| format!("entering the user namespace: {}", os_text(&e)))
            };
            let own_pids = if plan.own_pids { libc::CLONE_NEWPID } else { 0 };
            userns::beget(enter, libc::CLONE_NEWNS | own_pids, handle)?;
            rootfs::enter_mapped(&plan.spec)?;
        }
        _ => {
            if let Some(streams) = &streams {
                streams.give(user);
            }
            rootfs::enter(&plan.tree, &plan.spec, &plan.cgroups, lean)?;
        }
    }
    rustix::process::setsid().map_err(|e| format!("setsid: {}", os_text(&e.into())))?;
    match (streams, terminal) {
        (Some(streams), _) => {
            set_streams(&streams)?;
            drop(streams);
        }
        (None, Some(socket)) => {
            let (master, peer) = open_terminal().map_err(|e| format!("the terminal: {e}"))?;
            set_size(&peer, plan.process.tty_size)?;
            socket::send(&socket, b"T", &[master.as_fd()])
                .map_err(|e| format!("handing over the terminal: {}", os_text(&e)))?;
            console(&peer)?;
            use_terminal(&peer, user)?;
        }
        (None, None) => {}
    }
    Ok(())
}

pub(crate) fn join_namespace(path: &Path, kind: i32) -> Result<(), String> {
    let told =
        |e: std::io::Error| format!("joining the namespace {}: {}", path.display(), os_text(&e));
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| told(e.into()))?;
    sys::setns(&fd, kind).map_err(told)
}

impl Streams {
    /// To the host's id of the container's user.
    fn give(&self, owner: u32) {
        for fd in [&self.stdin, &self.stdout, &self.stderr] {
            give_to_user(fd, owner);
        }
    }
}

fn set_streams(streams: &Streams) -> Result<(), String> {
    for (fd, number) in [
        (&streams.stdin, 0),
        (&streams.stdout, 1),
        (&streams.stderr, 2),
    ] {
        sys::dup_to(fd, number).map_err(|e| format!("the standard streams: {}", os_text(&e)))?;
    }
    Ok(())
}

/// So that an unprivileged program can open /dev/stdout. SOURCE: runc fixStdioPermissions.
pub(crate) fn give_to_user(fd: &OwnedFd, uid: u32) {
    let Ok(stat) = rustix::fs::fstat(fd) else {
        return;
    };
    let null = rustix::fs::makedev(1, 3);
    if stat.st_rdev != null && stat.st_uid != uid {
        let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
    }
}

/// A terminal of the container's own devpts: master and peer. Runs inside.
pub(crate) fn open_terminal() -> Result<(OwnedFd, OwnedFd), String> {
    let master = rustix::fs::open(
        "/dev/pts/ptmx",
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| format!("opening /dev/pts/ptmx: {}", os_text(&e.into())))?;
    let peer = sys::pty_peer(&master).map_err(|e| os_text(&e))?;
    Ok((master, peer))
}

/// So many columns and rows, if it was said.
pub(crate) fn set_size(peer: &OwnedFd, size: Option<(u16, u16)>) -> Result<(), String> {
    let Some((columns, rows)) = size else {
        return Ok(());
    };
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(peer, size)
        .map_err(|e| format!("the terminal's size: {}", os_text(&e.into())))
}

/// Makes it the controlling terminal and the standard streams of this process, a session leader.
pub(crate) fn use_terminal(peer: &OwnedFd, uid: u32) -> Result<(), String> {
    sys::set_controlling_tty(peer).map_err(|e| format!("TIOCSCTTY: {}", os_text(&e)))?;
    give_to_user(peer, uid);
    for number in 0..=2 {
        sys::dup_to(peer, number).map_err(|e| format!("the standard streams: {}", os_text(&e)))?;
    }
    Ok(())
}

/// The container's terminal is its /dev/console too.
fn console(peer: &OwnedFd) -> Result<(), String> {
    let told = |e: rustix::io::Errno| format!("/dev/console: {}", os_text(&e.into()));
    let tree = rustix::mount::open_tree(
        rustix::fs::CWD,
        format!("/proc/self/fd/{}", peer.as_raw_fd()),
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .map_err(told)?;
    rustix::mount::move_mount(
        &tree,
        "",
        rustix::fs::CWD,
        "/dev/console",
        rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(told)
}
