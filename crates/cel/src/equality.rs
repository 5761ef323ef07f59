//! Equality, and the lists of Kubernetes that are sets or maps.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::EvalError;
use crate::ops::compare_numbers;
use crate::schema::{ListKind, Shape};
use crate::value::{Entries, Items, Key, List, Map, Value};
use crate::work;

/// `==`. Numbers are equal across types; values of different types are not equal.
pub(crate) fn equal(a: &Value<'_>, b: &Value<'_>) -> bool {
    use Value::*;
    if !work::spend() {
        return false;
    }
    match (a, b) {
        (Null, Null) => true,
        (Bool(a), Bool(b)) => a == b,
        (Int(_) | Uint(_) | Double(_), Int(_) | Uint(_) | Double(_)) => {
            compare_numbers(a, b) == Some(Ordering::Equal)
        }
        (String(a), String(b)) => a.as_str() == b.as_str(),
        (Bytes(a), Bytes(b)) => a == b,
        (Duration(a), Duration(b)) => a == b,
        (Timestamp(a), Timestamp(b)) => a == b,
        (List(a), List(b)) => equal_lists(a, b),
        (Map(a), Map(b)) => equal_maps(a, b),
        (Object(a), Object(b)) => {
            let same = a.ty.name == b.ty.name && a.fields.len() == b.fields.len();
            let mut fields = a.fields.iter();
            same && fields.all(|(k, v)| b.fields.get(k).is_some_and(|w| equal(v, w)))
        }
        (Optional(Some(a)), Optional(Some(b))) => equal(a, b),
        (Optional(a), Optional(b)) => a.is_none() && b.is_none(),
        (Type(a), Type(b)) => a.name() == b.name(),
        (Quantity(a), Quantity(b)) => a.cmp(b) == Ordering::Equal,
        (Url(a), Url(b)) => a == b,
        (Ip(a), Ip(b)) => a == b,
        (Cidr(a), Cidr(b)) => a == b,
        (Semver(a), Semver(b)) => a.cmp(b) == Ordering::Equal,
        (Format(a), Format(b)) => a.name == b.name,
        (Preserved(a), Preserved(b)) => a == b,
        _ => false,
    }
}

fn equal_lists(a: &List<'_>, b: &List<'_>) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let kind = list_kind(a);
    if kind == ListKind::Atomic {
        let mut pairs = a.iter().zip(b.iter());
        return pairs.all(|(a, b)| matches!((a, b), (Ok(a), Ok(b)) if equal(&a, &b)));
    }
    let (Ok(left), Ok(right)) = (a.to_vec(), b.to_vec()) else {
        return false;
    };
    let index = Index::new(left, kind);
    right
        .iter()
        .all(|b| index.find(b).is_some_and(|i| equal(&index.items[i], b)))
}

fn list_kind(l: &List<'_>) -> ListKind {
    match l.schema.map(|s| &s.shape) {
        Some(Shape::List { kind, .. }) => kind.clone(),
        _ => ListKind::Atomic,
    }
}

/// The items of a set or map list, found by what identifies them.
struct Index<'a> {
    items: Vec<Value<'a>>,
    kind: ListKind,
    by_key: BTreeMap<Vec<Key>, usize>,
    /// Items that no key identifies: looked at one by one.
    others: Vec<usize>,
}

impl<'a> Index<'a> {
    fn new(items: Vec<Value<'a>>, kind: ListKind) -> Index<'a> {
        let mut index = Index {
            items: Vec::new(),
            kind,
            by_key: BTreeMap::new(),
            others: Vec::new(),
        };
        items.into_iter().for_each(|v| index.push(v));
        index
    }

    fn push(&mut self, v: Value<'a>) {
        let at = self.items.len();
        match self.key(&v) {
            Some(key) => {
                self.by_key.insert(key, at);
            }
            None => self.others.push(at),
        }
        self.items.push(v);
    }

    /// What identifies an item: a set's item is its own key, a map list's entries have theirs in fields.
    fn key(&self, v: &Value<'_>) -> Option<Vec<Key>> {
        let ListKind::Map(keys) = &self.kind else {
            return Key::of(v).map(|k| vec![k]);
        };
        let Value::Map(m) = v else { return None };
        keys.iter()
            .map(|k| Key::of(&raw_field(m, k).unwrap_or(Value::Bool(false))))
            .collect()
    }

    fn find(&self, v: &Value<'_>) -> Option<usize> {
        match self.key(v) {
            Some(key) => self.by_key.get(&key).copied(),
            None => self
                .others
                .iter()
                .copied()
                .find(|i| equal(&self.items[*i], v)),
        }
    }
}

fn raw_field<'a>(m: &Map<'a>, name: &str) -> Option<Value<'a>> {
    match &m.entries {
        Entries::Json(j) => j.get(name).map(Value::json),
        Entries::Owned(_) | Entries::Open(_) => m.field(name)?.ok(),
    }
}

fn equal_maps(a: &Map<'_>, b: &Map<'_>) -> bool {
    if a.len() != b.len() {
        return false;
    }
    // what has no schema is compared as it is
    if let (Entries::Json(x), Entries::Json(y), Some(Shape::Object(props))) =
        (&a.entries, &b.entries, a.schema.map(|s| &s.shape))
    {
        let unknown_differ = |(k, v): (&String, &serde_json::Value)| {
            !props.contains_key(k) && y.get(k).is_some_and(|w| w != v)
        };
        if x.iter().any(unknown_differ) {
            return false;
        }
    }
    a.keys().iter().all(|k| match (a.find(k), b.find(k)) {
        (Some(Ok(a)), Some(Ok(b))) => equal(&a, &b),
        (None, None) => true,
        _ => false,
    })
}

/// `a + b`: sets and map lists of Kubernetes are merged, other lists joined.
pub(crate) fn concat<'a>(a: &List<'a>, b: &List<'a>) -> Result<List<'a>, EvalError> {
    let kind = list_kind(a);
    if kind == ListKind::Atomic {
        // not copied: adding lists costs one, however long they are
        return Ok(a.joined(b));
    }
    let mut index = Index::new(a.to_vec()?, kind);
    for v in b.iter() {
        let v = v?;
        match index.find(&v) {
            Some(i) => index.items[i] = v,
            None => index.push(v),
        }
    }
    Ok(List {
        items: Items::Owned(Arc::new(index.items)),
        schema: a.schema,
    })
}
