//! `'%s is %.2f'.format([a, b])`: cel-go's `ext/formatting.go` in American English.

use super::convert::double_text;
use super::strings::MAX_TEXT;
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::value::Value;
use crate::work;

/// Lists and maps nested deeper than this are not printed.
const MAX_DEPTH: usize = 100;
/// The most digits after the point.
const MAX_PRECISION: usize = 1_000;

type Text = Result<String, EvalError>;

/// One `%` clause of a format.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Clause {
    pub kind: char,
    pub precision: Option<usize>,
}

/// A piece of a format.
pub(crate) enum Piece<'s> {
    Text(&'s str),
    Clause(Clause),
}

/// The pieces of a format. Whether there are arguments enough is found out on the way, as upstream does.
pub(crate) fn pieces<'s>(format: &'s str, args: usize) -> Result<Vec<Piece<'s>>, String> {
    let mut out = Vec::new();
    let mut rest = format;
    let mut seen = 0;
    while let Some(i) = rest.find('%') {
        out.push(Piece::Text(&rest[..i]));
        let clause = &rest[i + 1..];
        if let Some(after) = clause.strip_prefix('%') {
            out.push(Piece::Text("%"));
            rest = after;
            continue;
        }
        if seen >= args {
            return Err(format!("index {seen} out of range"));
        }
        seen += 1;
        if clause.is_empty() {
            return Err("unexpected end of string".into());
        }
        let failed = |why: String| format!("could not parse formatting clause: {why}");
        let (precision, clause) = precision(clause).map_err(failed)?;
        let Some(kind) = clause.chars().next() else {
            return Err("unexpected end of string".into());
        };
        if !"sdfebxXo".contains(kind) {
            return Err(failed(format!("unrecognized formatting clause \"{kind}\"")));
        }
        out.push(Piece::Clause(Clause { kind, precision }));
        rest = &clause[1..];
    }
    out.push(Piece::Text(rest));
    Ok(out)
}

fn precision(s: &str) -> Result<(Option<usize>, &str), String> {
    let Some(rest) = s.strip_prefix('.') else {
        return Ok((None, s));
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    if digits == rest.len() {
        return Err(
            "error while parsing precision: could not find end of precision specifier".into(),
        );
    }
    let (n, rest) = rest.split_at(digits);
    match n.parse() {
        Ok(n) if n <= MAX_PRECISION => Ok((Some(n), rest)),
        _ => Err(format!(
            "error while parsing precision: error while converting precision to integer: strconv.Atoi: parsing {n:?}: \
             invalid syntax"
        )),
    }
}

pub(super) fn format<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(format), Value::List(args)] = args else {
        return Err(EvalError::no_overload());
    };
    let mut out = String::new();
    let mut next = 0;
    for piece in pieces(format.as_str(), args.len()).map_err(EvalError::new)? {
        match piece {
            Piece::Text(t) => out.push_str(t),
            Piece::Clause(c) => {
                // `pieces` saw that there are enough
                let v = args
                    .get(next)
                    .ok_or_else(|| EvalError::new(format!("index {next} out of range")))??;
                next += 1;
                let text = clause(c, &v);
                out.push_str(&text.map_err(|e| {
                    EvalError::new(format!("error during formatting: {}", e.message))
                })?);
            }
        }
        if out.len() > MAX_TEXT {
            return Err(EvalError::call_limit());
        }
    }
    Ok(Value::string(out))
}

/// Why a value of this type does not fit a clause.
pub(crate) fn misfit(kind: char, given: &str) -> String {
    let what = match kind {
        'd' => "decimal clause can only be used on integers",
        'f' => "fixed-point clause can only be used on doubles",
        'e' => "scientific clause can only be used on doubles",
        'b' => "only integers and bools can be formatted as binary",
        'x' | 'X' => "only integers, byte buffers, and strings can be formatted as hex",
        'o' => "octal clause can only be used on integers",
        _ => {
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and \
             timestamps"
        }
    };
    format!("{what}, was given {given}")
}

