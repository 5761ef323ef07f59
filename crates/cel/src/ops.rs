//! Operators on values.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::equality::{concat, equal};
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::value::{Entries, Key, Map, Object, Value};

const INT_OVERFLOW: &str = "integer overflow";
const UINT_OVERFLOW: &str = "unsigned integer overflow";

pub(crate) fn compare_numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    use Value::*;
    match (a, b) {
        (Int(a), Int(b)) => Some(a.cmp(b)),
        (Uint(a), Uint(b)) => Some(a.cmp(b)),
        (Double(a), Double(b)) => a.partial_cmp(b),
        (Int(a), Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Uint(a), Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Int(a), Double(b)) => compare_double(i128::from(*a), *b),
        (Uint(a), Double(b)) => compare_double(i128::from(*a), *b),
        (Double(a), Int(b)) => compare_double(i128::from(*b), *a).map(Ordering::reverse),
        (Double(a), Uint(b)) => compare_double(i128::from(*b), *a).map(Ordering::reverse),
        _ => None,
    }
}

/// As cel-go: the integer as a double, but for what is out of an integer's range anyway.
fn compare_double(i: i128, d: f64) -> Option<Ordering> {
    if d.is_nan() {
        None
    } else {
        (i as f64).partial_cmp(&d)
    }
}

/// `<` and its kin.
pub(crate) fn compare(a: &Value<'_>, b: &Value<'_>) -> Result<Ordering, EvalError> {
    use Value::*;
    Ok(match (a, b) {
        (Bool(a), Bool(b)) => a.cmp(b),
        (String(a), String(b)) => a.as_str().cmp(b.as_str()),
        (Bytes(a), Bytes(b)) => a.cmp(b),
        (Duration(a), Duration(b)) => a.cmp(b),
        (Timestamp(a), Timestamp(b)) => a.cmp(b),
        (Int(_) | Uint(_) | Double(_), Int(_) | Uint(_) | Double(_)) => {
            return compare_numbers(a, b)
                .ok_or_else(|| EvalError::new("NaN values cannot be ordered"));
        }
        _ => return Err(EvalError::no_overload()),
    })
}

/// `+`.
pub(crate) fn add<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    use Value::*;
    Ok(match (a, b) {
        (Int(a), Int(b)) => Int(a
            .checked_add(*b)
            .ok_or_else(|| EvalError::new(INT_OVERFLOW))?),
        (Uint(a), Uint(b)) => Uint(
            a.checked_add(*b)
                .ok_or_else(|| EvalError::new(UINT_OVERFLOW))?,
        ),
        (Double(a), Double(b)) => Double(a + b),
        (String(a), String(b)) => Value::string(format!("{}{}", a.as_str(), b.as_str())),
        (Bytes(a), Bytes(b)) => Bytes([&a[..], &b[..]].concat().into()),
        (Duration(a), Duration(b)) => Duration(a.add(*b)?),
        (Timestamp(t), Duration(d)) | (Duration(d), Timestamp(t)) => Timestamp(t.add(*d)?),
        (List(a), List(b)) => List(concat(a, b)?),
        _ => return Err(EvalError::no_overload()),
    })
}

/// `-`.
pub(crate) fn subtract<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    use Value::*;
    Ok(match (a, b) {
        (Int(a), Int(b)) => Int(a
            .checked_sub(*b)
            .ok_or_else(|| EvalError::new(INT_OVERFLOW))?),
        (Uint(a), Uint(b)) => Uint(
            a.checked_sub(*b)
                .ok_or_else(|| EvalError::new(UINT_OVERFLOW))?,
        ),
        (Double(a), Double(b)) => Double(a - b),
        (Duration(a), Duration(b)) => Duration(a.sub(*b)?),
        (Timestamp(a), Duration(b)) => Timestamp(a.sub(*b)?),
        (Timestamp(a), Timestamp(b)) => Duration(a.since(*b)?),
        _ => return Err(EvalError::no_overload()),
    })
}

