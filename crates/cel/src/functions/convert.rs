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
    if !matches!(
        v,
        Value::String(_) | Value::Int(_) | Value::Double(_) | Value::Uint(_) | Value::Bytes(_)
    ) {
        return Err(EvalError::no_overload());
    }
    Err(EvalError::new(format!(
        "type conversion error from '{}' to '{to}'",
        v.type_of().name()
    )))
}

fn size<'a>(v: &Value<'a>) -> Evaluated<'a> {
    let size = match v {
        Value::String(s) => s.as_str().chars().count(),
        Value::Bytes(b) => b.len(),
        Value::List(l) => l.len(),
        Value::Map(m) => m.len(),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

fn to_bool<'a>(v: &Value<'a>) -> Evaluated<'a> {
    match v {
        Value::Bool(b) => Ok(Value::Bool(*b)),
        // what Go's strconv.ParseBool takes
        Value::String(s) => match s.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => cannot(v, "bool"),
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
        Value::String(s) => match parse_float(s.as_str()) {
            Some(d) => d,
            None => return cannot(v, "double"),
        },
        _ => return cannot(v, "double"),
    }))
}

/// As Go's strconv.ParseFloat, without hexadecimal.
fn parse_float(s: &str) -> Option<f64> {
    let plain: String;
    let digit = |b: Option<&u8>| b.is_some_and(u8::is_ascii_digit);
    let bytes = s.as_bytes();
    let mut underscores = bytes.iter().enumerate().filter(|(_, b)| **b == b'_');
    let text = if underscores.clone().next().is_none() {
        s
    } else if underscores.all(|(i, _)| i > 0 && digit(bytes.get(i - 1)) && digit(bytes.get(i + 1)))
    {
        plain = s.replace('_', "");
        &plain
    } else {
        return None;
    };
    let d: f64 = text.parse().ok()?;
    let named = text.trim_start_matches(['+', '-']).starts_with(['i', 'I']);
    (d.is_finite() || d.is_nan() || named).then_some(d)
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
        Value::String(s) => match s.as_str().parse() {
            Ok(i) => i,
            Err(_) => return cannot(v, "int"),
        },
        _ => return cannot(v, "int"),
    }))
}

fn to_uint<'a>(v: &Value<'a>) -> Evaluated<'a> {
    let overflow = || EvalError::new("unsigned integer overflow");
    Ok(Value::Uint(match v {
        Value::Uint(u) => *u,
        Value::Int(i) => u64::try_from(*i).map_err(|_| overflow())?,
        Value::Double(d) if *d >= 0.0 && *d < u64::MAX as f64 => *d as u64,
        Value::Double(_) => return Err(overflow()),
        // Rust takes a sign, Go does not
        Value::String(s) => match s.as_str().parse() {
            Ok(u) if !s.as_str().starts_with('+') => u,
            _ => return cannot(v, "uint"),
        },
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

/// As Go's `strconv.FormatFloat(d, 'g', -1, 64)`: few digits, an exponent when it is below -4 or above 5.
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
    if d == 0.0 || (-4..6).contains(&exponent) {
        return format!("{d}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

fn to_duration<'a>(v: &Value<'a>) -> Evaluated<'a> {
    let parsed = match v {
        Value::Duration(_) => return Ok(v.clone()),
        Value::String(s) => Duration::parse(s.as_str()),
        _ => None,
    };
    match parsed {
        Some(d) => Ok(Value::Duration(d)),
        None => cannot(v, "google.protobuf.Duration"),
    }
}

fn to_timestamp<'a>(v: &Value<'a>) -> Evaluated<'a> {
    let parsed = match v {
        Value::Timestamp(_) => return Ok(v.clone()),
        Value::Int(i) => {
            let t = Timestamp::new(*i, 0).ok_or_else(|| EvalError::new("timestamp overflow"))?;
            Some(t)
        }
        Value::String(s) => Timestamp::parse(s.as_str()),
        _ => None,
    };
    match parsed {
        Some(t) => Ok(Value::Timestamp(t)),
        None => cannot(v, "google.protobuf.Timestamp"),
    }
}
