//! Pruning and defaulting: apiextensions-apiserver `pkg/apiserver/schema/{pruning,defaulting}`.

use serde_json::{Map, Value};

use crate::{
    path::Path,
    schema::{Additional, Schema},
};

/// Most unknown fields told of one object.
const UNKNOWN_MAX: usize = 100;
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes fields that the schema doesn't declare. `root`: the value is a whole resource, whose metadata stays. Returns
/// the paths of what was removed, without those of the root's own metadata.
pub fn prune(value: &mut Value, schema: &Schema, root: bool) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut walk = Pruning {
        unknown: &mut unknown,
    };
    let embedded = schema.embedded || root;
    if schema.preserve_unknown {
        walk.below(value, schema, embedded, &Path::ROOT);
    } else {
        walk.node(value, Some(schema), embedded, &Path::ROOT);
    }
    unknown.sort_unstable();
    unknown
}

struct Pruning<'u> {
    unknown: &'u mut Vec<String>,
}

impl Pruning<'_> {
    fn tell(&mut self, path: &Path<'_>, key: &str) {
        if self.unknown.len() < UNKNOWN_MAX {
            self.unknown.push(path.child(key).to_string());
        }
    }

    fn value(&mut self, value: &mut Value, schema: Option<&Schema>, path: &Path<'_>) {
        match schema {
            Some(s) if s.preserve_unknown => self.below(value, s, s.embedded, path),
            Some(s) => self.node(value, Some(s), s.embedded, path),
            None => self.node(value, None, false, path),
        }
    }

    fn node(
        &mut self,
        value: &mut Value,
        schema: Option<&Schema>,
        embedded: bool,
        path: &Path<'_>,
    ) {
        match (value, schema) {
            (Value::Object(map), None) => {
                for k in map.keys() {
                    self.tell(path, k);
                }
                map.clear();
            }
            (Value::Object(map), Some(s)) => map.retain(|k, v| {
                if embedded && META.contains(&k.as_str()) {
                    return true;
                }
                match (s.property(k), &s.additional) {
                    (Some(p), _) => self.value(v, Some(p), &path.child(k)),
                    (None, Some(Additional::Of(a))) => self.value(v, Some(a), &path.child(k)),
                    (None, Some(Additional::Any(_))) => self.value(v, None, &path.child(k)),
                    (None, None) => {
                        if !META.contains(&k.as_str()) || !path.is_root() {
                            self.tell(path, k);
                        }
                        return false;
                    }
                }
                true
            }),
            (Value::Array(items), s) => {
                let of = s.and_then(|s| s.items.as_deref());
                for (i, item) in items.iter_mut().enumerate() {
                    self.value(item, of, &path.index(i));
                }
            }
            _ => {}
        }
    }

    /// Below a schema that preserves what it doesn't know: only what it does know is pruned.
    fn below(&mut self, value: &mut Value, s: &Schema, embedded: bool, path: &Path<'_>) {
        match value {
            Value::Object(map) => {
                for (k, v) in map.iter_mut() {
                    if embedded && META.contains(&k.as_str()) {
                        continue;
                    }
                    match (s.property(k), &s.additional) {
                        (Some(p), _) => self.value(v, Some(p), &path.child(k)),
                        (None, Some(Additional::Of(a))) => self.value(v, Some(a), &path.child(k)),
                        (None, Some(Additional::Any(_))) => self.value(v, None, &path.child(k)),
                        (None, None) => {}
                    }
                }
            }
            Value::Array(items) => {
                let Some(of) = s.items.as_deref() else { return };
                for (i, item) in items.iter_mut().enumerate() {
                    self.below(item, of, of.embedded, &path.index(i));
                }
            }
            _ => {}
        }
    }
}

/// Whether null here means the default.
fn wants_default(value: &Value, schema: &Schema) -> bool {
    value.is_null() && !schema.nullable
}

/// Puts in the schema's defaults, also in place of nulls that may not be.
pub fn default(value: &mut Value, s: &Schema) {
    match value {
        Value::Object(map) => {
            for (name, p) in s.properties() {
                let Some(d) = &p.default else { continue };
                if map.get(name).is_none_or(|v| wants_default(v, p)) {
                    map.insert(name.to_owned(), (**d).clone());
                }
            }
            for (k, v) in map.iter_mut() {
                if let Some(p) = s.property(k) {
                    default(v, p);
                } else if let Some(a) = s.additional_schema() {
                    default_item(v, a);
                }
            }
        }
        Value::Array(items) => {
            if let Some(of) = s.items.as_deref() {
                items.iter_mut().for_each(|item| default_item(item, of));
            }
        }
        _ => {}
    }
}

