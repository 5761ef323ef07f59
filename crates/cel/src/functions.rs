//! The functions, by name. Each decides by its arguments' values which overload it is, as cel-go does when types are not
//! known before.

pub(crate) mod authorizer;
pub(crate) mod cidr;
mod convert;
pub(crate) mod format;
pub(crate) mod formatting;
pub(crate) mod ip;
mod lists;
mod optional;
pub(crate) mod quantity;
pub(crate) mod regexes;
pub(crate) mod semver;
mod sets;
mod strings;
mod times;
pub(crate) mod urls;

use std::cmp::Ordering;

use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::ops;
use crate::value::Value;

pub(crate) type Function = for<'a> fn(&[Value<'a>]) -> Evaluated<'a>;

/// The function of that name.
pub(crate) fn find(name: &str) -> Option<Function> {
    operator(name)
        .or_else(|| convert::find(name))
        .or_else(|| strings::find(name))
        .or_else(|| lists::find(name))
        .or_else(|| times::find(name))
        .or_else(|| optional::find(name))
        .or_else(|| library(name))
}

/// Functions whose result depends on which overload the types chose.
pub(crate) fn overloaded(overload: &str) -> Option<Function> {
    Some(match overload {
        "list_double_sum_double" => |a| lists::sum(a, Value::Double(0.0)),
        "list_uint_sum_uint" => |a| lists::sum(a, Value::Uint(0)),
        "list_duration_sum_duration" => |a| lists::sum(a, Value::Duration(Default::default())),
        _ => return None,
    })
}

fn operator(name: &str) -> Option<Function> {
    Some(match name {
        "_+_" => |a| two(a, ops::add),
        "_-_" => |a| two(a, ops::subtract),
        "_*_" => |a| two(a, ops::multiply),
        "_/_" => |a| two(a, ops::divide),
        "_%_" => |a| two(a, ops::modulo),
        "-_" => |a| one(a, ops::negate),
        "!_" => |a| match a {
            [Value::Bool(b)] => Ok(Value::Bool(!b)),
            _ => Err(EvalError::no_overload()),
        },
        "_<_" => |a| compared(a, Ordering::is_lt),
        "_<=_" => |a| compared(a, Ordering::is_le),
        "_>_" => |a| compared(a, Ordering::is_gt),
        "_>=_" => |a| compared(a, Ordering::is_ge),
        "@in" => contains,
        "@not_strictly_false" => |a| Ok(Value::Bool(!matches!(a, [Value::Bool(false)]))),
        "cel.@mapInsert" => |a| match a {
            [map, entry @ ..] => ops::insert(map.clone(), entry),
            [] => Err(EvalError::no_overload()),
        },
        _ => return None,
    })
}

/// Functions of types of their own; names that several types share are told apart by the receiver.
fn library(name: &str) -> Option<Function> {
    Some(match name {
        "sets.contains" => sets::contains,
        "sets.equivalent" => sets::equivalent,
        "sets.intersects" => sets::intersects,
        "url" => urls::url,
        "isURL" => urls::is_url,
        "getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath" | "getQuery" => {
            urls::accessor(name)?
        }
        "quantity" => quantity::quantity,
        "isQuantity" => quantity::is_quantity,
        "sign" | "asInteger" | "isInteger" | "asApproximateFloat" | "add" | "sub" => {
            quantity::method(name)?
        }
        "isGreaterThan" | "isLessThan" | "compareTo" => ordering(name)?,
        "semver" => semver::semver,
        "isSemver" => semver::is_semver,
        "major" | "minor" | "patch" => semver::accessor(name)?,
        "ip" => ip::ip,
        "isIP" => ip::is_ip,
        "ip.isCanonical" => ip::is_canonical,
        "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast" => ip::accessor(name)?,
        "cidr" => cidr::cidr,
        "isCIDR" => cidr::is_cidr,
        "containsIP" => cidr::contains_ip,
        "containsCIDR" => cidr::contains_cidr,
        "masked" => cidr::masked,
        "prefixLength" => cidr::prefix_length,
        "format.named" => format::named,
        "validate" => format::validate,
        "find" => regexes::find,
        "findAll" => regexes::find_all,
        "matches" => regexes::matches,
        "format" => formatting::format,
        _ if name.starts_with("format.") => format::constant(name)?,
        _ => return authorizer::find(name),
    })
}

/// `isGreaterThan`, `isLessThan` and `compareTo` of quantities and versions.
fn ordering(name: &str) -> Option<Function> {
    fn of(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
        match args {
            [Value::Quantity(a), Value::Quantity(b)] => Ok(a.cmp(b)),
            [Value::Semver(a), Value::Semver(b)] => Ok(a.cmp(b)),
            _ => Err(EvalError::no_overload()),
        }
    }
    Some(match name {
        "isGreaterThan" => |a| of(a).map(|o| Value::Bool(o.is_gt())),
        "isLessThan" => |a| of(a).map(|o| Value::Bool(o.is_lt())),
        "compareTo" => |a| of(a).map(|o| Value::Int(o as i64)),
        _ => return None,
    })
}

pub(crate) fn contains<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [x, within] => ops::contains(x, within).map(Value::Bool),
        _ => Err(EvalError::no_overload()),
    }
}

fn one<'a>(args: &[Value<'a>], f: impl Fn(&Value<'a>) -> Evaluated<'a>) -> Evaluated<'a> {
    match args {
        [v] => f(v),
        _ => Err(EvalError::no_overload()),
    }
}

fn two<'a>(
    args: &[Value<'a>],
    f: impl Fn(&Value<'a>, &Value<'a>) -> Evaluated<'a>,
) -> Evaluated<'a> {
    match args {
        [a, b] => f(a, b),
        _ => Err(EvalError::no_overload()),
    }
}

fn compared<'a>(args: &[Value<'a>], wanted: fn(Ordering) -> bool) -> Evaluated<'a> {
    two(args, |a, b| {
        ops::compare(a, b).map(|o| Value::Bool(wanted(o)))
    })
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with padding.
pub(crate) fn base64_encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let b = [
            chunk[0],
            chunk.get(1).copied().unwrap_or(0),
            chunk.get(2).copied().unwrap_or(0),
        ];
        let n = u32::from_be_bytes([0, b[0], b[1], b[2]]);
        for i in 0..4 {
            let digit = BASE64[(n >> (18 - 6 * i)) as usize & 63] as char;
            out.push(if i <= chunk.len() { digit } else { '=' });
        }
    }
    out
}

/// Standard base64 with padding; line ends are passed over, as Go does.
pub(crate) fn base64_decode(s: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = s.bytes().filter(|b| !matches!(b, b'\n' | b'\r')).collect();
    if !digits.len().is_multiple_of(4) {
        return None;
    }
    let padding = digits.iter().rev().take_while(|b| **b == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() / 4 * 3);
    let (mut n, mut bits) = (0u32, 0);
    for d in &digits[..digits.len() - padding] {
        let value = BASE64.iter().position(|b| b == d)? as u32;
        n = n << 6 | value;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((n >> bits) as u8);
        }
    }
    Some(out)
}
