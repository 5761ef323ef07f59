//! How large each ReplicaSet of a Deployment should be: pure arithmetic (`deployment_util.go`, `rolling.go`, `sync.go`).

use crate::objects::{
    intstr::{IntOrString, fenceposts},
    workload::{Deployment, DeploymentSpec},
};

/// What sizing looks at of one ReplicaSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// `spec.replicas`
    pub wanted: i32,
    /// `status.availableReplicas`
    pub available: i32,
}

/// Replaced at once, not step by step.
pub fn recreates(spec: &DeploymentSpec) -> bool {
    &*spec.strategy.kind == "Recreate"
}

/// (maxSurge, maxUnavailable) in pods; (0, 0) for Recreate.
pub fn margins(spec: &DeploymentSpec) -> (i32, i32) {
    if recreates(spec) {
        return (0, 0);
    }
    let quarter = || IntOrString::Text("25%".into());
    let rolling = spec.strategy.rolling_update.clone().unwrap_or_default();
    fenceposts(
        &rolling.max_surge.unwrap_or_else(quarter),
        &rolling.max_unavailable.unwrap_or_else(quarter),
        spec.replicas,
    )
}

/// Pods that may be missing now.
pub fn max_unavailable(spec: &DeploymentSpec) -> i32 {
    if recreates(spec) || spec.replicas == 0 {
        return 0;
    }
    margins(spec).1.min(spec.replicas)
}

/// Pods there may be at most.
pub fn max_total(spec: &DeploymentSpec) -> i32 {
    spec.replicas + margins(spec).0
}

/// Size of the new ReplicaSet (now `new`) when all together want `total`.
pub fn grow_new(spec: &DeploymentSpec, total: i32, new: i32) -> i32 {
    if recreates(spec) || new > spec.replicas {
        return spec.replicas;
    }
    let room = max_total(spec) - total;
    if room <= 0 {
        return new;
    }
    new + room.min(spec.replicas - new)
}

/// Shrinks `olds` (oldest first) as far as availability allows: first pods that aren't available anyway, then as many as there are to spare.
pub fn shrink_old(spec: &DeploymentSpec, new: Size, olds: &mut [Size]) {
    let total: i32 = new.wanted + olds.iter().map(|o| o.wanted).sum::<i32>();
    let floor = spec.replicas - max_unavailable(spec);
    // pods of the new set that don't serve yet must not cost old ones that do
    let mut may_go = total - floor - (new.wanted - new.available);
    for old in olds.iter_mut() {
        let unhealthy = (old.wanted - old.available).max(0);
        let n = unhealthy.min(old.wanted).min(may_go).max(0);
        old.wanted -= n;
        may_go -= n;
    }
    let available: i32 = new.available + olds.iter().map(|o| o.available).sum::<i32>();
    // upstream looks at availability alone here; what's left of `may_go` also guards against statuses that lag behind
    let mut spare = (available - floor).min(may_go);
    for old in olds.iter_mut() {
        let n = old.wanted.min(spare).max(0);
        old.wanted -= n;
        spare -= n;
    }
}

/// One set in a change of size during a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// `spec.replicas`
    pub wanted: i32,
    /// `deployment.kubernetes.io/max-replicas`, what all could be when it got its size
    pub max_before: Option<i32>,
    /// created at; breaks ties
    pub created: i64,
}

