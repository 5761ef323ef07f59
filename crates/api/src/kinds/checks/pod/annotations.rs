//! Annotations that mean something on a Pod or its template.

use crate::kinds::{
    checks::path::{Errors, Path},
    checks::rules,
    json::{entries, list, str_of},
};
use serde_json::Value;

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const TOTAL_BYTES_MAX: usize = 256 * 1024;

/// Keys and size: what any object's annotations must fulfil.
pub(super) fn syntax(annotations: &Value, at: &Path<'_>, errors: &mut Errors) {
    let mut bytes = 0;
    for (key, value) in entries(annotations) {
        errors.broken(at, key, rules::qualified(&key.to_lowercase()));
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > TOTAL_BYTES_MAX {
        errors.too_long(at, TOTAL_BYTES_MAX);
    }
}

/// The values of those that are read.
pub(super) fn check(annotations: &Value, spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = annotations[MIRROR].as_str()
        && str_of(spec, "nodeName").is_empty()
    {
        errors.invalid(
            &at.key(MIRROR),
            value,
            "must set spec.nodeName if mirror pod annotation is set",
        );
    }
    if let Some(cost) = annotations[DELETION_COST].as_str() {
        // Upstream takes "-5" and "5", neither "+5" nor "05".
        let digits = cost.strip_prefix('-').unwrap_or(cost);
        let plain = cost == "0" || digits.starts_with(|c: char| ('1'..='9').contains(&c));
        if !plain || cost.parse::<i32>().is_err() {
            errors.invalid(&at.key(DELETION_COST), cost, "must be a 32bit integer");
        }
    }
    for (key, profile) in entries(annotations) {
        let Some(container) = key.strip_prefix(APP_ARMOR) else {
            continue;
        };
        let known = ["initContainers", "containers", "ephemeralContainers"]
            .iter()
            .flat_map(|l| list(spec, l))
            .any(|c| str_of(c, "name") == container);
        if !known {
            errors.invalid(&at.key(key), container, "container not found");
        }
        let profile = profile.as_str().unwrap_or_default();
        let fine = matches!(profile, "" | "runtime/default" | "unconfined")
            || profile.starts_with("localhost/");
        if !fine {
            let detail = format!("invalid AppArmor profile name: {profile:?}");
            errors.invalid(&at.key(key), profile, detail);
        }
    }
}
