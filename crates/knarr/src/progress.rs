//! One line a service: live on a terminal, with a clock and what it last said; printed at each change elsewhere.

use crate::live::{self, Line, Live, Style};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

/// How often the clocks go on.
const TICK: Duration = Duration::from_millis(100);
/// States are made as wide, so that the clocks stand below each other.
const STATE_WIDTH: usize = 32;

/// What `up` and its like show of how it goes.
pub struct Progress(Arc<Mutex<State>>);

struct State {
    started: Instant,
    services: BTreeMap<String, Service>,
    live: Live,
    terminal: bool,
    silent: bool,
    /// The clocks' thread runs.
    ticks: bool,
}

struct Service {
    state: String,
    /// What its work last said.
    said: String,
    at: f64,
    mark: Mark,
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    Runs,
    Done,
    Failed,
}

impl Mark {
    fn shown(self) -> (Style, &'static str) {
        match self {
            Mark::Runs => (Style::Runs, "·"),
            Mark::Done => (Style::Good, "✓"),
            Mark::Failed => (Style::Bad, "✗"),
        }
    }
}

impl Progress {
    pub fn new(silent: bool) -> Progress {
        Progress(Arc::new(Mutex::new(State {
            started: Instant::now(),
            services: BTreeMap::new(),
            live: Live::default(),
            terminal: live::is_live(),
            silent,
            ticks: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn seconds(&self) -> f64 {
        self.state().started.elapsed().as_secs_f64()
    }

    /// Sets a service's state; `done` stops its clock.
    pub fn set(&self, service: &str, state: &str, done: bool) {
        let mark = if done { Mark::Done } else { Mark::Runs };
        self.mark(service, state, mark);
    }

    /// Sets a service's state for good: it has not come right.
    pub fn fail(&self, service: &str, state: &str) {
        self.mark(service, state, Mark::Failed);
    }

    fn mark(&self, service: &str, text: &str, mark: Mark) {
        let mut state = self.state();
        let at = state.started.elapsed().as_secs_f64();
        let new = Service {
            state: text.to_string(),
            said: String::new(),
            at,
            mark,
        };
        let old = state.services.insert(service.to_string(), new);
        if state.silent || old.is_some_and(|o| o.state == text && o.mark == mark) {
            return;
        }
        if !state.terminal {
            eprintln!("{}", state.line(service));
            return;
        }
        state.draw(&[]);
        if !state.ticks {
            state.ticks = true;
            let weak = Arc::downgrade(&self.0);
            std::thread::spawn(move || tick(&weak));
        }
    }

    /// Shows behind its state what a service's work last said; not worth a line of its own.
    pub fn tail(&self, service: &str, said: &str) {
        let mut state = self.state();
        if let Some(service) = state.services.get_mut(service) {
            service.said = said.to_string();
        }
    }

    /// What stands there stays as it is, and others may write below it.
    pub fn finish(&self) {
        let mut state = self.state();
        state.silent = true;
        state.live.leave();
    }

    /// Prints a line that stays, above those that change.
    pub fn say(&self, text: &str) {
        let mut state = self.state();
        match state.terminal && !state.silent && state.live.is_drawn() {
            true => {
                let lines = text.lines();
                let lines = lines.map(|l| vec![(Style::Plain, l.to_string())]);
                state.draw(&lines.collect::<Vec<_>>());
            }
            false => eprintln!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Lets the clocks go on until all is over.
fn tick(weak: &Weak<Mutex<State>>) {
    loop {
        std::thread::sleep(TICK);
        let Some(state) = weak.upgrade() else { return };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = state.services.values().any(|s| s.mark == Mark::Runs);
        if runs && !state.silent && state.live.is_drawn() {
            state.draw(&[]);
        }
    }
}

impl State {
    /// How wide the names' column is.
    fn names(&self) -> usize {
        let widths = self.services.keys().map(|s| live::width(s));
        widths.max().unwrap_or(0).max(10)
    }

    /// As it is printed where nothing is drawn anew.
    fn line(&self, service: &str) -> String {
        let one = &self.services[service];
        let (_, mark) = one.mark.shown();
        let width = self.names();
        format!(
            " {mark} {service:width$}  {:<STATE_WIDTH$} {:6.2} s",
            one.state, one.at
        )
    }

    /// As it is drawn: name, state and clock, then what was last said where there is room.
    fn drawn(&self, service: &str, columns: usize) -> Line {
        let one = &self.services[service];
        let (style, mark) = one.mark.shown();
        let clock = match one.mark {
            Mark::Runs => format!("{:7.1} s", self.started.elapsed().as_secs_f64()),
            Mark::Done | Mark::Failed => format!("{:7.2} s", one.at),
        };
        // The clock is the last to go.
        let names = self.names().min(columns / 4);
        let spare = columns.saturating_sub(names + clock.len() + 6);
        let states = STATE_WIDTH.min(spare);
        let mut line = vec![
            (Style::Plain, " ".to_string()),
            (style, mark.to_string()),
            (Style::Plain, format!(" {}", fit(service, names))),
        ];
        // A step of a build is worth all of the line.
        let wide = live::width(&one.state).clamp(states, spare.max(states));
        line.push((Style::Plain, format!("  {}", fit(&one.state, wide))));
        line.push((Style::Plain, clock));
        if !one.said.is_empty() && one.mark == Mark::Runs && spare > wide + 10 {
            line.push((Style::Dim, format!("  {}", one.said)));
        }
        line
    }

    fn draw(&mut self, above: &[Line]) {
        let (columns, rows) = live::size();
        // As many as the window has room for: first those that are not done.
        let most = rows.saturating_sub(1).max(1);
        let mut shown: Vec<&String> = self.services.keys().collect();
        if shown.len() > most {
            shown.sort_by_key(|s| self.services[*s].mark == Mark::Done);
            shown.truncate(most);
            shown.sort();
        }
        let lines: Vec<Line> = shown.iter().map(|s| self.drawn(s, columns)).collect();
        self.live.draw(above, &lines);
    }
}

/// The text in exactly so many columns.
fn fit(text: &str, columns: usize) -> String {
    let wide = live::width(text);
    if columns == 0 {
        return String::new();
    }
    if wide <= columns {
        return format!("{text}{}", " ".repeat(columns - wide));
    }
    let mut cut = String::new();
    for c in text.chars() {
        if live::width(&cut) + 2 > columns {
            break;
        }
        cut.push(c);
    }
    fit(&format!("{cut}…"), columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_whatever_the_window() {
        let progress = Progress::new(true);
        progress.set(
            "web",
            "[2/3] RUN make it all, and whatever else there is to be done in a step of a build",
            false,
        );
        progress.set("a-service-with-quite-a-long-name", "1/1 ready", true);
        progress.tail("web", "what it says");
        let state = progress.state();
        for columns in [20, 40, 60, 80, 120, 200] {
            for service in ["web", "a-service-with-quite-a-long-name"] {
                let line = state.drawn(service, columns);
                let upto = line.iter().filter(|(style, _)| *style != Style::Dim);
                let used: usize = upto.map(|(_, t)| live::width(t)).sum();
                assert!(used < columns, "{columns}: {line:?}");
                let last = line.iter().any(|(_, t)| t.ends_with(" s"));
                assert!(last, "the clock is there");
            }
        }
        let wide = state.drawn("web", 200);
        assert!(wide.iter().any(|(_, t)| t.contains("step of a build")));
        assert!(wide.iter().any(|(_, t)| t.contains("what it says")));
    }
}
