//! Which nodes get a pod, and which pods go: pure (`daemon_controller.go`, `update.go`).

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    history::REVISION_LABEL,
    machinery::work::Next,
    objects::{
        intstr::IntOrString,
        meta::Seconds,
        node::{Node, Taint},
        pod::{Phase, Pod, Toleration},
        workload::{DaemonSet, DaemonSetStatus},
    },
};

/// Taints that every daemon bears.
pub const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// What a node should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// a pod should be started
    pub run: bool,
    /// a pod that runs may go on
    pub stay: bool,
}

/// Should the template's pod (`template`, with [`TOLERATED`] added) run on the node?
pub fn fit(template: &Pod, node: &Node) -> Fit {
    let here = (template.spec.node_name.is_empty()
        || template.spec.node_name == node.metadata.name)
        && template.spec.node_selector.subset_of(&node.metadata.labels)
        && template
            .spec
            .affinity
            .as_ref()
            .and_then(|a| a.node_affinity.as_ref())
            .and_then(|a| a.required.as_ref())
            .is_none_or(|s| s.matches(&node.metadata.name, &node.metadata.labels));
    let mut tolerations = template.spec.tolerations.clone();
    tolerations.extend(TOLERATED.iter().map(|(key, effect)| Toleration {
        key: (*key).into(),
        operator: "Exists".into(),
        value: "".into(),
        effect: (*effect).into(),
        toleration_seconds: None,
    }));
    let bears = |t: &Taint| t.tolerated(&tolerations);
    Fit {
        run: here
            && node
                .spec
                .taints
                .iter()
                .all(|t| &*t.effect == "PreferNoSchedule" || bears(t)),
        stay: here
            && node
                .spec
                .taints
                .iter()
                .all(|t| &*t.effect != "NoExecute" || bears(t)),
    }
}

/// The node of a daemon's pod: where it is, or where its affinity sends it.
pub fn node_of(pod: &Pod) -> Option<&str> {
    if !pod.spec.node_name.is_empty() {
        return Some(&pod.spec.node_name);
    }
    let terms = &pod
        .spec
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?
        .required
        .as_ref()?
        .node_selector_terms;
    let field = terms
        .iter()
        .flat_map(|t| &t.match_fields)
        .find(|f| &*f.key == "metadata.name" && &*f.operator == "In")?;
    match &*field.values {
        [one] => Some(one),
        _ => None,
    }
}

/// What to do now.
#[derive(Debug, Default)]
pub struct Plan {
    /// nodes that get a pod
    pub create: Vec<Box<str>>,
    /// pods that go
    pub delete: Vec<Arc<Pod>>,
    /// of these, pods that failed
    pub failed: Vec<Arc<Pod>>,
    /// when time alone changes something
    pub next: Option<Next>,
}

/// A node, whether it should have a pod, and those it has.
pub type Nodes = BTreeMap<Box<str>, (Fit, Vec<Arc<Pod>>)>;

fn current(pod: &Pod, hash: &str) -> bool {
    pod.metadata.labels.get(REVISION_LABEL) == Some(hash)
}

fn resolve(value: Option<&IntOrString>, default: i32, total: i32) -> i32 {
    value.map_or(default, |v| v.of(total, true).unwrap_or(default))
}

/// The next step. `hash`: of the newest revision.
pub fn plan(set: &DaemonSet, nodes: &Nodes, hash: &str, now: Seconds) -> Plan {
    let mut plan = Plan::default();
    let rolling = matches!(&*set.spec.update_strategy.kind, "" | "RollingUpdate");
    let desired = nodes.values().filter(|(f, _)| f.run).count() as i32;
    let parameters = set.spec.update_strategy.rolling_update.as_ref();
    let surge = if rolling {
        resolve(parameters.and_then(|p| p.max_surge.as_ref()), 0, desired)
    } else {
        0
    };
    let mut unavailable_max = resolve(
        parameters.and_then(|p| p.max_unavailable.as_ref()),
        1,
        desired,
    );
    if surge == 0 && unavailable_max == 0 {
        unavailable_max = 1;
    }
    // which pods there are, after those that must go in any case
    let mut rest: Vec<(&str, Vec<Arc<Pod>>)> = vec![];
    for (name, (fit, pods)) in nodes {
        let mut alive: Vec<Arc<Pod>> = vec![];
        for pod in pods.iter().filter(|p| !p.metadata.deleting()) {
            match pod.status.phase {
                Phase::Failed => {
                    plan.failed.push(pod.clone());
                    plan.delete.push(pod.clone());
                }
                Phase::Succeeded => plan.delete.push(pod.clone()),
                _ => alive.push(pod.clone()),
            }
        }
        // the oldest first
        alive.sort_by(|a, b| {
            (a.metadata.creation_timestamp, &a.metadata.name)
                .cmp(&(b.metadata.creation_timestamp, &b.metadata.name))
        });
        if fit.run {
            // one that ends keeps its place until it's gone
            if pods.is_empty() {
                plan.create.push(name.clone());
                continue;
            }
            let (new, old): (Vec<_>, Vec<_>) = alive.into_iter().partition(|p| current(p, hash));
            let allowed_old = if surge > 0 || new.is_empty() { 1 } else { 0 };
            plan.delete.extend(old.iter().skip(allowed_old).cloned());
            plan.delete.extend(new.iter().skip(1).cloned());
            let left: Vec<_> = old
                .into_iter()
                .take(allowed_old)
                .chain(new.into_iter().take(1))
                .collect();
            rest.push((name, left));
        } else if !fit.stay {
            plan.delete.extend(alive);
        } else {
            plan.delete.extend(alive.into_iter().skip(1));
        }
    }
    if rolling {
        update(set, &mut plan, &rest, hash, surge, unavailable_max, now);
    }
    plan
}

