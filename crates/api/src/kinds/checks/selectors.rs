//! Label selectors (apimachinery `pkg/apis/meta/v1/validation`).

use super::{
    path::{Errors, Path},
    rules,
};
use crate::kinds::json::{list, str_of};
use serde_json::Value;

/// A LabelSelector, which may be absent.
pub(crate) fn labels(selector: &Value, at: &Path<'_>, errors: &mut Errors) {
    rules::labels(&selector["matchLabels"], &at.child("matchLabels"), errors);
    let at = at.child("matchExpressions");
    for (i, e) in list(selector, "matchExpressions").iter().enumerate() {
        requirement(e, &at.index(i), errors);
    }
}

fn requirement(e: &Value, at: &Path<'_>, errors: &mut Errors) {
    let values = list(e, "values");
    match str_of(e, "operator") {
        "In" | "NotIn" if values.is_empty() => errors.required(
            &at.child("values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        ),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(
            &at.child("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(
            &at.child("operator"),
            other,
            "not a valid selector operator",
        ),
    }
    let key = str_of(e, "key");
    errors.broken(&at.child("key"), key, rules::qualified(key));
    let at = at.child("values");
    for (i, v) in values.iter().enumerate() {
        let v = v.as_str().unwrap_or_default();
        errors.broken(&at.index(i), v, rules::label_value(v));
    }
}

/// Neither labels nor expressions.
pub(crate) fn is_empty(selector: &Value) -> bool {
    selector["matchLabels"]
        .as_object()
        .is_none_or(|m| m.is_empty())
        && list(selector, "matchExpressions").is_empty()
}
