//! Strategic merge patch, the patch format of kubectl's apply, edit, label, set and others.
//!
//! Follows apimachinery's `strategicpatch.StrategicMergePatch`, its errors' words included. Free JSON, where upstream has no type to go by, merges map by map.

use serde_json::{Map, Value};

use crate::DecodeError;
use crate::go::{go_text, go_value};
use crate::types::{Field, Graph, Kind, TypeId, TypeRef};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

type Object = Map<String, Value>;
type Result<T> = std::result::Result<T, DecodeError>;

/// Strategic merge patch with every directive ($patch, $retainKeys, $deleteFromPrimitiveList, $setElementOrder).
///
/// # Errors
/// When the patch is no object, uses a directive wrongly, or names an item without its merge key.
pub fn strategic_merge(ty: TypeRef, original: &Value, patch: &Value) -> Result<Value> {
    let object = |value: &Value| match value {
        Value::Object(object) => Ok(object.clone()),
        Value::Null => Ok(Object::new()),
        _ => Err(error("invalid JSON document")),
    };
    merge_map(
        Place {
            graph: ty.graph,
            ty: Some(ty.id),
        },
        object(original)?,
        object(patch)?,
    )
    .map(Value::Object)
}

fn error(text: impl Into<String>) -> DecodeError {
    DecodeError(text.into())
}

/// The type at hand; None in free JSON.
#[derive(Clone, Copy)]
struct Place {
    graph: &'static Graph,
    ty: Option<TypeId>,
}

/// How the field of a place merges.
struct Rule {
    place: Place,
    merge: bool,
    replace: bool,
    /// Empty when items have none.
    key: &'static str,
}

impl Place {
    fn rule(self, name: &str) -> Result<Rule> {
        let free = |ty| Rule {
            place: Place { ty, ..self },
            merge: false,
            replace: false,
            key: "",
        };
        let Some(id) = self.ty else {
            return Ok(free(None));
        };
        match self.graph.kind(id) {
            Kind::Map { elem, .. } => Ok(free(Some(elem))),
            Kind::Struct { index, .. } => match self.graph.field(id, name) {
                Some(Field {
                    ty,
                    patch_merge,
                    patch_replace,
                    patch_merge_key,
                    ..
                }) => Ok(Rule {
                    place: Place {
                        ty: Some(*ty),
                        ..self
                    },
                    merge: *patch_merge,
                    replace: *patch_replace,
                    key: patch_merge_key,
                }),
                None => {
                    let short = self.graph.structs[index as usize]
                        .name
                        .rsplit('.')
                        .next()
                        .unwrap_or_default();
                    Err(error(format!(
                        "unable to find api field in struct {short} for the json field {name:?}"
                    )))
                }
            },
            _ => Ok(free(None)),
        }
    }

    fn items(self) -> Place {
        let ty = self.ty.and_then(|id| match self.graph.kind(id) {
            Kind::List { elem, .. } => Some(elem),
            _ => None,
        });
        Place { ty, ..self }
    }
}

