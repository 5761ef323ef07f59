//! Optional values.

use super::Function;
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::ops;
use crate::value::Value;

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "optional.of" => |a| match a {
            [v] => Ok(Value::some(v.clone())),
            _ => Err(EvalError::no_overload()),
        },
        "optional.ofNonZeroValue" => |a| match a {
            [v] if ops::is_zero(v) => Ok(Value::Optional(None)),
            [v] => Ok(Value::some(v.clone())),
            _ => Err(EvalError::no_overload()),
        },
        "optional.none" => |_| Ok(Value::Optional(None)),
        "hasValue" => |a| match a {
            [Value::Optional(v)] => Ok(Value::Bool(v.is_some())),
            _ => Err(EvalError::no_overload()),
        },
        "value" => |a| match a {
            [Value::Optional(Some(v))] => Ok(Value::clone(v)),
            [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
            _ => Err(EvalError::no_overload()),
        },
        "or" => |a| match a {
            [Value::Optional(Some(_)), _] => Ok(a[0].clone()),
            [Value::Optional(None), other @ Value::Optional(_)] => Ok(other.clone()),
            _ => Err(EvalError::no_overload()),
        },
        "orValue" => |a| match a {
            [Value::Optional(Some(v)), _] => Ok(Value::clone(v)),
            [Value::Optional(None), other] => Ok(other.clone()),
            _ => Err(EvalError::no_overload()),
        },
        "optional.unwrap" | "unwrapOpt" => unwrap,
        _ => return None,
    })
}

fn unwrap<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(l)] = args else {
        return Err(EvalError::no_overload());
    };
    let mut out = Vec::new();
    for v in l.iter() {
        match v? {
            Value::Optional(v) => out.extend(v.map(|v| Value::clone(&v))),
            other => return Err(EvalError::new(format!("value {other:?} is not optional"))),
        }
    }
    Ok(Value::list(out))
}
