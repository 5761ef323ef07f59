//! Which part of the old object a part of the new one is: apiserver `pkg/cel/common/{equality,maplist}.go`.

use serde_json::Value;

use crate::{
    numbers,
    schema::{ListType, Schema},
};

/// A new value and the old one it comes from.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    pub new: &'a Value,
    pub old: &'a Value,
    pub schema: &'a Schema,
}

impl<'a> Pair<'a> {
    /// The pair of a field; None when either side lacks it or the schema doesn't know it.
    pub fn key(&self, name: &str) -> Option<Pair<'a>> {
        Some(Pair {
            new: self.new.as_object()?.get(name)?,
            old: self.old.as_object()?.get(name)?,
            schema: self.schema.field(name)?,
        })
    }

    /// The pair of a list's item: only items of lists of type map can be told apart.
    pub fn index(&self, at: usize) -> Option<Pair<'a>> {
        if self.schema.list != ListType::Map {
            return None;
        }
        let (new, old) = (self.new.as_array()?, self.old.as_array()?);
        let item = new.get(at)?;
        let found = old
            .iter()
            .find(|o| o.is_object() && self.same_keys(item, o))?;
        Some(Pair {
            new: item,
            old: found,
            schema: self.schema.items.as_deref()?,
        })
    }

    fn same_keys(&self, a: &Value, b: &Value) -> bool {
        self.schema
            .keys
            .iter()
            .all(|k| match (a.get(&**k), b.get(&**k)) {
                (Some(a), Some(b)) => same(a, b),
                (None, None) => true,
                _ => false,
            })
    }

    /// Whether nothing changed; the order of a list of type map is no change.
    pub fn unchanged(&self) -> bool {
        match (self.new, self.old) {
            (Value::Array(new), Value::Array(old)) => {
                new.len() == old.len()
                    && if self.schema.list == ListType::Map {
                        (0..new.len()).all(|i| self.index(i).is_some_and(|p| p.unchanged()))
                    } else {
                        same(self.new, self.old)
                    }
            }
            (Value::Object(new), Value::Object(old)) => {
                new.len() == old.len()
                    && new
                        .keys()
                        .all(|k| self.key(k).is_some_and(|p| p.unchanged()))
            }
            (new, old) => same(new, old),
        }
    }
}

/// Whether two JSON values are equal, 1 and 1.0 too.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => numbers::equal(a, b),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w)))
        }
        _ => a == b,
    }
}
