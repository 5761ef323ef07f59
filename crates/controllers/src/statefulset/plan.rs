//! The next step of a StatefulSet: pure (`stateful_set_control.go`, `updateStatefulSet`).

use std::{collections::BTreeMap, sync::Arc};

use super::pods::{first, ordinal, revision};
use crate::{
    machinery::work::Next,
    objects::{
        meta::Seconds,
        pod::{Phase, Pod},
        workload::{StatefulSet, StatefulSetStatus},
    },
};

/// What to do now.
#[derive(Debug, Default)]
pub struct Plan {
    /// ordinals to make a pod for, and whether of the update revision
    pub create: Vec<(i32, bool)>,
    /// ordinals whose pods are pending, perhaps for a claim that has gone
    pub claims: Vec<i32>,
    /// pods to delete, and why
    pub delete: Vec<(Arc<Pod>, Why)>,
    /// when time alone brings the next step
    pub next: Option<Next>,
}

/// Why a pod is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// it ended
    Ended,
    /// fewer are wanted
    Scaled,
    /// it's of an older revision
    Outdated,
}

struct View<'a> {
    set: &'a StatefulSet,
    now: Seconds,
    next: Option<Next>,
}

impl View<'_> {
    /// Runs, is ready, and has been for long enough.
    fn available(&mut self, pod: &Pod) -> bool {
        if pod.status.phase != Phase::Running {
            return false;
        }
        match pod.available(self.set.spec.min_ready_seconds, self.now) {
            Ok(a) => a,
            Err(wait) => {
                let n = Next::after_s(wait);
                self.next = Some(self.next.map_or(n, |old| old.sooner(n)));
                false
            }
        }
    }
    fn healthy(&mut self, pod: &Pod) -> bool {
        !pod.metadata.deleting() && self.available(pod)
    }
}

fn rolling(set: &StatefulSet) -> bool {
    matches!(&*set.spec.update_strategy.kind, "" | "RollingUpdate")
}

fn partition(set: &StatefulSet) -> i32 {
    set.spec
        .update_strategy
        .rolling_update
        .as_ref()
        .map_or(0, |r| r.partition)
}

/// How many may be away at a time during an update; None: one, and each waits for those above it (`getStatefulSetMaxUnavailable`).
fn max_unavailable(set: &StatefulSet) -> Option<i32> {
    let rolling = set.spec.update_strategy.rolling_update.as_ref()?;
    let n = rolling.max_unavailable.as_ref()?;
    Some(n.of(set.spec.replicas, false).unwrap_or(1).max(1))
}

/// Outdated ones, highest first, as many as may be away (`updateStatefulSetAfterInvariantEstablished`).
fn several(
    view: &mut View,
    plan: &mut Plan,
    by_ordinal: &BTreeMap<i32, &Arc<Pod>>,
    update: &str,
    max: i32,
) {
    let (start, end) = (first(view.set), first(view.set) + view.set.spec.replicas);
    let mut away = 0;
    for n in start..end {
        let there = by_ordinal.get(&n).is_some_and(|p| view.healthy(p));
        away += i32::from(!there);
    }
    for n in (start + partition(view.set)..end).rev() {
        if away >= max {
            return;
        }
        if let Some(pod) = by_ordinal.get(&n)
            && revision(pod) != update
            && !pod.metadata.deleting()
            && !plan.delete.iter().any(|(p, _)| Arc::ptr_eq(p, pod))
        {
            plan.delete.push(((*pod).clone(), Why::Outdated));
            away += 1;
        }
    }
}

/// `pods`: all of the set's. `update`: name of the update revision.
pub fn plan(set: &StatefulSet, pods: &[Arc<Pod>], update: &str, now: Seconds) -> Plan {
    let mut view = View {
        set,
        now,
        next: None,
    };
    let mut plan = Plan::default();
    step(&mut view, &mut plan, pods, update);
    plan.next = view.next;
    plan
}

