//! Variable interpolation (Compose specification, 12-interpolation.md), as compose-go's `template` package does it.

use crate::{
    Error,
    tree::{Node, Value, dotted},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

/// How deep `${A:-${B:-…}}` may nest.
const DEPTH_MAX: u32 = 32;
/// How long one interpolated text may become.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// Variables by name, and which of those asked for were not there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables {
    pub known: BTreeMap<String, String>,
    pub missing: RefCell<BTreeSet<String>>,
}

impl Variables {
    pub fn new(known: BTreeMap<String, String>) -> Variables {
        Variables {
            known,
            missing: RefCell::default(),
        }
    }
}

/// A variable's value; the flag says that a missing one is worth a warning, since nothing stands in for it.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str, bool) -> Option<String>;

/// Why a text can't be interpolated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// The text is not of the form.
    Template(String),
    /// `:?` or `?`, or too much of something.
    Said(String),
}

/// Replaces variables in every string value of the tree; keys are left alone, as Compose does.
pub(crate) fn tree(
    node: &mut Node,
    variables: &Variables,
    path: &mut Vec<String>,
) -> Result<(), Error> {
    let mark = node.mark.clone();
    match &mut node.value {
        Value::Text(s) if s.contains('$') => {
            let lookup = |name: &str, bare: bool| {
                let found = variables.known.get(name).cloned();
                if found.is_none() && bare {
                    variables.missing.borrow_mut().insert(name.to_string());
                }
                found
            };
            *s = text(s, &lookup).map_err(|wrong| {
                let path = dotted(path);
                mark.error(match wrong {
                    Wrong::Template(t) => format!(
                        "invalid interpolation format for {path}.\nYou may need to escape any $ with another $.\n{t}"
                    ),
                    Wrong::Said(m) => format!("error while interpolating {path}: {m}"),
                })
            })?;
        }
        Value::List(items) => {
            for item in items {
                path.push("[]".into());
                tree(item, variables, path)?;
                path.pop();
            }
        }
        Value::Map(map) => {
            for (key, item) in map.iter_mut() {
                path.push(key.clone());
                tree(item, variables, path)?;
                path.pop();
            }
        }
        _ => {}
    }
    Ok(())
}

/// A variable as a file names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variable {
    /// `${NAME?…}`
    pub required: bool,
    /// `${NAME-default}`
    pub default: String,
    /// `${NAME+alternate}`
    pub alternate: String,
}

/// Gathers what the strings of a tree name.
pub(crate) fn gather(value: &serde_json::Value, found: &mut BTreeMap<String, Variable>) {
    match value {
        serde_json::Value::String(text) => named(text, found, 0),
        serde_json::Value::Array(items) => items.iter().for_each(|i| gather(i, found)),
        serde_json::Value::Object(map) => map.values().for_each(|v| gather(v, found)),
        _ => {}
    }
}

fn named(mut rest: &str, found: &mut BTreeMap<String, Variable>, depth: u32) {
    if depth > DEPTH_MAX {
        return;
    }
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
            continue;
        }
        let Some(after) = rest.strip_prefix('{') else {
            let end = name_length(rest);
            if end > 0 {
                found.entry(rest[..end].to_string()).or_default();
            }
            rest = &rest[end..];
            continue;
        };
        let Some(end) = closing(after) else { return };
        let inner = &after[..end];
        rest = &after[end + 1..];
        let (name, operator) = inner.split_at(name_length(inner));
        let operator = operator.strip_prefix(':').unwrap_or(operator);
        if name.is_empty() {
            continue;
        }
        let one = found.entry(name.to_string()).or_default();
        let mut kind = operator.chars();
        let first = kind.next();
        let said = kind.as_str();
        match first {
            Some('-') => one.default = said.into(),
            Some('+') => one.alternate = said.into(),
            Some('?') => one.required = true,
            _ => {}
        }
        named(said, found, depth + 1);
    }
}

/// Interpolates one text: `$V`, `${V}`, `:-` `-` `:?` `?` `:+` `+`, `$$`. A `$` before anything else stays.
pub(crate) fn text(input: &str, lookup: Lookup<'_>) -> Result<String, Wrong> {
    expand(input, lookup, 0)
}

