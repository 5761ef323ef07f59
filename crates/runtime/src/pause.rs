//! PID 1 of a sandbox whose containers share their processes: idle, powerless, in an empty root.

use std::{
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::mount::{MountPropagationFlags, UnmountFlags};

use crate::{
    plan::{Answer, PausePlan, answer, receive_plan},
    privileges::os_text,
    socket,
    state::{ProcessId, Started},
    sys::{self, Forked},
    userns,
};

/// The role: makes the process, pins its pid namespace, tells the caller, and ends; the process stays.
pub(crate) fn main(socket: OwnedFd) -> i32 {
    let _ = rustix::process::setsid();
    // the lock among the descriptors says that the sandbox is still being made
    let Ok((plan, _, _making)) = receive_plan::<PausePlan>(&socket) else {
        return 1;
    };
    match make(&plan) {
        Ok(started) => {
            answer(&socket, &Answer::Started(started));
            0
        }
        Err(text) => {
            answer(&socket, &Answer::Failed(text));
            1
        }
    }
}

fn make(plan: &PausePlan) -> Result<Started, String> {
    let io = |what: &'static str| move |e: std::io::Error| format!("{what}: {}", os_text(&e));
    let nothing = crate::spec::Resources::default();
    plan.cgroups
        .create(&nothing)
        .and_then(|()| plan.cgroups.restrict_devices(&[], &[]))
        .map_err(|e| e.to_string())?;
    plan.cgroups.join_self_v1().map_err(|e| e.to_string())?;
    let born_in = plan.cgroups.fd().map_err(|e| e.to_string())?;
    let born_in = born_in.as_ref().map(std::os::fd::AsFd::as_fd);
    let (ready_in, ready_out) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| io("making a pipe")(e.into()))?;
    let namespaces = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
    let handle = match &plan.user {
        Some(_) => Some(socket::pair().map_err(io("making a socket"))?),
        None => None,
    };
    let flags = if handle.is_some() { 0 } else { namespaces };
    // SAFETY: a role process has one thread.
    let forked =
        unsafe { sys::fork(flags, born_in) }.map_err(io("making the sandbox's first process"))?;
    let (mut pid, mut pidfd) = match forked {
        Forked::Child => {
            let entered = match (&plan.user, handle) {
                (Some(pin), Some((_, theirs))) => enter_user(plan, pin, namespaces, theirs),
                _ => Ok(()),
            };
            idle(&plan.empty, entered, ready_out)
        }
        Forked::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(ready_out);
    let mut text = String::new();
    std::fs::File::from(ready_in)
        .read_to_string(&mut text)
        .map_err(io("waiting for the sandbox's first process"))?;
    if !text.is_empty() {
        return Err(format!("making the sandbox's first process: {text}"));
    }
    if let Some((ours, _)) = handle {
        let _ = sys::reap(&pidfd, true);
        (pid, pidfd) = userns::begotten(&ours)
            .ok_or("the sandbox's first process ended before it entered its user namespace")?;
    }
    let pinned = std::fs::File::create(&plan.pin)
        .and_then(|_| {
            rustix::mount::mount_bind(format!("/proc/{pid}/ns/pid"), &plan.pin).map_err(Into::into)
        })
        .map_err(io("pinning the sandbox's pid namespace"));
    if let Err(text) = pinned {
        let _ = sys::pidfd_signal(&pidfd, libc::SIGKILL);
        return Err(text);
    }
    Ok(Started {
        process: ProcessId {
            pid,
            start_time: sys::start_time(pid).unwrap_or(0),
            boot: sys::boot_id(),
        },
        since: std::time::SystemTime::now(),
    })
}

/// As `userns` tells: the process that comes back is inside, with an empty folder as its working directory.
fn enter_user(
    plan: &PausePlan,
    pin: &Path,
    namespaces: i32,
    handle: OwnedFd,
) -> Result<(), String> {
    let told = |e: rustix::io::Errno| format!("entering {}: {}", pin.display(), os_text(&e.into()));
    let namespace = rustix::fs::open(
        pin,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(told)?;
    rustix::process::chdir(&plan.empty).map_err(told)?;
    let enter = || {
        sys::setns(&namespace, libc::CLONE_NEWUSER)
            .map_err(|e| format!("entering the user namespace: {}", os_text(&e)))
    };
    userns::beget(enter, namespaces, handle)
}

/// Containers see this process: they must find no file, no descriptor and no power in it.
fn idle(empty: &Path, entered: Result<(), String>, ready: OwnedFd) -> ! {
    let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0, 0);
    sys::set_name(c"pause");
    let confined =
        entered.and_then(|()| confine(empty).map_err(|e| format!("confining it: {}", os_text(&e))));
    if let Err(text) = confined {
        let _ = std::fs::File::from(ready).write_all(text.as_bytes());
        sys::exit_now(1);
    }
    sys::block_signals(true);
    std::mem::forget(ready);
    // SAFETY: the role's socket (descriptor 0), the pipe that says "ready" and everything else: this process uses none from here on and never returns.
    unsafe { sys::close_from(0) };
    loop {
        reap_orphan();
    }
}

/// Waits until some orphan of the sandbox has ended and takes it off.
fn reap_orphan() {
    // SAFETY: an initialised set and no siginfo wanted; both calls only wait for children.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
        libc::sigwaitinfo(set.as_ptr(), std::ptr::null_mut());
    }
}

fn confine(empty: &Path) -> std::io::Result<()> {
    use rustix::mount as m;
    m::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    // in a user namespace it may not be reached by its path any more, but is the working directory already
    let _ = rustix::process::chdir(empty);
    let context = m::fsopen("tmpfs", m::FsOpenFlags::FSOPEN_CLOEXEC)?;
    m::fsconfig_create(context.as_fd())?;
    let root = m::fsmount(
        context.as_fd(),
        m::FsMountFlags::FSMOUNT_CLOEXEC,
        m::MountAttrFlags::MOUNT_ATTR_RDONLY
            | m::MountAttrFlags::MOUNT_ATTR_NOSUID
            | m::MountAttrFlags::MOUNT_ATTR_NODEV
            | m::MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    m::move_mount(
        &root,
        "",
        rustix::fs::CWD,
        ".",
        m::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    rustix::process::fchdir(&root)?;
    rustix::process::pivot_root(".", ".")?;
    m::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    for bit in 0..64 {
        if sys::prctl(libc::PR_CAPBSET_DROP, bit, 0).is_err() {
            break;
        }
    }
    sys::set_ids(65_534, 65_534, &[])?;
    sys::set_capabilities(0)
}
