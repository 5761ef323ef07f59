//! What a type of the table is to structured-merge-diff, and the walks over one value: its field set, its validity, and the removal of paths.

use serde_json::{Map, Value};

use super::element::{Element, Literal};
use super::set::{Node, Set};
use crate::custom::{CustomField, CustomList, CustomType};
use crate::go::{go_type, go_value};
use crate::types::{Graph, Kind, ListKind, Scalar, TypeId};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// A type as the merge sees it. Free JSON has no entry in the table.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Ty<'g> {
    Known(TypeId),
    Custom(&'g CustomType),
    /// Free JSON: maps are granular, lists atomic.
    Deduced,
    /// Free JSON within an atomic list.
    Whole,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Shape<'g> {
    Scalar(Want),
    List {
        elem: Ty<'g>,
        kind: Items<'g>,
    },
    /// `of` is the struct whose fields have types of their own.
    Map {
        of: Option<Of<'g>>,
        elem: Option<Ty<'g>>,
        atomic: bool,
    },
}

/// How a list's items are told apart.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Items<'g> {
    Atomic,
    Set,
    /// Names of the keys, separated by commas.
    Map(&'g str),
}

/// A type with declared fields.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Of<'g> {
    Known(TypeId),
    Custom(&'g CustomType),
}

impl Of<'_> {
    /// The field's entry in the table.
    pub(crate) fn known(self) -> Option<TypeId> {
        match self {
            Of::Known(id) => Some(id),
            Of::Custom(_) => None,
        }
    }
}

/// Whether the type declares the field.
pub(crate) fn declares(graph: &Graph, of: Option<Of<'_>>, name: &str) -> bool {
    match of {
        Some(Of::Known(id)) => graph.field(id, name).is_some(),
        Some(Of::Custom(ty)) => ty.field(name).is_some(),
        None => false,
    }
}

/// What a field of a list's item has when the item doesn't say.
fn default_of(graph: &Graph, ty: Ty<'_>, key: &str) -> Option<Value> {
    match ty {
        Ty::Known(id) => serde_json::from_str(graph.field(id, key)?.default?).ok(),
        Ty::Custom(ty) => ty.field(key)?.default.clone(),
        _ => None,
    }
}

/// Which scalars a type takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Want {
    Number,
    String,
    Bool,
    Any,
}

/// The shape of a type for a value: free JSON takes the value's.
pub(crate) fn shape<'g>(graph: &Graph, ty: Ty<'g>, value: Option<&Value>) -> Shape<'g> {
    let free = |elem: Ty<'g>, atomic: bool| match value {
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_)) => Shape::Scalar(Want::Any),
        Some(Value::Array(_)) => Shape::List {
            elem: Ty::Whole,
            kind: Items::Atomic,
        },
        _ => Shape::Map {
            of: None,
            elem: Some(elem),
            atomic,
        },
    };
    match ty {
        Ty::Deduced => free(Ty::Deduced, false),
        Ty::Whole => free(Ty::Whole, true),
        Ty::Custom(custom) => match custom {
            CustomType::Number => Shape::Scalar(Want::Number),
            CustomType::String => Shape::Scalar(Want::String),
            CustomType::Boolean => Shape::Scalar(Want::Bool),
            CustomType::Scalar => Shape::Scalar(Want::Any),
            CustomType::Free => free(Ty::Deduced, false),
            CustomType::List { elem, kind } => Shape::List {
                elem: Ty::Custom(elem),
                kind: match kind {
                    CustomList::Atomic => Items::Atomic,
                    CustomList::Set => Items::Set,
                    CustomList::Map(keys) => Items::Map(keys),
                },
            },
            CustomType::Map { rest, atomic, .. } => Shape::Map {
                of: Some(Of::Custom(custom)),
                elem: rest.as_deref().map(Ty::Custom),
                atomic: *atomic,
            },
            CustomType::ObjectMeta => match crate::named(OBJECT_META) {
                Some(ty) => shape(graph, Ty::Known(ty.id), value),
                None => free(Ty::Deduced, false),
            },
        },
        Ty::Known(id) => match graph.kind(id) {
            Kind::List { elem, kind } => Shape::List {
                elem: Ty::Known(elem),
                kind: match kind {
                    ListKind::Atomic => Items::Atomic,
                    ListKind::Set => Items::Set,
                    ListKind::Map(keys) => Items::Map(keys),
                },
            },
            Kind::Map { elem, atomic } => Shape::Map {
                of: None,
                elem: Some(Ty::Known(elem)),
                atomic,
            },
            Kind::Struct { atomic, .. } => Shape::Map {
                of: Some(Of::Known(id)),
                elem: None,
                atomic,
            },
            Kind::Scalar(scalar) => match scalar {
                Scalar::Int32 | Scalar::Int64 | Scalar::Double => Shape::Scalar(Want::Number),
                Scalar::String | Scalar::Bytes => Shape::Scalar(Want::String),
                Scalar::Bool => Shape::Scalar(Want::Bool),
                Scalar::Quantity
                | Scalar::IntOrString
                | Scalar::Time
                | Scalar::MicroTime
                | Scalar::Duration => Shape::Scalar(Want::Any),
                // Every field of this type is marked atomic upstream.
                Scalar::Raw => free(Ty::Whole, true),
                Scalar::FieldsV1 | Scalar::Patch => Shape::Map {
                    of: None,
                    elem: Some(Ty::Deduced),
                    atomic: false,
                },
                Scalar::Json
                | Scalar::PropsOrArray
                | Scalar::PropsOrBool
                | Scalar::PropsOrStrings => free(Ty::Deduced, false),
            },
        },
    }
}

