//! Which of the nodes that will do is best: upstream's scores with its default weights.

use std::sync::Arc;

use crate::objects::{
    node::{Node, Taint},
    pod::{Pod, Requests},
    selector::Selector,
};

use super::{
    interpod::{self, Company},
    spread,
    view::{Place, View},
};

const TAINTS: i64 = 3;
const NODE_AFFINITY: i64 = 2;
const SPREAD: i64 = 2;
const INTER_POD: i64 = 2;
const DEVICES: i64 = 2;
const RESOURCES: i64 = 1;
const BALANCE: i64 = 1;
const IMAGES: i64 = 1;

/// Scores of the `feasible` nodes, in their order; more is better. `like` are the pod's like by its Services and owner, `devices` how much it likes those that it gets.
pub fn scores(
    pod: &Pod,
    company: &Company,
    view: &View,
    like: impl FnOnce() -> Option<Selector>,
    devices: Option<Vec<i64>>,
    feasible: &[(&Arc<Node>, &Place)],
) -> Vec<i64> {
    let mut total = vec![0; feasible.len()];
    let mut add = |scores: Vec<i64>, weight: i64| {
        for (sum, score) in total.iter_mut().zip(scores) {
            *sum += score * weight;
        }
    };
    let each = |f: &dyn Fn(&Node, &Place) -> i64| -> Vec<i64> {
        feasible.iter().map(|(n, p)| f(n, p)).collect()
    };
    add(normalize(each(&|n, _| intolerable(pod, n)), true), TAINTS);
    add(
        normalize(each(&|n, _| preference(pod, n)), false),
        NODE_AFFINITY,
    );
    if let Some(s) = spread::scores(pod, view, like, feasible) {
        add(s, SPREAD);
    }
    if let Some(s) = interpod::scores(company, view, feasible) {
        add(s, INTER_POD);
    }
    if let Some(scores) = devices {
        add(normalize(scores, false), DEVICES);
    }
    let (wants, weight) = (pod.requests(), pod.requests_for_score());
    add(
        each(&|n, p| least_allocated(&n.status.allocatable, &p.weight, &weight)),
        RESOURCES,
    );
    if wants.cpu_milli > 0 || wants.memory_bytes > 0 {
        add(
            each(&|n, p| balanced(&n.status.allocatable, &p.requests, &wants)),
            BALANCE,
        );
    }
    add(images(pod, view, feasible), IMAGES);
    total
}

/// 0..=100 by the largest; `reverse`: less is better (`helper.DefaultNormalizeScore`).
fn normalize(scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or(0);
    scores
        .into_iter()
        .map(|s| match (most, reverse) {
            (0, true) => 100,
            (0, false) => s,
            (_, true) => 100 - 100 * s / most,
            (_, false) => 100 * s / most,
        })
        .collect()
}

/// Taints that the pod would rather not bear.
fn intolerable(pod: &Pod, node: &Node) -> i64 {
    let relevant: Vec<_> = pod
        .spec
        .tolerations
        .iter()
        .filter(|t| t.effect.is_empty() || &*t.effect == "PreferNoSchedule")
        .cloned()
        .collect();
    let bad = |t: &&Taint| &*t.effect == "PreferNoSchedule" && !t.tolerated(&relevant);
    node.spec.taints.iter().filter(bad).count() as i64
}

fn preference(pod: &Pod, node: &Node) -> i64 {
    let affinity = pod.spec.affinity.as_deref();
    affinity
        .and_then(|a| a.node_affinity.as_ref())
        .into_iter()
        .flat_map(|a| &a.preferred)
        .filter(|t| {
            t.preference
                .matches(&node.metadata.name, &node.metadata.labels)
        })
        .map(|t| i64::from(t.weight))
        .sum()
}

fn part_free(room: i64, used: i64) -> i64 {
    if room == 0 || used > room {
        0
    } else {
        ((room - used) as i128 * 100 / room as i128) as i64
    }
}

/// How free it would be.
pub fn least_allocated(room: &Requests, used: &Requests, wants: &Requests) -> i64 {
    let parts: Vec<i64> = [
        (room.cpu_milli, used.cpu_milli + wants.cpu_milli),
        (room.memory_bytes, used.memory_bytes + wants.memory_bytes),
    ]
    .into_iter()
    .filter(|(room, _)| *room > 0)
    .map(|(room, used)| part_free(room, used))
    .collect();
    if parts.is_empty() {
        0
    } else {
        parts.iter().sum::<i64>() / parts.len() as i64
    }
}

