//! Lists as sets.

use crate::equality::equal;
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::value::Value;

fn lists<'a>(args: &[Value<'a>]) -> Result<(Vec<Value<'a>>, Vec<Value<'a>>), EvalError> {
    match args {
        [Value::List(a), Value::List(b)] => Ok((a.to_vec()?, b.to_vec()?)),
        _ => Err(EvalError::no_overload()),
    }
}

fn within(a: &[Value<'_>], b: &[Value<'_>]) -> bool {
    a.iter().all(|x| b.iter().any(|y| equal(x, y)))
}

pub(super) fn contains<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (a, b) = lists(args)?;
    Ok(Value::Bool(within(&b, &a)))
}

pub(super) fn equivalent<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (a, b) = lists(args)?;
    Ok(Value::Bool(within(&a, &b) && within(&b, &a)))
}

pub(super) fn intersects<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (a, b) = lists(args)?;
    Ok(Value::Bool(a.iter().any(|x| b.iter().any(|y| equal(x, y)))))
}
