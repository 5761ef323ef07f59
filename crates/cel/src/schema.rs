//! From an OpenAPI v3 structural schema to a type, the sizes that costs are estimated from, and how JSON is read.
//! Follows k8s.io/apiserver/pkg/cel/common `SchemaDeclType` and `UnstructuredToVal`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::types::{Field, Fields, ObjectType, Type};

/// The largest request an API server takes, in bytes; bounds what has no bound of its own.
const MAX_REQUEST: i64 = 3 * 1024 * 1024;
/// Schemas nested deeper than this are not exposed.
const MAX_DEPTH: usize = 100;

/// A schema as expressions see it. Made once, used for checking, for cost estimates and for reading values.
#[derive(Debug)]
pub struct Schema {
    /// `None` if the schema is not exposed to expressions; its values can still be compared.
    pub(crate) ty: Option<Type>,
    /// The largest size (characters, items, entries) a valid value can have; the cost estimate's unit.
    pub(crate) max_elements: i64,
    min_serialized: i64,
    pub(crate) nullable: bool,
    pub(crate) shape: Shape,
}

#[derive(Debug)]
pub(crate) enum Shape {
    IntOrString,
    String,
    Bytes,
    Duration,
    Date,
    DateTime,
    Number,
    Integer,
    Boolean,
    List {
        items: Option<Arc<Schema>>,
        kind: ListKind,
    },
    Map(Arc<Schema>),
    /// By the property's own name.
    Object(BTreeMap<String, Arc<Schema>>),
    /// `x-kubernetes-preserve-unknown-fields` without a type.
    Preserved,
    Unknown,
}

/// `x-kubernetes-list-type`, which decides equality and `+`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListKind {
    Atomic,
    Set,
    /// The merge keys.
    Map(Vec<String>),
}

impl Schema {
    /// Reads a schema. `is_resource_root` for the root of a custom or embedded resource, whose type and object meta are
    /// always there. `name` is what the types in it are called in messages (`name.spec.@idx`…).
    ///
    /// `None` if the schema is not exposed to expressions: no type, or items that have none.
    pub fn from_openapi(schema: &Json, is_resource_root: bool, name: &str) -> Option<Arc<Schema>> {
        let s = Schema::read(schema, is_resource_root, name, 0);
        s.ty.is_some().then(|| Arc::new(s))
    }

    /// How many such values a request can have at most: what bounds the cost of a rule on items that nothing else bounds.
    pub fn max_cardinality(&self) -> u64 {
        // at least one comma between them
        (MAX_REQUEST / (self.min_serialized + 1)).max(0) as u64
    }

    /// The type to check with.
    pub fn ty(&self) -> Type {
        self.ty.clone().unwrap_or(Type::Dyn)
    }

    /// The schema of a field, `@items`, `@values` or `@keys` below this one, as cost paths name them.
    pub(crate) fn below(&self, step: &str) -> Option<&Schema> {
        match (&self.shape, step) {
            (Shape::List { items, .. }, "@items") => items.as_deref(),
            (Shape::Map(v), "@values") => Some(v),
            // a keyword written as it is finds its field, but no size: upstream's estimates look for the escaped name
            (Shape::Object(props), _) if !is_reserved(step) => {
                let name = unescape(step)?;
                props.get(&name).map(|p| &**p).filter(|p| p.ty.is_some())
            }
            _ => None,
        }
    }

    fn new(shape: Shape, ty: Option<Type>, max_elements: i64, min_serialized: i64) -> Schema {
        Schema {
            ty,
            max_elements,
            min_serialized,
            nullable: false,
            shape,
        }
    }

    fn read(s: &Json, root: bool, name: &str, depth: usize) -> Schema {
        let mut read = Schema::read_shape(s, root, name, depth);
        read.nullable = s["nullable"].as_bool().unwrap_or(false);
        read
    }

