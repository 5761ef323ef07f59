//! What the API refuses of any schema: apiextensions-apiserver `pkg/apis/apiextensions/validation`,
//! `ValidateCustomResourceDefinitionOpenAPISchema`.

use serde_json::Value;

use super::Strictness;
use crate::{error::Error, path::Path};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const META: [&str; 3] = ["metadata", "kind", "apiVersion"];
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];
/// What may stand at the root when status is a subresource, as upstream's message lists it.
const AT_ROOT: [(&str, &str); 22] = [
    ("Description", "description"),
    ("Type", "type"),
    ("Format", "format"),
    ("Title", "title"),
    ("Maximum", "maximum"),
    ("ExclusiveMaximum", "exclusiveMaximum"),
    ("Minimum", "minimum"),
    ("ExclusiveMinimum", "exclusiveMinimum"),
    ("MaxLength", "maxLength"),
    ("MinLength", "minLength"),
    ("Pattern", "pattern"),
    ("MaxItems", "maxItems"),
    ("MinItems", "minItems"),
    ("UniqueItems", "uniqueItems"),
    ("MultipleOf", "multipleOf"),
    ("Required", "required"),
    ("Items", "items"),
    ("Properties", "properties"),
    ("ExternalDocs", "externalDocs"),
    ("Example", "example"),
    (
        "XPreserveUnknownFields",
        "x-kubernetes-preserve-unknown-fields",
    ),
    ("XValidations", "x-kubernetes-validations"),
];

fn text<'s>(s: &'s Value, key: &str) -> &'s str {
    s[key].as_str().unwrap_or("")
}

/// What may not be at the root because status is taken out of it.
pub fn root(s: &Value, path: &Path<'_>) -> Vec<Error> {
    let Some(map) = s.as_object() else {
        return vec![];
    };
    for (k, v) in map {
        if k == "type" {
            if v != "object" {
                return vec![Error::invalid(
                    path.child("type"),
                    v.clone(),
                    "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled",
                )];
            }
        } else if !AT_ROOT.iter().any(|(_, name)| name == k) && !v.is_null() && *v != false {
            let names: Vec<&str> = AT_ROOT.iter().map(|(n, _)| *n).collect();
            return vec![Error::invalid(
                path,
                s.clone(),
                format!(
                    "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                    names.join(" ")
                ),
            )];
        }
    }
    vec![]
}

/// What is wrong with the schema.
pub fn check(s: &Value, path: &Path<'_>, strictness: Strictness) -> Vec<Error> {
    let mut walk = Walk {
        errors: Vec::new(),
        strictness,
    };
    let at = Place {
        no_defaults: None,
        in_meta: false,
        root: true,
    };
    walk.node(s, path, at);
    walk.errors
}

struct Walk {
    errors: Vec<Error>,
    strictness: Strictness,
}

#[derive(Clone, Copy)]
struct Place<'a> {
    /// Why defaults are forbidden here.
    no_defaults: Option<&'a str>,
    in_meta: bool,
    root: bool,
}

impl Walk {
    fn forbid(&mut self, at: impl ToString, detail: &str) {
        self.errors.push(Error::forbidden(at, detail));
    }

    fn node(&mut self, s: &Value, path: &Path<'_>, place: Place<'_>) {
        if !s.is_object() {
            return;
        }
        self.keywords(s, path, place);
        if s["uniqueItems"] == true {
            self.forbid(
                path.child("uniqueItems"),
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            );
        }
        self.fields(s, path, place);
        let place = Place {
            root: false,
            ..place
        };
        for key in ["allOf", "oneOf", "anyOf"] {
            let at = path.child(key);
            for (i, clause) in s[key].as_array().into_iter().flatten().enumerate() {
                self.node(clause, &at.index(i), place);
            }
        }
        self.node(&s["not"], &path.child("not"), place);
        let at = path.child("definitions");
        for (k, d) in s["definitions"].as_object().into_iter().flatten() {
            self.node(d, &at.key(k), place);
        }
        let at = path.child("items");
        match &s["items"] {
            Value::Array(all) => {
                for (i, item) in all.iter().enumerate() {
                    self.node(item, &at.index(i), place);
                }
            }
            item => self.node(item, &at, place),
        }
        self.list_and_map_types(s, path);
        if self.strictness.map_keys {
            self.errors.extend(map_keys(s, path));
        }
        self.rules(s, path);
    }

    fn fields(&mut self, s: &Value, path: &Path<'_>, place: Place<'_>) {
        let additional = &s["additionalProperties"];
        let properties = s["properties"].as_object().filter(|m| !m.is_empty());
        if !additional.is_null() {
            let at = path.child("additionalProperties");
            if properties.is_some() && *additional != true {
                self.forbid(
                    at,
                    "additionalProperties and properties are mutual exclusive",
                );
            }
            let below = Place {
                root: false,
                no_defaults: if place.in_meta {
                    Some("inside additionalProperties applying to object metadata")
                } else {
                    place.no_defaults
                },
                ..place
            };
            self.node(additional, &at, below);
        }
        let embedded = s["x-kubernetes-embedded-resource"] == true;
        let fields = path.child("properties");
        for (k, p) in properties.into_iter().flatten() {
            let meta = (place.root || embedded) && META.contains(&k.as_str());
            let reason = format!("in top-level {k}");
            let below = Place {
                in_meta: place.in_meta || meta,
                no_defaults: if meta && place.root {
                    Some(&reason)
                } else {
                    place.no_defaults
                },
                root: false,
            };
            self.node(p, &fields.key(k), below);
        }
    }

