//! The shim: one small process per container that starts it, keeps its log, waits for it, and writes down how it ended. It needs nobody: the platform may come and go.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io::Read,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{Mode, OFlags},
    pipe::PipeFlags,
};

use crate::{
    attach::{self, Attached, Wish},
    cgroup::Group,
    error::{During, Error},
    init::{self, Streams},
    log::{Lines, Log},
    plan::{Answer, ShimPlan, answer, receive_plan},
    seccomp::Programs,
    socket,
    spec::Exit,
    state::{self, EXIT, FAILED, ProcessId, SHIM, STARTED, Started},
    sys::{self, Ended, Forked},
    userns,
};

/// How long what a dead container left (processes, unread output) may take to go.
const LEFTOVERS: Duration = Duration::from_secs(5);
/// Output that is there when that time is over is still read, in so many rounds at most: all that pipes hold, and not what
/// somebody goes on writing. The time may have passed with this process not running.
const LAST_ROUNDS: u32 = 256;
/// How long output waits for who asked to get all of it.
const HELD: Duration = Duration::from_secs(10);
/// A shim whose container has ended gives way to all others by so many steps of nice values: on a machine that has
/// processors left, and where many want to run (a hundred containers have ended at once).
const GIVES_WAY: i32 = 10;
const GIVES_WAY_TO_A_CROWD: i32 = 19;
/// It is a crowd from so many a processor on: fewer are a busy machine, where an end is to be heard of soon.
const CROWD: usize = 16;
/// Where more than so many a processor want to run, a shim whose container has ended waits for a random while, at most
/// [`AWHILE`]: a hundred that end together would have the processors one after the other, and whoever starts something
/// new meanwhile would wait for all of them.
const THRONG: usize = 4;
const AWHILE: Duration = Duration::from_millis(150);

/// Becoming the shim. The socket is where the caller listens until the start, and longer if it lives.
pub(crate) fn main(socket: OwnedFd) -> i32 {
    let _ = rustix::process::setsid();
    // only the container's end ends the shim (and SIGKILL)
    sys::block_signals(true);
    // a caller that is gone before it sent the plan wants nothing
    let Ok((plan, seccomp, fds)) = receive_plan::<ShimPlan>(&socket) else {
        return 1;
    };
    let dir = plan.tree.dir.clone();
    let afterwards = plan.spec.afterwards.clone();
    let niceness = sys::niceness();
    let this = ProcessId {
        pid: std::process::id() as i32,
        start_time: sys::start_time(std::process::id() as i32).unwrap_or(0),
        boot: plan.boot.clone(),
    };
    if state::write(&dir, SHIM, &this, false).is_err() {
        // the folder is gone: deleted before we came to it
        return 1;
    }
    // first the lock that says "this shim lives", which goes with the process; then perhaps a mount namespace to start from,
    // and a handle on the process whose PID namespace is to be joined
    let mut fds = fds.into_iter();
    let lock = fds.next();
    let given = Given {
        lean: plan.lean.then(|| fds.next()).flatten(),
        pid_of: fds.next(),
    };
    let running = match start(plan, seccomp, &given) {
        Ok(running) => running,
        Err(text) => {
            let _ = state::write(&dir, FAILED, &text, false);
            answer(&socket, &Answer::Failed(text));
            return 1;
        }
    };
    drop(given);
    let _ = state::write(&dir, STARTED, &running.started, false);
    let _ = answer(&socket, &Answer::Started(running.started.clone()));
    let _ = rustix::process::chdir("/");
    sys::trim_heap();
    sys::forget_program();
    let (exit, watched) = running.follow();
    // without room on disk whoever listens learns it at least
    let written = state::write(&dir, EXIT, &exit, false);
    let heard = answer(&socket, &Answer::Exited(exit.clone()));
    if !heard && written.is_ok() {
        // Nobody is there to keep it: it must outlive a power cut by itself. Else it needn't, and hundreds that end at once
        // would have the disk to themselves, two syncs each, before anything else is written.
        let _ = state::write(&dir, EXIT, &exit, true);
    }
    drop(lock);
    match (watched, afterwards.split_first()) {
        (false, Some((program, arguments))) => {
            sys::rank(niceness, 0);
            become_other(program, arguments)
        }
        _ => 0,
    }
}

/// The shim's last act, when nobody who is attached looks after what comes next.
fn become_other(program: &str, arguments: &[String]) -> i32 {
    sys::block_signals(false);
    crate::privileges::set_oom_score(0);
    let mut command = std::process::Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::null());
    // only when there is no such program any more
    let _ = std::os::unix::process::CommandExt::exec(&mut command);
    1
}

