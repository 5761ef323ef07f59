//! Reading and changing objects as JSON.

use serde_json::{Map, Value};

/// The list at a pointer, empty when there is none.
pub fn items<'v>(o: &'v Value, pointer: &str) -> &'v [Value] {
    o.pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The list of this name to be changed; nothing, and nothing left behind, when there is none.
pub fn items_mut<'v>(o: &'v mut Value, key: &str) -> impl Iterator<Item = &'v mut Value> {
    o.get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// The text at a pointer, empty when there is none.
pub fn text<'v>(o: &'v Value, pointer: &str) -> &'v str {
    o.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The object under a key, made when absent or of another type.
pub fn map_mut<'v>(o: &'v mut Value, key: &str) -> &'v mut Map<String, Value> {
    if !o.is_object() {
        *o = Value::Object(Map::new());
    }
    let slot = &mut o[key];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(m) => m,
        _ => unreachable!("made an object just above"),
    }
}

/// The list under a key, made when absent or of another type.
pub fn list_mut<'v>(o: &'v mut Value, key: &str) -> &'v mut Vec<Value> {
    let map = match o {
        Value::Object(m) => m,
        other => {
            *other = Value::Object(Map::new());
            match other {
                Value::Object(m) => m,
                _ => unreachable!("made an object just above"),
            }
        }
    };
    let slot = map.entry(key).or_insert(Value::Null);
    if !slot.is_array() {
        *slot = Value::Array(vec![]);
    }
    match slot {
        Value::Array(l) => l,
        _ => unreachable!("made a list just above"),
    }
}

/// Go's `strconv.ParseBool` of a text, false when it isn't one.
pub fn parse_bool(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}
