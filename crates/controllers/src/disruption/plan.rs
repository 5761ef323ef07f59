//! What a PodDisruptionBudget's status says: pure (`trySync` of `pkg/controller/disruption`).

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use crate::objects::{
    meta::{Seconds, parse_time, rfc3339},
    pod::Pod,
    policy::{Budget, BudgetStatus},
};

/// An evicted pod that is still there after this counts again, s.
pub const DELETION_S: i64 = 120;
const CONDITION: &str = "DisruptionAllowed";

/// Evicted pods that aren't gone yet, those that should be, and when to look again, s.
pub struct Disrupted {
    /// still in time
    pub pods: BTreeMap<Box<str>, Box<str>>,
    /// overdue
    pub overdue: Vec<Arc<Pod>>,
    /// look again after, s
    pub again_s: Option<i64>,
}

/// What became of the evicted pods.
pub fn disrupted(budget: &Budget, pods: &[Arc<Pod>], now: Seconds) -> Disrupted {
    let mut found = Disrupted {
        pods: BTreeMap::new(),
        overdue: vec![],
        again_s: None,
    };
    for pod in pods.iter().filter(|p| !p.metadata.deleting()) {
        let name = &pod.metadata.name;
        let Some(at) = budget.status.disrupted_pods.get(name) else {
            continue;
        };
        let left = parse_time(Some(at)).unwrap_or(0) + DELETION_S - now;
        if left < 0 {
            found.overdue.push(pod.clone());
            continue;
        }
        found.pods.insert(name.clone(), at.clone());
        let left = found.again_s.map_or(left, |a| a.min(left));
        found.again_s = Some(left);
    }
    found
}

/// Healthy pods needed, and pods expected; `scale` is what their controllers want.
pub fn needed(budget: &Budget, pods: i32, scale: i32) -> Option<(i32, i32)> {
    use crate::objects::intstr::IntOrString::Int;
    match (&budget.spec.max_unavailable, &budget.spec.min_available) {
        (Some(max), _) => Some(((scale - max.of(scale, true)?).max(0), scale)),
        (None, Some(Int(min))) => Some((*min, pods)),
        (None, Some(percent)) => Some((percent.of(scale, true)?, scale)),
        (None, None) => Some((0, 0)),
    }
}

/// The budget is told by how many pods its controllers want, not by how many there are.
pub fn needs_scale(budget: &Budget) -> bool {
    use crate::objects::intstr::IntOrString::Text;
    budget.spec.max_unavailable.is_some() || matches!(budget.spec.min_available, Some(Text(_)))
}

/// The status.
pub fn status(
    budget: &Budget,
    pods: &[Arc<Pod>],
    (desired, expected): (i32, i32),
    disrupted: BTreeMap<Box<str>, Box<str>>,
    now: Seconds,
) -> BudgetStatus {
    let healthy = pods
        .iter()
        .filter(|p| !p.metadata.deleting() && p.ready())
        .filter(|p| !disrupted.contains_key(&p.metadata.name))
        .count() as i32;
    let allowed = match expected {
        0 => 0,
        _ => (healthy - desired).max(0),
    };
    let (holds, reason) = match allowed {
        0 => ("False", "InsufficientPods"),
        _ => ("True", "SufficientPods"),
    };
    let mut conditions = budget.status.conditions.clone();
    set_condition(
        &mut conditions,
        holds,
        reason,
        "",
        budget.metadata.generation,
        now,
    );
    BudgetStatus {
        observed_generation: budget.metadata.generation,
        disrupted_pods: disrupted,
        disruptions_allowed: allowed,
        current_healthy: healthy,
        desired_healthy: desired,
        expected_pods: expected,
        conditions,
    }
}

/// The status when nothing could be told: no evictions.
pub fn failed(budget: &Budget, why: &str, now: Seconds) -> BudgetStatus {
    let mut status = budget.status.clone();
    status.disruptions_allowed = 0;
    let generation = status.observed_generation;
    set_condition(
        &mut status.conditions,
        "False",
        "SyncFailed",
        why,
        generation,
        now,
    );
    status
}

