//! What an expression may cost at worst, before it is ever evaluated: cel-go's `checker/cost.go` with the Kubernetes
//! estimator over it (k8s.io/apiserver/pkg/cel/library/cost.go). CustomResourceDefinitions are refused by these numbers,
//! so each rule follows upstream even where it is odd.

mod calls;

use std::collections::HashMap;

use crate::ast::{Comprehension, Entry, Expr, Kind, Literal};
use crate::check::Checked;
use crate::env::Names;
use crate::types::Type;

/// The least and the most an evaluation may cost, in cost units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CostEstimate {
    pub min: u64,
    pub max: u64,
}

/// A range of sizes: characters, bytes, items, entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub min: u64,
    pub max: u64,
}

pub(crate) const UNKNOWN: Size = Size {
    min: 0,
    max: u64::MAX,
};

fn scale(x: u64, factor: f64) -> u64 {
    let x = x as f64;
    if x > 0.0 && factor > 0.0 && x > u64::MAX as f64 / factor {
        return u64::MAX;
    }
    // `as` saturates
    (x * factor).ceil() as u64
}

impl CostEstimate {
    pub(crate) const fn fixed(n: u64) -> CostEstimate {
        CostEstimate { min: n, max: n }
    }
    /// Saturating.
    pub fn plus(self, o: CostEstimate) -> CostEstimate {
        CostEstimate {
            min: self.min.saturating_add(o.min),
            max: self.max.saturating_add(o.max),
        }
    }
    fn times(self, o: CostEstimate) -> CostEstimate {
        CostEstimate {
            min: self.min.saturating_mul(o.min),
            max: self.max.saturating_mul(o.max),
        }
    }
    fn by_factor(self, f: f64) -> CostEstimate {
        CostEstimate {
            min: scale(self.min, f),
            max: scale(self.max, f),
        }
    }
    fn union(self, o: CostEstimate) -> CostEstimate {
        CostEstimate {
            min: self.min.min(o.min),
            max: self.max.max(o.max),
        }
    }
}

impl Size {
    pub(crate) const fn fixed(n: u64) -> Size {
        Size { min: n, max: n }
    }
    fn plus(self, o: Size) -> Size {
        Size {
            min: self.min.saturating_add(o.min),
            max: self.max.saturating_add(o.max),
        }
    }
    fn times(self, o: Size) -> Size {
        Size {
            min: self.min.saturating_mul(o.min),
            max: self.max.saturating_mul(o.max),
        }
    }
    fn union(self, o: Size) -> Size {
        Size {
            min: self.min.min(o.min),
            max: self.max.max(o.max),
        }
    }
    fn cost(self, factor: f64) -> CostEstimate {
        CostEstimate {
            min: scale(self.min, factor),
            max: scale(self.max, factor),
        }
    }
    fn of_cost(self, c: CostEstimate) -> CostEstimate {
        CostEstimate {
            min: self.min.saturating_mul(c.min),
            max: self.max.saturating_mul(c.max),
        }
    }
}

/// What is known of the entries of a list or map.
#[derive(Debug, Clone, Copy)]
struct Entries {
    list: bool,
    key: Size,
    value: Size,
}

fn union_entries(a: Option<Entries>, b: Option<Entries>) -> Option<Entries> {
    let (a, b) = (a?, b?);
    Some(Entries {
        list: a.list,
        key: a.key.union(b.key),
        value: a.value.union(b.value),
    })
}

#[derive(Clone)]
struct Local {
    name: String,
    path: Vec<String>,
    size: Option<Size>,
    entries: Option<Entries>,
}

struct Coster<'a> {
    checked: &'a Checked,
    names: &'a Names,
    paths: HashMap<u32, Vec<String>>,
    locals: Vec<Local>,
    sizes: HashMap<u32, Size>,
    entries: HashMap<u32, Entries>,
}

pub(crate) fn estimate(e: &Expr, checked: &Checked, names: &Names) -> CostEstimate {
    let mut c = Coster {
        checked,
        names,
        paths: HashMap::new(),
        locals: Vec::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
    };
    c.cost(e)
}

