//! Which volume a claim gets: pure (`pkg/volume/util FindMatchingVolume`).

use std::sync::Arc;

use crate::objects::{
    node::Node,
    volume::{Claim, Volume},
};

fn mode(m: &str) -> &str {
    if m.is_empty() { "Filesystem" } else { m }
}

/// The volume was made for this claim, or bound to it.
pub fn is_for(volume: &Volume, claim: &Claim) -> bool {
    volume.spec.claim_ref.as_ref().is_some_and(|r| {
        r.namespace == claim.metadata.namespace
            && r.name == claim.metadata.name
            && (r.uid.is_empty() || r.uid == claim.metadata.uid)
    })
}

/// The volume is what the claim asks for; Err: what differs.
pub fn suits(volume: &Volume, claim: &Claim) -> Result<(), &'static str> {
    if volume.spec.capacity.bytes() < claim.spec.resources.requests.bytes() {
        return Err("requested PV is too small");
    }
    if *volume.spec.storage_class_name != *claim.spec.storage_class_name.as_deref().unwrap_or("") {
        return Err("storageClassName does not match");
    }
    if mode(&volume.spec.volume_mode) != mode(&claim.spec.volume_mode) {
        return Err("incompatible volumeMode");
    }
    if !claim
        .spec
        .access_modes
        .iter()
        .all(|m| volume.spec.access_modes.contains(m))
    {
        return Err("incompatible accessMode");
    }
    Ok(())
}

/// The best of `volumes` for `claim` (on `node`, if it must be reachable there): one that was made for it, or the smallest that will do.
pub fn best(claim: &Claim, volumes: &[Arc<Volume>], node: Option<&Node>) -> Option<Arc<Volume>> {
    let reaches = |v: &Volume| {
        node.is_none_or(|n| {
            v.spec
                .node_affinity
                .as_ref()
                .and_then(|a| a.required.as_ref())
                .is_none_or(|s| s.matches(&n.metadata.name, &n.metadata.labels))
        })
    };
    let fitting =
        |v: &&Arc<Volume>| !v.metadata.deleting() && suits(v, claim).is_ok() && reaches(v);
    if let Some(v) = volumes.iter().filter(fitting).find(|v| is_for(v, claim)) {
        return Some(v.clone());
    }
    volumes
        .iter()
        .filter(fitting)
        .filter(|v| {
            v.spec.claim_ref.is_none() && !matches!(&*v.status.phase, "Released" | "Failed")
        })
        .filter(|v| {
            claim
                .spec
                .selector
                .as_ref()
                .is_none_or(|s| s.matches(&v.metadata.labels))
        })
        .min_by_key(|v| (v.spec.capacity.bytes(), v.metadata.name.clone()))
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, extra: Value) -> Arc<Volume> {
        let mut spec = json!({"capacity":{"storage":"10Gi"},"accessModes":["ReadWriteOnce"],"storageClassName":"c"});
        for (k, v) in extra.as_object().unwrap() {
            spec[k] = v.clone();
        }
        Arc::new(
            serde_json::from_value(
                json!({"metadata":{"name":name,"labels":{"n":name}},"spec":spec}),
            )
            .unwrap(),
        )
    }
    fn claim(extra: Value) -> Claim {
        let mut spec = json!({"resources":{"requests":{"storage":"5Gi"}},"accessModes":["ReadWriteOnce"],"storageClassName":"c"});
        for (k, v) in extra.as_object().unwrap() {
            spec[k] = v.clone();
        }
        serde_json::from_value(
            json!({"metadata":{"name":"q","namespace":"n","uid":"u"},"spec":spec}),
        )
        .unwrap()
    }

    #[test]
    fn the_smallest_that_will_do() {
        let size = |s: &str| json!({"capacity":{"storage":s}});
        let of =
            |name: &str, uid: &str| json!({"claimRef":{"namespace":"n","name":name,"uid":uid}});
        let none = json!({});
        let cases = [
            (
                "fits",
                none.clone(),
                vec![volume("a", none.clone())],
                Some("a"),
            ),
            (
                "too small",
                none.clone(),
                vec![volume("a", size("4Gi"))],
                None,
            ),
            (
                "smallest",
                none.clone(),
                vec![
                    volume("a", size("20Gi")),
                    volume("b", size("5Gi")),
                    volume("c", size("6Gi")),
                ],
                Some("b"),
            ),
            (
                "class",
                json!({"storageClassName":"d"}),
                vec![volume("a", none.clone())],
                None,
            ),
            (
                "no class",
                json!({"storageClassName":""}),
                vec![volume("a", json!({"storageClassName":""}))],
                Some("a"),
            ),
            (
                "access",
                json!({"accessModes":["ReadWriteMany"]}),
                vec![volume("a", none.clone())],
                None,
            ),
            (
                "one of its modes",
                none.clone(),
                vec![volume(
                    "a",
                    json!({"accessModes":["ReadWriteMany","ReadWriteOnce"]}),
                )],
                Some("a"),
            ),
            (
                "block",
                json!({"volumeMode":"Block"}),
                vec![volume("a", none.clone())],
                None,
            ),
            (
                "selector",
                json!({"selector":{"matchLabels":{"n":"b"}}}),
                vec![volume("a", none.clone()), volume("b", none.clone())],
                Some("b"),
            ),
            (
                "taken",
                none.clone(),
                vec![volume("a", of("other", "x"))],
                None,
            ),
            (
                "made for it",
                none.clone(),
                vec![volume("a", none.clone()), volume("z", of("q", ""))],
                Some("z"),
            ),
            (
                "of an earlier claim of that name",
                none.clone(),
                vec![volume("z", of("q", "old"))],
                None,
            ),
            (
                "made for it, too small",
                none,
                vec![volume(
                    "z",
                    json!({"capacity":{"storage":"1Gi"},"claimRef":{"namespace":"n","name":"q"}}),
                )],
                None,
            ),
        ];
        for (name, spec, volumes, want) in cases {
            let got = best(&claim(spec), &volumes, None);
            assert_eq!(got.as_ref().map(|v| &*v.metadata.name), want, "{name}");
        }
    }
}
