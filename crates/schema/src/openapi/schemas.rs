//! The definitions of types, as OpenAPI v2 and v3 have them.

use super::values::Values;
use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use crate::types::{Field, Graph, Kind, ListKind, Scalar, TypeId};

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Version {
    V2,
    V3,
}

impl Version {
    pub(crate) fn reference(self, name: &str) -> Value {
        let place = match self {
            Version::V2 => "definitions",
            Version::V3 => "components/schemas",
        };
        json!({ "$ref": format!("#/{place}/{name}") })
    }
}

/// A definition to be made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Definition {
    Struct(u16),
    /// Position in [`Scalar::NAMED`].
    Word(u8),
}

impl Definition {
    pub(crate) fn of(graph: &Graph, id: TypeId) -> Option<Definition> {
        match graph.kind(id) {
            Kind::Struct { index, .. } => Some(Definition::Struct(index)),
            Kind::Scalar(scalar) => Scalar::NAMED
                .iter()
                .position(|(s, _)| *s == scalar)
                .map(|at| Definition::Word(at as u8)),
            Kind::List { elem, .. } | Kind::Map { elem, .. } => Definition::of(graph, elem),
        }
    }

    pub(crate) fn named(graph: &Graph, name: &str) -> Option<Definition> {
        match graph.structs.binary_search_by(|s| s.name.cmp(name)) {
            Ok(index) => Some(Definition::Struct(index as u16)),
            Err(_) => Scalar::NAMED
                .iter()
                .position(|(_, n)| *n == name)
                .map(|at| Definition::Word(at as u8)),
        }
    }

    pub(crate) fn name(self, graph: &Graph) -> &'static str {
        match self {
            Definition::Struct(index) => graph.structs[usize::from(index)].name,
            Definition::Word(at) => Scalar::NAMED[usize::from(at)].1,
        }
    }
}

/// The definitions and all that they refer to.
pub(crate) fn closure(
    graph: &Graph,
    roots: impl IntoIterator<Item = Definition>,
) -> BTreeSet<Definition> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<Definition> = roots.into_iter().collect();
    while let Some(definition) = open.pop() {
        if !seen.insert(definition) {
            continue;
        }
        match definition {
            Definition::Struct(index) => open.extend(
                graph
                    .fields(&graph.structs[usize::from(index)])
                    .iter()
                    .filter_map(|f| Definition::of(graph, f.ty)),
            ),
            Definition::Word(at) => {
                if matches!(
                    Scalar::NAMED[usize::from(at)].0,
                    Scalar::PropsOrArray | Scalar::PropsOrBool | Scalar::PropsOrStrings
                ) {
                    open.extend(Definition::named(
                        graph,
                        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
                    ));
                }
            }
        }
    }
    seen
}

pub(crate) struct Writer<'a> {
    pub graph: &'a Graph,
    pub descriptions: &'a Descriptions,
    pub version: Version,
    pub values: &'a Values,
}

