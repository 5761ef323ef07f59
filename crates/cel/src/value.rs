//! Values. JSON is borrowed and read where an expression looks, never copied as a whole.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value as Json;

use knarr_quantity::Quantity;

use crate::authz::Authz;
use crate::error::EvalError;
use crate::functions::{cidr::Cidr, format::Format, ip::Ip, semver::Semver, urls::Url};
use crate::schema::{Schema, Shape, escape, unescape};
use crate::time::{Duration, Timestamp};
use crate::types::{ObjectType, Type};
use crate::work;

/// The longest list a function may build.
pub(crate) const MAX_ITEMS: usize = 1_000_000;

/// Text, borrowed from the input or owned.
#[derive(Clone)]
pub enum Str<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl Str<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Str::Borrowed(s) => s,
            Str::Shared(s) => s,
        }
    }
}

/// A value of the language. `'a` is the JSON it was evaluated over.
#[derive(Clone)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Str<'a>),
    Bytes(Arc<[u8]>),
    Duration(Duration),
    Timestamp(Timestamp),
    List(List<'a>),
    Map(Map<'a>),
    /// Built by an expression: `Object{...}`, `JSONPatch{...}`.
    Object(Arc<Object<'a>>),
    Optional(Option<Arc<Value<'a>>>),
    Type(Type),
    Quantity(Arc<Quantity>),
    Url(Arc<Url>),
    Ip(Ip),
    Cidr(Cidr),
    Semver(Arc<Semver>),
    Format(&'static Format),
    Authz(Arc<Authz<'a>>),
    /// Data without a schema inside data with one. It can only be compared.
    Preserved(&'a Json),
}

/// A list.
#[derive(Clone)]
pub struct List<'a> {
    pub(crate) items: Items<'a>,
    /// The list's own schema, if it came from data that has one.
    pub(crate) schema: Option<&'a Schema>,
}

#[derive(Clone)]
pub(crate) enum Items<'a> {
    Json(&'a [Json]),
    Owned(Arc<Vec<Value<'a>>>),
    /// Two lists one after the other, and how many items that is.
    Joined(Arc<(List<'a>, List<'a>)>, usize),
}

/// A map, or an object read from JSON.
#[derive(Clone)]
pub struct Map<'a> {
    pub(crate) entries: Entries<'a>,
    /// The map's own schema, if it came from data that has one.
    pub(crate) schema: Option<&'a Schema>,
}

#[derive(Clone)]
pub(crate) enum Entries<'a> {
    Json(&'a serde_json::Map<String, Json>),
    Owned(Arc<BTreeMap<Key, Value<'a>>>),
    /// As [`Entries::Owned`]; a path through a key that isn't there leads to an empty map.
    Open(Arc<BTreeMap<Key, Value<'a>>>),
}

/// What may be a map's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Arc<str>),
}

/// An object built by an expression.
pub struct Object<'a> {
    /// `Object.spec` or `JSONPatch`.
    pub ty: Arc<ObjectType>,
    pub fields: BTreeMap<String, Value<'a>>,
}

impl Key {
    pub(crate) fn of(v: &Value<'_>) -> Option<Key> {
        Some(match v {
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(i) => Key::Int(*i),
            Value::Uint(u) => Key::Uint(*u),
            Value::String(s) => Key::String(s.as_str().into()),
            _ => return None,
        })
    }
    /// The key as a value.
    pub fn value<'a>(&self) -> Value<'a> {
        match self {
            Key::Bool(b) => Value::Bool(*b),
            Key::Int(i) => Value::Int(*i),
            Key::Uint(u) => Value::Uint(*u),
            Key::String(s) => Value::String(Str::Shared(s.clone())),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Bool(b) => write!(f, "{b}"),
            Key::Int(i) => write!(f, "{i}"),
            Key::Uint(u) => write!(f, "{u}"),
            Key::String(s) => f.write_str(s),
        }
    }
}

impl<'a> Value<'a> {
    /// JSON without a schema: whole numbers are ints, others doubles, objects are maps.
    pub fn json(v: &'a Json) -> Value<'a> {
        match v {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match n.as_i64() {
                Some(i) => Value::Int(i),
                None => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(s) => Value::String(Str::Borrowed(s)),
            Json::Array(items) => Value::List(List {
                items: Items::Json(items),
                schema: None,
            }),
            Json::Object(m) => Value::Map(Map {
                entries: Entries::Json(m),
                schema: None,
            }),
        }
    }

    /// JSON as its schema says: date-times are timestamps, bytes are bytes, numbers doubles.
    ///
    /// An error if the data is not of the schema's type; its text is upstream's.
    pub fn typed(v: &'a Json, schema: &'a Schema) -> Result<Value<'a>, EvalError> {
        let bad = |what: &str| Err(EvalError::new(format!("invalid data, expected {what}")));
        Ok(match (&schema.shape, v) {
            (_, Json::Null) if schema.nullable => Value::Null,
            (_, Json::Null) => {
                return Err(EvalError::new(
                    "invalid data, got null for schema with nullable=false",
                ));
            }
            (Shape::IntOrString, Json::String(_)) => Value::json(v),
            (Shape::IntOrString, Json::Number(n)) if n.as_i64().is_some() => Value::json(v),
            (Shape::IntOrString, _) => {
                return bad("XIntOrString value to be either a string or integer");
            }
            (Shape::Object(_) | Shape::Map(_), Json::Object(m)) => Value::Map(Map {
                entries: Entries::Json(m),
                schema: Some(schema),
            }),
            (Shape::Object(_) | Shape::Map(_), _) => {
                return bad("a map for the provided schema with type=object");
            }
            (Shape::List { .. }, Json::Array(items)) => Value::List(List {
                items: Items::Json(items),
                schema: Some(schema),
            }),
            (Shape::List { .. }, _) => {
                return bad("an array for the provided schema with type=array");
            }
            (Shape::Number, Json::Number(n)) => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            (Shape::Number, _) => return bad(&format!("float, got {}", go_type(v))),
            (Shape::Integer, Json::Number(n)) if n.as_i64().is_some() => Value::json(v),
            (Shape::Integer, _) => return bad(&format!("int, got {}", go_type(v))),
            (Shape::Boolean, Json::Bool(b)) => Value::Bool(*b),
            (Shape::Boolean, _) => return bad(&format!("bool, got {}", go_type(v))),
            (Shape::Preserved, _) => Value::Preserved(v),
            (Shape::Unknown, _) => {
                return Err(EvalError::new(
                    "invalid type, expected object, array, number, integer, boolean or string, or no type with \
                     x-kubernetes-int-or-string or x-kubernetes-preserve-unknown-fields is true, got ",
                ));
            }
            (shape, Json::String(s)) => return typed_string(shape, s),
            _ => return bad(&format!("string, got {}", go_type(v))),
        })
    }

    /// A string.
    pub fn string(s: impl Into<Arc<str>>) -> Value<'a> {
        Value::String(Str::Shared(s.into()))
    }
    pub(crate) fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List {
            items: Items::Owned(Arc::new(items)),
            schema: None,
        })
    }
    pub(crate) fn map(entries: BTreeMap<Key, Value<'a>>) -> Value<'a> {
        Value::Map(Map {
            entries: Entries::Owned(Arc::new(entries)),
            schema: None,
        })
    }
    /// A map from text to values.
    pub fn map_of(entries: impl IntoIterator<Item = (String, Value<'a>)>) -> Value<'a> {
        Value::map(keyed(entries))
    }
    /// As [`Value::map_of`]; `m["x"].y` of a key that isn't there is as if an empty map were (`m["x"]` alone is that map).
    pub fn open_map(entries: impl IntoIterator<Item = (String, Value<'a>)>) -> Value<'a> {
        Value::Map(Map {
            entries: Entries::Open(Arc::new(keyed(entries))),
            schema: None,
        })
    }
    /// An amount.
    pub fn quantity(amount: Quantity) -> Value<'a> {
        Value::Quantity(Arc::new(amount))
    }
    /// A semantic version.
    ///
    /// # Errors
    /// Why the text is none, in the words of upstream's library.
    pub fn semver(text: &str) -> Result<Value<'a>, String> {
        Semver::parse(text).map(|v| Value::Semver(Arc::new(v)))
    }
    pub(crate) fn some(v: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Arc::new(v)))
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }
    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s.as_str()),
            _ => None,
        }
    }

    /// The value's type as `type(x)` gives it.
    pub fn type_of(&self) -> Type {
        let any = || Arc::new(Type::Dyn);
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Duration(_) => Type::Duration,
            Value::Timestamp(_) => Type::Timestamp,
            Value::List(_) => Type::List(any()),
            Value::Map(_) => Type::Map(any(), any()),
            Value::Object(o) => Type::Object(o.ty.clone()),
            Value::Optional(_) => Type::Optional(any()),
            Value::Type(_) => Type::Type(None),
            Value::Quantity(_) => Type::Opaque("kubernetes.Quantity"),
            Value::Url(_) => Type::Opaque("kubernetes.URL"),
            Value::Ip(_) => Type::Opaque("net.IP"),
            Value::Cidr(_) => Type::Opaque("net.CIDR"),
            Value::Semver(_) => Type::Opaque("kubernetes.Semver"),
            Value::Format(_) => Type::Opaque("kubernetes.NamedFormat"),
            Value::Authz(a) => a.type_of(),
            Value::Preserved(_) => Type::Opaque("unknown"),
        }
    }

    /// The name of the Go type upstream prints in some errors.
    pub(crate) fn go_type(&self) -> &'static str {
        match self {
            Value::Null => "types.Null",
            Value::Bool(_) => "types.Bool",
            Value::Int(_) => "types.Int",
            Value::Uint(_) => "types.Uint",
            Value::Double(_) => "types.Double",
            Value::String(_) => "types.String",
            Value::Bytes(_) => "types.Bytes",
            Value::Duration(_) => "types.Duration",
            Value::Timestamp(_) => "types.Timestamp",
            Value::Optional(_) => "*types.Optional",
            Value::Type(_) => "*types.Type",
            _ => "ref.Val",
        }
    }
}