fn set_condition(
    all: &mut Vec<Value>,
    holds: &str,
    reason: &str,
    message: &str,
    generation: i64,
    now: Seconds,
) {
    let mut new = json!({"type": CONDITION, "status": holds, "reason": reason, "message": message,
        "lastTransitionTime": rfc3339(now), "observedGeneration": generation});
    match all.iter_mut().find(|c| c["type"] == CONDITION) {
        Some(old) => {
            if old["status"] == holds {
                new["lastTransitionTime"] = old["lastTransitionTime"].take();
            }
            *old = new;
        }
        None => all.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Seconds = 1_700_000_000;

    fn budget(spec: Value, evicted: &[(&str, i64)]) -> Budget {
        let evicted: BTreeMap<_, _> = evicted
            .iter()
            .map(|(name, ago)| (*name, rfc3339(NOW - ago)))
            .collect();
        serde_json::from_value(json!({"metadata":{"name":"b","generation":3},"spec":spec,
            "status":{"disruptedPods":evicted}}))
        .unwrap()
    }
    /// `r` ready, `u` unready, `d` ready and on its way out
    fn pods(text: &str) -> Vec<Arc<Pod>> {
        text.split_whitespace()
            .map(|w| {
                let ready = if w.starts_with('u') { "False" } else { "True" };
                Arc::new(
                    serde_json::from_value(json!({"metadata":{"name":w,
                        "deletionTimestamp":w.starts_with('d').then(|| rfc3339(NOW))},
                        "status":{"conditions":[{"type":"Ready","status":ready}]}}))
                    .unwrap(),
                )
            })
            .collect()
    }

    #[track_caller]
    fn check(spec: Value, evicted: &[(&str, i64)], have: &str, scale: i32, want: &str) {
        let (budget, pods) = (budget(spec, evicted), pods(have));
        let gone = disrupted(&budget, &pods, NOW);
        let need = needed(&budget, pods.len() as i32, scale).unwrap();
        let s = status(&budget, &pods, need, gone.pods, NOW);
        let got = format!(
            "{}/{} of {} allows {} {}",
            s.current_healthy,
            s.desired_healthy,
            s.expected_pods,
            s.disruptions_allowed,
            s.conditions[0]["reason"].as_str().unwrap()
        );
        assert_eq!(got, want);
        assert_eq!(s.observed_generation, 3);
    }

    #[test]
    fn what_is_allowed() {
        let min = |n: Value| json!({"minAvailable":n});
        let max = |n: Value| json!({"maxUnavailable":n});
        check(
            min(json!(2)),
            &[],
            "r1 r2 r3",
            9,
            "3/2 of 3 allows 1 SufficientPods",
        );
        check(
            min(json!(2)),
            &[],
            "r1 u2 d3",
            9,
            "1/2 of 3 allows 0 InsufficientPods",
        );
        check(
            min(json!("50%")),
            &[],
            "r1 r2 r3",
            3,
            "3/2 of 3 allows 1 SufficientPods",
        );
        check(
            max(json!(1)),
            &[],
            "r1 r2 r3",
            3,
            "3/2 of 3 allows 1 SufficientPods",
        );
        check(
            max(json!(1)),
            &[],
            "r1 r2",
            3,
            "2/2 of 3 allows 0 InsufficientPods",
        );
        check(
            max(json!("34%")),
            &[],
            "r1 r2 r3",
            3,
            "3/1 of 3 allows 2 SufficientPods",
        );
        check(
            max(json!(9)),
            &[],
            "r1",
            1,
            "1/0 of 1 allows 1 SufficientPods",
        );
        check(
            min(json!(0)),
            &[],
            "",
            0,
            "0/0 of 0 allows 0 InsufficientPods",
        );
        // one that is evicted no longer counts, until it should have gone
        check(
            min(json!(1)),
            &[("r1", 5)],
            "r1 r2 r3",
            9,
            "2/1 of 3 allows 1 SufficientPods",
        );
        check(
            min(json!(1)),
            &[("r1", 121)],
            "r1 r2",
            9,
            "2/1 of 2 allows 1 SufficientPods",
        );
    }

    #[test]
    fn evicted_pods_are_waited_for() {
        let b = budget(
            json!({}),
            &[("r1", 5), ("r2", 100), ("r3", 121), ("gone", 1)],
        );
        let d = disrupted(&b, &pods("r1 r2 r3 r4"), NOW);
        let names: Vec<_> = d.pods.keys().map(|n| &**n).collect();
        assert_eq!(
            (names, d.overdue.len(), d.again_s),
            (vec!["r1", "r2"], 1, Some(20))
        );
    }

    #[test]
    fn a_failure_allows_nothing() {
        let mut b = budget(json!({}), &[]);
        b.status.disruptions_allowed = 2;
        let s = failed(&b, "why", NOW);
        assert_eq!(s.disruptions_allowed, 0);
        assert_eq!(s.conditions[0]["message"], "why");
        b.status = s.clone();
        assert_eq!(failed(&b, "why", NOW + 9), s, "nothing new");
    }
}
