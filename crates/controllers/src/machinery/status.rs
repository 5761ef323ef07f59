//! Writing status, and conditions in it.

use serde::Serialize;
use serde_json::{Value, json};

use super::rest::Rest;
use crate::{
    error::Result,
    objects::meta::{Condition, Object, now, rfc3339},
};

/// Replaces the fields of `status`, if the object is still as it was seen. Zeros are left out (as Go's `omitempty`) except those in `keep`.
pub async fn write<T: Object>(
    rest: &Rest,
    object: &T,
    status: &impl Serialize,
    keep: &[&str],
) -> Result<T> {
    let mut status = serde_json::to_value(status).unwrap_or(Value::Null);
    if let Some(fields) = status.as_object_mut() {
        for (name, value) in fields.iter_mut() {
            let empty = match value {
                Value::Number(n) => n.as_i64() == Some(0),
                Value::String(s) => s.is_empty(),
                Value::Array(a) => a.is_empty(),
                _ => false,
            };
            if empty && !keep.contains(&name.as_str()) {
                *value = Value::Null;
            }
        }
    }
    let patch = json!({
        "metadata": {"resourceVersion": object.meta().resource_version},
        "status": status,
    });
    rest.merge(&format!("{}/status", T::KIND.at(object.meta())), &patch)
        .await
}

/// A new condition, as of now.
pub fn condition(kind: &str, status: &str, reason: &str, message: String) -> Condition {
    let at: Box<str> = rfc3339(now()).into();
    Condition {
        kind: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Some(at),
        last_update_time: None,
        last_heartbeat_time: None,
    }
}

/// The condition of a kind.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| &*c.kind == kind)
}

/// Puts a condition in; one of the same status and reason stays as it is, and one of the same status keeps its transition time.
pub fn set(conditions: &mut Vec<Condition>, mut new: Condition) {
    if let Some(old) = find(conditions, &new.kind) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    remove(conditions, &new.kind.clone());
    conditions.push(new);
}

/// Takes a condition out.
pub fn remove(conditions: &mut Vec<Condition>, kind: &str) {
    conditions.retain(|c| &*c.kind != kind);
}
