//! The checks of the schemas themselves: what the API refuses in an `openAPIV3Schema`.
//!
//! They read the schema as it was sent, since most of what is refused has no place in [`crate::Schema`].

mod defaults;
mod field_path;
mod openapi;
mod structural;

use serde_json::Value;

pub use field_path::field_path;

use crate::{error::Error, path::Path, schema::Schema};

/// What differs between a new schema and one that was accepted by an older, milder server.
#[derive(Debug, Clone, Copy)]
pub struct Strictness {
    pub structural: bool,
    pub valid_types: bool,
    pub pruned_defaults: bool,
    pub atomic_sets: bool,
    pub map_keys: bool,
}

impl Strictness {
    /// For new schemas.
    pub const FULL: Strictness = Strictness {
        structural: true,
        valid_types: true,
        pruned_defaults: true,
        atomic_sets: true,
        map_keys: true,
    };

    /// What may be asked of the successors of these schemas.
    pub fn after<'s>(schemas: impl Iterator<Item = &'s Value> + Clone) -> Strictness {
        let none = |wrong: &dyn Fn(&Value) -> bool| !schemas.clone().any(wrong);
        Strictness {
            structural: none(&|s| !structural::check(s, &Path::ROOT).is_empty()),
            valid_types: none(&|s| any(s, &openapi::has_invalid_type)),
            pruned_defaults: none(&|s| defaults::unpruned(&Schema::read(s))),
            atomic_sets: none(&|s| any(s, &openapi::has_granular_set)),
            map_keys: none(&|s| any(s, &|s| !openapi::map_keys(s, &Path::ROOT).is_empty())),
        }
    }
}

/// What is wrong with the schema of a version, at `path`. `status`: the version has the status subresource.
pub fn check(raw: &Value, path: &Path<'_>, status: bool, strictness: Strictness) -> Vec<Error> {
    let mut errors = Vec::new();
    if status {
        errors.extend(openapi::root(raw, path));
    }
    if raw["nullable"] == true {
        errors.push(Error::forbidden(
            path.child("nullable"),
            "nullable cannot be true at the root",
        ));
    }
    let mut early = None;
    if strictness.structural {
        match structural::unsupported(raw) {
            Some(why) => early = Some(Error::invalid(path, "", why)),
            None => {
                let found = structural::check(raw, path);
                if found.is_empty() {
                    let schema = Schema::read(raw);
                    errors.extend(defaults::check(&schema, path, strictness.pruned_defaults));
                }
                errors.extend(found);
            }
        }
    }
    errors.extend(openapi::check(raw, path, strictness));
    if errors.is_empty() {
        errors.extend(early);
    }
    errors
}

/// Formats that no value is checked by.
pub fn unknown_formats(raw: &Value) -> Vec<String> {
    let out = std::cell::RefCell::new(Vec::new());
    any(raw, &|s| {
        let format = s["format"].as_str().unwrap_or("");
        let ty = s["type"].as_str().unwrap_or("");
        if !format.is_empty() && crate::formats::supported(ty, format).is_empty() {
            out.borrow_mut().push(format.to_owned());
        }
        false
    });
    out.into_inner()
}

/// Whether any schema in this one satisfies `f`, junctors included.
fn any(s: &Value, f: &dyn Fn(&Value) -> bool) -> bool {
    if !s.is_object() {
        return false;
    }
    if f(s) {
        return true;
    }
    let of = |v: &Value| any(v, f);
    let list = |k: &str| s[k].as_array().is_some_and(|l| l.iter().any(of));
    let map = |k: &str| s[k].as_object().is_some_and(|m| m.values().any(of));
    of(&s["items"])
        || list("items")
        || ["allOf", "anyOf", "oneOf"].into_iter().any(list)
        || of(&s["not"])
        || of(&s["additionalProperties"])
        || of(&s["additionalItems"])
        || [
            "properties",
            "patternProperties",
            "definitions",
            "dependencies",
        ]
        .into_iter()
        .any(map)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
