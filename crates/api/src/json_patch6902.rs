//! JSON patches (RFC 6902) as upstream's library carries them out (evanphx/json-patch v4), which is laxer than the RFC:
//! what isn't there is null, and replacing it sets it.

use serde_json::Value;

/// Bytes that the copies of one patch may take together (upstream's `AccumulatedCopySizeLimit`): a copy into itself doubles
/// what there is each time.
const COPIED_BYTES_MAX: usize = crate::server::BODY_BYTES_MAX;

/// Why a patch can't be carried out; upstream doesn't tell.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Not an operation.
    #[error(
        "operation {0} of the JSON patch isn't one: it needs op, path, and from where it moves or copies"
    )]
    Malformed(usize),
    /// Nothing at its path, or an index outside of a list.
    #[error("operation {0} of the JSON patch doesn't apply: look at its path")]
    Path(usize),
    /// Copies that make the object too large.
    #[error(
        "operation {0} of the JSON patch: Unable to complete the copy, the accumulated size increase of copy exceeds the limit {COPIED_BYTES_MAX}"
    )]
    Copy(usize),
    /// A test that failed.
    #[error("operation {0} of the JSON patch, a test, found another value")]
    Test(usize),
}

/// Carries the operations out in order. After an error `document` is half patched.
pub fn apply(document: &mut Value, operations: &[Value]) -> Result<(), Error> {
    let mut copied = 0;
    for (at, operation) in operations.iter().enumerate() {
        let text = |k: &str| operation.get(k).and_then(Value::as_str);
        let path = text("path").ok_or(Error::Malformed(at))?;
        let value = || operation.get("value").cloned().unwrap_or(Value::Null);
        let missing = || Error::Path(at);
        match text("op").ok_or(Error::Malformed(at))? {
            "add" => add(document, path, value()).ok_or_else(missing)?,
            "remove" => drop(remove(document, path).ok_or_else(missing)?),
            "replace" if path.is_empty() => match value() {
                whole @ (Value::Object(_) | Value::Array(_)) => *document = whole,
                _ => return Err(missing()),
            },
            "replace" => replace(document, path, value()).ok_or_else(missing)?,
            "test" => {
                let (parent, key) = parent(document, path).ok_or_else(missing)?;
                if get(parent, &key).ok_or_else(missing)? != value() {
                    return Err(Error::Test(at));
                }
            }
            op @ ("move" | "copy") => {
                let from = text("from").ok_or(Error::Malformed(at))?;
                let taken = if op == "move" {
                    remove(document, from).ok_or_else(missing)?
                } else {
                    let (parent, key) = parent(document, from).ok_or_else(missing)?;
                    let found = get(parent, &key).ok_or_else(missing)?;
                    copied += size(&found);
                    if copied > COPIED_BYTES_MAX {
                        return Err(Error::Copy(at));
                    }
                    found
                };
                add(document, path, taken).ok_or_else(missing)?;
            }
            _ => return Err(Error::Malformed(at)),
        }
    }
    Ok(())
}

/// About the bytes of a value's text.
fn size(value: &Value) -> usize {
    match value {
        Value::String(s) => s.len() + 2,
        Value::Array(list) => list.iter().map(|v| size(v) + 1).sum::<usize>() + 2,
        Value::Object(map) => {
            let entries = map.iter().map(|(k, v)| k.len() + 4 + size(v));
            entries.sum::<usize>() + 2
        }
        _ => 4,
    }
}

/// The container of a path's last part, and that part.
fn parent<'a>(document: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let mut parts = path
        .strip_prefix('/')?
        .split('/')
        .map(|p| p.replace("~1", "/").replace("~0", "~"));
    let mut at = document;
    let mut key = parts.next()?;
    for next in parts {
        at = match at {
            Value::Object(map) => map.get_mut(&key)?,
            Value::Array(list) => {
                let i = index(&key, list.len())?;
                list.get_mut(i)?
            }
            _ => return None,
        };
        key = next;
    }
    (at.is_object() || at.is_array()).then_some((at, key))
}

/// A list's index; negative ones count from the end.
fn index(key: &str, length: usize) -> Option<usize> {
    let i: i64 = key.parse().ok()?;
    let i = if i < 0 { i + length as i64 } else { i };
    usize::try_from(i).ok()
}

fn get(parent: &Value, key: &str) -> Option<Value> {
    match parent {
        Value::Object(map) => Some(map.get(key).cloned().unwrap_or(Value::Null)),
        Value::Array(list) => list.get(index(key, list.len())?).cloned(),
        _ => None,
    }
}

