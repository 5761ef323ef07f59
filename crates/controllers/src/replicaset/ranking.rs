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
                magnitude(a.ready_since(), now).cmp(&magnitude(b.ready_since(), now))
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| b.restarts().cmp(&a.restarts()))
        .then_with(|| {
            let age = |p: &Pod| magnitude(p.metadata.creation_timestamp, now);
            age(a).cmp(&age(b))
        })
        // within one magnitude it's random
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn cost(p: &Pod) -> i32 {
    p.metadata
        .annotations
        .get(DELETION_COST)
        .and_then(|c| c.parse().ok())
        .unwrap_or(0)
}

/// How long ago, by orders of magnitude: the younger has less. Upstream decides by uid as soon as two times differ within
/// one magnitude and goes on to the next rule when they are equal; that is no order of three, and Rust's sort refuses it.
fn magnitude(t: Option<Seconds>, now: Seconds) -> i64 {
    match t {
        None => -1,
        Some(t) if now <= t => -1,
        Some(t) => ((now - t) as f64 * 1e9).log2() as i64,
    }
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
    fn pods_of_many_ages_have_an_order() {
        let uids: Vec<String> = (0..64)
            .map(|n: u32| format!("{:08x}", n.wrapping_mul(0x9e37_79b9)))
            .collect();
        let pods = uids.iter().enumerate().map(|(n, uid)| {
            let mut pod = Arc::unwrap_or_clone(pod(P {
                node: "n1",
                phase: "Running",
                // many at the same second, many in the same magnitude
                ready_for: Some(20 + (n as i64 * 7) % 5),
                age: 30 + (n as i64 * 3) % 4,
                restarts: n as i32 % 2,
                ..P::default()
            }));
            pod.metadata.uid = uid.as_str().into();
            Arc::new(pod)
        });
        let pods: Vec<_> = pods.collect();
        for a in &pods {
            for b in &pods {
                let ordered = compare(a, 0, b, 0, NOW);
                assert_eq!(ordered, compare(b, 0, a, 0, NOW).reverse());
                for c in &pods {
                    if ordered.is_le() && compare(b, 0, c, 0, NOW).is_le() {
                        assert!(compare(a, 0, c, 0, NOW).is_le(), "no order of three");
                    }
                }
            }
        }
        rank(&mut pods.clone(), &[], NOW);
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