/// A container that has been exec'd, and what the shim holds of it.
struct Running {
    started: Started,
    pidfd: OwnedFd,
    cgroups: Group,
    output: Output,
    log: Log,
    /// kept open for reading and writing, so that neither a missing nor a dead writer means the end of input
    stdin: Option<OwnedFd>,
    attached: Attached,
    /// nothing is read before somebody has come, or this
    held: Option<Instant>,
    dir: PathBuf,
}

enum Output {
    Pipes { stdout: OwnedFd, stderr: OwnedFd },
    Terminal(OwnedFd),
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during(|| "making a pipe".into())
}

/// What comes with the plan and is of use until the container runs.
struct Given {
    lean: Option<OwnedFd>,
    pid_of: Option<OwnedFd>,
}

fn start(plan: ShimPlan, seccomp: Programs, given: &Given) -> Result<Running, String> {
    try_start(plan, seccomp, given).map_err(|e| e.to_string())
}

fn try_start(mut plan: ShimPlan, seccomp: Programs, given: &Given) -> Result<Running, Error> {
    // the kernel should sooner kill anything else; best effort
    crate::privileges::set_oom_score(-998);
    let spec = &plan.spec;
    let log = Log::open(&spec.log_path, spec.log_max_bytes, spec.log_files_max)
        .during(|| format!("opening the log {}", spec.log_path.display()))?;
    let rootfs = plan.tree.dir.join("rootfs");
    std::fs::create_dir(&rootfs).during(|| format!("making {}", rootfs.display()))?;
    for name in ["upper", "work"] {
        let path = spec.writable(&plan.tree.dir).join(name);
        std::fs::create_dir_all(&path).during(|| format!("making {}", path.display()))?;
    }
    plan.cgroups.create(&spec.resources)?;
    if !spec.privileged {
        plan.cgroups
            .restrict_devices(&spec.devices, &spec.device_rules)?;
    }
    let fifo = spec.stdin.then(|| stdin_fifo(&plan.tree.dir)).transpose()?;

    let attached = Attached::new(&plan.tree.dir, spec.early_output)?;

    let (error_in, error_out) = pipe()?;
    let mut streams = None;
    let mut output = None;
    let mut terminal = None;
    if spec.tty {
        terminal = Some(socket::pair().during(|| "making a socket".into())?);
    } else {
        let (stdout, stdout_write) = pipe()?;
        let (stderr, stderr_write) = pipe()?;
        let stdin = match &fifo {
            Some(_) => rustix::fs::open(
                plan.tree.dir.join("stdin"),
                OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
            ),
            None => rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()),
        }
        .during(|| "opening standard input".into())?;
        streams = Some(Streams {
            stdin,
            stdout: stdout_write,
            stderr: stderr_write,
        });
        output = Some(Output::Pipes { stdout, stderr });
    }

    let mut flags = 0;
    let pid_of = given.pid_of.as_ref();
    plan.own_pids &= pid_of.is_none() && plan.pins.pid.is_none();
    if let Some(process) = pid_of {
        sys::setns(process, libc::CLONE_NEWPID)
            .during(|| "joining the PID namespace of the target container".into())?;
    } else if let Some(pid) = &plan.pins.pid {
        init::join_namespace(pid, libc::CLONE_NEWPID).map_err(Error::Create)?;
    } else if plan.own_pids && plan.pins.user.is_none() {
        flags |= libc::CLONE_NEWPID;
    }
    let mut handle = match &plan.pins.user {
        Some(_) => Some(socket::pair().during(|| "making a socket".into())?),
        None => None,
    };
    let born_in = plan.cgroups.fd()?;
    // SAFETY: a role process has one thread.
    let forked = unsafe { sys::fork(flags, born_in.as_ref().map(|f| f.as_fd())) }
        .during(|| "making the container's process".into())?;
    let (mut pid, mut pidfd) = match forked {
        Forked::Child => {
            let socket = terminal.map(|(_, theirs)| theirs);
            let handle = handle.map(|(_, theirs)| theirs);
            let lean = given.lean.as_ref();
            init::main(&plan, &seccomp, streams, socket, error_out, handle, lean)
        }
        Forked::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop((streams, error_out));
    let handle = handle.take().map(|(ours, _)| ours);
    let since = SystemTime::now();
    let mut text = Vec::new();
    // ends with exec, or with the process
    std::fs::File::from(error_in)
        .read_to_end(&mut text)
        .during(|| "waiting for the container's process".into())?;
    if let Some(handle) = handle {
        // the one that entered the user namespace has ended; its sibling goes on
        let _ = sys::reap(&pidfd, true);
        match userns::begotten(&handle) {
            Some(process) => (pid, pidfd) = process,
            None if text.is_empty() => {
                text = b"killed before its user namespace was entered".to_vec();
            }
            None => {}
        }
    }
    if !text.is_empty() {
        let _ = sys::reap(&pidfd, true);
        return Err(Error::Create(String::from_utf8_lossy(&text).into_owned()));
    }
    let start_time = sys::start_time(pid).unwrap_or(0);
    if let Some((ours, theirs)) = terminal {
        drop(theirs);
        let (_, mut fds) =
            socket::receive(&ours, 8, false).during(|| "receiving the terminal".into())?;
        match fds.pop() {
            Some(master) => output = Some(Output::Terminal(master)),
            None => {
                // killed before it got that far: nothing to read from it
                let (nothing, _) = pipe()?;
                output = Some(Output::Terminal(nothing));
            }
        }
    }
    let Some(output) = output else {
        return Err(Error::Other("the container has no output".into()));
    };
    Ok(Running {
        started: Started {
            process: ProcessId {
                pid,
                start_time,
                boot: plan.boot,
            },
            since,
        },
        pidfd,
        cgroups: plan.cgroups,
        output,
        log,
        stdin: fifo,
        attached,
        held: plan.spec.hold_output.then(|| Instant::now() + HELD),
        dir: plan.tree.dir,
    })
}