fn step(view: &mut View, plan: &mut Plan, pods: &[Arc<Pod>], update: &str) {
    let set = view.set;
    if set.metadata.deleting() {
        return;
    }
    let one_by_one = &*set.spec.pod_management_policy != "Parallel";
    let (start, end) = (first(set), first(set) + set.spec.replicas);
    let by_ordinal: BTreeMap<i32, &Arc<Pod>> = pods
        .iter()
        .filter_map(|p| Some((ordinal(set, &p.metadata.name)?, p)))
        .collect();
    for n in start..end {
        match by_ordinal.get(&n) {
            None => {
                let of_update = !(rolling(set) && n < start + partition(set));
                plan.create.push((n, of_update));
                if one_by_one {
                    return;
                }
            }
            Some(pod) if pod.terminal() => {
                if !pod.metadata.deleting() {
                    plan.delete.push(((*pod).clone(), Why::Ended));
                }
                if one_by_one {
                    return;
                }
            }
            // one that's pending may be so for want of its claims
            Some(pod) if pod.status.phase == Phase::Pending && !pod.metadata.deleting() => {
                plan.claims.push(n);
                if one_by_one {
                    return;
                }
            }
            // each waits for the one before it
            Some(pod) if one_by_one && !view.healthy(pod) => return,
            Some(_) => {}
        }
    }
    // those too many, highest first
    let mut all_there = plan.create.is_empty() && plan.delete.is_empty();
    let unhealthy: Vec<i32> = by_ordinal
        .iter()
        .filter(|(_, p)| !view.healthy(p))
        .map(|(n, _)| *n)
        .collect();
    for (n, pod) in by_ordinal.iter().rev() {
        if (start..end).contains(n) {
            continue;
        }
        all_there = false;
        if pod.metadata.deleting() {
            if one_by_one {
                return;
            }
            continue;
        }
        // don't go on while another is unwell; the unwell one itself may go
        if one_by_one && !view.available(pod) && unhealthy.first() != Some(n) {
            return;
        }
        plan.delete.push(((*pod).clone(), Why::Scaled));
        if one_by_one {
            return;
        }
    }
    if !all_there && one_by_one {
        return;
    }
    if !rolling(set) {
        return;
    }
    if let Some(max) = max_unavailable(set) {
        return several(view, plan, &by_ordinal, update, max);
    }
    // outdated ones, highest first, one at a time
    for n in (start + partition(set)..end).rev() {
        let Some(pod) = by_ordinal.get(&n) else {
            return;
        };
        if revision(pod) != update && !pod.metadata.deleting() {
            if !pod.terminal() {
                plan.delete.push(((*pod).clone(), Why::Outdated));
            }
            return;
        }
        if !view.healthy(pod) {
            return;
        }
    }
}

