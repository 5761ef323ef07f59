//! The role that puts one more process into a running container: enters its cgroup and every namespace, and gives up the same powers as its first process did.

use std::{
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    time::SystemTime,
};

use rustix::event::{PollFd, PollFlags};

use crate::{
    cgroup,
    init::{give_to_user, open_terminal, set_size, use_terminal},
    plan::{Answer, ExecPlan, answer, receive_plan},
    privileges::{become_program, os_text, set_oom_score},
    seccomp::Programs,
    socket,
    spec::Exit,
    state::{ProcessId, Started},
    sys::{self, Ended, Forked},
    userns,
};

/// With the plan come a handle on the container's first process and, without a terminal, the three standard streams.
pub(crate) fn main(socket: OwnedFd) -> i32 {
    let _ = rustix::process::setsid();
    // processes inside must not look into this one, which holds host descriptors
    let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0, 0);
    let Ok((plan, seccomp, fds)) = receive_plan::<ExecPlan>(&socket) else {
        return 1;
    };
    match start(&plan, &seccomp, fds, &socket) {
        Ok((started, pidfd)) => {
            answer(&socket, &Answer::Started(started));
            let ended = follow(&pidfd, &socket);
            answer(
                &socket,
                &Answer::Exited(Exit {
                    code: ended.code(),
                    signal: None,
                    oom_killed: false,
                    at: SystemTime::now(),
                }),
            );
            0
        }
        Err(text) => {
            answer(&socket, &Answer::Failed(text));
            1
        }
    }
}

fn start(
    plan: &ExecPlan,
    seccomp: &Programs,
    mut fds: Vec<OwnedFd>,
    socket: &OwnedFd,
) -> Result<(Started, OwnedFd), String> {
    let io = |what: &'static str| move |e: std::io::Error| format!("{what}: {}", os_text(&e));
    if fds.is_empty() {
        return Err("no container was given".into());
    }
    let init = fds.remove(0);
    set_oom_score(plan.process.oom_score_adj);
    // opened while the host's files are in sight; the role itself stays outside
    let doors = plan.cgroups.doors().map_err(|e| e.to_string())?;
    let born_in = plan.cgroups.fd().map_err(|e| e.to_string())?;
    let user = plan.process.user.uid;
    let owner = plan.ids.map_or(Some(user), |ids| ids.on_host(user));
    for fd in &fds {
        if let Some(owner) = owner {
            give_to_user(fd, owner);
        }
    }
    let handle = match plan.ids {
        // the process enters by itself, and so does not begin life inside
        Some(_) => Some(socket::pair().map_err(io("making a socket"))?),
        None => {
            enter_namespaces(&init, NAMESPACES)?;
            None
        }
    };
    let (error_in, error_out) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| io("making a pipe")(e.into()))?;
    // SAFETY: a role process has one thread.
    let forked = unsafe { sys::fork(0, born_in.as_ref().map(|f| f.as_fd())) }
        .map_err(io("making the process"))?;
    match forked {
        Forked::Child => {
            let handle = handle.map(|(_, theirs)| theirs);
            let text = match prepare(plan, fds, &doors, socket, &init, handle) {
                Ok(()) => become_program(&plan.process, seccomp),
                Err(text) => text,
            };
            let _ = std::fs::File::from(error_out).write_all(text.as_bytes());
            sys::exit_now(127)
        }
        Forked::Parent { mut pid, mut pidfd } => {
            drop((fds, error_out));
            let handle = handle.map(|(ours, _)| ours);
            let mut text = Vec::new();
            std::fs::File::from(error_in)
                .read_to_end(&mut text)
                .map_err(io("waiting for the process"))?;
            if let Some(handle) = handle {
                let _ = sys::reap(&pidfd, true);
                match userns::begotten(&handle) {
                    Some(process) => (pid, pidfd) = process,
                    None if text.is_empty() => text = b"the container is not running".to_vec(),
                    None => {}
                }
            }
            if !text.is_empty() {
                let _ = sys::reap(&pidfd, true);
                return Err(String::from_utf8_lossy(&text).into_owned());
            }
            let started = Started {
                process: ProcessId {
                    pid,
                    start_time: 0,
                    boot: String::new(),
                },
                since: SystemTime::now(),
            };
            Ok((started, pidfd))
        }
    }
}

/// All but the cgroup namespace: where such a namespace is the border of a delegation (systemd mounts cgroup v2 with `nsdelegate`), a
/// process that has entered it has no child born in a cgroup inside while it is itself in one outside: the child enters it.
/// SOURCE: the kernel's Documentation/admin-guide/cgroup-v2.rst, "Delegation Containment".
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// Entering the user namespace that one is in already is an error: only for a container that has one of its own.
fn enter_namespaces(init: &OwnedFd, which: i32) -> Result<(), String> {
    sys::setns(init, which).map_err(|e| match e.raw_os_error() {
        Some(libc::ESRCH) => "the container is not running".into(),
        _ => format!("entering the container: {}", os_text(&e)),
    })
}

fn prepare(
    plan: &ExecPlan,
    fds: Vec<OwnedFd>,
    doors: &[std::fs::File],
    socket: &OwnedFd,
    init: &OwnedFd,
    handle: Option<OwnedFd>,
) -> Result<(), String> {
    sys::reset_signals();
    sys::block_signals(false);
    sys::new_session_keyring().map_err(|e| format!("a session keyring: {}", os_text(&e)))?;
    cgroup::enter(doors).map_err(|e| format!("joining the cgroup: {}", os_text(&e)))?;
    match handle {
        Some(handle) => {
            let all = NAMESPACES | libc::CLONE_NEWCGROUP | libc::CLONE_NEWUSER;
            userns::beget(|| enter_namespaces(init, all), 0, handle)?;
        }
        None => enter_namespaces(init, libc::CLONE_NEWCGROUP)?,
    }
    rustix::process::setsid().map_err(|e| format!("setsid: {}", os_text(&e.into())))?;
    if plan.process.tty {
        let (master, peer) = open_terminal()?;
        set_size(&peer, plan.process.tty_size)?;
        answer(socket, &Answer::Tty(master));
        use_terminal(&peer, plan.process.user.uid)?;
    } else {
        for (fd, number) in fds.iter().zip(0..) {
            sys::dup_to(fd, number)
                .map_err(|e| format!("the standard streams: {}", os_text(&e)))?;
        }
    }
    Ok(())
}

/// Until the process has ended. Anything on the socket, its end above all, means that nobody wants it any more.
fn follow(pidfd: &OwnedFd, socket: &OwnedFd) -> Ended {
    let mut wanted = true;
    loop {
        let mut polled = vec![PollFd::new(pidfd, PollFlags::IN)];
        if wanted {
            polled.push(PollFd::new(socket, PollFlags::IN));
        }
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Ended::Exited(255),
        }
        if wanted && !polled[1].revents().is_empty() {
            wanted = false;
            let _ = sys::pidfd_signal(pidfd, libc::SIGKILL);
        }
        match sys::reap(pidfd, false) {
            Ok(None) => {}
            Ok(Some(ended)) => return ended,
            Err(_) => return Ended::Exited(255),
        }
    }
}