fn default_item(value: &mut Value, s: &Schema) {
    if wants_default(value, s) {
        *value = s.default.as_deref().cloned().unwrap_or(Value::Null);
    }
    default(value, s);
}

/// Removes nulls of fields that may not be null and have no default.
pub fn drop_nulls(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => drop_in(map, schema),
        Value::Array(items) => {
            let of = schema.and_then(|s| s.items.as_deref());
            items.iter_mut().for_each(|item| drop_nulls(item, of));
        }
        _ => {}
    }
}

fn drop_in(map: &mut Map<String, Value>, schema: Option<&Schema>) {
    map.retain(|k, v| {
        let s = schema.and_then(|s| s.field(k));
        if v.is_null() && s.is_some_and(|s| !s.nullable && s.default.is_none()) {
            return false;
        }
        drop_nulls(v, s);
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(v: Value) -> Schema {
        Schema::read(&v)
    }

    #[test]
    fn prunes() {
        let spec = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "integer"},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object", "properties": {"x": {"type": "string"}}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"y": {"type": "string"}}}},
            "any": {"type": "object", "additionalProperties": true},
            "list": {"type": "array", "items": {"type": "object", "properties": {"z": {"type": "string"}}}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}
        }}}});
        for (name, given, want, unknown) in [
            (
                "declared fields stay, metadata of the resource too",
                json!({"apiVersion": "v", "kind": "K", "metadata": {"name": "n"}, "spec": {"a": 1}}),
                json!({"apiVersion": "v", "kind": "K", "metadata": {"name": "n"}, "spec": {"a": 1}}),
                vec![],
            ),
            (
                "others go",
                json!({"b": 1, "spec": {"c": {"d": 1}, "list": [{"z": "", "q": 1}]}}),
                json!({"spec": {"list": [{"z": ""}]}}),
                vec!["b", "spec.c", "spec.list[0].q"],
            ),
            (
                "what is preserved is pruned where it is known",
                json!({"spec": {"free": {"u": {"v": 1}, "known": {"x": "", "w": 1}}}}),
                json!({"spec": {"free": {"u": {"v": 1}, "known": {"x": ""}}}}),
                vec!["spec.free.known.w"],
            ),
            (
                "maps",
                json!({"spec": {"map": {"k": {"y": "", "n": 1}}, "any": {"s": "", "o": {"p": 1}}}}),
                json!({"spec": {"map": {"k": {"y": ""}}, "any": {"s": "", "o": {}}}}),
                vec!["spec.any.o.p", "spec.map.k.n"],
            ),
            (
                "embedded resources keep their metadata",
                json!({"spec": {"pod": {"kind": "Pod", "metadata": {"name": "n"}, "spec": {}}}}),
                json!({"spec": {"pod": {"kind": "Pod", "metadata": {"name": "n"}, "spec": {}}}}),
                vec![],
            ),
        ] {
            let mut value = given;
            let got = prune(&mut value, &schema(spec.clone()), true);
            assert_eq!(value, want, "{name}");
            assert_eq!(got, unknown, "{name}");
        }
    }

    #[test]
    fn defaults() {
        let s = schema(json!({"type": "object", "properties": {
            "a": {"type": "integer", "default": 5},
            "n": {"type": "integer", "default": 6, "nullable": true},
            "o": {"type": "object", "default": {}, "properties": {"in": {"type": "string", "default": "x"}}},
            "l": {"type": "array", "items": {"type": "object", "properties": {"q": {"type": "boolean", "default": true}}}},
            "m": {"type": "object", "additionalProperties": {"type": "string", "default": "d"}},
            "plain": {"type": "string"}
        }}));
        let mut v = json!({"a": null, "n": null, "l": [{}], "m": {"k": null}, "plain": null});
        drop_nulls(&mut v, Some(&s));
        default(&mut v, &s);
        assert_eq!(
            v,
            json!({"a": 5, "n": null, "o": {"in": "x"}, "l": [{"q": true}], "m": {"k": "d"}})
        );
    }
}
