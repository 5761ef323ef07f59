//! From endpoints wanted to the fewest writes on slices: pure.

use std::{collections::BTreeMap, sync::Arc};

use super::addresses::Groups;
use crate::objects::{
    meta::Labels,
    service::{Endpoint, EndpointPort, EndpointSlice},
};

/// Endpoints per slice at most.
pub const SLICE_MAX: usize = 100;

/// Content of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// ports of all its endpoints
    pub ports: Vec<EndpointPort>,
    /// endpoints
    pub endpoints: Vec<Endpoint>,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// slices to make
    pub create: Vec<Content>,
    /// slices to change
    pub update: Vec<(Arc<EndpointSlice>, Content)>,
    /// slices to delete
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// Brings `existing` slices (of one family) to `wanted`. An endpoint stays in its slice; there is always at least one slice, if empty.
pub fn plan(mut wanted: Groups, existing: &[Arc<EndpointSlice>], labels: &Labels) -> Plan {
    if wanted.is_empty() {
        wanted.insert(vec![], vec![]);
    }
    let mut result = Plan::default();
    let mut by_ports: BTreeMap<Vec<EndpointPort>, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing.iter().filter(|s| !s.metadata.deleting()) {
        let mut ports = slice.ports.clone();
        ports.sort();
        by_ports.entry(ports).or_default().push(slice.clone());
    }
    let mut free: Vec<Arc<EndpointSlice>> = vec![];
    let mut create: Vec<Content> = vec![];
    for (ports, endpoints) in wanted {
        let slices = by_ports.remove(&ports).unwrap_or_default();
        let mut left: BTreeMap<_, _> = endpoints
            .into_iter()
            .map(|e| ((e.addresses.clone(), e.target_ref.clone()), e))
            .collect();
        // what stays where it is
        let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = slices
            .into_iter()
            .map(|s| {
                let stay = s
                    .endpoints
                    .iter()
                    .filter_map(|e| left.remove(&(e.addresses.clone(), e.target_ref.clone())))
                    .take(SLICE_MAX)
                    .collect();
                (s, stay)
            })
            .collect();
        let mut left: Vec<Endpoint> = left.into_values().collect();
        // slices that are written anyway take first, the fullest of them first
        kept.sort_by_key(|(s, stay)| (*stay == s.endpoints, std::cmp::Reverse(stay.len())));
        for (_, stay) in &mut kept {
            let n = left.len().min(SLICE_MAX - stay.len());
            stay.extend(left.drain(..n));
        }
        let mut one_stays = kept.iter().any(|(_, stay)| !stay.is_empty());
        for (slice, stay) in kept {
            if stay.is_empty() && (one_stays || !ports.is_empty()) {
                free.push(slice);
                continue;
            }
            one_stays = true;
            let content = Content {
                ports: ports.clone(),
                endpoints: stay,
            };
            if content.endpoints != slice.endpoints || slice.metadata.labels != *labels {
                result.update.push((slice, content));
            }
        }
        while !left.is_empty() || !one_stays {
            one_stays = true;
            let n = left.len().min(SLICE_MAX);
            create.push(Content {
                ports: ports.clone(),
                endpoints: left.drain(..n).collect(),
            });
        }
    }
    free.extend(by_ports.into_values().flatten());
    // a slice that nothing needs becomes one that's missing: one write, not two
    for content in create {
        match free.pop() {
            Some(slice) => result.update.push((slice, content)),
            None => result.create.push(content),
        }
    }
    result.delete = free;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(n: usize) -> Endpoint {
        Endpoint {
            addresses: vec![format!("10.0.{}.{}", n / 250, n % 250).into()],
            ..Default::default()
        }
    }
    fn port(n: i32) -> Vec<EndpointPort> {
        vec![EndpointPort {
            port: n,
            ..Default::default()
        }]
    }
    fn slice(name: &str, p: i32, endpoints: impl IntoIterator<Item = usize>) -> Arc<EndpointSlice> {
        let mut s = EndpointSlice::default();
        s.metadata.name = name.into();
        if p > 0 {
            s.ports = port(p);
        }
        s.endpoints = endpoints.into_iter().map(endpoint).collect();
        Arc::new(s)
    }
    fn groups(all: &[(i32, std::ops::Range<usize>)]) -> Groups {
        all.iter()
            .map(|(p, r)| (port(*p), r.clone().map(endpoint).collect()))
            .collect()
    }
    /// `+n` created with n endpoints, `name=n` updated to n, `-name` deleted.
    fn show(p: Plan) -> String {
        let mut all: Vec<String> = vec![];
        all.extend(p.create.iter().map(|c| format!("+{}", c.endpoints.len())));
        all.extend(
            p.update
                .iter()
                .map(|(s, c)| format!("{}={}", s.metadata.name, c.endpoints.len())),
        );
        all.extend(p.delete.iter().map(|s| format!("-{}", s.metadata.name)));
        all.sort();
        all.join(" ")
    }

    #[test]
    fn fewest_writes() {
        for (name, wanted, existing, want) in [
            ("none", groups(&[]), vec![], "+0"),
            ("empty one stays", groups(&[]), vec![slice("a", 0, [])], ""),
            ("first", groups(&[(80, 0..3)]), vec![], "+3"),
            (
                "placeholder is used",
                groups(&[(80, 0..3)]),
                vec![slice("a", 0, [])],
                "a=3",
            ),
            (
                "as it is",
                groups(&[(80, 0..3)]),
                vec![slice("a", 80, 0..3)],
                "",
            ),
            (
                "one more",
                groups(&[(80, 0..4)]),
                vec![slice("a", 80, 0..3)],
                "a=4",
            ),
            (
                "one less",
                groups(&[(80, 0..2)]),
                vec![slice("a", 80, 0..3)],
                "a=2",
            ),
            ("all gone", groups(&[]), vec![slice("a", 80, 0..3)], "a=0"),
            ("overflow", groups(&[(80, 0..250)]), vec![], "+100 +100 +50"),
            (
                "fills up",
                groups(&[(80, 0..120)]),
                vec![slice("a", 80, 0..100)],
                "+20",
            ),
            (
                "only the changed one",
                groups(&[(80, 1..121)]),
                vec![slice("a", 80, 0..100), slice("b", 80, 100..120)],
                "a=100",
            ),
            (
                "two port sets",
                groups(&[(80, 0..2), (81, 2..3)]),
                vec![slice("a", 80, 0..3)],
                "+1 a=2",
            ),
            (
                "port changed",
                groups(&[(81, 0..3)]),
                vec![slice("a", 80, 0..3)],
                "a=3",
            ),
            (
                "too many",
                groups(&[(80, 0..3)]),
                vec![
                    slice("a", 80, 0..3),
                    slice("b", 80, 0..1),
                    slice("c", 0, []),
                ],
                "-b -c",
            ),
        ] {
            assert_eq!(
                show(plan(wanted, &existing, &Labels::default())),
                want,
                "{name}"
            );
        }
    }

    #[test]
    fn labels_are_kept_up() {
        let labels: Labels = [("a", "b")].into_iter().collect();
        let p = plan(groups(&[(80, 0..1)]), &[slice("a", 80, 0..1)], &labels);
        assert_eq!(show(p), "a=1");
    }
}
