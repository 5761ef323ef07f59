//! What the generic handlers ask of one version of a custom resource.

use std::sync::Arc;

use bytes::Bytes;
use knarr_schema::{Decoded, managed::Root};
use knarr_structural::{self as structural, JsonPath};
use serde_json::{Value, json};

use super::{
    cel,
    converted::Converted,
    definition::{Compiled, Definition, Version},
    errors::told,
    intern::Exhausted,
    metadata,
};
use crate::{
    kinds::age,
    object::{self, Encoded},
    registry::{FieldError, Handle, Resource, Strategy},
};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// One version of a custom resource, as its definition has it.
pub struct Custom {
    pub(crate) definition: Arc<Definition>,
    /// Which of its versions.
    at: usize,
    api_versions: Vec<String>,
    columns: Vec<Column>,
    fields: Vec<(String, JsonPath)>,
    status: Status,
    /// What a webhook has converted for those who watch.
    pub(crate) converted: Converted,
}

struct Column {
    definition: Value,
    ty: String,
    path: Option<JsonPath>,
}

/// The rules of `/status`.
struct Status {
    definition: Arc<Definition>,
    at: usize,
}

/// A version as a resource to be served.
pub fn resource(definition: &Arc<Definition>, at: usize) -> Result<Handle, Exhausted> {
    let d = definition;
    let v = &d.versions[at];
    let custom = Custom {
        definition: d.clone(),
        at,
        api_versions: d.api_versions(),
        columns: columns(v),
        fields: v
            .fields
            .iter()
            .filter_map(|p| {
                let path = JsonPath::parse(p).ok()?;
                Some((p.trim_start_matches('.').to_owned(), path))
            })
            .collect(),
        status: Status {
            definition: d.clone(),
            at,
        },
        converted: Converted::default(),
    };
    Ok(Handle::Custom(Arc::new(Resource {
        group: d.group,
        version: v.name,
        kind: d.kind,
        plural: d.plural,
        singular: d.singular,
        short_names: d.short_names,
        categories: d.categories,
        namespaced: d.namespaced,
        has_status: v.has_status,
        scale: v.scale.map(|s| s.pointers()).transpose()?,
        custom: Some(Arc::new(custom)),
        ..crate::kinds::PLAIN
    })))
}

fn columns(v: &Version) -> Vec<Column> {
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
        "description": crate::kinds::CREATED.description});
    let given = if v.columns.is_empty() {
        std::slice::from_ref(&age)
    } else {
        &v.columns
    };
    given
        .iter()
        .map(|c| {
            let text = |k: &str| c[k].as_str().unwrap_or("").to_owned();
            let path = text("jsonPath");
            let description = match text("description") {
                d if d.is_empty() => {
                    format!("Custom resource definition column (in JSONPath format): {path}")
                }
                d => d,
            };
            Column {
                definition: json!({"name": text("name"), "type": text("type"), "format": text("format"),
                    "description": description, "priority": c["priority"].as_i64().unwrap_or(0)}),
                ty: text("type"),
                path: JsonPath::parse(&path).ok(),
            }
        })
        .collect()
}

