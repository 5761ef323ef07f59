//! Comprehensions.

use std::sync::Arc;

use super::{Eval, Evaluated, Local, Slot};
use crate::error::EvalError;
use crate::ops;
use crate::plan::{Fold, Node, Step2};
use crate::runtime_cost;
use crate::value::{Items, List, Value};

impl<'p, 'a> Eval<'_, 'p, 'a> {
    #[inline(never)]
    pub(super) fn fold(&mut self, f: &'p Fold) -> Evaluated<'a> {
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
        Some(match (accu, elem) {
            (_, Err(e)) if !e.absorbable() => Err(e),
            // the first error stays
            (Err(e), _) | (_, Err(e)) => Err(e),
            (
                Ok(Value::List(List {
                    items: Items::Owned(mut items),
                    ..
                })),
                Ok(v),
            ) => {
                Arc::make_mut(&mut items).push(v);
                Ok(Value::List(List {
                    items: Items::Owned(items),
                    schema: None,
                }))
            }
            _ => Err(EvalError::no_overload()),
        })
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
        let accu = match self.charge(1).and(accu) {
            Ok(accu) => accu,
            Err(e) => return Some(Err(e)),
        };
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
        Some(self.charge(1).and_then(|()| ops::insert(accu, &values)))
    }
}
