//! Pod templates: kept as bytes, compared and hashed by meaning.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use sha2::{Digest, Sha256};

use super::meta::{Labels, OwnerRef};

/// Label that tells the pods of a Deployment's ReplicaSets apart.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// `v1.PodTemplateSpec` as it came over the wire.
#[derive(Debug, Clone)]
pub struct Template {
    raw: Box<RawValue>,
    fingerprint: OnceLock<[u8; 16]>,
}

impl Default for Template {
    fn default() -> Self {
        Template::from_raw(RawValue::NULL.to_owned())
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(d).map(Template::from_raw)
    }
}

impl Serialize for Template {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.raw.serialize(s)
    }
}

/// A template in parts, borrowed.
#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(default)]
    metadata: Option<TemplateMeta>,
    #[serde(borrow)]
    spec: Option<&'a RawValue>,
}

/// Metadata that a template may set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct TemplateMeta {
    /// labels
    pub labels: Labels,
    /// annotations
    pub annotations: Labels,
    /// finalizers
    #[serde(deserialize_with = "super::meta::nullable")]
    pub finalizers: Vec<Box<str>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewPod<'a, S: Serialize> {
    api_version: &'static str,
    kind: &'static str,
    metadata: NewMeta<'a>,
    spec: S,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewMeta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generate_name: Option<&'a str>,
    namespace: &'a str,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: &'a Labels,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    annotations: &'a Labels,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    finalizers: &'a [Box<str>],
    owner_references: [&'a OwnerRef; 1],
}

/// How a pod made from a template is called.
pub enum PodName<'a> {
    /// exactly this
    Exact(&'a str),
    /// the server adds a random suffix
    Prefix(&'a str),
}

impl Template {
    /// From bytes.
    pub fn from_raw(raw: Box<RawValue>) -> Template {
        Template {
            raw,
            fingerprint: OnceLock::new(),
        }
    }
    /// From a value.
    pub fn from_value(value: &Value) -> Template {
        match to_raw_value(value) {
            Ok(raw) => Template::from_raw(raw),
            // a Value always serializes
            Err(_) => Template::default(),
        }
    }
    /// The bytes.
    pub fn raw(&self) -> &RawValue {
        &self.raw
    }
    /// As a value to edit.
    pub fn value(&self) -> Value {
        serde_json::from_str(self.raw.get()).unwrap_or(Value::Null)
    }
    /// Metadata; empty when malformed.
    pub fn meta(&self) -> TemplateMeta {
        serde_json::from_str::<Parts>(self.raw.get())
            .ok()
            .and_then(|p| p.metadata)
            .unwrap_or_default()
    }
    /// The same template with one more label.
    pub fn with_label(&self, key: &str, value: &str) -> Template {
        let mut v = self.value();
        if let Some(o) = v.as_object_mut() {
            let meta = o
                .entry("metadata")
                .or_insert_with(|| Value::Object(Default::default()));
            if meta.is_null() {
                *meta = Value::Object(Default::default());
            }
            if let Some(m) = meta.as_object_mut() {
                let labels = m
                    .entry("labels")
                    .or_insert_with(|| Value::Object(Default::default()));
                if labels.is_null() {
                    *labels = Value::Object(Default::default());
                }
                if let Some(l) = labels.as_object_mut() {
                    l.insert(key.into(), value.into());
                }
            }
        }
        Template::from_value(&v)
    }
    /// Hash of the meaning: the same for any order of keys, with or without empty fields that mean nothing, and without [`POD_TEMPLATE_HASH`].
    pub fn fingerprint(&self) -> &[u8; 16] {
        self.fingerprint.get_or_init(|| {
            let mut value = self.value();
            if let Some(labels) = value
                .pointer_mut("/metadata/labels")
                .and_then(Value::as_object_mut)
            {
                labels.remove(POD_TEMPLATE_HASH);
            }
            if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
                meta.remove("creationTimestamp");
            }
            let mut canonical = Vec::with_capacity(self.raw.get().len());
            write_canonical(&value, &mut canonical);
            let mut short = [0; 16];
            short.copy_from_slice(&Sha256::digest(&canonical)[..16]);
            short
        })
    }
    /// The two make the same pods.
    pub fn same(&self, other: &Template) -> bool {
        self.raw.get() == other.raw.get() || self.fingerprint() == other.fingerprint()
    }
    /// Name-safe hash of the template and a collision count; stable over restarts and versions.
    pub fn hash(&self, collisions: Option<i32>) -> String {
        safe_hash(self.fingerprint(), collisions)
    }
    /// JSON of a pod made from it.
    pub fn pod(
        &self,
        name: PodName<'_>,
        namespace: &str,
        owner: &OwnerRef,
        edit: impl FnOnce(&mut TemplateMeta),
    ) -> Vec<u8> {
        let parts = serde_json::from_str::<Parts>(self.raw.get()).ok();
        let (meta, spec) = parts.map_or((None, None), |p| (p.metadata, p.spec));
        self.build(name, namespace, owner, meta, spec, edit)
    }
    /// JSON of a pod made from it with the spec changed by `change`.
    pub fn pod_with_spec(
        &self,
        name: PodName<'_>,
        namespace: &str,
        owner: &OwnerRef,
        edit: impl FnOnce(&mut TemplateMeta),
        change: impl FnOnce(&mut serde_json::Map<String, Value>),
    ) -> Vec<u8> {
        let mut spec = match self.value().get_mut("spec").map(Value::take) {
            Some(Value::Object(o)) => o,
            _ => Default::default(),
        };
        change(&mut spec);
        self.build(name, namespace, owner, Some(self.meta()), spec, edit)
    }
    fn build(
        &self,
        name: PodName<'_>,
        namespace: &str,
        owner: &OwnerRef,
        meta: Option<TemplateMeta>,
        spec: impl Serialize,
        edit: impl FnOnce(&mut TemplateMeta),
    ) -> Vec<u8> {
        let mut meta = meta.unwrap_or_default();
        edit(&mut meta);
        let (exact, prefix) = match name {
            PodName::Exact(n) => (Some(n), None),
            PodName::Prefix(p) => (None, Some(p)),
        };
        let pod = NewPod {
            api_version: "v1",
            kind: "Pod",
            metadata: NewMeta {
                name: exact,
                generate_name: prefix,
                namespace,
                labels: &meta.labels,
                annotations: &meta.annotations,
                finalizers: &meta.finalizers,
                owner_references: [owner],
            },
            spec,
        };
        // only maps with string keys and JSON that was parsed before: can't fail
        serde_json::to_vec(&pod).unwrap_or_default()
    }
}

