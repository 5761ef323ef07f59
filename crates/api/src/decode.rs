//! Request bodies to values: JSON, YAML or protobuf; kind checked, pruned, with what was unknown told to the client.

use bytes::Bytes;
use http::HeaderMap;
use std::sync::Arc;

use knarr_schema::{Decoded, TypeRef, managed::Root};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    catalog::api_version,
    crd::Compiled,
    negotiate,
    negotiate::{Media, media},
    query::FieldValidation,
    registry::{Custom, Resource},
    status::Failure,
    yaml_words,
};

/// The table's type of a resource; None for kinds the schema doesn't know (kept as they come).
pub fn type_of(r: &Resource) -> Option<TypeRef> {
    knarr_schema::kind(r.group, r.version, r.kind)
}

/// The type of a resource's objects as managers own their fields.
pub enum Owned {
    /// Of the table.
    BuiltIn(TypeRef),
    /// Of a definition.
    Custom(Arc<Custom>, Arc<Compiled>),
}
impl Owned {
    /// None for kinds the schema doesn't know.
    pub fn of(r: &Resource) -> Option<Owned> {
        match &r.custom {
            Some(custom) => Some(Owned::Custom(custom.clone(), custom.compiled())),
            None => type_of(r).map(Owned::BuiltIn),
        }
    }
    /// For `managed`.
    pub fn root(&self) -> Root<'_> {
        match self {
            Owned::BuiltIn(ty) => Root::BuiltIn(*ty),
            Owned::Custom(custom, compiled) => custom.root(compiled),
        }
    }
}

/// A body before it is known to be of a certain kind.
pub struct Raw {
    media: Media,
    bytes: Bytes,
    /// protobuf's envelope, decoded
    envelope: Option<Result<(String, String, Value), String>>,
}

#[derive(Deserialize, Default)]
struct TypeMeta {
    #[serde(default, rename = "apiVersion")]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
}

impl Raw {
    /// Reads the body's encoding; 415 and 400 as upstream.
    pub fn new(headers: &HeaderMap, bytes: Bytes) -> Result<Raw, Failure> {
        let media = media(headers)?;
        let envelope = match media {
            Media::Protobuf => Some(knarr_schema::decode_protobuf(&bytes).map_err(|e| e.0)),
            _ => None,
        };
        Ok(Raw {
            media,
            bytes,
            envelope,
        })
    }

    /// The value as it came: no pruning, no type checks.
    pub fn value(self) -> Result<Value, Failure> {
        match (self.media, self.envelope) {
            (_, Some(decoded)) => {
                let (api_version, kind, mut value) = decoded.map_err(Failure::bad_request)?;
                if let Some(map) = value.as_object_mut() {
                    map.insert("apiVersion".into(), api_version.into());
                    map.insert("kind".into(), kind.into());
                }
                Ok(value)
            }
            (Media::Yaml, None) => yaml(&self.bytes),
            (_, None) => serde_json::from_slice(&self.bytes)
                .map_err(|e| Failure::bad_request(no_type_meta(&self.bytes, &e))),
        }
    }

