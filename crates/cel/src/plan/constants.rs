//! What is known before evaluating: literals, lists and maps of them, regular expressions.

use std::collections::BTreeMap;

use super::{Call, Node, Search};
use crate::ast::op;
use crate::error::EvalError;
use crate::functions::{self, regexes};
use crate::runtime_cost::Rule;
use crate::value::{Key, Value};

/// `matches`, `find` or `findAll` with a constant expression, which is compiled once.
pub(super) fn searched(
    function: &str,
    overload: &str,
    args: &mut Vec<Node>,
) -> Result<Option<Search>, EvalError> {
    let kind = match function {
        "matches" => regexes::Kind::Matches,
        "find" => regexes::Kind::Find,
        "findAll" => regexes::Kind::FindAll,
        _ => return Ok(None),
    };
    let pattern = match args.get(1) {
        Some(Node::Const(p @ Value::String(_))) => p.clone(),
        _ => return Ok(None),
    };
    let regex = regexes::compile(pattern.as_str().unwrap_or_default())
        .map_err(|e| EvalError::new(format!("error parsing regexp: {e}")))?;
    let mut args = std::mem::take(args).into_iter();
    let (Some(text), _, limit) = (args.next(), args.next(), args.next()) else {
        return Ok(None);
    };
    let rule = Rule::of(function, overload);
    Ok(Some(Search {
        text,
        regex,
        pattern,
        kind,
        rule,
        limit,
    }))
}

pub(super) fn list(elems: Vec<(Node, bool)>) -> Node {
    if elems
        .iter()
        .any(|(e, optional)| *optional || !matches!(e, Node::Const(_)))
    {
        return Node::List(elems);
    }
    let values = elems.into_iter().filter_map(|(e, _)| {
        if let Node::Const(v) = e {
            Some(v)
        } else {
            None
        }
    });
    Node::Const(Value::list(values.collect()))
}

pub(super) fn map(entries: Vec<(Node, Node, bool)>) -> Node {
    let mut out = BTreeMap::new();
    for (k, v, optional) in &entries {
        let (Node::Const(k), Node::Const(v), false) = (k, v, optional) else {
            return Node::Map(entries);
        };
        // a key that cannot be one is told when evaluated
        let Some(key) = Key::of(k) else {
            return Node::Map(entries);
        };
        out.insert(key, v.clone());
    }
    Node::Const(Value::map(out))
}

pub(super) fn in_const(mut planned: Vec<Node>) -> Node {
    let list = planned.pop();
    match (planned.pop(), list) {
        (_, Some(Node::Const(Value::List(l)))) if l.is_empty() => Node::Const(Value::Bool(false)),
        (Some(x), Some(Node::Const(l))) if all_plain(&l) => Node::InConst(Box::new(x), l),
        (Some(x), Some(l)) => Node::Call(Box::new(Call {
            function: functions::contains,
            rule: Rule::of(op::IN, "in_list"),
            args: vec![x, l],
            dispatched: false,
            name: None,
        })),
        // the caller saw both
        _ => Node::Const(Value::Bool(false)),
    }
}

/// Whether all items are scalars other than bytes: what cel-go makes a set of.
fn all_plain(v: &Value<'_>) -> bool {
    let Value::List(l) = v else { return false };
    l.iter().all(|v| {
        matches!(
            v,
            Ok(Value::Null
                | Value::Bool(_)
                | Value::Int(_)
                | Value::Uint(_)
                | Value::Double(_)
                | Value::String(_))
        )
    })
}
