//! Uniqueness in lists of type set and map: apiextensions-apiserver `pkg/apiserver/schema/listtype`.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::{
    error::Error,
    path::Path,
    schema::{ListType, Schema},
};

/// What comes twice where it may not.
pub fn uniqueness(schema: &Schema, value: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    if value.is_object() {
        node(schema, value, &Path::ROOT, &mut errors);
    }
    errors
}

fn node(s: &Schema, value: &Value, path: &Path<'_>, errors: &mut Vec<Error>) {
    match value {
        Value::Object(map) => {
            for (k, v) in map {
                if let Some(p) = s.property(k) {
                    node(p, v, &path.child(k), errors);
                }
                if let Some(a) = s.additional_schema() {
                    node(a, v, &path.key(k), errors);
                }
            }
        }
        Value::Array(items) => {
            match s.list {
                ListType::Set => {
                    for i in repeated(items) {
                        errors.push(Error::duplicate(path.index(i), items[i].clone()));
                    }
                }
                ListType::Map => map_keys(s, items, path, errors),
                _ => {}
            }
            if let Some(of) = s.items.as_deref() {
                for (i, item) in items.iter().enumerate() {
                    node(of, item, &path.index(i), errors);
                }
            }
        }
        _ => {}
    }
}

fn map_keys(s: &Schema, items: &[Value], path: &Path<'_>, errors: &mut Vec<Error>) {
    for (i, item) in items.iter().enumerate() {
        if !item.is_object() && !item.is_null() {
            let detail = "must be an object for an array of list-type map";
            return errors.push(Error::invalid(path.index(i), item.clone(), detail));
        }
    }
    let keys: Vec<Value> = items
        .iter()
        .map(|item| {
            let found = s.keys.iter().filter_map(|k| {
                let value = item.get(&**k)?.clone();
                Some((k.to_string(), value))
            });
            Value::Object(found.collect::<Map<_, _>>())
        })
        .collect();
    for i in repeated(&keys) {
        errors.push(Error::duplicate(path.index(i), keys[i].clone()));
    }
}

/// Where each value that comes more than once comes the second time.
fn repeated(items: &[Value]) -> Vec<usize> {
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(items.len());
    let mut out = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let times = seen.entry(item.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            out.push(i);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tells_what_comes_twice() {
        let s = Schema::read(&json!({"type": "object", "properties": {
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
                "items": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}}}}));
        for (name, given, want) in [
            (
                "none",
                json!({"set": ["a", "b"], "map": [{"a": "x"}, {"a": "x", "b": 1}]}),
                vec![],
            ),
            (
                "set",
                json!({"set": ["a", "b", "a", "a"]}),
                vec![Error::duplicate("set[2]", "a")],
            ),
            (
                "map",
                json!({"map": [{"a": "x", "b": 1}, {"a": "x", "b": 1, "c": 2}]}),
                vec![Error::duplicate("map[1]", json!({"a": "x", "b": 1}))],
            ),
        ] {
            assert_eq!(uniqueness(&s, &given), want, "{name}");
        }
    }
}