/// The type of a map's value or a struct's field; None when a struct has no such field.
pub(crate) fn field_type<'g>(
    graph: &Graph,
    of: Option<Of<'g>>,
    elem: Option<Ty<'g>>,
    name: &str,
) -> Option<Ty<'g>> {
    let declared = match of {
        Some(Of::Known(id)) => graph.field(id, name).map(|f| Ty::Known(f.ty)),
        Some(Of::Custom(ty)) => ty.field(name).map(|CustomField { ty, .. }| Ty::Custom(ty)),
        None => None,
    };
    declared.or(elem)
}

/// How a list item is told apart. Errors are upstream's words.
pub(crate) fn item_element(
    graph: &Graph,
    elem: Ty<'_>,
    kind: Items<'_>,
    item: &Value,
) -> Result<Element, String> {
    match kind {
        Items::Atomic => Err("invalid indexing of non-associative list".to_owned()),
        Items::Set => match item {
            Value::Object(_) => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
            Value::Array(_) => {
                Err("not supported: associative list with lists as elements".to_owned())
            }
            Value::Null => Err(
                "associative list without keys has an element that's an explicit null".to_owned(),
            ),
            scalar => Ok(Element::Value(Literal(scalar.clone()))),
        },
        Items::Map(keys) => {
            let item = match item {
                Value::Object(item) => item,
                Value::Null => {
                    return Err("associative list with keys may not have a null element".to_owned());
                }
                _ => {
                    return Err(
                        "associative list with keys may not have non-map elements".to_owned()
                    );
                }
            };
            let default = |key: &str| default_of(graph, elem, key);
            let found = keys.split(',').filter_map(|key| {
                Some((
                    key.to_owned(),
                    Literal(item.get(key).cloned().or_else(|| default(key))?),
                ))
            });
            let mut found: Vec<(String, Literal)> = found.collect();
            if found.is_empty() {
                let keys: Vec<String> = keys.split(',').map(|k| format!("{k:?}")).collect();
                return Err(format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                    keys.join(" ")
                ));
            }
            found.sort();
            Ok(Element::Key(found))
        }
    }
}

/// All paths of a value.
pub(crate) fn field_set(graph: &Graph, ty: Ty<'_>, value: &Value) -> Set {
    // At the root the value itself is no path, so that a node of its own is thrown away.
    own(graph, ty, value).below
}