    fn read_shape(s: &Json, root: bool, name: &str, depth: usize) -> Schema {
        if depth > MAX_DEPTH {
            return Schema::new(Shape::Unknown, None, 0, 0);
        }
        let max_length = s["maxLength"].as_i64().map(|n| n.max(0));
        if s["x-kubernetes-int-or-string"] == true {
            let max = max_length.map_or(MAX_REQUEST - 2, |n| n.saturating_mul(4));
            return Schema::new(Shape::IntOrString, Some(Type::Dyn), max, 1);
        }
        match schema_type(s) {
            "array" => Schema::read_list(s, name, depth),
            "object" => Schema::read_object(s, root, name, depth),
            "string" => Schema::read_string(s, max_length),
            "boolean" => Schema::new(Shape::Boolean, Some(Type::Bool), 0, 4),
            "number" => Schema::new(Shape::Number, Some(Type::Double), 0, 1),
            "integer" => Schema::new(Shape::Integer, Some(Type::Int), 0, 1),
            _ if s["x-kubernetes-preserve-unknown-fields"] == true => {
                Schema::new(Shape::Preserved, None, 0, 0)
            }
            _ => Schema::new(Shape::Unknown, None, 0, 0),
        }
    }

    fn read_string(s: &Json, max_length: Option<i64>) -> Schema {
        match s["format"].as_str() {
            Some("byte") => Schema::new(
                Shape::Bytes,
                Some(Type::Bytes),
                max_length.unwrap_or(MAX_REQUEST - 2),
                2,
            ),
            Some("duration") => Schema::new(Shape::Duration, Some(Type::Duration), 32, 3),
            Some("date") => Schema::new(Shape::Date, Some(Type::Timestamp), 12, 12),
            Some("date-time") => Schema::new(Shape::DateTime, Some(Type::Timestamp), 32, 21),
            _ => {
                // maxLength counts code points, of up to 4 bytes each
                let max = match (max_length, s["enum"].as_array()) {
                    (Some(n), _) => n.saturating_mul(4),
                    (None, Some(of)) if !of.is_empty() => of
                        .iter()
                        .filter_map(Json::as_str)
                        .map(|e| e.len() as i64)
                        .max()
                        .unwrap_or(0),
                    _ => MAX_REQUEST - 2,
                };
                Schema::new(Shape::String, Some(Type::String), max, 2)
            }
        }
    }

    fn read_list(s: &Json, name: &str, depth: usize) -> Schema {
        let kind = match s["x-kubernetes-list-type"].as_str() {
            Some("set") => ListKind::Set,
            Some("map") => {
                let keys = s["x-kubernetes-list-map-keys"]
                    .as_array()
                    .into_iter()
                    .flatten();
                ListKind::Map(keys.filter_map(Json::as_str).map(String::from).collect())
            }
            _ => ListKind::Atomic,
        };
        let items = s.get("items").filter(|i| i.is_object());
        let items = items.map(|i| Schema::read(i, embedded(i), &format!("{name}.@idx"), depth + 1));
        let ty = items.as_ref().and_then(|i| i.ty.clone()).map(Type::list);
        let smallest = items.as_ref().map_or(0, |i| i.min_serialized);
        let max = s["maxItems"]
            .as_i64()
            .map_or((MAX_REQUEST - 2) / (smallest + 1), |n| n.max(0));
        Schema::new(
            Shape::List {
                items: items.map(Arc::new),
                kind,
            },
            ty,
            max,
            2,
        )
    }