fn keyed<'a>(entries: impl IntoIterator<Item = (String, Value<'a>)>) -> BTreeMap<Key, Value<'a>> {
    let key = |(k, v): (String, Value<'a>)| (Key::String(k.into()), v);
    entries.into_iter().map(key).collect()
}

impl Value<'_> {
    /// Whether objects an expression built are named by the fields they stand in: `Object.spec` in `spec` of `Object`.
    /// The messages of all that are not.
    pub fn check_type_names(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        if let Value::Object(o) = self {
            check_names(self, &o.ty.name, &mut wrong);
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

/// Lists and maps on the way have no name of their own.
fn check_names(v: &Value<'_>, path: &str, wrong: &mut Vec<String>) {
    if !work::spend() {
        return;
    }
    match v {
        Value::Object(o) => {
            let name = &o.ty.name;
            if name != path {
                wrong.push(format!(
                    "unexpected type name {name:?}, expected {path:?}, which matches field name path from root Object type"
                ));
            }
            o.fields
                .iter()
                .for_each(|(k, f)| check_names(f, &format!("{path}.{k}"), wrong));
        }
        Value::List(l) => l
            .iter()
            .flatten()
            .for_each(|v| check_names(&v, path, wrong)),
        Value::Map(m) => m
            .entries()
            .filter_map(|(_, v)| v.ok())
            .for_each(|v| check_names(&v, path, wrong)),
        _ => {}
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.to_json(), self) {
            (_, Value::Uint(u)) => write!(f, "{u}u"),
            (Ok(j), _) => write!(f, "{}({j})", self.type_of().name()),
            (Err(_), _) => f.write_str(self.type_of().name()),
        }
    }
}

fn typed_string<'a>(shape: &Shape, s: &'a str) -> Result<Value<'a>, EvalError> {
    Ok(match shape {
        Shape::Bytes => match crate::functions::base64_decode(s) {
            Some(b) => Value::Bytes(b.into()),
            None => {
                return Err(EvalError::new(format!(
                    "Invalid byte formatted string {s}: illegal base64 data"
                )));
            }
        },
        Shape::Duration => match Duration::parse_openapi(s) {
            Some(d) => Value::Duration(d),
            None => {
                return Err(EvalError::new(format!(
                    "Invalid duration {s}: unable to parse {s} as duration"
                )));
            }
        },
        Shape::Date => match Timestamp::parse_date(s) {
            Some(t) => Value::Timestamp(t),
            None => {
                return Err(EvalError::new(format!(
                    "Invalid date formatted string {s}: cannot parse"
                )));
            }
        },
        Shape::DateTime => match Timestamp::parse(s) {
            Some(t) => Value::Timestamp(t),
            None => {
                return Err(EvalError::new(format!(
                    "Invalid date-time formatted string {s}: cannot parse"
                )));
            }
        },
        _ => Value::String(Str::Borrowed(s)),
    })
}

