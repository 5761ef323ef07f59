//! Pods with pods and without pods: inter-pod affinity and anti-affinity (`plugins/interpodaffinity`).

use std::{collections::HashMap, sync::Arc};

use crate::objects::{
    affinity::{AffinityTerm, PodAffinity},
    meta::Labels,
    node::Node,
    pod::Pod,
};

use super::{
    verdict::{Refusal, Rule},
    view::{Place, Placed, View},
};

/// A term of a pod, with the namespaces that it means.
#[derive(Debug, Clone)]
pub struct Term {
    term: AffinityTerm,
    /// of the pod that has the term
    home: Box<str>,
    /// those that the selector picks, for an incoming pod
    selected: Vec<Box<str>>,
}

impl Term {
    fn of(pod: &Pod, term: &AffinityTerm) -> Term {
        Term {
            term: term.clone(),
            home: pod.metadata.namespace.clone(),
            selected: vec![],
        }
    }
    /// Looks up the namespaces that its selector picks.
    fn select(mut self, view: &View) -> Term {
        if let Some(s) = &self.term.namespace_selector
            && !s.is_empty()
        {
            self.selected = view
                .namespaces
                .iter()
                .filter(|(_, labels)| s.matches(labels))
                .map(|(name, _)| name.clone())
                .collect();
        }
        self
    }
    /// The pod is meant; `labels` are those of its namespace, where the selector hasn't been looked up.
    fn matches(&self, pod: &Pod, labels: Option<&Labels>) -> bool {
        let space = &pod.metadata.namespace;
        let t = &self.term;
        let named = if t.namespaces.is_empty() && t.namespace_selector.is_none() {
            *self.home == **space
        } else {
            t.namespaces.contains(space)
        };
        let picked = || {
            self.selected.contains(space)
                || t.namespace_selector
                    .as_ref()
                    .is_some_and(|s| s.is_empty() || labels.is_some_and(|l| s.matches(l)))
        };
        (named || picked())
            && t.label_selector
                .as_ref()
                .is_some_and(|s| s.matches(&pod.metadata.labels))
    }
}

fn terms(pod: &Pod, part: Option<&PodAffinity>) -> Vec<Term> {
    part.map(|p| p.required.iter().map(|t| Term::of(pod, t)).collect())
        .unwrap_or_default()
}

fn weighted(pod: &Pod, part: Option<&PodAffinity>) -> Vec<(Term, i64)> {
    part.map(|p| {
        p.preferred
            .iter()
            .map(|t| (Term::of(pod, &t.pod_affinity_term), t.weight.into()))
            .collect()
    })
    .unwrap_or_default()
}

fn with(pod: &Pod) -> Option<&PodAffinity> {
    pod.spec.affinity.as_deref()?.pod_affinity.as_ref()
}
fn without(pod: &Pod) -> Option<&PodAffinity> {
    pod.spec.affinity.as_deref()?.pod_anti_affinity.as_ref()
}

/// How many pods there are per label and value of nodes.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counts(HashMap<(Box<str>, Box<str>), i64>);

impl Counts {
    fn add(&mut self, node: &Node, key: &str, n: i64) {
        let Some(value) = node.metadata.labels.get(key) else {
            return;
        };
        let pair = (key.into(), value.into());
        let count = self.0.entry(pair).or_insert(0);
        *count += n;
    }
    fn get(&self, key: &str, value: &str) -> i64 {
        if self.0.is_empty() {
            return 0;
        }
        self.0
            .get(&(key.into(), value.into()))
            .copied()
            .unwrap_or(0)
    }
    fn none(&self) -> bool {
        self.0.values().all(|n| *n == 0)
    }
}

/// What is known of an incoming pod's company; a copy is changed along with the pods that are tried in and out.
#[derive(Debug, Clone)]
pub struct Company {
    pod: Arc<Pod>,
    labels: Option<Labels>,
    with: Vec<Term>,
    without: Vec<Term>,
    /// pods there that keep it away
    kept_away: Counts,
    /// pods that it wants to be with
    wanted: Counts,
    /// pods that it wants to be without
    unwanted: Counts,
}

impl Company {
    /// Looks at all pods, when a term of theirs or of the incoming one's makes that necessary.
    pub fn new(pod: &Arc<Pod>, view: &View) -> Company {
        let select = |t: Term| t.select(view);
        let mut c = Company {
            labels: view.namespaces.get(&pod.metadata.namespace).cloned(),
            with: terms(pod, with(pod)).into_iter().map(select).collect(),
            without: terms(pod, without(pod)).into_iter().map(select).collect(),
            kept_away: Counts::default(),
            wanted: Counts::default(),
            unwanted: Counts::default(),
            pod: pod.clone(),
        };
        let all = !c.with.is_empty() || !c.without.is_empty();
        for (node, place) in view.nodes() {
            if all || place.with_anti_affinity > 0 {
                for p in place.pods.values() {
                    if all || p.has_required_anti_affinity() {
                        c.count(p, node, 1);
                    }
                }
            }
        }
        c
    }