    /// The object, of the resource's kind (which a body may leave out), pruned and with the schema's defaults.
    pub fn object(
        self,
        r: &Resource,
        validation: FieldValidation,
        warnings: &mut Vec<String>,
    ) -> Result<Value, Failure> {
        let ty = type_of(r);
        let mut duplicates = Vec::new();
        let decoded = match (self.media, self.envelope) {
            (_, Some(_)) if r.custom.is_some() => {
                return Err(negotiate::unsupported(&[
                    "application/json",
                    "application/yaml",
                ]));
            }
            (_, Some(decoded)) => {
                let (api_version, kind, value) =
                    decoded.map_err(|why| unrecognized(r, &why, &self.bytes))?;
                check_kind(r, Some(&api_version), Some(&kind))?;
                conform(r, value)
            }
            (media, None) if r.custom.is_some() => {
                let (value, twice) = match media {
                    Media::Yaml => yaml_twice(&self.bytes)?,
                    _ => {
                        let d = knarr_structural::decode(&self.bytes).map_err(|e| {
                            unrecognized(r, &no_type_meta(&self.bytes, &e), &self.bytes)
                        })?;
                        (d.value, d.duplicates)
                    }
                };
                let text = |k: &str| value.get(k).and_then(Value::as_str).unwrap_or("");
                for (key, name) in [("kind", "Kind"), ("apiVersion", "apiVersion")] {
                    if text(key).is_empty() {
                        let body = String::from_utf8_lossy(&self.bytes);
                        let why = format!("Object '{name}' is missing in '{body}'");
                        return Err(Failure::bad_request(cannot_handle(r, &why)));
                    }
                }
                check_kind(r, Some(text("apiVersion")), Some(text("kind")))?;
                conform(r, value).map(|d| Decoded {
                    duplicate: d.unknown,
                    unknown: twice,
                    ..d
                })
            }
            (Media::Json, None) if ty.is_some() => {
                let meta: Option<TypeMeta> = object_or_null(&self.bytes)
                    .map_err(|e| unrecognized(r, &no_type_meta(&self.bytes, &e), &self.bytes))?;
                let meta = meta.unwrap_or_default();
                check_kind(r, meta.api_version.as_deref(), meta.kind.as_deref())?;
                match ty {
                    Some(ty) => knarr_schema::decode(ty, &self.bytes).map_err(|e| e.0),
                    None => Ok(Decoded::default()),
                }
            }
            (media, None) => {
                let value = match media {
                    Media::Yaml => {
                        let (value, twice) = yaml_value(&self.bytes)
                            .map_err(|e| unrecognized(r, &e, &self.bytes))?;
                        duplicates = twice;
                        value
                    }
                    _ => serde_json::from_slice(&self.bytes).map_err(|e| {
                        unrecognized(r, &no_type_meta(&self.bytes, &e), &self.bytes)
                    })?,
                };
                let value = match value {
                    Value::Object(_) => value,
                    Value::Null => Value::Object(serde_json::Map::new()),
                    other => {
                        let why = format!("{NO_TYPE_META}{}", not_a_struct(&other));
                        return Err(unrecognized(r, &why, &self.bytes));
                    }
                };
                let text = |k: &str| value.get(k).and_then(Value::as_str);
                check_kind(r, text("apiVersion"), text("kind"))?;
                conform(r, value)
            }
        };
        let decoded = decoded.map_err(|e| Failure::bad_request(cannot_handle(r, &e)))?;
        let mut value = decoded.value;
        let Some(map) = value.as_object_mut() else {
            return Err(Failure::bad_request(cannot_handle(
                r,
                "json: cannot unmarshal a non-object",
            )));
        };
        map.insert("apiVersion".into(), api_version(r).into());
        map.insert("kind".into(), r.kind.into());
        let mut found: Vec<String> = duplicates;
        found.extend(decoded.unknown);
        found.extend(decoded.duplicate);
        match validation {
            FieldValidation::Strict if !found.is_empty() => {
                let what = format!("strict decoding error: {}", found.join(", "));
                return Err(Failure::bad_request(cannot_handle(r, &what)));
            }
            FieldValidation::Warn => warnings.extend(found),
            _ => {}
        }
        Ok(value)
    }
}

/// Conforms a value to the resource's type; the error is upstream's message.
pub fn conform(r: &Resource, value: Value) -> Result<Decoded, String> {
    if let Some(custom) = &r.custom {
        return custom.conform(value);
    }
    match type_of(r) {
        Some(ty) => knarr_schema::conform(ty, value).map_err(|e| e.0),
        None => Ok(Decoded {
            value,
            ..Decoded::default()
        }),
    }
}

/// `Deployment in version "v1" cannot be handled as a Deployment: …`
pub fn cannot_handle(r: &Resource, why: &str) -> String {
    format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        r.kind, r.version, r.kind
    )
}

fn check_kind(r: &Resource, version: Option<&str>, kind: Option<&str>) -> Result<(), Failure> {
    let want = api_version(r);
    let kind = kind.filter(|k| !k.is_empty());
    let version = version.filter(|v| !v.is_empty());
    if let Some(k) = kind
        && k != r.kind
    {
        return Err(wrong_kind(r, version.unwrap_or(&want), k));
    }
    if let Some(v) = version
        && v != want
    {
        let (group, short) = v.split_once('/').unwrap_or(("", v));
        if group != r.group || knarr_schema::kind(group, short, r.kind).is_none() {
            return Err(wrong_kind(r, v, r.kind));
        }
        return Err(Failure::bad_request(format!(
            "the API version in the data ({v}) does not match the expected API version ({want})"
        )));
    }
    Ok(())
}

/// The name of a group's package of internal types, as conversion errors print it.
pub fn internal_package(group: &str) -> &str {
    match group {
        "" | "events.k8s.io" => "core",
        group => group.split('.').next().unwrap_or(group),
    }
}

/// Why an object of this kind isn't one of the resource's.
pub fn no_conversion(r: &Resource, api_version: &str, kind: &str) -> String {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if knarr_schema::kind(group, version, kind).is_some() {
        let package = internal_package(r.group);
        return format!(
            "converting ({version}.{kind}) to ({package}.{}): unknown conversion",
            r.kind
        );
    }
    format!(
        "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/runtime/scheme.go:111\""
    )
}

