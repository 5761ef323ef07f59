//! Which type may stand for which: cel-go's assignability, with type variables.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::Type;

/// What type variables stand for so far.
#[derive(Debug, Default)]
pub(crate) struct Mapping {
    bound: HashMap<Arc<str>, Type>,
    /// What bindings replaced, so that a failed attempt can be undone without copying the map for each attempt.
    trail: Vec<(Arc<str>, Option<Type>)>,
}

impl Mapping {
    fn find(&self, t: &Type) -> Option<&Type> {
        match t {
            Type::Param(name) => self.bound.get(name),
            _ => None,
        }
    }
    pub fn add(&mut self, param: &Type, t: Type) {
        if let Type::Param(name) = param {
            let before = self.bound.insert(name.clone(), t);
            self.trail.push((name.clone(), before));
        }
    }
    /// Keeps what an attempt bound, or undoes it.
    fn settle(&mut self, ok: bool) -> bool {
        while let Some((name, before)) = self.trail.pop() {
            match before.filter(|_| !ok) {
                Some(t) => {
                    self.bound.insert(name, t);
                }
                None if !ok => {
                    self.bound.remove(&name);
                }
                None => {}
            }
        }
        ok
    }

    /// Replaces bound variables; unbound ones become `dyn` if asked.
    pub fn substitute(&self, t: &Type, unbound_is_dyn: bool) -> Type {
        if let Some(bound) = self.find(t) {
            return self.substitute(bound, unbound_is_dyn);
        }
        let inner = |t: &Arc<Type>| Arc::new(self.substitute(t, unbound_is_dyn));
        match t {
            Type::Param(_) if unbound_is_dyn => Type::Dyn,
            Type::List(e) => Type::List(inner(e)),
            Type::Map(k, v) => Type::Map(inner(k), inner(v)),
            Type::Optional(o) => Type::Optional(inner(o)),
            Type::Type(Some(o)) => Type::Type(Some(inner(o))),
            other => other.clone(),
        }
    }

    /// Whether values of `a` may be used where `b` is wanted; remembers what variables came to stand for if so.
    pub fn assignable(&mut self, a: &Type, b: &Type) -> bool {
        self.trail.clear();
        let ok = self.try_assign(a, b);
        self.settle(ok)
    }

    /// The same for lists of arguments, all or none.
    pub fn all_assignable(&mut self, a: &[Type], b: &[Type]) -> bool {
        self.trail.clear();
        let ok = self.try_assign_all(&a.iter().collect::<Vec<_>>(), &b.iter().collect::<Vec<_>>());
        self.settle(ok)
    }

    fn try_assign_all(&mut self, a: &[&Type], b: &[&Type]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.try_assign(a, b))
    }

    fn try_assign(&mut self, a: &Type, b: &Type) -> bool {
        if matches!(b, Type::Param(_)) {
            let (valid, bound) = self.stands_for(a, b);
            if valid || bound {
                return valid;
            }
        }
        if matches!(a, Type::Param(_)) {
            return self.stands_for(b, a).0;
        }
        if a.is_dyn_or_error() || b.is_dyn_or_error() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => {
                matches!(
                    other,
                    Type::Null
                        | Type::Optional(_)
                        | Type::Opaque(_)
                        | Type::Object(_)
                        | Type::Duration
                        | Type::Timestamp
                )
            }
            (Type::Type(_), Type::Type(_)) => true,
            _ => {
                std::mem::discriminant(a) == std::mem::discriminant(b)
                    && a.name() == b.name()
                    && self.try_assign_all(&a.params(), &b.params())
            }
        }
    }

    /// Whether `t` is what the variable stands for or may come to; and whether it already stood for something.
    fn stands_for(&mut self, t: &Type, param: &Type) -> (bool, bool) {
        if t.same(param) {
            return (true, true);
        }
        if let Some(bound) = self.find(param).cloned() {
            if t.same(&bound) {
                return (true, true);
            }
            if !self.try_assign(t, &bound) {
                return (false, true);
            }
            let general = most_general(t, &bound);
            if self.free_of(param, &general) {
                self.add(param, general);
            }
            return (true, true);
        }
        if self.free_of(param, t) {
            self.add(param, t.clone());
            return (true, false);
        }
        (false, false)
    }

    /// Whether the variable does not occur in the type.
    fn free_of(&self, param: &Type, within: &Type) -> bool {
        if param.same(within) {
            return false;
        }
        match within {
            Type::Param(_) => self
                .find(within)
                .is_none_or(|bound| self.free_of(param, bound)),
            other => other.params().into_iter().all(|p| self.free_of(param, p)),
        }
    }
}

/// The more general of two types that unify.
pub(crate) fn most_general(a: &Type, b: &Type) -> Type {
    if less_specific(a, b) {
        a.clone()
    } else {
        b.clone()
    }
}

fn less_specific(a: &Type, b: &Type) -> bool {
    if matches!(a, Type::Dyn | Type::Param(_)) {
        return true;
    }
    if matches!(b, Type::Dyn | Type::Param(_))
        || std::mem::discriminant(a) != std::mem::discriminant(b)
    {
        return false;
    }
    match (a, b) {
        (Type::List(_), _) | (Type::Map(..), _) | (Type::Optional(_), _) => a
            .params()
            .into_iter()
            .zip(b.params())
            .all(|(a, b)| less_specific(a, b)),
        (Type::Type(_), _) => true,
        _ => a.same(b),
    }
}
