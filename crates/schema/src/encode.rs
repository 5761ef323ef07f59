//! JSON of a known type to Kubernetes' protobuf encoding, in one pass over the bytes.
//!
//! The reverse of [`crate::decode_protobuf`]: field numbers come from the type table, an object is wrapped in the `k8s\0` envelope (`runtime.Unknown`). Follows apimachinery's serializer/protobuf and the `generated.proto` files. What the JSON leaves out stays out; Go's encoder writes zeros there, which every reader takes for the same. The fields of Go's embedded structs are written as one message each, which readers merge as protobuf demands.

use std::fmt;

use base64::Engine as _;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::DecodeError;
use crate::types::{Field, Graph, Kind, Scalar, TypeId, TypeRef, kind, named};

const MAGIC: &[u8] = b"k8s\0";
const PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

type Result<T> = std::result::Result<T, DecodeError>;

/// A JSON object of a type as its protobuf message, without an envelope; appended to `out`.
///
/// # Errors
/// When the JSON isn't an object of that type. `out` then holds a part of it.
pub fn protobuf_message(ty: TypeRef, json: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut de = serde_json::Deserializer::from_slice(json);
    let message = Message {
        graph: ty.graph,
        ty: ty.id,
        out,
    };
    (&mut de).deserialize_map(message).map_err(fault)
}

/// A JSON object of a built-in kind, or of `meta.k8s.io`'s PartialObjectMetadata, in its envelope.
///
/// # Errors
/// When the kind has no protobuf encoding, or the JSON isn't an object of that kind.
pub fn encode_protobuf(api_version: &str, kind_name: &str, json: &[u8]) -> Result<Vec<u8>> {
    let mut raw = Vec::with_capacity(json.len());
    if !partial(api_version, kind_name, json, &mut raw)? {
        let (group, version) = match api_version {
            // what discovery says of itself has no version; it is v1's
            "" => ("", "v1"),
            _ => api_version.split_once('/').unwrap_or(("", api_version)),
        };
        let ty = kind(group, version, kind_name).ok_or_else(|| unknown(api_version, kind_name))?;
        protobuf_message(ty, json, &mut raw)?;
    }
    let mut out = protobuf_envelope(api_version, kind_name, raw.len());
    out.reserve(raw.len() + ENVELOPE_TAIL.len());
    out.extend_from_slice(&raw);
    out.extend_from_slice(&ENVELOPE_TAIL);
    Ok(out)
}

/// `metav1.ListMeta` as the first field of a list's message; appended to `out`.
///
/// # Errors
/// When the JSON isn't a ListMeta.
pub fn protobuf_list_meta(json: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let meta = named(LIST_META).ok_or_else(|| unknown("meta.k8s.io/v1", "ListMeta"))?;
    delimited(out, 1, |out| protobuf_message(meta, json, out))
}

/// One item of a list's message (field 2 of every list kind); appended to `out`.
///
/// # Errors
/// When the JSON isn't an object of that type.
pub fn protobuf_list_item(ty: TypeRef, json: &[u8], out: &mut Vec<u8>) -> Result<()> {
    delimited(out, 2, |out| protobuf_message(ty, json, out))
}

/// What comes before an object's message of `length` bytes; [`ENVELOPE_TAIL`] comes after it.
pub fn protobuf_envelope(api_version: &str, kind_name: &str, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + api_version.len() + kind_name.len());
    out.extend_from_slice(MAGIC);
    let typed: Result<()> = delimited(&mut out, 1, |out| {
        bytes(out, 1, api_version.as_bytes());
        bytes(out, 2, kind_name.as_bytes());
        Ok(())
    });
    debug_assert!(typed.is_ok(), "two strings always encode");
    tag(&mut out, 2, 2);
    varint(&mut out, length as u64);
    out
}

/// The envelope's empty contentEncoding and contentType.
pub const ENVELOPE_TAIL: [u8; 4] = [0x1a, 0, 0x22, 0];

