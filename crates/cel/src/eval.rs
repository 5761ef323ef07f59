//! The evaluator: walks a plan and counts what it costs.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::budget::limits;
use crate::env::Activation;
use crate::equality::equal;
use crate::error::EvalError;
use crate::functions::regexes;
use crate::ops;
use crate::plan::{
    Attr, Call, Conditional, Fold, Node, Plan, Qualifier, Root, Search, Step, Step2,
};
use crate::runtime_cost::{self, Rule};
use crate::types::ObjectType;
use crate::value::{Items, Key, List, Object, Value};
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

    /// An attribute's own value costs one; that of a ternary only what its parts cost.
    #[inline(never)]
    fn attr(&mut self, a: &'p Attr) -> Evaluated<'a> {
        let v = self.resolve(a);
        if !matches!(a.root, Root::Conditional(_)) {
            self.charge(1)?;
        }
        v
    }

    fn root(&mut self, root: &'p Root) -> Evaluated<'a> {
        match root {
            Root::Local(i) => self.local(*i),
            Root::Variable(name) => self.vars.get(name),
            Root::Of(node) => self.node(node),
            Root::Conditional(c) => self.conditional(c),
        }
    }

    #[inline(never)]
    fn conditional(&mut self, c: &'p Conditional) -> Evaluated<'a> {
        match self.node(&c.condition)? {
            Value::Bool(true) => self.resolve(&c.yes),
            Value::Bool(false) => self.resolve(&c.no),
            _ => Err(EvalError::no_overload()),
        }
    }

    #[inline(never)]
    fn local(&mut self, i: usize) -> Evaluated<'a> {
        let local = &self.locals[i];
        match (&local.slot, local.init) {
            (Slot::Ready(v), _) => v.clone(),
            (Slot::Pending, Some(init)) => {
                // it was planned to stand outside of the comprehensions that are now around it
                let inner = self.locals.split_off(i);
                let v = self.node(init);
                self.locals.extend(inner);
                self.locals[i].slot = Slot::Ready(v.clone());
                v
            }
            (Slot::Pending, None) => Err(EvalError::new("no such attribute(s)")),
        }
    }

    fn resolve(&mut self, a: &'p Attr) -> Evaluated<'a> {
        if a.path.is_empty() {
            return self.root(&a.root);
        }
        self.walk(a, false)
    }

    /// Follows the path. For `has`, the last step is only looked for, and the result is whether it is there.
    #[inline(never)]
    fn walk(&mut self, a: &'p Attr, test: bool) -> Evaluated<'a> {
        let mut path = a.path.as_slice();
        let mut v = match (&a.root, path) {
            (
                Root::Variable(name),
                [
                    Qualifier {
                        step: Step::Field(field),
                        ..
                    },
                    rest @ ..,
                ],
            ) if name == "variables" => match self.vars.composed(field) {
                Some(v) => {
                    self.charge(1)?;
                    if test && rest.is_empty() {
                        return Ok(Value::Bool(v.is_ok()));
                    }
                    path = rest;
                    v?
                }
                None => self.root(&a.root)?,
            },
            _ => self.root(&a.root)?,
        };
        let mut optional = false;
        if let Value::Optional(inner) = &v {
            let Some(inner) = inner else {
                return Ok(if test { Value::Bool(false) } else { v });
            };
            optional = true;
            v = Value::clone(inner);
        }
        for (i, q) in path.iter().enumerate() {
            let last = test && i + 1 == path.len();
            optional |= q.optional;
            let found = self.qualify(&v, &q.step, optional || last);
            match found {
                Ok(Some(next)) => {
                    self.charge(1)?;
                    v = next;
                }
                Ok(None) if last => {
                    if !optional {
                        self.charge(1)?;
                    }
                    return Ok(Value::Bool(false));
                }
                Ok(None) => {
                    return Ok(if test {
                        Value::Bool(false)
                    } else {
                        Value::Optional(None)
                    });
                }
                Err(e) => {
                    if !optional || last {
                        self.charge(1)?;
                    }
                    return Err(e);
                }
            }
        }
        Ok(match (test, optional) {
            (true, _) => Value::Bool(true),
            (false, true) => Value::some(v),
            (false, false) => v,
        })
    }

    /// One step; `None` if there is nothing there and that is no error.
    fn qualify(
        &mut self,
        v: &Value<'a>,
        step: &'p Step,
        lenient: bool,
    ) -> Result<Option<Value<'a>>, EvalError> {
        match step {
            Step::Field(name) => ops::field(v, name, lenient),
            Step::Const(key) => ops::index(v, key, lenient),
            Step::Attr(a) => {
                let key = self.resolve(a)?;
                ops::index(v, &key, lenient)
            }
        }
    }

    #[inline(never)]
    fn has(&mut self, a: &'p Attr) -> Evaluated<'a> {
        self.walk(a, true)
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
        let Value::String(t) = &text else {
            return Err(EvalError::no_overload());
        };
        let limit = match s.limit.as_ref().map(|n| self.node(n)).transpose()? {
            None => -1,
            Some(Value::Int(n)) => n,
            Some(_) => return Err(EvalError::no_overload()),
        };
        let args = [text.clone(), s.pattern.clone()];
        self.charge(s.rule.cost(&args, None))?;
        Ok(regexes::search(&s.regex, s.kind, t.as_str(), limit))
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

    #[inline(never)]
    fn fold(&mut self, f: &'p Fold) -> Evaluated<'a> {
        let range = self.node(&f.range)?;
        self.locals.push(Local {
            slot: Slot::Pending,
            init: Some(&f.init),
        });
        for _ in 0..=usize::from(f.two) {
            self.locals.push(Local {
                slot: Slot::Pending,
                init: None,
            });
        }
        let looped = self.each(f, &range);
        self.locals.truncate(f.accu + 1);
        let result = looped.and_then(|()| self.node(&f.result));
        self.locals.truncate(f.accu);
        result
    }

    fn each(&mut self, f: &'p Fold, range: &Value<'a>) -> Result<(), EvalError> {
        match range {
            Value::List(l) => {
                for i in 0..l.len() {
                    let Some(item) = l.get(i) else { break };
                    let index = Ok(Value::Int(i as i64));
                    let (first, second) = if f.two {
                        (index, Some(item))
                    } else {
                        (item, None)
                    };
                    if !self.once(f, first, second)? {
                        break;
                    }
                }
            }
            Value::Map(m) => {
                for key in m.keys() {
                    let second = if f.two { m.find(&key) } else { None };
                    if !self.once(f, Ok(key), second)? {
                        break;
                    }
                }
            }
            other => {
                let name = other.go_type();
                return Err(EvalError::new(match f.two {
                    true => format!("unsupported comprehension range type: {name}"),
                    false => format!("got '{name}', expected iterable type"),
                }));
            }
        }
        Ok(())
    }

    /// One round; false if the condition ended the loop.
    fn once(
        &mut self,
        f: &'p Fold,
        first: Evaluated<'a>,
        second: Option<Evaluated<'a>>,
    ) -> Result<bool, EvalError> {
        self.locals[f.accu + 1].slot = Slot::Ready(first);
        if let Some(v) = second {
            self.locals[f.accu + 2].slot = Slot::Ready(v);
        }
        match self.node(&f.condition) {
            Ok(Value::Bool(false)) => return Ok(false),
            Err(e) if !e.absorbable() => return Err(e),
            _ => {}
        }
        let next = match &f.step {
            Step2::Any(step) => Some(self.node(step)),
            Step2::Append { filter, elem } => self.append(f, filter.as_ref(), elem),
            Step2::Insert { filter, entry } => self.insert(f, filter.as_ref(), entry),
        };
        match next {
            Some(Err(e)) if !e.absorbable() => return Err(e),
            // an error is accumulated like a value: `all` and `exists` may still be decided
            Some(v) => self.locals[f.accu].slot = Slot::Ready(v),
            None => {}
        }
        Ok(true)
    }

    /// Whether the filter lets this round change the accumulator; the error it becomes otherwise.
    fn passes(&mut self, f: &'p Fold, filter: Option<&'p Node>) -> Result<bool, EvalError> {
        match filter.map(|n| self.node(n)).transpose()? {
            None | Some(Value::Bool(true)) => Ok(true),
            Some(Value::Bool(false)) => self.local(f.accu).map(|_| false),
            Some(_) => Err(EvalError::no_overload()),
        }
    }

    /// Takes the accumulator out, so that it can be changed in place.
    fn take(&mut self, f: &'p Fold) -> Evaluated<'a> {
        if matches!(self.locals[f.accu].slot, Slot::Pending) {
            self.local(f.accu)?;
        }
        match std::mem::replace(&mut self.locals[f.accu].slot, Slot::Ready(Ok(Value::Null))) {
            Slot::Ready(v) => v,
            Slot::Pending => Ok(Value::Null),
        }
    }

    fn append(
        &mut self,
        f: &'p Fold,
        filter: Option<&'p Node>,
        elem: &'p Node,
    ) -> Option<Evaluated<'a>> {
        match self.passes(f, filter) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(e) => return Some(Err(e)),
        }
        // as `accu + [elem]`: one for the accumulator, one for the addition, and the list unless it is constant
        let list = if matches!(elem, Node::Const(_)) {
            0
        } else {
            runtime_cost::LIST
        };
        let accu = self.take(f);
        if let Err(e) = self.charge(1) {
            return Some(Err(e));
        }
        let elem = self.node(elem);
        if let Err(e) = self.charge(list + 1) {
            return Some(Err(e));
        }
        Some(elem.and_then(|v| match accu? {
            Value::List(List {
                items: Items::Owned(mut items),
                ..
            }) => {
                Arc::make_mut(&mut items).push(v);
                Ok(Value::List(List {
                    items: Items::Owned(items),
                    schema: None,
                }))
            }
            _ => Err(EvalError::no_overload()),
        }))
    }

    fn insert(
        &mut self,
        f: &'p Fold,
        filter: Option<&'p Node>,
        entry: &'p [Node],
    ) -> Option<Evaluated<'a>> {
        match self.passes(f, filter) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(e) => return Some(Err(e)),
        }
        let accu = self.take(f);
        if let Err(e) = self.charge(1) {
            return Some(Err(e));
        }
        let mut values = Vec::with_capacity(entry.len());
        for (i, e) in entry.iter().enumerate() {
            match self.node(e) {
                Ok(v) => values.push(v),
                Err(e) if i + 1 == entry.len() => {
                    return Some(self.charge(1).and(Err(e)));
                }
                Err(e) => return Some(Err(e)),
            }
        }
        Some(self.charge(1).and_then(|()| ops::insert(accu?, &values)))
    }
}