fn merge_map(place: Place, mut original: Object, mut patch: Object) -> Result<Object> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => Err(error(format!(
                "unknown patch type: {} in map: {}",
                go_text(directive),
                go_value(&Value::Object(patch))
            ))),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    ordered_lists(place, &mut original, &mut patch)?;
    for (key, value) in patch {
        let (key, deletes) = match key.strip_prefix(DELETE_FROM) {
            Some(rest) => (
                rest.strip_prefix('/')
                    .ok_or_else(|| error("invalid patch format of primitive list"))?
                    .to_owned(),
                true,
            ),
            None => (key, false),
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (Some(old), _) if deletes && !old.is_array() => Some(old),
            (None, _) if deletes => None,
            (Some(Value::Object(old)), Value::Object(new)) => {
                let rule = place.rule(&key)?;
                Some(Value::Object(if rule.replace {
                    new
                } else {
                    merge_map(rule.place, old, new)?
                }))
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let rule = place.rule(&key)?;
                Some(Value::Array(merge_lists(&rule, old, new, deletes)?))
            }
            (old, new) if deletes && !new.is_array() => old,
            (_, new) => without_directives(without_nulls(new)),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// `$retainKeys`: what it doesn't name goes.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<()> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(error("invalid patch format of retainKeys"));
    };
    let named = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    let directive = |key: &str| key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER);
    if patch
        .iter()
        .any(|(key, value)| !value.is_null() && !directive(key) && !named(key))
    {
        return Err(error("invalid patch format of retainKeys"));
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// `$setElementOrder/…`: merges the list it speaks of and puts it in order.
fn ordered_lists(place: Place, original: &mut Object, patch: &mut Object) -> Result<()> {
    let directives: Vec<String> = patch
        .keys()
        .filter(|k| k.starts_with(SET_ORDER))
        .cloned()
        .collect();
    for directive in directives {
        let bad = || error("invalid patch format of setElementOrder list");
        let list = |value: Option<Value>| match value {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(error(format!(
                "expected a []interface {{}}, but received a {}",
                crate::go::go_type(&other)
            ))),
        };
        let order = list(patch.remove(&directive))?.unwrap_or_default();
        let key = directive
            .strip_prefix(SET_ORDER)
            .and_then(|k| k.strip_prefix('/'))
            .ok_or_else(bad)?;
        let rule = place.rule(key)?;
        let live = list(original.get(key).filter(|v| !v.is_null()).cloned())?;
        let changes = list(patch.get(key).cloned())?;
        check_order(changes.as_deref().unwrap_or_default(), &order, rule.key)?;
        let server_order = server_order(
            live.as_deref().unwrap_or_default(),
            changes.as_deref().unwrap_or_default(),
            rule.key,
        );
        let merged = match (live, changes) {
            (None, None) => continue,
            (Some(live), None) => live,
            (None, Some(changes)) => match without_directives(Value::Array(changes)) {
                Some(Value::Array(items)) => items,
                _ => continue,
            },
            (Some(live), Some(changes)) => merge_lists(&rule, live, changes, false)?,
        };
        patch.remove(key);
        original.insert(
            key.to_owned(),
            Value::Array(arranged(merged, &order, &server_order, rule.key)?),
        );
    }
    Ok(())
}

/// The live order by which items are arranged. Where the patch deletes some, its new ones count as standing at the end: upstream deletes and appends in the one array that it later takes for the live order.
fn server_order(live: &[Value], changes: &[Value], key: &str) -> Vec<Value> {
    let deleted = |item: &Value| {
        changes.iter().any(|c| {
            c.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") && same(c, item, key)
        })
    };
    if key.is_empty() || !live.iter().any(deleted) {
        return live.to_vec();
    }
    let kept = live.iter().filter(|item| !deleted(item));
    let added = changes.iter().filter(|c| {
        c.get(DIRECTIVE).is_none() && (deleted(c) || !live.iter().any(|item| same(c, item, key)))
    });
    kept.chain(added).take(live.len()).cloned().collect()
}

/// The patch's items must come in the order that the directive says.
fn check_order(changes: &[Value], order: &[Value], key: &str) -> Result<()> {
    if changes.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in changes
        .iter()
        .filter(|item| key.is_empty() || item.get(DIRECTIVE).is_none())
    {
        let identity = identity(item, key)?;
        loop {
            let Some(next) = rest.next() else {
                return Err(error(format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                    go_value(&Value::Array(changes.to_vec())),
                    go_value(&Value::Array(order.to_vec()))
                )));
            };
            if self::identity(next, key)? == identity {
                break;
            }
        }
    }
    Ok(())
}

