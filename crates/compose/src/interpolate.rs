//! Variable interpolation (Compose specification, 12-interpolation.md), and `.env` files.

use crate::{Error, node::Document};
use serde_json::Value;
use std::collections::BTreeMap;

/// How deep `${A:-${B:-…}}` may nest.
const DEPTH_MAX: u32 = 16;

pub(crate) type Variables = BTreeMap<String, String>;

/// Replaces variables in every string value of the tree (keys are left alone, as Compose does).
pub(crate) fn tree(
    value: &mut Value,
    variables: &Variables,
    document: &Document,
    path: &mut Vec<String>,
) -> Result<(), Error> {
    match value {
        Value::String(s) if s.contains('$') => {
            *s = text(s, variables, 0).map_err(|message| document.error(path, message))?;
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                path.push(format!("[{i}]"));
                tree(item, variables, document, path)?;
                path.pop();
            }
        }
        Value::Object(map) => {
            for (key, item) in map.iter_mut() {
                path.push(key.clone());
                tree(item, variables, document, path)?;
                path.pop();
            }
        }
        _ => {}
    }
    Ok(())
}

/// Interpolates one string: `$V`, `${V}`, `:-` `-` `:?` `?` `:+` `+`, `$$`.
pub(crate) fn text(input: &str, variables: &Variables, depth: u32) -> Result<String, String> {
    if depth > DEPTH_MAX {
        return Err("variables nest too deep".into());
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
            let end = closing(after).ok_or_else(|| {
                format!("invalid interpolation format: {input:?} lacks a closing brace")
            })?;
            out.push_str(&braced(&after[..end], variables, depth, input)?);
            rest = &after[end + 1..];
        } else {
            let end = name_length(rest);
            if end == 0 {
                return Err(format!(
                    "invalid interpolation format: {input:?}; write $$ for a dollar sign"
                ));
            }
            out.push_str(variables.get(&rest[..end]).map_or("", String::as_str));
            rest = &rest[end..];
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
    let bytes = s.as_bytes();
    for (i, b) in bytes.iter().enumerate() {
        match b {
            b'{' if i > 0 && bytes[i - 1] == b'$' => open += 1,
            b'}' if open == 0 => return Some(i),
            b'}' => open -= 1,
            _ => {}
        }
    }
    None
}

fn braced(inner: &str, variables: &Variables, depth: u32, whole: &str) -> Result<String, String> {
    let end = name_length(inner);
    if end == 0 {
        return Err(format!("invalid interpolation format: {whole:?}"));
    }
    let (name, operator) = inner.split_at(end);
    let set = variables.get(name);
    let filled = set.filter(|v| !v.is_empty());
    let expand = |s: &str| text(s, variables, depth + 1);
    let required = |message: &str| -> Result<String, String> {
        let message = expand(message)?;
        Err(format!(
            "required variable {name} is missing a value{}{message}",
            if message.is_empty() { "" } else { ": " }
        ))
    };
    let (colon, operator) = match operator.strip_prefix(':') {
        Some(rest) => (true, rest),
        None => (false, operator),
    };
    let value = if colon { filled } else { set };
    match (operator.chars().next(), value) {
        (None, _) if !colon => Ok(set.cloned().unwrap_or_default()),
        (Some('-' | '?'), Some(v)) => Ok(v.clone()),
        (Some('-'), None) => expand(&operator[1..]),
        (Some('?'), None) => required(&operator[1..]),
        (Some('+'), Some(_)) => expand(&operator[1..]),
        (Some('+'), None) => Ok(String::new()),
        _ => Err(format!("invalid interpolation format: {whole:?}")),
    }
}

/// Parses an env file: `KEY=value` lines, comments, `export`, single and double quotes.
pub(crate) fn env_file(source: &str) -> Variables {
    let mut variables = Variables::new();
    for line in source.lines() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let value = value.trim();
        let value = match value.chars().next() {
            Some('\'') => value[1..]
                .split('\'')
                .next()
                .unwrap_or_default()
                .to_string(),
            Some('"') => {
                let inner = value[1..].rsplit_once('"').map_or(&value[1..], |(v, _)| v);
                let inner = inner
                    .replace("\\n", "\n")
                    .replace("\\\"", "\"")
                    .replace("\\\\", "\\");
                text(&inner, &variables, 0).unwrap_or(inner)
            }
            _ => {
                let plain = value.split(" #").next().unwrap_or_default().trim_end();
                text(plain, &variables, 0).unwrap_or_else(|_| plain.to_string())
            }
        };
        variables.insert(key.trim().to_string(), value);
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        [("A", "1"), ("EMPTY", ""), ("B", "two")]
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .into()
    }

    #[test]
    fn every_operator_follows_the_specification() {
        for (given, want) in [
            ("$A-$B", Ok("1-two")),
            ("${A}x", Ok("1x")),
            ("$$A", Ok("$A")),
            ("${NONE:-d}", Ok("d")),
            ("${EMPTY:-d}", Ok("d")),
            ("${EMPTY-d}", Ok("")),
            ("${NONE-d}", Ok("d")),
            ("${A:+yes}", Ok("yes")),
            ("${EMPTY:+yes}", Ok("")),
            ("${EMPTY+yes}", Ok("yes")),
            ("${NONE:-${B}-${A:-x}}", Ok("two-1")),
            ("${A:?no}", Ok("1")),
            (
                "${NONE:?say so}",
                Err("required variable NONE is missing a value: say so"),
            ),
            ("${EMPTY?no}", Ok("")),
            ("$NONE.", Ok(".")),
            (
                "${A",
                Err("invalid interpolation format: \"${A\" lacks a closing brace"),
            ),
            ("${A!}", Err("invalid interpolation format: \"${A!}\"")),
        ] {
            assert_eq!(
                text(given, &variables(), 0),
                want.map(String::from).map_err(String::from),
                "{given}"
            );
        }
    }

    #[test]
    fn env_files_read_as_compose_reads_them() {
        let read =
            env_file("# c\nA=1\nexport B = x # tail\nC='a $A'\nD=\"v ${A}\\n\"\nbad line\nE=\n");
        let want = [
            ("A", "1"),
            ("B", "x"),
            ("C", "a $A"),
            ("D", "v 1\n"),
            ("E", ""),
        ];
        assert_eq!(
            read,
            want.map(|(k, v)| (k.to_string(), v.to_string())).into()
        );
    }
}
