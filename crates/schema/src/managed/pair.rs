//! The walks over two values: what changed between them, and their merge.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value};

use super::element::{Element, equal};
use super::set::Set;
use super::shape::{Items, Of, Shape, Ty, field_type, item_element, scalar_error, shape};
use crate::types::{Absent, Field, Graph};

/// The paths that differ between two values.
#[derive(Debug, Default, Clone)]
pub(crate) struct Comparison {
    pub removed: Set,
    pub modified: Set,
    pub added: Set,
}

impl Comparison {
    pub(crate) fn without(&self, ignored: &Set) -> Comparison {
        Comparison {
            removed: self.removed.recursive_difference(ignored),
            modified: self.modified.recursive_difference(ignored),
            added: self.added.recursive_difference(ignored),
        }
    }

    /// What is new or different.
    pub(crate) fn written(&self) -> Set {
        self.modified.union(&self.added)
    }
}

/// Compares two values of a type. `filled`: the new one went through Go's types, so that what is new in it has what they write for absent fields. Errors are upstream's words.
pub(crate) fn compare(
    graph: &Graph,
    ty: Ty<'_>,
    old: &Value,
    new: &Value,
    filled: bool,
) -> Result<Comparison, String> {
    let mut walk = Walk {
        graph,
        out: Comparison::default(),
        path: Vec::new(),
        filled,
    };
    walk.node(ty, Some(old), Some(new))?;
    Ok(walk.out)
}

struct Walk<'g> {
    graph: &'g Graph,
    out: Comparison,
    path: Vec<Element>,
    filled: bool,
}

impl Walk<'_> {
    fn node(&mut self, ty: Ty<'_>, old: Option<&Value>, new: Option<&Value>) -> Result<(), String> {
        let (old_shape, new_shape) = (shape(self.graph, ty, old), shape(self.graph, ty, new));
        let leaf = if new.is_none() {
            self.shaped(old_shape, old, new)?
        } else if old.is_none() || same_sort(old_shape, new_shape) {
            self.shaped(new_shape, old, new)?
        } else {
            self.shaped(old_shape, old, new)?;
            self.shaped(new_shape, old, new)?
        };
        if !leaf {
            if old.is_none() {
                self.out.added.insert(&self.path);
            } else if new.is_none() {
                self.out.removed.insert(&self.path);
            }
        }
        Ok(())
    }

    /// Returns whether the value was compared as a whole.
    fn shaped<'v>(
        &mut self,
        shape: Shape<'_>,
        old: Option<&'v Value>,
        new: Option<&'v Value>,
    ) -> Result<bool, String> {
        if is_leaf(shape, old, new)? {
            match (old, new) {
                (None, _) => self.out.added.insert(&self.path),
                (_, None) => self.out.removed.insert(&self.path),
                (Some(old), Some(new)) if !equal(old, new) => self.out.modified.insert(&self.path),
                _ => {}
            }
            return Ok(true);
        }
        match shape {
            Shape::List { elem, kind } => self.items(elem, kind, list(old), list(new))?,
            Shape::Map { of, elem, .. } => {
                let (old, new) = (map(old), map(new));
                for name in keys(old, new) {
                    let ty = field_type(self.graph, of, elem, name).unwrap_or(Ty::Deduced);
                    let absent = of
                        .and_then(Of::known)
                        .and_then(|id| self.graph.field(id, name))
                        .and_then(|f| self.absent(f));
                    let side =
                        |fields: Option<&'v Map<String, Value>>| fields.and_then(|m| m.get(name));
                    let written = |fields: Option<_>| absent.as_ref().filter(|_| fields.is_some());
                    self.path.push(Element::field(name));
                    self.node(ty, side(old).or(written(old)), side(new).or(written(new)))?;
                    self.path.pop();
                }
                let fields = of
                    .and_then(Of::known)
                    .and_then(|id| self.graph.fields_of(id))
                    .map(|(_, fields)| fields)
                    .unwrap_or_default();
                if old.is_none() != new.is_none() && (self.filled || new.is_none()) {
                    let there = old.or(new);
                    for field in fields.iter().filter(|f| {
                        f.absent != Absent::Missing
                            && there.is_some_and(|m| !m.contains_key(f.name))
                    }) {
                        let set = if old.is_none() {
                            &mut self.out.added
                        } else {
                            &mut self.out.removed
                        };
                        self.path.push(Element::field(field.name));
                        set.insert(&self.path);
                        self.path.pop();
                    }
                }
            }
            Shape::Scalar(_) => {}
        }
        Ok(false)
    }

    /// What Go's types have where the object has nothing.
    fn absent(&self, field: &Field) -> Option<Value> {
        match field.absent {
            Absent::Missing => None,
            Absent::Null => Some(Value::Null),
            Absent::Zero => Some(crate::decode::zero(self.graph.kind(field.ty))),
        }
    }

    fn items(
        &mut self,
        elem: Ty<'_>,
        kind: Items<'_>,
        old: &[Value],
        new: &[Value],
    ) -> Result<(), String> {
        let mut both: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for (at, item) in old.iter().enumerate() {
            both.entry(element_at(self.graph, elem, kind, at, item)?)
                .or_default()
                .0
                .push(item);
        }
        for (at, item) in new.iter().enumerate() {
            both.entry(element_at(self.graph, elem, kind, at, item)?)
                .or_default()
                .1
                .push(item);
        }
        for (element, (old, new)) in both {
            self.path.push(element);
            match (old.as_slice(), new.as_slice()) {
                ([] | [_], [] | [_]) => {
                    self.node(elem, old.first().copied(), new.first().copied())?
                }
                ([_, _, ..], [_, _, ..]) => {
                    if old.len() != new.len() || old.iter().zip(&new).any(|(a, b)| !equal(a, b)) {
                        self.out.modified.insert(&self.path);
                    }
                }
                ([_, _, ..], _) => {
                    if let Some(new) = new.first() {
                        self.node(elem, None, Some(new))?;
                    }
                    self.out.removed.insert(&self.path);
                }
                (_, _) => {
                    if let Some(old) = old.first() {
                        self.node(elem, Some(old), None)?;
                    }
                    self.out.added.insert(&self.path);
                }
            }
            self.path.pop();
        }
        Ok(())
    }
}