/// One step of a rolling update.
fn update(
    set: &DaemonSet,
    plan: &mut Plan,
    nodes: &[(&str, Vec<Arc<Pod>>)],
    hash: &str,
    surge: i32,
    unavailable_max: i32,
    now: Seconds,
) {
    let mut next: Option<Next> = None;
    let mut available = |pod: &Pod| match pod.available(set.spec.min_ready_seconds, now) {
        Ok(a) => a,
        Err(wait) => {
            let n = Next::after_s(wait);
            next = Some(next.map_or(n, |old| old.sooner(n)));
            false
        }
    };
    let mut unavailable = plan.create.len() as i32;
    let mut surging = 0;
    let mut at_once: Vec<Arc<Pod>> = vec![];
    let mut candidates: Vec<(&str, Arc<Pod>)> = vec![];
    for (node, pods) in nodes {
        let new = pods.iter().find(|p| current(p, hash));
        let old = pods.iter().find(|p| !current(p, hash));
        match (old, new) {
            (None, None) => unavailable += 1,
            (None, Some(new)) => {
                if !available(new) {
                    unavailable += 1;
                }
            }
            (Some(old), None) => {
                if available(old) {
                    candidates.push((node, old.clone()));
                } else {
                    unavailable += 1;
                    at_once.push(old.clone());
                }
            }
            (Some(old), Some(new)) => {
                // the new one took over, or the old one is of no use
                if available(new) || !available(old) {
                    plan.delete.push(old.clone());
                } else {
                    surging += 1;
                }
            }
        }
    }
    if surge > 0 {
        // a new one beside the old one
        for old in at_once {
            plan.delete.push(old);
        }
        for (node, _) in candidates
            .into_iter()
            .take((surge - surging).max(0) as usize)
        {
            plan.create.push(node.into());
        }
    } else {
        plan.delete.extend(at_once);
        let room = (unavailable_max - unavailable).max(0) as usize;
        plan.delete
            .extend(candidates.into_iter().take(room).map(|(_, p)| p));
    }
    plan.next = next;
}

