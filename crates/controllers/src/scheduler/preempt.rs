//! Making room for a more important pod: which pods would have to go (`framework/preemption`, `plugins/defaultpreemption`). Pure.

use std::{borrow::Cow, sync::Arc};

use crate::objects::{meta::Seconds, node::Node, pod::Pod, policy::Budget};

use super::{
    cycle::{Cycle, Trial},
    verdict::{Diagnosis, Refusal},
    view::{Placed, View},
};

/// Condition of a pod that is made to go.
pub const DISRUPTION_TARGET: &str = "DisruptionTarget";
/// Its reason, when it goes for a more important one.
pub const BY_SCHEDULER: &str = "PreemptionByScheduler";

/// Pods that would have to go from a node.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// the node
    pub node: Box<str>,
    /// the pods, the most important first
    pub victims: Vec<Arc<Pod>>,
    /// how many of them their budgets don't allow
    pub violations: usize,
}

fn started(pod: &Pod) -> Seconds {
    // one that didn't start is as if it started now
    pod.status.start_time.unwrap_or(Seconds::MAX)
}

/// More important first: priority, then age.
fn by_importance(a: &Pod, b: &Pod) -> std::cmp::Ordering {
    b.spec
        .priority
        .cmp(&a.spec.priority)
        .then(started(a).cmp(&started(b)))
        .then(a.metadata.name.cmp(&b.metadata.name))
}

fn going_for_another(pod: &Pod) -> bool {
    pod.metadata.deleting()
        && pod.status.conditions.iter().any(|c| {
            &*c.kind == DISRUPTION_TARGET && &*c.status == "True" && &*c.reason == BY_SCHEDULER
        })
}

/// Why the pod must not make others go; None: it may. `nominated`: what the node said where room is already being made.
pub fn not_eligible(pod: &Pod, nominated: Option<&Refusal>, view: &View) -> Option<&'static str> {
    if &*pod.spec.preemption_policy == "Never" {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    if nominated.is_some_and(|r| !r.resolvable) {
        return None;
    }
    let place = view.places.get(&pod.status.nominated_node_name)?;
    let waits = place
        .pods
        .values()
        .any(|p| p.pod.spec.priority < pod.spec.priority && going_for_another(&p.pod));
    waits.then_some("not eligible due to a terminating pod on the nominated node.")
}

/// Splits pods by whether their going breaks a budget; both keep their order.
fn by_budget(
    pods: Vec<Arc<Placed>>,
    budgets: &[Arc<Budget>],
) -> (Vec<Arc<Placed>>, Vec<Arc<Placed>>) {
    let mut left: Vec<i32> = budgets
        .iter()
        .map(|b| b.status.disruptions_allowed)
        .collect();
    pods.into_iter().partition(|p| {
        let m = &p.pod.metadata;
        if m.labels.is_empty() {
            return false;
        }
        let mut violates = false;
        for (budget, left) in budgets.iter().zip(&mut left) {
            let of_it = budget.metadata.namespace == m.namespace
                && budget
                    .spec
                    .selector
                    .as_ref()
                    .is_some_and(|s| !s.is_empty() && s.matches(&m.labels));
            if !of_it || budget.status.disrupted_pods.contains_key(&m.name) {
                continue;
            }
            *left -= 1;
            if *left < 0 {
                violates = true;
                break;
            }
        }
        violates
    })
}

/// The pods that would have to go from a node so that the pod can be there.
fn victims_on(
    cycle: &Cycle,
    node: &Arc<Node>,
    mut trial: Trial,
    budgets: &[Arc<Budget>],
) -> Result<Candidate, Refusal> {
    let priority = cycle.pod.spec.priority;
    let mut potential: Vec<Arc<Placed>> = trial
        .place
        .pods
        .values()
        .filter(|p| p.pod.spec.priority < priority)
        .cloned()
        .collect();
    if potential.is_empty() {
        return Err(Refusal::lasting(
            super::verdict::Rule::Resources,
            "No preemption victims found for incoming pod",
        ));
    }
    for p in &potential {
        trial.remove(p, node);
    }
    cycle.fits(node, &trial)?;
    potential.sort_by(|a, b| by_importance(&a.pod, &b.pod));
    let (violating, others) = by_budget(potential, budgets);
    let mut victims: Vec<Arc<Pod>> = vec![];
    let mut violations = 0;
    // as many as possible stay, those that budgets protect first
    for (protected, pods) in [(true, violating), (false, others)] {
        for p in pods {
            trial.add(&p, node);
            if cycle.fits(node, &trial).is_err() {
                trial.remove(&p, node);
                victims.push(p.pod.clone());
                violations += usize::from(protected);
            }
        }
    }
    victims.sort_by(|a, b| by_importance(a, b));
    Ok(Candidate {
        node: node.metadata.name.clone(),
        victims,
        violations,
    })
}

/// The best node to make room on; Err: why there is none, as in `preemption: ...`. `refusals` are the nodes' answers.
pub fn plan(
    cycle: &Cycle,
    view: &View,
    refusals: &[(Arc<Node>, Refusal)],
    budgets: &[Arc<Budget>],
) -> Result<Candidate, String> {
    let mut diagnosis = Diagnosis {
        nodes: view.nodes().count(),
        ..Default::default()
    };
    if diagnosis.nodes == 0 {
        return Err("no nodes available".into());
    }
    let unhelpful = Cow::Borrowed("Preemption is not helpful for scheduling");
    let mut candidates: Vec<Candidate> = vec![];
    let mut asked = 0;
    for (node, refusal) in refusals {
        if !refusal.resolvable {
            continue;
        }
        asked += 1;
        match victims_on(cycle, node, cycle.trial(view, node), budgets) {
            Ok(c) if !c.victims.is_empty() => candidates.push(c),
            Ok(_) => {
                let text = format!(
                    "expected at least one victim pod on node {:?}",
                    &*node.metadata.name
                );
                *diagnosis.reasons.entry(text.into()).or_default() += 1;
            }
            Err(r) => diagnosis.note(&r),
        }
    }
    if diagnosis.nodes > asked {
        *diagnosis.reasons.entry(unhelpful).or_default() += diagnosis.nodes - asked;
    }
    pick(candidates).ok_or_else(|| diagnosis.message())
}

/// Fewest broken budgets, least important victims, smallest sum of their priorities, fewest of them, the youngest (`pickOneNodeForPreemption`).
fn pick(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by_key(|c| {
        let highest = c.victims.first().map_or(i32::MIN, |v| v.spec.priority);
        let sum: i64 = c
            .victims
            .iter()
            .map(|v| i64::from(v.spec.priority) + i64::from(i32::MAX) + 1)
            .sum();
        // of the most important, the one that has been there the longest
        let earliest = c
            .victims
            .iter()
            .filter(|v| v.spec.priority == highest)
            .map(|v| started(v))
            .min()
            .unwrap_or(0);
        (
            c.violations,
            highest,
            sum,
            c.victims.len(),
            std::cmp::Reverse(earliest),
            c.node.clone(),
        )
    })
}