fn expand(input: &str, lookup: Lookup<'_>, depth: u32) -> Result<String, Wrong> {
    if depth > DEPTH_MAX {
        return Err(Wrong::Said("variables nest too deep".into()));
    }
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing(after).ok_or_else(|| Wrong::Template(input.into()))?;
            out.push_str(&braced(&after[..end], lookup, depth, input)?);
            rest = &after[end + 1..];
        } else {
            let end = name_length(rest);
            match end {
                0 => out.push('$'),
                _ => out.push_str(&lookup(&rest[..end], true).unwrap_or_default()),
            }
            rest = &rest[end..];
        }
        if out.len() > TEXT_BYTES_MAX {
            return Err(Wrong::Said("the text becomes too long".into()));
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn name_length(s: &str) -> usize {
    let first = s
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first {
        return 0;
    }
    s.bytes()
        .take_while(|b| b.is_ascii_alphanumeric() || *b == b'_')
        .count()
}

/// Index of the brace that closes what was opened just before `s`.
fn closing(s: &str) -> Option<usize> {
    let mut open = 0u32;
    for (i, b) in s.bytes().enumerate() {
        match b {
            b'{' => open += 1,
            b'}' if open == 0 => return Some(i),
            b'}' => open -= 1,
            _ => {}
        }
    }
    None
}

fn braced(inner: &str, lookup: Lookup<'_>, depth: u32, whole: &str) -> Result<String, Wrong> {
    let end = name_length(inner);
    if end == 0 {
        return Err(Wrong::Template(whole.into()));
    }
    let (name, operator) = inner.split_at(end);
    let expanded = |s: &str| expand(s, lookup, depth + 1);
    let (colon, operator) = match operator.strip_prefix(':') {
        Some(rest) => (true, rest),
        None => (false, operator),
    };
    let mut kind = operator.chars();
    let set = lookup(name, !colon && operator.is_empty());
    let value = set.clone().filter(|v| !colon || !v.is_empty());
    match (kind.next(), value) {
        (None, _) if !colon => Ok(set.unwrap_or_default()),
        (Some('-' | '?'), Some(v)) => Ok(v),
        (Some('-'), None) => expanded(&operator[1..]),
        (Some('?'), None) => {
            let reason = expanded(&operator[1..])?;
            let colon = if reason.is_empty() { "" } else { ": " };
            Err(Wrong::Said(format!(
                "required variable {name} is missing a value{colon}{reason}"
            )))
        }
        (Some('+'), Some(_)) => expanded(&operator[1..]),
        (Some('+'), None) => Ok(String::new()),
        _ => Err(Wrong::Template(whole.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_gathered_with_what_stands_in_for_them() {
        let mut found = BTreeMap::new();
        let tree =
            serde_json::json!({ "a": ["$A ${B?no} $$C", "${D:-x${E:+y}}"], "b": { "c": "${F" } });
        gather(&tree, &mut found);
        let variable = |required, default: &str, alternate: &str| Variable {
            required,
            default: default.into(),
            alternate: alternate.into(),
        };
        let wanted = [
            ("A", variable(false, "", "")),
            ("B", variable(true, "", "")),
            ("D", variable(false, "x${E:+y}", "")),
            ("E", variable(false, "", "y")),
        ];
        let wanted = wanted.map(|(name, v)| (name.to_string(), v));
        assert_eq!(found, wanted.into());
    }

    #[test]
    fn every_operator_follows_the_specification() {
        let lookup = |name: &str, _: bool| match name {
            "A" => Some("1".to_string()),
            "EMPTY" => Some(String::new()),
            "B" => Some("two".to_string()),
            _ => None,
        };
        for (given, want) in [
            ("$A-$B", Ok("1-two")),
            ("${A}x", Ok("1x")),
            ("$$A", Ok("$A")),
            ("$$$$A", Ok("$$A")),
            ("${NONE:-d}", Ok("d")),
            ("${EMPTY:-d}", Ok("d")),
            ("${EMPTY-d}", Ok("")),
            ("${NONE-d}", Ok("d")),
            ("${A:+yes}", Ok("yes")),
            ("${EMPTY:+yes}", Ok("")),
            ("${EMPTY+yes}", Ok("yes")),
            ("${NONE:-${B}-${A:-x}}", Ok("two-1")),
            ("${NONE:-{\"a\": \"$A\"}}", Ok("{\"a\": \"1\"}")),
            ("${NONE:-a:?b}", Ok("a:?b")),
            ("${A:?no}", Ok("1")),
            ("${NONE-}", Ok("")),
            ("$NONE.", Ok(".")),
            ("100$", Ok("100$")),
            ("$1 $(x) $ ", Ok("$1 $(x) $ ")),
            ("${EMPTY?no}", Ok("")),
        ] {
            assert_eq!(text(given, &lookup), want.map(String::from), "{given}");
        }
        for (given, want) in [
            (
                "${NONE:?say so $A}",
                Wrong::Said("required variable NONE is missing a value: say so 1".into()),
            ),
            (
                "${NONE?}",
                Wrong::Said("required variable NONE is missing a value".into()),
            ),
            ("${A", Wrong::Template("${A".into())),
            ("${}", Wrong::Template("${}".into())),
            ("x ${A!}", Wrong::Template("x ${A!}".into())),
            ("${ A}", Wrong::Template("${ A}".into())),
        ] {
            assert_eq!(text(given, &lookup), Err(want), "{given}");
        }
    }
}