    fn keywords(&mut self, s: &Value, path: &Path<'_>, place: Place<'_>) {
        let ty = text(s, "type");
        if self.strictness.valid_types && has_invalid_type(s) {
            let at = path.child("type");
            self.errors.push(Error::not_supported(at, ty, &TYPES));
        }
        if let (Some(_), Some(why)) = (s.get("default"), place.no_defaults) {
            self.forbid(path.child("default"), &format!("must not be set {why}"));
        }
        let set = |k: &str| match &s[k] {
            Value::Null => false,
            Value::String(t) => !t.is_empty(),
            Value::Object(m) => k == "dependencies" || k == "additionalItems" || !m.is_empty(),
            _ => true,
        };
        for key in [
            "id",
            "additionalItems",
            "patternProperties",
            "definitions",
            "dependencies",
            "$ref",
        ] {
            if set(key) {
                self.forbid(path.child(key), &format!("{key} is not supported"));
            }
        }
        if ty == "null" {
            self.forbid(
                path.child("type"),
                "type cannot be set to null, use nullable as an alternative",
            );
        }
        if s["items"].as_array().is_some_and(|l| !l.is_empty()) {
            self.forbid(
                path.child("items"),
                "items must be a schema object and not an array",
            );
        }
        if place.in_meta && s["x-kubernetes-embedded-resource"] == true {
            self.forbid(
                path.child("x-kubernetes-embedded-resource"),
                "must not be used inside of resource meta",
            );
        }
        if s["x-kubernetes-preserve-unknown-fields"] == false {
            self.errors.push(Error::invalid(
                path.child("x-kubernetes-preserve-unknown-fields"),
                false,
                "must be true or undefined",
            ));
        }
    }

    /// The error of a type that must be another one.
    fn must_be(&mut self, ty: &str, path: &Path<'_>, detail: &str) {
        let at = path.child("type");
        self.errors.push(if ty.is_empty() {
            Error::required(at, detail)
        } else {
            Error::invalid(at, ty, detail)
        });
    }

    fn list_and_map_types(&mut self, s: &Value, path: &Path<'_>) {
        const LIST: &str = "x-kubernetes-list-type";
        const MAP: &str = "x-kubernetes-map-type";
        const KEYS: &str = "x-kubernetes-list-map-keys";
        let ty = text(s, "type");
        let items = &s["items"];
        if let Some(map) = s[MAP].as_str() {
            if ty != "object" {
                self.must_be(
                    ty,
                    path,
                    "must be object if x-kubernetes-map-type is specified",
                );
            }
            if !matches!(map, "atomic" | "granular") {
                let at = path.child(MAP);
                self.errors
                    .push(Error::not_supported(at, map, &["atomic", "granular"]));
            }
        }
        let keys: Vec<&str> = s[KEYS]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let list = s[LIST].as_str();
        if let Some(list) = list {
            if ty != "array" {
                self.must_be(
                    ty,
                    path,
                    "must be array if x-kubernetes-list-type is specified",
                );
            } else if self.strictness.atomic_sets && has_granular_set(s) {
                let key = if text(items, "type") == "array" {
                    LIST
                } else {
                    MAP
                };
                let at = path.child("items");
                self.errors.push(Error::invalid(
                    at.child(key),
                    items[LIST].clone(),
                    "must be atomic as item of a list with x-kubernetes-list-type=set",
                ));
            }
            if !matches!(list, "atomic" | "set" | "map") {
                let at = path.child(LIST);
                self.errors
                    .push(Error::not_supported(at, list, &["atomic", "set", "map"]));
            }
        }
        if !keys.is_empty() && list != Some("map") {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            let at = path.child(LIST);
            self.errors.push(match list {
                None => Error::required(at, detail),
                Some(list) => Error::invalid(at, list, detail),
            });
        }
        if list != Some("map") {
            return;
        }
        if keys.is_empty() {
            let detail = "must not be empty if x-kubernetes-list-type is map";
            self.errors.push(Error::required(path.child(KEYS), detail));
        }
        let at = path.child("items");
        match items {
            Value::Null => {
                let detail = "must have a schema if x-kubernetes-list-type is map";
                return self.errors.push(Error::required(at, detail));
            }
            Value::Array(_) => {
                let detail = "must only have a single schema if x-kubernetes-list-type is map";
                return self.errors.push(Error::invalid(at, items.clone(), detail));
            }
            _ if text(items, "type") != "object" => {
                let detail = "must be object if parent array's x-kubernetes-list-type is map";
                let ty = text(items, "type");
                return self
                    .errors
                    .push(Error::invalid(at.child("type"), ty, detail));
            }
            _ => {}
        }
        let (fields, mut seen) = (at.child("properties"), Vec::new());
        for k in &keys {
            match items["properties"].get(k) {
                Some(p) if matches!(text(p, "type"), "array" | "object") => {
                    let at = fields.key(k);
                    self.errors.push(Error::invalid(
                        at.child("type"),
                        text(items, "type"),
                        "must be a scalar type if parent array's x-kubernetes-list-type is map",
                    ));
                }
                Some(_) => {}
                None => self.errors.push(Error::invalid(
                    path.child(KEYS),
                    s[KEYS].clone(),
                    "entries must all be names of item properties",
                )),
            }
            if seen.contains(k) {
                self.errors.push(Error::invalid(
                    path.child(KEYS),
                    s[KEYS].clone(),
                    "must not contain duplicate entries",
                ));
            }
            seen.push(k);
        }
    }