/// The status that should be.
pub fn status(set: &DaemonSet, nodes: &Nodes, hash: &str, now: Seconds) -> DaemonSetStatus {
    let mut s = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: set.status.collision_count,
        ..Default::default()
    };
    for (fit, pods) in nodes.values() {
        let mut pods: Vec<_> = pods.iter().filter(|p| !p.terminal()).collect();
        if fit.run {
            s.desired_number_scheduled += 1;
            // the oldest that's ready counts
            pods.sort_by_key(|p| {
                (
                    !p.ready(),
                    p.metadata.deleting(),
                    p.metadata.creation_timestamp,
                )
            });
            if let Some(first) = pods.first() {
                s.current_number_scheduled += 1;
                if first.ready() {
                    s.number_ready += 1;
                    if first.available(set.spec.min_ready_seconds, now) == Ok(true) {
                        s.number_available += 1;
                    }
                }
                if pods
                    .iter()
                    .any(|p| current(p, hash) && !p.metadata.deleting())
                {
                    s.updated_number_scheduled += 1;
                }
            }
        } else if !pods.is_empty() {
            s.number_misscheduled += 1;
        }
    }
    s.number_unavailable = s.desired_number_scheduled - s.number_available;
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(strategy: Value) -> DaemonSet {
        serde_json::from_value(json!({"metadata":{"name":"d"},
            "spec":{"template":{},"updateStrategy":strategy}}))
        .unwrap()
    }
    /// `a:old b:new,unready c: d!:old` - `!` shouldn't run, `?` may stay; pods of a node joined by `+`.
    fn nodes(text: &str) -> Nodes {
        let mut serial = 0;
        text.split_whitespace()
            .map(|w| {
                let (node, pods) = w.split_once(':').unwrap();
                let fit = Fit {
                    run: !node.ends_with(['!', '?']),
                    stay: !node.ends_with('!'),
                };
                let node = node.trim_end_matches(['!', '?']);
                let pods = pods
                    .split('+')
                    .filter(|p| !p.is_empty())
                    .map(|p| {
                        serial += 1;
                        let has = |s: &str| p.contains(s);
                        let phase = if has("failed") { "Failed" } else { "Running" };
                        let ready = if has("unready") || has("failed") { "False" } else { "True" };
                        Arc::new(
                            serde_json::from_value(json!({
                                "metadata":{"name":format!("{node}{serial}"),
                                    "creationTimestamp":format!("2024-01-01T00:00:{serial:02}Z"),
                                    "deletionTimestamp":has("gone").then_some("2024-01-01T00:00:00Z"),
                                    "labels":{REVISION_LABEL:if has("new") {"h"} else {"g"}}},
                                "status":{"phase":phase,"conditions":[{"type":"Ready","status":ready}]}}))
                            .unwrap(),
                        )
                    })
                    .collect();
                (node.into(), (fit, pods))
            })
            .collect()
    }

    #[test]
    fn next_step() {
        let roll = |u: Value, s: Value| json!({"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":u,"maxSurge":s}});
        let one = roll(json!(1), json!(0));
        let cases = [
            ("missing", one.clone(), "a: b:new", "+a"),
            ("all there", one.clone(), "a:new b:new", ""),
            ("shouldn't be there", one.clone(), "a!:new b:new", "-a1"),
            ("may stay", one.clone(), "a?:new", ""),
            (
                "too many: the oldest stays",
                one.clone(),
                "a:new+new",
                "-a2",
            ),
            ("failed", one.clone(), "a:new,failed", "-a1"),
            ("going keeps its place", one.clone(), "a:new,gone", ""),
            ("update one by one", one.clone(), "a:old b:old", "-a1"),
            ("update waits", one.clone(), "a:new,unready b:old", ""),
            (
                "update waits for a missing one",
                one.clone(),
                "a: b:old",
                "+a",
            ),
            (
                "an unready old one goes at once",
                one.clone(),
                "a:old,unready b:old",
                "-a1",
            ),
            (
                "half at a time",
                roll(json!("50%"), json!(0)),
                "a:old b:old c:old d:old",
                "-a1 -b2",
            ),
            ("on delete", json!({"type":"OnDelete"}), "a:old b:old", ""),
            (
                "surge: new beside old",
                roll(json!(0), json!(1)),
                "a:old b:old",
                "+a",
            ),
            (
                "surge waits",
                roll(json!(0), json!(1)),
                "a:old+new,unready b:old",
                "",
            ),
            (
                "surge: new took over",
                roll(json!(0), json!(1)),
                "a:old+new b:old",
                "+b -a1",
            ),
        ];
        for (name, strategy, have, want) in cases {
            let p = plan(&set(strategy), &nodes(have), "h", 0);
            let mut got: Vec<String> = p.create.iter().map(|n| format!("+{n}")).collect();
            got.extend(p.delete.iter().map(|p| format!("-{}", p.metadata.name)));
            got.sort();
            assert_eq!(got.join(" "), want, "{name}");
        }
    }

    #[test]
    fn counts() {
        let s = status(
            &set(json!({})),
            &nodes("a:new b:old c:new,unready d: e?:old"),
            "h",
            0,
        );
        assert_eq!(
            (
                s.desired_number_scheduled,
                s.current_number_scheduled,
                s.number_ready
            ),
            (4, 3, 2)
        );
        assert_eq!(
            (
                s.updated_number_scheduled,
                s.number_available,
                s.number_unavailable,
                s.number_misscheduled
            ),
            (2, 2, 2, 1)
        );
    }

    #[test]
    fn fits_nodes() {
        let pod = |spec: Value| -> Pod { serde_json::from_value(json!({"spec":spec})).unwrap() };
        let node = |taints: Value| -> Node {
            serde_json::from_value(
                json!({"metadata":{"name":"n","labels":{"a":"b"}},"spec":{"taints":taints}}),
            )
            .unwrap()
        };
        let taint = |key: &str, effect: &str| json!([{"key":key,"effect":effect}]);
        for (name, spec, taints, want) in [
            ("plain", json!({}), json!([]), (true, true)),
            (
                "selector",
                json!({"nodeSelector":{"a":"c"}}),
                json!([]),
                (false, false),
            ),
            (
                "cordoned",
                json!({}),
                taint("node.kubernetes.io/unschedulable", "NoSchedule"),
                (true, true),
            ),
            (
                "not ready",
                json!({}),
                taint("node.kubernetes.io/not-ready", "NoExecute"),
                (true, true),
            ),
            (
                "tainted",
                json!({}),
                taint("x", "NoSchedule"),
                (false, true),
            ),
            (
                "evicting",
                json!({}),
                taint("x", "NoExecute"),
                (false, false),
            ),
            (
                "tolerated",
                json!({"tolerations":[{"operator":"Exists"}]}),
                taint("x", "NoExecute"),
                (true, true),
            ),
            (
                "preferred",
                json!({}),
                taint("x", "PreferNoSchedule"),
                (true, true),
            ),
        ] {
            let f = fit(&pod(spec), &node(taints));
            assert_eq!((f.run, f.stay), want, "{name}");
        }
    }
}
