//! The type checker. Errors are cel-go's, word for word.

mod calls;

use crate::ast::{Comprehension, Entry, Expr, FieldInit, Kind, Literal, Positions};
use crate::decls::Overload;
use crate::env::Names;
use crate::issue::{Issue, Source};
use crate::types::Type;
use crate::unify::{Mapping, most_general};

/// What checking found out of every node, by its id.
pub(crate) struct Checked {
    pub types: Vec<Type>,
    /// Of calls: the overloads that match. One if the types decide, several if it is decided when evaluated.
    pub overloads: Vec<Vec<&'static str>>,
}

impl Checked {
    pub fn ty(&self, e: &Expr) -> &Type {
        self.types.get(e.id as usize).unwrap_or(&Type::Dyn)
    }
    pub fn overloads(&self, e: &Expr) -> &[&'static str] {
        self.overloads.get(e.id as usize).map_or(&[], Vec::as_slice)
    }
}

struct Checker<'a> {
    names: &'a Names,
    positions: &'a Positions,
    source: Source<'a>,
    types: Vec<Type>,
    overloads: Vec<Vec<&'static str>>,
    mapping: Mapping,
    fresh: usize,
    /// Variables of the comprehensions around, innermost last.
    scopes: Vec<(String, Type)>,
    issues: Vec<Issue>,
}

/// Types all nodes; rewrites qualified names to single identifiers on the way.
pub(crate) fn check(
    e: &mut Expr,
    positions: &Positions,
    text: &str,
    names: &Names,
) -> Result<Checked, Vec<Issue>> {
    let nodes = positions.0.len();
    let mut c = Checker {
        names,
        positions,
        source: Source { text },
        types: vec![Type::Dyn; nodes],
        overloads: vec![Vec::new(); nodes],
        mapping: Mapping::default(),
        fresh: 0,
        scopes: Vec::new(),
        issues: Vec::new(),
    };
    c.check(e);
    if !c.issues.is_empty() {
        return Err(c.issues);
    }
    let types = c
        .types
        .iter()
        .map(|t| c.mapping.substitute(t, true))
        .collect();
    Ok(Checked {
        types,
        overloads: c.overloads,
    })
}

