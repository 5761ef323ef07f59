//! Questions about a Dockerfile that are answered without building it: `--call=check`, `outline`, `targets`.
//!
//! SOURCE: buildkit `frontend/subrequests` (what the answers look like), `dockerfile2llb` (what they hold).

mod describe;
mod lint;
mod outline;
mod table;
mod targets;

pub use describe::describe;
pub use lint::{lint, rule_page};
pub use outline::outline;
pub use targets::targets;

use crate::{
    error::{Error, Result},
    stages::Dockerfile,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

/// What a question is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The whole, for programs.
    pub json: String,
    /// For people.
    pub text: String,
    /// Of a check: how many findings there are.
    pub warnings: usize,
    /// What to exit with.
    pub status: u8,
    /// Why the answer is not whole; the text doesn't say so.
    pub error: Option<String>,
}

/// The version of the questions.
pub const VERSION: &str = "1.0.0";

#[derive(Serialize)]
struct Position {
    line: usize,
}

#[derive(Serialize)]
struct Range {
    start: Position,
    end: Position,
}

/// Where something is said: each line by itself.
#[derive(Serialize)]
struct Location {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Range>,
}

impl Location {
    /// Of no place when the first line is 0.
    fn of(first: usize, last: usize) -> Location {
        // lines begin with 1
        let lines = (first..=last).filter(|line| *line > 0);
        let range = |line| Range {
            start: Position { line },
            end: Position { line },
        };
        Location {
            ranges: lines.map(range).collect(),
        }
    }
}

impl Location {
    fn line(&self) -> usize {
        self.ranges.first().map_or(0, |range| range.start.line)
    }
}

fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

/// As Go writes JSON: indented, and without characters that mean something in HTML.
fn go_json(value: &impl Serialize) -> String {
    // nothing here can fail: keys are texts, there are no maps
    let plain = serde_json::to_string_pretty(value).unwrap_or_default();
    let mut out = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out += &format!("\\u{:04x}", u32::from(c));
            }
            other => out.push(other),
        }
    }
    out
}

/// What the comment lines right before an instruction say of a name: the first of them that begins with it.
fn described(file: &Dockerfile, line: usize, name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    let lines = file.source.lines.iter().find(|l| l.first == line);
    let comments = lines.map(|l| l.comments.as_slice()).unwrap_or_default();
    let of = |comment: &String| {
        let rest = comment.strip_prefix(name)?.strip_prefix(' ')?;
        Some(rest.to_owned())
    };
    comments.iter().find_map(of).unwrap_or_default()
}

/// Reads a file that is asked about.
fn parsed(text: &str) -> Result<Dockerfile> {
    if text.is_empty() {
        return Err(Error::empty());
    }
    Dockerfile::parse(text)
}

#[cfg(test)]
mod tests;