/// Merges two values: the second wins where both have something. Errors are upstream's words.
pub(crate) fn merge(
    graph: &Graph,
    ty: Ty<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<Option<Value>, String> {
    let (old_shape, new_shape) = (shape(graph, ty, old), shape(graph, ty, new));
    if new.is_none() {
        return merge_shaped(graph, old_shape, old, new);
    }
    if old.is_some() && !same_sort(old_shape, new_shape) {
        merge_shaped(graph, old_shape, old, new)?;
    }
    merge_shaped(graph, new_shape, old, new)
}

fn merge_shaped(
    graph: &Graph,
    shape: Shape<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<Option<Value>, String> {
    if is_leaf(shape, old, new)? {
        return Ok(new.or(old).cloned());
    }
    match shape {
        Shape::List { elem, kind } => merge_items(graph, elem, kind, list(old), list(new)),
        Shape::Map { of, elem, .. } => {
            let (old, new) = (map(old), map(new));
            let mut out = Map::new();
            for name in keys(old, new) {
                let ty = field_type(graph, of, elem, name).unwrap_or(Ty::Deduced);
                if let Some(value) = merge(
                    graph,
                    ty,
                    old.and_then(|m| m.get(name)),
                    new.and_then(|m| m.get(name)),
                )? {
                    out.insert(name.clone(), value);
                }
            }
            Ok((!out.is_empty()).then_some(Value::Object(out)))
        }
        Shape::Scalar(_) => Ok(None),
    }
}

/// Merges lists whose items have identities. The new list's order rules; items of the old one alone keep their place between the shared ones.
fn merge_items(
    graph: &Graph,
    elem: Ty<'_>,
    kind: Items<'_>,
    old: &[Value],
    new: &[Value],
) -> Result<Option<Value>, String> {
    let mut new_items: BTreeMap<Element, &Value> = BTreeMap::new();
    let mut new_order = Vec::new();
    for (at, item) in new.iter().enumerate() {
        let element = element_at(graph, elem, kind, at, item)?;
        if new_items.insert(element.clone(), item).is_some() {
            return Err(format!("duplicate entries for key {element}"));
        }
        new_order.push(element);
    }
    let mut old_items: BTreeMap<Element, &Value> = BTreeMap::new();
    let mut old_order = Vec::new();
    for (at, item) in old.iter().enumerate() {
        let element = element_at(graph, elem, kind, at, item)?;
        // Items that share an identity can't be merged with one: the new one takes their place.
        let seen = old_items.contains_key(&element);
        old_items.insert(element.clone(), if seen { &Value::Null } else { item });
        old_order.push(element);
    }
    let mut shared: VecDeque<&Element> = new_order
        .iter()
        .filter(|e| old_items.contains_key(e))
        .collect();
    let mut next_shared = shared.pop_front();
    let mut merged = std::collections::BTreeSet::new();
    let mut out = Vec::new();
    let (mut at_old, mut at_new) = (0, 0);
    while at_old < old_order.len() || at_new < new_order.len() {
        if let (Some(old_element), Some(new_element)) =
            (old_order.get(at_old), new_order.get(at_new))
        {
            if old_element == new_element {
                merged.insert(old_element);
                out.extend(merge(
                    graph,
                    elem,
                    old_items.get(old_element).copied(),
                    new_items.get(old_element).copied(),
                )?);
                (at_old, at_new) = (at_old + 1, at_new + 1);
                next_shared = shared.pop_front();
                continue;
            }
            if new_items.contains_key(old_element)
                && next_shared.is_some_and(|next| next != old_element)
            {
                at_old += 1;
                continue;
            }
        }
        if let Some(element) = old_order.get(at_old) {
            if !new_items.contains_key(element) {
                out.extend(merge(graph, elem, Some(&old[at_old]), None)?);
                at_old += 1;
                continue;
            }
            if merged.contains(element) {
                at_old += 1;
            }
        }
        if let Some(element) = new_order.get(at_new) {
            merged.insert(element);
            out.extend(merge(
                graph,
                elem,
                old_items.get(element).copied(),
                new_items.get(element).copied(),
            )?);
            at_new += 1;
            if next_shared == Some(element) {
                next_shared = shared.pop_front();
            }
        }
    }
    Ok((!out.is_empty()).then_some(Value::Array(out)))
}

fn element_at(
    graph: &Graph,
    elem: Ty<'_>,
    kind: Items<'_>,
    at: usize,
    item: &Value,
) -> Result<Element, String> {
    item_element(graph, elem, kind, item).map_err(|e| format!("element {at}: {e}"))
}

/// Whether the pair is taken as a whole: scalars, atomic values, and two empty ones.
fn is_leaf(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>) -> Result<bool, String> {
    match shape {
        Shape::Scalar(want) => {
            let error = |side: &str, value: Option<&Value>| {
                value
                    .and_then(|v| scalar_error(want, v))
                    .map(|e| format!("{side}: {e}"))
            };
            match (error("lhs", old), error("rhs", new)) {
                (Some(old), Some(new)) => Err(format!("errors:\n  {old}\n  {new}")),
                _ => Ok(true),
            }
        }
        Shape::List { kind, .. } => {
            Ok(kind == Items::Atomic || list(old).is_empty() && list(new).is_empty())
        }
        Shape::Map { atomic, .. } => {
            Ok(atomic || map(old).is_none_or(Map::is_empty) && map(new).is_none_or(Map::is_empty))
        }
    }
}

fn same_sort(a: Shape<'_>, b: Shape<'_>) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
}

fn list(value: Option<&Value>) -> &[Value] {
    value
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn map(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

/// The keys of both maps, each once.
fn keys<'a>(
    old: Option<&'a Map<String, Value>>,
    new: Option<&'a Map<String, Value>>,
) -> impl Iterator<Item = &'a String> {
    let only_new = new
        .into_iter()
        .flat_map(Map::keys)
        .filter(move |k| old.is_none_or(|old| !old.contains_key(*k)));
    old.into_iter().flat_map(Map::keys).chain(only_new)
}
