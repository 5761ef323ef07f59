//! When is an object the same as before?

use serde_json::Value;

/// Equal but for the times in managedFields: such a write keeps the revision.
pub fn same(a: &Value, b: &Value) -> bool {
    if !same_members(a, b, &["metadata"]) {
        return false;
    }
    let (ma, mb) = (&a["metadata"], &b["metadata"]);
    if !same_members(ma, mb, &["managedFields"]) {
        return false;
    }
    let list = |m: &Value| -> Vec<Value> {
        m.get("managedFields")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let (fa, fb) = (list(ma), list(mb));
    fa.len() == fb.len()
        && fa
            .iter()
            .zip(&fb)
            .all(|(x, y)| same_members(x, y, &["time"]))
}

/// Equal but for metadata and status: the generation stays.
pub fn same_spec(a: &Value, b: &Value) -> bool {
    same_members(a, b, &["metadata", "status", "kind", "apiVersion"])
}

fn same_members(a: &Value, b: &Value, but: &[&str]) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
        return a == b;
    };
    let kept = |m: &&String| !but.contains(&m.as_str());
    a.keys().filter(kept).count() == b.keys().filter(kept).count()
        && a.iter()
            .filter(|(k, _)| kept(k))
            .all(|(k, v)| b.get(k) == Some(v))
}
