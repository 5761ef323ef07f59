//! `exec` of a command that gets no input and no terminal, as scripts and checks do it: one thread, and nothing opened that
//! the one process doesn't need. Whatever isn't as usual is left to the long way (`exec::exec`).

use super::{
    exec::not_started,
    life::{self, inner_id},
    record::{Home, Record, pick},
};
use crate::paths::Paths;
use knarr_runtime::{EnteredProcess, ExecSpec};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

/// A pipe that can be written to takes as much at once without waiting. SOURCE: pipe(7), `PIPE_BUF`.
const AT_ONCE: usize = 4096;
const BUFFER: usize = 16 * AT_ONCE;
/// As long as Docker hears what a command left running.
pub const AFTER: Duration = Duration::from_secs(2);

/// `knarr exec NAME …`, when NAME is that of a stand-alone container. None: nothing was done.
pub fn named(paths: &Paths, name: &str, command: &[String]) -> Option<u8> {
    let home = Home::new(paths);
    let all = home.all();
    if !all.iter().any(|record| record.is_called(name)) {
        return None;
    }
    let spec = ExecSpec {
        args: command.to_vec(),
        ..ExecSpec::default()
    };
    exec(&home, &pick(&all, name).ok()?, &spec)
}

/// Its exit code. None: nothing was done.
pub fn exec(home: &Home, record: &Record, spec: &ExecSpec) -> Option<u8> {
    if spec.tty || spec.stdin || record.paused {
        return None;
    }
    let config = life::config(home, record).ok()?;
    let lock = home.lock_one(&record.id, Duration::ZERO).ok()?;
    if home.load(&record.id).is_none() {
        // removed meanwhile: its lock would stay
        home.forget_lock(&record.id);
        return None;
    }
    let started = EnteredProcess::start(&config, &inner_id(record), spec);
    drop(lock);
    let process = match started {
        Ok(process) => process?,
        Err(error) => return Some(not_started(error)),
    };
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    let both = [
        Pass::new(process.stdout.as_fd(), stdout.as_fd()),
        Pass::new(process.stderr.as_fd(), stderr.as_fd()),
    ];
    pass_on(both, process.ended());
    Some(u8::try_from(process.wait() & 0xff).unwrap_or(1))
}

/// One of the outputs on its way.
struct Pass<'a> {
    /// None: it has ended
    from: Option<BorrowedFd<'a>>,
    to: BorrowedFd<'a>,
    read: Vec<u8>,
    written: usize,
}

impl<'a> Pass<'a> {
    fn new(from: BorrowedFd<'a>, to: BorrowedFd<'a>) -> Pass<'a> {
        Pass {
            from: Some(from),
            to,
            read: Vec::new(),
            written: 0,
        }
    }

    /// What it waits for.
    fn waits(&self) -> Option<PollFd<'a>> {
        match self.written < self.read.len() {
            true => Some(PollFd::from_borrowed_fd(self.to, PollFlags::OUT)),
            false => Some(PollFd::from_borrowed_fd(self.from?, PollFlags::IN)),
        }
    }

    /// The next read or write, which doesn't block when that has come.
    fn step(&mut self) {
        if let Some(rest) = self
            .read
            .get(self.written..)
            .filter(|rest| !rest.is_empty())
        {
            match rustix::io::write(self.to, &rest[..rest.len().min(AT_ONCE)]) {
                Ok(n) => self.written += n,
                Err(Errno::INTR | Errno::AGAIN) => {}
                // nobody hears it any more: the command goes on all the same
                Err(_) => self.written = self.read.len(),
            }
            return;
        }
        let Some(from) = self.from else { return };
        self.read.resize(BUFFER, 0);
        let read = rustix::io::read(from, self.read.as_mut_slice());
        self.written = 0;
        self.read.truncate(*read.as_ref().unwrap_or(&0));
        if !matches!(read, Ok(1..) | Err(Errno::INTR)) {
            self.from = None;
        }
    }
}

/// Copies both until their ends; neither waits for the reader of the other. `ended` can be read when the command has: what it
/// left running may hold its outputs open, and is heard until it has said nothing for [`AFTER`].
fn pass_on(mut both: [Pass; 2], ended: BorrowedFd) {
    let mut over = false;
    loop {
        let waiting: Vec<usize> = (0..2).filter(|n| both[*n].waits().is_some()).collect();
        let mut polled: Vec<PollFd> = both.iter().filter_map(Pass::waits).collect();
        if polled.is_empty() {
            return;
        }
        if !over {
            polled.push(PollFd::from_borrowed_fd(ended, PollFlags::IN));
        }
        // A slow reader is waited for.
        let listens = both.iter().all(|pass| pass.written == pass.read.len());
        let time = (over && listens).then(|| Timespec::try_from(AFTER).ok());
        match poll(&mut polled, time.flatten().as_ref()) {
            Ok(0) => return,
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        let ready: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
        over |= ready.get(waiting.len()).is_some_and(|ended| *ended);
        for (n, ready) in waiting.into_iter().zip(ready) {
            if ready {
                both[n].step();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::File,
        io::{Read, Write},
    };

    fn pipe() -> (File, File) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        (read.into(), write.into())
    }

    #[test]
    fn all_arrives_though_one_reader_waits_for_the_other_output() {
        const LEN: usize = 3 << 20;
        let ((out, mut out_in), (err, mut err_in)) = (pipe(), pipe());
        let ((mut out_seen, out_to), (mut err_seen, err_to)) = (pipe(), pipe());
        let (runs, _command) = pipe();
        std::thread::scope(|scope| {
            scope.spawn(move || out_in.write_all(&vec![b'o'; LEN]).unwrap());
            scope.spawn(move || err_in.write_all(&vec![b'e'; LEN]).unwrap());
            scope.spawn(move || {
                let both = [
                    Pass::new(out.as_fd(), out_to.as_fd()),
                    Pass::new(err.as_fd(), err_to.as_fd()),
                ];
                pass_on(both, runs.as_fd());
            });
            // the first is read only when the second has ended
            for (seen, letter) in [(&mut err_seen, b'e'), (&mut out_seen, b'o')] {
                let mut bytes = vec![0; LEN];
                seen.read_exact(&mut bytes).unwrap();
                assert!(bytes.iter().all(|b| *b == letter));
            }
        });
    }

    #[test]
    fn outputs_that_what_was_left_running_holds_open_are_not_waited_for() {
        let ((out, mut out_in), (err, _err_in)) = (pipe(), pipe());
        let ((mut seen, out_to), (_err_seen, err_to)) = (pipe(), pipe());
        let (runs, command) = pipe();
        out_in.write_all(b"hi").unwrap();
        drop(command);
        // `out_in` stays open
        let both = [
            Pass::new(out.as_fd(), out_to.as_fd()),
            Pass::new(err.as_fd(), err_to.as_fd()),
        ];
        pass_on(both, runs.as_fd());
        drop(out_to);
        let mut text = String::new();
        seen.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
    }
}