/// `*`, `/`, `%`.
pub(crate) fn multiply<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    use Value::*;
    Ok(match (a, b) {
        (Int(a), Int(b)) => Int(a
            .checked_mul(*b)
            .ok_or_else(|| EvalError::new(INT_OVERFLOW))?),
        (Uint(a), Uint(b)) => Uint(
            a.checked_mul(*b)
                .ok_or_else(|| EvalError::new(UINT_OVERFLOW))?,
        ),
        (Double(a), Double(b)) => Double(a * b),
        _ => return Err(EvalError::no_overload()),
    })
}
pub(crate) fn divide<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    use Value::*;
    Ok(match (a, b) {
        (Int(_), Int(0)) | (Uint(_), Uint(0)) => return Err(EvalError::new("division by zero")),
        (Int(a), Int(b)) => Int(a
            .checked_div(*b)
            .ok_or_else(|| EvalError::new(INT_OVERFLOW))?),
        (Uint(a), Uint(b)) => Uint(a / b),
        (Double(a), Double(b)) => Double(a / b),
        _ => return Err(EvalError::no_overload()),
    })
}
pub(crate) fn modulo<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    use Value::*;
    Ok(match (a, b) {
        (Int(_), Int(0)) | (Uint(_), Uint(0)) => return Err(EvalError::new("modulus by zero")),
        (Int(a), Int(b)) => Int(a
            .checked_rem(*b)
            .ok_or_else(|| EvalError::new(INT_OVERFLOW))?),
        (Uint(a), Uint(b)) => Uint(a % b),
        _ => return Err(EvalError::no_overload()),
    })
}
pub(crate) fn negate<'a>(a: &Value<'a>) -> Evaluated<'a> {
    Ok(match a {
        Value::Int(i) => Value::Int(
            i.checked_neg()
                .ok_or_else(|| EvalError::new(INT_OVERFLOW))?,
        ),
        Value::Double(d) => Value::Double(-d),
        _ => return Err(EvalError::no_overload()),
    })
}

/// `v.name`. Lenient: what is not there is no error.
pub(crate) fn field<'a>(
    v: &Value<'a>,
    name: &str,
    lenient: bool,
) -> Result<Option<Value<'a>>, EvalError> {
    let found = match v {
        Value::Map(m) => match (m.field(name).transpose()?, &m.entries) {
            (None, Entries::Open(_)) => Some(Value::map_of([])),
            (found, _) => found,
        },
        Value::Object(o) => o
            .fields
            .get(name)
            .cloned()
            .or_else(|| unset(o, name, lenient)),
        Value::List(_) => return Err(EvalError::new("unsupported index type 'string' in list")),
        _ => None,
    };
    match found {
        None if !lenient => Err(EvalError::no_key(name)),
        found => Ok(found),
    }
}

/// What reading a field that was not given yields: built objects have all of their fields.
fn unset<'a>(o: &Object<'a>, name: &str, lenient: bool) -> Option<Value<'a>> {
    match name {
        _ if lenient => None,
        "op" | "path" | "from" if o.ty.name == "JSONPatch" => Some(Value::string("")),
        _ => Some(Value::Null),
    }
}

/// `v[key]`.
pub(crate) fn index<'a>(
    v: &Value<'a>,
    key: &Value<'_>,
    lenient: bool,
) -> Result<Option<Value<'a>>, EvalError> {
    match (v, key) {
        (_, Value::String(s)) => field(v, s.as_str(), lenient),
        (Value::List(l), _) => {
            let i = match *key {
                Value::Int(i) => i,
                Value::Uint(u) => i64::try_from(u).unwrap_or(-1),
                Value::Double(d) if d as i64 as f64 == d => d as i64,
                Value::Double(d) => {
                    return Err(EvalError::new(format!(
                        "unsupported index value {d} in list"
                    )));
                }
                _ => {
                    let name = key.type_of().name().to_string();
                    return Err(EvalError::new(format!(
                        "unsupported index type '{name}' in list"
                    )));
                }
            };
            match usize::try_from(i).ok().and_then(|i| l.get(i)) {
                Some(v) => v.map(Some),
                None if lenient => Ok(None),
                None => Err(EvalError::new(format!("index out of bounds: {i}"))),
            }
        }
        (Value::Map(m), _) => match m.find(key) {
            Some(v) => v.map(Some),
            None if lenient => Ok(None),
            None => Err(EvalError::no_key(shown(key))),
        },
        _ if lenient => Ok(None),
        _ => Err(EvalError::no_key(shown(key))),
    }
}