/// The status that should be.
pub fn status(
    set: &StatefulSet,
    pods: &[Arc<Pod>],
    current: &str,
    update: &str,
    now: Seconds,
) -> StatefulSetStatus {
    let mut s = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        current_revision: current.into(),
        update_revision: update.into(),
        collision_count: set.status.collision_count,
        ..Default::default()
    };
    for pod in pods {
        s.replicas += 1;
        if pod.status.phase == Phase::Running && pod.ready() {
            s.ready_replicas += 1;
            if pod.available(set.spec.min_ready_seconds, now) == Ok(true) {
                s.available_replicas += 1;
            }
        }
        if !pod.metadata.deleting() {
            if revision(pod) == current {
                s.current_replicas += 1;
            }
            if revision(pod) == update {
                s.updated_replicas += 1;
            }
        }
    }
    // the update is through: what was new is what is
    if rolling(set)
        && s.updated_replicas == s.replicas
        && s.ready_replicas == s.replicas
        && s.updated_replicas == set.spec.replicas
    {
        s.current_replicas = s.updated_replicas;
        s.current_revision = s.update_revision.clone();
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: Seconds = 1_700_000_000;

    fn set(extra: Value) -> StatefulSet {
        let mut spec = json!({"replicas":3,"template":{}});
        for (k, v) in extra.as_object().unwrap() {
            spec[k] = v.clone();
        }
        serde_json::from_value(json!({"metadata":{"name":"s"},"spec":spec})).unwrap()
    }
    /// `0` healthy of the update revision, `0o` of an older one, `0p` pending, `0t` terminating, `0f` failed, `0y` ready for 3 s.
    fn pods(text: &str) -> Vec<Arc<Pod>> {
        text.split_whitespace()
            .map(|w| {
                let n: String = w.chars().filter(char::is_ascii_digit).collect();
                let has = |c| w.contains(c);
                let phase = if has('p') { "Pending" } else if has('f') { "Failed" } else { "Running" };
                let ago = if has('y') { 3 } else { 1000 };
                let at = crate::objects::meta::rfc3339(NOW - ago);
                Arc::new(
                    serde_json::from_value(json!({
                        "metadata":{"name":format!("s-{n}"),
                            "labels":{"controller-revision-hash":if has('o') {"old"} else {"new"}},
                            "deletionTimestamp":has('t').then_some("2024-01-01T00:00:00Z")},
                        "status":{"phase":phase,"conditions":[{"type":"Ready","lastTransitionTime":at,
                            "status":if phase == "Running" {"True"} else {"False"}}]}}))
                    .unwrap(),
                )
            })
            .collect()
    }
    fn show(p: &Plan) -> String {
        let mut all: Vec<String> = p
            .create
            .iter()
            .map(|(n, new)| format!("+{n}{}", if *new { "" } else { "o" }))
            .collect();
        all.extend(
            p.delete
                .iter()
                .map(|(p, _)| format!("-{}", &p.metadata.name[2..])),
        );
        all.join(" ")
    }

    #[test]
    fn next_step() {
        let none = json!({});
        let parallel = json!({"podManagementPolicy":"Parallel"});
        let part = |n: i32| json!({"updateStrategy":{"type":"RollingUpdate","rollingUpdate":{"partition":n}}});
        let max = |n: Value| json!({"updateStrategy":{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":n}}});
        let cases = [
            ("first", none.clone(), "", "+0"),
            ("waits for the first", none.clone(), "0p", ""),
            ("second", none.clone(), "0", "+1"),
            ("third", none.clone(), "0 1", "+2"),
            ("done", none.clone(), "0 1 2", ""),
            ("hole", none.clone(), "0 2", "+1"),
            ("unwell one holds the rest", none.clone(), "0 1p", ""),
            ("terminating one holds the rest", none.clone(), "0t", ""),
            ("failed is made again", none.clone(), "0 1f", "-1"),
            ("all at once", parallel.clone(), "", "+0 +1 +2"),
            ("parallel doesn't wait", parallel.clone(), "0p", "+1 +2"),
            ("highest goes first", json!({"replicas":1}), "0 1 2", "-2"),
            ("one at a time", json!({"replicas":1}), "0 1 2t", ""),
            (
                "parallel: all at once",
                json!({"replicas":1,"podManagementPolicy":"Parallel"}),
                "0 1 2",
                "-2 -1",
            ),
            (
                "unwell one blocks scaling down",
                json!({"replicas":2}),
                "0 1p 2",
                "",
            ),
            (
                "the unwell one itself goes",
                json!({"replicas":2}),
                "0 1 2p",
                "-2",
            ),
            ("update from the top", none.clone(), "0o 1o 2o", "-2"),
            ("update waits", none.clone(), "0o 1o 2p", ""),
            ("update goes on", none.clone(), "0o 1o 2", "-1"),
            ("partition", part(2), "0o 1o 2o", "-2"),
            ("partition reached", part(2), "0o 1o 2", ""),
            ("below the partition: old ones", part(2), "0o 2", "+1o"),
            ("above: new ones", part(2), "0o 1o", "+2"),
            ("several at a time", max(json!(2)), "0o 1o 2o", "-2 -1"),
            ("several, one is away", max(json!(2)), "0o 1o 2t", ""),
            (
                "several, one is unwell, all at once",
                json!({"updateStrategy":max(json!(2))["updateStrategy"],"podManagementPolicy":"Parallel"}),
                "0o 1o 2p",
                "-1",
            ),
            (
                "several: a part, rounded down",
                max(json!("70%")),
                "0o 1o 2o",
                "-2 -1",
            ),
            (
                "several: a small part is one",
                max(json!("1%")),
                "0o 1o 2o",
                "-2",
            ),
            (
                "on delete",
                json!({"updateStrategy":{"type":"OnDelete"}}),
                "0o 1o 2o",
                "",
            ),
            (
                "on delete: new ones",
                json!({"updateStrategy":{"type":"OnDelete"}}),
                "0o 1o",
                "+2",
            ),
            (
                "ready for long enough",
                json!({"minReadySeconds":10}),
                "0y",
                "",
            ),
            (
                "ordinals from 5",
                json!({"ordinals":{"start":5},"replicas":2}),
                "5",
                "+6",
            ),
            (
                "ordinals below the first go",
                json!({"ordinals":{"start":1},"replicas":2}),
                "0 1 2",
                "-0",
            ),
            ("not ours", none, "0 1 2 7", "-7"),
        ];
        for (name, spec, have, want) in cases {
            assert_eq!(
                show(&plan(&set(spec), &pods(have), "new", NOW)),
                want,
                "{name}"
            );
        }
        assert_eq!(
            plan(&set(json!({"minReadySeconds":10})), &pods("0y"), "new", NOW).next,
            Some(Next::after_s(7))
        );
    }

    #[test]
    fn status_of_an_update() {
        for (have, want) in [
            // replicas ready current updated, current revision
            ("0o 1o 2o", "3 3 3 0 old"),
            ("0o 1o 2", "3 3 2 1 old"),
            ("0o 1o 2ot", "3 3 2 0 old"),
            ("0 1 2p", "3 2 0 3 old"),
            ("0 1 2", "3 3 3 3 new"),
            ("0 1", "2 2 0 2 old"),
        ] {
            let s = status(&set(json!({})), &pods(have), "old", "new", NOW);
            let got = format!(
                "{} {} {} {} {}",
                s.replicas,
                s.ready_replicas,
                s.current_replicas,
                s.updated_replicas,
                s.current_revision
            );
            assert_eq!(got, want, "{have}");
        }
    }
}