impl Custom {
    /// The version.
    pub(crate) fn version(&self) -> &Version {
        &self.definition.versions[self.at]
    }
    /// Its schema.
    pub(crate) fn compiled(&self) -> Arc<Compiled> {
        compiled(&self.definition, self.version().name)
    }
    /// Its type, for server-side apply.
    pub(crate) fn root<'c>(&'c self, compiled: &'c Compiled) -> Root<'c> {
        Root::Custom {
            ty: &compiled.ty,
            has_status: self.version().has_status,
            versions: &self.api_versions,
        }
    }
    /// Whether the definition is being deleted.
    pub(crate) fn is_terminating(&self) -> bool {
        self.definition.terminating
    }
    /// What users of the version are told.
    pub(crate) fn deprecation(&self) -> Option<&str> {
        self.version().deprecation.as_deref()
    }
    /// Ready when another definition, or none, is served in this one's place.
    pub(crate) fn retired(&self) -> tokio_util::sync::CancellationToken {
        self.definition.retired.clone()
    }
    /// The schema as it was written.
    pub(crate) fn raw_schema(&self) -> Option<Value> {
        self.definition.raw_schema(self.version().name)
    }
    /// Paths of the fields that selectors may name.
    pub(crate) fn selectable(&self) -> &[String] {
        &self.version().fields
    }
    /// Changes whenever what is told of the resource changes.
    pub(crate) fn fingerprint(&self) -> String {
        let d = &self.definition;
        format!(" {} {} {}", d.uid, d.generation, d.kind)
    }
    /// Where the scale subresource's replicas are, as the definition has it.
    pub(crate) fn replicas_path(&self) -> Option<&'static str> {
        self.version().scale.map(|s| s.spec)
    }
    /// The kind of its lists.
    pub(crate) fn list_kind(&self) -> &'static str {
        self.definition.list_kind
    }

    /// The columns' definitions, as a Table has them.
    pub(crate) fn columns(&self) -> Vec<Value> {
        let name = &crate::kinds::NAME;
        let first = json!({"name": name.name, "type": name.r#type, "format": name.format,
            "description": name.description, "priority": 0});
        std::iter::once(first)
            .chain(self.columns.iter().map(|c| c.definition.clone()))
            .collect()
    }
    /// A row's cells.
    pub(crate) fn cells(&self, object: &Value) -> Vec<Value> {
        let name = object["metadata"]["name"].clone();
        std::iter::once(name)
            .chain(self.columns.iter().map(|c| c.cell(object)))
            .collect()
    }
    /// Whether a field selector may name the field.
    pub(crate) fn selects_by(&self, field: &str) -> bool {
        self.fields.iter().any(|(name, _)| name == field)
    }
    /// The field as selectors compare it.
    pub(crate) fn field(&self, field: &str, object: &Value) -> Option<String> {
        let (_, path) = self.fields.iter().find(|(name, _)| name == field)?;
        Some(match path.find(object).first() {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(s)) => s.clone(),
            Some(other) => other.to_string(),
        })
    }

    /// A client's object: types of metadata checked, unknown fields removed and told, defaults put in.
    pub(crate) fn conform(&self, mut o: Value) -> Result<Decoded, String> {
        let c = self.compiled();
        let Some(map) = o.as_object_mut() else {
            return Err("json: cannot unmarshal a non-object".into());
        };
        let mut unknown = Vec::new();
        if let Some(m) = map.get_mut("metadata").filter(|m| !m.is_null())
            && let Some(ty) = knarr_schema::named(OBJECT_META)
        {
            let decoded = knarr_schema::conform(ty, m.take()).map_err(|e| e.0)?;
            *m = decoded.value;
            for told in decoded.unknown {
                let name = told.split('"').nth(1).unwrap_or_default();
                unknown.push(format!("metadata.{name}"));
            }
        }
        unknown.extend(structural::prune(&mut o, &c.schema, true));
        structural::drop_nulls(&mut o, Some(&c.schema));
        let embedded =
            structural::coerce(&mut o, &c.schema, false, false).map_err(|e| told(e).to_string())?;
        unknown.extend(embedded);
        structural::default(&mut o, &c.schema);
        Ok(Decoded {
            value: o,
            unknown: unknown
                .into_iter()
                .map(|f| format!("unknown field {f:?}"))
                .collect(),
            duplicate: vec![],
        })
    }

    /// A stored object in this version. One that another version's webhook has to convert must have been converted.
    pub(crate) fn read(&self, o: Value) -> Value {
        let to = self.version().name;
        convert(&self.definition, o, to)
    }
    /// Stored bytes in this version.
    pub(crate) fn served(&self, bytes: &Bytes) -> Bytes {
        let Ok(stored) = object::parse(bytes) else {
            return bytes.clone();
        };
        let read = self.read(stored.clone());
        if read == stored {
            return bytes.clone();
        }
        let revision = object::meta(&read, "resourceVersion").to_string();
        object::encode(&read).at(&revision)
    }
    /// An object of this version, or one that a webhook converted, as it is stored.
    pub(crate) fn encode(&self, o: &Value) -> Encoded {
        let stored = convert(&self.definition, o.clone(), self.definition.storage());
        object::encode(&stored)
    }

    fn checked(&self, o: &Value) -> Vec<FieldError> {
        let c = self.compiled();
        let mut errors: Vec<FieldError> = metadata::embedded(&c.schema, o);
        errors.extend(scale_errors(self.version(), o, true));
        errors
    }
}

fn compiled(d: &Definition, version: &str) -> Arc<Compiled> {
    d.compiled(version).unwrap_or_else(|| {
        Arc::new(Compiled {
            schema: structural::Schema::default(),
            ty: knarr_schema::CustomType::Free,
            rules: None,
        })
    })
}

/// Brings a stored object into a version, as strategy None does: another apiVersion, and what that version's schema
/// knows.
fn convert(d: &Definition, mut o: Value, to: &str) -> Value {
    let from = o["apiVersion"].as_str().unwrap_or("");
    let from = from.rsplit('/').next().unwrap_or("").to_owned();
    shape(d, &mut o, &from);
    if from != to {
        if let Some(map) = o.as_object_mut() {
            map.insert("apiVersion".into(), format!("{}/{to}", d.group).into());
        }
        shape(d, &mut o, to);
    }
    o
}

/// What a version's schema makes of an object read from the store.
fn shape(d: &Definition, o: &mut Value, version: &str) {
    let Some(c) = d.compiled(version) else { return };
    structural::prune(o, &c.schema, true);
    structural::drop_nulls(o, Some(&c.schema));
    // invalid metadata is dropped, so that this can't fail
    let _ = structural::coerce(o, &c.schema, false, true);
    structural::default(o, &c.schema);
}