fn shown(key: &Value<'_>) -> String {
    match (Key::of(key), key) {
        (Some(k), _) => k.to_string(),
        (None, Value::Double(d)) => d.to_string(),
        _ => key.type_of().name().to_string(),
    }
}

/// `x in within`.
pub(crate) fn contains(x: &Value<'_>, within: &Value<'_>) -> Result<bool, EvalError> {
    match within {
        Value::List(l) => {
            for v in l.iter() {
                if equal(&v?, x) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Map(m) => Ok(m.find(x).transpose()?.is_some()),
        _ => Err(EvalError::no_overload()),
    }
}

/// `cel.@mapInsert`: an entry, or all of another map, into a map that nobody else looks at.
pub(crate) fn insert<'a>(map: Value<'a>, entry: &[Value<'a>]) -> Evaluated<'a> {
    let Value::Map(Map {
        entries: Entries::Owned(mut entries),
        ..
    }) = map
    else {
        return Err(EvalError::no_overload());
    };
    let own = Arc::make_mut(&mut entries);
    let mut put = |k: &Value<'a>, v: Value<'a>| {
        let key = Key::of(k).ok_or_else(|| {
            EvalError::new(format!("unsupported key type: {}", k.type_of().name()))
        })?;
        if own.contains_key(&key) {
            return Err(EvalError::new(format!(
                "insert failed: key {key} already exists"
            )));
        }
        own.insert(key, v);
        Ok(())
    };
    match entry {
        [k, v] => put(k, v.clone())?,
        [Value::Map(m)] => {
            for k in m.keys() {
                if let Some(v) = m.find(&k) {
                    put(&k, v?)?;
                }
            }
        }
        _ => return Err(EvalError::no_overload()),
    }
    Ok(Value::Map(Map {
        entries: Entries::Owned(entries),
        schema: None,
    }))
}

/// Whether a value is its type's zero.
pub(crate) fn is_zero(v: &Value<'_>) -> bool {
    match v {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(b) => !b,
        Value::Int(i) => *i == 0,
        Value::Uint(u) => *u == 0,
        Value::Double(d) => *d == 0.0,
        Value::String(s) => s.as_str().is_empty(),
        Value::Bytes(b) => b.is_empty(),
        Value::Duration(d) => d.0 == 0,
        Value::Timestamp(t) => t.seconds == -62_135_596_800 && t.nanos == 0,
        Value::List(l) => l.is_empty(),
        Value::Map(m) => m.is_empty(),
        Value::Object(o) => o.fields.is_empty(),
        _ => false,
    }
}

/// Whether values like this can stand left of an operator at all: cel-go's traits.
pub(crate) fn supports(v: &Value<'_>, operator: &str) -> bool {
    use Value::*;
    let number = matches!(v, Int(_) | Uint(_) | Double(_));
    let time = matches!(v, Duration(_) | Timestamp(_));
    let text = matches!(v, String(_) | Bytes(_));
    match operator {
        "_+_" => number || time || text || matches!(v, List(_)),
        "_-_" => number || time,
        "_*_" | "_/_" => number,
        "_%_" => matches!(v, Int(_) | Uint(_)),
        "_<_" | "_<=_" | "_>_" | "_>=_" => number || time || text || matches!(v, Bool(_)),
        _ => true,
    }
}
