//! What a version may say: its schema, subresources, columns and selectable fields.

use knarr_structural::{
    Path,
    definition::{self, Strictness},
};
use serde_json::Value;

use super::{errors::Errors, place, text, versions};
use crate::{
    crd::{cel, errors::told},
    registry::FieldError,
};

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "password",
];
const FIELDS_MAX: usize = 8;

pub(super) fn version(
    (o, old): (&Value, Option<&Value>),
    v: &Value,
    i: usize,
    strictness: Strictness,
    e: &mut Errors,
) {
    let status = v.pointer("/subresources/status").is_some();
    if let Some(warning) = v["deprecationWarning"].as_str() {
        let mut wrong = |why: String| {
            e.invalid(
                format!("spec.versions[{i}].deprecationWarning"),
                warning,
                why,
            );
        };
        if v["deprecated"] != true {
            wrong("can only be set for deprecated versions".into());
        } else {
            if warning.len() > 256 {
                wrong("must be <= 256 characters long".into());
            }
            if warning.is_empty() {
                wrong("must not be an empty string".into());
            }
            if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
                wrong(format!(
                    "must only contain printable UTF-8 characters; non-printable character found at index {at}"
                ));
            }
        }
    }
    let raw = v.pointer("/schema/openAPIV3Schema");
    if let Some(raw) = raw {
        let at = format!("{}.openAPIV3Schema", place(o, i, "schema"));
        let wrong = definition::check(raw, &Path::at(&at), status, strictness);
        if wrong.is_empty() && strictness.structural {
            defaults(raw, &at, e);
            let was = old.and_then(|o| {
                let same = versions(o).iter().find(|w| w["name"] == v["name"])?;
                same.pointer("/schema/openAPIV3Schema")
            });
            for error in cel::check(raw, &at, was == Some(raw)) {
                e.push(error);
            }
        }
        for error in wrong {
            e.push(told(error));
        }
    }
    if let Some(scale) = v.pointer("/subresources/scale") {
        let at = format!("{}.scale", place(o, i, "subresources"));
        scale_paths(scale, &at, e);
    }
    let at = place(o, i, "additionalPrinterColumns");
    let columns = v["additionalPrinterColumns"].as_array();
    for (k, c) in columns.into_iter().flatten().enumerate() {
        column(c, &format!("{at}[{k}]"), e);
    }
    let at = place(o, i, "selectableFields");
    let fields = v["selectableFields"].as_array().filter(|f| !f.is_empty());
    match (fields, raw) {
        (Some(fields), Some(raw)) => selectable(fields, raw, &at, e),
        (Some(_), None) => e.invalid(
            at,
            "",
            "may only be set when `version.schema.openAPIV3Schema` is not included",
        ),
        _ => {}
    }
}

/// Defaults must hold by the rules of their schemas.
fn defaults(raw: &Value, at: &str, e: &mut Errors) {
    let Some(map) = raw.as_object() else { return };
    if let (Some(default), Some(tree)) = (map.get("default"), cel::Tree::read(raw)) {
        let schema = knarr_structural::Schema::read(raw);
        for mut error in cel::validate(&tree, default, None, &schema) {
            let field = match error.field() {
                "<nil>" | "" => format!("{at}.default"),
                below => format!("{at}.default.{below}"),
            };
            *error.field_mut() = field;
            e.push(error);
        }
    }
    for (k, p) in raw["properties"].as_object().into_iter().flatten() {
        defaults(p, &format!("{at}.properties[{k}]"), e);
    }
    if raw["items"].is_object() {
        defaults(&raw["items"], &format!("{at}.items"), e);
    }
}

fn simple_path(path: &str, field: &str, e: &mut Errors) -> bool {
    if !path.starts_with('.') {
        e.invalid(field, path, "must be a simple json path starting with .");
        return false;
    }
    true
}

fn scale_paths(scale: &Value, at: &str, e: &mut Errors) {
    for (key, root) in [
        ("specReplicasPath", ".spec."),
        ("statusReplicasPath", ".status."),
    ] {
        let (path, field) = (text(scale, key), format!("{at}.{key}"));
        if path.is_empty() {
            e.required(field, "");
        } else if simple_path(path, &field, e) && !path.starts_with(root) {
            let under = root.trim_end_matches('.');
            e.invalid(field, path, format!("should be a json path under {under}"));
        }
    }
    let (path, field) = (
        text(scale, "labelSelectorPath"),
        format!("{at}.labelSelectorPath"),
    );
    if !path.is_empty()
        && simple_path(path, &field, e)
        && ![".spec.", ".status."].iter().any(|r| path.starts_with(r))
    {
        e.invalid(
            field,
            path,
            "should be a json path under either .spec or .status",
        );
    }
}

fn column(c: &Value, at: &str, e: &mut Errors) {
    if text(c, "name").is_empty() {
        e.required(format!("{at}.name"), "");
    }
    let (ty, field) = (text(c, "type"), format!("{at}.type"));
    let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
    if ty.is_empty() {
        e.required(field, &detail);
    } else if !COLUMN_TYPES.contains(&ty) {
        e.invalid(field, ty, detail);
    }
    let format = text(c, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
        e.invalid(format!("{at}.format"), format, detail);
    }
    let (path, field) = (text(c, "jsonPath"), format!("{at}.JSONPath"));
    if path.is_empty() {
        e.required(field, "");
    } else {
        simple_path(path, &field, e);
    }
}

fn selectable(fields: &[Value], schema: &Value, at: &str, e: &mut Errors) {
    let mut seen = Vec::new();
    for (i, f) in fields.iter().enumerate() {
        let (path, field) = (text(f, "jsonPath"), format!("{at}[{i}].jsonPath"));
        if path.is_empty() {
            e.required(field, "");
            continue;
        }
        match definition::field_path(path, schema, false) {
            Err(why) => e.invalid(field, path, format!("is an invalid path: {why}")),
            Ok((names, found)) => {
                if names.first().is_some_and(|n| n == "metadata") {
                    e.invalid(&field, path, "must not point to fields in metadata");
                }
                if !matches!(text(found, "type"), "string" | "boolean" | "integer") {
                    e.invalid(&field, path, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.");
                }
                if seen.contains(&names) {
                    e.push(FieldError::Duplicate {
                        field,
                        value: path.into(),
                    });
                } else {
                    seen.push(names);
                }
            }
        }
    }
    if seen.len() > FIELDS_MAX {
        e.push(FieldError::TooMany {
            field: at.into(),
            actual: seen.len(),
            max: FIELDS_MAX,
        });
    }
}
