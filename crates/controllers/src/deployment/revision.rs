//! Revisions and the annotations that a Deployment and its ReplicaSets share.

use std::sync::Arc;

use crate::objects::{
    meta::Labels,
    workload::{Deployment, ReplicaSet},
};

/// Number of a template in the history.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Numbers that it had before, comma-separated.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the set got its size.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// Pods there could be at most when the set got its size.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
/// Longest list of earlier revisions, characters.
const HISTORY_CHARS_MAX: usize = 2000;

/// The set's own annotations: not copied from the Deployment.
fn own(key: &str) -> bool {
    matches!(
        key,
        REVISION | REVISION_HISTORY | DESIRED_REPLICAS | MAX_REPLICAS | ROLLBACK_TO
    )
}

/// Revision of a set; 0 when it has none.
pub fn of(set: &ReplicaSet) -> i64 {
    set.metadata
        .annotations
        .get(REVISION)
        .and_then(|r| r.parse().ok())
        .unwrap_or(0)
}

/// Highest revision.
pub fn highest(sets: &[Arc<ReplicaSet>]) -> i64 {
    sets.iter().map(|s| of(s)).max().unwrap_or(0)
}

/// Number in an annotation.
pub fn number(annotations: &Labels, key: &str) -> Option<i32> {
    annotations.get(key)?.parse().ok()
}

/// The annotations of the set of the Deployment's present template (`SetNewReplicaSetAnnotations`). `exists`: the set is there already.
pub fn annotate(d: &Deployment, set: &Labels, revision: i64, exists: bool) -> Labels {
    let mut out = set.clone();
    for (k, v) in d.metadata.annotations.iter().filter(|(k, _)| !own(k)) {
        out.set(k, v);
    }
    let old = set.get(REVISION).map(str::to_owned);
    let old_number: i64 = old.as_deref().and_then(|r| r.parse().ok()).unwrap_or(0);
    if old_number < revision {
        out.set(REVISION, &revision.to_string());
        if let Some(old) = old.filter(|o| !o.is_empty()) {
            let history = match set.get(REVISION_HISTORY) {
                Some(h) if !h.is_empty() => format!("{h},{old}"),
                _ => old,
            };
            let mut history = history.as_str();
            while history.len() > HISTORY_CHARS_MAX {
                history = history.split_once(',').map_or("", |(_, rest)| rest);
            }
            out.set(REVISION_HISTORY, history);
        }
    }
    if !exists {
        sized(d, &mut out);
    }
    out
}

/// Notes for which size of the Deployment the set has its size; true when that changed something.
pub fn sized(d: &Deployment, annotations: &mut Labels) -> bool {
    let a = annotations.set(DESIRED_REPLICAS, &d.spec.replicas.to_string());
    let b = annotations.set(MAX_REPLICAS, &super::size::max_total(&d.spec).to_string());
    a || b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(annotations: serde_json::Value) -> Deployment {
        serde_json::from_value(
            serde_json::json!({"metadata":{"name":"d","annotations":annotations},
            "spec":{"replicas":4,"template":{}}}),
        )
        .unwrap()
    }

    #[test]
    fn annotations_of_a_new_set() {
        let d = deployment(serde_json::json!({
            "kubernetes.io/change-cause":"because", REVISION:"1",
            "kubectl.kubernetes.io/last-applied-configuration":"{}"}));
        let got = annotate(&d, &Labels::default(), 2, false);
        assert_eq!(
            got.iter().collect::<Vec<_>>(),
            [
                (DESIRED_REPLICAS, "4"),
                (MAX_REPLICAS, "5"),
                (REVISION, "2"),
                ("kubernetes.io/change-cause", "because"),
            ]
        );
    }

    #[test]
    fn going_back_keeps_the_numbers_it_had() {
        let d = deployment(serde_json::json!({}));
        let mut a: Labels = [(REVISION, "1")].into_iter().collect();
        a = annotate(&d, &a, 3, true);
        a = annotate(&d, &a, 5, true);
        assert_eq!(a.get(REVISION), Some("5"));
        assert_eq!(a.get(REVISION_HISTORY), Some("1,3"));
        assert_eq!(annotate(&d, &a, 4, true), a, "never goes down");
    }
}
