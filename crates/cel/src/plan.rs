//! A checked tree made ready to evaluate: names resolved, constants folded, functions found. The shape is that of
//! cel-go's planner, because what an evaluation costs is counted by it.

mod constants;
mod references;

use constants::{in_const, list, map, searched};
pub(crate) use references::references;

use crate::ast::{Entry, Expr, FieldInit, Kind, Literal, op};
use crate::check::Checked;
use crate::env::Names;
use crate::error::EvalError;
use crate::functions::{self, Function, regexes};
use crate::ops;
use crate::runtime_cost::Rule;
use crate::types::{ObjectType, Type};
use crate::value::Value;
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
    /// `a.or(b)`, `a.orValue(b)`: costs nothing itself; the other side is only evaluated if it is needed.
    OrElse(Box<[Node; 2]>, Unwrap),
    Call(Box<Call>),
    Search(Box<Search>),
    /// `x in [constants]`.
    InConst(Box<Node>, Value<'static>),
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Struct(Arc<ObjectType>, Vec<(String, Node, bool)>),
    Fold(Box<Fold>),
}

/// Whether what is in the optional is wanted (`orValue`) or the optional (`or`).
pub(crate) type Unwrap = bool;

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
    /// Types left several overloads: arguments are evaluated only up to the first error.
    pub dispatched: bool,
    /// What a mismatch of types is called: `no such overload: name(types)`.
    pub name: Option<Box<str>>,
}

/// A text against a constant regular expression.
pub(crate) struct Search {
    pub text: Node,
    pub regex: regexes::Pattern,
    /// The expression as written; costs are counted by its length.
    pub pattern: Value<'static>,
    pub kind: regexes::Kind,
    pub rule: Rule,
    /// How many finds are wanted.
    pub limit: Option<Node>,
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

impl Call {
    /// Names the function and its arguments in the error of a mismatch, where cel-go does.
    pub fn named(&self, e: EvalError, args: &[Value<'_>]) -> EvalError {
        let Some(name) = self.name.as_deref().filter(|_| e.is_no_overload()) else {
            return e;
        };
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            // texts and times have functions of their own, which is where cel-go looks before it gives up
            let able = args.first().is_none_or(|v| {
                ops::supports(v, name)
                    || matches!(
                        v,
                        Value::String(_) | Value::Duration(_) | Value::Timestamp(_)
                    )
            });
            return if able {
                e
            } else {
                EvalError::new(format!("no such overload: {name}"))
            };
        }
        if name == "size" {
            return EvalError::new("no such overload: size");
        }
        let types: Vec<Type> = args.iter().map(Value::type_of).collect();
        let types: Vec<&str> = types.iter().map(Type::name).collect();
        EvalError::new(format!("no such overload: {name}({})", types.join(", ")))
    }
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
            Kind::List { elems, optional } => self.list(elems, optional)?,
            Kind::Map(entries) => self.map(entries)?,
            Kind::Struct { name, fields } => self.object(name, fields)?,
            Kind::Comprehension(c) => self.fold(c)?,
        })
    }

    #[inline(never)]
    fn list(&mut self, elems: &[Expr], optional: &[bool]) -> Result<Node, EvalError> {
        let mut out = Vec::with_capacity(elems.len());
        for (e, optional) in elems.iter().zip(optional) {
            out.push((self.node(e)?, *optional));
        }
        Ok(list(out))
    }

    #[inline(never)]
    fn map(&mut self, entries: &[Entry]) -> Result<Node, EvalError> {
        let mut out = Vec::with_capacity(entries.len());
        for e in entries {
            out.push((self.node(&e.key)?, self.node(&e.value)?, e.optional));
        }
        Ok(map(out))
    }

    #[inline(never)]
    fn object(&mut self, name: &str, fields: &[FieldInit]) -> Result<Node, EvalError> {
        let Some(Type::Object(o)) = self.names.type_named(name) else {
            return Err(EvalError::new(format!("unknown type: {name}")));
        };
        let mut out = Vec::with_capacity(fields.len());
        for f in fields {
            out.push((f.name.clone(), self.node(&f.value)?, f.optional));
        }
        Ok(Node::Struct(o, out))
    }

    #[inline(never)]
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
    #[inline(never)]
    fn attr(&mut self, e: &Expr) -> Result<Attr, EvalError> {
        Ok(match self.node(e)? {
            Node::Attr(a) => *a,
            other => Attr {
                root: Root::Of(other),
                path: Vec::new(),
            },
        })
    }

    #[inline(never)]
    fn index(&mut self, args: &[Expr], optional: bool) -> Result<Node, EvalError> {
        let [operand, index] = args else {
            return Err(EvalError::no_overload());
        };
        let mut attr = self.attr(operand)?;
        let step = match self.node(index)? {
            Node::Const(Value::String(s)) => Step::Field(s.as_str().into()),
            Node::Const(Value::Bytes(_)) => {
                return Err(EvalError::new("invalid qualifier type: types.Bytes"));
            }
            Node::Const(Value::Null) => {
                return Err(EvalError::new("invalid qualifier type: types.Null"));
            }
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

    #[inline(never)]
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
            op::CONDITIONAL => return self.conditional(args),
            _ => {}
        }
        let mut planned = Vec::with_capacity(args.len() + 1);
        if let Some(t) = target {
            planned.push(self.node(t)?);
        }
        for a in args {
            planned.push(self.node(a)?);
        }
        self.called(e, function, planned)
    }

    #[inline(never)]
    fn conditional(&mut self, args: &[Expr]) -> Result<Node, EvalError> {
        let [condition, yes, no] = args else {
            return Err(EvalError::no_overload());
        };
        let condition = self.node(condition)?;
        let (yes, no) = (self.attr(yes)?, self.attr(no)?);
        let root = Root::Conditional(Box::new(Conditional { condition, yes, no }));
        Ok(Node::Attr(Box::new(Attr {
            root,
            path: Vec::new(),
        })))
    }

    /// A call whose arguments are planned.
    #[inline(never)]
    fn called(
        &mut self,
        e: &Expr,
        function: &str,
        mut planned: Vec<Node>,
    ) -> Result<Node, EvalError> {
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
            "or" | "orValue" => return Ok(Node::OrElse(pair(planned)?, function == "orValue")),
            _ => {}
        }
        let overload = match self.checked.overloads(e) {
            [one] => one,
            _ => "",
        };
        if overload == "in_list" && matches!(planned.get(1), Some(Node::Const(Value::List(_)))) {
            return Ok(in_const(planned));
        }
        if let Some(search) = searched(function, overload, &mut planned)? {
            return Ok(Node::Search(Box::new(search)));
        }
        let found = functions::overloaded(overload).or_else(|| functions::find(function));
        let Some(f) = found else {
            return Err(EvalError::new(format!("no such overload: {function}")));
        };
        let operator = !function.starts_with(|c: char| c.is_ascii_alphabetic());
        let own = matches!(function, "startsWith" | "endsWith" | "contains" | "matches");
        let singleton = operator || own || function == "size";
        let call = Call {
            function: f,
            rule: Rule::of(function, overload),
            args: planned,
            dispatched: overload.is_empty() && !singleton,
            name: (!own).then(|| function.into()),
        };
        if let ([Node::Const(v)], true) = (call.args.as_slice(), CONVERSIONS.contains(&function)) {
            let args = std::slice::from_ref(v);
            let result = f(args).map_err(|e| call.named(e, args))?;
            return Ok(Node::Const(result));
        }
        Ok(Node::Call(Box::new(call)))
    }

    #[inline(never)]
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
    #[inline(never)]
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
