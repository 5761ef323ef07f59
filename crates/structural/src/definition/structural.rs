//! What makes a schema structural: apiextensions-apiserver `pkg/apiserver/schema/{convert,validation,complete}.go`.

use serde_json::{Value, json};

use crate::{error::Error, path::Path, schema::Pattern};

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Keywords that a structural schema can't be made with; None when there are none.
pub fn unsupported(s: &Value) -> Option<String> {
    for key in ["id", "$schema", "$ref"] {
        if s[key].as_str().is_some_and(|t| !t.is_empty()) {
            let name = key.trim_start_matches(if key == "$schema" { "$" } else { "" });
            return Some(format!("OpenAPIV3Schema '{name}' is not supported"));
        }
    }
    for key in ["patternProperties", "dependencies", "definitions"] {
        if s[key].as_object().is_some_and(|m| !m.is_empty()) {
            return Some(format!("OpenAPIV3Schema '{key}' is not supported"));
        }
    }
    if !s["additionalItems"].is_null() {
        return Some("OpenAPIV3Schema 'additionalItems' is not supported".into());
    }
    if s["items"].is_array() {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array".into());
    }
    if s["x-kubernetes-preserve-unknown-fields"] == false {
        return Some(
            "internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined"
                .into(),
        );
    }
    below(s).find_map(unsupported)
}

/// The schemas directly in this one.
fn below(s: &Value) -> impl Iterator<Item = &Value> {
    let junctors = ["allOf", "anyOf", "oneOf"]
        .into_iter()
        .filter_map(|k| s[k].as_array())
        .flatten();
    let one = ["items", "additionalProperties", "not"]
        .into_iter()
        .map(|k| &s[k])
        .filter(|v| v.is_object());
    let fields = s["properties"]
        .as_object()
        .into_iter()
        .flat_map(|m| m.values());
    junctors.chain(one).chain(fields)
}

/// What keeps the schema from being structural; sorted.
pub fn check(s: &Value, path: &Path<'_>) -> Vec<Error> {
    let mut errors = Vec::new();
    invariants(s, Level::Root, path, &mut errors);
    complete(
        s,
        Some(s),
        &path.to_string(),
        &path.to_string(),
        &mut errors,
    );
    errors.sort_by(|a, b| (&a.field, &a.detail).cmp(&(&b.field, &b.detail)));
    errors
}

fn text<'s>(s: &'s Value, key: &str) -> &'s str {
    s[key].as_str().unwrap_or("")
}

fn invariants(s: &Value, level: Level, path: &Path<'_>, errors: &mut Vec<Error>) {
    let ty = text(s, "type");
    let has = |key: &str| s[key] == true;
    let (embedded, preserves) = (
        has("x-kubernetes-embedded-resource"),
        has("x-kubernetes-preserve-unknown-fields"),
    );
    let int_or_string = has("x-kubernetes-int-or-string");
    if ty == "array" && s["items"].is_null() {
        errors.push(Error::required(path.child("items"), "must be specified"));
    }
    if s["items"].is_object() {
        invariants(&s["items"], Level::Item, &path.child("items"), errors);
    }
    let properties = s["properties"].as_object();
    for (k, v) in properties.into_iter().flatten() {
        invariants(v, Level::Field, &path.child("properties").key(k), errors);
    }
    let additional = &s["additionalProperties"];
    if !additional.is_null() {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(Error::forbidden(at, "must not be used at the root"));
        }
        if additional.is_object() {
            invariants(additional, Level::Field, &at, errors);
        }
        if embedded {
            errors.push(Error::forbidden(
                at,
                "must not be used if x-kubernetes-embedded-resource is set",
            ));
        }
    }
    for (set, key) in [
        (preserves, "x-kubernetes-preserve-unknown-fields"),
        (embedded, "x-kubernetes-embedded-resource"),
    ] {
        if int_or_string && set {
            let detail = "must be false if x-kubernetes-int-or-string is true";
            errors.push(Error::invalid(path.child(key), true, detail));
        }
    }
    let exact = json!([{"type": "integer"}, {"type": "string"}]);
    let any_of = s["anyOf"] == exact;
    let all_of = s["allOf"][0]["anyOf"] == exact;
    values(s, (any_of, all_of), path, errors);

    let at = path.child("type");
    if embedded && ty != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if ty.is_empty() {
            Error::required(at, detail)
        } else {
            Error::invalid(at, ty, detail)
        });
    } else if ty.is_empty() && !int_or_string && !preserves {
        let place = match level {
            Level::Root => "at the root",
            Level::Item => "for specified array items",
            Level::Field => "for specified object fields",
        };
        errors.push(Error::required(at, format!("must not be empty {place}")));
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.push(Error::invalid(at, ty, "must be object at the root"));
    }
    let meta = level == Level::Root || embedded;
    let fields = path.child("properties");
    for key in ["kind", "apiVersion"] {
        if let Some(p) = properties.and_then(|m| m.get(key))
            && meta
            && text(p, "type") != "string"
        {
            let at = fields.key(key);
            errors.push(Error::invalid(
                at.child("type"),
                text(p, "type"),
                "must be string",
            ));
        }
    }
    if let Some(m) = properties.and_then(|m| m.get("metadata")) {
        metadata(m, meta, level, &fields.key("metadata"), errors);
    }
    if embedded && !preserves && properties.is_none_or(serde_json::Map::is_empty) {
        errors.push(Error::required(
            path.child("properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ));
    }
}

/// At the root, only names may be restricted.
fn metadata(m: &Value, meta: bool, level: Level, path: &Path<'_>, errors: &mut Vec<Error>) {
    if meta && text(m, "type") != "object" {
        errors.push(Error::invalid(
            path.child("type"),
            text(m, "type"),
            "must be object",
        ));
    }
    let only_names = m["properties"].as_object().is_none_or(|p| {
        p.keys()
            .all(|k| matches!(k.as_str(), "name" | "generateName"))
    });
    let nothing_else = m.as_object().is_none_or(|map| {
        map.iter()
            .all(|(k, v)| matches!(k.as_str(), "type" | "default" | "properties") || v.is_null())
    });
    if level == Level::Root && !(only_names && nothing_else) {
        errors.push(Error::forbidden(
            path,
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        ));
    }
}

fn schemas<'s>(s: &'s Value, key: &str) -> &'s [Value] {
    s[key].as_array().map_or(&[], Vec::as_slice)
}

