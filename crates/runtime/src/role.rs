//! The roles in which the program starts itself: shim, exec, pause, userns. Each is a fresh process with one thread.
//!
//! A role can't be entered by accident: the program's own name, an environment variable and a message socket as standard input must all agree.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
};

use rustix::{
    fs::{Mode, OFlags, StatVfsMountFlags},
    mount::OpenTreeFlags,
};

use crate::sys;

const VARIABLE: &str = "KNARR_RUNTIME_ROLE";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Shim,
    Exec,
    Pause,
    Userns,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Shim => "knarr-shim",
            Role::Exec => "knarr-exec",
            Role::Pause => "knarr-pause",
            Role::Userns => "knarr-userns",
        }
    }
}

/// First thing in `main`, before any thread or runtime: when this process was started in one of the runtime's own roles (shim, exec, pause), runs it and never returns.
pub fn dispatch_role() {
    let Some(name) = std::env::args_os().next() else {
        return;
    };
    let Some(role) = [Role::Shim, Role::Exec, Role::Pause, Role::Userns]
        .into_iter()
        .find(|r| name == OsStr::new(r.name()))
    else {
        return;
    };
    if std::env::var_os(VARIABLE).is_none_or(|v| v != role.name()) || !stdin_is_message_socket() {
        return;
    }
    // SAFETY: this is the only thread, nothing has been opened yet, so nobody owns these.
    unsafe { sys::close_from(3) };
    // SAFETY: standard input is the socket that the parent made for us; from here on only this value uses it.
    let socket = unsafe { OwnedFd::from_raw_fd(0) };
    std::panic::set_hook(Box::new(|info| {
        // SAFETY: descriptor 0 stays open as long as the role runs; borrowed for one message.
        let socket = unsafe { std::os::fd::BorrowedFd::borrow_raw(0) };
        crate::plan::answer(
            &socket,
            &crate::plan::Answer::Failed(format!("a bug in the container runtime: {info}")),
        );
    }));
    let code = match role {
        Role::Shim => {
            sys::set_name(c"knarr-shim");
            crate::shim::main(socket)
        }
        Role::Exec => {
            sys::set_name(c"knarr-exec");
            crate::exec_role::main(socket)
        }
        Role::Pause => {
            sys::set_name(c"knarr-pause");
            crate::pause::main(socket)
        }
        Role::Userns => {
            sys::set_name(c"knarr-userns");
            crate::userns::main(socket)
        }
    };
    sys::exit_now(code)
}

fn stdin_is_message_socket() -> bool {
    let stdin = std::io::stdin();
    rustix::net::sockopt::socket_type(&stdin).is_ok_and(|t| t == rustix::net::SocketType::SEQPACKET)
}

/// The program file, behind a read-only mount that hangs nowhere: a container that gets hold of `/proc/<pid>/exe` of a role can't write to it (CVE-2019-5736), and replacing the file on disk changes nothing for a running platform.
pub(crate) struct Program {
    fd: OwnedFd,
}

impl Program {
    pub(crate) fn open(exe: &std::path::Path) -> io::Result<Program> {
        let fd = rustix::mount::open_tree(
            rustix::fs::CWD,
            exe,
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        )?;
        sys::mount_setattr(&fd, sys::MOUNT_ATTR_RDONLY, libc::MS_PRIVATE, false)?;
        Ok(Program { fd })
    }

    /// The same program behind the mount that a living role was started from: no mount is made, whose end the kernel takes its
    /// time for. None: `exe` is another file by now, or the process's can be written to.
    pub(crate) fn of_role(pid: i32, exe: &std::path::Path) -> Option<Program> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let fd = rustix::fs::open(format!("/proc/{pid}/exe"), flags, Mode::empty()).ok()?;
        let (theirs, ours) = (rustix::fs::fstat(&fd).ok()?, rustix::fs::stat(exe).ok()?);
        let same = (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino);
        // asked of this very descriptor, so that whose process it was doesn't matter
        let mount = rustix::fs::fstatvfs(&fd).ok()?.f_flag;
        (same && mount.contains(StatVfsMountFlags::RDONLY)).then_some(Program { fd })
    }

    /// Starts a role with `socket` as its standard input; gives its pid. The caller reaps it.
    pub(crate) fn start(&self, role: Role, label: &str, socket: OwnedFd) -> io::Result<i32> {
        let child = Command::new(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
            .arg0(role.name())
            .arg(label)
            .env_clear()
            .env(VARIABLE, role.name())
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(child.id() as i32)
    }
}