/// New sizes (same order as `sets`) when a Deployment in the middle of a rollout is scaled: each in proportion, the largest gets the rest.
pub fn proportional(spec: &DeploymentSpec, status_replicas: i32, sets: &[Share]) -> Vec<i32> {
    let mut sizes: Vec<i32> = sets.iter().map(|s| s.wanted).collect();
    let total: i32 = sizes.iter().sum();
    let allowed = if spec.replicas > 0 {
        max_total(spec)
    } else {
        0
    };
    let to_add = allowed - total;
    if to_add == 0 {
        return sizes;
    }
    let mut order: Vec<usize> = (0..sets.len()).collect();
    // largest first; among equals the newest grows first and the oldest shrinks first
    order.sort_by(|a, b| {
        let (a, b) = (&sets[*a], &sets[*b]);
        b.wanted.cmp(&a.wanted).then_with(|| {
            if to_add > 0 {
                b.created.cmp(&a.created)
            } else {
                a.created.cmp(&b.created)
            }
        })
    });
    let mut added = 0;
    for i in &order {
        let set = &sets[*i];
        if set.wanted == 0 || to_add == added {
            continue;
        }
        let fraction = fraction(spec, status_replicas, set);
        let left = to_add - added;
        let n = if to_add > 0 {
            fraction.min(left)
        } else {
            fraction.max(left)
        };
        sizes[*i] = set.wanted + n;
        added += n;
    }
    if let Some(first) = order.first() {
        sizes[*first] = (sizes[*first] + to_add - added).max(0);
    }
    sizes
}

fn fraction(spec: &DeploymentSpec, status_replicas: i32, set: &Share) -> i32 {
    if spec.replicas == 0 {
        return -set.wanted;
    }
    let before = match set.max_before {
        Some(n) if n > 0 => n,
        _ => status_replicas.max(1),
    };
    let new = f64::from(set.wanted) * f64::from(max_total(spec)) / f64::from(before);
    new.round() as i32 - set.wanted
}