/// The node of a value: whether it is owned itself, and what is owned below it.
fn own(graph: &Graph, ty: Ty<'_>, value: &Value) -> Node {
    let mut node = Node::default();
    match shape(graph, ty, Some(value)) {
        Shape::Scalar(_) => node.member = true,
        Shape::List {
            kind: Items::Atomic,
            ..
        }
        | Shape::Map { atomic: true, .. } => node.member = true,
        Shape::List { elem, kind } => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            for item in items {
                let Ok(element) = item_element(graph, elem, kind, item) else {
                    continue;
                };
                // Items with one key between them are owned as a whole.
                let twice = node.below.nodes.contains_key(&element);
                let below = if twice {
                    Set::default()
                } else {
                    own(graph, elem, item).below
                };
                node.below.nodes.insert(
                    element,
                    Node {
                        member: true,
                        below,
                    },
                );
            }
        }
        Shape::Map { of, elem, .. } => {
            for (name, child) in value.as_object().into_iter().flatten() {
                let Some(ty) = field_type(graph, of, elem, name) else {
                    continue;
                };
                let mut below = own(graph, ty, child);
                let declared = declares(graph, of, name);
                below.member |=
                    child.is_null() || child.as_object().is_some_and(Map::is_empty) || !declared;
                if below.member || !below.below.is_empty() {
                    node.below.nodes.insert(Element::field(name), below);
                }
            }
        }
    }
    node
}

/// The set with every field of a struct that has members below it a member too.
pub(crate) fn with_named_fields(graph: &Graph, ty: Option<Ty<'_>>, set: &Set) -> Set {
    let shape = ty.map(|ty| shape(graph, ty, None));
    let nodes = set.nodes.iter().map(|(element, node)| {
        let (ty, declared) = match (&shape, element) {
            (Some(Shape::Map { of, elem, .. }), Element::Field(name)) => (
                field_type(graph, *of, *elem, name),
                declares(graph, *of, name),
            ),
            (Some(Shape::List { elem, .. }), Element::Key(_)) => (Some(*elem), false),
            _ => (None, false),
        };
        (
            element.clone(),
            Node {
                member: node.member || declared && !node.below.is_empty(),
                below: with_named_fields(graph, ty, &node.below),
            },
        )
    });
    Set {
        nodes: nodes.collect(),
    }
}

/// The set with paths below atomic values replaced by the atomic value's own (types may have become atomic since the set was made).
pub(crate) fn reconciled(graph: &Graph, ty: Ty<'_>, node: &Node) -> Node {
    let atomic = match shape(graph, ty, None) {
        Shape::List {
            kind: Items::Atomic,
            ..
        }
        | Shape::Map { atomic: true, .. } => true,
        Shape::Map {
            of: None,
            elem: Some(Ty::Deduced),
            ..
        } => return node.clone(),
        _ => false,
    };
    if atomic && !node.below.is_empty() {
        return Node {
            member: true,
            below: Set::default(),
        };
    }
    let shape = shape(graph, ty, None);
    let nodes = node.below.nodes.iter().map(|(element, below)| {
        let ty = match (&shape, element) {
            (Shape::Map { of, elem, .. }, Element::Field(name)) => {
                field_type(graph, *of, *elem, name)
            }
            (Shape::List { elem, .. }, _) => Some(*elem),
            _ => None,
        };
        (
            element.clone(),
            ty.map_or_else(|| below.clone(), |ty| reconciled(graph, ty, below)),
        )
    });
    Node {
        member: node.member,
        below: Set {
            nodes: nodes.collect(),
        },
    }
}

