//! One line a service: redrawn on a terminal, printed at each change elsewhere.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    time::Instant,
};

pub struct Progress {
    started: Instant,
    lines: BTreeMap<String, (String, f64, bool)>,
    drawn: usize,
    terminal: bool,
    silent: bool,
}

impl Progress {
    pub fn new(silent: bool) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        Progress {
            started: Instant::now(),
            lines: BTreeMap::new(),
            drawn: 0,
            terminal,
            silent,
        }
    }

    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Sets a service's state; `done` stops its clock.
    pub fn set(&mut self, service: &str, state: &str, done: bool) {
        let entry = (state.to_string(), self.seconds(), done);
        let old = self.lines.insert(service.to_string(), entry);
        if self.silent || old.is_some_and(|(s, _, d)| s == state && d == done) {
            return;
        }
        match self.terminal {
            true => self.draw(),
            false => eprintln!("{}", self.line(service)),
        }
    }

    fn line(&self, service: &str) -> String {
        let width = self
            .lines
            .keys()
            .map(String::len)
            .max()
            .unwrap_or(0)
            .max(10);
        let (state, at, done) = &self.lines[service];
        let mark = if *done { "✓" } else { "·" };
        format!(" {mark} {service:width$}  {state:<32} {at:6.2} s")
    }

    fn draw(&mut self) {
        let mut out = std::io::stderr().lock();
        if self.drawn > 0 {
            let _ = write!(out, "\x1b[{}A", self.drawn);
        }
        for service in self.lines.keys() {
            let _ = writeln!(out, "\x1b[2K{}", self.line(service));
        }
        self.drawn = self.lines.len();
    }
}
