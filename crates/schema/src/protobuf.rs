//! Kubernetes' protobuf encoding of objects, to JSON.
//!
//! An envelope (`k8s\0`, then a `runtime.Unknown` with the type's names and the object's bytes), then the object as the kind's message; field numbers come from the type table. Follows apimachinery's serializer/protobuf and the `generated.proto` files. Reading is tolerant as protobuf's is: unknown fields are skipped.

use base64::Engine as _;
use serde_json::{Map, Value};

use crate::types::{Field, Graph, Kind, Scalar, TypeId, kind, named};
use crate::{DecodeError, conform};

const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may nest: schemas of CRDs go deepest.
const DEPTH_MAX: usize = 64;

type Result<T> = std::result::Result<T, DecodeError>;

/// `k8s\0` envelope (application/vnd.kubernetes.protobuf) to JSON. Returns (apiVersion, kind, value).
///
/// # Errors
/// When the bytes are no such envelope, are cut short, or hold a kind that isn't in the table.
pub fn decode_protobuf(bytes: &[u8]) -> Result<(String, String, Value)> {
    envelope(bytes, 0)
}

fn envelope(bytes: &[u8], depth: usize) -> Result<(String, String, Value)> {
    // Go's words for nothing, and for nothing behind the mark
    match bytes {
        [] => return Err(DecodeError("empty data".into())),
        _ if *bytes == *MAGIC => return Err(DecodeError("empty body".into())),
        _ => {}
    }
    let Some(unknown) = bytes.strip_prefix(MAGIC) else {
        return Err(DecodeError(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
                .into(),
        ));
    };
    let (mut api_version, mut kind_name, mut raw, mut encoding) =
        (String::new(), String::new(), &[][..], String::new());
    let in_list = |names: &[&str], n: u64| {
        let at = usize::try_from(n).ok()?.checked_sub(1)?;
        names.get(at).map(|name| (*name).to_owned())
    };
    let of_unknown = |n: u64| in_list(&["TypeMeta", "Raw", "ContentEncoding", "ContentType"], n);
    let of_meta = |n: u64| in_list(&["APIVersion", "Kind"], n);
    for part in Parts::of(unknown, "Unknown", &of_unknown) {
        match part? {
            (1, Wire::Bytes(meta)) => {
                for part in Parts::of(meta, "TypeMeta", &of_meta) {
                    match part? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind_name = utf8(text)?,
                        (n, wire) => known(&of_meta, n, &wire)?,
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (3, Wire::Bytes(text)) => encoding = utf8(text)?,
            (4, Wire::Bytes(_)) => {}
            (n, wire) => known(&of_unknown, n, &wire)?,
        }
    }
    if !encoding.is_empty() {
        return Err(DecodeError(format!(
            "the content encoding {encoding:?} isn't supported: send the object as it is"
        )));
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let Some(ty) = kind(group, version, &kind_name) else {
        return Err(DecodeError(format!(
            "no kind {kind_name:?} is registered for version {api_version:?}"
        )));
    };
    let mut out = Map::new();
    message(ty.graph, ty.id, raw, &[], depth, &mut out)?;
    out.insert("apiVersion".to_owned(), api_version.as_str().into());
    out.insert("kind".to_owned(), kind_name.as_str().into());
    // Go writes every field it holds by value: what JSON's `omitempty` would drop goes here.
    let value = conform(ty, Value::Object(out))?.value;
    Ok((api_version, kind_name, value))
}

enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

impl Wire<'_> {
    /// The wire type's number.
    fn number(&self) -> u8 {
        match self {
            Wire::Varint(_) => 0,
            Wire::Fixed64(_) => 1,
            Wire::Bytes(_) => 2,
            Wire::Fixed32 => 5,
        }
    }
}

fn cut_short() -> DecodeError {
    DecodeError("unexpected EOF".into())
}

/// Go's name of a message's field by its number.
type GoNames<'n> = &'n dyn Fn(u64) -> Option<String>;

/// The fields of a message in their order.
struct Parts<'a, 'n> {
    rest: &'a [u8],
    /// Go's name of the message, for errors.
    message: &'n str,
    names: GoNames<'n>,
}

impl<'a> Iterator for Parts<'a, '_> {
    type Item = Result<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            // Nothing can be read after a fault.
            self.rest = &[];
        }
        Some(part)
    }
}