fn merge_lists(rule: &Rule, old: Vec<Value>, new: Vec<Value>, deletes: bool) -> Result<Vec<Value>> {
    if !rule.merge && !deletes {
        return Ok(new);
    }
    if old.is_empty() && new.is_empty() {
        return Ok(old);
    }
    let mut sorts = old.iter().chain(&new).map(std::mem::discriminant);
    let first = sorts.next();
    if sorts.any(|s| Some(s) != first) {
        return Err(error(format!(
            "list element types are not identical: [{} {}]",
            go_value(&Value::Array(old)),
            go_value(&Value::Array(new))
        )));
    }
    if !old.iter().chain(&new).all(Value::is_object) {
        if deletes {
            return Ok(old.into_iter().filter(|item| !new.contains(item)).collect());
        }
        let mut merged: Vec<Value> = Vec::with_capacity(old.len() + new.len());
        for item in old.iter().chain(&new) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return arranged(merged, &new, &old, "");
    }
    if rule.key.is_empty() {
        return Err(error(format!(
            "cannot merge lists without merge key for {}",
            rule.place
                .items()
                .ty
                .map(|id| rule.place.graph.go_name(id))
                .unwrap_or_default()
        )));
    }
    let (mut live, mut changes, mut replace) = (old, Vec::new(), false);
    for item in new {
        match item.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
            None => changes.push(item),
            Some("delete") => {
                let identity = identity(&item, rule.key)?.clone();
                live.retain(|other| other.get(rule.key) != Some(&identity));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(error("merging lists cannot yet be specified in the patch"));
            }
            Some(other) => {
                return Err(error(format!(
                    "unknown patch type: {other} in map: {}",
                    go_value(&item)
                )));
            }
        }
    }
    if replace {
        return Ok(changes);
    }
    let mut merged = live.clone();
    for item in &changes {
        let identity = identity(item, rule.key)?;
        match merged
            .iter_mut()
            .find(|other| other.get(rule.key) == Some(identity))
        {
            Some(Value::Object(other)) => {
                *other = merge_map(
                    rule.place.items(),
                    std::mem::take(other),
                    item.as_object().cloned().unwrap_or_default(),
                )?
            }
            _ => merged.push(item.clone()),
        }
    }
    arranged(merged, &changes, &live, rule.key)
}

/// Items that the patch speaks of in its order, the others in the live order, between each other by the live order.
fn arranged(items: Vec<Value>, order: &[Value], live: &[Value], key: &str) -> Result<Vec<Value>> {
    for item in items.iter().chain(order) {
        identity(item, key)?;
    }
    let at = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item, key));
    let (mut of_patch, mut others): (Vec<Value>, Vec<Value>) = items
        .into_iter()
        .partition(|item| at(order, item).is_some());
    let sort = |list: &mut Vec<Value>, order: &[Value]| {
        list.sort_by_cached_key(|item| at(order, item).unwrap_or(usize::MAX))
    };
    sort(&mut of_patch, order);
    sort(&mut others, live);
    let mut out = Vec::with_capacity(of_patch.len() + others.len());
    let (mut of_patch, mut others) = (
        of_patch.into_iter().peekable(),
        others.into_iter().peekable(),
    );
    loop {
        let other_first = match (others.peek(), of_patch.peek()) {
            (None, None) => return Ok(out),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(of_patch)) => at(live, other)
                .zip(at(live, of_patch))
                .is_some_and(|(other, of_patch)| other < of_patch),
        };
        out.extend(if other_first {
            others.next()
        } else {
            of_patch.next()
        });
    }
}

/// What tells an item apart: its merge key's value, or the item itself when there is no key.
fn identity<'v>(item: &'v Value, key: &str) -> Result<&'v Value> {
    if key.is_empty() {
        return Ok(item);
    }
    item.get(key).ok_or_else(|| {
        error(format!(
            "map: {} does not contain declared merge key: {key}",
            go_value(item)
        ))
    })
}

fn same(a: &Value, b: &Value, key: &str) -> bool {
    if key.is_empty() {
        a == b
    } else {
        a.get(key).is_some() && a.get(key) == b.get(key)
    }
}

/// A patch's value as it comes where nothing was: without nulls.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| (k, without_nulls(v)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// The value without objects that carry a directive; None when it is one.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(DIRECTIVE) => None,
        Value::Object(fields) => Some(Value::Object(
            fields
                .into_iter()
                .filter_map(|(k, v)| Some((k, without_directives(v)?)))
                .collect(),
        )),
        Value::Array(items) => Some(Value::Array(
            items.into_iter().filter_map(without_directives).collect(),
        )),
        other => Some(other),
    }
}
