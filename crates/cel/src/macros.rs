//! Macros: calls that are rewritten to comprehensions while parsing, exactly as cel-go rewrites them.

use crate::ast::{Comprehension, Expr, Kind, Literal, op};
use crate::parser::Parser;

/// The accumulator's name. No source text can spell it.
pub(crate) const ACCU: &str = "@result";
/// The name users may not take for an iteration variable either.
const OLD_ACCU: &str = "__result__";
/// The iteration variable of comprehensions over nothing, which only bind a name.
pub(crate) const UNUSED: &str = "#unused";
const SORT_INPUT: &str = "@__sortBy_input__";

/// Builds nodes that all stand at the macro's place.
struct Maker<'p, 's> {
    parser: &'p mut Parser<'s>,
    at: u32,
}

impl Maker<'_, '_> {
    fn node(&mut self, kind: Kind) -> Expr {
        self.parser.node(self.at, kind)
    }
    fn bool(&mut self, b: bool) -> Expr {
        self.node(Kind::Literal(Literal::Bool(b)))
    }
    fn int(&mut self, i: i64) -> Expr {
        self.node(Kind::Literal(Literal::Int(i)))
    }
    fn ident(&mut self, name: &str) -> Expr {
        self.node(Kind::Ident(name.to_string()))
    }
    fn accu(&mut self) -> Expr {
        self.ident(ACCU)
    }
    fn list(&mut self, elems: Vec<Expr>) -> Expr {
        let optional = vec![false; elems.len()];
        self.node(Kind::List { elems, optional })
    }
    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call {
            function: function.to_string(),
            target: None,
            args,
        })
    }
    fn member(&mut self, function: &str, target: Expr, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call {
            function: function.to_string(),
            target: Some(Box::new(target)),
            args,
        })
    }
    fn fold(
        &mut self,
        range: Expr,
        vars: Vars,
        [init, condition, step, result]: [Expr; 4],
    ) -> Expr {
        let Vars(var, var2) = vars;
        let accu = ACCU.to_string();
        self.node(Kind::Comprehension(Box::new(Comprehension {
            range,
            var,
            var2,
            accu,
            init,
            condition,
            step,
            result,
        })))
    }
    /// `name = value; body`.
    fn bind(&mut self, name: &str, value: Expr, body: Expr) -> Expr {
        let (range, condition, step) = (self.list(Vec::new()), self.bool(false), self.ident(name));
        let (var, accu) = (UNUSED.to_string(), name.to_string());
        let c = Comprehension {
            range,
            var,
            var2: None,
            accu,
            init: value,
            condition,
            step,
            result: body,
        };
        self.node(Kind::Comprehension(Box::new(c)))
    }
    /// The same tree with places of its own.
    fn copy(&mut self, e: &Expr) -> Expr {
        let mut e = e.clone();
        self.renumber(&mut e);
        e
    }
    fn renumber(&mut self, e: &mut Expr) {
        let positions = &mut self.parser.positions;
        e.id = positions.new_id(positions.of(e.id));
        match &mut e.kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => self.renumber(operand),
            Kind::Call { target, args, .. } => {
                target.iter_mut().for_each(|t| self.renumber(t));
                args.iter_mut().for_each(|a| self.renumber(a));
            }
            Kind::List { elems, .. } => elems.iter_mut().for_each(|x| self.renumber(x)),
            Kind::Map(entries) => entries.iter_mut().for_each(|x| {
                self.renumber(&mut x.key);
                self.renumber(&mut x.value);
            }),
            Kind::Struct { fields, .. } => {
                fields.iter_mut().for_each(|f| self.renumber(&mut f.value))
            }
            Kind::Comprehension(c) => {
                for x in [
                    &mut c.range,
                    &mut c.init,
                    &mut c.condition,
                    &mut c.step,
                    &mut c.result,
                ] {
                    self.renumber(x);
                }
            }
        }
    }
}

/// The one or two iteration variables.
struct Vars(String, Option<String>);

