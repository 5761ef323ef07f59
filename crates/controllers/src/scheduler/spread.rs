//! Topology spread: how evenly a pod's like are over the nodes' domains (`plugins/podtopologyspread`).

use std::{collections::HashMap, sync::Arc};

use crate::objects::{
    affinity::SpreadConstraint,
    meta::Labels,
    node::Node,
    pod::Pod,
    selector::{Requirement, Selector},
};

use super::{
    filter::{selects, untolerated},
    verdict::{Refusal, Rule},
    view::{Place, Placed, View},
};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// One constraint, with its selector made whole.
#[derive(Debug, Clone)]
struct Constraint {
    max_skew: i64,
    key: Box<str>,
    selector: Option<Selector>,
    min_domains: usize,
    honor_affinity: bool,
    honor_taints: bool,
}

impl Constraint {
    fn read(c: &SpreadConstraint, pod: &Pod) -> Constraint {
        let mut selector = c.label_selector.clone();
        if let Some(s) = &mut selector {
            for key in &c.match_label_keys {
                if let Some(value) = pod.metadata.labels.get(key) {
                    s.match_expressions.push(Requirement {
                        key: key.clone(),
                        operator: "In".into(),
                        values: vec![value.into()],
                    });
                }
            }
        }
        Constraint {
            max_skew: c.max_skew.into(),
            key: c.topology_key.clone(),
            selector,
            min_domains: usize::try_from(c.min_domains.unwrap_or(1)).unwrap_or(1),
            honor_affinity: &*c.node_affinity_policy != "Ignore",
            honor_taints: &*c.node_taints_policy == "Honor",
        }
    }
    /// The node takes part in the count.
    fn includes(&self, pod: &Pod, node: &Node) -> bool {
        (!self.honor_affinity || selects(pod, node))
            && (!self.honor_taints || untolerated(pod, node).is_none())
    }
    fn matches(&self, labels: &Labels) -> bool {
        self.selector.as_ref().is_some_and(|s| s.matches(labels))
    }
    /// Pods of the namespace on the node that are its like; those that go away don't count.
    fn count(&self, place: &Place, namespace: &str) -> i64 {
        if self.selector.as_ref().is_none_or(Selector::is_empty) {
            return 0;
        }
        place
            .pods
            .values()
            .filter(|p| {
                let m = &p.pod.metadata;
                *m.namespace == *namespace && !m.deleting() && self.matches(&m.labels)
            })
            .count() as i64
    }
}

fn constraints(pod: &Pod, action: &str) -> Vec<Constraint> {
    pod.spec
        .topology_spread_constraints
        .iter()
        .filter(|c| &*c.when_unsatisfiable == action)
        .map(|c| Constraint::read(c, pod))
        .collect()
}

fn has_all_keys(all: &[Constraint], node: &Node) -> bool {
    all.iter()
        .all(|c| node.metadata.labels.get(&c.key).is_some())
}

/// How many of the pod's like are in each domain; a copy is changed along with the pods that are tried in and out.
#[derive(Debug, Clone)]
pub struct Spread {
    pod: Arc<Pod>,
    all: Vec<Constraint>,
    domains: Vec<HashMap<Box<str>, i64>>,
}

impl Spread {
    /// Counts, for the constraints that must hold.
    pub fn new(pod: &Arc<Pod>, view: &View) -> Spread {
        let all = constraints(pod, "DoNotSchedule");
        let mut domains = vec![HashMap::<Box<str>, i64>::new(); all.len()];
        if !all.is_empty() {
            for (node, place) in view.nodes() {
                if !has_all_keys(&all, node) {
                    continue;
                }
                for (c, domain) in all.iter().zip(&mut domains) {
                    if let Some(value) = node.metadata.labels.get(&c.key)
                        && c.includes(pod, node)
                    {
                        *domain.entry(value.into()).or_insert(0) +=
                            c.count(place, &pod.metadata.namespace);
                    }
                }
            }
        }
        Spread {
            pod: pod.clone(),
            all,
            domains,
        }
    }

    /// A pod is on a node (1), or isn't any more (-1).
    pub fn count(&mut self, pod: &Placed, node: &Node, n: i64) {
        let m = &pod.pod.metadata;
        if m.namespace != self.pod.metadata.namespace || !has_all_keys(&self.all, node) {
            return;
        }
        for (c, domain) in self.all.iter().zip(&mut self.domains) {
            if let Some(value) = node.metadata.labels.get(&c.key)
                && c.matches(&m.labels)
                && c.includes(&self.pod, node)
            {
                *domain.entry(value.into()).or_insert(0) += n;
            }
        }
    }

