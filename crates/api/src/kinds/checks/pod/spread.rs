//! How Pods spread over the topology.

use super::affinity;
use crate::kinds::{
    checks::{
        path::{Errors, Path},
        selectors,
    },
    json::{list, str_of},
};
use serde_json::Value;

pub(super) fn constraints(spec: &Value, at: &Path<'_>, errors: &mut Errors) {
    let all = list(spec, "topologySpreadConstraints");
    for (i, c) in all.iter().enumerate() {
        let at = at.index(i);
        let skew = c["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.invalid(&at.child("maxSkew"), skew, "must be greater than zero");
        }
        let (key, action) = (str_of(c, "topologyKey"), str_of(c, "whenUnsatisfiable"));
        if key.is_empty() {
            errors.required(&at.child("topologyKey"), "can not be empty");
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            errors.not_supported(&at.child("whenUnsatisfiable"), action, &actions);
        }
        let same =
            |o: &Value| str_of(o, "topologyKey") == key && str_of(o, "whenUnsatisfiable") == action;
        if all[i + 1..].iter().any(same) {
            errors.duplicate(
                &at.child("{topologyKey, whenUnsatisfiable}"),
                format!("{{{key}, {action}}}"),
            );
        }
        if let Some(n) = c["minDomains"].as_i64() {
            let at = at.child("minDomains");
            if n <= 0 {
                errors.invalid(&at, n, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                );
                errors.invalid(&at, n, detail);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            errors.supported(&at.child(field), &c[field], &["Honor", "Ignore"]);
        }
        affinity::label_keys(c, &at, errors);
        selectors::labels(&c["labelSelector"], &at.child("labelSelector"), errors);
    }
}