/// All pods are of the new template, and available.
pub fn complete(d: &Deployment, updated: i32, replicas: i32, available: i32) -> bool {
    updated == d.spec.replicas && replicas == d.spec.replicas && available == d.spec.replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(replicas: i32, surge: &str, unavailable: &str) -> DeploymentSpec {
        let num = |s: &str| {
            s.parse::<i32>()
                .map_or(serde_json::json!(s), |n| serde_json::json!(n))
        };
        serde_json::from_value(serde_json::json!({"replicas":replicas,"template":{},
            "strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":num(surge),"maxUnavailable":num(unavailable)}}}))
        .unwrap()
    }
    fn s(wanted: i32, available: i32) -> Size {
        Size { wanted, available }
    }

    /// Upstream's TestDeploymentController_reconcileNewReplicaSet.
    #[test]
    fn new_grows_within_surge() {
        for (replicas, surge, old, new, want) in [
            (10, "0", 10, 0, 0),
            (10, "2", 10, 0, 2),
            (10, "2", 5, 0, 7),
            (10, "2", 10, 2, 2),
            (10, "2", 2, 11, 10),
        ] {
            assert_eq!(
                grow_new(&spec(replicas, surge, "1"), old + new, new),
                want,
                "{replicas} {surge} {old} {new}"
            );
        }
    }

    /// Upstream's reconcileOldReplicaSets, cleanupUnhealthyReplicas and scaleDownOldReplicaSets tables, as one step.
    #[test]
    fn old_shrinks_within_availability() {
        for (name, replicas, unavailable, new, olds, want) in [
            ("nothing old", 10, "0", s(0, 0), vec![], vec![]),
            (
                "all serve, none to spare",
                10,
                "0",
                s(0, 0),
                vec![s(10, 10)],
                vec![10],
            ),
            ("may miss 2", 10, "2", s(0, 0), vec![s(10, 10)], vec![8]),
            (
                "unhealthy go first",
                10,
                "2",
                s(0, 0),
                vec![s(10, 8)],
                vec![8],
            ),
            ("all unhealthy", 10, "0", s(10, 10), vec![s(3, 0)], vec![0]),
            (
                "new doesn't serve",
                10,
                "2",
                s(2, 0),
                vec![s(8, 8)],
                vec![8],
            ),
            ("new serves", 10, "0", s(2, 2), vec![s(10, 10)], vec![8]),
            (
                "crash-looping new costs nothing",
                10,
                "2",
                s(5, 0),
                vec![s(8, 7)],
                vec![8],
            ),
            ("rolled back", 10, "2", s(8, 7), vec![s(5, 0)], vec![1]),
            (
                "roll over",
                10,
                "2",
                s(0, 0),
                vec![s(8, 8), s(5, 0)],
                vec![8, 0],
            ),
            (
                "oldest first",
                10,
                "0",
                s(4, 4),
                vec![s(5, 5), s(5, 5)],
                vec![1, 5],
            ),
            (
                "stale status shows more than is wanted",
                3,
                "0",
                s(1, 1),
                vec![s(2, 3)],
                vec![2],
            ),
            (
                "scaled to nothing",
                0,
                "25%",
                s(0, 0),
                vec![s(5, 5)],
                vec![0],
            ),
        ] {
            let mut got = olds;
            shrink_old(&spec(replicas, "25%", unavailable), new, &mut got);
            assert_eq!(
                got.iter().map(|o| o.wanted).collect::<Vec<_>>(),
                want,
                "{name}"
            );
        }
    }

    /// Upstream's TestScale, the rolling cases.
    #[test]
    fn proportional_scaling() {
        let share = |(wanted, max_before, created): (i32, i32, i64)| Share {
            wanted,
            max_before: (max_before > 0).then_some(max_before),
            created,
        };
        for (name, replicas, surge, status, sets, want) in [
            (
                "up 6 to 12",
                12,
                "0",
                6,
                vec![(5, 6, 3), (1, 6, 2)],
                vec![10, 2],
            ),
            (
                "down 10 to 5",
                5,
                "0",
                10,
                vec![(5, 10, 3), (5, 10, 2)],
                vec![3, 2],
            ),
            (
                "leftover to the newest of equals",
                7,
                "0",
                6,
                vec![(2, 6, 3), (2, 6, 2), (2, 6, 1)],
                vec![3, 2, 2],
            ),
            (
                "5 to 20, three sets",
                20,
                "0",
                5,
                vec![(3, 5, 3), (1, 5, 2), (1, 5, 1)],
                vec![12, 4, 4],
            ),
            (
                "to zero",
                0,
                "0",
                10,
                vec![(3, 10, 3), (7, 10, 2)],
                vec![0, 0],
            ),
            (
                "surge counts",
                50,
                "3",
                20,
                vec![(15, 23, 3), (8, 23, 2)],
                vec![35, 18],
            ),
            (
                "no annotation: status",
                20,
                "0",
                10,
                vec![(5, 0, 3), (5, 0, 2)],
                vec![10, 10],
            ),
            (
                "enough already",
                10,
                "2",
                12,
                vec![(8, 12, 3), (4, 12, 2)],
                vec![8, 4],
            ),
        ] {
            let sets: Vec<_> = sets.into_iter().map(share).collect();
            assert_eq!(
                proportional(&spec(replicas, surge, "1"), status, &sets),
                want,
                "{name}"
            );
        }
    }

    /// Runs whole rollouts against a model in which pods become available one by one, and a status may lag.
    #[test]
    fn rollouts_keep_their_promises() {
        for replicas in 1..=7 {
            for (surge, unavailable) in [
                ("1", "0"),
                ("0", "1"),
                ("25%", "25%"),
                ("100%", "0"),
                ("3", "2"),
            ] {
                let spec = spec(replicas, surge, unavailable);
                let (mut new, mut old) = (s(0, 0), [s(replicas, replicas)]);
                let mut steps = 0;
                while new != s(replicas, replicas) || old[0] != s(0, 0) {
                    steps += 1;
                    assert!(steps < 200, "stuck at {new:?} {old:?}");
                    let grown = grow_new(&spec, new.wanted + old[0].wanted, new.wanted);
                    if grown != new.wanted {
                        new.wanted = grown;
                    } else {
                        shrink_old(&spec, new, &mut old);
                    }
                    // every third step the pods' state catches up
                    if steps % 3 == 0 {
                        old[0].available = old[0].available.min(old[0].wanted);
                        if new.available < new.wanted {
                            new.available += 1;
                        }
                    }
                    let serving = new.available + old[0].available.min(old[0].wanted);
                    let floor = replicas - max_unavailable(&spec);
                    assert!(serving >= floor, "{serving} < {floor} at {new:?} {old:?}");
                    assert!(new.wanted + old[0].wanted <= max_total(&spec));
                }
            }
        }
    }
}
