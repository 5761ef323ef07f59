//! A CustomResourceDefinition as the server uses it: read once a revision, its schemas when they are first needed.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use knarr_schema::{CustomField, CustomList, CustomType};
use knarr_structural::{Additional, ListType, Schema, Type};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    cel::Tree,
    convert::Hook,
    intern::{self, Exhausted},
};
use crate::registry::Scale;

/// One definition at one revision.
pub struct Definition {
    pub name: String,
    pub uid: String,
    pub generation: i64,
    pub group: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub list_kind: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// In the definition's order.
    pub versions: Vec<Version>,
    /// Who converts, when the strategy is Webhook.
    pub webhook: Option<Hook>,
    /// It is being deleted: no new objects.
    pub terminating: bool,
    /// Cancelled when another revision, or nothing, is served in its place.
    pub retired: CancellationToken,
    /// The stored object.
    bytes: Bytes,
}

/// One version.
pub struct Version {
    pub name: &'static str,
    pub served: bool,
    pub storage: bool,
    /// What users of the version are told, when it is deprecated.
    pub deprecation: Option<String>,
    pub has_status: bool,
    pub scale: Option<ScalePaths>,
    /// `additionalPrinterColumns`
    pub columns: Vec<Value>,
    /// `selectableFields[*].jsonPath`
    pub fields: Vec<String>,
    compiled: OnceLock<Arc<Compiled>>,
}

/// Where the scale subresource's fields are.
#[derive(Clone, Copy)]
pub struct ScalePaths {
    /// As the definition has them, with the leading dot.
    pub spec: &'static str,
    pub status: &'static str,
    pub selector: Option<&'static str>,
}

/// What a version's schema comes to.
pub struct Compiled {
    /// Of the whole object.
    pub schema: Schema,
    /// The same for server-side apply.
    pub ty: CustomType,
    /// Its rules; None when it has none.
    pub rules: Option<Tree>,
}

/// Why a stored definition can't be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has no version that is stored")]
    NoStorage,
    #[error(transparent)]
    Names(#[from] Exhausted),
}

impl Definition {
    /// Reads a stored definition.
    pub fn read(bytes: &Bytes) -> Result<Definition, Error> {
        let o: Value = serde_json::from_slice(bytes)?;
        let text = |p: &str| o.pointer(p).and_then(Value::as_str).unwrap_or("");
        let texts = |p: &str| -> Vec<String> {
            let list = o.pointer(p).and_then(Value::as_array);
            let all = list.into_iter().flatten();
            all.filter_map(|t| t.as_str().map(str::to_owned)).collect()
        };
        let group = intern::text(text("/spec/group"))?;
        let kind = intern::text(text("/status/acceptedNames/kind"))?;
        let list = o.pointer("/spec/versions").and_then(Value::as_array);
        let mut versions = Vec::new();
        for v in list.into_iter().flatten() {
            versions.push(Version::read(v)?);
        }
        if !versions.iter().any(|v| v.storage) {
            return Err(Error::NoStorage);
        }
        let all: Vec<(&str, bool)> = list
            .into_iter()
            .flatten()
            .map(|v| (v["name"].as_str().unwrap_or(""), v["deprecated"] == true))
            .collect();
        for (v, raw) in versions.iter_mut().zip(list.into_iter().flatten()) {
            if raw["deprecated"] == true {
                let given = raw["deprecationWarning"].as_str().map(str::to_owned);
                v.deprecation = Some(given.unwrap_or_else(|| {
                    deprecation(group, kind, v.name, &all, list.map_or(&[], Vec::as_slice))
                }));
            }
        }
        Ok(Definition {
            name: text("/metadata/name").to_owned(),
            uid: text("/metadata/uid").to_owned(),
            generation: o["metadata"]["generation"].as_i64().unwrap_or(0),
            group,
            plural: intern::text(text("/status/acceptedNames/plural"))?,
            singular: intern::text(text("/status/acceptedNames/singular"))?,
            kind,
            list_kind: intern::text(text("/status/acceptedNames/listKind"))?,
            short_names: intern::list(&texts("/status/acceptedNames/shortNames"))?,
            categories: intern::list(&texts("/status/acceptedNames/categories"))?,
            namespaced: text("/spec/scope") == "Namespaced",
            versions,
            webhook: (text("/spec/conversion/strategy") == "Webhook")
                .then(|| Hook::read(&o["spec"]["conversion"]["webhook"])),
            terminating: condition(&o, "Terminating") == Some("True")
                || o.pointer("/metadata/deletionTimestamp").is_some(),
            retired: CancellationToken::new(),
            bytes: bytes.clone(),
        })
    }