fn stdin_fifo(dir: &Path) -> Result<OwnedFd, Error> {
    let path = dir.join("stdin");
    let told = || format!("making {}", path.display());
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .during(told)?;
    rustix::fs::open(
        &path,
        OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .during(told)
}

/// A descriptor being copied into the log.
struct Source<'a> {
    fd: Option<&'a OwnedFd>,
    stream: &'static str,
    lines: Lines,
}

impl Source<'_> {
    /// Reads once. The end (also a terminal's EIO) finishes it.
    fn pump(&mut self, log: &mut Log, attached: &mut Attached) {
        let Some(fd) = self.fd else {
            return;
        };
        match rustix::io::read(fd, self.lines.room()) {
            Ok(n) if n > 0 => {
                attached.tell(self.stream, &self.lines.room()[..n]);
                self.lines.filled(n, log);
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Ok(_) | Err(_) => {
                self.lines.finish(log);
                self.fd = None;
            }
        }
    }
}

impl Running {
    /// Until the container has ended and its output is read; says also whether somebody was attached then.
    fn follow(self) -> (Exit, bool) {
        let Running {
            pidfd,
            cgroups,
            output,
            mut log,
            mut stdin,
            mut attached,
            mut held,
            dir,
            ..
        } = self;
        let mut sources = match &output {
            Output::Pipes { stdout, stderr } => vec![
                Source {
                    fd: Some(stdout),
                    stream: "stdout",
                    lines: Lines::new("stdout"),
                },
                Source {
                    fd: Some(stderr),
                    stream: "stderr",
                    lines: Lines::new("stderr"),
                },
            ],
            Output::Terminal(master) => vec![Source {
                fd: Some(master),
                stream: "stdout",
                lines: Lines::new("stdout"),
            }],
        };
        // with a terminal its input passes through here
        let terminal = match &output {
            Output::Terminal(master) => Some(master),
            Output::Pipes { .. } => None,
        };
        let mut types = terminal.is_some();
        let mut ended = None;
        let mut deadline = None::<Instant>;
        let mut rounds_left = LAST_ROUNDS;
        let mut rank = Rank::default();
        loop {
            if ended.is_some() && sources.iter().all(|s| s.fd.is_none()) {
                break;
            }
            if held.is_some_and(|until| Instant::now() >= until || !attached.clients.is_empty()) {
                held = None;
                deadline = ended.as_ref().map(|_| Instant::now() + LEFTOVERS);
            }
            let until = held.or(deadline);
            let timeout = until.map(|d| d.saturating_duration_since(Instant::now()));
            let overdue = held.is_none() && timeout.is_some_and(|t| t.is_zero());
            let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(4);
            let mut who = Vec::with_capacity(4);
            if ended.is_none() {
                polled.push(PollFd::new(&pidfd, PollFlags::IN));
                who.push(Who::Init);
                if let (true, Some(fifo)) = (types, &stdin) {
                    polled.push(PollFd::new(fifo, PollFlags::IN));
                    who.push(Who::Typed);
                }
            }
            if attached.has_room() {
                polled.push(PollFd::new(&attached.listener, PollFlags::IN));
                who.push(Who::Caller);
            }
            for client in &attached.clients {
                polled.push(PollFd::new(client, PollFlags::IN));
                who.push(Who::Client(client.as_raw_fd()));
            }
            for (i, source) in sources.iter().enumerate() {
                if let (Some(fd), None) = (source.fd, held) {
                    polled.push(PollFd::new(fd, PollFlags::IN));
                    who.push(Who::Source(i));
                }
            }
            let timeout = timeout.map(|t| Timespec {
                tv_sec: t.as_secs() as i64,
                tv_nsec: i64::from(t.subsec_nanos()),
            });
            match rustix::event::poll(&mut polled, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
            let ready: Vec<Who> = who
                .iter()
                .zip(&polled)
                .filter(|(_, p)| !p.revents().is_empty())
                .map(|(w, _)| *w)
                .collect();
            drop(polled);
            if overdue {
                let some = ready.iter().any(|who| matches!(who, Who::Source(_)));
                if !some || rounds_left == 0 {
                    break;
                }
                rounds_left -= 1;
            }
            for who in ready {
                match who {
                    Who::Source(i) => {
                        sources[i].pump(&mut log, &mut attached);
                        if sources.iter().all(|s| s.fd.is_none()) {
                            // most likely it is ending: its files are closed first
                            rank.lower();
                        }
                    }
                    Who::Typed => {
                        if let (Some(fifo), Some(master)) = (&stdin, terminal)
                            && !copy_typed(fifo, master)
                        {
                            types = false;
                        }
                    }
                    Who::Caller => attached.accept(),
                    Who::Client(client) => match (attached.hear(client), terminal) {
                        (Some(Wish::Resize(columns, rows)), Some(master)) => {
                            attach::resize(master, columns, rows);
                        }
                        // with this the container's own end of the fifo has no writer left
                        (Some(Wish::EndInput), None) => {
                            attach::forget_input(&dir);
                            stdin = None;
                        }
                        _ => {}
                    },
                    Who::Init => {
                        rank.lower();
                        ended = match sys::reap(&pidfd, false) {
                            Ok(ended) => ended,
                            // can't be: it's our child; treat it as gone rather than spin
                            Err(_) => Some(Ended::Exited(255)),
                        };
                        if ended.is_some() {
                            // what shares a pid namespace outlives its first process
                            cgroups.kill(LEFTOVERS);
                            deadline = Some(Instant::now() + LEFTOVERS);
                        }
                    }
                }
            }
        }
        for source in &mut sources {
            source.lines.finish(&mut log);
        }
        let ended = ended.unwrap_or(Ended::Exited(255));
        let watched = !attached.clients.is_empty();
        let exit = Exit {
            code: ended.code(),
            signal: match ended {
                Ended::Signalled(signal) => Some(signal),
                Ended::Exited(_) => None,
            },
            oom_killed: cgroups.oom_kills() > 0,
            at: SystemTime::now(),
        };
        (exit, watched)
    }
}

/// How urgent the shim's work is.
#[derive(Default)]
struct Rank {
    low: bool,
}

impl Rank {
    /// No output is left to be copied: what remains to do is not urgent, and hundreds may have it to do at once.
    fn lower(&mut self) {
        if std::mem::replace(&mut self.low, true) {
            return;
        }
        let loads = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        // a single call; the library's way looks for quotas in many files
        let cpus = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize);
        let running = running(&loads);
        let steps = steps(running, cpus);
        sys::rank(sys::niceness() + steps, steps);
        if running > THRONG * cpus {
            std::thread::sleep(awhile(RandomState::new().build_hasher().finish()));
        }
    }
}

