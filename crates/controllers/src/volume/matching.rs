//! Which volume a claim gets: pure (`pkg/volume/util FindMatchingVolume`).

use std::sync::Arc;

use crate::objects::{
    node::Node,
    volume::{Claim, Volume},
};

fn mode(m: &str) -> &str {
    if m.is_empty() { "Filesystem" } else { m }
}

/// The volume is what the claim asks for; Err: what differs (`checkVolumeSatisfyClaim`).
pub fn suits(volume: &Volume, claim: &Claim) -> Result<(), String> {
    let differs = |what: &str| Err(what.to_owned());
    if volume.metadata.deleting() {
        let name = &*volume.metadata.name;
        return Err(format!("the volume is marked for deletion {name:?}"));
    }
    if volume.spec.capacity.bytes() < claim.spec.resources.requests.bytes() {
        return differs("requested PV is too small");
    }
    if volume.class() != claim.class().unwrap_or("") {
        return differs("storageClassName does not match");
    }
    if !same_attributes(volume, claim) {
        return differs("volumeAttributesClassName does not match");
    }
    if !same_mode(volume, claim) {
        return differs("incompatible volumeMode");
    }
    if !has_modes(volume, claim) {
        return differs("incompatible accessMode");
    }
    Ok(())
}

/// Both are file systems, or both devices.
pub fn same_mode(volume: &Volume, claim: &Claim) -> bool {
    mode(&volume.spec.volume_mode) == mode(&claim.spec.volume_mode)
}

fn same_attributes(volume: &Volume, claim: &Claim) -> bool {
    let of = |name: &Option<Box<str>>| name.clone().unwrap_or_default();
    of(&volume.spec.volume_attributes_class_name) == of(&claim.spec.volume_attributes_class_name)
}

fn has_modes(volume: &Volume, claim: &Claim) -> bool {
    let modes = &volume.spec.access_modes;
    claim.spec.access_modes.iter().all(|m| modes.contains(m))
}

/// The best of `volumes` for `claim` (on `node`, if it must be reachable there): one that was made for it, whatever its
/// class, or of those with the fewest access modes the smallest that will do.
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
    let fitting = |v: &&Arc<Volume>| {
        (v.spec.claim_ref.is_none() || v.is_for(claim))
            && v.spec.capacity.bytes() >= claim.spec.resources.requests.bytes()
            && same_mode(v, claim)
            && same_attributes(v, claim)
            && has_modes(v, claim)
            && !v.metadata.deleting()
    };
    if let Some(v) = volumes.iter().filter(fitting).find(|v| v.is_for(claim)) {
        return reaches(v).then(|| v.clone());
    }
    let selector = claim.spec.selector.as_ref();
    volumes
        .iter()
        .filter(fitting)
        .filter(|v| {
            &*v.status.phase == "Available"
                && selector.is_none_or(|s| s.matches(&v.metadata.labels))
                && v.class() == claim.class().unwrap_or("")
                && reaches(v)
        })
        .min_by_key(|v| {
            let modes = v.spec.access_modes.len();
            (modes, v.spec.capacity.bytes(), v.metadata.name.clone())
        })
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
                json!({"metadata":{"name":name,"labels":{"n":name}},"spec":spec,"status":{"phase":"Available"}}),
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
                "made for it, of another class",
                none.clone(),
                vec![volume(
                    "z",
                    json!({"storageClassName":"d","claimRef":{"namespace":"n","name":"q"}}),
                )],
                Some("z"),
            ),
            (
                "fewest modes before smallest",
                none.clone(),
                vec![
                    volume(
                        "a",
                        json!({"accessModes":["ReadWriteOnce","ReadOnlyMany"],"capacity":{"storage":"5Gi"}}),
                    ),
                    volume("b", none.clone()),
                ],
                Some("b"),
            ),
            (
                "attributes",
                json!({"volumeAttributesClassName":"gold"}),
                vec![
                    volume("a", none.clone()),
                    volume("b", json!({"volumeAttributesClassName":"gold"})),
                ],
                Some("b"),
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