fn clause(c: Clause, v: &Value<'_>) -> Text {
    let digits = c.precision.unwrap_or(6);
    let signed = |i: i64, digits: String| if i < 0 { format!("-{digits}") } else { digits };
    let width = c.precision.unwrap_or(6);
    Ok(match (c.kind, v) {
        ('s', v) => return shown(v, 0),
        ('d', Value::Int(i)) => i.to_string(),
        ('d', Value::Uint(u)) => u.to_string(),
        ('f', Value::Double(d)) => fixed(*d, digits),
        ('e', Value::Double(d)) => scientific(*d, width),
        ('f' | 'e', Value::String(s)) => match s.as_str() {
            "NaN" | "Infinity" | "-Infinity" => {
                let d = s.as_str().parse().unwrap_or(f64::NAN);
                if c.kind == 'f' {
                    fixed(d, digits)
                } else {
                    scientific(d, width)
                }
            }
            _ => return Err(EvalError::new(misfit(c.kind, "string"))),
        },
        ('b', Value::Bool(b)) => u8::from(*b).to_string(),
        ('b', Value::Uint(u)) => format!("{u:b}"),
        ('b', Value::Int(i)) => signed(*i, format!("{:b}", i.unsigned_abs())),
        ('o', Value::Uint(u)) => format!("{u:o}"),
        ('o', Value::Int(i)) => signed(*i, format!("{:o}", i.unsigned_abs())),
        ('x' | 'X', v) => {
            let hex = match v {
                Value::Uint(u) => format!("{u:x}"),
                Value::Int(i) => signed(*i, format!("{:x}", i.unsigned_abs())),
                Value::String(s) => hex(s.as_str().as_bytes()),
                Value::Bytes(b) => hex(b),
                _ => return Err(EvalError::new(misfit('x', v.type_of().name()))),
            };
            if c.kind == 'X' {
                hex.to_uppercase()
            } else {
                hex
            }
        }
        (kind, v) => return Err(EvalError::new(misfit(kind, v.type_of().name()))),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Numbers that have no digits.
fn special(d: f64) -> Option<&'static str> {
    match d {
        d if d.is_nan() => Some("NaN"),
        f64::INFINITY => Some("∞"),
        f64::NEG_INFINITY => Some("-∞"),
        _ => None,
    }
}

/// As Go's `x/text/message` prints `%e` in American English. Upstream gives the precision as the width.
fn scientific(d: f64, width: usize) -> String {
    if let Some(text) = special(d) {
        return format!("{text:>width$}");
    }
    let text = format!("{d:.6e}");
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text;
    };
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(e) => ("⁻", e),
        None => ("", exponent),
    };
    let raised: String = format!("{exponent:0>2}")
        .chars()
        .filter_map(|c| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(c.to_digit(10)? as usize))
        .collect();
    format!("{:>width$}", format!("{mantissa}×10{sign}{raised}"))
}

/// `%f`, with thousands parted by commas.
fn fixed(d: f64, digits: usize) -> String {
    if let Some(text) = special(d) {
        return text.to_string();
    }
    let text = format!("{d:.digits$}");
    let (sign, text) = text
        .strip_prefix('-')
        .map_or(("", text.as_str()), |t| ("-", t));
    let (int, fraction) = text
        .split_once('.')
        .map_or((text, None), |(i, f)| (i, Some(f)));
    let mut out = String::from(sign);
    for (i, c) in int.chars().enumerate() {
        if i > 0 && (int.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    if let Some(f) = fraction {
        out.push('.');
        out.push_str(f);
    }
    out
}

/// `%s`.
fn shown(v: &Value<'_>, depth: usize) -> Text {
    if !work::spend() {
        return Err(EvalError::call_limit());
    }
    Ok(match v {
        Value::Null => "null".into(),
        Value::String(s) => s.as_str().to_string(),
        Value::Bytes(b) => match std::str::from_utf8(b) {
            Ok(s) => s.to_string(),
            Err(_) => return Err(EvalError::new("could not convert argument to string")),
        },
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => double_text(*d),
        Value::Duration(d) => d.to_string(),
        Value::Timestamp(t) => t.to_string(),
        Value::Type(t) => t.name().to_string(),
        Value::List(l) => {
            let mut parts = Vec::with_capacity(l.len());
            for v in l.iter() {
                parts.push(nested(&v?, depth)?);
            }
            format!("[{}]", parts.join(", "))
        }
        Value::Map(m) => {
            let mut parts = Vec::with_capacity(m.len());
            for k in m.keys() {
                if let Some(v) = m.find(&k) {
                    parts.push((nested(&k, depth)?, nested(&v?, depth)?));
                }
            }
            parts.sort();
            let parts: Vec<String> = parts.into_iter().map(|(k, v)| format!("{k}:{v}")).collect();
            format!("{{{}}}", parts.join(", "))
        }
        other => return Err(EvalError::new(misfit('s', other.type_of().name()))),
    })
}

/// A value inside a list or map, as a literal of the language.
fn nested(v: &Value<'_>, depth: usize) -> Text {
    if depth > MAX_DEPTH {
        return Err(EvalError::call_limit());
    }
    Ok(match v {
        Value::String(s) => go_quote(s.as_str()),
        Value::Bytes(_) => format!("b{}", go_quote(&shown(v, depth)?)),
        Value::Double(d) if d.is_finite() => format!("{d:.6}"),
        Value::Double(d) => go_quote(&double_text(*d)),
        Value::Duration(d) => format!("duration({:?})", d.to_string()),
        Value::Timestamp(t) => format!("timestamp({:?})", t.to_string()),
        other => shown(other, depth + 1)?,
    })
}

/// As Go's `%q`.
fn go_quote(s: &str) -> String {
    let mut out = String::from('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if c < ' ' || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