    /// Why the pod can't be there.
    pub fn check(&self, node: &Node) -> Result<(), Refusal> {
        for (c, domain) in self.all.iter().zip(&self.domains) {
            let Some(value) = node.metadata.labels.get(&c.key) else {
                let reason =
                    "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Refusal::lasting(Rule::Spread, reason));
            };
            let least = if domain.len() < c.min_domains {
                0
            } else {
                // no domain at all: nothing to be uneven with
                domain.values().copied().min().unwrap_or(i32::MAX.into())
            };
            let own = i64::from(c.matches(&self.pod.metadata.labels));
            let here = domain.get(value).copied().unwrap_or(0);
            if here + own - least > c.max_skew {
                let reason = "node(s) didn't match pod topology spread constraints";
                return Err(Refusal::passing(Rule::Spread, reason));
            }
        }
        Ok(())
    }
}

/// How evenly the pod's like would be with it on each node, 0..=100; None when nothing asks for it (`podtopologyspread/scoring.go`). `like` are the pod's like by its Services and owner, for a pod without constraints of its own.
pub fn scores(
    pod: &Pod,
    view: &View,
    like: impl FnOnce() -> Option<Selector>,
    feasible: &[(&Arc<Node>, &Place)],
) -> Option<Vec<i64>> {
    let own = !pod.spec.topology_spread_constraints.is_empty();
    let all = if own {
        constraints(pod, "ScheduleAnyway")
    } else {
        let selector = like()?;
        [(HOSTNAME, 3), (ZONE, 5)]
            .map(|(key, max_skew)| Constraint {
                max_skew,
                key: key.into(),
                selector: Some(selector.clone()),
                min_domains: 1,
                honor_affinity: true,
                honor_taints: false,
            })
            .into()
    };
    if all.is_empty() {
        return None;
    }
    let ignored = |node: &Node| own && !has_all_keys(&all, node);
    let value = |c: &Constraint, node: &Node| -> Box<str> {
        node.metadata.labels.get(&c.key).unwrap_or("").into()
    };
    let mut domains = vec![HashMap::<Box<str>, i64>::new(); all.len()];
    let counted = feasible.iter().filter(|(n, _)| !ignored(n)).count();
    for (node, _) in feasible.iter().filter(|(n, _)| !ignored(n)) {
        for (c, domain) in all.iter().zip(&mut domains) {
            if &*c.key != HOSTNAME {
                domain.insert(value(c, node), 0);
            }
        }
    }
    let weights: Vec<f64> = all
        .iter()
        .zip(&domains)
        .map(|(c, d)| {
            let size = if &*c.key == HOSTNAME {
                counted
            } else {
                d.len()
            };
            ((size + 2) as f64).ln()
        })
        .collect();
    for (node, place) in view.nodes().filter(|(n, _)| !ignored(n)) {
        for (c, domain) in all.iter().zip(&mut domains) {
            if c.includes(pod, node)
                && let Some(n) = domain.get_mut(&value(c, node))
            {
                *n += c.count(place, &pod.metadata.namespace);
            }
        }
    }
    let raw: Vec<Option<i64>> = feasible
        .iter()
        .map(|(node, place)| {
            if ignored(node) {
                return None;
            }
            let mut score = 0.0;
            for ((c, domain), weight) in all.iter().zip(&domains).zip(&weights) {
                let Some(at) = node.metadata.labels.get(&c.key) else {
                    continue;
                };
                let n = if &*c.key == HOSTNAME {
                    c.count(place, &pod.metadata.namespace)
                } else {
                    domain.get(at).copied().unwrap_or(0)
                };
                score += n as f64 * weight + (c.max_skew - 1) as f64;
            }
            Some(score.round() as i64)
        })
        .collect();
    let least = raw.iter().flatten().copied().min().unwrap_or(0);
    let most = raw.iter().flatten().copied().max().unwrap_or(0);
    Some(
        raw.into_iter()
            .map(|s| match s {
                None => 0,
                Some(_) if most == 0 => 100,
                Some(s) => 100 * (most + least - s) / most,
            })
            .collect(),
    )
}