/// A frame of a watch: its length in four bytes, then a `metav1.WatchEvent` around an enveloped object; appended to `out`.
pub fn protobuf_watch_frame(event: &str, object: &[u8], out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    bytes(out, 1, event.as_bytes());
    let framed: Result<()> = delimited(out, 2, |out| {
        bytes(out, 1, object);
        Ok(())
    });
    debug_assert!(framed.is_ok(), "bytes always encode");
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Kinds whose message is known without the table; false when it is none of them.
fn partial(api_version: &str, kind_name: &str, json: &[u8], out: &mut Vec<u8>) -> Result<bool> {
    #[derive(serde::Deserialize)]
    struct Parts<'a> {
        #[serde(borrow)]
        metadata: Option<&'a RawValue>,
        #[serde(borrow, default)]
        items: Vec<&'a RawValue>,
    }
    if !api_version.starts_with("meta.k8s.io/")
        || !matches!(
            kind_name,
            "PartialObjectMetadata" | "PartialObjectMetadataList"
        )
    {
        return Ok(false);
    }
    let meta = named(OBJECT_META).ok_or_else(|| unknown(api_version, "ObjectMeta"))?;
    let one = |json: &[u8], out: &mut Vec<u8>| {
        let parts: Parts<'_> = serde_json::from_slice(json).map_err(fault)?;
        match parts.metadata {
            Some(m) => delimited(out, 1, |out| {
                protobuf_message(meta, m.get().as_bytes(), out)
            }),
            None => Ok(()),
        }
    };
    if kind_name == "PartialObjectMetadata" {
        one(json, out)?;
        return Ok(true);
    }
    let parts: Parts<'_> = serde_json::from_slice(json).map_err(fault)?;
    if let Some(m) = parts.metadata {
        protobuf_list_meta(m.get().as_bytes(), out)?;
    }
    for item in parts.items {
        delimited(out, 2, |out| one(item.get().as_bytes(), out))?;
    }
    Ok(true)
}

fn unknown(api_version: &str, kind_name: &str) -> DecodeError {
    DecodeError(format!(
        "{api_version} {kind_name} has no protobuf encoding: ask for application/json"
    ))
}

fn fault(e: serde_json::Error) -> DecodeError {
    DecodeError(format!("proto: {e}"))
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn tag(out: &mut Vec<u8>, number: u8, wire: u8) {
    varint(out, u64::from(number) << 3 | u64::from(wire));
}

fn bytes(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    tag(out, number, 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn number(out: &mut Vec<u8>, field: u8, n: u64) {
    tag(out, field, 0);
    varint(out, n);
}

/// Writes what `body` writes as a field with its length in front. Most messages are shorter than 128 bytes: one byte is
/// left for the length, and longer ones are moved.
fn delimited<E>(
    out: &mut Vec<u8>,
    field: u8,
    body: impl FnOnce(&mut Vec<u8>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    tag(out, field, 2);
    let at = out.len();
    out.push(0);
    body(out)?;
    let length = out.len() - at - 1;
    if length < 0x80 {
        out[at] = length as u8;
        return Ok(());
    }
    let mut prefix = Vec::with_capacity(5);
    varint(&mut prefix, length as u64);
    let end = out.len();
    out.resize(end + prefix.len() - 1, 0);
    out.copy_within(at + 1..end, at + prefix.len());
    out[at..at + prefix.len()].copy_from_slice(&prefix);
    Ok(())
}

/// A struct's fields.
struct Message<'a> {
    graph: &'static Graph,
    ty: TypeId,
    out: &'a mut Vec<u8>,
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.graph.go_name(self.ty))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(field) = map.next_key_seed(Name {
            graph: self.graph,
            ty: self.ty,
        })? {
            let Some(field) = field.filter(|f| f.protobuf[0] != 0) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let graph = self.graph;
            let wrapped = !field.go.is_empty() && !field.go.starts_with('[');
            let mut value = |number, out: &mut Vec<u8>| {
                map.next_value_seed(Slot {
                    graph,
                    ty: field.ty,
                    number,
                    wrapped,
                    out,
                })
            };
            match field.protobuf {
                [one, 0, _] => value(one, self.out)?,
                [one, two, 0] => delimited(self.out, one, |out| value(two, out))?,
                [one, two, three] => delimited(self.out, one, |out| {
                    delimited(out, two, |out| value(three, out))
                })?,
            }
        }
        Ok(())
    }
}

/// A field by its name, without a copy of the name.
struct Name {
    graph: &'static Graph,
    ty: TypeId,
}

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<&'static Field>;
    fn deserialize<D: Deserializer<'de>>(
        self,
        de: D,
    ) -> std::result::Result<Self::Value, D::Error> {
        de.deserialize_str(self)
    }
}
impl Visitor<'_> for Name {
    type Value = Option<&'static Field>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }
    fn visit_str<E>(self, name: &str) -> std::result::Result<Self::Value, E> {
        Ok(self.graph.field(self.ty, name))
    }
}

