//! Short ways to read and fill JSON objects.

use serde_json::{Map, Value, json};

/// The text at a pointer; empty when absent.
pub(crate) fn text<'a>(o: &'a Value, pointer: &str) -> &'a str {
    o.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The whole number at a pointer; 0 when absent.
pub(crate) fn number(o: &Value, pointer: &str) -> i64 {
    o.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// The items at a pointer; none when absent.
pub(crate) fn items<'a>(o: &'a Value, pointer: &str) -> &'a [Value] {
    o.pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The mapping at a pointer.
pub(crate) fn map<'a>(o: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    o.pointer(pointer).and_then(Value::as_object)
}

/// Sets a field that is absent or null.
pub(crate) fn default(o: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(m) = o.as_object_mut()
        && m.get(key).is_none_or(Value::is_null)
    {
        m.insert(key.to_string(), value.into());
    }
}

/// The mapping below a key, made when absent; None when `o` or the field is something else.
pub(crate) fn child<'a>(o: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    default(o, key, json!({}));
    o.get_mut(key).filter(|v| v.is_object())
}

/// The items of a list field, for change.
pub(crate) fn items_mut<'a>(o: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    o.get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// The text of a field; empty when absent.
pub(crate) fn str_of<'a>(o: &'a Value, key: &str) -> &'a str {
    o.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The items of a field; none when absent.
pub(crate) fn list<'a>(o: &'a Value, key: &str) -> &'a [Value] {
    o.get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The entries of a mapping; none when it isn't one. In key order.
pub(crate) fn entries(o: &Value) -> impl Iterator<Item = (&str, &Value)> {
    o.as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v))
}

/// Whether a field is there and true.
pub(crate) fn yes(o: &Value, key: &str) -> bool {
    o.get(key).and_then(Value::as_bool).unwrap_or(false)
}
