//! A file's lines as instructions: comments, directives, continued lines, here-documents (Dockerfile reference, "Format").

use crate::{
    error::{Error, Result},
    heredoc::Heredoc,
    split,
    words::Escape,
};

/// The longest file, bytes.
const LONGEST: usize = 4 << 20;

/// One instruction as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// First line, from 1.
    pub first: usize,
    /// Last line, here-documents included.
    pub last: usize,
    /// As written: `FROM`, `from`.
    pub keyword: String,
    /// `--name=value` behind the keyword.
    pub flags: Vec<String>,
    /// The rest.
    pub rest: String,
    /// The whole, continued lines joined.
    pub original: String,
    /// Here-documents, in order.
    pub heredocs: Vec<Heredoc>,
    /// The comment lines right before it, without `#`.
    pub comments: Vec<String>,
}

/// Something that works and should not be written so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The line, from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lines {
    /// The instructions.
    pub lines: Vec<Line>,
    /// What escapes in this file.
    pub escape: Escape,
    /// `# syntax=`
    pub syntax: Option<String>,
    /// `# check=`
    pub check: Option<String>,
    /// `# escape=` was there
    pub(crate) escape_said: bool,
    /// Lines that are empty inside an instruction.
    pub empty_continuations: Vec<Warning>,
}

/// Reads the lines of a Dockerfile.
///
/// # Errors
/// A directive twice or with a value that can't be, a here-document without an end, a file without instructions.
pub fn lines(text: &str) -> Result<Lines> {
    if text.len() > LONGEST {
        return Err(Error::new(
            1,
            1,
            format!("the file is longer than {LONGEST} bytes"),
        ));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut file = Lines {
        lines: vec![],
        escape: Escape::Backslash,
        syntax: None,
        check: None,
        escape_said: false,
        empty_continuations: vec![],
    };
    let mut rows = text
        .split_inclusive('\n')
        .enumerate()
        .map(|(i, r)| (i + 1, r));
    let mut directives = true;
    let mut comments: Vec<String> = vec![];
    while let Some((first, row)) = rows.next() {
        let row = trim_end(row).trim_start();
        if directives && first == 1 && row.starts_with("#!") {
            continue;
        }
        if let Some(comment) = row.strip_prefix('#') {
            let comment = comment.trim();
            if directives && directive(&mut file, comment, first)? {
                continue;
            }
            directives = false;
            if comment.is_empty() {
                comments.clear();
            } else {
                comments.push(comment.to_owned());
            }
            continue;
        }
        directives = false;
        let (start, mut goes_on) = continued(row, file.escape);
        if !goes_on && start.is_empty() {
            comments.clear();
            continue;
        }
        let mut joined = start.to_owned();
        let (mut last, mut empty) = (first, false);
        while goes_on {
            let Some((at, row)) = rows.next() else { break };
            last = at;
            let row = trim_end(row);
            if row.trim_start().starts_with('#') {
                continue;
            }
            if row.trim_start().is_empty() {
                empty = true;
                continue;
            }
            let (part, more) = continued(row, file.escape);
            joined.push_str(part);
            goes_on = more;
        }
        if empty {
            file.empty_continuations.push(Warning {
                line: last,
                text: joined.clone(),
            });
        }
        let mut line = Line::of(&joined, file.escape, first, last);
        line.comments = std::mem::take(&mut comments);
        if line.may_hold_heredocs(file.escape) && joined.contains("<<") {
            let starts = Heredoc::all_of(&joined).map_err(|why| Error::new(first, last, why))?;
            for mut heredoc in starts {
                let mut ended = false;
                for (at, row) in rows.by_ref() {
                    last = at;
                    let end = trim_end(row);
                    let end = if heredoc.chomp {
                        end.trim_start_matches('\t')
                    } else {
                        end
                    };
                    if end == heredoc.name {
                        ended = true;
                        break;
                    }
                    heredoc.content.push_str(row);
                }
                if !ended {
                    return Err(Error::new(first, last, "unterminated heredoc"));
                }
                line.heredocs.push(heredoc);
            }
            line.last = last;
        }
        file.lines.push(line);
    }
    if file.lines.is_empty() {
        let last = text.lines().count().max(1);
        return Err(Error::new(last, last, "file with no instructions"));
    }
    Ok(file)
}

impl Line {
    /// Splits one joined line.
    pub(crate) fn of(joined: &str, escape: Escape, first: usize, last: usize) -> Line {
        let (keyword, rest) = split::first(joined.trim());
        let (flags, rest) = split::flags(rest.unwrap_or_default(), escape);
        Line {
            first,
            last,
            keyword: keyword.to_owned(),
            flags,
            rest: rest.trim().to_owned(),
            original: joined.to_owned(),
            heredocs: vec![],
            comments: vec![],
        }
    }
    /// The keyword in upper case.
    pub fn name(&self) -> String {
        self.keyword.to_ascii_uppercase()
    }
    /// The instruction that an `ONBUILD` holds.
    pub(crate) fn inner(&self, escape: Escape) -> Line {
        let mut inner = Line::of(&self.rest, escape, self.first, self.last);
        inner.heredocs = self.heredocs.clone();
        inner
    }
    fn may_hold_heredocs(&self, escape: Escape) -> bool {
        match self.name().as_str() {
            "ONBUILD" => {
                let inner = self.inner(escape);
                inner.name() != "ONBUILD" && inner.may_hold_heredocs(escape)
            }
            "ADD" | "COPY" | "RUN" => !matches!(json(&self.rest), Json::Strings(_)),
            _ => false,
        }
    }
}

/// What a text is as JSON.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Json {
    /// `["a", "b"]`
    Strings(Vec<String>),
    /// an array of other things
    OtherArray,
    /// no array
    No,
}