fn wrong_kind(r: &Resource, api_version: &str, kind: &str) -> Failure {
    let short = api_version.rsplit('/').next().unwrap_or(api_version);
    Failure::bad_request(format!(
        "{kind} in version {short:?} cannot be handled as a {}: {}",
        r.kind,
        no_conversion(r, api_version, kind)
    ))
}

/// One YAML document as JSON. Of keys that are there twice the last one counts, as upstream reads it.
pub fn yaml(bytes: &[u8]) -> Result<Value, Failure> {
    yaml_twice(bytes).map(|(value, _)| value)
}

/// The same, with what a strict reader would say of keys that are there twice.
pub fn yaml_twice(bytes: &[u8]) -> Result<(Value, Vec<String>), Failure> {
    yaml_value(bytes).map_err(|e| {
        Failure::bad_request(format!(
            "error decoding YAML: error converting YAML to JSON: {e}"
        ))
    })
}

/// The same, with what a strict reader would say. The error begins with `yaml: `.
fn yaml_value(bytes: &[u8]) -> Result<(Value, Vec<String>), String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| format!("yaml: {}", yaml_words::no_utf8(bytes, e)))?;
    read_yaml(text, true)
}

fn read_yaml(text: &str, whole: bool) -> Result<(Value, Vec<String>), String> {
    use serde_saphyr::options::DuplicateKeyPolicy;
    // As sigs.k8s.io/yaml reads it: `defaultMode: 0400` is octal.
    let strict = serde_saphyr::options! { legacy_octal_numbers: true };
    let strict = match serde_saphyr::from_str_with_options(text, strict) {
        Ok(value) => return Ok((value, vec![])),
        Err(e) => e.to_string(),
    };
    let last_wins = serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: DuplicateKeyPolicy::LastWins,
    };
    let value = match serde_saphyr::from_str_with_options(text, last_wins) {
        Ok(value) => value,
        Err(e) => {
            let e = e.to_string();
            return match yaml_words::first_document(text, &e) {
                Some(first) if whole => read_yaml(first, false),
                _ => Err(format!("yaml: {}", yaml_words::of(text, &e))),
            };
        }
    };
    let line = strict
        .split("line ")
        .nth(1)
        .and_then(|s| s.split(' ').next());
    let key = strict.split("duplicate mapping key: ").nth(1);
    let key = key.and_then(|s| s.split([',', '\n']).next());
    Ok(match (line, key) {
        (Some(line), Some(key)) => {
            let said =
                format!("yaml: unmarshal errors:\n  line {line}: key {key:?} already set in map");
            (value, vec![said])
        }
        _ => (value, vec![]),
    })
}

const NO_TYPE_META: &str = "couldn't get version/kind; json parse error: ";

/// A struct from JSON; serde would take a list for one, too.
pub fn object_or_null<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> serde_json::Result<Option<T>> {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    if first == Some(&b'[') {
        serde_json::from_slice::<Value>(bytes)?;
        return Err(serde::de::Error::custom("a list is no object"));
    }
    serde_json::from_slice(bytes)
}

/// Why a body's kind can't even be looked for, in Go's words.
pub fn no_type_meta(bytes: &[u8], e: &serde_json::Error) -> String {
    if e.is_data()
        && let Ok(value) = serde_json::from_slice::<Value>(bytes)
    {
        return format!("{NO_TYPE_META}{}", not_a_struct(&value));
    }
    format!("{NO_TYPE_META}{}", knarr_schema::syntax_error(bytes, e))
}

/// The same for a value that is no object.
pub fn no_struct(value: &Value) -> String {
    format!("{NO_TYPE_META}{}", not_a_struct(value))
}

/// What Go calls a JSON value that doesn't fit.
fn go_word(value: &Value) -> Option<&'static str> {
    Some(match value {
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        _ => return None,
    })
}

fn not_a_struct(value: &Value) -> String {
    let word = match go_word(value) {
        Some(word) => word,
        None => {
            let field = if value.get("kind").is_some_and(|k| !k.is_string()) {
                "kind"
            } else {
                "apiVersion"
            };
            let found = go_word(&value[field]).unwrap_or("object");
            return format!(
                "json: cannot unmarshal {found} into Go struct field .{field} of type string"
            );
        }
    };
    format!(
        "json: cannot unmarshal {word} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
    )
}

/// 400 for a body that doesn't say what it is.
fn unrecognized(r: &Resource, why: &str, bytes: &[u8]) -> Failure {
    const SHOWN_BYTES: usize = 30;
    let (head, more) = match bytes.split_at_checked(SHOWN_BYTES) {
        Some((head, rest)) if !rest.is_empty() => (head, " ..."),
        _ => (bytes, ""),
    };
    let summary = match bytes.first() {
        None => "<empty>".to_string(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => format!("{}{more}", hex::encode(head)),
    };
    Failure::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {why} ({summary})",
        r.kind
    ))
}
