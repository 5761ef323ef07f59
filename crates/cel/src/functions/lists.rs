//! Functions of lists: the Kubernetes ones and cel-go's `ext.Lists`, version 3.

use std::cmp::Ordering;

use super::{Function, strings};
use crate::equality::equal;
use crate::error::EvalError;
use crate::eval::Evaluated;
use crate::ops;
use crate::value::{List, MAX_ITEMS, Value};

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "isSorted" => is_sorted,
        "sum" => |a| sum(a, Value::Int(0)),
        "min" => |a| extreme(a, "min", Ordering::Less),
        "max" => |a| extreme(a, "max", Ordering::Greater),
        "indexOf" => |a| match a {
            [Value::List(l), v] => position(l, v, false),
            _ => strings::index_of(a),
        },
        "lastIndexOf" => |a| match a {
            [Value::List(l), v] => position(l, v, true),
            _ => strings::last_index_of(a),
        },
        "first" => |a| end(a, true),
        "last" => |a| end(a, false),
        "distinct" => distinct,
        "flatten" => flatten,
        "reverse" => |a| match a {
            [Value::List(l)] => Ok(Value::list(l.to_vec()?.into_iter().rev().collect())),
            _ => Err(EvalError::no_overload()),
        },
        "slice" => slice,
        "sort" => |a| match a {
            [Value::List(l)] => sorted(l.to_vec()?, l.to_vec()?),
            _ => Err(EvalError::no_overload()),
        },
        "@sortByAssociatedKeys" => |a| match a {
            [Value::List(l), Value::List(keys)] => sorted(l.to_vec()?, keys.to_vec()?),
            _ => Err(EvalError::no_overload()),
        },
        "lists.range" => range,
        _ => return None,
    })
}

fn is_sorted<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(l)] = args else {
        return Err(EvalError::no_overload());
    };
    let mut before: Option<Value<'a>> = None;
    for v in l.iter() {
        let v = v?;
        if let Some(b) = &before
            && ops::compare(b, &v)?.is_gt()
        {
            return Ok(Value::Bool(false));
        }
        before = Some(v);
    }
    Ok(Value::Bool(true))
}

/// The sum, or the zero of an empty list's type.
pub(super) fn sum<'a>(args: &[Value<'a>], zero: Value<'a>) -> Evaluated<'a> {
    let [Value::List(l)] = args else {
        return Err(EvalError::no_overload());
    };
    let mut total: Option<Value<'a>> = None;
    for v in l.iter() {
        let v = v?;
        total = Some(match total {
            Some(t) => ops::add(&t, &v)?,
            None => v,
        });
    }
    Ok(total.unwrap_or(zero))
}

fn extreme<'a>(args: &[Value<'a>], name: &str, wanted: Ordering) -> Evaluated<'a> {
    let [Value::List(l)] = args else {
        return Err(EvalError::no_overload());
    };
    let mut best: Option<Value<'a>> = None;
    for v in l.iter() {
        let v = v?;
        best = Some(match best {
            Some(b) if ops::compare(&v, &b)? == wanted => v,
            Some(b) => b,
            None => v,
        });
    }
    best.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

fn position<'a>(l: &List<'a>, v: &Value<'a>, last: bool) -> Evaluated<'a> {
    let items = l.to_vec()?;
    let is = |x: &Value<'a>| equal(x, v);
    let found = if last {
        items.iter().rposition(is)
    } else {
        items.iter().position(is)
    };
    Ok(Value::Int(found.map_or(-1, |i| i as i64)))
}

fn end<'a>(args: &[Value<'a>], first: bool) -> Evaluated<'a> {
    let [Value::List(l)] = args else {
        return Err(EvalError::no_overload());
    };
    let i = if first { 0 } else { l.len().saturating_sub(1) };
    Ok(match l.get(i) {
        Some(v) => Value::some(v?),
        None => Value::Optional(None),
    })
}

fn distinct<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(l)] = args else {
        return Err(EvalError::no_overload());
    };
    let mut out: Vec<Value<'a>> = Vec::new();
    for v in l.iter() {
        let v = v?;
        if !out.iter().any(|o| equal(o, &v)) {
            out.push(v);
        }
    }
    Ok(Value::list(out))
}

fn flatten<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (l, depth) = match args {
        [Value::List(l)] => (l, 1),
        [Value::List(l), Value::Int(depth)] => (l, *depth),
        _ => return Err(EvalError::no_overload()),
    };
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    // a worklist, because data may be nested deeper than a stack
    let mut out = Vec::new();
    let mut work = vec![(l.clone(), 0, depth)];
    while let Some((l, i, depth)) = work.pop() {
        let Some(v) = l.get(i) else { continue };
        work.push((l, i + 1, depth));
        match v? {
            Value::List(inner) if depth > 0 => work.push((inner, 0, depth - 1)),
            other => out.push(other),
        }
        if out.len() > MAX_ITEMS {
            return Err(EvalError::call_limit());
        }
    }
    Ok(Value::list(out))
}

fn slice<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(l), Value::Int(start), Value::Int(end)] = args else {
        return Err(EvalError::no_overload());
    };
    let bad = |why: String| {
        Err(EvalError::new(format!(
            "cannot slice({start}, {end}), {why}"
        )))
    };
    if *start < 0 || *end < 0 {
        return bad("negative indexes not supported".into());
    }
    if start > end {
        return bad("start index must be less than or equal to end index".into());
    }
    if (l.len() as u64) < *end as u64 {
        return bad(format!("list is length {}", l.len()));
    }
    if end - start > MAX_ITEMS as i64 {
        return Err(EvalError::call_limit());
    }
    let items: Result<Vec<Value<'a>>, EvalError> = (*start as usize..*end as usize)
        .filter_map(|i| l.get(i))
        .collect();
    Ok(Value::list(items?))
}

/// The items in the order of their keys; items with equal keys keep theirs.
fn sorted<'a>(items: Vec<Value<'a>>, keys: Vec<Value<'a>>) -> Evaluated<'a> {
    if items.len() != keys.len() {
        return Err(EvalError::new(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} \
             elements respectively",
            items.len(),
            keys.len()
        )));
    }
    if let Some(first) = keys.first() {
        if !comparable(first) {
            return Err(EvalError::new("list elements must be comparable"));
        }
        if keys.iter().any(|k| !k.type_of().same(&first.type_of())) {
            return Err(EvalError::new("list elements must have the same type"));
        }
    }
    let mut pairs: Vec<(Value<'a>, Value<'a>)> = keys.into_iter().zip(items).collect();
    pairs.sort_by(|(a, _), (b, _)| {
        ops::compare(a, b).unwrap_or_else(|_| match (a, b) {
            // what is no number has a place, too: a sort needs an order of all
            (Value::Double(a), Value::Double(b)) => a.total_cmp(b),
            _ => Ordering::Equal,
        })
    });
    Ok(Value::list(pairs.into_iter().map(|(_, v)| v).collect()))
}

fn comparable(v: &Value<'_>) -> bool {
    matches!(
        v,
        Value::Bool(_)
            | Value::Int(_)
            | Value::Uint(_)
            | Value::Double(_)
            | Value::String(_)
            | Value::Bytes(_)
            | Value::Duration(_)
            | Value::Timestamp(_)
    )
}

fn range<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::Int(n)] = args else {
        return Err(EvalError::no_overload());
    };
    if *n > MAX_ITEMS as i64 {
        return Err(EvalError::call_limit());
    }
    Ok(Value::list((0..*n).map(Value::Int).collect()))
}