impl<'a, 'n> Parts<'a, 'n> {
    fn of(bytes: &'a [u8], message: &'n str, names: GoNames<'n>) -> Parts<'a, 'n> {
        Parts {
            rest: bytes,
            message,
            names,
        }
    }

    /// Of a message without names of its own.
    fn plain(bytes: &'a [u8]) -> Parts<'a, 'n> {
        Parts::of(bytes, "", &|_| None)
    }

    fn part(&mut self) -> Result<(u64, Wire<'a>)> {
        let key = self.varint()?;
        let (field, wire) = (key >> 3, key & 7);
        let message = self.message;
        if wire == 4 {
            return Err(DecodeError(format!(
                "proto: {message}: wiretype end group for non-group"
            )));
        }
        if field == 0 {
            return Err(DecodeError(format!(
                "proto: {message}: illegal tag {field} (wire type {wire})"
            )));
        }
        let value = match wire {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(
                self.take(8)?.try_into().map_err(|_| cut_short())?,
            )),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| cut_short())?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            wire => {
                return Err(match (self.names)(field) {
                    Some(name) => wrong_wire(wire as u8, &name),
                    None => DecodeError(format!("proto: illegal wireType {wire}")),
                });
            }
        };
        Ok((field, value))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for at in 0..10 {
            let (byte, rest) = self.rest.split_first().ok_or_else(cut_short)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError("proto: integer overflow".into()))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(cut_short)?;
        self.rest = rest;
        Ok(taken)
    }
}

fn utf8(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError("proto: a string isn't UTF-8".into()))
}

/// Reads a struct's message. `within` are the numbers of the embedded messages that this one is nested in: their fields are the struct's own in JSON.
fn message(
    graph: &'static Graph,
    ty: TypeId,
    bytes: &[u8],
    within: &[u8],
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(DecodeError(format!(
            "proto: messages nest deeper than {DEPTH_MAX}"
        )));
    }
    let Some((s, fields)) = graph.fields_of(ty) else {
        return Ok(());
    };
    let here = |f: &&Field| f.protobuf.starts_with(within);
    let numbered = |number: u64| {
        fields.iter().filter(here).find(|f| {
            f.protobuf
                .get(within.len())
                .is_some_and(|n| u64::from(*n) == number)
        })
    };
    let name = s.name.rsplit('.').next().unwrap_or_default();
    let names = |n: u64| numbered(n).map(|f| go_field(f.name));
    for part in Parts::of(bytes, name, &names) {
        let (number, wire) = part?;
        let Some(field) = numbered(number) else {
            continue;
        };
        let own = field.protobuf.get(within.len() + 1).is_none_or(|n| *n == 0);
        if own {
            let reader = Reader {
                graph,
                depth: depth + 1,
            };
            reader.field(field, wire, out)?;
        } else if let Wire::Bytes(bytes) = wire {
            let within: Vec<u8> = within
                .iter()
                .copied()
                .chain([field.protobuf[within.len()]])
                .collect();
            message(graph, ty, bytes, &within, depth + 1, out)?;
        }
    }
    Ok(())
}

struct Reader {
    graph: &'static Graph,
    depth: usize,
}