/// A value to be written as a field.
struct Slot<'a> {
    graph: &'static Graph,
    ty: TypeId,
    number: u8,
    /// a list in a map, or of a Go type with a name (`v1.Verbs`), has a message of its own around it
    wrapped: bool,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Slot<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, de: D) -> std::result::Result<(), D::Error> {
        match self.graph.kind(self.ty) {
            Kind::Scalar(scalar) if scalar.is_free() => {
                let raw = <&RawValue as serde::Deserialize>::deserialize(de)?;
                self.free(scalar, raw.get())
                    .map_err(serde::de::Error::custom)
            }
            _ => de.deserialize_any(self),
        }
    }
}

impl Slot<'_> {
    fn wrong<E: serde::de::Error>(&self, found: &str) -> E {
        E::custom(format!(
            "{found} where {} is due",
            self.graph.go_name(self.ty)
        ))
    }

    fn integer<E: serde::de::Error>(self, n: i64) -> std::result::Result<(), E> {
        match self.graph.kind(self.ty) {
            Kind::Scalar(Scalar::Int32 | Scalar::Int64) => number(self.out, self.number, n as u64),
            Kind::Scalar(Scalar::Double) => return self.float(n as f64),
            // type 0 is a number, and zeros are left out
            Kind::Scalar(Scalar::IntOrString) => {
                return delimited(self.out, self.number, |out| {
                    number(out, 2, n as u64);
                    Ok(())
                });
            }
            Kind::Scalar(Scalar::Quantity) => {
                return delimited(self.out, self.number, |out| {
                    bytes(out, 1, n.to_string().as_bytes());
                    Ok(())
                });
            }
            _ => return Err(self.wrong("a number")),
        }
        Ok(())
    }

    fn float<E: serde::de::Error>(self, n: f64) -> std::result::Result<(), E> {
        match self.graph.kind(self.ty) {
            Kind::Scalar(Scalar::Double) => {
                tag(self.out, self.number, 1);
                self.out.extend_from_slice(&n.to_bits().to_le_bytes());
                Ok(())
            }
            Kind::Scalar(Scalar::Int32 | Scalar::Int64) if n.fract() == 0.0 => {
                self.integer(n as i64)
            }
            _ => Err(self.wrong("a fraction")),
        }
    }

    /// Values of any JSON: they travel as text, but for schemas, whose alternatives are fields.
    fn free(self, scalar: Scalar, json: &str) -> Result<()> {
        if json == "null" && scalar != Scalar::Json {
            return Ok(());
        }
        let Slot {
            number: at, out, ..
        } = self;
        delimited(out, at, |out| match (scalar, json.as_bytes().first()) {
            (Scalar::PropsOrBool, Some(b'{')) => {
                number(out, 1, 1);
                props(2, json, out)
            }
            (Scalar::PropsOrBool, _) => {
                number(out, 1, u64::from(json == "true"));
                Ok(())
            }
            (Scalar::PropsOrArray | Scalar::PropsOrStrings, Some(b'{')) => props(1, json, out),
            (Scalar::PropsOrArray, _) => {
                let list: Vec<&RawValue> = serde_json::from_str(json).map_err(fault)?;
                list.into_iter().try_for_each(|p| props(2, p.get(), out))
            }
            (Scalar::PropsOrStrings, _) => {
                let list: Vec<String> = serde_json::from_str(json).map_err(fault)?;
                list.iter().for_each(|s| bytes(out, 2, s.as_bytes()));
                Ok(())
            }
            _ => {
                bytes(out, 1, json.as_bytes());
                Ok(())
            }
        })
    }
}

