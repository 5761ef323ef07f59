//! Checks of metadata that custom resources have beyond those of every object.

use knarr_structural::{Path, Schema};
use serde_json::{Map, Value};

use crate::{
    names,
    registry::{FieldError, NameRule},
};

/// Checks type and metadata of embedded resources: apiextensions-apiserver `pkg/apiserver/schema/objectmeta/validation.go`.
pub fn embedded(schema: &Schema, o: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    knarr_structural::embedded(schema, o, &mut |path, map| resource(path, map, &mut errors));
    errors
}

fn resource(path: &Path<'_>, map: &Map<String, Value>, errors: &mut Vec<FieldError>) {
    for key in ["apiVersion", "kind"] {
        let field = path.child(key).to_string();
        let Some(value) = map.get(key) else {
            errors.push(FieldError::Required {
                field,
                detail: String::new(),
            });
            continue;
        };
        let why = match (key, value.as_str()) {
            (_, None) => Some("must be a string".to_owned()),
            (_, Some("")) => Some("must not be empty".to_owned()),
            ("apiVersion", Some(v)) => {
                (v.matches('/').count() > 1).then(|| format!("unexpected GroupVersion string: {v}"))
            }
            (_, Some(kind)) => {
                let wrong = names::check(NameRule::Dns1035Label, &kind.to_lowercase(), false);
                (!wrong.is_empty()).then(|| {
                    format!(
                        "may have mixed case, but should otherwise match: {}",
                        wrong.join(",")
                    )
                })
            }
        };
        if let Some(detail) = why {
            errors.push(FieldError::Invalid {
                field,
                value: value.clone(),
                detail,
            });
        }
    }
    if let Some(metadata) = map.get("metadata") {
        let mut metadata = metadata.clone();
        let text = |k: &str| metadata.get(k).and_then(Value::as_str).unwrap_or("");
        let namespaced = !text("namespace").is_empty();
        if text("name").is_empty()
            && let Some(m) = metadata.as_object_mut()
        {
            m.insert("name".into(), "fakename".into());
        }
        let mut found = Vec::new();
        names::object_meta(&metadata, NameRule::PathSegment, namespaced, &mut found);
        let at = path.to_string();
        errors.extend(found.into_iter().map(|e| below(e, &at)));
    }
}

/// The error with a path before its own.
fn below(mut e: FieldError, at: &str) -> FieldError {
    let field = e.field_mut();
    *field = format!("{at}.{field}");
    e
}

/// What writers of finalizers are told: apiextensions-apiserver `pkg/registry/customresource/validator.go`.
pub fn finalizer_warnings(o: &Value) -> Vec<String> {
    const STANDARD: [&str; 3] = ["orphan", "foregroundDeletion", "kubernetes"];
    let list = o.pointer("/metadata/finalizers").and_then(Value::as_array);
    let mut out = Vec::new();
    for f in list.into_iter().flatten().filter_map(Value::as_str) {
        let at = format!("metadata.finalizers: {f:?}");
        out.extend(
            names::qualified_name(f)
                .into_iter()
                .map(|w| format!("{at}: {w}")),
        );
        if f.contains('/') || STANDARD.contains(&f) {
            continue;
        }
        let path = if f.contains('.') {
            " including a path (/)"
        } else {
            ""
        };
        out.push(format!(
            "{at}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
        ));
    }
    out
}