    fn rules(&mut self, s: &Value, path: &Path<'_>) {
        let lines = |t: &str| t.contains(['\n', '\r']);
        let list = path.child("x-kubernetes-validations");
        for (i, r) in s["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let at = list.index(i);
            let (rule, message) = (text(r, "rule").trim(), text(r, "message"));
            if rule.is_empty() {
                self.errors
                    .push(Error::required(at.child("rule"), "rule is not specified"));
            } else if !message.is_empty() && message.trim().is_empty() {
                let detail = "must be non-empty if specified";
                self.errors
                    .push(Error::invalid(at.child("message"), message, detail));
            } else if lines(message.trim()) {
                let detail = "must not contain line breaks";
                self.errors
                    .push(Error::invalid(at.child("message"), message, detail));
            } else if lines(rule) && message.trim().is_empty() {
                let detail = "message must be specified if rule contains line breaks";
                self.errors
                    .push(Error::required(at.child("message"), detail));
            }
            let expression = text(r, "messageExpression");
            if !expression.is_empty() && expression.trim().is_empty() {
                let detail = "messageExpression must be non-empty if specified";
                self.errors
                    .push(Error::required(at.child("messageExpression"), detail));
            }
            if let Some(reason) = r["reason"].as_str()
                && !REASONS.contains(&reason)
            {
                let at = at.child("reason");
                self.errors.push(Error::not_supported(at, reason, &REASONS));
            }
            let field = text(r, "fieldPath");
            if !field.is_empty() && field.trim().is_empty() {
                let detail = "must be non-empty if specified";
                self.errors
                    .push(Error::invalid(at.child("fieldPath"), field, detail));
            }
            if lines(field) {
                let detail = "must not contain line breaks";
                self.errors
                    .push(Error::invalid(at.child("fieldPath"), field, detail));
            }
            if !field.is_empty() && super::field_path(field, s, true).is_err() {
                let detail = "must be a valid path";
                self.errors
                    .push(Error::invalid(at.child("fieldPath"), field, detail));
            }
        }
    }
}

pub fn has_invalid_type(s: &Value) -> bool {
    let ty = text(s, "type");
    !ty.is_empty() && !TYPES.contains(&ty)
}

/// A set whose items may be owned in part.
pub fn has_granular_set(s: &Value) -> bool {
    let items = &s["items"];
    if s["x-kubernetes-list-type"] != "set" || !items.is_object() {
        return false;
    }
    match text(items, "type") {
        "array" => {
            !matches!(&items["x-kubernetes-list-type"], Value::Null)
                && items["x-kubernetes-list-type"] != "atomic"
        }
        "object" => items["x-kubernetes-map-type"] != "atomic",
        _ => false,
    }
}

/// Items of sets and maps may not be null; keys must always be there.
pub fn map_keys(s: &Value, path: &Path<'_>) -> Vec<Error> {
    let items = &s["items"];
    let list = text(s, "x-kubernetes-list-type");
    if !items.is_object() || !matches!(list, "set" | "map") {
        return vec![];
    }
    let mut errors = Vec::new();
    let at = path.child("items");
    if items["nullable"] == true {
        errors.push(Error::forbidden(
            at.child("nullable"),
            format!("cannot be nullable when x-kubernetes-list-type is {list}"),
        ));
    }
    if list != "map" {
        return errors;
    }
    let required = |k: &str| {
        let all = items["required"].as_array();
        all.is_some_and(|l| l.iter().any(|r| r == k))
    };
    let fields = at.child("properties");
    let keys = s["x-kubernetes-list-map-keys"].as_array();
    for k in keys.into_iter().flatten().filter_map(Value::as_str) {
        let Some(p) = items["properties"].get(k) else {
            continue;
        };
        let at = fields.key(k);
        if !required(k) && p.get("default").is_none() {
            errors.push(Error::required(
                at.child("default"),
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ));
        }
        if p["nullable"] == true {
            errors.push(Error::forbidden(
                at.child("nullable"),
                "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            ));
        }
    }
    errors
}
