//! Request bodies to values: JSON, YAML or protobuf; kind checked, pruned, with what was unknown told to the client.

use bytes::Bytes;
use http::HeaderMap;
use knarr_schema::{Decoded, TypeRef};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    catalog::api_version,
    negotiate::{Media, media},
    query::FieldValidation,
    registry::Resource,
    status::Failure,
};

/// The table's type of a resource; None for kinds the schema doesn't know (kept as they come).
pub fn type_of(r: &Resource) -> Option<TypeRef> {
    knarr_schema::kind(r.group, r.version, r.kind)
}

/// A body before it is known to be of a certain kind.
pub struct Raw {
    media: Media,
    bytes: Bytes,
    /// protobuf's envelope, decoded
    envelope: Option<(String, String, Value)>,
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
            Media::Protobuf => Some(
                knarr_schema::decode_protobuf(&bytes)
                    .map_err(|e| Failure::bad_request(e.to_string()))?,
            ),
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
            (_, Some((api_version, kind, mut value))) => {
                if let Some(map) = value.as_object_mut() {
                    map.insert("apiVersion".into(), api_version.into());
                    map.insert("kind".into(), kind.into());
                }
                Ok(value)
            }
            (Media::Yaml, None) => yaml(&self.bytes),
            (_, None) => serde_json::from_slice(&self.bytes).map_err(bad_json),
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
        let decoded = match (self.media, self.envelope) {
            (_, Some((api_version, kind, value))) => {
                check_kind(r, Some(&api_version), Some(&kind))?;
                conform(ty, value)
            }
            (Media::Json, None) if ty.is_some() => {
                let meta: TypeMeta = serde_json::from_slice(&self.bytes).map_err(bad_json)?;
                check_kind(r, meta.api_version.as_deref(), meta.kind.as_deref())?;
                match ty {
                    Some(ty) => knarr_schema::decode(ty, &self.bytes).map_err(|e| e.0),
                    None => Ok(Decoded::default()),
                }
            }
            (media, None) => {
                let value = match media {
                    Media::Yaml => yaml(&self.bytes)?,
                    _ => serde_json::from_slice(&self.bytes).map_err(bad_json)?,
                };
                let text = |k: &str| value.get(k).and_then(Value::as_str);
                check_kind(r, text("apiVersion"), text("kind"))?;
                conform(ty, value)
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
        let mut found: Vec<String> = decoded.unknown;
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

/// Conforms a value to a type; the error is upstream's message.
pub fn conform(ty: Option<TypeRef>, value: Value) -> Result<Decoded, String> {
    match ty {
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
        let given = version.unwrap_or(&want);
        let short = given.rsplit('/').next().unwrap_or(given);
        return Err(Failure::bad_request(format!(
            "{k} in version {short:?} cannot be handled as a {}: no kind {k:?} is served here",
            r.kind
        )));
    }
    if let Some(v) = version
        && v != want
    {
        return Err(Failure::bad_request(format!(
            "the API version in the data ({v}) does not match the expected API version ({want})"
        )));
    }
    Ok(())
}

/// One YAML document as JSON.
pub fn yaml(bytes: &[u8]) -> Result<Value, Failure> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Failure::bad_request(format!("error decoding YAML: {e}")))?;
    // As sigs.k8s.io/yaml reads it: `defaultMode: 0400` is octal.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|e| Failure::bad_request(format!("error decoding YAML: {e}")))
}

fn bad_json(e: serde_json::Error) -> Failure {
    Failure::bad_request(format!("the object provided is unrecognized: {e}"))
}