impl Column {
    fn cell(&self, object: &Value) -> Value {
        let Some(found) = self
            .path
            .as_ref()
            .and_then(|p| p.find(object).first().copied())
        else {
            return Value::Null;
        };
        match (self.ty.as_str(), found) {
            ("string", v) => printed(v).into(),
            (_, Value::Null) => Value::Null,
            ("integer", Value::Number(n)) => match n.as_i64() {
                Some(n) => n.into(),
                None => (n.as_f64().unwrap_or(0.0) as i64).into(),
            },
            ("number", v @ Value::Number(_)) | ("boolean", v @ Value::Bool(_)) => v.clone(),
            ("date", v @ Value::String(_)) => match age::since(v).as_str() {
                "<unknown>" => "<invalid>".into(),
                age => age.into(),
            },
            _ => Value::Null,
        }
    }
}

/// A value as JSONPath prints it.
fn printed(v: &Value) -> String {
    match v {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// Replicas must be small and not negative, a selector must be text.
fn scale_errors(v: &Version, o: &Value, spec: bool) -> Vec<FieldError> {
    let Some(paths) = &v.scale else { return vec![] };
    let mut errors = Vec::new();
    let mut replicas = |path: &str| {
        let at = o.pointer(&path.replace('.', "/"));
        let detail = match at {
            None => return,
            Some(v) => match v.as_i64() {
                Some(n) if n < 0 => "should be a non-negative integer".to_owned(),
                Some(n) if n > i64::from(i32::MAX) => {
                    format!("should be less than or equal to {}", i32::MAX)
                }
                Some(_) => return,
                None => format!(
                    "{path} accessor error: {v} is of the type {}, expected int64",
                    knarr_schema::go_type(v)
                ),
            },
        };
        errors.push(FieldError::Invalid {
            field: path.to_owned(),
            value: at.and_then(Value::as_i64).unwrap_or(0).into(),
            detail,
        });
    };
    if spec {
        replicas(paths.spec);
    }
    replicas(paths.status);
    if let Some(path) = paths.selector
        && let Some(v) = o.pointer(&path.replace('.', "/"))
        && !v.is_string()
    {
        errors.push(FieldError::Invalid {
            field: path.to_owned(),
            value: "".into(),
            detail: format!(
                "{path} accessor error: {v} is of the type {}, expected string",
                knarr_schema::go_type(v)
            ),
        });
    }
    errors
}

fn all(errors: Vec<structural::Error>) -> impl Iterator<Item = FieldError> {
    errors.into_iter().map(told)
}

/// What rules have to say, unless the object is too wrong for them.
fn by_rules(c: &Compiled, new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let Some(tree) = &c.rules else { return };
    let blocked = errors.iter().any(|e| {
        matches!(
            e,
            FieldError::NotSupported { .. }
                | FieldError::Required { .. }
                | FieldError::TooLong { .. }
                | FieldError::TooMany { .. }
                | FieldError::TypeInvalid { .. }
        )
    });
    if blocked {
        errors.push(FieldError::Invalid {
            field: "<nil>".into(),
            value: Value::Null,
            detail: "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation".into(),
        });
        return;
    }
    errors.extend(cel::validate(tree, new, old, &c.schema));
}

/// Uniqueness in sets and maps, unless the old object lacked it already.
fn unique(c: &Compiled, new: &Value, old: &Value) -> Vec<FieldError> {
    if !structural::uniqueness(&c.schema, old).is_empty() {
        return vec![];
    }
    all(structural::uniqueness(&c.schema, new)).collect()
}

impl Strategy for Custom {
    fn default(&self, o: &mut Value) {
        structural::default(o, &self.compiled().schema);
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let c = self.compiled();
        let mut errors: Vec<FieldError> = all(structural::validate(&c.schema, o, "")).collect();
        errors.extend(self.checked(o));
        errors.extend(all(structural::uniqueness(&c.schema, o)));
        by_rules(&c, o, None, &mut errors);
        errors
    }
    fn validates_updates_itself(&self) -> bool {
        true
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let c = self.compiled();
        let mut errors: Vec<FieldError> =
            all(structural::validate_update(&c.schema, new, old, "")).collect();
        errors.extend(self.checked(new));
        errors.extend(unique(&c, new, old));
        by_rules(&c, new, Some(old), &mut errors);
        errors
    }
    fn warnings(&self, o: &Value) -> Vec<String> {
        metadata::finalizer_warnings(o)
    }
    fn unconditional_update(&self) -> bool {
        false
    }
    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        (subresource == "status").then_some(&self.status as &dyn Strategy)
    }
}

impl Strategy for Status {
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let v = &self.definition.versions[self.at];
        let c = compiled(&self.definition, v.name);
        let mut errors = Vec::new();
        if let (Some(s), Some(status)) = (c.schema.property("status"), new.get("status")) {
            let before = old.get("status").unwrap_or(&Value::Null);
            errors.extend(all(structural::validate_update(
                s, status, before, "status",
            )));
        }
        errors.extend(metadata::embedded(&c.schema, new));
        errors.extend(scale_errors(v, new, false));
        errors.extend(unique(&c, new, old));
        by_rules(&c, new, Some(old), &mut errors);
        errors
    }
}