fn evenness(room: &Requests, used: (i64, i64)) -> i64 {
    if room.cpu_milli == 0 || room.memory_bytes == 0 {
        return 100;
    }
    let cpu = (used.0 as f64 / room.cpu_milli as f64).min(1.0);
    let memory = (used.1 as f64 / room.memory_bytes as f64).min(1.0);
    ((1.0 - ((cpu - memory) / 2.0).abs()) * 100.0) as i64
}

/// Whether CPU and memory would be used more evenly than before: 50..=100.
pub fn balanced(room: &Requests, used: &Requests, wants: &Requests) -> i64 {
    let before = evenness(room, (used.cpu_milli, used.memory_bytes));
    let with = (
        used.cpu_milli + wants.cpu_milli,
        used.memory_bytes + wants.memory_bytes,
    );
    50 + (50 + evenness(room, with) - before) / 2
}

/// `busybox` is `busybox:latest`.
fn with_tag(image: &str) -> String {
    match image.rfind(':') {
        Some(i) if i > image.rfind('/').unwrap_or(0) => image.into(),
        _ => format!("{image}:latest"),
    }
}

/// How much of the pod's images is there, an image that is everywhere counting more than one that is on a single node.
fn images(pod: &Pod, view: &View, feasible: &[(&Arc<Node>, &Place)]) -> Vec<i64> {
    const MIN_BYTES: i64 = 23 << 20;
    const MAX_BYTES: i64 = 1000 << 20;
    let wanted: Vec<String> = pod
        .spec
        .init_containers
        .iter()
        .chain(&pod.spec.containers)
        .map(|c| with_tag(&c.image))
        .collect();
    let size = |node: &Node, image: &str| {
        let named = |i: &&crate::objects::node::Image| i.names.iter().any(|n| **n == *image);
        node.status.images.iter().find(named).map(|i| i.size_bytes)
    };
    let nodes = view.nodes().count().max(1) as f64;
    let spread: Vec<f64> = wanted
        .iter()
        .map(|image| {
            view.nodes()
                .filter(|(n, _)| size(n, image).is_some())
                .count() as f64
                / nodes
        })
        .collect();
    let max = MAX_BYTES * wanted.len().max(1) as i64;
    feasible
        .iter()
        .map(|(node, _)| {
            let sum: i64 = wanted
                .iter()
                .zip(&spread)
                .filter_map(|(image, spread)| Some((size(node, image)? as f64 * spread) as i64))
                .sum();
            100 * (sum.clamp(MIN_BYTES, max) - MIN_BYTES) / (max - MIN_BYTES)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(cpu_milli: i64, memory_bytes: i64) -> Requests {
        Requests {
            cpu_milli,
            memory_bytes,
            other: vec![],
        }
    }

    #[test]
    fn resources_as_upstream_scores_them() {
        // plugins/noderesources: least_allocated_test.go
        for (name, room, wants, want) in [
            ("nothing asked", r(4000, 10000), r(0, 0), 100),
            ("enough", r(4000, 10000), r(3000, 5000), 37),
            ("enough, larger", r(6000, 10000), r(3000, 5000), 50),
            ("no room", r(0, 0), r(3000, 5000), 0),
            ("more than there is", r(4000, 10000), r(5000, 5000), 25),
        ] {
            assert_eq!(least_allocated(&room, &r(0, 0), &wants), want, "{name}");
        }
        // balanced_allocation_test.go
        for (name, room, used, wants, want) in [
            ("nothing used", r(4000, 10000), r(0, 0), r(3000, 5000), 68),
            (
                "as even as before",
                r(6000, 10000),
                r(0, 0),
                r(3000, 5000),
                75,
            ),
            ("more even", r(10000, 10000), r(3000, 0), r(0, 3000), 82),
        ] {
            assert_eq!(balanced(&room, &used, &wants), want, "{name}");
        }
    }

    #[test]
    fn image_names() {
        for (name, want) in [
            ("busybox", "busybox:latest"),
            ("r:5000/busybox", "r:5000/busybox:latest"),
            ("r:5000/busybox:1", "r:5000/busybox:1"),
            ("b@sha256:12", "b@sha256:12"),
        ] {
            assert_eq!(with_tag(name), want);
        }
    }
}
