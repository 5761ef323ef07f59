//! Finalizers: which there are, which a delete adds or takes away, which an update may not add.

use serde_json::Value;

use crate::{
    delete::Propagation,
    registry::{FieldError, Resource},
};

/// `metadata.finalizers`.
pub fn of(o: &Value) -> Vec<String> {
    o.pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|f| f.as_str().map(String::from))
        .collect()
}

/// deletionFinalizersForGarbageCollection: the collector's two finalizers as the options (or what is there) want them.
pub fn after(r: &Resource, live: &Value, propagation: Option<Propagation>) -> Vec<String> {
    let current = of(live);
    let has = |f: &str| current.iter().any(|c| c == f);
    let orphan = match propagation {
        Some(p) => p == Propagation::Orphan,
        None if has("orphan") => true,
        None if has("foregroundDeletion") => false,
        // upstream's DefaultGarbageCollectionPolicy for core/v1 replication controllers
        None => r.group.is_empty() && r.plural == "replicationcontrollers",
    };
    let foreground = match propagation {
        Some(p) => p == Propagation::Foreground,
        None => has("foregroundDeletion"),
    };
    if orphan == has("orphan") && foreground == has("foregroundDeletion") {
        return current;
    }
    let mut out: Vec<String> = current
        .into_iter()
        .filter(|f| f != "orphan" && f != "foregroundDeletion")
        .collect();
    if orphan {
        out.push("orphan".into());
    }
    if foreground {
        out.push("foregroundDeletion".into());
    }
    out
}

/// A deleted object may lose finalizers, not gain any.
pub fn none_added(new: &Value, live: &Value, errors: &mut Vec<FieldError>) {
    if live["metadata"].get("deletionTimestamp").is_none() {
        return;
    }
    let old = of(live);
    let added: Vec<String> = of(new).into_iter().filter(|f| !old.contains(f)).collect();
    if !added.is_empty() {
        let quoted: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
        errors.push(FieldError::Forbidden {
            field: "metadata.finalizers".into(),
            detail: format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                quoted.join(", ")
            ),
        });
    }
}
