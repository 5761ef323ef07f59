//! The type graph: what a type is, in compact arrays.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::table;

/// A type of the table (`io.k8s.api.core.v1.PodSpec`). Cheap to copy.
#[derive(Clone, Copy)]
pub struct TypeRef {
    pub(crate) graph: &'static Graph,
    pub(crate) id: TypeId,
}

/// What a type is made of, for those who make types of another system of it.
pub enum Shape {
    String,
    Bytes,
    Bool,
    Int,
    Double,
    Time,
    /// Quantities, int-or-string, free JSON: values of more than one kind.
    Any,
    List(TypeRef),
    Map(TypeRef),
    /// Fields by JSON name.
    Struct(Vec<(&'static str, TypeRef)>),
}

impl TypeRef {
    /// What it is made of.
    pub fn shape(self) -> Shape {
        let of = |id| TypeRef {
            graph: self.graph,
            id,
        };
        match self.graph.kind(self.id) {
            Kind::List { elem, .. } => Shape::List(of(elem)),
            Kind::Map { elem, .. } => Shape::Map(of(elem)),
            Kind::Struct { .. } => {
                let fields = self.graph.fields_of(self.id).map(|(_, f)| f);
                let fields = fields.into_iter().flatten();
                Shape::Struct(fields.map(|f| (f.name, of(f.ty))).collect())
            }
            Kind::Scalar(s) => match s {
                Scalar::String => Shape::String,
                Scalar::Bytes => Shape::Bytes,
                Scalar::Bool => Shape::Bool,
                Scalar::Int32 | Scalar::Int64 => Shape::Int,
                Scalar::Double => Shape::Double,
                Scalar::Time | Scalar::MicroTime => Shape::Time,
                _ => Shape::Any,
            },
        }
    }

    /// The OpenAPI name of a struct type; a word such as `string` or `list` for others.
    pub fn name(self) -> &'static str {
        match self.graph.kind(self.id) {
            Kind::Struct { index, .. } => self.graph.structs[index as usize].name,
            Kind::List { .. } => "list",
            Kind::Map { .. } => "map",
            Kind::Scalar(s) => s.word(),
        }
    }

    /// Whether Go writes this field even when nothing is in it.
    pub fn always(self, name: &str) -> bool {
        self.graph.field(self.id, name).is_some_and(|f| f.always)
    }

    /// Paths (`.spec.x`, `.spec.list[0]`) of what is replaced whole in a value of this type: atomic lists, maps and structs.
    pub fn atomic_parts(self, value: &serde_json::Value) -> Vec<String> {
        let mut found = Vec::new();
        self.atomics(value, &mut String::new(), &mut found);
        found
    }

    fn atomics(self, value: &serde_json::Value, path: &mut String, found: &mut Vec<String>) {
        let below = |id| TypeRef {
            graph: self.graph,
            id,
        };
        let end = path.len();
        match (self.graph.kind(self.id), value) {
            (Kind::List { elem, kind }, serde_json::Value::Array(items)) => {
                if kind == ListKind::Atomic {
                    found.push(path.clone());
                }
                for (i, item) in items.iter().enumerate() {
                    path.push_str(&format!("[{i}]"));
                    below(elem).atomics(item, path, found);
                    path.truncate(end);
                }
            }
            (Kind::Map { atomic, .. }, serde_json::Value::Object(_)) if atomic => {
                found.push(path.clone());
            }
            (Kind::Struct { atomic, .. }, serde_json::Value::Object(fields)) => {
                if atomic {
                    found.push(path.clone());
                }
                for (name, item) in fields {
                    if let Some(ty) = self.field(name) {
                        path.push('.');
                        path.push_str(name);
                        ty.atomics(item, path, found);
                        path.truncate(end);
                    }
                }
            }
            _ => {}
        }
    }

    /// The type of a field by its JSON name; None when the type is no struct or has no such field.
    pub fn field(self, name: &str) -> Option<TypeRef> {
        let field = self
            .graph
            .fields_of(self.id)?
            .1
            .iter()
            .find(|f| f.name == name)?;
        Some(TypeRef {
            graph: self.graph,
            id: field.ty,
        })
    }
}

impl PartialEq for TypeRef {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.graph, other.graph) && self.id == other.id
    }
}

impl std::fmt::Debug for TypeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TypeRef({})", self.name())
    }
}

/// The root type of a built-in kind; None when it isn't one.
pub fn kind(group: &str, version: &str, kind: &str) -> Option<TypeRef> {
    let graph = built_in();
    let id = *graph.roots.get(&Gvk {
        group,
        version,
        kind,
    })?;
    Some(TypeRef { graph, id })
}

