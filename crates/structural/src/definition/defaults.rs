//! Defaults must be pruned and valid: apiextensions-apiserver `pkg/apiserver/schema/defaulting/validation.go`.

use serde_json::Value;

use crate::{coerce, error::Error, lists, path::Path, prune::prune, schema::Schema, validate};

/// What is wrong with the defaults of a version's schema.
pub fn check(schema: &Schema, path: &Path<'_>, pruned: bool) -> Vec<Error> {
    let mut errors = Vec::new();
    let root = schema.as_resource();
    node(&root, path, false, pruned, &mut errors);
    errors
}

fn node(s: &Schema, path: &Path<'_>, in_meta: bool, pruned: bool, errors: &mut Vec<Error>) {
    let in_meta = in_meta && !s.embedded;
    if let Some(default) = &s.default {
        one(s, default, path, in_meta, pruned, errors);
    }
    if let Some(of) = s.items.as_deref() {
        node(of, &path.child("items"), in_meta, pruned, errors);
    }
    let fields = path.child("properties");
    for (k, p) in s.properties() {
        let meta = s.embedded && matches!(k, "metadata" | "apiVersion" | "kind");
        node(p, &fields.key(k), in_meta || meta, pruned, errors);
    }
}

fn one(
    s: &Schema,
    default: &Value,
    path: &Path<'_>,
    in_meta: bool,
    pruned: bool,
    errors: &mut Vec<Error>,
) {
    let at = path.child("default");
    if pruned && !in_meta {
        let mut value = default.clone();
        prune(&mut value, s, s.embedded);
        if value != *default {
            return errors.push(Error::invalid(
                at,
                default.clone(),
                "must not have unknown fields",
            ));
        }
    }
    let place = at.to_string();
    if !in_meta {
        let mut value = default.clone();
        if let Err(mut e) = coerce::coerce(&mut value, s, s.embedded, false) {
            e.field = format!("{place}.{}", e.field);
            return errors.push(e);
        }
    }
    errors.extend(validate::validate(s, default, &place));
    errors.extend(lists::uniqueness(s, default).into_iter().map(|mut e| {
        e.field = format!("{place}.{}", e.field);
        e
    }));
}

/// Whether a default has fields that its schema doesn't declare.
pub fn unpruned(s: &Schema) -> bool {
    s.any(&|s| {
        s.default.as_ref().is_some_and(|d| {
            let mut value = (**d).clone();
            prune(&mut value, s, s.embedded);
            value != **d
        })
    })
}
