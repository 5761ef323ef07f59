//! How a pull or push shows: one line a layer, redrawn on a terminal; elsewhere a line when something is done.

use crate::live::{self, Line, Live, Style};
use knarr_image::client::{Event, Progress, Step};
use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// The lines of one pull or push.
pub struct Shown {
    quiet: bool,
    push: bool,
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lines: Vec<(String, Step)>,
    live: Live,
    at: Option<Instant>,
}

/// How often the lines are redrawn at most.
const EVERY: Duration = Duration::from_millis(80);
impl Shown {
    pub fn new(quiet: bool, push: bool) -> Shown {
        Shown {
            quiet,
            push,
            terminal: live::is_live(),
            state: Mutex::default(),
        }
    }

    /// Draws what is left to draw.
    pub fn finish(&self) {
        if let Ok(mut state) = self.state.lock()
            && self.terminal
            && !self.quiet
        {
            self.draw(&mut state);
        }
    }

    fn text(&self, step: Step) -> String {
        match step {
            Step::Waiting => "Waiting".into(),
            Step::Exists if self.push => "Layer already exists".into(),
            Step::Exists => "Already exists".into(),
            Step::Transferring { at, of } => {
                let word = if self.push { "Pushing" } else { "Downloading" };
                let cells = 30;
                let full = (at.min(of) * cells).checked_div(of).unwrap_or(cells) as usize;
                let bar: String = "=".repeat(full) + ">" + &" ".repeat(cells as usize - full);
                format!("{word} [{bar}] {}/{}", size(at), size(of))
            }
            Step::Retrying { attempt } => format!("Retrying (attempt {attempt})"),
            Step::Working if self.push => "Compressing".into(),
            Step::Working => "Extracting".into(),
            Step::Mounted => "Mounted from another repository".into(),
            Step::Done if self.push => "Pushed".into(),
            Step::Done => "Pull complete".into(),
        }
    }

    fn draw(&self, state: &mut State) {
        let lines = state.lines.iter().map(|(name, step)| {
            let text = format!("{name}: {}", self.text(*step));
            vec![(Style::Plain, text)]
        });
        let lines: Vec<Line> = lines.collect();
        state.live.draw(&[], &lines);
        state.at = Some(Instant::now());
    }
}

/// As Docker shows sizes.
pub fn size(bytes: u64) -> String {
    let (value, unit) = match bytes {
        0..1000 => return format!("{bytes}B"),
        1000..1_000_000 => (bytes as f64 / 1e3, "kB"),
        1_000_000..1_000_000_000 => (bytes as f64 / 1e6, "MB"),
        _ => (bytes as f64 / 1e9, "GB"),
    };
    match value {
        v if v < 10.0 => format!("{v:.2}{unit}"),
        v if v < 100.0 => format!("{v:.1}{unit}"),
        v => format!("{v:.0}{unit}"),
    }
}

impl Progress for Shown {
    fn event(&self, event: Event) {
        if self.quiet {
            return;
        }
        let Ok(mut state) = self.state.lock() else {
            return;
        };
        let Event::Blob { digest, step } = event else {
            return;
        };
        let name: String = digest
            .trim_start_matches("sha256:")
            .chars()
            .take(12)
            .collect();
        let known = state.lines.iter().position(|(n, _)| *n == name);
        let before = known.map(|at| state.lines[at].1);
        match known {
            Some(at) => state.lines[at].1 = step,
            None => state.lines.push((name.clone(), step)),
        }
        if self.terminal {
            let moves = matches!(step, Step::Transferring { .. });
            if !moves || state.at.is_none_or(|at| at.elapsed() > EVERY) {
                self.draw(&mut state);
            }
            return;
        }
        let told = matches!(
            step,
            Step::Exists | Step::Done | Step::Mounted | Step::Retrying { .. }
        );
        if told && before != Some(step) {
            eprintln!("{name}: {}", self.text(step));
        }
    }
}
