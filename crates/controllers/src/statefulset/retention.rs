//! Who owns the claims of a set's Pods, by `persistentVolumeClaimRetentionPolicy`: what is owned by the set goes with it,
//! what is owned by a Pod that's too many with that Pod (kubernetes `pkg/controller/statefulset/stateful_set_utils.go`).

use super::pods;
use crate::objects::{
    meta::{Object, OwnerRef},
    pod::Pod,
    workload::StatefulSet,
};

/// What is to be done about a claim's owners.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// The claim is somebody else's, and the policy not heeded for it.
    pub conflict: bool,
    /// All of them anew, where they aren't as they should be.
    pub anew: Option<Vec<OwnerRef>>,
}

/// The claim's owners by the set's policy; `n`: the Pod's number.
pub fn owners(now: &[OwnerRef], set: &StatefulSet, pod: &Pod, n: i32) -> Owners {
    let deletes = |which: &str| which == "Delete";
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let when_deleted = policy.is_some_and(|p| deletes(&p.when_deleted));
    let when_scaled = policy.is_some_and(|p| deletes(&p.when_scaled));
    let (the_set, the_pod) = (set.controller_ref(), pod.controller_ref());
    let mut conflict = false;
    if when_deleted || when_scaled {
        conflict = now.iter().any(|o| {
            let ours = [&the_set, &the_pod].into_iter().find(|our| same(o, our));
            ours.map_or(o.controller, |our| o.uid != our.uid)
        });
    }
    if is_stale(now, &the_set) || is_stale(now, &the_pod) {
        return Owners {
            conflict,
            anew: None, // of a set or Pod that is no more: the garbage collector's
        };
    }
    let mut wanted: Vec<OwnerRef> = now
        .iter()
        .filter(|o| !same(o, &the_set) && !same(o, &the_pod))
        .cloned()
        .collect();
    let first = pods::first(set);
    let too_many = !(first..first + set.spec.replicas).contains(&n);
    let owner = match (when_scaled && too_many, when_deleted) {
        _ if conflict => None,
        (true, _) => Some(the_pod),
        (false, true) => Some(the_set),
        (false, false) => None,
    };
    // an owner that is there already stays where it is
    let right = match &owner {
        Some(owner) => {
            now.len() == wanted.len() + 1 && now.iter().any(|o| same_and_manages(o, owner))
        }
        None => now.len() == wanted.len(),
    };
    wanted.extend(owner);
    Owners {
        conflict,
        anew: (!right).then_some(wanted),
    }
}

/// The claim goes with a Pod of this name that is no more: nothing new may use it.
pub fn goes_with_another(now: &[OwnerRef], set: &StatefulSet, pod: &str) -> bool {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    policy.is_some_and(|p| &*p.when_scaled == "Delete")
        && now
            .iter()
            .any(|o| &*o.api_version == "v1" && &*o.kind == "Pod" && &*o.name == pod)
}

fn same(a: &OwnerRef, b: &OwnerRef) -> bool {
    (&a.api_version, &a.kind, &a.name) == (&b.api_version, &b.kind, &b.name)
}

fn same_and_manages(a: &OwnerRef, b: &OwnerRef) -> bool {
    same(a, b) && a.controller
}

fn is_stale(now: &[OwnerRef], owner: &OwnerRef) -> bool {
    now.iter().any(|o| same(o, owner) && o.uid != owner.uid)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "d", "uid": "s1"},
            "spec": {"replicas": 2, "selector": {}, "template": {}, "serviceName": "x",
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}}))
        .unwrap()
    }

    fn refs(all: Vec<Value>) -> Vec<OwnerRef> {
        serde_json::from_value(all.into()).unwrap()
    }

    #[test]
    fn claims_are_owned_by_whom_they_go_with() {
        let of_set = |uid: &str| {
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": uid,
                "controller": true, "blockOwnerDeletion": true})
        };
        let of_pod = |name: &str, uid: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid,
                "controller": true, "blockOwnerDeletion": true})
        };
        let plain = |mut owner: Value| {
            owner["controller"] = false.into();
            owner
        };
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "m", "uid": "c1"});
        let other = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "other", "uid": "s9",
            "controller": true});
        let (keep, delete) = ("Retain", "Delete");
        let (s, p1, p3) = (of_set("s1"), of_pod("db-1", "p1"), of_pod("db-3", "p3"));
        let own = |all: Vec<Value>| (false, Some(refs(all)));
        let fine = (false, None);
        for (name, deleted, scaled, n, now, want) in [
            ("kept", keep, keep, 1, vec![], fine.clone()),
            ("no longer", keep, keep, 1, vec![s.clone()], own(vec![])),
            (
                "with the set",
                delete,
                keep,
                1,
                vec![],
                own(vec![s.clone()]),
            ),
            ("as it is", delete, delete, 1, vec![s.clone()], fine.clone()),
            (
                "beside another's",
                delete,
                keep,
                1,
                vec![map.clone()],
                own(vec![map.clone(), s.clone()]),
            ),
            (
                "both as they are",
                delete,
                keep,
                1,
                vec![s.clone(), map.clone()],
                fine.clone(),
            ),
            (
                "manages",
                delete,
                keep,
                1,
                vec![plain(s.clone())],
                own(vec![s.clone()]),
            ),
            (
                "not too many",
                keep,
                delete,
                1,
                vec![p1.clone()],
                own(vec![]),
            ),
            ("too many", keep, delete, 3, vec![], own(vec![p3.clone()])),
            (
                "too many, of the set",
                delete,
                delete,
                3,
                vec![s.clone()],
                own(vec![p3.clone()]),
            ),
            (
                "too many, kept",
                delete,
                keep,
                3,
                vec![s.clone()],
                fine.clone(),
            ),
            (
                "of another set",
                delete,
                keep,
                1,
                vec![other.clone()],
                (true, None),
            ),
            (
                "of another set and of us",
                delete,
                delete,
                1,
                vec![other.clone(), s.clone()],
                (true, Some(refs(vec![other.clone()]))),
            ),
            (
                "of another set, kept",
                keep,
                keep,
                1,
                vec![other.clone()],
                fine.clone(),
            ),
            (
                "of the set before",
                delete,
                keep,
                1,
                vec![of_set("s0")],
                (true, None),
            ),
            (
                "of the set before, kept",
                keep,
                keep,
                1,
                vec![of_set("s0")],
                fine.clone(),
            ),
            (
                "of the Pod before",
                delete,
                delete,
                1,
                vec![of_pod("db-1", "p0")],
                (true, None),
            ),
        ] {
            let pod = json!({"metadata": {"name": format!("db-{n}"), "namespace": "d", "uid": format!("p{n}")}});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let got = owners(&refs(now), &set(deleted, scaled), &pod, n);
            assert_eq!((got.conflict, got.anew), want, "{name}");
        }
    }
}
