//! Regular expressions: RE2 syntax, of a bounded size.

use regex::{Regex, RegexBuilder};

use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::value::Value;
use crate::work;

/// How large an expression may be when compiled, in bytes, and how many times the work of the smallest one a search
/// with it is then counted as: each character is compared with as many states. The last is the largest.
const SIZES: [(usize, u64); 4] = [(8 << 10, 1), (64 << 10, 8), (512 << 10, 64), (1 << 20, 128)];
/// What compiling the smallest expression is counted as.
const COMPILING: u64 = 1_000;

/// A compiled expression.
pub(crate) struct Pattern {
    regex: Regex,
    weight: u64,
}

/// Compiles RE2 syntax.
pub(crate) fn compile(pattern: &str) -> Result<Pattern, String> {
    let pattern = translate(pattern)?;
    let mut why = String::new();
    for (size, weight) in SIZES {
        match RegexBuilder::new(&pattern)
            .size_limit(size)
            .dfa_size_limit(size)
            .build()
        {
            Ok(regex) => return Ok(Pattern { regex, weight }),
            Err(e @ regex::Error::CompiledTooBig(_)) => why = e.to_string(),
            Err(e) => {
                // the last line says why, those before draw where
                let text = e.to_string();
                let last = text.lines().last().unwrap_or(&text);
                return Err(last.trim_start_matches("error: ").to_string());
            }
        }
    }
    Err(why)
}

/// RE2's meaning in this library's syntax: `\d`, `\w`, `\s` and `\b` are of ASCII; within a class, `[`, `&&`, `--` and
/// `~~` are plain characters; nothing is repeated twice over.
fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    let mut class = false;
    // whether what was just read repeats something
    let mut repeated = false;
    while let Some(c) = chars.next() {
        let mut repeats = false;
        match c {
            '\\' => match chars.next() {
                None => return Err("trailing backslash at end of expression".into()),
                Some('Q') => {
                    let mut text = String::new();
                    while let Some(c) = chars.next() {
                        if c == '\\' && chars.peek() == Some(&'E') {
                            chars.next();
                            break;
                        }
                        text.push(c);
                    }
                    out.push_str(&regex::escape(&text));
                }
                Some(c) => out.push_str(&escape(c)),
            },
            '[' if class && chars.peek() == Some(&':') => out.push('['),
            '[' if class => out.push_str("\\["),
            '[' => {
                class = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
                // a bracket that comes first is a character
                if chars.peek() == Some(&']') {
                    chars.next();
                    out.push_str("\\]");
                }
            }
            ']' if class && out.ends_with(':') => out.push(']'),
            ']' => {
                class = false;
                out.push(']');
            }
            '&' | '~' if class => {
                out.push('\\');
                out.push(c);
            }
            '-' if class && chars.peek() == Some(&'-') => out.push_str("\\-"),
            '*' | '+' | '?' if !class => {
                repeats = true;
                if repeated && (c != '?' || out.ends_with("??") || lazy(&out)) {
                    return Err(format!("invalid nested repetition operator: `{c}`"));
                }
                out.push(c);
            }
            c => out.push(c),
        }
        repeated = repeats;
    }
    Ok(out)
}

/// Whether a repetition that already ends in `?` was just written.
fn lazy(out: &str) -> bool {
    out.ends_with("*?") || out.ends_with("+?")
}

fn escape(c: char) -> String {
    match c {
        'd' => "[0-9]".into(),
        'D' => "[^0-9]".into(),
        'w' => "[0-9A-Za-z_]".into(),
        'W' => "[^0-9A-Za-z_]".into(),
        's' => "[\\t\\n\\x0c\\r ]".into(),
        'S' => "[^\\t\\n\\x0c\\r ]".into(),
        'b' => "(?-u:\\b)".into(),
        c => format!("\\{c}"),
    }
}

/// What is done with a text and a regular expression.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Matches,
    Find,
    FindAll,
}

/// Searches a text; a negative limit is none.
pub(crate) fn search<'a>(pattern: &Pattern, kind: Kind, text: &str, limit: i64) -> Evaluated<'a> {
    let Pattern { regex, weight } = pattern;
    if !work::spend_many((text.len() as u64).saturating_mul(*weight)) {
        return Err(EvalError::call_limit());
    }
    Ok(match kind {
        Kind::Matches => Value::Bool(regex.is_match(text)),
        Kind::Find => Value::string(regex.find(text).map_or("", |m| m.as_str())),
        Kind::FindAll => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let found = regex.find_iter(text).take(limit);
            Value::list(found.map(|m| Value::string(m.as_str())).collect())
        }
    })
}

fn compiled<'a>(args: &[Value<'a>], kind: Kind, failed: &str) -> Evaluated<'a> {
    let (text, pattern, limit) = match (args, kind) {
        ([Value::String(t), Value::String(p)], _) => (t, p, -1),
        ([Value::String(t), Value::String(p), Value::Int(n)], Kind::FindAll) => (t, p, *n),
        _ => return Err(EvalError::no_overload()),
    };
    let pattern = compile(pattern.as_str());
    let pattern =
        pattern.map_err(|e| EvalError::new(format!("{failed}error parsing regexp: {e}")))?;
    if !work::spend_many(COMPILING * pattern.weight) {
        return Err(EvalError::call_limit());
    }
    search(&pattern, kind, text.as_str(), limit)
}

pub(super) fn matches<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    compiled(args, Kind::Matches, "")
}

pub(super) fn find<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    compiled(args, Kind::Find, "Illegal regex: ")
}

pub(super) fn find_all<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    compiled(args, Kind::FindAll, "Illegal regex: ")
}