    /// A pod is on a node (1), or isn't any more (-1).
    pub fn count(&mut self, pod: &Placed, node: &Node, n: i64) {
        let existing = &*pod.pod;
        if pod.has_required_anti_affinity() {
            for t in terms(existing, without(existing)) {
                if t.matches(&self.pod, self.labels.as_ref()) {
                    self.kept_away.add(node, &t.term.topology_key, n);
                }
            }
        }
        if !self.with.is_empty() && self.with.iter().all(|t| t.matches(existing, None)) {
            for t in &self.with {
                self.wanted.add(node, &t.term.topology_key, n);
            }
        }
        for t in &self.without {
            if t.matches(existing, None) {
                self.unwanted.add(node, &t.term.topology_key, n);
            }
        }
    }

    /// Why the pod can't be there.
    pub fn check(&self, node: &Node) -> Result<(), Refusal> {
        if !self.affinity(node) {
            let reason = "node(s) didn't match pod affinity rules";
            return Err(Refusal::lasting(Rule::InterPod, reason));
        }
        let labels = &node.metadata.labels;
        let unwanted = self.without.iter().any(|t| {
            let key = &t.term.topology_key;
            labels
                .get(key)
                .is_some_and(|v| self.unwanted.get(key, v) > 0)
        });
        if unwanted {
            let reason = "node(s) didn't match pod anti-affinity rules";
            return Err(Refusal::passing(Rule::InterPod, reason));
        }
        if !self.kept_away.0.is_empty() && labels.iter().any(|(k, v)| self.kept_away.get(k, v) > 0)
        {
            let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
            return Err(Refusal::passing(Rule::InterPod, reason));
        }
        Ok(())
    }

    fn affinity(&self, node: &Node) -> bool {
        let mut there = true;
        for t in &self.with {
            let key = &t.term.topology_key;
            let Some(value) = node.metadata.labels.get(key) else {
                return false;
            };
            there &= self.wanted.get(key, value) > 0;
        }
        // the first of a series that wants to be with its like
        there || (self.wanted.none() && self.with.iter().all(|t| t.matches(&self.pod, None)))
    }
}

/// How much each node is liked for who is there, by node name; None when nothing speaks for or against any (`interpodaffinity/scoring.go`). Normalised to 0..=100.
pub fn scores(
    company: &Company,
    view: &View,
    feasible: &[(&Arc<Node>, &Place)],
) -> Option<Vec<i64>> {
    let pod = &company.pod;
    let select = |(t, w): (Term, i64)| (t.select(view), w);
    let liked: Vec<_> = weighted(pod, with(pod)).into_iter().map(select).collect();
    let disliked: Vec<_> = weighted(pod, without(pod))
        .into_iter()
        .map(select)
        .collect();
    let all = !liked.is_empty() || !disliked.is_empty();
    let mut counts = Counts::default();
    for (node, place) in view.nodes() {
        if node.metadata.labels.is_empty() || (!all && place.with_affinity == 0) {
            continue;
        }
        for p in place.pods.values() {
            if !all && !p.has_pod_affinity() {
                continue;
            }
            let other = &*p.pod;
            let mut add = |t: &Term, about: &Pod, labels: Option<&Labels>, w: i64| {
                if t.matches(about, labels) {
                    counts.add(node, &t.term.topology_key, w);
                }
            };
            for (t, w) in &liked {
                add(t, other, None, *w);
            }
            for (t, w) in &disliked {
                add(t, other, None, -*w);
            }
            let labels = company.labels.as_ref();
            // hardPodAffinityWeight is 1
            for t in terms(other, with(other)) {
                add(&t, pod, labels, 1);
            }
            for (t, w) in weighted(other, with(other)) {
                add(&t, pod, labels, w);
            }
            for (t, w) in weighted(other, without(other)) {
                add(&t, pod, labels, -w);
            }
        }
    }
    if counts.0.is_empty() {
        return None;
    }
    let raw: Vec<i64> = feasible
        .iter()
        .map(|(node, _)| {
            let labels = &node.metadata.labels;
            labels.iter().map(|(k, v)| counts.get(k, v)).sum()
        })
        .collect();
    let (least, most) = (raw.iter().min()?, raw.iter().max()?);
    let span = (most - least) as f64;
    Some(
        raw.iter()
            .map(|s| {
                if span > 0.0 {
                    (100.0 * ((s - least) as f64 / span)) as i64
                } else {
                    0
                }
            })
            .collect(),
    )
}
