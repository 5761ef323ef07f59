//! A checked tree made ready to evaluate: names resolved, constants folded, functions found. The shape is that of
//! cel-go's planner, because what an evaluation costs is counted by it.

use crate::ast::{Expr, Kind, Literal, op};
use crate::check::Checked;
use crate::env::Names;
use crate::error::EvalError;
use crate::functions::{self, Function};
use crate::runtime_cost::Rule;
use crate::types::{ObjectType, Type};
use crate::value::{Key, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) type Plan = Node;

pub(crate) enum Node {
    Const(Value<'static>),
    Attr(Box<Attr>),
    /// `has(a.b)`: the last qualifier is only looked for.
    Has(Box<Attr>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Equal(Box<[Node; 2]>, bool),
    Call(Box<Call>),
    /// `x in [constants]`.
    InConst(Box<Node>, Value<'static>),
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Struct(Arc<ObjectType>, Vec<(String, Node, bool)>),
    Fold(Box<Fold>),
}

/// A value and a path from it.
pub(crate) struct Attr {
    pub root: Root,
    pub path: Vec<Qualifier>,
}

pub(crate) enum Root {
    /// A comprehension's variable: its place among those around.
    Local(usize),
    Variable(String),
    /// The value of any other expression.
    Of(Node),
    Conditional(Box<Conditional>),
}

pub(crate) struct Conditional {
    pub condition: Node,
    pub yes: Attr,
    pub no: Attr,
}

pub(crate) struct Qualifier {
    pub step: Step,
    /// `.?x`, `[?x]`.
    pub optional: bool,
}

pub(crate) enum Step {
    Field(Box<str>),
    Const(Value<'static>),
    /// Any other index, as an attribute: its root costs nothing.
    Attr(Attr),
}

pub(crate) struct Call {
    pub function: Function,
    pub rule: Rule,
    pub args: Vec<Node>,
}

pub(crate) struct Fold {
    pub range: Node,
    /// The accumulator, and the one or two variables after it, among the locals.
    pub accu: usize,
    pub two: bool,
    pub init: Node,
    pub condition: Node,
    pub step: Step2,
    pub result: Node,
}

/// A fold's step. Appending to the accumulator is told apart, so that it does not copy it.
pub(crate) enum Step2 {
    Any(Node),
    /// `accu + [elem]`, or `filter ? accu + [elem] : accu`.
    Append {
        filter: Option<Node>,
        elem: Node,
    },
    /// `cel.@mapInsert(accu, ...)`, likewise.
    Insert {
        filter: Option<Node>,
        entry: Vec<Node>,
    },
}

struct Planner<'a> {
    checked: &'a Checked,
    names: &'a Names,
    locals: Vec<String>,
}

/// Plans a checked tree. An error if a constant part of it fails.
pub(crate) fn plan(e: &Expr, checked: &Checked, names: &Names) -> Result<Plan, EvalError> {
    Planner {
        checked,
        names,
        locals: Vec::new(),
    }
    .node(e)
}

fn constant(l: &Literal) -> Value<'static> {
    match l {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(i) => Value::Int(*i),
        Literal::Uint(u) => Value::Uint(*u),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(s) => Value::string(s.as_str()),
        Literal::Bytes(b) => Value::Bytes(b.as_slice().into()),
    }
}

const CONVERSIONS: [&str; 10] = [
    "bool",
    "bytes",
    "double",
    "duration",
    "dyn",
    "int",
    "string",
    "timestamp",
    "type",
    "uint",
];

impl Planner<'_> {
    fn node(&mut self, e: &Expr) -> Result<Node, EvalError> {
        Ok(match &e.kind {
            Kind::Literal(l) => Node::Const(constant(l)),
            Kind::Ident(name) => self.ident(name),
            Kind::Select {
                operand,
                field,
                test_only,
            } => {
                let mut attr = self.attr(operand)?;
                attr.path.push(Qualifier {
                    step: Step::Field(field.as_str().into()),
                    optional: false,
                });
                if *test_only {
                    Node::Has(Box::new(attr))
                } else {
                    Node::Attr(Box::new(attr))
                }
            }
            Kind::Call {
                function,
                target,
                args,
            } => self.call(e, function, target.as_deref(), args)?,
            Kind::List { elems, optional } => {
                let elems: Result<Vec<_>, EvalError> = elems
                    .iter()
                    .zip(optional)
                    .map(|(e, o)| Ok((self.node(e)?, *o)))
                    .collect();
                list(elems?)
            }
            Kind::Map(entries) => {
                let entries: Result<Vec<_>, EvalError> = entries
                    .iter()
                    .map(|e| Ok((self.node(&e.key)?, self.node(&e.value)?, e.optional)))
                    .collect();
                map(entries?)
            }
            Kind::Struct { name, fields } => {
                let Some(Type::Object(o)) = self.names.type_named(name) else {
                    return Err(EvalError::new(format!("unknown type: {name}")));
                };
                let fields: Result<Vec<_>, EvalError> = fields
                    .iter()
                    .map(|f| Ok((f.name.clone(), self.node(&f.value)?, f.optional)))
                    .collect();
                Node::Struct(o, fields?)
            }
            Kind::Comprehension(c) => self.fold(c)?,
        })
    }

    fn ident(&mut self, name: &str) -> Node {
        let root = match self.locals.iter().rposition(|n| n == name) {
            Some(i) => Root::Local(i),
            None if self.names.variable(name).is_some() => Root::Variable(name.to_string()),
            None => match self.names.type_named(name) {
                Some(t) => return Node::Const(Value::Type(t)),
                None => Root::Variable(name.to_string()),
            },
        };
        Node::Attr(Box::new(Attr {
            root,
            path: Vec::new(),
        }))
    }

    /// The expression as an attribute that a path can follow.
    fn attr(&mut self, e: &Expr) -> Result<Attr, EvalError> {
        Ok(match self.node(e)? {
            Node::Attr(a) => *a,
            other => Attr {
                root: Root::Of(other),
                path: Vec::new(),
            },
        })
    }

    fn index(&mut self, args: &[Expr], optional: bool) -> Result<Node, EvalError> {
        let [operand, index] = args else {
            return Err(EvalError::no_overload());
        };
        let mut attr = self.attr(operand)?;
        let step = match self.node(index)? {
            Node::Const(Value::String(s)) => Step::Field(s.as_str().into()),
            Node::Const(v) => Step::Const(v),
            Node::Attr(a) => Step::Attr(*a),
            other => Step::Attr(Attr {
                root: Root::Of(other),
                path: Vec::new(),
            }),
        };
        attr.path.push(Qualifier { step, optional });
        Ok(Node::Attr(Box::new(attr)))
    }

    fn call(
        &mut self,
        e: &Expr,
        function: &str,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Result<Node, EvalError> {
        match function {
            op::INDEX => return self.index(args, false),
            op::OPT_INDEX | op::OPT_SELECT => return self.index(args, true),
            op::CONDITIONAL => {
                let [condition, yes, no] = args else {
                    return Err(EvalError::no_overload());
                };
                let condition = self.node(condition)?;
                let (yes, no) = (self.attr(yes)?, self.attr(no)?);
                let root = Root::Conditional(Box::new(Conditional { condition, yes, no }));
                return Ok(Node::Attr(Box::new(Attr {
                    root,
                    path: Vec::new(),
                })));
            }
            _ => {}
        }
        let planned: Result<Vec<Node>, EvalError> = target
            .into_iter()
            .chain(args)
            .map(|a| self.node(a))
            .collect();
        let planned = planned?;
        let pair = |nodes: Vec<Node>| {
            nodes
                .try_into()
                .map(Box::new)
                .map_err(|_| EvalError::no_overload())
        };
        match function {
            op::AND => return Ok(Node::And(pair(planned)?)),
            op::OR => return Ok(Node::Or(pair(planned)?)),
            op::EQ | op::NE => return Ok(Node::Equal(pair(planned)?, function == op::EQ)),
            _ => {}
        }
        let overload = match self.checked.overloads(e) {
            [one] => one,
            _ => "",
        };
        if overload == "in_list" && matches!(planned.get(1), Some(Node::Const(Value::List(_)))) {
            return Ok(in_const(planned));
        }
        let Some(f) = functions::find(function) else {
            return Err(EvalError::new(format!("no such overload: {function}")));
        };
        if let ([Node::Const(v)], true) = (planned.as_slice(), CONVERSIONS.contains(&function)) {
            return Ok(Node::Const(f(std::slice::from_ref(v))?));
        }
        let rule = Rule::of(function, overload);
        Ok(Node::Call(Box::new(Call {
            function: f,
            rule,
            args: planned,
        })))
    }

    fn fold(&mut self, c: &crate::ast::Comprehension) -> Result<Node, EvalError> {
        let (range, init) = (self.node(&c.range)?, self.node(&c.init)?);
        let accu = self.locals.len();
        self.locals.push(c.accu.clone());
        self.locals.push(c.var.clone());
        self.locals.extend(c.var2.clone());
        let condition = self.node(&c.condition)?;
        let step = self.step(c)?;
        self.locals.truncate(accu + 1);
        let result = self.node(&c.result)?;
        self.locals.truncate(accu);
        Ok(Node::Fold(Box::new(Fold {
            range,
            accu,
            two: c.var2.is_some(),
            init,
            condition,
            step,
            result,
        })))
    }

    /// Macros append to `@result`, which source text cannot name, so nothing else can see the old list.
    fn step(&mut self, c: &crate::ast::Comprehension) -> Result<Step2, EvalError> {
        let is_accu = |e: &Expr| matches!(&e.kind, Kind::Ident(n) if n == crate::macros::ACCU);
        let (filter, inner) = match &c.step.kind {
            Kind::Call {
                function,
                args,
                target: None,
            } if function == op::CONDITIONAL => match args.as_slice() {
                [f, yes, no] if is_accu(no) => (Some(f), yes),
                _ => return Ok(Step2::Any(self.node(&c.step)?)),
            },
            _ => (None, &c.step),
        };
        let Kind::Call {
            function,
            target: None,
            args,
        } = &inner.kind
        else {
            return Ok(Step2::Any(self.node(&c.step)?));
        };
        match (function.as_str(), args.as_slice()) {
            (
                op::ADD,
                [
                    accu,
                    Expr {
                        kind: Kind::List { elems, optional },
                        ..
                    },
                ],
            ) if is_accu(accu) && elems.len() == 1 && optional == &[false] => {
                let filter = filter.map(|f| self.node(f)).transpose()?;
                Ok(Step2::Append {
                    filter,
                    elem: self.node(&elems[0])?,
                })
            }
            (op::MAP_INSERT, [accu, entry @ ..]) if is_accu(accu) => {
                let filter = filter.map(|f| self.node(f)).transpose()?;
                let entry: Result<Vec<Node>, EvalError> =
                    entry.iter().map(|e| self.node(e)).collect();
                Ok(Step2::Insert {
                    filter,
                    entry: entry?,
                })
            }
            _ => Ok(Step2::Any(self.node(&c.step)?)),
        }
    }
}

fn list(elems: Vec<(Node, bool)>) -> Node {
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

fn map(entries: Vec<(Node, Node, bool)>) -> Node {
    let mut out = BTreeMap::new();
    for (k, v, optional) in &entries {
        let (Node::Const(k), Node::Const(v), false) = (k, v, optional) else {
            return Node::Map(entries);
        };
        // a key that cannot be one, or one that comes twice, is told when evaluated
        let Some(key) = Key::of(k).filter(|k| !out.contains_key(k)) else {
            return Node::Map(entries);
        };
        out.insert(key, v.clone());
    }
    Node::Const(Value::map(out))
}

fn in_const(mut planned: Vec<Node>) -> Node {
    let list = planned.pop();
    match (planned.pop(), list) {
        (_, Some(Node::Const(Value::List(l)))) if l.is_empty() => Node::Const(Value::Bool(false)),
        (Some(x), Some(Node::Const(l))) if all_plain(&l) => Node::InConst(Box::new(x), l),
        (Some(x), Some(l)) => Node::Call(Box::new(Call {
            function: functions::contains,
            rule: Rule::of(op::IN, "in_list"),
            args: vec![x, l],
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

/// The paths of fields from variables that an expression uses.
pub(crate) fn references(e: &Expr, names: &Names) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    collect(e, names, &mut Vec::new(), &mut out);
    out.sort();
    out.dedup();
    out
}

fn path_of(e: &Expr) -> Option<Vec<String>> {
    match &e.kind {
        Kind::Ident(n) => Some(vec![n.clone()]),
        Kind::Select { operand, field, .. } => {
            let mut path = path_of(operand)?;
            path.push(field.clone());
            Some(path)
        }
        Kind::Call { function, args, .. } if function == op::OPT_SELECT => match args.as_slice() {
            [
                operand,
                Expr {
                    kind: Kind::Literal(Literal::String(field)),
                    ..
                },
            ] => {
                let mut path = path_of(operand)?;
                path.push(field.clone());
                Some(path)
            }
            _ => None,
        },
        _ => None,
    }
}

fn collect(e: &Expr, names: &Names, locals: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
    if let Some(path) = path_of(e) {
        let local = locals.iter().any(|l| path.first() == Some(l));
        if !local && path.first().is_some_and(|n| names.variable(n).is_some()) {
            out.push(path);
        }
        return;
    }
    match &e.kind {
        Kind::Literal(_) | Kind::Ident(_) => {}
        Kind::Select { operand, .. } => collect(operand, names, locals, out),
        Kind::Call { target, args, .. } => {
            target
                .iter()
                .map(|t| &**t)
                .chain(args)
                .for_each(|a| collect(a, names, locals, out));
        }
        Kind::List { elems, .. } => elems.iter().for_each(|a| collect(a, names, locals, out)),
        Kind::Map(entries) => entries.iter().for_each(|a| {
            collect(&a.key, names, locals, out);
            collect(&a.value, names, locals, out);
        }),
        Kind::Struct { fields, .. } => fields
            .iter()
            .for_each(|f| collect(&f.value, names, locals, out)),
        Kind::Comprehension(c) => {
            collect(&c.range, names, locals, out);
            collect(&c.init, names, locals, out);
            let outside = locals.len();
            locals.push(c.accu.clone());
            locals.push(c.var.clone());
            locals.extend(c.var2.clone());
            collect(&c.condition, names, locals, out);
            collect(&c.step, names, locals, out);
            locals.truncate(outside + 1);
            collect(&c.result, names, locals, out);
            locals.truncate(outside);
        }
    }
}