/// A call as written, or what the macro of that name and shape makes of it.
pub(crate) fn expand(
    parser: &mut Parser<'_>,
    at: u32,
    name: &str,
    target: Option<Expr>,
    args: Vec<Expr>,
) -> Expr {
    let mut m = Maker { parser, at };
    let Some(target) = target else {
        return match (name, args.len()) {
            ("has", 1) => has(&mut m, args),
            _ => m.call(name, args),
        };
    };
    match (name, args.len()) {
        ("all", 2 | 3) => quantifier(&mut m, target, args, Quantifier::All),
        ("exists", 2 | 3) => quantifier(&mut m, target, args, Quantifier::Exists),
        ("exists_one", 2 | 3) | ("existsOne", 3) => {
            quantifier(&mut m, target, args, Quantifier::One)
        }
        ("map", 2 | 3) => map(&mut m, target, args),
        ("filter", 2) => filter(&mut m, target, args),
        ("optMap", 2) => opt_map(&mut m, target, args, true),
        ("optFlatMap", 2) => opt_map(&mut m, target, args, false),
        ("transformList", 3 | 4) => transform(&mut m, target, args, Transform::List),
        ("transformMap", 3 | 4) => transform(&mut m, target, args, Transform::Map),
        ("transformMapEntry", 3 | 4) => transform(&mut m, target, args, Transform::Entry),
        ("sortBy", 2) => sort_by(&mut m, target, args),
        _ => m.member(name, target, args),
    }
}

fn has(m: &mut Maker<'_, '_>, mut args: Vec<Expr>) -> Expr {
    match args.pop() {
        Some(Expr {
            kind: Kind::Select { operand, field, .. },
            ..
        }) => m.node(Kind::Select {
            operand,
            field,
            test_only: true,
        }),
        other => {
            let at = other.map_or(m.at, |e| m.parser.positions.of(e.id));
            m.parser.error(at, "invalid argument to has() macro")
        }
    }
}

enum Quantifier {
    All,
    Exists,
    One,
}

/// The variables named by the arguments, or the error that says which is no name.
fn vars(m: &mut Maker<'_, '_>, args: &[Expr], not_a_name: &str) -> Result<Vars, Expr> {
    let mut names = Vec::new();
    for a in args {
        let at = m.parser.positions.of(a.id);
        match &a.kind {
            Kind::Ident(n) if names.contains(n) => {
                return Err(m.parser.error(at, format!("duplicate variable name: {n}")));
            }
            Kind::Ident(n) if n == ACCU || n == OLD_ACCU => {
                return Err(m
                    .parser
                    .error(at, "iteration variable overwrites accumulator variable"));
            }
            Kind::Ident(n) => names.push(n.clone()),
            _ => return Err(m.parser.error(at, not_a_name)),
        }
    }
    let mut names = names.into_iter();
    // callers pass one or two arguments
    Ok(Vars(names.next().unwrap_or_default(), names.next()))
}

fn quantifier(m: &mut Maker<'_, '_>, target: Expr, mut args: Vec<Expr>, which: Quantifier) -> Expr {
    let Some(predicate) = args.pop() else {
        return target;
    };
    let vars = match vars(m, &args, "argument must be a simple name") {
        Ok(v) => v,
        Err(e) => return e,
    };
    let parts = match which {
        Quantifier::All => {
            let (init, accu) = (m.bool(true), m.accu());
            let condition = m.call(op::NOT_STRICTLY_FALSE, vec![accu]);
            let accu = m.accu();
            [
                init,
                condition,
                m.call(op::AND, vec![accu, predicate]),
                m.accu(),
            ]
        }
        Quantifier::Exists => {
            let (init, accu) = (m.bool(false), m.accu());
            let not = m.call(op::NOT, vec![accu]);
            let condition = m.call(op::NOT_STRICTLY_FALSE, vec![not]);
            let accu = m.accu();
            [
                init,
                condition,
                m.call(op::OR, vec![accu, predicate]),
                m.accu(),
            ]
        }
        Quantifier::One => {
            let (init, condition) = (m.int(0), m.bool(true));
            let (accu, one) = (m.accu(), m.int(1));
            let more = m.call(op::ADD, vec![accu, one]);
            let same = m.accu();
            let step = m.call(op::CONDITIONAL, vec![predicate, more, same]);
            let (accu, one) = (m.accu(), m.int(1));
            [init, condition, step, m.call(op::EQ, vec![accu, one])]
        }
    };
    m.fold(target, vars, parts)
}