/// The Go type upstream names in messages.
fn go_type(v: &Json) -> &'static str {
    match v {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(n) if n.is_f64() => "float64",
        Json::Number(_) => "int64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}

impl<'a> List<'a> {
    /// How many items.
    pub fn len(&self) -> usize {
        match &self.items {
            Items::Json(i) => i.len(),
            Items::Owned(i) => i.len(),
            Items::Joined(_, len) => *len,
        }
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The item at an index below `len`; an error if the data does not fit its schema.
    pub fn get(&self, index: usize) -> Option<Result<Value<'a>, EvalError>> {
        match &self.items {
            Items::Owned(i) => i.get(index).cloned().map(Ok),
            Items::Json(i) => Some(self.read(i.get(index)?)),
            Items::Joined(parts, _) => match index.checked_sub(parts.0.len()) {
                // a list joined of many is slow to look into
                _ if !work::spend() => Some(Err(EvalError::call_limit())),
                None => parts.0.get(index),
                Some(index) => parts.1.get(index),
            },
        }
    }
    pub(crate) fn joined(&self, other: &List<'a>) -> List<'a> {
        if other.is_empty() {
            return self.clone();
        }
        if self.is_empty() {
            return other.clone();
        }
        let len = self.len().saturating_add(other.len());
        let items = Items::Joined(Arc::new((self.clone(), other.clone())), len);
        List {
            items,
            schema: None,
        }
    }
    fn read(&self, v: &'a Json) -> Result<Value<'a>, EvalError> {
        match self.schema.map(|s| &s.shape) {
            Some(Shape::List {
                items: Some(of), ..
            }) => Value::typed(v, of),
            Some(_) => Err(EvalError::new(
                "invalid array type, expected Items with a non-empty Schema",
            )),
            None => Ok(Value::json(v)),
        }
    }
    /// All items.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, EvalError>> + '_ {
        (0..self.len()).filter_map(|i| self.get(i))
    }
    /// All items at once; an error if that is more than a list may be made of.
    pub(crate) fn to_vec(&self) -> Result<Vec<Value<'a>>, EvalError> {
        if self.len() > MAX_ITEMS {
            return Err(EvalError::call_limit());
        }
        self.iter().collect()
    }
}

impl<'a> Map<'a> {
    /// How many entries.
    pub fn len(&self) -> usize {
        match &self.entries {
            Entries::Json(m) => m.len(),
            Entries::Owned(m) | Entries::Open(m) => m.len(),
        }
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a string key: a field, as expressions write its name.
    pub fn field(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        match (&self.entries, self.schema.map(|s| &s.shape)) {
            (Entries::Owned(m) | Entries::Open(m), _) => {
                m.get(&Key::String(name.into())).cloned().map(Ok)
            }
            (Entries::Json(m), None) => m.get(name).map(|v| Ok(Value::json(v))),
            (Entries::Json(m), Some(Shape::Object(props))) => {
                let name = unescape(name)?;
                let v = m.get(&name).filter(|v| !v.is_null())?;
                Some(Value::typed(v, props.get(&name)?))
            }
            (Entries::Json(m), Some(Shape::Map(of))) => Some(Value::typed(m.get(name)?, of)),
            _ => None,
        }
    }

    /// The value of any key; numbers that are equal are the same key.
    pub(crate) fn find(&self, key: &Value<'_>) -> Option<Result<Value<'a>, EvalError>> {
        if let Value::String(s) = key {
            return self.field(s.as_str());
        }
        let (Entries::Owned(m) | Entries::Open(m)) = &self.entries else {
            return None;
        };
        let exact = Key::of(key).and_then(|k| m.get(&k));
        let equal = || match *key {
            Value::Int(i) => m.get(&Key::Uint(u64::try_from(i).ok()?)),
            Value::Uint(u) => m.get(&Key::Int(i64::try_from(u).ok()?)),
            Value::Double(d) => {
                let int = Some(d as i64)
                    .filter(|i| *i as f64 == d)
                    .and_then(|i| m.get(&Key::Int(i)));
                int.or_else(|| m.get(&Key::Uint(Some(d as u64).filter(|u| *u as f64 == d)?)))
            }
            _ => None,
        };
        exact.or_else(equal).cloned().map(Ok)
    }

    /// All entries an expression can see.
    pub fn entries(&self) -> impl Iterator<Item = (Value<'a>, Result<Value<'a>, EvalError>)> + '_ {
        self.keys()
            .into_iter()
            .filter_map(|k| self.find(&k).map(|v| (k, v)))
    }

    /// All keys an expression can see.
    pub(crate) fn keys(&self) -> Vec<Value<'a>> {
        match (&self.entries, self.schema.map(|s| &s.shape)) {
            (Entries::Owned(m) | Entries::Open(m), _) => m.keys().map(Key::value).collect(),
            (Entries::Json(m), Some(Shape::Object(props))) => m
                .keys()
                .filter(|k| props.contains_key(*k))
                .filter_map(|k| escape(k).map(Value::string))
                .collect(),
            (Entries::Json(m), _) => m.keys().map(|k| Value::String(Str::Borrowed(k))).collect(),
        }
    }
}
