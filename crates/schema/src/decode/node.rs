//! The reading of one value by its type.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{Context, MANAGED_FIELDS, complete, is_empty, zero_of};
use crate::scalar;
use crate::types::{Kind, Scalar, TypeId};

/// Reads one value of a type.
pub(super) struct Node<'c> {
    pub ctx: &'c mut Context,
    pub ty: TypeId,
    /// Go's name of the type where the field knows better; else empty.
    pub go: &'static str,
}

impl Node<'_> {
    fn kind(&self) -> Kind {
        self.ctx.graph.kind(self.ty)
    }

    fn go_name(&self) -> String {
        if self.go.is_empty() {
            self.ctx.graph.go_name(self.ty)
        } else {
            self.go.to_owned()
        }
    }

    fn wrong<E>(self, found: &str) -> Result<Value, E> {
        if self.ctx.wrong.is_none() {
            self.ctx.wrong = Some(self.ctx.type_error(found, &self.go_name()));
        }
        Ok(Value::Null)
    }

    fn fatal<E: serde::de::Error>(self, message: String) -> Result<Value, E> {
        self.ctx.fatal = Some(message);
        Err(E::custom("the value was refused by its type"))
    }

    fn fatal_type<E: serde::de::Error>(self, found: &str, go_type: &str) -> Result<Value, E> {
        let message = self.ctx.type_error(found, go_type);
        self.fatal(message)
    }

    /// A scalar that isn't a number or string where the type has its own reading.
    fn odd<E: serde::de::Error>(self, scalar: Scalar, found: &str) -> Result<Value, E> {
        match scalar {
            Scalar::Quantity => self.fatal(knarr_quantity::ParseError::Format.to_string()),
            Scalar::IntOrString => self.fatal_type(found, "int32"),
            Scalar::Time | Scalar::MicroTime => self.fatal_type(found, "string"),
            Scalar::PropsOrBool => self.fatal("boolean or JSON schema expected".to_owned()),
            Scalar::PropsOrArray => self.fatal("array or JSON schema expected".to_owned()),
            Scalar::PropsOrStrings => {
                self.fatal("array of strings or JSON schema expected".to_owned())
            }
            _ => self.wrong(found),
        }
    }

    fn number<E: serde::de::Error>(self, number: serde_json::Number) -> Result<Value, E> {
        let Kind::Scalar(scalar) = self.kind() else {
            return self.wrong("number");
        };
        match scalar {
            Scalar::Int32 if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {
                Ok(Value::Number(number))
            }
            Scalar::Int64 if number.is_i64() => Ok(Value::Number(number)),
            Scalar::Int32 | Scalar::Int64 => self.wrong(&format!("number {number}")),
            Scalar::Double | Scalar::Json | Scalar::Raw | Scalar::FieldsV1 | Scalar::Patch => {
                Ok(Value::Number(number))
            }
            Scalar::IntOrString if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {
                Ok(Value::Number(number))
            }
            Scalar::IntOrString => self.fatal_type(&format!("number {number}"), "int32"),
            Scalar::Quantity => match scalar::check_quantity(&number.to_string()) {
                Ok(()) => Ok(Value::String(number.to_string())),
                Err(message) => self.fatal(message),
            },
            other => self.odd(other, "number"),
        }
    }

    fn text<E: serde::de::Error>(self, text: Cow<'_, str>) -> Result<Value, E> {
        let Kind::Scalar(scalar) = self.kind() else {
            return self.wrong("string");
        };
        let checked = match scalar {
            Scalar::String
            | Scalar::IntOrString
            | Scalar::Duration
            | Scalar::Json
            | Scalar::Raw
            | Scalar::FieldsV1
            | Scalar::Patch => Ok(text.into_owned()),
            Scalar::Bytes => scalar::check_base64(&text).map(|()| text.into_owned()),
            Scalar::Quantity => scalar::check_quantity(&text).map(|()| text.trim().to_owned()),
            Scalar::Time => scalar::time(&text),
            Scalar::MicroTime => scalar::micro_time(&text),
            other => return self.odd(other, "string"),
        };
        match checked {
            Ok(text) => Ok(Value::String(text)),
            // Go remembers a base64 fault as it does a wrong type; the others come from the types' own UnmarshalJSON.
            Err(message) if scalar == Scalar::Bytes => {
                self.ctx.wrong.get_or_insert(message);
                Ok(Value::Null)
            }
            Err(message) => self.fatal(message),
        }
    }

    fn struct_fields<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let ctx = self.ctx;
        let Some((s, fields)) = ctx.graph.fields_of(self.ty) else {
            return Ok(Value::Null);
        };
        let mut out = Map::new();
        let mut seen = vec![false; fields.len()];
        let owner = ctx.owner;
        while let Some(key) = map.next_key_seed(Key)? {
            let Ok(at) = fields.binary_search_by(|f| f.name.cmp(&*key)) else {
                ctx.strict(false, &key);
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let field = &fields[at];
            if std::mem::replace(&mut seen[at], true) {
                ctx.strict(true, field.name);
            }
            let (length, depth) = (ctx.push_key(field.name), ctx.go_path.len());
            ctx.owner = Some(s.name);
            ctx.go_path
                .extend(field.via.split('.').filter(|v| !v.is_empty()));
            ctx.go_path.push(field.name);
            let value = map.next_value_seed(Node {
                ctx,
                ty: field.ty,
                go: field.go,
            })?;
            ctx.path.truncate(length);
            ctx.go_path.truncate(depth);
            ctx.owner = owner;
            if value.is_null() && !matches!(ctx.graph.kind(field.ty), Kind::Scalar(Scalar::Json))
                || field.omit && is_empty(&value) && field.name != MANAGED_FIELDS
            {
                out.remove(field.name);
            } else {
                out.insert(field.name.to_owned(), value);
            }
        }
        complete(ctx.graph, fields, &mut out);
        Ok(Value::Object(out))
    }

    fn map_values<'de, A: MapAccess<'de>>(
        self,
        elem: TypeId,
        mut map: A,
    ) -> Result<Value, A::Error> {
        let go = self.go.split_once(']').map_or("", |(_, value)| value);
        let ctx = self.ctx;
        let mut out = Map::new();
        while let Some(key) = map.next_key_seed(Key)? {
            if out.contains_key(&*key) {
                ctx.strict(true, &key);
            }
            let length = ctx.push_key(&key);
            let mut value = map.next_value_seed(Node { ctx, ty: elem, go })?;
            ctx.path.truncate(length);
            if value.is_null() {
                value = zero_of(ctx.graph, elem);
            }
            // a ResourceList, which upstream's defaulting rounds
            if ctx.graph.kind(elem) == Kind::Scalar(Scalar::Quantity)
                && let Some(mut amount) = knarr_quantity::Quantity::of(&value)
            {
                amount.round_up(-3);
                value = amount.canonical().into();
            }
            out.insert(key.into_owned(), value);
        }
        Ok(Value::Object(out))
    }

    /// JSONSchemaProps inside one of the `JSONSchemaPropsOr…` types, which read without strictness.
    fn props<'de, D: Deserializer<'de>>(self, list: bool, de: D) -> Result<Value, D::Error> {
        let Some(props) = crate::types::named(
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
        ) else {
            return Ok(Value::Null);
        };
        let ctx = self.ctx;
        let strict = (ctx.unknown.len(), ctx.duplicate.len());
        let value = if list {
            let values = de.deserialize_seq(Elements { ctx, ty: props.id })?;
            Value::Array(values)
        } else {
            Node {
                ctx,
                ty: props.id,
                go: "",
            }
            .deserialize(de)?
        };
        ctx.unknown.truncate(strict.0);
        ctx.duplicate.truncate(strict.1);
        Ok(value)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<Value, D::Error> {
        de.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, b: bool) -> Result<Value, E> {
        match self.kind() {
            Kind::Scalar(
                Scalar::Bool
                | Scalar::PropsOrBool
                | Scalar::Json
                | Scalar::Raw
                | Scalar::FieldsV1
                | Scalar::Patch,
            ) => Ok(Value::Bool(b)),
            Kind::Scalar(other) => self.odd(other, "bool"),
            _ => self.wrong("bool"),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Value, E> {
        self.number(n.into())
    }

    fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Value, E> {
        self.number(n.into())
    }

    fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<Value, E> {
        match serde_json::Number::from_f64(n) {
            Some(n) => self.number(n),
            None => self.wrong("number"),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.text(Cow::Borrowed(text))
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Value, E> {
        self.text(Cow::Owned(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let access = |seq| serde::de::value::SeqAccessDeserializer::new(seq);
        match self.kind() {
            Kind::List { elem, .. } => {
                let go = self.go.strip_prefix("[]").unwrap_or_default();
                let ctx = self.ctx;
                let mut out = Vec::new();
                let length = ctx.path.len();
                loop {
                    // Writing to a String can't fail.
                    let _ = write!(ctx.path, "[{}]", out.len());
                    let next = seq.next_element_seed(Node { ctx, ty: elem, go })?;
                    ctx.path.truncate(length);
                    match next {
                        Some(Value::Null) => out.push(zero_of(ctx.graph, elem)),
                        Some(value) => out.push(value),
                        None => return Ok(Value::Array(out)),
                    }
                }
            }
            Kind::Scalar(Scalar::PropsOrArray) => self.props(true, access(seq)),
            Kind::Scalar(
                Scalar::Json
                | Scalar::Raw
                | Scalar::FieldsV1
                | Scalar::Patch
                | Scalar::PropsOrStrings,
            ) => {
                let mut out = Vec::new();
                while let Some(value) = seq.next_element()? {
                    out.push(value);
                }
                Ok(Value::Array(out))
            }
            kind => {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                match kind {
                    Kind::Scalar(scalar) => self.odd(scalar, "array"),
                    _ => self.wrong("array"),
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        match self.kind() {
            Kind::Struct { .. } => self.struct_fields(map),
            Kind::Map { elem, .. } => self.map_values(elem, map),
            Kind::Scalar(Scalar::PropsOrArray | Scalar::PropsOrBool | Scalar::PropsOrStrings) => {
                self.props(false, serde::de::value::MapAccessDeserializer::new(map))
            }
            Kind::Scalar(scalar) if scalar.is_free() => {
                let mut out = Map::new();
                while let Some((key, value)) = map.next_entry()? {
                    out.insert(key, value);
                }
                Ok(Value::Object(out))
            }
            kind => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                match kind {
                    Kind::Scalar(scalar) => self.odd(scalar, "object"),
                    _ => self.wrong("object"),
                }
            }
        }
    }
}

/// A list whose elements all have one type, without positions in the path.
struct Elements<'c> {
    ctx: &'c mut Context,
    ty: TypeId,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = Vec<Value>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Value>, A::Error> {
        let mut out = Vec::new();
        while let Some(value) = seq.next_element_seed(Node {
            ctx: &mut *self.ctx,
            ty: self.ty,
            go: "",
        })? {
            out.push(value);
        }
        Ok(out)
    }
}

/// An object key, borrowed from the input where it can be.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<Self::Value, D::Error> {
        de.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a string key")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text))
    }

    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Self::Value, E> {
        Err(E::custom("a key is not UTF-8"))
    }
}