    fn read_object(s: &Json, root: bool, name: &str, depth: usize) -> Schema {
        if let Some(values) = s.get("additionalProperties").filter(|a| a.is_object()) {
            let v = Schema::read(
                values,
                embedded(values),
                &format!("{name}.@elem"),
                depth + 1,
            );
            let max = s["maxProperties"]
                .as_i64()
                .map_or((MAX_REQUEST - 2) / (v.min_serialized + 6), |n| n.max(0));
            let ty = v.ty.clone().map(|v| Type::map(Type::String, v));
            return Schema::new(Shape::Map(Arc::new(v)), ty, max, 2);
        }
        let required: Vec<&str> = s["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .collect();
        let declared = s["properties"].as_object();
        let meta = (root && !declares_meta(declared))
            .then(type_and_object_meta)
            .unwrap_or_default();
        let own = declared
            .into_iter()
            .flatten()
            .filter(|(k, _)| !meta.contains_key(*k));
        let (mut fields, mut props, mut size) = (BTreeMap::new(), BTreeMap::new(), 2);
        for (key, prop) in own.chain(&meta) {
            let escaped = escape(key);
            let below = format!("{name}.{}", escaped.as_deref().unwrap_or(key));
            let p = Schema::read(prop, embedded(prop), &below, depth + 1);
            let required = required.contains(&key.as_str());
            if let Some(ty) = &p.ty {
                if let Some(escaped) = escaped {
                    fields.insert(
                        escaped,
                        Field {
                            ty: ty.clone(),
                            required,
                        },
                    );
                }
                // defaults are filled in by the server, so they need not be in a request
                if required && prop.get("default").is_none_or(Json::is_null) {
                    size += key.len() as i64 + p.min_serialized + 4;
                }
            }
            props.insert(key.clone(), Arc::new(p));
        }
        let ty = Type::Object(Arc::new(ObjectType {
            name: name.to_string(),
            fields: Fields::Declared(fields),
        }));
        Schema::new(Shape::Object(props), Some(ty), 0, size)
    }
}

impl Type {
    /// The type of a schema, if expressions may see it. See [`Schema::from_openapi`], which also keeps what estimates
    /// and values need.
    pub fn from_openapi(schema: &Json, is_resource_root: bool) -> Option<Type> {
        Schema::from_openapi(schema, is_resource_root, "object").map(|s| s.ty())
    }
}

fn schema_type(s: &Json) -> &str {
    match &s["type"] {
        Json::String(t) => t,
        Json::Array(ts) => ts.first().and_then(Json::as_str).unwrap_or(""),
        _ => "",
    }
}

fn embedded(s: &Json) -> bool {
    s["x-kubernetes-embedded-resource"] == true
}

/// What every resource has at its root, declared or not.
fn type_and_object_meta() -> serde_json::Map<String, Json> {
    let text = || serde_json::json!({"type": "string"});
    let metadata = serde_json::json!({"type": "object", "properties": {"name": text(), "generateName": text()}});
    [
        ("kind".into(), text()),
        ("apiVersion".into(), text()),
        ("metadata".into(), metadata),
    ]
    .into_iter()
    .collect()
}

/// Whether the schema declares all of type and object meta itself, in which case it stays as it is.
fn declares_meta(declared: Option<&serde_json::Map<String, Json>>) -> bool {
    let Some(p) = declared else { return false };
    let is = |s: Option<&Json>, t: &str| s.is_some_and(|s| schema_type(s) == t);
    let metadata = p.get("metadata");
    is(p.get("kind"), "string")
        && is(p.get("apiVersion"), "string")
        && is(metadata, "object")
        && is(metadata.and_then(|m| m["properties"].get("name")), "string")
        && is(
            metadata.and_then(|m| m["properties"].get("generateName")),
            "string",
        )
}

const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether a name can stand for a variable (`IDENT` of the language's grammar).
pub fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
        && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
        && !is_reserved(name)
}

/// Whether the language keeps a word for itself.
pub(crate) fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word)
}

/// The identifier an expression uses for a property; `None` if no identifier can name it.
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let (len, text) = match c {
            '_' if rest.starts_with("__") => (2, "__underscores__"),
            '.' => (1, "__dot__"),
            '-' => (1, "__dash__"),
            '/' => (1, "__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => (1, &rest[..1]),
            _ => return None,
        };
        out.push_str(text);
        rest = &rest[len..];
    }
    Some(out)
}

/// The property an identifier names.
pub fn unescape(name: &str) -> Option<String> {
    if !name.contains("__") {
        return Some(name.to_string());
    }
    if let Some(word) = name
        .strip_prefix("__")
        .and_then(|n| n.strip_suffix("__"))
        .filter(|n| RESERVED.contains(n))
    {
        return Some(word.to_string());
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(i) = rest.find("__") {
        out.push_str(&rest[..i]);
        let marks = [
            ("__underscores__", "__"),
            ("__dot__", "."),
            ("__dash__", "-"),
            ("__slash__", "/"),
        ];
        let (mark, text) = marks.iter().find(|(m, _)| rest[i..].starts_with(m))?;
        out.push_str(text);
        rest = &rest[i + mark.len()..];
    }
    out.push_str(rest);
    Some(out)
}