impl Coster<'_> {
    fn cost(&mut self, e: &Expr) -> CostEstimate {
        match &e.kind {
            Kind::Literal(_) => CostEstimate::default(),
            Kind::Ident(name) => {
                let path = self
                    .local(name)
                    .map_or_else(|| vec![name.clone()], |l| l.path.clone());
                self.paths.insert(e.id, path);
                CostEstimate::fixed(1)
            }
            Kind::Select {
                operand,
                test_only: true,
                ..
            } => self.cost(operand),
            Kind::Select { operand, field, .. } => self.select(e, operand, field),
            Kind::Call {
                function,
                target,
                args,
            } => self.call(e, function, target.as_deref(), args),
            Kind::List { elems, .. } => self.list(e, elems),
            Kind::Map(entries) => self.map(e, entries),
            Kind::Struct { fields, .. } => {
                let mut sum = CostEstimate::fixed(40);
                for f in fields {
                    sum = sum.plus(self.cost(&f.value));
                }
                sum
            }
            Kind::Comprehension(c) if is_bind(c) => self.bind(e, c),
            Kind::Comprehension(c) => self.comprehension(e, c),
        }
    }

    #[inline(never)]
    fn select(&mut self, e: &Expr, operand: &Expr, field: &str) -> CostEstimate {
        let mut sum = self.cost(operand);
        if matches!(
            self.checked.ty(operand),
            Type::Map(..) | Type::Object(_) | Type::Param(_)
        ) {
            sum = sum.plus(CostEstimate::fixed(1));
        }
        let mut path = self.path(operand);
        path.push(field.to_string());
        self.paths.insert(e.id, path);
        sum
    }

    #[inline(never)]
    fn list(&mut self, e: &Expr, elems: &[Expr]) -> CostEstimate {
        let mut sum = CostEstimate::fixed(10);
        let mut item = Size {
            min: if elems.is_empty() { 0 } else { u64::MAX },
            max: 0,
        };
        for x in elems {
            sum = sum.plus(self.cost(x));
            item = item.union(self.size_or_unknown(x));
        }
        self.entries.insert(
            e.id,
            Entries {
                list: true,
                key: Size::fixed(1),
                value: item,
            },
        );
        sum
    }

    #[inline(never)]
    fn map(&mut self, e: &Expr, entries: &[Entry]) -> CostEstimate {
        let mut sum = CostEstimate::fixed(30);
        let empty = Size {
            min: if entries.is_empty() { 0 } else { u64::MAX },
            max: 0,
        };
        let (mut key, mut value) = (empty, empty);
        for x in entries {
            sum = sum.plus(self.cost(&x.key)).plus(self.cost(&x.value));
            key = key.union(self.size_or_unknown(&x.key));
            value = value.union(self.size_or_unknown(&x.value));
        }
        self.entries.insert(
            e.id,
            Entries {
                list: false,
                key,
                value,
            },
        );
        sum
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|l| l.name == name)
    }
    fn path(&self, e: &Expr) -> Vec<String> {
        if let Kind::Ident(name) = &e.kind
            && let Some(l) = self.local(name)
        {
            return l.path.clone();
        }
        self.paths.get(&e.id).cloned().unwrap_or_default()
    }

    /// The size of a node as cel-go's estimator works it out; the order of the sources matters.
    fn size(&mut self, e: &Expr) -> Option<Size> {
        if let Some(s) = self.sizes.get(&e.id) {
            return Some(*s);
        }
        match &e.kind {
            Kind::Literal(Literal::String(s)) => {
                return Some(Size::fixed(s.chars().count() as u64));
            }
            Kind::Literal(Literal::Bytes(b)) => return Some(Size::fixed(b.len() as u64)),
            Kind::Literal(_) => return Some(Size::fixed(1)),
            Kind::List { elems, .. } => return Some(Size::fixed(elems.len() as u64)),
            Kind::Map(m) => return Some(Size::fixed(m.len() as u64)),
            _ => {}
        }
        if let Some(max) = self.names.max_elements(&self.path(e)) {
            self.sizes.insert(e.id, Size { min: 0, max });
            return Some(Size { min: 0, max });
        }
        if is_scalar(self.checked.ty(e)) {
            return Some(Size::fixed(1));
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name).and_then(|l| l.size),
            _ => None,
        }
    }
    fn size_or_unknown(&mut self, e: &Expr) -> Size {
        self.size(e).unwrap_or(UNKNOWN)
    }
    fn entries_of(&self, e: &Expr) -> Option<Entries> {
        if let Some(x) = self.entries.get(&e.id) {
            return Some(*x);
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name).and_then(|l| l.entries),
            _ => None,
        }
    }
    fn copy_sizes(&mut self, to: &Expr, from: &Expr) {
        if let Some(s) = self.size(from) {
            self.sizes.insert(to.id, s);
        }
        if let Some(x) = self.entries_of(from) {
            self.entries.insert(to.id, x);
        }
    }

    fn push(
        &mut self,
        name: &str,
        mut path: Vec<String>,
        below: Option<&str>,
        size: Option<Size>,
        entries: Option<Entries>,
    ) {
        path.extend(below.map(String::from));
        self.locals.push(Local {
            name: name.to_string(),
            path,
            size,
            entries,
        });
    }
    fn push_same(&mut self, name: &str, e: &Expr) {
        let (path, size, entries) = (self.path(e), self.size(e), self.entries_of(e));
        self.push(name, path, None, size, entries);
    }
    fn push_variables(&mut self, c: &Comprehension) {
        let entries = self.entries_of(&c.range);
        let list = entries.map_or(matches!(self.checked.ty(&c.range), Type::List(_)), |e| {
            e.list
        });
        let (key, value) = (entries.map(|e| e.key), entries.map(|e| e.value));
        let path = self.path(&c.range);
        match &c.var2 {
            Some(var2) => {
                let (keys, values) = if list {
                    ("@indices", "@items")
                } else {
                    ("@keys", "@values")
                };
                self.push(&c.var, path.clone(), Some(keys), key, None);
                self.push(var2, path, Some(values), value, None);
            }
            None if list => self.push(&c.var, path, Some("@items"), value, None),
            None => self.push(&c.var, path, Some("@keys"), key, None),
        }
    }

    #[inline(never)]
    fn comprehension(&mut self, e: &Expr, c: &Comprehension) -> CostEstimate {
        let mut sum = self.cost(&c.range).plus(self.cost(&c.init));
        let outside = self.locals.len();
        self.push_same(&c.accu, &c.init);
        self.push_variables(c);
        let round = self.cost(&c.condition).plus(self.cost(&c.step));
        self.locals.truncate(outside + 1);
        sum = sum.plus(self.cost(&c.result));
        self.locals.truncate(outside);
        let count = self.size_or_unknown(&c.range);
        sum = sum.plus(count.of_cost(round));
        match &c.init.kind {
            Kind::Literal(_) => {
                if let Some(s) = self.size(&c.init) {
                    self.sizes.insert(e.id, s);
                }
            }
            Kind::List { .. } | Kind::Map(_) => {
                self.sizes.insert(e.id, count);
                if let Some(x) = self.entries_of(&c.step) {
                    self.entries.insert(e.id, x);
                }
            }
            _ => {}
        }
        sum
    }

    #[inline(never)]
    fn bind(&mut self, e: &Expr, c: &Comprehension) -> CostEstimate {
        let mut sum = self.cost(&c.range).plus(self.cost(&c.init));
        let outside = self.locals.len();
        self.push_same(&c.accu, &c.init);
        sum = sum.plus(self.cost(&c.result));
        self.locals.truncate(outside);
        self.copy_sizes(e, &c.result);
        sum
    }

    fn call(
        &mut self,
        e: &Expr,
        function: &str,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> CostEstimate {
        if let ("dyn", [arg]) = (function, args) {
            let cost = self.cost(arg);
            self.copy_sizes(e, arg);
            return CostEstimate::fixed(1).plus(cost);
        }
        let mut costs = Vec::with_capacity(args.len());
        for a in args {
            costs.push(self.cost(a));
        }
        for a in args {
            self.size(a);
        }
        if self.checked.overloads(e).is_empty() {
            return CostEstimate::default();
        }
        let mut sum = CostEstimate::default();
        if let Some(t) = target {
            sum = self.cost(t);
        }
        sum.plus(self.overloads(e, function, target, args, &costs))
    }

    /// The range that covers all overloads a call may come to.
    #[inline(never)]
    fn overloads(
        &mut self,
        e: &Expr,
        function: &str,
        target: Option<&Expr>,
        args: &[Expr],
        costs: &[CostEstimate],
    ) -> CostEstimate {
        let overloads = self.checked.overloads(e);
        let mut cost = CostEstimate {
            min: u64::MAX,
            max: 0,
        };
        let mut result: Option<Size> = None;
        for overload in overloads.iter().copied() {
            let (c, size) = self.overload(e, function, overload, target, args, costs);
            cost = cost.union(c);
            result = match (result, size) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            if let ("index_list" | "index_map", Some(of)) = (overload, args.first()) {
                result = self.entries_of(of).map(|e| e.value);
                let mut path = self.path(of);
                path.push(
                    if overload == "index_list" {
                        "@items"
                    } else {
                        "@values"
                    }
                    .to_string(),
                );
                self.paths.insert(e.id, path);
            }
            if result.is_none() {
                result = self.size(e);
            }
        }
        if let Some(s) = result {
            self.sizes.insert(e.id, s);
        }
        cost
    }
}

/// `cel.bind` and what is made like it: nothing is iterated.
fn is_bind(c: &Comprehension) -> bool {
    matches!(&c.range.kind, Kind::List { elems, .. } if elems.is_empty())
        && matches!(c.condition.kind, Kind::Literal(Literal::Bool(false)))
        && c.accu != crate::macros::ACCU
}

fn is_scalar(t: &Type) -> bool {
    match t {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => {
            true
        }
        Type::Optional(of) => is_scalar(of),
        _ => false,
    }
}
