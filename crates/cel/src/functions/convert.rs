//! Conversions between types, and `size`.

use super::{Function, one};
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::time::{Duration, Timestamp};
use crate::value::Value;

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "size" => |a| one(a, size),
        "type" => |a| one(a, |v| Ok(Value::Type(v.type_of()))),
        "dyn" => |a| one(a, |v| Ok(v.clone())),
        "bool" => |a| one(a, to_bool),
        "bytes" => |a| one(a, to_bytes),
        "double" => |a| one(a, to_double),
        "duration" => |a| one(a, to_duration),
        "int" => |a| one(a, to_int),
        "string" => |a| one(a, to_string),
        "timestamp" => |a| one(a, to_timestamp),
        "uint" => |a| one(a, to_uint),
        _ => return None,
    })
}

fn cannot<'a>(v: &Value<'_>, to: &str) -> Evaluated<'a> {
    Err(EvalError::new(format!(
        "type conversion error from '{}' to '{to}'",
        v.type_of().name()
    )))
}

fn size<'a>(v: &Value<'a>) -> Evaluated<'a> {
    Ok(Value::Int(match v {
        Value::String(s) => s.as_str().chars().count(),
        Value::Bytes(b) => b.len(),
        Value::List(l) => l.len(),
        Value::Map(m) => m.len(),
        _ => return Err(EvalError::no_overload()),
    } as i64))
}

fn to_bool<'a>(v: &Value<'a>) -> Evaluated<'a> {
    match v {
        Value::Bool(b) => Ok(Value::Bool(*b)),
        // what Go's strconv.ParseBool takes
        Value::String(s) => match s.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            other => Err(EvalError::new(format!(
                "strconv.ParseBool: parsing {other:?}: invalid syntax"
            ))),
        },
        _ => cannot(v, "bool"),
    }
}

fn to_bytes<'a>(v: &Value<'a>) -> Evaluated<'a> {
    match v {
        Value::Bytes(_) => Ok(v.clone()),
        Value::String(s) => Ok(Value::Bytes(s.as_str().as_bytes().into())),
        _ => cannot(v, "bytes"),
    }
}

fn to_double<'a>(v: &Value<'a>) -> Evaluated<'a> {
    Ok(Value::Double(match v {
        Value::Double(d) => *d,
        Value::Int(i) => *i as f64,
        Value::Uint(u) => *u as f64,
        Value::String(s) => parse_float(s.as_str())?,
        _ => return cannot(v, "double"),
    }))
}

/// As Go's strconv.ParseFloat: also `inf`, hexadecimal not.
fn parse_float(s: &str) -> Result<f64, EvalError> {
    let syntax = || EvalError::new(format!("strconv.ParseFloat: parsing {s:?}: invalid syntax"));
    let d: f64 = s.parse().map_err(|_| syntax())?;
    let named = s
        .trim_start_matches(['+', '-'])
        .starts_with(['i', 'I', 'n', 'N']);
    if d.is_infinite() && !named {
        return Err(EvalError::new(format!(
            "strconv.ParseFloat: parsing {s:?}: value out of range"
        )));
    }
    Ok(d)
}

fn to_int<'a>(v: &Value<'a>) -> Evaluated<'a> {
    let overflow = || EvalError::new("integer overflow");
    Ok(Value::Int(match v {
        Value::Int(i) => *i,
        Value::Uint(u) => i64::try_from(*u).map_err(|_| overflow())?,
        // the ends of the range are no exact doubles, so they are out
        Value::Double(d) if *d > i64::MIN as f64 && *d < i64::MAX as f64 => *d as i64,
        Value::Double(_) => return Err(overflow()),
        Value::Duration(d) => d.0,
        Value::Timestamp(t) => t.seconds,
        Value::String(s) => parse_int(s.as_str())?,
        _ => return cannot(v, "int"),
    }))
}