/// The type of an OpenAPI name (`io.k8s.api.core.v1.PodSpec`); None when the table has none.
pub fn named(name: &str) -> Option<TypeRef> {
    let graph = built_in();
    let index = graph.structs.binary_search_by(|s| s.name.cmp(name)).ok()?;
    Some(TypeRef {
        graph,
        id: graph.structs[index].id,
    })
}

/// The graph of built-in types, parsed from the table at first use (about 1.5 ms) and kept.
pub(crate) fn built_in() -> &'static Graph {
    static GRAPH: LazyLock<Graph> =
        LazyLock::new(|| table::parse(include_str!("../data/types.txt")));
    &GRAPH
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct TypeId(pub u16);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Gvk<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
}

/// Values that the engine doesn't look into by fields.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Scalar {
    String,
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    /// `metav1.Duration`: Go's text (`1m30s`), nanoseconds in protobuf.
    Duration,
    /// Any JSON object.
    FieldsV1,
    /// Any JSON object.
    Patch,
    /// `runtime.RawExtension`: any JSON object.
    Raw,
    /// apiextensions' JSON: any value.
    Json,
    PropsOrArray,
    PropsOrBool,
    PropsOrStrings,
}

impl Scalar {
    pub(crate) const ALL: [(Scalar, &'static str); 18] = [
        (Scalar::String, "string"),
        (Scalar::Bytes, "bytes"),
        (Scalar::Bool, "bool"),
        (Scalar::Int32, "int32"),
        (Scalar::Int64, "int64"),
        (Scalar::Double, "double"),
        (Scalar::Quantity, "quantity"),
        (Scalar::IntOrString, "intorstring"),
        (Scalar::Time, "time"),
        (Scalar::MicroTime, "microtime"),
        (Scalar::Duration, "duration"),
        (Scalar::FieldsV1, "fieldsv1"),
        (Scalar::Patch, "patch"),
        (Scalar::Raw, "raw"),
        (Scalar::Json, "json"),
        (Scalar::PropsOrArray, "propsorarray"),
        (Scalar::PropsOrBool, "propsorbool"),
        (Scalar::PropsOrStrings, "propsorstrings"),
    ];

    /// The scalars that have a definition of their own in OpenAPI (the order is `build.rs`'s).
    pub(crate) const NAMED: [(Scalar, &'static str); 12] = [
        (
            Scalar::Quantity,
            "io.k8s.apimachinery.pkg.api.resource.Quantity",
        ),
        (
            Scalar::IntOrString,
            "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        ),
        (Scalar::Time, "io.k8s.apimachinery.pkg.apis.meta.v1.Time"),
        (
            Scalar::MicroTime,
            "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
        ),
        (
            Scalar::FieldsV1,
            "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
        ),
        (Scalar::Patch, "io.k8s.apimachinery.pkg.apis.meta.v1.Patch"),
        (Scalar::Raw, "io.k8s.apimachinery.pkg.runtime.RawExtension"),
        (
            Scalar::Json,
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
        ),
        (
            Scalar::PropsOrArray,
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
        ),
        (
            Scalar::PropsOrBool,
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
        ),
        (
            Scalar::PropsOrStrings,
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
        ),
        (
            Scalar::Duration,
            "io.k8s.apimachinery.pkg.apis.meta.v1.Duration",
        ),
    ];

    pub(crate) fn word(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(s, _)| *s == self)
            .map_or("", |(_, w)| w)
    }

    /// Whether the value is free JSON, whose shape says how it merges.
    pub(crate) fn is_free(self) -> bool {
        matches!(
            self,
            Scalar::FieldsV1
                | Scalar::Patch
                | Scalar::Raw
                | Scalar::Json
                | Scalar::PropsOrArray
                | Scalar::PropsOrBool
                | Scalar::PropsOrStrings
        )
    }
}

/// How the elements of a list are told apart when two writers share it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum ListKind {
    /// Owned as one value.
    Atomic,
    /// Scalars, each owned by its value.
    Set,
    /// Structs, each owned by its keys (comma-separated field names).
    Map(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Kind {
    Scalar(Scalar),
    List { elem: TypeId, kind: ListKind },
    Map { elem: TypeId, atomic: bool },
    Struct { index: u16, atomic: bool },
}

/// What Go writes for a field that nothing was put into (the engine writes nothing, but must compare as if it did).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Absent {
    Missing,
    Null,
    Zero,
}

/// One field of a struct.
#[derive(Debug)]
pub(crate) struct Field {
    pub name: &'static str,
    pub ty: TypeId,
    pub required: bool,
    /// Go's `omitempty` on a value type: empty strings, zeros, false and empty lists and maps aren't written.
    pub omit: bool,
    /// A struct by value in Go: written even when nothing is in it.
    pub always: bool,
    pub absent: Absent,
    /// JSON text.
    pub default: Option<&'static str>,
    pub patch_merge: bool,
    pub patch_replace: bool,
    pub patch_retain_keys: bool,
    /// Empty when there is none.
    pub patch_merge_key: &'static str,
    /// Go's name of the type where the engine couldn't derive it; else empty.
    pub go: &'static str,
    /// Go's embedded structs on the way; mostly empty.
    pub via: &'static str,
    /// Protobuf field numbers through embedded messages; zeros fill the end.
    pub protobuf: [u8; 3],
}

#[derive(Debug)]
pub(crate) struct Struct {
    /// OpenAPI name.
    pub name: &'static str,
    pub id: TypeId,
    pub atomic: bool,
    pub first_field: u16,
    pub field_count: u16,
    /// The `group/version/kind`s, separated by spaces.
    pub gvks: &'static str,
    /// `x-kubernetes-unions` entries as JSON, separated by spaces.
    pub unions: &'static str,
}

impl Struct {
    pub(crate) fn gvks(&self) -> impl Iterator<Item = Gvk<'static>> + use<> {
        self.gvks.split_ascii_whitespace().filter_map(|text| {
            let mut parts = text.splitn(3, '/');
            Some(Gvk {
                group: parts.next()?,
                version: parts.next()?,
                kind: parts.next()?,
            })
        })
    }
}

/// All types. Structs and their fields are sorted by name.
pub(crate) struct Graph {
    pub structs: Vec<Struct>,
    pub fields: Vec<Field>,
    pub kinds: Vec<Kind>,
    pub roots: HashMap<Gvk<'static>, TypeId>,
}

impl Graph {
    pub(crate) fn kind(&self, id: TypeId) -> Kind {
        self.kinds[id.0 as usize]
    }

