//! Functions of text: cel-go's `ext.Strings`, version 2, and the standard ones.

use super::Function;
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::value::{Str, Value};

/// The longest text a function may build, in bytes. `replace` can multiply its input at a cost that only counts the
/// input, so this is what bounds memory.
pub(super) const MAX_TEXT: usize = 16 * 1024 * 1024;

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "startsWith" => |a| test(a, |s, t| s.starts_with(t)),
        "endsWith" => |a| test(a, |s, t| s.ends_with(t)),
        "contains" => |a| test(a, |s, t| s.contains(t)),
        "charAt" => char_at,
        "lowerAscii" => |a| mapped(a, |s| s.to_ascii_lowercase()),
        "upperAscii" => |a| mapped(a, |s| s.to_ascii_uppercase()),
        "trim" => |a| mapped(a, |s| s.trim().to_string()),
        "strings.quote" => |a| mapped(a, quote),
        "jsonpatch.escapeKey" => |a| mapped(a, |s| s.replace('~', "~0").replace('/', "~1")),
        "replace" => replace,
        "split" => split,
        "substring" => substring,
        "join" => join,
        _ => return None,
    })
}

fn test<'a>(args: &[Value<'a>], f: fn(&str, &str) -> bool) -> Evaluated<'a> {
    match args {
        [Value::String(a), Value::String(b)] => Ok(Value::Bool(f(a.as_str(), b.as_str()))),
        _ => Err(EvalError::no_overload()),
    }
}

fn mapped<'a>(args: &[Value<'a>], f: fn(&str) -> String) -> Evaluated<'a> {
    match args {
        [Value::String(s)] => Ok(Value::string(f(s.as_str()))),
        _ => Err(EvalError::no_overload()),
    }
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::new(format!("index out of range: {index}"))
}

/// The byte position of a code point; its end if there are exactly so many.
fn byte_at(s: &str, index: i64) -> Option<usize> {
    let index = usize::try_from(index).ok()?;
    s.char_indices().map(|(i, _)| i).chain([s.len()]).nth(index)
}

fn char_at<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(s), Value::Int(i)] = args else {
        return Err(EvalError::no_overload());
    };
    let at = byte_at(s.as_str(), *i).ok_or_else(|| out_of_range(*i))?;
    Ok(Value::string(
        s.as_str()[at..]
            .chars()
            .next()
            .map(String::from)
            .unwrap_or_default(),
    ))
}

fn substring<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (s, start, end) = match args {
        [Value::String(s), Value::Int(start)] => (s, *start, None),
        [Value::String(s), Value::Int(start), Value::Int(end)] => (s, *start, Some(*end)),
        _ => return Err(EvalError::no_overload()),
    };
    if let Some(end) = end.filter(|end| start > *end) {
        return Err(EvalError::new(format!(
            "invalid substring range. start: {start}, end: {end}"
        )));
    }
    let at = |i: i64| byte_at(s.as_str(), i).ok_or_else(|| out_of_range(i));
    let from = at(start)?;
    let to = end.map_or(Ok(s.as_str().len()), at)?;
    Ok(match s {
        Str::Borrowed(s) => Value::String(Str::Borrowed(&s[from..to])),
        Str::Shared(s) => Value::string(&s[from..to]),
    })
}

/// `indexOf` of text, from an offset in code points.
pub(super) fn index_of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (s, t, offset) = match args {
        [Value::String(s), Value::String(t)] => (s.as_str(), t.as_str(), 0),
        [Value::String(s), Value::String(t), Value::Int(o)] => (s.as_str(), t.as_str(), *o),
        _ => return Err(EvalError::no_overload()),
    };
    if t.is_empty() {
        return Ok(Value::Int(offset));
    }
    if offset < 0 {
        return Err(out_of_range(offset));
    }
    let found = byte_at(s, offset).and_then(|from| {
        let chars = s[from..]
            .find(t)
            .map(|i| s[from..from + i].chars().count())?;
        i64::try_from(chars).ok()?.checked_add(offset)
    });
    Ok(Value::Int(found.unwrap_or(-1)))
}

