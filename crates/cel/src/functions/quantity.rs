//! Kubernetes quantities: `1.5Gi`, `500m`, `1e3` (k8s.io/apimachinery/pkg/api/resource).

use std::sync::Arc;

use knarr_quantity::{ParseError, Quantity};

use super::Function;
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::value::Value;

fn parsed(args: &[Value<'_>]) -> Result<Result<Quantity, ParseError>, EvalError> {
    match args {
        [Value::String(s)] => Ok(Quantity::parse(s.as_str())),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn quantity<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    parsed(args)?
        .map(|q| Value::Quantity(Arc::new(q)))
        .map_err(|e| EvalError::new(e.to_string()))
}

pub(super) fn is_quantity<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(parsed(args)?.is_ok()))
}

pub(super) fn method(name: &str) -> Option<Function> {
    Some(match name {
        "sign" => |a| of(a, |q| Ok(Value::Int(q.sign().into()))),
        "isInteger" => |a| of(a, |q| Ok(Value::Bool(q.as_int().is_some()))),
        "asInteger" => |a| {
            of(a, |q| {
                q.as_int()
                    .map(Value::Int)
                    .ok_or_else(|| EvalError::new("cannot convert value to integer"))
            })
        },
        "asApproximateFloat" => |a| of(a, |q| Ok(Value::Double(q.float()))),
        "add" => |a| with(a, Quantity::plus),
        "sub" => |a| with(a, Quantity::minus),
        _ => return None,
    })
}

fn of<'a>(args: &[Value<'a>], f: fn(&Quantity) -> Evaluated<'static>) -> Evaluated<'a> {
    match args {
        [Value::Quantity(q)] => f(q),
        _ => Err(EvalError::no_overload()),
    }
}

fn with<'a>(args: &[Value<'a>], f: fn(&Quantity, &Quantity) -> Quantity) -> Evaluated<'a> {
    let result = match args {
        [Value::Quantity(a), Value::Quantity(b)] => f(a, b),
        [Value::Quantity(a), Value::Int(i)] => f(a, &Quantity::whole(*i)),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Quantity(Arc::new(result)))
}
