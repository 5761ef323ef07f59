//! A build as a person sees it: on a terminal the finished steps and, below them, one live line for each that runs;
//! elsewhere a line for each thing that happens, as BuildKit's plain progress has it.

use crate::live::{self, Line, Live, Style};
use knarr_build::{Event, Outcome, Progress, StepId};
use knarr_dockerfile::Check;
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum How {
    Auto,
    Plain,
    Tty,
    Quiet,
    /// BuildKit's status messages, one JSON object a line
    Rawjson,
}

/// Not more often than this is a terminal drawn on because of output.
const REDRAW: Duration = Duration::from_millis(80);

pub struct BuildProgress(Mutex<State>);

struct State {
    how: How,
    steps: BTreeMap<StepId, Step>,
    /// When each began, for raw messages.
    began: BTreeMap<StepId, String>,
    /// On the terminal, of steps that run.
    lines: Live,
    last: Instant,
    /// What the Dockerfile should say otherwise, of a build that failed.
    found: Vec<Check>,
}

struct Step {
    name: String,
    since: Instant,
    /// The last line of output, or how far a transfer is.
    line: String,
    /// Plain: output without an end of line yet.
    open: String,
}

impl BuildProgress {
    pub fn new(how: How) -> BuildProgress {
        let how = match how {
            How::Auto if live::is_live() => How::Tty,
            How::Auto => How::Plain,
            how => how,
        };
        let now = Instant::now();
        BuildProgress(Mutex::new(State {
            how,
            steps: BTreeMap::new(),
            began: BTreeMap::new(),
            lines: Live::default(),
            last: now,
            found: vec![],
        }))
    }
    /// Draws the live lines anew, for their clocks.
    pub fn tick(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.how == How::Tty {
            state.draw(&[]);
        }
    }
    /// Takes the live lines off.
    pub fn finish(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.steps.clear();
        if state.how == How::Tty {
            state.draw(&[]);
        }
    }
    /// What was found in the Dockerfile of a build that failed.
    pub fn found(&self) -> Vec<Check> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.found)
    }
    pub fn is_quiet(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).how == How::Quiet
    }
    /// Nothing but messages for programs is written.
    pub fn is_raw(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).how == How::Rawjson
    }
}

impl Progress for BuildProgress {
    fn tell(&self, event: Event) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.how {
            How::Quiet => {}
            How::Tty => state.live(event),
            How::Plain | How::Auto => state.plain(event),
            How::Rawjson => state.raw(event),
        }
    }
}

fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        _ => format!("{:.1} MB", n as f64 / 1e6),
    }
}

fn far(what: &str, done: u64, total: u64) -> String {
    match total {
        0 => format!("{what} {}", bytes(done)),
        total => format!("{what} {} / {}", bytes(done), bytes(total)),
    }
}

impl State {
    fn start(&mut self, id: StepId, name: String) {
        let step = Step {
            name,
            since: Instant::now(),
            line: String::new(),
            open: String::new(),
        };
        self.steps.insert(id, step);
    }

    fn plain(&mut self, event: Event) {
        let mut out = std::io::stderr().lock();
        match event {
            Event::Started { id, name } => {
                let _ = writeln!(out, "#{id} {name}");
                self.start(id, name);
            }
            Event::Output { id, bytes, .. } => {
                let Some(step) = self.steps.get_mut(&id) else {
                    return;
                };
                step.open += &String::from_utf8_lossy(&bytes);
                let at = step.since.elapsed().as_secs_f64();
                while let Some(end) = step.open.find('\n') {
                    let line: String = step.open.drain(..=end).collect();
                    let _ = writeln!(out, "#{id} {at:.3} {}", line.trim_end());
                }
            }
            Event::Transfer {
                id,
                what,
                done,
                total,
            } => {
                // one line for each thing that is transferred, at its end
                if total > 0 && done >= total {
                    let _ = writeln!(out, "#{id} {}", far(&what, done, total));
                }
            }
            Event::Ended { id, outcome, took } => {
                let step = self.steps.remove(&id);
                let step = step.filter(|s| !s.open.is_empty());
                if let Some(step) = step {
                    let _ = writeln!(out, "#{id} {:.3} {}", took.as_secs_f64(), step.open);
                }
                let said = match outcome {
                    Outcome::Done => format!("DONE {:.1}s", took.as_secs_f64()),
                    Outcome::Cached => "CACHED".into(),
                    Outcome::Failed(why) => format!("ERROR: {why}"),
                    Outcome::Canceled => "CANCELED".into(),
                };
                let _ = writeln!(out, "#{id} {said}\n");
            }
            Event::Warning { text } => {
                let _ = writeln!(out, "WARN: {text}");
            }
            Event::Found { checks } => self.found = checks,
        }
    }