fn parse_int(s: &str) -> Result<i64, EvalError> {
    s.parse().map_err(|e: std::num::ParseIntError| {
        let why = if is_range(&e) {
            "value out of range"
        } else {
            "invalid syntax"
        };
        EvalError::new(format!("strconv.ParseInt: parsing {s:?}: {why}"))
    })
}

fn is_range(e: &std::num::ParseIntError) -> bool {
    matches!(
        e.kind(),
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow
    )
}

fn to_uint<'a>(v: &Value<'a>) -> Evaluated<'a> {
    let overflow = || EvalError::new("unsigned integer overflow");
    Ok(Value::Uint(match v {
        Value::Uint(u) => *u,
        Value::Int(i) => u64::try_from(*i).map_err(|_| overflow())?,
        Value::Double(d) if *d >= 0.0 && *d < u64::MAX as f64 => *d as u64,
        Value::Double(_) => return Err(overflow()),
        Value::String(s) => {
            let s = s.as_str();
            let syntax =
                || EvalError::new(format!("strconv.ParseUint: parsing {s:?}: invalid syntax"));
            // Rust takes a sign, Go does not
            if s.starts_with('+') {
                return Err(syntax());
            }
            s.parse().map_err(|e| match is_range(&e) {
                true => EvalError::new(format!(
                    "strconv.ParseUint: parsing {s:?}: value out of range"
                )),
                false => syntax(),
            })?
        }
        _ => return cannot(v, "uint"),
    }))
}

fn to_string<'a>(v: &Value<'a>) -> Evaluated<'a> {
    Ok(Value::string(match v {
        Value::String(_) => return Ok(v.clone()),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => double_text(*d),
        Value::Duration(d) => d.to_string(),
        Value::Timestamp(t) => t.to_string(),
        Value::Ip(i) => i.to_string(),
        Value::Cidr(c) => c.to_string(),
        Value::Bytes(b) => match std::str::from_utf8(b) {
            Ok(s) => s.to_string(),
            Err(_) => {
                return Err(EvalError::new(
                    "invalid UTF-8 in bytes, cannot convert to string",
                ));
            }
        },
        _ => return cannot(v, "string"),
    }))
}

/// As Go's `strconv.FormatFloat(d, 'g', -1, 64)`: few digits, an exponent when it is below -4 or above 20.
pub(super) fn double_text(d: f64) -> String {
    if d.is_nan() {
        return "NaN".into();
    }
    if d.is_infinite() {
        return if d > 0.0 {
            "+Inf".into()
        } else {
            "-Inf".into()
        };
    }
    let scientific = format!("{d:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if d == 0.0 || (-4..21).contains(&exponent) {
        return format!("{d}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

fn to_duration<'a>(v: &Value<'a>) -> Evaluated<'a> {
    match v {
        Value::Duration(_) => Ok(v.clone()),
        Value::Int(i) => Ok(Value::Duration(Duration(*i))),
        Value::String(s) => match Duration::parse(s.as_str()) {
            Some(d) => Ok(Value::Duration(d)),
            None => Err(EvalError::new(format!(
                "time: invalid duration {:?}",
                s.as_str()
            ))),
        },
        _ => cannot(v, "google.protobuf.Duration"),
    }
}

fn to_timestamp<'a>(v: &Value<'a>) -> Evaluated<'a> {
    let range = || EvalError::new("timestamp overflow");
    match v {
        Value::Timestamp(_) => Ok(v.clone()),
        Value::Int(i) => Timestamp::new(*i, 0)
            .map(Value::Timestamp)
            .ok_or_else(range),
        Value::String(s) => match Timestamp::parse(s.as_str()) {
            Some(t) => Ok(Value::Timestamp(t)),
            None => Err(EvalError::new(format!(
                "parsing time {0:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {0:?}",
                s.as_str()
            ))),
        },
        _ => cannot(v, "google.protobuf.Timestamp"),
    }
}
