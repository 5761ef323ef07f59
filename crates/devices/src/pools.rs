//! The pools that a node can use (`pools_incubating.go`).

use std::collections::{BTreeMap, HashSet};

use crate::{
    model::{CounterSet, Slice},
    node::{Target, reaches},
};

/// What a driver offers under one name.
#[derive(Debug, Default)]
pub(crate) struct Pool<'a> {
    pub driver: &'a str,
    pub name: &'a str,
    /// not all of its slices are there
    pub incomplete: bool,
    /// its slices contradict each other
    pub invalid: bool,
    /// with devices for the node
    pub slices: Vec<Slice<'a>>,
    /// the pool's others, whose devices take of the same counters
    pub others: Vec<Slice<'a>>,
    pub counters: BTreeMap<&'a str, &'a CounterSet>,
}

impl Pool<'_> {
    /// As upstream names it in messages.
    pub fn id(&self) -> String {
        format!("{}/{}", self.driver, self.name)
    }

    fn has_binding_conditions(&self) -> bool {
        let devices = self.slices.iter().flat_map(|s| &s.spec.devices);
        devices
            .into_iter()
            .any(|d| !d.binding_conditions.is_empty())
    }
}

fn is_relevant(slice: &Slice<'_>, node: Target<'_>) -> bool {
    let spec = slice.spec;
    if !spec.shared_counters.is_empty() {
        return true;
    }
    if !spec.node_name.is_empty() || spec.all_nodes || spec.node_selector.is_some() {
        return reaches(
            node,
            &spec.node_name,
            spec.all_nodes,
            spec.node_selector.as_ref(),
        );
    }
    spec.per_device_node_selection
        && spec
            .devices
            .iter()
            .any(|d| reaches(node, &d.node_name, d.all_nodes, d.node_selector.as_ref()))
}

/// Pools with something for the node, in the order in which they are tried.
pub(crate) fn gather<'a>(all: &[Slice<'a>], node: Target<'_>) -> Vec<Pool<'a>> {
    let mut found: BTreeMap<(&str, &str), Vec<Slice<'a>>> = BTreeMap::new();
    for slice in all.iter().filter(|s| is_relevant(s, node)) {
        let pool = &slice.spec.pool;
        let of_pool = found.entry((&slice.spec.driver, &pool.name)).or_default();
        match of_pool.first().map(|s| s.spec.pool.generation) {
            Some(known) if pool.generation < known => continue,
            Some(known) if pool.generation > known => of_pool.clear(),
            _ => {}
        }
        of_pool.push(*slice);
    }
    let mut pools: Vec<Pool<'a>> = found
        .into_iter()
        .filter_map(|(id, slices)| pool(id, slices, all))
        .collect();
    // those whose devices must be made ready first come last
    pools.sort_by_key(Pool::has_binding_conditions);
    pools
}

fn pool<'a>(
    (driver, name): (&'a str, &'a str),
    mut relevant: Vec<Slice<'a>>,
    all: &[Slice<'a>],
) -> Option<Pool<'a>> {
    let first = &relevant.first()?.spec.pool;
    let (generation, count) = (first.generation, first.resource_slice_count);
    let is_whole = |slices: usize| i64::try_from(slices).is_ok_and(|n| n == count);
    let bare = Pool {
        driver,
        name,
        ..Pool::default()
    };
    let mut whole = Vec::new();
    if !is_whole(relevant.len()) {
        // some were left out that aren't for this node
        for slice in all {
            let of = &slice.spec.pool;
            if *slice.spec.driver != *driver || *of.name != *name {
                continue;
            }
            if of.generation > generation {
                // it is being replaced
                return None;
            }
            if of.generation == generation {
                whole.push(*slice);
            }
        }
        if !is_whole(whole.len()) {
            return Some(Pool {
                incomplete: true,
                ..bare
            });
        }
    }
    relevant.sort_by(|a, b| a.name.cmp(b.name));
    let known: HashSet<&str> = relevant.iter().map(|s| s.name).collect();
    let others: Vec<Slice<'a>> = whole
        .into_iter()
        .filter(|s| !known.contains(s.name))
        .collect();
    let invalid = |bare| {
        Some(Pool {
            invalid: true,
            ..bare
        })
    };
    let mut names = HashSet::new();
    let mut counters = BTreeMap::new();
    for slice in &relevant {
        for set in &slice.spec.shared_counters {
            if counters.insert(&*set.name, set).is_some() {
                return invalid(bare);
            }
        }
        let devices = &slice.spec.devices;
        if !devices.iter().all(|d| names.insert(&*d.name)) {
            return invalid(bare);
        }
    }
    let known = |taken: &CounterSet| {
        let set: Option<&&CounterSet> = counters.get(&*taken.counter_set);
        set.is_some_and(|set| taken.counters.keys().all(|c| set.counters.contains_key(c)))
    };
    let devices = relevant.iter().chain(&others).flat_map(|s| &s.spec.devices);
    if !devices
        .into_iter()
        .all(|d| d.consumes_counters.iter().all(known))
    {
        return invalid(bare);
    }
    relevant.retain(|s| s.spec.shared_counters.is_empty());
    Some(Pool {
        slices: relevant,
        others,
        counters,
        ..bare
    })
}
