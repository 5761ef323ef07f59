//! Semantic versions.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use super::Function;
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::value::Value;

/// A version; build metadata does not order it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<Box<str>>,
    build: Box<str>,
}

impl Semver {
    /// Semantic Versioning 2.0.
    pub fn parse(s: &str) -> Result<Semver, String> {
        if s.is_empty() {
            return Err("Version string empty".into());
        }
        let (s, build) = s.split_once('+').map_or((s, None), |(s, b)| (s, Some(b)));
        let (core, pre) = s.split_once('-').map_or((s, None), |(s, p)| (s, Some(p)));
        let parts: Vec<&str> = core.splitn(3, '.').collect();
        let [major, minor, patch] = parts[..] else {
            return Err("No Major.Minor.Patch elements found".into());
        };
        let numbers = [
            number("major", major)?,
            number("minor", minor)?,
            number("patch", patch)?,
        ];
        let pre = pre.map_or(Ok(Vec::new()), |p| p.split('.').map(identifier).collect())?;
        if let Some(b) = build {
            for part in b.split('.') {
                if part.is_empty() {
                    return Err("Build meta data is empty".into());
                }
                legal("build meta data", part)?;
            }
        }
        Ok(Semver {
            numbers,
            pre,
            build: build.unwrap_or("").into(),
        })
    }

    /// Takes what is not quite one: a leading `v`, missing parts, leading zeros.
    fn parse_loosely(s: &str) -> Result<Semver, String> {
        let s = s.strip_prefix('v').unwrap_or(s);
        let mut parts: Vec<String> = s
            .splitn(3, '.')
            .map(|p| match p.trim_start_matches('0') {
                _ if p.len() <= 1 => p.to_string(),
                trimmed if trimmed.starts_with(|c: char| c.is_ascii_digit()) => trimmed.to_string(),
                trimmed => format!("0{trimmed}"),
            })
            .collect();
        if parts.len() < 3 {
            if parts.last().is_some_and(|p| p.contains(['+', '-'])) {
                return Err("short version cannot contain PreRelease/Build meta data".into());
            }
            parts.resize(3, "0".into());
        }
        Semver::parse(&parts.join("."))
    }
}

fn number(what: &str, s: &str) -> Result<u64, String> {
    if s.is_empty() || !s.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {what} number {s:?}"));
    }
    if s.len() > 1 && s.starts_with('0') {
        let title: String = what
            .chars()
            .take(1)
            .flat_map(char::to_uppercase)
            .chain(what.chars().skip(1))
            .collect();
        return Err(format!(
            "{title} number must not contain leading zeroes {s:?}"
        ));
    }
    s.parse()
        .map_err(|_| format!("strconv.ParseUint: parsing {s:?}: value out of range"))
}

fn legal(what: &str, s: &str) -> Result<(), String> {
    if s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Ok(());
    }
    Err(format!("Invalid character(s) found in {what} {s:?}"))
}

fn identifier(s: &str) -> Result<Box<str>, String> {
    if s.is_empty() {
        return Err("Prerelease is empty".into());
    }
    if s.bytes().all(|b| b.is_ascii_digit()) && s.len() > 1 && s.starts_with('0') {
        return Err(format!(
            "Numeric PreRelease version must not contain leading zeroes {s:?}"
        ));
    }
    legal("prerelease", s)?;
    Ok(s.into())
}

impl PartialOrd for Semver {
    fn partial_cmp(&self, other: &Semver) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Semver {
    fn cmp(&self, other: &Semver) -> Ordering {
        let release = |v: &Semver| v.pre.is_empty();
        self.numbers
            .cmp(&other.numbers)
            .then(release(self).cmp(&release(other)))
            .then_with(|| {
                let pairs = self
                    .pre
                    .iter()
                    .zip(&other.pre)
                    .map(|(a, b)| compare_identifiers(a, b));
                pairs
                    .into_iter()
                    .find(|o| o.is_ne())
                    .unwrap_or(self.pre.len().cmp(&other.pre.len()))
            })
    }
}

fn compare_identifiers(a: &str, b: &str) -> Ordering {
    let numeric = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    match (numeric(a), numeric(b)) {
        // no leading zeros, so the longer is the larger
        (true, true) => a.len().cmp(&b.len()).then(a.cmp(b)),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.cmp(b),
    }
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.pre.is_empty() {
            write!(f, "-{}", self.pre.join("."))?;
        }
        if !self.build.is_empty() {
            write!(f, "+{}", self.build)?;
        }
        Ok(())
    }
}

fn parsed(args: &[Value<'_>]) -> Result<Result<Semver, String>, EvalError> {
    match args {
        [Value::String(s)] | [Value::String(s), Value::Bool(false)] => {
            Ok(Semver::parse(s.as_str()))
        }
        [Value::String(s), Value::Bool(true)] => Ok(Semver::parse_loosely(s.as_str())),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn semver<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    parsed(args)?
        .map(|v| Value::Semver(Arc::new(v)))
        .map_err(EvalError::new)
}

pub(super) fn is_semver<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(parsed(args)?.is_ok()))
}

pub(super) fn accessor(name: &str) -> Option<Function> {
    fn part<'a>(args: &[Value<'a>], i: usize) -> Evaluated<'a> {
        match args {
            [Value::Semver(v)] => Ok(Value::Int(v.numbers[i] as i64)),
            _ => Err(EvalError::no_overload()),
        }
    }
    Some(match name {
        "major" => |a| part(a, 0),
        "minor" => |a| part(a, 1),
        "patch" => |a| part(a, 2),
        _ => return None,
    })
}