fn props(field: u8, json: &str, out: &mut Vec<u8>) -> Result<()> {
    let ty = named(PROPS).ok_or_else(|| unknown("apiextensions.k8s.io/v1", "JSONSchemaProps"))?;
    delimited(out, field, |out| protobuf_message(ty, json.as_bytes(), out))
}

impl<'de> Visitor<'de> for Slot<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.graph.go_name(self.ty))
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, b: bool) -> std::result::Result<(), E> {
        match self.graph.kind(self.ty) {
            Kind::Scalar(Scalar::Bool) => {
                number(self.out, self.number, u64::from(b));
                Ok(())
            }
            _ => Err(self.wrong("a boolean")),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, n: i64) -> std::result::Result<(), E> {
        self.integer(n)
    }

    fn visit_u64<E: serde::de::Error>(self, n: u64) -> std::result::Result<(), E> {
        match i64::try_from(n) {
            Ok(n) => self.integer(n),
            Err(_) => self.float(n as f64),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, n: f64) -> std::result::Result<(), E> {
        self.float(n)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<(), E> {
        let Kind::Scalar(scalar) = self.graph.kind(self.ty) else {
            return Err(self.wrong("a string"));
        };
        match scalar {
            Scalar::String => bytes(self.out, self.number, text.as_bytes()),
            Scalar::Bytes => {
                let decoded = base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .map_err(E::custom)?;
                bytes(self.out, self.number, &decoded);
            }
            Scalar::Quantity => {
                return delimited(self.out, self.number, |out| {
                    bytes(out, 1, text.as_bytes());
                    Ok(())
                });
            }
            Scalar::IntOrString => {
                return delimited(self.out, self.number, |out| {
                    number(out, 1, 1);
                    bytes(out, 3, text.as_bytes());
                    Ok(())
                });
            }
            Scalar::Time | Scalar::MicroTime => {
                let at: jiff::Timestamp = text.parse().map_err(E::custom)?;
                let nanos = at.subsec_nanosecond();
                return delimited(self.out, self.number, |out| {
                    number(out, 1, at.as_second() as u64);
                    if scalar == Scalar::MicroTime && nanos != 0 {
                        number(out, 2, i64::from(nanos) as u64);
                    }
                    Ok(())
                });
            }
            Scalar::Duration => {
                let nanos = crate::scalar::duration(text)
                    .ok_or_else(|| E::custom(format!("time: invalid duration {text:?}")))?;
                return delimited(self.out, self.number, |out| {
                    number(out, 1, nanos as u64);
                    Ok(())
                });
            }
            _ => return Err(self.wrong("a string")),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        let Kind::List { elem, .. } = self.graph.kind(self.ty) else {
            return Err(self.wrong("a list"));
        };
        let graph = self.graph;
        let mut items = |number, out: &mut Vec<u8>| {
            loop {
                let slot = Slot {
                    graph,
                    ty: elem,
                    number,
                    wrapped: false,
                    out: &mut *out,
                };
                if seq.next_element_seed(slot)?.is_none() {
                    return Ok(());
                }
            }
        };
        if self.wrapped {
            delimited(self.out, self.number, |out| items(1, out))
        } else {
            items(self.number, self.out)
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let graph = self.graph;
        match graph.kind(self.ty) {
            Kind::Struct { .. } => delimited(self.out, self.number, |out| {
                Message {
                    graph,
                    ty: self.ty,
                    out,
                }
                .visit_map(map)
            }),
            Kind::Map { elem, .. } => {
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    delimited(self.out, self.number, |out| {
                        bytes(out, 1, key.as_bytes());
                        map.next_value_seed(Slot {
                            graph,
                            ty: elem,
                            number: 2,
                            wrapped: true,
                            out,
                        })
                    })?;
                }
                Ok(())
            }
            _ => Err(self.wrong("an object")),
        }
    }
}