impl Reader {
    fn field(&self, field: &Field, wire: Wire<'_>, out: &mut Map<String, Value>) -> Result<()> {
        match self.graph.kind(field.ty) {
            Kind::List { elem, .. } => {
                let list = out
                    .entry(field.name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = list else {
                    return Ok(());
                };
                match wire {
                    // a list of a Go type with a name (`v1.Verbs`) has a message of its own around it
                    Wire::Bytes(bytes) if !field.go.is_empty() && !field.go.starts_with('[') => {
                        for part in Parts::plain(bytes) {
                            if let (1, wire) = part? {
                                self.item(elem, wire, list, field.name)?;
                            }
                        }
                    }
                    wire => self.item(elem, wire, list, field.name)?,
                }
            }
            Kind::Map { elem, .. } => {
                let Wire::Bytes(entry) = wire else {
                    return Err(wrong_wire(wire.number(), &go_field(field.name)));
                };
                let (key, value) = self.entry(elem, entry)?;
                if let Value::Object(map) = out
                    .entry(field.name)
                    .or_insert_with(|| Value::Object(Map::new()))
                {
                    map.insert(key, value);
                }
            }
            _ => {
                let found = wire.number();
                let value = self
                    .value(field.ty, wire)?
                    .ok_or_else(|| wrong_wire(found, &go_field(field.name)))?;
                out.insert(field.name.to_owned(), value);
            }
        }
        Ok(())
    }

    /// An item of a repeated field, or all of them packed.
    fn item(&self, elem: TypeId, wire: Wire<'_>, list: &mut Vec<Value>, of: &str) -> Result<()> {
        let number = matches!(
            self.graph.kind(elem),
            Kind::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Bool)
        );
        match wire {
            Wire::Bytes(packed) if number => {
                let mut parts = Parts::plain(packed);
                while !parts.rest.is_empty() {
                    let number = parts.varint()?;
                    list.extend(self.value(elem, Wire::Varint(number))?);
                }
            }
            wire => {
                let found = wire.number();
                let value = self.value(elem, wire)?;
                list.push(value.ok_or_else(|| wrong_wire(found, &go_field(of)))?);
            }
        }
        Ok(())
    }

    fn entry(&self, elem: TypeId, bytes: &[u8]) -> Result<(String, Value)> {
        let (mut key, mut value) = (String::new(), None);
        for part in Parts::plain(bytes) {
            match part? {
                (1, Wire::Bytes(text)) => key = utf8(text)?,
                (2, wire) => {
                    value = match (self.graph.kind(elem), wire) {
                        // A list as a map's value has a message of its own around it.
                        (Kind::List { elem, .. }, Wire::Bytes(bytes)) => {
                            let mut list = Vec::new();
                            for part in Parts::plain(bytes) {
                                if let (1, wire) = part? {
                                    self.item(elem, wire, &mut list, "items")?;
                                }
                            }
                            Some(Value::Array(list))
                        }
                        (_, wire) => self.value(elem, wire)?,
                    }
                }
                _ => {}
            }
        }
        Ok((
            key,
            value.unwrap_or_else(|| crate::decode::zero(self.graph.kind(elem))),
        ))
    }