    pub(crate) fn fields(&self, s: &Struct) -> &[Field] {
        &self.fields[s.first_field as usize..(s.first_field + s.field_count) as usize]
    }

    /// The struct and its fields; None when the type is no struct.
    pub(crate) fn fields_of(&self, id: TypeId) -> Option<(&Struct, &[Field])> {
        match self.kind(id) {
            Kind::Struct { index, .. } => {
                let s = &self.structs[index as usize];
                Some((s, self.fields(s)))
            }
            _ => None,
        }
    }

    pub(crate) fn field(&self, id: TypeId, name: &str) -> Option<&Field> {
        let (_, fields) = self.fields_of(id)?;
        fields
            .binary_search_by(|f| f.name.cmp(name))
            .ok()
            .map(|i| &fields[i])
    }

    /// Go's name of a type, as decoding errors print it.
    pub(crate) fn go_name(&self, id: TypeId) -> String {
        match self.kind(id) {
            Kind::Scalar(s) => match s {
                Scalar::String => "string",
                Scalar::Bytes => "[]uint8",
                Scalar::Bool => "bool",
                Scalar::Int32 => "int32",
                Scalar::Int64 => "int64",
                Scalar::Double => "float64",
                Scalar::Quantity => "resource.Quantity",
                Scalar::IntOrString => "intstr.IntOrString",
                Scalar::Time => "v1.Time",
                Scalar::MicroTime => "v1.MicroTime",
                Scalar::Duration => "v1.Duration",
                Scalar::FieldsV1 => "v1.FieldsV1",
                Scalar::Patch => "v1.Patch",
                Scalar::Raw => "runtime.RawExtension",
                Scalar::Json => "v1.JSON",
                Scalar::PropsOrArray => "v1.JSONSchemaPropsOrArray",
                Scalar::PropsOrBool => "v1.JSONSchemaPropsOrBool",
                Scalar::PropsOrStrings => "v1.JSONSchemaPropsOrStringArray",
            }
            .to_owned(),
            Kind::List { elem, .. } => format!("[]{}", self.go_name(elem)),
            Kind::Map { elem, .. } => format!("map[string]{}", self.go_name(elem)),
            Kind::Struct { index, .. } => {
                let mut parts = self.structs[index as usize].name.rsplitn(3, '.');
                let (short, package) = (
                    parts.next().unwrap_or_default(),
                    parts.next().unwrap_or_default(),
                );
                format!("{package}.{short}")
            }
        }
    }
}
