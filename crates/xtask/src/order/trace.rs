//! Which functions a running process enters: a breakpoint on each, taken away at its first hit.
//!
//! Linux on x86_64 only, by ptrace (ptrace(2)). The process goes on as before afterwards.
#![allow(unsafe_code)]

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// `int3`
const BREAKPOINT: u8 = 0xcc;
/// Pause while no thread has anything to tell.
const PAUSE: Duration = Duration::from_micros(200);
/// The end must not wait for ever for a thread that the kernel holds.
const END: Duration = Duration::from_secs(10);
const OPTIONS: libc::c_int = libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACEEXEC;

fn ptrace(request: libc::c_uint, tid: i32, data: usize) -> io::Result<()> {
    // SAFETY: the requests used here take no address of ours: `data` is a number.
    match unsafe { libc::ptrace(request, tid, 0usize, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn registers(tid: i32) -> io::Result<libc::user_regs_struct> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills the struct, which lives until after the call.
    match unsafe { libc::ptrace(libc::PTRACE_GETREGS, tid, 0usize, &raw mut registers) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(registers),
    }
}

fn set_registers(tid: i32, registers: &libc::user_regs_struct) -> io::Result<()> {
    // SAFETY: the kernel reads the struct, which lives until after the call.
    match unsafe { libc::ptrace(libc::PTRACE_SETREGS, tid, 0usize, &raw const *registers) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A traced thread's news, without waiting.
fn next(which: i32) -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: the kernel writes the status, which lives until after the call.
    let tid = unsafe { libc::waitpid(which, &raw mut status, libc::__WALL | libc::WNOHANG) };
    (tid > 0).then_some((tid, status))
}

struct Trace<'a> {
    /// What stood where a breakpoint is now.
    before: HashMap<u64, u8>,
    threads: HashSet<i32>,
    entered: Vec<u64>,
    seen: HashSet<u64>,
    memory: &'a File,
}

/// Addresses of the `functions` that process `pid` enters within `time`, in the order of their first time.
pub(super) fn entered(pid: i32, functions: &[u64], time: Duration) -> Result<Vec<u64>> {
    let memory = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))
        .context("opening the process's memory needs root")?;
    let mut trace = Trace {
        before: HashMap::new(),
        threads: HashSet::new(),
        entered: Vec::new(),
        seen: HashSet::new(),
        memory: &memory,
    };
    trace.hold(pid)?;
    for &at in functions {
        let mut byte = [0];
        memory.read_exact_at(&mut byte, at)?;
        memory.write_all_at(&[BREAKPOINT], at)?;
        trace.before.insert(at, byte[0]);
    }
    for &tid in &trace.threads {
        ptrace(libc::PTRACE_CONT, tid, 0)?;
    }
    let end = Instant::now() + time;
    while Instant::now() < end {
        match next(-1) {
            Some((tid, status)) => trace.news(tid, status)?,
            None => std::thread::sleep(PAUSE),
        }
        if trace.threads.is_empty() {
            bail!("the process ended while it was looked at");
        }
    }
    trace.release()?;
    Ok(trace.entered)
}

impl Trace<'_> {
    /// Stops every thread of the process.
    fn hold(&mut self, pid: i32) -> Result<()> {
        // threads may be made while others are being stopped
        loop {
            let before = self.threads.len();
            for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
                let tid: i32 = entry?.file_name().to_string_lossy().parse()?;
                if self.threads.contains(&tid) {
                    continue;
                }
                ptrace(libc::PTRACE_SEIZE, tid, OPTIONS as usize)
                    .with_context(|| format!("attaching to thread {tid}"))?;
                ptrace(libc::PTRACE_INTERRUPT, tid, 0)?;
                let end = Instant::now() + END;
                while next(tid).is_none() {
                    if Instant::now() > end {
                        bail!("thread {tid} does not stop");
                    }
                    std::thread::sleep(PAUSE);
                }
                self.threads.insert(tid);
            }
            if self.threads.len() == before {
                return Ok(());
            }
        }
    }

    fn news(&mut self, tid: i32, status: i32) -> Result<()> {
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            self.threads.remove(&tid);
            return Ok(());
        }
        self.threads.insert(tid);
        let signal = libc::WSTOPSIG(status);
        let event = status >> 16;
        let going = match event {
            // another program: nothing of ours is in it
            libc::PTRACE_EVENT_EXEC => {
                self.threads.remove(&tid);
                ptrace(libc::PTRACE_DETACH, tid, 0)
            }
            0 if signal == libc::SIGTRAP && self.breakpoint(tid)? => {
                ptrace(libc::PTRACE_CONT, tid, 0)
            }
            0 => ptrace(libc::PTRACE_CONT, tid, signal as usize),
            _ => ptrace(libc::PTRACE_CONT, tid, 0),
        };
        match going {
            // killed in the meantime
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Whether the thread stands behind one of our breakpoints; if so, it goes on with what stood there.
    fn breakpoint(&mut self, tid: i32) -> Result<bool> {
        let mut registers = registers(tid)?;
        let at = registers.rip.wrapping_sub(1);
        let Some(&byte) = self.before.get(&at) else {
            return Ok(false);
        };
        // by way of the thread: a forked process has a memory of its own
        File::options()
            .write(true)
            .open(format!("/proc/{tid}/mem"))?
            .write_all_at(&[byte], at)?;
        registers.rip = at;
        set_registers(tid, &registers)?;
        if self.seen.insert(at) {
            self.entered.push(at);
        }
        Ok(true)
    }

    /// Takes all breakpoints away and lets go of every thread.
    fn release(&mut self) -> Result<()> {
        for &tid in &self.threads {
            let _ = ptrace(libc::PTRACE_INTERRUPT, tid, 0);
        }
        let mut stopped = HashSet::new();
        let end = Instant::now() + END;
        while stopped.len() < self.threads.len() && Instant::now() < end {
            match next(-1) {
                Some((tid, status)) if libc::WIFSTOPPED(status) => {
                    if status >> 16 == 0 && libc::WSTOPSIG(status) == libc::SIGTRAP {
                        self.breakpoint(tid)?;
                    }
                    self.threads.insert(tid);
                    stopped.insert(tid);
                }
                Some((tid, _)) => {
                    self.threads.remove(&tid);
                }
                None => std::thread::sleep(PAUSE),
            }
        }
        for (&at, &byte) in &self.before {
            self.memory.write_all_at(&[byte], at)?;
        }
        for tid in stopped {
            let _ = ptrace(libc::PTRACE_DETACH, tid, 0);
        }
        Ok(())
    }
}