/// `loads` is `/proc/loadavg`, whose fourth field begins with how many run or want to.
fn running(loads: &str) -> usize {
    let fourth = loads.split(' ').nth(3).and_then(|f| f.split('/').next());
    fourth.and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// By how much it gives way.
fn steps(running: usize, cpus: usize) -> i32 {
    if running > CROWD * cpus {
        GIVES_WAY_TO_A_CROWD
    } else {
        GIVES_WAY
    }
}

/// Shorter than [`AWHILE`].
fn awhile(random: u64) -> Duration {
    Duration::from_micros(random % AWHILE.as_micros() as u64)
}

#[derive(Clone, Copy)]
enum Who {
    Init,
    Typed,
    Caller,
    Client(i32),
    Source(usize),
}

/// False: the terminal is gone.
fn copy_typed(fifo: &OwnedFd, master: &OwnedFd) -> bool {
    let mut buffer = [0u8; 1024];
    let Ok(n) = rustix::io::read(fifo, &mut buffer) else {
        return true;
    };
    let mut rest = &buffer[..n];
    while !rest.is_empty() {
        match rustix::io::write(master, rest) {
            Ok(n) => rest = &rest[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_many_want_to_run_a_shim_gives_way_to_all() {
        for (loads, cpus, want) in [
            ("0.00 0.01 0.05 1/80 11206\n", 4, GIVES_WAY),
            ("9.00 0.01 0.05 64/80 11206\n", 4, GIVES_WAY),
            ("9.00 0.01 0.05 65/80 11206\n", 4, GIVES_WAY_TO_A_CROWD),
            ("9.00 0.01 0.05 65/80 11206\n", 8, GIVES_WAY),
            ("", 4, GIVES_WAY),
            ("a b c d", 4, GIVES_WAY),
        ] {
            assert_eq!(steps(running(loads), cpus), want, "{loads:?} on {cpus}");
        }
    }
}
