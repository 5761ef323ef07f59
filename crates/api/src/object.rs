//! Objects as bytes: how a value is written for the store, and how little of it is read back.
//!
//! Stored and served bytes are one: `{"kind":…,"apiVersion":…,"metadata":{"name":…,…}…}` with kind, apiVersion and
//! metadata first, and in metadata name, generateName, namespace, uid and resourceVersion first. So the store can splice the commit's
//! revision in, and metadata is read without looking at the rest.

use bytes::Bytes;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::HashMap;

/// Metadata fields that come before `resourceVersion`: none can contain an unescaped quote, so the first
/// `"resourceVersion":"` in the bytes is the real one.
const FIRST: [&str; 4] = ["name", "generateName", "namespace", "uid"];
const RV: &[u8] = b"\"resourceVersion\":\"";

/// An object's bytes with a hole where the revision goes.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Up to and with the quote that opens the revision.
    pub before: Bytes,
    /// From the quote that closes it.
    pub after: Bytes,
}

impl Encoded {
    /// The bytes served for this revision.
    pub fn at(&self, revision: &str) -> Bytes {
        let mut out = Vec::with_capacity(self.before.len() + revision.len() + self.after.len());
        out.extend_from_slice(&self.before);
        out.extend_from_slice(revision.as_bytes());
        out.extend_from_slice(&self.after);
        out.into()
    }
    /// As the store takes it.
    pub fn spliced(&self) -> knarr_store::Value {
        knarr_store::Value::Spliced {
            before: self.before.clone(),
            after: self.after.clone(),
        }
    }
}

/// Writes an object for the store.
pub fn encode(object: &Value) -> Encoded {
    let mut out: Vec<u8> = Vec::with_capacity(1024);
    let mut split = 0;
    let empty = Map::new();
    let map = object.as_object().unwrap_or(&empty);
    out.push(b'{');
    for key in ["kind", "apiVersion"] {
        if let Some(v) = map.get(key) {
            member(&mut out, key, v);
        }
    }
    if out.len() > 1 {
        out.push(b',');
    }
    out.extend_from_slice(b"\"metadata\":{");
    let metadata = map
        .get("metadata")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let start = out.len();
    for key in FIRST {
        if let Some(v) = metadata.get(key) {
            member_after(&mut out, start, key, v);
        }
    }
    if out.len() > start {
        out.push(b',');
    }
    out.extend_from_slice(RV);
    split += out.len();
    out.push(b'"');
    for (key, v) in metadata {
        if key != "resourceVersion" && !FIRST.contains(&key.as_str()) {
            member_after(&mut out, start, key, v);
        }
    }
    out.push(b'}');
    for (key, v) in map {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            member(&mut out, key, v);
        }
    }
    out.push(b'}');
    let mut before = Bytes::from(out);
    let after = before.split_off(split);
    Encoded { before, after }
}

fn member(out: &mut Vec<u8>, key: &str, value: &Value) {
    member_after(out, 1, key, value);
}

fn member_after(out: &mut Vec<u8>, start: usize, key: &str, value: &Value) {
    if out.len() > start {
        out.push(b',');
    }
    // Writing a Value into a Vec has no way to fail.
    let _ = serde_json::to_writer(&mut *out, key);
    out.push(b':');
    let _ = serde_json::to_writer(&mut *out, value);
}

/// The same object at another revision: how a deleted object is shown to watchers.
pub fn with_revision(bytes: &Bytes, revision: u64) -> Bytes {
    let Some(at) = find(bytes, RV).map(|i| i + RV.len()) else {
        return bytes.clone();
    };
    let Some(end) = bytes[at..].iter().position(|b| *b == b'"') else {
        return bytes.clone();
    };
    let digits = revision.to_string();
    let mut out = Vec::with_capacity(bytes.len() + digits.len());
    out.extend_from_slice(&bytes[..at]);
    out.extend_from_slice(digits.as_bytes());
    out.extend_from_slice(&bytes[at + end..]);
    out.into()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// What selectors need of an object's metadata; borrowed from its bytes.
#[derive(Debug, Default, Deserialize)]
pub struct Light<'a> {
    /// `metadata.labels`
    #[serde(borrow, default)]
    pub labels: HashMap<Cow<'a, str>, Cow<'a, str>>,
    #[serde(default, rename = "managedFields")]
    _managed: Option<IgnoredAny>,
}

/// Reads the labels out of stored bytes without parsing what follows metadata. None when the bytes aren't an object of ours.
pub fn light(bytes: &[u8]) -> Option<Light<'_>> {
    let mut de = serde_json::Deserializer::from_slice(&bytes[metadata_at(bytes)?..]);
    Light::deserialize(&mut de).ok()
}

/// `metadata` as a value, the rest unread.
pub fn metadata(bytes: &[u8]) -> Option<Value> {
    let mut de = serde_json::Deserializer::from_slice(&bytes[metadata_at(bytes)?..]);
    Value::deserialize(&mut de).ok()
}

fn metadata_at(bytes: &[u8]) -> Option<usize> {
    const KEY: &[u8] = b"\"metadata\":";
    // kind and apiVersion are short and come first; look no further than they can reach
    let head = &bytes[..bytes.len().min(512)];
    find(head, KEY).map(|i| i + KEY.len())
}

/// Parses stored bytes whole.
pub fn parse(bytes: &[u8]) -> Result<Value, crate::status::Failure> {
    serde_json::from_slice(bytes)
        .map_err(|e| crate::status::Failure::internal(format!("stored object is not JSON: {e}")))
}

/// `metadata.<key>` as text, empty when absent.
pub fn meta<'a>(object: &'a Value, key: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|m| m.get(key))
        .and_then(Value::as_str)
        .unwrap_or("")
}

/// `metadata` for writing; made when absent. `object` must be a JSON object.
pub fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(map) = object else {
        unreachable!("made an object just above")
    };
    let entry = map
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    match entry {
        Value::Object(m) => m,
        _ => unreachable!("made an object just above"),
    }
}

/// Seconds-precision RFC 3339 in UTC, as `metav1.Time` prints.
pub fn now() -> String {
    timestamp(jiff::Timestamp::now())
}

/// Seconds-precision RFC 3339 in UTC.
pub fn timestamp(t: jiff::Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn encoded_objects_read_back_with_their_revision() {
        let o = json!({"apiVersion":"v1","kind":"Pod","spec":{"metadata":{"labels":{"no":"no"}}},
            "metadata":{"annotations":{"a":"\"resourceVersion\":\"6\""},"labels":{"app":"x\ny"},"name":"n","resourceVersion":"3","uid":"u"}});
        let bytes = encode(&o).at("17");
        let mut want = o.clone();
        want["metadata"]["resourceVersion"] = "17".into();
        assert_eq!(parse(&bytes).unwrap(), want);
        assert_eq!(light(&bytes).unwrap().labels["app"], "x\ny");
        want["metadata"]["resourceVersion"] = "4".into();
        assert_eq!(parse(&with_revision(&bytes, 4)).unwrap(), want);
        assert_eq!(metadata(&bytes).unwrap()["name"], "n");
    }

    #[test]
    fn an_object_without_metadata_still_gets_a_revision() {
        let bytes = encode(&json!({"data":{}})).at("1");
        assert_eq!(
            parse(&bytes).unwrap(),
            json!({"data":{},"metadata":{"resourceVersion":"1"}})
        );
    }
}