    /// SOURCE: buildkit client/graph.go SolveStatus, as `--progress=rawjson` prints it
    fn raw(&mut self, event: Event) {
        use base64::Engine;
        let now = jiff::Timestamp::now().to_string();
        // what is to be told apart by a digest there is by its number here
        let digest = |id: StepId| format!("sha256:{id:064x}");
        let value = match event {
            Event::Started { id, name } => {
                let value =
                    json!({"vertexes": [{"digest": digest(id), "name": name, "started": now}]});
                self.began.insert(id, now);
                self.start(id, name);
                value
            }
            Event::Output { id, stderr, bytes } => json!({"logs": [{
                "vertex": digest(id),
                "stream": if stderr { 2 } else { 1 },
                "data": base64::engine::general_purpose::STANDARD.encode(bytes),
                "timestamp": now,
            }]}),
            Event::Transfer {
                id,
                what,
                done,
                total,
            } => json!({"statuses": [{
                "id": what, "vertex": digest(id), "current": done, "total": total, "timestamp": now,
                "started": self.began.get(&id),
            }]}),
            Event::Ended { id, outcome, .. } => {
                let mut vertex = json!({
                    "digest": digest(id),
                    "name": self.steps.remove(&id).map(|s| s.name).unwrap_or_default(),
                    "started": self.began.remove(&id),
                    "completed": now,
                });
                match outcome {
                    Outcome::Done => {}
                    Outcome::Cached => vertex["cached"] = true.into(),
                    Outcome::Failed(why) => vertex["error"] = why.into(),
                    Outcome::Canceled => vertex["error"] = "context canceled".into(),
                }
                json!({"vertexes": [vertex]})
            }
            Event::Warning { text } => json!({"warnings": [{
                "level": 1, "short": base64::engine::general_purpose::STANDARD.encode(text),
            }]}),
            Event::Found { checks } => {
                let short = |c: &Check| {
                    base64::engine::general_purpose::STANDARD
                        .encode(format!("{}: {} (line {})", c.rule, c.message, c.line))
                };
                let one = |c: &Check| json!({"level": 1, "short": short(c)});
                json!({"warnings": checks.iter().map(one).collect::<Vec<_>>()})
            }
        };
        let _ = writeln!(std::io::stderr().lock(), "{value}");
    }

    fn live(&mut self, event: Event) {
        match event {
            Event::Started { id, name } => {
                self.start(id, name);
                self.draw(&[]);
            }
            Event::Output { id, bytes, .. } => {
                if let Some(step) = self.steps.get_mut(&id)
                    && let Some(line) = live::last_line(&String::from_utf8_lossy(&bytes))
                {
                    step.line = line;
                }
                self.draw_soon();
            }
            Event::Transfer {
                id,
                what,
                done,
                total,
            } => {
                if let Some(step) = self.steps.get_mut(&id) {
                    step.line = far(&what, done, total);
                }
                self.draw_soon();
            }
            Event::Ended { id, outcome, took } => {
                let Some(step) = self.steps.remove(&id) else {
                    return;
                };
                let good = matches!(outcome, Outcome::Done | Outcome::Cached);
                let time = format!("{:.1}s", took.as_secs_f64());
                let (style, mark, said) = match outcome {
                    Outcome::Done => (Style::Good, "✓", time),
                    Outcome::Cached => (Style::Known, "=", "cached".into()),
                    Outcome::Failed(_) => (Style::Bad, "✗", time),
                    Outcome::Canceled => (Style::Plain, "·", "canceled".into()),
                };
                // what takes no time and tells nothing is not worth a line
                let small = step.name.starts_with("[internal]") && took < Duration::from_secs(1);
                if small && good {
                    self.draw(&[]);
                    return;
                }
                let text = format!(" {}  {said}", fit(&step.name));
                self.draw(&[vec![(style, mark.into()), (Style::Plain, text)]]);
            }
            Event::Warning { text } => {
                let text = format!(" {}", live::harmless(&text));
                self.draw(&[vec![(Style::Warns, "!".into()), (Style::Plain, text)]]);
            }
            Event::Found { checks } => self.found = checks,
        }
    }

    fn draw_soon(&mut self) {
        if self.last.elapsed() >= REDRAW {
            self.draw(&[]);
        }
    }

    /// Prints `above` for good and the live lines below it.
    fn draw(&mut self, above: &[Line]) {
        self.last = Instant::now();
        let lines = self.steps.values().map(|step| {
            let seconds = step.since.elapsed().as_secs_f64();
            vec![
                (Style::Runs, "·".into()),
                (Style::Plain, format!(" {}  {seconds:.1}s", fit(&step.name))),
                (Style::Dim, format!("  {}", step.line)),
            ]
        });
        let lines: Vec<Line> = lines.collect();
        self.lines.draw(above, &lines);
    }
}

/// A name that leaves room for a time.
fn fit(name: &str) -> String {
    let room = live::size().0.saturating_sub(16);
    let name = live::harmless(name);
    match name.chars().count() > room {
        true => name
            .chars()
            .take(room.saturating_sub(1))
            .chain(['…'])
            .collect(),
        false => name,
    }
}
