//! The nodes of a schema that have rules, or have nodes with rules below them.

use std::sync::Arc;

use knarr_cel::Schema;
use serde_json::Value;

use super::compile::{Compiled, compile};

/// A node.
pub struct Tree {
    /// The word of `type`.
    pub ty: Box<str>,
    pub rules: Vec<Compiled>,
    /// What the rules see; None for nodes without rules, and when the schema can't be seen.
    pub schema: Option<Arc<Schema>>,
    /// Of lists of type map.
    pub keys: Option<Vec<String>>,
    pub items: Option<Box<Tree>>,
    pub additional: Option<Box<Tree>>,
    pub properties: Vec<(Box<str>, Tree)>,
    /// Rules of `allOf`, over the same value.
    pub all_of: Vec<Tree>,
}

impl Tree {
    /// The rules of a version's schema; None when there are none.
    pub fn read(raw: &Value) -> Option<Tree> {
        has_rules(raw).then(|| node(raw, raw, true)).flatten()
    }
}

/// The name of the type of `self`, which nobody may rely on.
pub const SELF_TYPE: &str = "selfType";

fn has_rules(raw: &Value) -> bool {
    raw["x-kubernetes-validations"]
        .as_array()
        .is_some_and(|l| !l.is_empty())
        || ["items", "additionalProperties"]
            .iter()
            .any(|k| raw[k].is_object() && has_rules(&raw[k]))
        || raw["properties"]
            .as_object()
            .is_some_and(|m| m.values().any(has_rules))
        || raw["allOf"]
            .as_array()
            .is_some_and(|l| l.iter().any(has_rules))
}

/// `rules` is where the rules are, `raw` the schema of the value (another one in `allOf`).
fn node(rules: &Value, raw: &Value, root: bool) -> Option<Tree> {
    if !has_rules(rules) {
        return None;
    }
    let given = knarr_structural::Schema::read(rules).rules;
    let schema = if given.is_empty() {
        None
    } else {
        let root = root || raw["x-kubernetes-embedded-resource"] == true;
        Schema::from_openapi(raw, root, SELF_TYPE)
    };
    let below = |key: &str| {
        let (r, s) = (&rules[key], &raw[key]);
        (r.is_object() && s.is_object())
            .then(|| node(r, s, false))
            .flatten()
            .map(Box::new)
    };
    let properties = rules["properties"].as_object();
    Some(Tree {
        ty: raw["type"].as_str().unwrap_or("").into(),
        rules: match &schema {
            Some(schema) => compile(raw, &given, schema),
            None => vec![],
        },
        schema,
        keys: (raw["x-kubernetes-list-type"] == "map").then(|| {
            let keys = raw["x-kubernetes-list-map-keys"].as_array();
            let keys = keys.into_iter().flatten();
            keys.filter_map(|k| k.as_str().map(str::to_owned)).collect()
        }),
        items: below("items"),
        additional: below("additionalProperties"),
        properties: properties
            .into_iter()
            .flatten()
            .filter_map(|(k, r)| {
                let s = raw["properties"].get(k)?;
                Some((k.as_str().into(), node(r, s, false)?))
            })
            .collect(),
        all_of: rules["allOf"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|r| node(r, raw, root))
            .collect(),
    })
}