/// `accu + [elem]`, if the filter lets it.
fn append(m: &mut Maker<'_, '_>, elem: Expr, filter: Option<Expr>) -> [Expr; 4] {
    let (init, condition) = (m.list(Vec::new()), m.bool(true));
    let (accu, list) = (m.accu(), m.list(vec![elem]));
    let mut step = m.call(op::ADD, vec![accu, list]);
    if let Some(f) = filter {
        let same = m.accu();
        step = m.call(op::CONDITIONAL, vec![f, step, same]);
    }
    [init, condition, step, m.accu()]
}

fn map(m: &mut Maker<'_, '_>, target: Expr, mut args: Vec<Expr>) -> Expr {
    let Some(elem) = args.pop() else {
        return target;
    };
    let filter = if args.len() == 2 { args.pop() } else { None };
    let vars = match vars(m, &args, "argument is not an identifier") {
        Ok(v) => v,
        Err(e) => return e,
    };
    let parts = append(m, elem, filter);
    m.fold(target, vars, parts)
}

fn filter(m: &mut Maker<'_, '_>, target: Expr, mut args: Vec<Expr>) -> Expr {
    let Some(predicate) = args.pop() else {
        return target;
    };
    let vars = match vars(m, &args, "argument is not an identifier") {
        Ok(v) => v,
        Err(e) => return e,
    };
    let Some(var) = args.pop() else { return target };
    let parts = append(m, var, Some(predicate));
    m.fold(target, vars, parts)
}

fn opt_map(m: &mut Maker<'_, '_>, target: Expr, mut args: Vec<Expr>, wrap: bool) -> Expr {
    let (Some(body), Some(var)) = (args.pop(), args.pop()) else {
        return target;
    };
    let Kind::Ident(name) = var.kind else {
        let at = m.parser.positions.of(var.id);
        let which = if wrap { "optMap" } else { "optFlatMap" };
        return m.parser.error(
            at,
            format!("{which}() variable name must be a simple identifier"),
        );
    };
    let again = m.copy(&target);
    let has = m.member("hasValue", target, Vec::new());
    let value = m.member("value", again, Vec::new());
    let mut bound = m.bind(&name, value, body);
    if wrap {
        bound = m.call("optional.of", vec![bound]);
    }
    let none = m.call("optional.none", Vec::new());
    m.call(op::CONDITIONAL, vec![has, bound, none])
}

enum Transform {
    List,
    Map,
    Entry,
}

fn transform(m: &mut Maker<'_, '_>, target: Expr, mut args: Vec<Expr>, which: Transform) -> Expr {
    let Some(body) = args.pop() else {
        return target;
    };
    let filter = if args.len() == 3 { args.pop() } else { None };
    let vars = match vars(m, &args, "argument must be a simple name") {
        Ok(v) => v,
        Err(e) => return e,
    };
    if let Transform::List = which {
        let parts = append(m, body, filter);
        return m.fold(target, vars, parts);
    }
    let (init, condition, accu) = (m.node(Kind::Map(Vec::new())), m.bool(true), m.accu());
    let inserted = match which {
        Transform::Entry => vec![accu, body],
        _ => {
            let key = m.ident(&vars.0);
            vec![accu, key, body]
        }
    };
    let mut step = m.call(op::MAP_INSERT, inserted);
    if let Some(f) = filter {
        let same = m.accu();
        step = m.call(op::CONDITIONAL, vec![f, step, same]);
    }
    let result = m.accu();
    m.fold(target, vars, [init, condition, step, result])
}

fn sort_by(m: &mut Maker<'_, '_>, target: Expr, args: Vec<Expr>) -> Expr {
    if matches!(
        target.kind,
        Kind::Literal(_) | Kind::Map(_) | Kind::Struct { .. }
    ) {
        let at = m.parser.positions.of(target.id);
        let what = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
        return m.parser.error(at, what);
    }
    let (input, again) = (m.ident(SORT_INPUT), m.ident(SORT_INPUT));
    let keys = map(m, again, args);
    let sorted = m.member("@sortByAssociatedKeys", input, vec![keys]);
    m.bind(SORT_INPUT, target, sorted)
}
