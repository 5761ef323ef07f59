//! One more process in a running container, as its caller sees it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    pipe::PipeFlags,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::unix::pipe,
    sync::oneshot,
};

use crate::{
    entry::{Entry, lock},
    error::{During, Error},
    inner::Inner,
    plan::{Answer, ExecPlan, receive_answer, send_plan},
    privileges::Process,
    role::Role,
    runtime::Runtime,
    seccomp::Programs,
    socket,
    spec::{ContainerSpec, ExecSpec},
    sys,
    tty::{Tty, ready_when},
};

/// How long entering a container may take.
pub(crate) const START: Duration = Duration::from_secs(30);

/// A process in a running container. Same user namespace, seccomp, capabilities, cgroup as the container's init. Dropped before it has ended, it is killed.
pub struct ExecProcess {
    pub stdin: Option<pipe::Sender>,
    pub stdout: Option<pipe::Receiver>,
    pub stderr: Option<pipe::Receiver>,
    /// with tty: the terminal's master, in place of the three
    pub tty: Option<Tty>,
    exit: Option<oneshot::Receiver<i32>>,
    code: Option<i32>,
    /// the role kills its process when it hears anything here, or the end
    voice: Arc<AsyncFd<OwnedFd>>,
}

impl ExecProcess {
    /// exit code, 128+n for signal n
    pub async fn wait(&mut self) -> i32 {
        if let Some(exit) = &mut self.exit {
            // a role that vanished was killed with its container
            let code = exit.await.unwrap_or(128 + libc::SIGKILL);
            self.code = Some(code);
            self.exit = None;
        }
        self.code.unwrap_or(128 + libc::SIGKILL)
    }

    /// SIGKILL; nothing when it has ended.
    pub fn kill(&self) {
        let _ = socket::send(self.voice.get_ref(), b"K", &[]);
    }
}

impl Drop for ExecProcess {
    fn drop(&mut self) {
        if self.code.is_none() {
            self.kill();
        }
    }
}