impl Writer<'_> {
    pub(crate) fn definition(&self, definition: Definition) -> Value {
        match definition {
            Definition::Word(at) => self.word(usize::from(at)),
            Definition::Struct(index) => self.structure(usize::from(index)),
        }
    }

    fn structure(&self, index: usize) -> Value {
        let s = &self.graph.structs[index];
        let mut out = Map::new();
        describe(&mut out, self.descriptions.of_struct(index, s));
        out.insert("type".into(), "object".into());
        let fields = self.graph.fields(s);
        if !fields.is_empty() {
            let properties = fields.iter().enumerate().map(|(at, field)| {
                let about = self.descriptions.of_field(index, s, at, field);
                let mut property = self.property(field, about);
                self.values.tell(s.name, field.name, &mut property);
                // upstream's lists of a kind say nothing of theirs
                if field.name == "items"
                    && s.gvks().any(|gvk| gvk.kind.ends_with("List"))
                    && let Some(property) = property.as_object_mut()
                {
                    property.remove("x-kubernetes-list-type");
                }
                (field.name.to_owned(), property)
            });
            out.insert("properties".into(), Value::Object(properties.collect()));
        }
        let required: Vec<&str> = fields
            .iter()
            .filter(|f| f.required)
            .map(|f| f.name)
            .collect();
        if !required.is_empty() {
            out.insert("required".into(), json!(required));
        }
        let gvks: Vec<Value> = s
            .gvks()
            .map(|gvk| json!({"group": gvk.group, "kind": gvk.kind, "version": gvk.version}))
            .collect();
        if !gvks.is_empty() {
            out.insert("x-kubernetes-group-version-kind".into(), gvks.into());
        }
        if s.atomic {
            out.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        let unions: Vec<Value> = s
            .unions
            .split(" union=")
            .filter_map(|u| serde_json::from_str(u.trim_start_matches("union=")).ok())
            .collect();
        if !unions.is_empty() {
            out.insert("x-kubernetes-unions".into(), unions.into());
        }
        Value::Object(out)
    }

    fn property(&self, field: &Field, description: &str) -> Value {
        let mut out = match self.value(field.ty) {
            Value::Object(out) => out,
            _ => Map::new(),
        };
        // In OpenAPI 3.0 a reference stands alone: what is said beside it needs the detour.
        if self.version == Version::V3
            && let Some(reference) = out.remove("$ref")
        {
            out.insert("allOf".into(), json!([{ "$ref": reference }]));
        }
        describe(&mut out, description);
        if self.version == Version::V3
            && let Some(default) = field.default.and_then(|d| serde_json::from_str(d).ok())
        {
            out.insert("default".into(), default);
        }
        match self.graph.kind(field.ty) {
            Kind::List { kind, .. } => {
                let (sort, keys) = match kind {
                    ListKind::Atomic => ("atomic", None),
                    ListKind::Set => ("set", None),
                    ListKind::Map(keys) => ("map", Some(keys)),
                };
                if let Some(keys) = keys {
                    out.insert(
                        "x-kubernetes-list-map-keys".into(),
                        keys.split(',').collect(),
                    );
                }
                out.insert("x-kubernetes-list-type".into(), sort.into());
            }
            Kind::Map { atomic: true, .. } => {
                out.insert("x-kubernetes-map-type".into(), "atomic".into());
            }
            Kind::Struct { index, atomic }
                if atomic != self.graph.structs[usize::from(index)].atomic =>
            {
                out.insert(
                    "x-kubernetes-map-type".into(),
                    if atomic { "atomic" } else { "granular" }.into(),
                );
            }
            _ => {}
        }
        let strategies: Vec<&str> = [
            (field.patch_merge, "merge"),
            (field.patch_replace, "replace"),
            (field.patch_retain_keys, "retainKeys"),
        ]
        .into_iter()
        .filter(|(is, _)| *is)
        .map(|(_, s)| s)
        .collect();
        if !strategies.is_empty() {
            out.insert(
                "x-kubernetes-patch-strategy".into(),
                strategies.join(",").into(),
            );
        }
        if !field.patch_merge_key.is_empty() {
            out.insert(
                "x-kubernetes-patch-merge-key".into(),
                field.patch_merge_key.into(),
            );
        }
        Value::Object(out)
    }

    fn value(&self, id: TypeId) -> Value {
        if let (Kind::Struct { .. } | Kind::Scalar(_), Some(definition)) =
            (self.graph.kind(id), Definition::of(self.graph, id))
        {
            return self.version.reference(definition.name(self.graph));
        }
        match self.graph.kind(id) {
            Kind::List { elem, .. } => json!({"type": "array", "items": self.value(elem)}),
            Kind::Map { elem, .. } => {
                json!({"type": "object", "additionalProperties": self.value(elem)})
            }
            Kind::Scalar(scalar) => match scalar {
                Scalar::Bytes => json!({"type": "string", "format": "byte"}),
                Scalar::Bool => json!({"type": "boolean"}),
                Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
                Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
                Scalar::Double => json!({"type": "number", "format": "double"}),
                _ => json!({"type": "string"}),
            },
            Kind::Struct { .. } => json!({}),
        }
    }

    fn word(&self, at: usize) -> Value {
        let v3 = self.version == Version::V3;
        let schema = match Scalar::NAMED[at].0 {
            Scalar::Quantity if v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Scalar::Quantity => json!({"type": "string"}),
            Scalar::IntOrString if v3 => {
                json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
            }
            Scalar::IntOrString => json!({"type": "string", "format": "int-or-string"}),
            Scalar::Duration => json!({"type": "string"}),
            Scalar::Time | Scalar::MicroTime => json!({"type": "string", "format": "date-time"}),
            Scalar::FieldsV1 | Scalar::Patch | Scalar::Raw => json!({"type": "object"}),
            _ => json!({}),
        };
        let mut out = match schema {
            Value::Object(out) => out,
            _ => Map::new(),
        };
        describe(&mut out, self.descriptions.of_word(at));
        Value::Object(out)
    }
}

fn describe(out: &mut Map<String, Value>, description: &str) {
    if !description.is_empty() {
        out.insert("description".into(), description.into());
    }
}
