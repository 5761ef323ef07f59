//! What of an object a write can't change: it is taken from the live one, or away.

use std::sync::Arc;

use bytes::Bytes;
use knarr_store::{Expect, Op};
use serde_json::Value;

use super::Write;
use crate::{
    namespaces::is_namespace,
    object::{Encoded, meta, meta_mut},
    registry::{FieldError, Resource},
    status::Failure,
};

impl Write<'_> {
    /// Server-owned metadata stays as it is.
    pub(super) fn keep_metadata(&self, new: &mut Value, live: &Value) -> Result<(), Failure> {
        let uid = meta(new, "uid");
        let live_uid = meta(live, "uid");
        if !uid.is_empty() && uid != live_uid {
            return Err(Failure::conflict(
                self.r,
                self.name,
                &format!(
                    "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {live_uid}",
                    self.storage_key()
                ),
            ));
        }
        let mut errors = Vec::new();
        for k in ["name", "namespace"] {
            let given = meta(new, k);
            if !given.is_empty() && given != meta(live, k) {
                errors.push(FieldError::Invalid {
                    field: format!("metadata.{k}"),
                    value: given.into(),
                    detail: "field is immutable".into(),
                });
            }
        }
        if !errors.is_empty() {
            return Err(self.invalid(self.name, &errors));
        }
        let m = meta_mut(new);
        for k in [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
        ] {
            copy_in(m, &live["metadata"], k);
        }
        Ok(())
    }
}

/// Takes away what only the server sets.
pub(super) fn wipe(o: &mut Value) {
    let m = meta_mut(o);
    for k in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
        "uid",
        "creationTimestamp",
    ] {
        m.remove(k);
    }
}

/// A dry run's answer: the object as it would be, without a revision.
pub(super) fn without_revision(o: &Value) -> Bytes {
    let mut o = o.clone();
    meta_mut(&mut o).remove("resourceVersion");
    // serde_json can't fail on a Value
    serde_json::to_vec(&o).unwrap_or_default().into()
}

/// A deleted object whose last finalizer and grace period are gone ceases to be.
pub fn may_go(r: &Resource, o: &Value) -> bool {
    let m = &o["metadata"];
    let empty = |v: Option<&Value>| v.and_then(Value::as_array).is_none_or(|l| l.is_empty());
    m.get("deletionTimestamp").is_some()
        && empty(m.get("finalizers"))
        && m.get("deletionGracePeriodSeconds")
            .and_then(Value::as_i64)
            .unwrap_or(0)
            == 0
        && (!is_namespace(r) || empty(o.pointer("/spec/finalizers")))
}

/// The op that writes a changed object: when it may go, it goes.
pub fn put_or_delete(key: Arc<str>, encoded: &Encoded, expect: Expect, goes: bool) -> Op {
    if goes {
        Op::Delete {
            key,
            expect,
            last: Some(encoded.spliced()),
        }
    } else {
        Op::Put {
            key,
            value: encoded.spliced(),
            expect,
        }
    }
}

pub(super) fn copy(to: &mut Value, from: &Value, key: &str) {
    if let Some(m) = to.as_object_mut() {
        copy_in(m, from, key);
    }
}
pub(super) fn copy_in(to: &mut serde_json::Map<String, Value>, from: &Value, key: &str) {
    match from.get(key) {
        Some(v) => {
            to.insert(key.into(), v.clone());
        }
        None => {
            to.remove(key);
        }
    }
}
