//! Values at the end of a path: `a.b[c].?d`.

use super::{Eval, Evaluated, Slot};
use crate::error::EvalError;
use crate::ops;
use crate::plan::{Attr, Conditional, Qualifier, Root, Step};
use crate::value::Value;

impl<'p, 'a> Eval<'_, 'p, 'a> {
    /// An attribute's own value costs one; that of a ternary only what its parts cost.
    #[inline(never)]
    pub(super) fn attr(&mut self, a: &'p Attr) -> Evaluated<'a> {
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
    pub(super) fn local(&mut self, i: usize) -> Evaluated<'a> {
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
    pub(super) fn has(&mut self, a: &'p Attr) -> Evaluated<'a> {
        self.walk(a, true)
    }
}
