//! The evaluator: walks a plan and counts what it costs.

mod fold;
mod path;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::budget::limits;
use crate::env::Activation;
use crate::equality::equal;
use crate::error::EvalError;
use crate::functions::regexes;
use crate::ops;
use crate::plan::{Call, Node, Plan, Search};
use crate::runtime_cost::{self, Rule};
use crate::types::ObjectType;
use crate::value::{Key, Object, Value};
use crate::work;

pub(crate) type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// A comprehension's variable.
enum Slot<'a> {
    /// An accumulator that nothing has looked at yet.
    Pending,
    Ready(Evaluated<'a>),
}

struct Eval<'v, 'p, 'a> {
    vars: &'v Activation<'a>,
    locals: Vec<Local<'p, 'a>>,
    cost: u64,
}

struct Local<'p, 'a> {
    slot: Slot<'a>,
    /// What makes an accumulator's first value.
    init: Option<&'p Node>,
}

/// The value, and what it cost whether there is one or not.
pub(crate) fn run<'a>(plan: &Plan, vars: &Activation<'a>) -> (Evaluated<'a>, u64) {
    let mut eval = Eval {
        vars,
        locals: Vec::new(),
        cost: 0,
    };
    work::start();
    let result = eval.node(plan);
    // who looks at the result has an account of their own
    work::start();
    (result, eval.cost)
}