/// The exec form of an instruction's arguments.
pub(crate) fn json(rest: &str) -> Json {
    let rest = rest.trim_start();
    if !rest.starts_with('[') {
        return Json::No;
    }
    match serde_json::from_str::<Vec<serde_json::Value>>(rest) {
        Err(_) => Json::No,
        Ok(all) => all
            .into_iter()
            .map(|v| v.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .map_or(Json::OtherArray, Json::Strings),
    }
}

fn trim_end(row: &str) -> &str {
    row.trim_end_matches(['\r', '\n'])
}

/// The line without the escape at its end, and whether there was one. An escape behind an escape continues nothing.
fn continued(row: &str, escape: Escape) -> (&str, bool) {
    let escape = escape.char();
    match row.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(part) if !part.ends_with(escape) => (part, true),
        _ => (row, false),
    }
}

/// `name=value` before everything else; returns whether it was one.
fn directive(file: &mut Lines, comment: &str, line: usize) -> Result<bool> {
    let Some((name, value)) = comment.split_once('=') else {
        return Ok(false);
    };
    let (name, value) = (name.trim_end().to_ascii_lowercase(), value.trim());
    if value.is_empty() {
        return Ok(false);
    }
    let twice = || {
        Error::new(
            line,
            line,
            format!("only one {name} parser directive can be used"),
        )
    };
    match name.as_str() {
        "syntax" => {
            if file.syntax.replace(value.to_owned()).is_some() {
                return Err(twice());
            }
        }
        "check" => {
            if file.check.replace(value.to_owned()).is_some() {
                return Err(twice());
            }
        }
        "escape" => {
            if std::mem::replace(&mut file.escape_said, true) {
                return Err(twice());
            }
            file.escape = match value {
                "\\" => Escape::Backslash,
                "`" => Escape::Backtick,
                other => {
                    let why = format!("invalid escape token '{other}' does not match ` or \\");
                    return Err(Error::new(line, line, why));
                }
            };
        }
        _ => return Ok(false),
    }
    Ok(true)
}