/// Objects whose emptiness says nothing: Go's non-pointer structs and `omitempty` maps in a pod template.
const MEANINGLESS_WHEN_EMPTY: [&str; 8] = [
    "resources",
    "metadata",
    "labels",
    "annotations",
    "nodeSelector",
    "limits",
    "requests",
    "strategy",
];
/// Plain booleans of Go's types, left out when false.
const FALSE_IS_ABSENT: [&str; 7] = [
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "stdin",
    "stdinOnce",
    "tty",
    "readOnly",
];

fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map
                .iter()
                .filter(|(k, v)| !says_nothing(k, v))
                .map(|(k, v)| (k.as_str(), v))
                .collect();
            keys.sort_unstable_by_key(|(k, _)| *k);
            out.push(b'{');
            for (key, value) in keys {
                let _ = serde_json::to_writer(&mut *out, key);
                out.push(b':');
                write_canonical(value, out);
                out.push(b',');
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                write_canonical(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        scalar => {
            let _ = serde_json::to_writer(&mut *out, scalar);
        }
    }
}

fn says_nothing(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty() && key != "storageClassName",
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => {
            MEANINGLESS_WHEN_EMPTY.contains(&key) && o.iter().all(|(k, v)| says_nothing(k, v))
        }
        Value::Bool(false) => FALSE_IS_ABSENT.contains(&key),
        _ => false,
    }
}

/// 32-bit FNV-1a of `bytes` and the collision count, in the alphabet that spells no words (`rand.SafeEncodeString`).
pub fn safe_hash(bytes: &[u8], collisions: Option<i32>) -> String {
    const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash: u32 = 0x811c_9dc5;
    let tail = collisions.map(i32::to_le_bytes);
    for b in bytes.iter().chain(tail.iter().flatten()) {
        hash ^= u32::from(*b);
        hash = hash.wrapping_mul(0x0100_0193);
    }
    hash.to_string()
        .bytes()
        .map(|b| char::from(SAFE[usize::from(b) % SAFE.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(json: &str) -> Template {
        serde_json::from_str(json).unwrap()
    }

    const BASE: &str =
        r#"{"metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;

    #[test]
    fn same_meaning_same_fingerprint() {
        for other in [
            r#"{"spec":{"containers":[{"image":"i","name":"c"}]},"metadata":{"labels":{"app":"a"}}}"#,
            r#"{"metadata":{"creationTimestamp":null,"labels":{"app":"a","pod-template-hash":"x"}},"spec":{"containers":[{"name":"c","image":"i","resources":{}}]}}"#,
            r#"{"metadata":{"labels":{"app":"a"},"annotations":{}},"spec":{"hostNetwork":false,"containers":[{"name":"c","image":"i","args":[],"command":null}]}}"#,
        ] {
            assert!(template(BASE).same(&template(other)), "{other}");
        }
    }

    #[test]
    fn other_meaning_other_fingerprint() {
        for other in [
            r#"{"metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"name":"c","image":"j"}]}}"#,
            r#"{"metadata":{"labels":{"app":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}"#,
            r#"{"metadata":{"labels":{"app":"a"}},"spec":{"automountServiceAccountToken":false,"containers":[{"name":"c","image":"i"}]}}"#,
            r#"{"metadata":{"labels":{"app":"a"}},"spec":{"securityContext":{},"volumes":[{"name":"v","emptyDir":{}}],"containers":[{"name":"c","image":"i"}]}}"#,
        ] {
            assert!(!template(BASE).same(&template(other)), "{other}");
        }
    }

    #[test]
    fn hash_is_stable_and_counts_collisions() {
        let t = template(BASE);
        assert_eq!(
            t.hash(None),
            t.with_label(POD_TEMPLATE_HASH, "zz").hash(None)
        );
        assert_ne!(t.hash(None), t.hash(Some(1)));
        assert_ne!(t.hash(Some(1)), t.hash(Some(2)));
        // pinned: a new release must find the ReplicaSets of the old
        assert_eq!(safe_hash(b"knarr", None), "784999dd7f");
    }

    #[test]
    fn pod_from_template() {
        let owner = OwnerRef {
            api_version: "apps/v1".into(),
            kind: "ReplicaSet".into(),
            name: "r".into(),
            uid: "u".into(),
            controller: true,
            block_owner_deletion: true,
        };
        let pod: Value =
            serde_json::from_slice(
                &template(BASE).pod(PodName::Prefix("r-"), "ns", &owner, |m| {
                    m.labels.set("x", "y");
                }),
            )
            .unwrap();
        assert_eq!(
            pod,
            serde_json::json!({"apiVersion":"v1","kind":"Pod",
                "metadata":{"generateName":"r-","namespace":"ns","labels":{"app":"a","x":"y"},
                    "ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"r","uid":"u","controller":true,"blockOwnerDeletion":true}]},
                "spec":{"containers":[{"name":"c","image":"i"}]}})
        );
    }
}