/// The result, unless it took more work than costs could tell.
fn bounded(result: Evaluated<'_>) -> Evaluated<'_> {
    if work::exhausted() {
        Err(EvalError::call_limit())
    } else {
        result
    }
}

impl<'p, 'a> Eval<'_, 'p, 'a> {
    fn charge(&mut self, units: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(units);
        if self.cost > limits::PER_CALL {
            Err(EvalError::call_limit())
        } else {
            Ok(())
        }
    }

    fn node(&mut self, node: &'p Node) -> Evaluated<'a> {
        match node {
            Node::Const(v) => Ok(v.clone()),
            Node::Attr(a) => self.attr(a),
            Node::Has(a) => self.has(a),
            Node::And(terms) => self.logic(terms, false),
            Node::Or(terms) => self.logic(terms, true),
            Node::Equal(sides, wanted) => self.equal(sides, *wanted),
            Node::OrElse(sides, unwrap) => match self.node(&sides[0])? {
                Value::Optional(None) => self.node(&sides[1]),
                Value::Optional(Some(v)) if *unwrap => Ok(Value::clone(&v)),
                other => Ok(other),
            },
            Node::Call(c) => self.call(c),
            Node::Search(s) => self.search(s),
            Node::InConst(x, list) => {
                let x = self.node(x)?;
                bounded(ops::contains(&x, list).map(Value::Bool))
            }
            Node::List(elems) => self.list(elems),
            Node::Map(entries) => self.map(entries),
            Node::Struct(ty, fields) => self.object(ty, fields),
            Node::Fold(f) => self.fold(f),
        }
    }

    /// `||` if `wanted`, else `&&`: decided by one side even if the other fails.
    #[inline(never)]
    fn logic(&mut self, terms: &'p [Node; 2], wanted: bool) -> Evaluated<'a> {
        let mut error = None;
        for term in terms {
            match self.node(term) {
                Ok(Value::Bool(b)) if b == wanted => return Ok(Value::Bool(wanted)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => error = error.or_else(|| Some(EvalError::no_overload())),
                Err(e) if !e.absorbable() => return Err(e),
                Err(e) => error = error.or(Some(e)),
            }
        }
        match error {
            Some(e) => Err(e),
            None => Ok(Value::Bool(!wanted)),
        }
    }

    /// Both sides of a binary operation; both are evaluated even if the first fails.
    fn both(
        &mut self,
        left: &'p Node,
        right: &'p Node,
    ) -> Result<(Evaluated<'a>, Evaluated<'a>), EvalError> {
        let l = self.node(left);
        if let Err(e) = &l
            && !e.absorbable()
        {
            return Err(e.clone());
        }
        let r = self.node(right);
        if let Err(e) = &r
            && !e.absorbable()
        {
            return Err(e.clone());
        }
        Ok((l, r))
    }

    #[inline(never)]
    fn equal(&mut self, sides: &'p [Node; 2], wanted: bool) -> Evaluated<'a> {
        let (l, r) = self.both(&sides[0], &sides[1])?;
        let cost = {
            let side = |v: &Evaluated<'a>| v.as_ref().map_or(1, runtime_cost::size);
            match &l {
                Ok(v) if wanted && runtime_cost::unit_equality(v) => 1,
                _ => runtime_cost::traversal(side(&l).min(side(&r))),
            }
        };
        self.charge(cost)?;
        let same = equal(&l?, &r?);
        bounded(Ok(Value::Bool(same == wanted)))
    }

    #[inline(never)]
    fn call(&mut self, c: &'p Call) -> Evaluated<'a> {
        match c.args.as_slice() {
            [] => self.apply(c, &[]),
            [one] => {
                let v = match self.node(one) {
                    Ok(v) => v,
                    Err(e) if c.rule == Rule::NotStrictlyFalse && e.absorbable() => {
                        self.charge(1)?;
                        return Ok(Value::Bool(true));
                    }
                    Err(e) => return self.failed(c, &[Value::Null], Some(e)),
                };
                self.apply(c, &[v])
            }
            [left, right] if !c.dispatched => {
                let (l, r) = self.both(left, right)?;
                match (l, r) {
                    (Ok(l), Ok(r)) => self.apply(c, &[l, r]),
                    (l, r) => {
                        let args = [&l, &r].map(|v| v.clone().unwrap_or(Value::Null));
                        let error = l.err().or(r.err());
                        self.failed(c, &args, error)
                    }
                }
            }
            many => {
                let mut args = Vec::with_capacity(many.len());
                for (i, a) in many.iter().enumerate() {
                    match self.node(a) {
                        Ok(v) => args.push(v),
                        // the call is counted once all arguments were looked at
                        Err(e) if i + 1 == many.len() => {
                            args.push(Value::Null);
                            return self.failed(c, &args, Some(e));
                        }
                        Err(e) => return Err(e),
                    }
                }
                self.apply(c, &args)
            }
        }
    }

    fn apply(&mut self, c: &'p Call, args: &[Value<'a>]) -> Evaluated<'a> {
        // what the work costs is known before it is done, but for the few that are counted by their result
        if !c.rule.by_result() {
            self.charge(c.rule.cost(args, None))?;
            return bounded((c.function)(args)).map_err(|e| c.named(e, args));
        }
        let result = (c.function)(args);
        self.charge(c.rule.cost(args, result.as_ref().ok()))?;
        result.map_err(|e| c.named(e, args))
    }

    /// A failed argument still costs the call; it stands as null among the arguments.
    fn failed(
        &mut self,
        c: &'p Call,
        args: &[Value<'a>],
        error: Option<EvalError>,
    ) -> Evaluated<'a> {
        let error = error.unwrap_or_else(EvalError::no_overload);
        if error.absorbable() {
            self.charge(c.rule.cost(args, None))?;
        }
        Err(error)
    }

    #[inline(never)]
    fn search(&mut self, s: &'p Search) -> Evaluated<'a> {
        let text = self.node(&s.text)?;
        let limit = match &s.limit {
            None => Value::Int(-1),
            Some(n) => self.node(n)?,
        };
        let args = [text, s.pattern.clone()];
        self.charge(s.rule.cost(&args, None))?;
        match (&args[0], limit) {
            (Value::String(t), Value::Int(limit)) => {
                regexes::search(&s.regex, s.kind, t.as_str(), limit)
            }
            _ => Err(EvalError::no_overload()),
        }
    }

    #[inline(never)]
    fn list(&mut self, elems: &'p [(Node, bool)]) -> Evaluated<'a> {
        let list = self.elements(elems);
        // counted whether it could be built or not, as for maps and objects
        self.charge(runtime_cost::LIST)?;
        list.map(Value::list)
    }

    fn elements(&mut self, elems: &'p [(Node, bool)]) -> Result<Vec<Value<'a>>, EvalError> {
        let mut out = Vec::with_capacity(elems.len());
        for (e, optional) in elems {
            match (self.node(e)?, optional) {
                (Value::Optional(v), true) => out.extend(v.map(|v| Value::clone(&v))),
                (_, true) => return Err(EvalError::new("invalid optional list element")),
                (v, false) => out.push(v),
            }
        }
        Ok(out)
    }

    #[inline(never)]
    fn map(&mut self, entries: &'p [(Node, Node, bool)]) -> Evaluated<'a> {
        let map = self.entries(entries);
        self.charge(runtime_cost::MAP)?;
        map.map(Value::map)
    }

    fn entries(
        &mut self,
        entries: &'p [(Node, Node, bool)],
    ) -> Result<BTreeMap<Key, Value<'a>>, EvalError> {
        let mut out = BTreeMap::new();
        for (k, v, optional) in entries {
            let k = self.node(k)?;
            let v = match (self.node(v)?, optional) {
                (Value::Optional(Some(v)), true) => Value::clone(&v),
                (Value::Optional(None), true) => continue,
                (_, true) => return Err(EvalError::new("invalid optional entry")),
                (v, false) => v,
            };
            let Some(key) = Key::of(&k) else {
                return Err(EvalError::new(format!(
                    "unsupported key type: {}",
                    k.type_of().name()
                )));
            };
            out.insert(key, v);
        }
        Ok(out)
    }

    #[inline(never)]
    fn object(
        &mut self,
        ty: &Arc<ObjectType>,
        fields: &'p [(String, Node, bool)],
    ) -> Evaluated<'a> {
        let fields = self.fields(fields);
        self.charge(runtime_cost::STRUCT)?;
        let ty = ty.clone();
        fields.map(|fields| Value::Object(Arc::new(Object { ty, fields })))
    }

    fn fields(
        &mut self,
        fields: &'p [(String, Node, bool)],
    ) -> Result<BTreeMap<String, Value<'a>>, EvalError> {
        let mut out = BTreeMap::new();
        for (name, v, optional) in fields {
            let v = match (self.node(v)?, optional) {
                (Value::Optional(Some(v)), true) => Value::clone(&v),
                (Value::Optional(None), true) => continue,
                (_, true) => {
                    return Err(EvalError::new(format!(
                        "cannot initialize optional entry '{name}' from non-optional value"
                    )));
                }
                (v, false) => v,
            };
            out.insert(name.clone(), v);
        }
        Ok(out)
    }
}