/// Checks the junctors of a schema. `skip`: its anyOf, and that of its first allOf, are the int-or-string pattern.
fn values(s: &Value, skip: (bool, bool), path: &Path<'_>, errors: &mut Vec<Error>) {
    for key in ["anyOf", "allOf", "oneOf"] {
        if key == "anyOf" && skip.0 {
            continue;
        }
        let at = path.child(key);
        for (i, v) in schemas(s, key).iter().enumerate() {
            let skip = (key == "allOf" && i == 0 && skip.1, false);
            nested(v, skip, &at.index(i), errors);
        }
    }
    if s["not"].is_object() {
        nested(&s["not"], (false, false), &path.child("not"), errors);
    }
    let pattern = text(s, "pattern");
    if !pattern.is_empty()
        && let Err(why) = Pattern::new(pattern).regex()
    {
        errors.push(Error::invalid(
            path.child("pattern"),
            pattern,
            format!("must be a valid regular expression, but isn't: {why}"),
        ));
    }
}

fn nested(v: &Value, skip: (bool, bool), path: &Path<'_>, errors: &mut Vec<Error>) {
    values(v, skip, path, errors);
    if v["items"].is_object() {
        nested(&v["items"], (false, false), &path.child("items"), errors);
    }
    let fields = path.child("properties");
    for (k, p) in v["properties"].as_object().into_iter().flatten() {
        nested(p, (false, false), &fields.key(k), errors);
    }
    if !matches!(&v["additionalProperties"], Value::Null | Value::Bool(false)) {
        errors.push(Error::forbidden(
            path.child("additionalProperties"),
            "must be undefined to be structural",
        ));
    }
    for (key, detail) in [
        ("type", "must be empty to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        (
            "x-kubernetes-preserve-unknown-fields",
            "must be false to be structural",
        ),
        (
            "x-kubernetes-embedded-resource",
            "must be false to be structural",
        ),
        (
            "x-kubernetes-int-or-string",
            "must be false to be structural",
        ),
        (
            "x-kubernetes-list-map-keys",
            "must be empty to be structural",
        ),
        (
            "x-kubernetes-list-type",
            "must be undefined to be structural",
        ),
        (
            "x-kubernetes-map-type",
            "must be undefined to be structural",
        ),
        ("x-kubernetes-validations", "must be empty to be structural"),
    ] {
        let set = match &v[key] {
            Value::Null | Value::Bool(false) => false,
            Value::String(t) if key != "default" => !t.is_empty(),
            Value::Array(l) if key != "default" => !l.is_empty(),
            _ => true,
        };
        if set {
            errors.push(Error::forbidden(path.child(key), detail));
        }
    }
    if v["properties"].get("metadata").is_some() {
        let at = fields.key("metadata");
        errors.push(Error::forbidden(
            at,
            "must not be specified in a nested context",
        ));
    }
}

/// What junctors speak of must be declared outside of them.
fn complete(v: &Value, s: Option<&Value>, at: &str, from: &str, errors: &mut Vec<Error>) {
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, clause) in schemas(v, key).iter().enumerate() {
            clause_complete(clause, s, at, &format!("{from}.{key}[{i}]"), errors);
        }
    }
    if v["not"].is_object() {
        clause_complete(&v["not"], s, at, &format!("{from}.not"), errors);
    }
}

fn clause_complete(v: &Value, s: Option<&Value>, at: &str, from: &str, errors: &mut Vec<Error>) {
    let Some(s) = s else {
        errors.push(Error::required(
            at,
            format!("because it is defined in {from}"),
        ));
        return;
    };
    complete(v, Some(s), at, from, errors);
    if v["items"].is_object() {
        let of = Some(&s["items"]).filter(|i| i.is_object());
        clause_complete(
            &v["items"],
            of,
            &format!("{at}.items"),
            &format!("{from}.items"),
            errors,
        );
    }
    for (k, p) in v["properties"].as_object().into_iter().flatten() {
        let of = s["properties"].get(k);
        let (at, from) = (
            format!("{at}.properties[{k}]"),
            format!("{from}.properties[{k}]"),
        );
        clause_complete(p, of, &at, &from, errors);
    }
}