/// The value without the paths of the set. What becomes empty becomes null.
pub(crate) fn remove(graph: &Graph, ty: Ty<'_>, value: &Value, set: &Set) -> Value {
    match (shape(graph, ty, Some(value)), value) {
        (Shape::Scalar(_), _) => value.clone(),
        (Shape::List { elem, kind }, Value::Array(items)) if kind != Items::Atomic => {
            let kept = items.iter().filter_map(|item| {
                let node = item_element(graph, elem, kind, item)
                    .ok()
                    .and_then(|element| set.nodes.get(&element));
                match node {
                    Some(node) if node.member => None,
                    Some(node) => Some(remove(graph, elem, item, &node.below)),
                    None => Some(item.clone()),
                }
            });
            let kept: Vec<Value> = kept.collect();
            if kept.is_empty() {
                Value::Null
            } else {
                Value::Array(kept)
            }
        }
        (
            Shape::Map {
                of,
                elem,
                atomic: false,
            },
            Value::Object(fields),
        ) => {
            let kept = fields.iter().filter_map(|(name, child)| {
                let child = match set.nodes.get(&Element::field(name)) {
                    Some(node) if node.member => return None,
                    Some(node) => remove(
                        graph,
                        field_type(graph, of, elem, name).unwrap_or(Ty::Deduced),
                        child,
                        &node.below,
                    ),
                    None => child.clone(),
                };
                Some((name.clone(), child))
            });
            let kept: Map<String, Value> = kept.collect();
            if kept.is_empty() {
                Value::Null
            } else {
                Value::Object(kept)
            }
        }
        _ => Value::Null,
    }
}

/// What is wrong with an applied object, in upstream's words, at most a handful.
pub(crate) fn validate(
    graph: &Graph,
    ty: Ty<'_>,
    value: &Value,
    path: &str,
    errors: &mut Vec<String>,
) {
    let mut error = |text: String| {
        errors.push(if path.is_empty() {
            text
        } else {
            format!("{path}: {text}")
        })
    };
    match (shape(graph, ty, Some(value)), value) {
        (Shape::Scalar(want), value) => {
            if let Some(text) = scalar_error(want, value) {
                error(text);
            }
        }
        (Shape::List { .. } | Shape::Map { .. }, Value::Null) => {}
        (Shape::List { elem, kind }, Value::Array(items)) => {
            let mut seen = std::collections::BTreeSet::new();
            for (at, item) in items.iter().enumerate() {
                let step = if kind == Items::Atomic {
                    Element::Index(at as i64)
                } else {
                    match item_element(graph, elem, kind, item) {
                        Ok(element) => element,
                        Err(text) => {
                            errors.push(if path.is_empty() {
                                format!("element {at}: {text}")
                            } else {
                                format!("{path}: element {at}: {text}")
                            });
                            return;
                        }
                    }
                };
                if kind != Items::Atomic && !seen.insert(step.clone()) {
                    errors.push(format!("{path}: duplicate entries for key {step}"));
                }
                validate(graph, elem, item, &format!("{path}{step}"), errors);
            }
        }
        (Shape::Map { of, elem, .. }, Value::Object(fields)) => {
            for (name, child) in fields {
                match field_type(graph, of, elem, name) {
                    Some(ty) => validate(graph, ty, child, &format!("{path}.{name}"), errors),
                    None => {
                        return errors.push(format!("{path}.{name}: field not declared in schema"));
                    }
                }
            }
        }
        (Shape::List { .. }, other) => {
            error(format!("expected list, got &{{{}}}", go_value(other)))
        }
        (Shape::Map { .. }, other) => error(format!("expected map, got &{{{}}}", go_value(other))),
    }
}

/// Why a scalar type doesn't take a value.
pub(crate) fn scalar_error(want: Want, value: &Value) -> Option<String> {
    let fits = match want {
        Want::Number => value.is_number(),
        Want::String => value.is_string(),
        Want::Bool => value.is_boolean(),
        Want::Any => value.is_number() || value.is_string() || value.is_boolean(),
    };
    if fits || value.is_null() {
        return None;
    }
    Some(match want {
        Want::Number => format!("expected numeric (int or float), got {}", go_type(value)),
        Want::String => match value {
            Value::Array(_) | Value::Object(_) => format!(
                "expected string, got &value.valueUnstructured{{Value:{}{{…}}}}",
                go_type(value)
            ),
            _ => format!("expected string, got &value.valueUnstructured{{Value:{value}}}"),
        },
        Want::Bool => format!("expected boolean, got &{{{}}}", go_value(value)),
        Want::Any => format!("expected any scalar, got &{{{}}}", go_value(value)),
    })
}