    /// None when the wire has another sort of value than the type.
    fn value(&self, ty: TypeId, wire: Wire<'_>) -> Result<Option<Value>> {
        let kind = self.graph.kind(ty);
        Ok(Some(match (kind, wire) {
            (Kind::Scalar(Scalar::Bool), Wire::Varint(n)) => Value::Bool(n != 0),
            (Kind::Scalar(Scalar::Int32), Wire::Varint(n)) => (n as i32).into(),
            (Kind::Scalar(Scalar::Int64), Wire::Varint(n)) => (n as i64).into(),
            (Kind::Scalar(Scalar::Double), Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
            (Kind::Scalar(Scalar::String), Wire::Bytes(text)) => utf8(text)?.into(),
            (Kind::Scalar(Scalar::Bytes), Wire::Bytes(bytes)) => {
                base64::engine::general_purpose::STANDARD
                    .encode(bytes)
                    .into()
            }
            (Kind::Scalar(scalar), Wire::Bytes(bytes)) => self.special(scalar, bytes)?,
            (Kind::Struct { .. }, Wire::Bytes(bytes)) => {
                let mut out = Map::new();
                message(self.graph, ty, bytes, &[], self.depth, &mut out)?;
                Value::Object(out)
            }
            _ => return Ok(None),
        }))
    }

    /// Types whose message isn't their JSON.
    fn special(&self, scalar: Scalar, bytes: &[u8]) -> Result<Value> {
        let (mut numbers, mut texts): ([u64; 4], [Option<&[u8]>; 4]) = ([0; 4], [None; 4]);
        let mut lists: [Vec<&[u8]>; 4] = Default::default();
        for part in Parts::plain(bytes) {
            match part? {
                (at @ 1..4, Wire::Varint(n)) => numbers[at as usize] = n,
                (at @ 1..4, Wire::Bytes(bytes)) => {
                    texts[at as usize] = Some(bytes);
                    lists[at as usize].push(bytes);
                }
                _ => {}
            }
        }
        let props = |bytes: &[u8]| -> Result<Value> {
            let Some(ty) =
                named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
            else {
                return Ok(Value::Null);
            };
            let mut out = Map::new();
            message(ty.graph, ty.id, bytes, &[], self.depth, &mut out)?;
            Ok(Value::Object(out))
        };
        Ok(match scalar {
            Scalar::Quantity => match texts[1] {
                Some(text) if !text.is_empty() => utf8(text)?.into(),
                _ => "0".into(),
            },
            Scalar::IntOrString if numbers[1] == 1 => utf8(texts[3].unwrap_or_default())?.into(),
            Scalar::IntOrString => (numbers[2] as i32).into(),
            // `Time.Unmarshal`: no bytes are no time, zeros are 1970; only MicroTime looks at the fraction
            Scalar::Time | Scalar::MicroTime if bytes.is_empty() => Value::Null,
            Scalar::Time | Scalar::MicroTime => {
                let nanos = match scalar {
                    Scalar::MicroTime => numbers[2] as i32,
                    _ => 0,
                };
                let at = jiff::Timestamp::new(numbers[1] as i64, nanos)
                    .map_err(|e| DecodeError(format!("proto: a time is out of range: {e}")))?;
                at.to_string().into()
            }
            Scalar::Duration => crate::scalar::duration_text(numbers[1] as i64).into(),
            Scalar::Raw | Scalar::Json | Scalar::FieldsV1 => match texts[1] {
                None | Some([]) => Value::Null,
                Some(raw) if raw.starts_with(MAGIC) => envelope(raw, self.depth + 1)?.2,
                Some(raw) => serde_json::from_slice(raw)
                    .map_err(|e| DecodeError(format!("proto: embedded JSON: {e}")))?,
            },
            Scalar::PropsOrBool => match texts[2] {
                Some(schema) => props(schema)?,
                None => Value::Bool(numbers[1] != 0),
            },
            Scalar::PropsOrArray => match texts[1] {
                Some(schema) => props(schema)?,
                None => Value::Array(
                    lists[2]
                        .iter()
                        .map(|schema| props(schema))
                        .collect::<Result<_>>()?,
                ),
            },
            Scalar::PropsOrStrings => match texts[1] {
                Some(schema) => props(schema)?,
                None => Value::Array(
                    lists[2]
                        .iter()
                        .map(|text| utf8(text).map(Value::from))
                        .collect::<Result<_>>()?,
                ),
            },
            _ => Value::Null,
        })
    }
}

/// Fails for a field that the message has, of another wire type than this.
fn known(names: GoNames<'_>, number: u64, wire: &Wire<'_>) -> Result<()> {
    match names(number) {
        Some(name) => Err(wrong_wire(wire.number(), &name)),
        None => Ok(()),
    }
}

fn wrong_wire(found: u8, field: &str) -> DecodeError {
    DecodeError(format!("proto: wrong wireType = {found} for field {field}"))
}

/// Go's name of a field, as far as its JSON name tells: `apiVersion` is `APIVersion`.
fn go_field(json: &str) -> String {
    const WORDS: [&str; 4] = ["api", "uid", "ip", "url"];
    let word = WORDS.iter().find(|w| {
        json.strip_prefix(**w)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(|c: char| c.is_uppercase()))
    });
    if let Some(word) = word {
        return format!("{}{}", word.to_uppercase(), &json[word.len()..]);
    }
    let mut chars = json.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}