    /// A version, served or not.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|v| v.name == name)
    }
    /// The version objects are stored in.
    pub fn storage(&self) -> &'static str {
        // `read` refuses definitions without one
        self.versions
            .iter()
            .find(|v| v.storage)
            .map_or("", |v| v.name)
    }
    /// `group/version` of every version.
    pub fn api_versions(&self) -> Vec<String> {
        let all = self.versions.iter();
        all.map(|v| format!("{}/{}", self.group, v.name)).collect()
    }
    /// The schema of a version as it was written, for OpenAPI; None when there is none.
    pub fn raw_schema(&self, version: &str) -> Option<Value> {
        let o: Value = serde_json::from_slice(&self.bytes).ok()?;
        let all = o.pointer("/spec/versions")?.as_array()?;
        let v = all.iter().find(|v| v["name"] == version)?;
        v.pointer("/schema/openAPIV3Schema").cloned()
    }
    /// `spec.preserveUnknownFields` of old definitions.
    fn preserves(&self) -> bool {
        serde_json::from_slice::<Value>(&self.bytes)
            .is_ok_and(|o| o.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true)))
    }
    /// A version's schema, made at its first use.
    pub fn compiled(&self, version: &str) -> Option<Arc<Compiled>> {
        let v = self.version(version)?;
        let made = v.compiled.get_or_init(|| {
            let raw = self.raw_schema(version);
            let mut schema = raw.as_ref().map(Schema::read).unwrap_or_default();
            schema.preserve_unknown |= self.preserves();
            let ty = resource_type(&schema);
            let rules = raw.as_ref().and_then(Tree::read);
            Arc::new(Compiled { schema, ty, rules })
        });
        Some(made.clone())
    }
}

impl Version {
    fn read(v: &Value) -> Result<Version, Error> {
        let text = |p: &str| v.pointer(p).and_then(Value::as_str);
        let scale = match v.pointer("/subresources/scale") {
            Some(_) => Some(ScalePaths {
                spec: intern::text(text("/subresources/scale/specReplicasPath").unwrap_or(""))?,
                status: intern::text(text("/subresources/scale/statusReplicasPath").unwrap_or(""))?,
                selector: text("/subresources/scale/labelSelectorPath")
                    .filter(|p| !p.is_empty())
                    .map(intern::text)
                    .transpose()?,
            }),
            None => None,
        };
        let list = |p: &str| -> Vec<Value> {
            let all = v.pointer(p).and_then(Value::as_array);
            all.cloned().unwrap_or_default()
        };
        Ok(Version {
            name: intern::text(text("/name").unwrap_or(""))?,
            served: v["served"] == true,
            storage: v["storage"] == true,
            deprecation: None,
            has_status: v.pointer("/subresources/status").is_some(),
            scale,
            columns: list("/additionalPrinterColumns"),
            fields: list("/selectableFields")
                .iter()
                .filter_map(|f| f["jsonPath"].as_str().map(str::to_owned))
                .collect(),
            compiled: OnceLock::new(),
        })
    }
}