impl Checker<'_> {
    fn report(&mut self, id: u32, message: String) {
        let issue = self.source.issue(self.positions.of(id), message);
        self.issues.push(issue);
    }
    fn mismatch(&mut self, id: u32, expected: &Type, found: &Type) {
        self.report(
            id,
            format!("expected type '{expected}' but found '{found}'"),
        );
    }
    fn undeclared(&mut self, id: u32, name: &str) {
        self.report(
            id,
            format!("undeclared reference to '{name}' (in container '')"),
        );
    }
    fn set(&mut self, id: u32, t: Type) -> Type {
        self.types[id as usize] = t.clone();
        t
    }
    fn new_var(&mut self) -> Type {
        self.fresh += 1;
        Type::Param(format!("_var{}", self.fresh - 1).into())
    }
    fn resolved(&self, t: &Type) -> Type {
        self.mapping.substitute(t, false)
    }

    /// The name without a leading dot, and its type.
    fn lookup(&self, name: &str) -> Option<(String, Type)> {
        let bare = name.strip_prefix('.').unwrap_or(name);
        let local = self
            .scopes
            .iter()
            .rev()
            .find(|(n, _)| n == bare)
            .map(|(_, t)| t.clone());
        let t = local
            .or_else(|| self.names.variable(bare))
            .or_else(|| self.names.type_named(bare).map(Type::type_of))?;
        Some((bare.to_string(), t))
    }
    fn function(&self, name: &str) -> Option<&'static [Overload]> {
        self.names.function(name.strip_prefix('.').unwrap_or(name))
    }

    fn check(&mut self, e: &mut Expr) -> Type {
        let id = e.id;
        let t = match &mut e.kind {
            Kind::Literal(l) => literal_type(l),
            Kind::Ident(_) => return self.check_ident(e),
            Kind::Select { .. } => return self.check_select(e),
            Kind::Call { .. } => return self.check_call(e),
            Kind::List { elems, optional } => self.check_list(elems, optional),
            Kind::Map(entries) => self.check_map(entries),
            Kind::Struct { name, fields } => self.check_struct(id, name, fields),
            Kind::Comprehension(c) => self.check_comprehension(c),
        };
        self.set(id, t)
    }

    #[inline(never)]
    fn check_ident(&mut self, e: &mut Expr) -> Type {
        let id = e.id;
        let Kind::Ident(name) = &mut e.kind else {
            return Type::Error;
        };
        let t = match self.lookup(name) {
            Some((bare, t)) => {
                *name = bare;
                t
            }
            None => {
                let name = name.clone();
                self.undeclared(id, &name);
                Type::Error
            }
        };
        self.set(id, t)
    }

    #[inline(never)]
    fn check_select(&mut self, e: &mut Expr) -> Type {
        if let Some((name, t)) = e.qualified_name().and_then(|q| self.lookup(&q)) {
            e.kind = Kind::Ident(name);
            return self.set(e.id, t);
        }
        let id = e.id;
        let Kind::Select {
            operand,
            field,
            test_only,
        } = &mut e.kind
        else {
            return Type::Error;
        };
        let t = self.check_field(id, operand, field, false);
        let t = if *test_only {
            Type::Bool
        } else {
            self.resolved(&t)
        };
        self.set(id, t)
    }

    fn check_field(&mut self, id: u32, operand: &mut Expr, field: &str, optional: bool) -> Type {
        let t = self.check(operand);
        self.field_type(id, &t, field, optional)
    }

    #[inline(never)]
    fn field_type(&mut self, id: u32, t: &Type, field: &str, optional: bool) -> Type {
        let t = self.resolved(t);
        let (target, was_optional) = match t {
            Type::Optional(inner) => ((*inner).clone(), true),
            t => (t, false),
        };
        let result = match &target {
            Type::Map(_, v) => (**v).clone(),
            Type::Object(o) => match self.names.field_of(o, field) {
                Some(t) => t,
                None => {
                    self.report(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Opaque(n) if n.starts_with("kubernetes.") => {
                self.report(id, format!("undefined field '{field}'"));
                Type::Error
            }
            Type::Param(_) => {
                self.mapping.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            other => {
                if !other.is_dyn_or_error() {
                    self.report(
                        id,
                        format!("type '{other}' does not support field selection"),
                    );
                }
                Type::Dyn
            }
        };
        if was_optional || optional {
            Type::optional(result)
        } else {
            result
        }
    }

    /// The type that covers both.
    fn join(&mut self, before: Option<Type>, t: Type) -> Type {
        match before {
            None => t,
            Some(before) if self.mapping.assignable(&before, &t) => most_general(&before, &t),
            Some(_) => Type::Dyn,
        }
    }

    /// The type in the optional a `?` element must be.
    fn unwrapped(&mut self, id: u32, t: Type) -> Type {
        match t {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn => Type::Dyn,
            other => {
                self.mismatch(id, &Type::optional(other.clone()), &other);
                other
            }
        }
    }

    #[inline(never)]
    fn check_list(&mut self, elems: &mut [Expr], optional: &[bool]) -> Type {
        let mut of = None;
        for (e, optional) in elems.iter_mut().zip(optional) {
            let mut t = self.check(e);
            if *optional {
                t = self.unwrapped(e.id, t);
            }
            of = Some(self.join(of, t));
        }
        let of = of.unwrap_or_else(|| self.new_var());
        Type::list(of)
    }

    #[inline(never)]
    fn check_map(&mut self, entries: &mut [Entry]) -> Type {
        let (mut keys, mut values) = (None, None);
        for e in entries.iter_mut() {
            let t = self.check(&mut e.key);
            keys = Some(self.join(keys, t));
            let mut t = self.check(&mut e.value);
            if e.optional {
                t = self.unwrapped(e.value.id, t);
            }
            values = Some(self.join(values, t));
        }
        let keys = keys.unwrap_or_else(|| self.new_var());
        let values = values.unwrap_or_else(|| self.new_var());
        Type::map(keys, values)
    }

    #[inline(never)]
    fn check_struct(&mut self, id: u32, name: &mut String, fields: &mut [FieldInit]) -> Type {
        let Some((bare, t)) = self.lookup(name) else {
            let name = name.clone();
            self.undeclared(id, &name);
            return Type::Error;
        };
        *name = bare;
        let object = match t {
            Type::Type(Some(t)) => match &*t {
                Type::Object(o) => Some(o.clone()),
                other => {
                    self.report(id, format!("'{}' is not a message type", other.name()));
                    None
                }
            },
            other => {
                self.report(id, format!("'{}' is not a type", other.name()));
                None
            }
        };
        for f in fields.iter_mut() {
            let mut t = self.check(&mut f.value);
            if f.optional {
                t = self.unwrapped(f.value.id, t);
            }
            let Some(o) = &object else { continue };
            let Some(wanted) = self.names.field_of(o, &f.name) else {
                // upstream's JSONPatch has every field, but of no type
                let message = match o.name.as_str() {
                    "JSONPatch" => format!(
                        "expected type of field '{}' is '' but provided type is '{t}'",
                        f.name
                    ),
                    _ => format!("undefined field '{}'", f.name),
                };
                self.report(f.id, message);
                continue;
            };
            if !self.mapping.assignable(&wanted, &t) {
                self.report(
                    f.id,
                    format!(
                        "expected type of field '{}' is '{wanted}' but provided type is '{t}'",
                        f.name
                    ),
                );
            }
        }
        object.map_or(Type::Error, Type::Object)
    }

    #[inline(never)]
    fn check_comprehension(&mut self, c: &mut Comprehension) -> Type {
        let range = self.check(&mut c.range);
        let accu = self.check(&mut c.init);
        let range = self.resolved(&range);
        let (first, second) = match &range {
            Type::List(e) if c.var2.is_some() => (Type::Int, (**e).clone()),
            Type::List(e) => ((**e).clone(), Type::Error),
            Type::Map(k, v) => ((**k).clone(), (**v).clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.mapping.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report(c.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        let outside = self.scopes.len();
        self.scopes.push((c.accu.clone(), accu.clone()));
        self.scopes.push((c.var.clone(), first));
        if let Some(var2) = &c.var2 {
            self.scopes.push((var2.clone(), second));
        }
        let t = self.check(&mut c.condition);
        self.assert(c.condition.id, &Type::Bool, &t);
        let t = self.check(&mut c.step);
        self.assert(c.step.id, &accu, &t);
        self.scopes.truncate(outside + 1);
        let result = self.check(&mut c.result);
        self.scopes.truncate(outside);
        self.resolved(&result)
    }

    fn assert(&mut self, id: u32, wanted: &Type, t: &Type) {
        if !self.mapping.assignable(wanted, t) {
            self.mismatch(id, wanted, t);
        }
    }
}

fn literal_type(l: &Literal) -> Type {
    match l {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