/// The caller's ends of what the process gets.
pub(crate) struct Ends {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Gives a process more than its container has, where the request says so.
pub(crate) fn empower(container: &mut Arc<ContainerSpec>, spec: &ExecSpec) {
    if spec.privileged {
        let container = Arc::make_mut(container);
        container.privileged = true;
        container.seccomp = crate::spec::Seccomp::Unconfined;
        container.no_new_privileges = false;
        if !container.apparmor.is_empty() {
            // SOURCE: moby daemon/exec_linux.go
            container.apparmor = crate::apparmor::UNCONFINED.into();
        }
    }
}

/// What the request says, over what the container's first process is.
pub(crate) fn overlay(process: &mut Process, spec: ExecSpec) {
    if let Some(user) = spec.user {
        process.user = user;
    }
    if let Some(cwd) = spec.cwd {
        process.cwd = cwd;
    }
    process.args = spec.args;
    process.env.extend(spec.env);
    process.tty = spec.tty;
    process.tty_size = spec.tty_size;
}

fn start(inner: &Inner, entry: &Entry, spec: ExecSpec) -> Result<(OwnedFd, OwnedFd, Ends), Error> {
    let mut container = entry.spec();
    empower(&mut container, &spec);
    let told = || format!("starting a process in container {}", container.id);
    let init = entry
        .init()
        .ok_or_else(|| Error::NotRunning(container.id.clone()))?;
    let mut process = inner.process(&container)?;
    let stdin = spec.stdin;
    overlay(&mut process, spec);
    let (ours, theirs) = socket::pair().during(told)?;
    // A program's start takes a millisecond: meanwhile the rest is made ready, which the role waits for.
    let pid = inner
        .program
        .start(Role::Exec, &container.id, theirs)
        .during(told)?;
    let pidfd = sys::pidfd_open(pid).during(told)?;
    let given = inner
        .filters(&container, process.capabilities)
        .and_then(|filters| {
            let plan = ExecPlan {
                process,
                cgroups: entry.group.clone(),
                ids: lock(&inner.sandboxes)
                    .get(&container.sandbox)
                    .and_then(|sandbox| sandbox.user_namespace),
            };
            give(&plan, &filters, stdin, &ours, &init).during(told)
        });
    match given {
        Ok(ends) => Ok((ours, pidfd, ends)),
        Err(error) => {
            // it has heard of nothing, and ends
            drop(ours);
            let _ = sys::reap(&pidfd, true);
            Err(error)
        }
    }
}

/// Sends the plan to the role, with the ends of the process's streams that aren't the caller's.
pub(crate) fn give(
    plan: &ExecPlan,
    filters: &Programs,
    stdin: bool,
    ours: &OwnedFd,
    init: &OwnedFd,
) -> io::Result<Ends> {
    let mut ends = Ends {
        stdin: None,
        stdout: None,
        stderr: None,
    };
    let mut give = Vec::new();
    if !plan.process.tty {
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
        if stdin {
            let (read, write) = pipe()?;
            ends.stdin = Some(write);
            give.push(read);
        } else {
            let null = OFlags::RDONLY | OFlags::CLOEXEC;
            give.push(rustix::fs::open("/dev/null", null, Mode::empty())?);
        }
        for end in [&mut ends.stdout, &mut ends.stderr] {
            let (read, write) = pipe()?;
            *end = Some(read);
            give.push(write);
        }
    }
    let mut fds = vec![init.as_fd()];
    fds.extend(give.iter().map(AsFd::as_fd));
    send_plan(ours, plan, filters, &fds)?;
    Ok(ends)
}

pub(crate) fn took_long() -> Error {
    Error::Exec(format!("entering the container took longer than {START:?}"))
}

pub(crate) fn ended_meanwhile() -> Error {
    Error::Exec("the container ended while it was being entered".into())
}

async fn hear(voice: &AsyncFd<OwnedFd>) -> io::Result<Option<Answer>> {
    voice
        .async_io(Interest::READABLE, |fd| receive_answer(fd, false))
        .await
}

impl Runtime {
    /// Runs a command in a running container; returns when it has been exec'd, or [`Error::Exec`] with the reason it could not be.
    pub async fn exec(&self, id: &str, spec: ExecSpec) -> Result<ExecProcess, Error> {
        let inner = self.inner.clone();
        let entry = inner.entry(id)?;
        let tty = spec.tty;
        let started = tokio::task::spawn_blocking(move || start(&inner, &entry, spec));
        let (socket, pidfd, ends) = started
            .await
            .map_err(|e| Error::Other(format!("a bug in the container runtime: {e}")))??;
        let told = || format!("starting a process in container {id}");
        let voice = Arc::new(ready_when(socket, Interest::READABLE).during(told)?);
        let gone = ready_when(pidfd, Interest::READABLE).during(told)?;
        let (sender, exit) = oneshot::channel();
        let mut process = ExecProcess {
            stdin: ends
                .stdin
                .map(pipe::Sender::from_owned_fd)
                .transpose()
                .during(told)?,
            stdout: ends
                .stdout
                .map(pipe::Receiver::from_owned_fd)
                .transpose()
                .during(told)?,
            stderr: ends
                .stderr
                .map(pipe::Receiver::from_owned_fd)
                .transpose()
                .during(told)?,
            tty: None,
            exit: Some(exit),
            code: None,
            voice: voice.clone(),
        };
        let first = async {
            loop {
                match hear(&voice).await.during(told)? {
                    Some(Answer::Tty(master)) if tty => {
                        process.tty = Some(Tty::new(master).during(told)?);
                    }
                    Some(Answer::Started(_)) => return Ok(()),
                    Some(Answer::Failed(text)) => return Err(Error::Exec(text)),
                    Some(_) => {}
                    None => {
                        return Err(ended_meanwhile());
                    }
                }
            }
        };
        let first = match tokio::time::timeout(START, first).await {
            Ok(first) => first,
            Err(_) => {
                process.kill();
                Err(took_long())
            }
        };
        // reaps the role, whatever comes
        tokio::spawn(async move {
            let code = loop {
                match hear(&voice).await {
                    Ok(Some(Answer::Exited(exit))) => break Some(exit.code),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break None,
                }
            };
            if let Some(code) = code {
                let _ = sender.send(code);
            }
            let _ = gone.readable().await;
            let _ = sys::reap(gone.get_ref(), false);
        });
        first.map(|()| process)
    }
}
