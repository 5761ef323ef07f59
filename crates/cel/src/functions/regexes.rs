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

/// The most times RE2 repeats anything.
const MAX_REPEAT: u32 = 1_000;

/// A compiled expression.
pub(crate) struct Pattern {
    regex: Regex,
    weight: u64,
}

/// Compiles RE2 syntax.
pub(crate) fn compile(pattern: &str) -> Result<Pattern, String> {
    let translated = translate(pattern)?;
    let mut why = String::new();
    for (size, weight) in SIZES {
        match RegexBuilder::new(&translated)
            .size_limit(size)
            .dfa_size_limit(size)
            .build()
        {
            Ok(regex) => return Ok(Pattern { regex, weight }),
            Err(e @ regex::Error::CompiledTooBig(_)) => why = e.to_string(),
            Err(e) => return Err(explain(&e.to_string(), pattern)),
        }
    }
    Err(why)
}

/// The commonest errors in Go's words.
fn explain(error: &str, pattern: &str) -> String {
    // the last line says why, those before draw where
    let why = error
        .lines()
        .last()
        .unwrap_or(error)
        .trim_start_matches("error: ");
    match why {
        "unclosed group" => format!("missing closing ): `{pattern}`"),
        "unopened group" => format!("unexpected ): `{pattern}`"),
        "unclosed character class" => {
            let from = pattern.rfind('[').unwrap_or(0);
            format!("missing closing ]: `{}`", &pattern[from..])
        }
        "repetition operator missing expression" => {
            let which = pattern
                .find(['*', '+', '?'])
                .map_or("", |i| &pattern[i..=i]);
            format!("missing argument to repetition operator: `{which}`")
        }
        why => why.to_string(),
    }
}

/// `{n}`, `{n,}` or `{n,m}` at the start of a text: as written, and whether RE2 takes the counts.
fn counted(s: &str) -> Option<(&str, bool)> {
    let end = s.find('}')?;
    let (low, high) = match s[1..end].split_once(',') {
        Some((low, "")) => (low, low),
        Some((low, high)) => (low, high),
        None => (&s[1..end], &s[1..end]),
    };
    let number = |n: &str| {
        (!n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
            .then(|| n.parse().unwrap_or(u32::MAX))
    };
    let (low, high) = (number(low)?, number(high)?);
    Some((&s[..=end], low <= high && high <= MAX_REPEAT))
}

/// RE2's meaning in this library's syntax: `\d`, `\w`, `\s` and `\b` are of ASCII; within a class, `[`, `&&`, `--` and
/// `~~` are plain characters; nothing is repeated twice over.
fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    let mut class = false;
    // what was just read, if it repeats what is before it
    let mut repeated = String::new();
    while let Some(c) = chars.next() {
        let mut repeats = String::new();
        match c {
            '\\' => match chars.next() {
                None => return Err("trailing backslash at end of expression: ``".into()),
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
                Some(c) => {
                    out.push_str(&escape(c));
                    // `\p{Lu}`, `\x{10FFFF}`
                    if matches!(c, 'p' | 'P' | 'x') && chars.peek() == Some(&'{') {
                        out.extend(chars.by_ref().take_while(|c| *c != '}'));
                        out.push('}');
                    }
                }
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
            '{' if !class => {
                let rest = &pattern
                    [pattern.len() - chars.clone().map(char::len_utf8).sum::<usize>() - 1..];
                match counted(rest) {
                    Some((count, false)) => return Err(format!("invalid repeat count: `{count}`")),
                    Some((count, true)) => {
                        if !repeated.is_empty() {
                            return Err(nested(&repeated, count));
                        }
                        repeats.push_str(count);
                        out.push_str(count);
                        chars.nth(count.len() - 2);
                    }
                    // no count: the character itself
                    None => out.push_str("\\{"),
                }
            }
            // a question mark after a repetition makes it lazy, which can be said once
            '?' if !class && !repeated.is_empty() && !lazy(&repeated) => {
                repeats = format!("{repeated}?");
                out.push(c);
            }
            '*' | '+' | '?' if !class => {
                if !repeated.is_empty() {
                    return Err(nested(&repeated, c.encode_utf8(&mut [0; 4])));
                }
                repeats.push(c);
                out.push(c);
            }
            c => out.push(c),
        }
        repeated = repeats;
    }
    Ok(out)
}

/// Whether a repetition is lazy already.
fn lazy(repetition: &str) -> bool {
    repetition.len() > 1 && repetition.ends_with('?')
}

fn nested(before: &str, again: &str) -> String {
    format!("invalid nested repetition operator: `{before}{again}`")
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