fn add(document: &mut Value, path: &str, value: Value) -> Option<()> {
    match parent(document, path)? {
        (Value::Object(map), key) => {
            map.insert(key, value);
        }
        (Value::Array(list), key) => {
            let i = match &*key {
                "-" => list.len(),
                key => index(key, list.len() + 1)?,
            };
            if i > list.len() {
                return None;
            }
            list.insert(i, value);
        }
        _ => return None,
    }
    Some(())
}

fn replace(document: &mut Value, path: &str, value: Value) -> Option<()> {
    match parent(document, path)? {
        (Value::Object(map), key) => {
            map.insert(key, value);
        }
        (Value::Array(list), key) => {
            let i = index(&key, list.len())?;
            *list.get_mut(i)? = value;
        }
        _ => return None,
    }
    Some(())
}

fn remove(document: &mut Value, path: &str) -> Option<Value> {
    match parent(document, path)? {
        (Value::Object(map), key) => map.remove(&key),
        (Value::Array(list), key) => {
            let i = index(&key, list.len())?;
            (i < list.len()).then(|| list.remove(i))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn copies_are_bounded() {
        let step = |i: usize| json!({"op": "copy", "from": "/a", "path": format!("/a/c{i}")});
        let steps: Vec<Value> = (0..40).map(step).collect();
        let mut document = json!({"a": {"text": "x".repeat(1000)}});
        assert!(matches!(apply(&mut document, &steps), Err(Error::Copy(_))));
    }

    #[test]
    fn operations() {
        let document = json!({"a": {"b": 1}, "l": [1, 2], "s/t": "~"});
        for (operations, want) in [
            (
                json!([{"op": "add", "path": "/a/c", "value": 2}]),
                Ok(json!({"a": {"b": 1, "c": 2}, "l": [1, 2], "s/t": "~"})),
            ),
            (
                json!([{"op": "replace", "path": "/n", "value": 2}]),
                Ok(json!({"a": {"b": 1}, "l": [1, 2], "n": 2, "s/t": "~"})),
            ),
            (
                json!([{"op": "add", "path": "/l/-", "value": 3}, {"op": "add", "path": "/l/0", "value": 0}]),
                Ok(json!({"a": {"b": 1}, "l": [0, 1, 2, 3], "s/t": "~"})),
            ),
            (
                json!([{"op": "remove", "path": "/l/-1"}]),
                Ok(json!({"a": {"b": 1}, "l": [1], "s/t": "~"})),
            ),
            (
                json!([{"op": "move", "from": "/a/b", "path": "/l/1"}]),
                Ok(json!({"a": {}, "l": [1, 1, 2], "s/t": "~"})),
            ),
            (
                json!([{"op": "copy", "from": "/none", "path": "/a"}]),
                Ok(json!({"a": null, "l": [1, 2], "s/t": "~"})),
            ),
            (
                json!([{"op": "test", "path": "/s~1t", "value": "~"}, {"op": "remove", "path": "/s~1t"}]),
                Ok(json!({"a": {"b": 1}, "l": [1, 2]})),
            ),
            (
                json!([{"op": "test", "path": "/none"}, {"op": "add", "path": "/a"}]),
                Ok(json!({"a": null, "l": [1, 2], "s/t": "~"})),
            ),
            (
                json!([{"op": "test", "path": "/a/b", "value": 2}]),
                Err(Error::Test(0)),
            ),
            (
                json!([{"op": "remove", "path": "/none"}]),
                Err(Error::Path(0)),
            ),
            (
                json!([{"op": "add", "path": "/none/x", "value": 1}]),
                Err(Error::Path(0)),
            ),
            (
                json!([{"op": "add", "path": "/l/3", "value": 1}]),
                Err(Error::Path(0)),
            ),
            (
                json!([{"op": "replace", "path": "/l/2", "value": 1}]),
                Err(Error::Path(0)),
            ),
            (
                json!([{"op": "add", "path": "/l/x", "value": 1}]),
                Err(Error::Path(0)),
            ),
            (
                json!([{"op": "add", "path": "a", "value": 1}]),
                Err(Error::Path(0)),
            ),
            (
                json!([{"op": "add", "path": "/s~1t/x", "value": 1}]),
                Err(Error::Path(0)),
            ),
            (
                json!([{"op": "add", "path": "", "value": {}}]),
                Err(Error::Path(0)),
            ),
            (json!([{"op": "add"}]), Err(Error::Malformed(0))),
            (
                json!([{"op": "spam", "path": "/a"}]),
                Err(Error::Malformed(0)),
            ),
            (
                json!([{"op": "move", "path": "/a"}]),
                Err(Error::Malformed(0)),
            ),
        ] {
            let mut patched = document.clone();
            let done = apply(&mut patched, operations.as_array().unwrap());
            assert_eq!(done.map(|()| patched), want, "{operations}");
        }
    }
}
