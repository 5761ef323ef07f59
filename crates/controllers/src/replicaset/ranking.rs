//! Which pods go first when there are too many (`ActivePodsWithRanks`).

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use crate::objects::{
    meta::Seconds,
    pod::{Phase, Pod},
};

/// Annotation by which people say which pods to keep.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Sorts `pods`: the first is deleted first. `related` are the pods of the owner's other sets: of two pods, the one with more company on its node goes.
pub fn rank(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Seconds) {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for p in related.iter().filter(|p| p.active()) {
        *on_node.entry(&p.spec.node_name).or_default() += 1;
    }
    let company = |p: &Pod| on_node.get(&*p.spec.node_name).copied().unwrap_or(0);
    pods.sort_by(|a, b| compare(a, company(a), b, company(b), now));
}

fn compare(a: &Pod, company_a: usize, b: &Pod, company_b: usize, now: Seconds) -> Ordering {
    // false < true: unassigned before assigned
    let assigned = |p: &Pod| !p.spec.node_name.is_empty();
    let phase = |p: &Pod| match p.status.phase {
        Phase::Pending => 0,
        Phase::Unknown => 1,
        _ => 2,
    };
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| a.ready().cmp(&b.ready()))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| company_b.cmp(&company_a))
        .then_with(|| {
            if a.ready() && b.ready() {
                younger_first(a.ready_since(), b.ready_since(), now, a, b)
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| b.restarts().cmp(&a.restarts()))
        .then_with(|| {
            younger_first(
                a.metadata.creation_timestamp,
                b.metadata.creation_timestamp,
                now,
                a,
                b,
            )
        })
}

fn cost(p: &Pod) -> i32 {
    p.metadata
        .annotations
        .get(DELETION_COST)
        .and_then(|c| c.parse().ok())
        .unwrap_or(0)
}

/// The younger first, by orders of magnitude, so that within one it's random (by uid).
fn younger_first(
    a: Option<Seconds>,
    b: Option<Seconds>,
    now: Seconds,
    pa: &Pod,
    pb: &Pod,
) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    let magnitude = |t: Option<Seconds>| match t {
        None => -1,
        Some(t) if now <= t => -1,
        Some(t) => ((now - t) as f64 * 1e9).log2() as i64,
    };
    magnitude(a)
        .cmp(&magnitude(b))
        .then_with(|| pa.metadata.uid.cmp(&pb.metadata.uid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::meta::rfc3339;

    const NOW: Seconds = 1_700_000_000;

    #[derive(Default, Clone, Copy)]
    struct P {
        uid: &'static str,
        node: &'static str,
        phase: &'static str,
        ready_for: Option<i64>,
        restarts: i32,
        age: i64,
        cost: &'static str,
    }

    fn pod(p: P) -> Arc<Pod> {
        let ready = match p.ready_for {
            Some(s) => {
                serde_json::json!([{"type":"Ready","status":"True","lastTransitionTime":rfc3339(NOW - s)}])
            }
            None => serde_json::json!([]),
        };
        Arc::new(
            serde_json::from_value(serde_json::json!({
                "metadata":{"name":p.uid,"uid":p.uid,"creationTimestamp":rfc3339(NOW - p.age),
                    "annotations":{DELETION_COST:p.cost}},
                "spec":{"nodeName":p.node},
                "status":{"phase":p.phase,"conditions":ready,"containerStatuses":[{"restartCount":p.restarts}]}
            }))
            .unwrap(),
        )
    }

    #[test]
    fn order_of_deletion() {
        let run = P {
            uid: "m",
            node: "n1",
            phase: "Running",
            ready_for: Some(100),
            age: 200,
            ..P::default()
        };
        let cases = [
            (
                "unassigned first",
                P {
                    node: "",
                    uid: "z",
                    ..run
                },
                run,
            ),
            (
                "pending before running",
                P {
                    phase: "Pending",
                    uid: "z",
                    ..run
                },
                run,
            ),
            (
                "pending before unknown",
                P {
                    phase: "Pending",
                    uid: "z",
                    ..run
                },
                P {
                    phase: "Unknown",
                    ..run
                },
            ),
            (
                "unready before ready",
                P {
                    ready_for: None,
                    uid: "z",
                    ..run
                },
                run,
            ),
            (
                "cheap first",
                P {
                    cost: "-5",
                    uid: "z",
                    ..run
                },
                run,
            ),
            (
                "company first",
                P {
                    node: "crowded",
                    uid: "z",
                    ..run
                },
                run,
            ),
            (
                "ready for less long first",
                P {
                    ready_for: Some(1),
                    uid: "z",
                    ..run
                },
                run,
            ),
            (
                "same magnitude: by uid",
                P {
                    ready_for: Some(101),
                    uid: "a",
                    ..run
                },
                run,
            ),
            (
                "more restarts first",
                P {
                    restarts: 2,
                    uid: "z",
                    ..run
                },
                run,
            ),
            (
                "younger first",
                P {
                    age: 1,
                    ready_for: None,
                    uid: "z",
                    ..run
                },
                P {
                    ready_for: None,
                    ..run
                },
            ),
        ];
        let crowd: Vec<_> = (0..3)
            .map(|_| {
                pod(P {
                    uid: "c",
                    node: "crowded",
                    ..run
                })
            })
            .collect();
        for (what, first, second) in cases {
            for mut pods in [vec![pod(first), pod(second)], vec![pod(second), pod(first)]] {
                rank(&mut pods, &crowd, NOW);
                assert_eq!(&*pods[0].metadata.uid, first.uid, "{what}");
            }
        }
    }
}