/// `lastIndexOf` of text, the match starting at the offset or before.
pub(super) fn last_index_of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (s, t, offset) = match args {
        [Value::String(s), Value::String(t)] => (s.as_str(), t.as_str(), None),
        [Value::String(s), Value::String(t), Value::Int(o)] => (s.as_str(), t.as_str(), Some(*o)),
        _ => return Err(EvalError::no_overload()),
    };
    let length = s.chars().count() as i64;
    if t.is_empty() {
        return Ok(Value::Int(offset.unwrap_or(length)));
    }
    if let Some(o) = offset {
        if o < 0 {
            return Err(out_of_range(o));
        }
        if o >= length {
            return Ok(Value::Int(-1));
        }
    }
    // a match that starts at the offset ends so many code points later
    let end = offset
        .and_then(|o| byte_at(s, o.saturating_add(t.chars().count() as i64)))
        .unwrap_or(s.len());
    Ok(Value::Int(
        s[..end]
            .rfind(t)
            .map_or(-1, |i| s[..i].chars().count() as i64),
    ))
}

fn replace<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (s, from, to, limit) = match args {
        [Value::String(s), Value::String(f), Value::String(t)] => (s, f, t, usize::MAX),
        [
            Value::String(s),
            Value::String(f),
            Value::String(t),
            Value::Int(n),
        ] => (s, f, t, usize::try_from(*n).unwrap_or(usize::MAX)),
        _ => return Err(EvalError::no_overload()),
    };
    let (s, from, to) = (s.as_str(), from.as_str(), to.as_str());
    let count = if from.is_empty() {
        s.chars().count() + 1
    } else {
        s.matches(from).count()
    }
    .min(limit);
    if to.len().saturating_mul(count).saturating_add(s.len()) > MAX_TEXT {
        return Err(EvalError::call_limit());
    }
    Ok(Value::string(s.replacen(from, to, limit)))
}

fn split<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (s, by, limit) = match args {
        [Value::String(s), Value::String(by)] => (s, by.as_str(), -1),
        [Value::String(s), Value::String(by), Value::Int(n)] => (s, by.as_str(), *n),
        _ => return Err(EvalError::no_overload()),
    };
    let parts: Vec<Value<'a>> = match s {
        Str::Borrowed(s) => parts(s, by, limit)
            .into_iter()
            .map(|p| Value::String(Str::Borrowed(p)))
            .collect(),
        Str::Shared(s) => parts(s, by, limit).into_iter().map(Value::string).collect(),
    };
    Ok(Value::list(parts))
}

/// As Go's `strings.SplitN`: no limit if negative; an empty separator parts the characters.
fn parts<'s>(s: &'s str, by: &str, limit: i64) -> Vec<&'s str> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit == 0 {
        return Vec::new();
    }
    if !by.is_empty() {
        return s.splitn(limit, by).collect();
    }
    let mut out = Vec::new();
    let mut rest = s;
    while let Some(c) = rest.chars().next() {
        if out.len() + 1 == limit {
            break;
        }
        let (head, tail) = rest.split_at(c.len_utf8());
        out.push(head);
        rest = tail;
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

fn join<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (list, by) = match args {
        [Value::List(l)] => (l, ""),
        [Value::List(l), Value::String(by)] => (l, by.as_str()),
        _ => return Err(EvalError::no_overload()),
    };
    let mut out = String::new();
    for (i, v) in list.iter().enumerate() {
        let v = v?;
        let Value::String(s) = &v else {
            return Err(EvalError::new(format!("join: invalid input: {v:?}")));
        };
        if i > 0 {
            out.push_str(by);
        }
        out.push_str(s.as_str());
        if out.len() > MAX_TEXT {
            return Err(EvalError::call_limit());
        }
    }
    Ok(Value::string(out))
}

fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