impl ScalePaths {
    /// As the generic handler takes them.
    pub fn pointers(&self) -> Result<Scale, Exhausted> {
        use crate::registry::Selector;
        let pointer = |path: &str| intern::text(&path.replace('.', "/"));
        Ok(Scale {
            spec_replicas: pointer(self.spec)?,
            status_replicas: pointer(self.status)?,
            selector: match self.selector {
                Some(path) => Selector::Text(pointer(path)?),
                None => Selector::None,
            },
        })
    }
}

/// The status of a condition of a definition.
pub fn condition<'o>(o: &'o Value, ty: &str) -> Option<&'o str> {
    let all = o.pointer("/status/conditions")?.as_array()?;
    all.iter().find(|c| c["type"] == ty)?["status"].as_str()
}

/// `example.com/v1beta1 Foo is deprecated; use example.com/v1 Foo`
fn deprecation(
    group: &str,
    kind: &str,
    version: &str,
    all: &[(&str, bool)],
    raw: &[Value],
) -> String {
    let mut better: Vec<&str> = all
        .iter()
        .zip(raw)
        .filter(|((name, deprecated), v)| {
            v["served"] == true
                && !deprecated
                && super::priority::compare(version, name) == std::cmp::Ordering::Less
        })
        .map(|((name, _), _)| *name)
        .collect();
    better.sort_by(|a, b| super::priority::compare(b, a));
    match better.first() {
        Some(best) => {
            format!("{group}/{version} {kind} is deprecated; use {group}/{best} {kind}")
        }
        None => format!("{group}/{version} {kind} is deprecated"),
    }
}

/// The type of a whole resource, embedded ones too: its metadata is known whatever the schema says.
fn resource_type(s: &Schema) -> CustomType {
    let mut fields: Vec<(Box<str>, CustomField)> = s
        .properties()
        .filter(|(n, _)| !matches!(*n, "apiVersion" | "kind" | "metadata"))
        .map(|(n, p)| (n.into(), field_type(p)))
        .collect();
    for (name, ty) in [
        ("apiVersion", CustomType::String),
        ("kind", CustomType::String),
        ("metadata", CustomType::ObjectMeta),
    ] {
        fields.push((name.into(), CustomField { ty, default: None }));
    }
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    CustomType::Map {
        fields: fields.into(),
        rest: s.preserve_unknown.then(|| Box::new(CustomType::Free)),
        atomic: s.atomic_map,
    }
}

fn field_type(s: &Schema) -> CustomField {
    CustomField {
        ty: custom_type(s),
        default: s.default.as_deref().cloned(),
    }
}

fn custom_type(s: &Schema) -> CustomType {
    if s.int_or_string {
        return CustomType::Scalar;
    }
    match s.ty {
        Type::Any => CustomType::Free,
        Type::String => CustomType::String,
        Type::Boolean => CustomType::Boolean,
        Type::Integer | Type::Number => CustomType::Number,
        Type::Array => CustomType::List {
            elem: Box::new(s.items.as_deref().map_or(CustomType::Free, custom_type)),
            kind: match s.list {
                ListType::Set => CustomList::Set,
                ListType::Map => CustomList::Map(s.keys.join(",").into()),
                ListType::Unset | ListType::Atomic => CustomList::Atomic,
            },
        },
        Type::Object if s.embedded => resource_type(s),
        Type::Object => {
            let rest = match &s.additional {
                Some(Additional::Of(a)) => Some(custom_type(a)),
                Some(Additional::Any(true)) => Some(CustomType::Free),
                _ if s.preserve_unknown => Some(CustomType::Free),
                // an object that says nothing of its fields
                None if s.property_count() == 0 => Some(CustomType::Free),
                _ => None,
            };
            CustomType::Map {
                fields: s
                    .properties()
                    .map(|(n, p)| (n.into(), field_type(p)))
                    .collect(),
                rest: rest.map(Box::new),
                atomic: s.atomic_map,
            }
        }
    }
}
