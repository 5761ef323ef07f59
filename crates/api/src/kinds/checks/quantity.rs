//! Amounts of resources in objects: written as upstream's server sends them back, and checked.

use super::path::{Errors, Path};
use serde_json::Value;

pub(crate) use knarr_quantity::Quantity;

/// Writes an amount the way upstream's server sends it back.
pub(crate) fn canonical(value: &mut Value) {
    if let Some(q) = Quantity::of(value) {
        let text = q.canonical();
        if value.as_str() != Some(&text) {
            *value = text.into();
        }
    }
}

/// The amounts of a ResourceList, canonical; `milli`: rounded up to thousandths, as pods' and volumes' are.
pub(crate) fn canonical_list(list: Option<&mut Value>, milli: bool) {
    for (_, value) in list.and_then(Value::as_object_mut).into_iter().flatten() {
        if let Some(mut q) = Quantity::of(value) {
            if milli {
                q.round_up(-3);
            }
            let text = q.canonical();
            if value.as_str() != Some(&text) {
                *value = text.into();
            }
        }
    }
}

/// `must be greater than or equal to 0` for an amount that isn't; `value` may be absent.
pub(crate) fn nonnegative(value: &Value, at: &Path<'_>, errors: &mut Errors) {
    if let Some(q) = value.as_str().and_then(|s| Quantity::parse(s).ok())
        && q.sign() < 0
    {
        errors.invalid(at, q.canonical(), "must be greater than or equal to 0");
    }
}
