//! What the maps of one family's table hold, and the smallest edits from there to what is wanted. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    net::IpAddr,
};

use super::{
    family::within,
    front::{Backends, Chain, Endpoint, Front, Target, Wanted},
};

/// An endpoint with its protocol.
pub(crate) type Place = (IpAddr, u8, u16);
/// An endpoint that a front's clients may keep: the front without its scope.
pub(crate) type Kept = (IpAddr, u8, u16, Endpoint);

/// Elements of a set that several slots may ask for.
#[derive(Debug)]
pub(crate) struct Counted<K>(HashMap<K, u32>);

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Counted(HashMap::new())
    }
}

/// Additions to a set, and removals from it.
#[derive(Debug, PartialEq)]
pub(crate) struct Delta<K> {
    pub(crate) add: BTreeSet<K>,
    pub(crate) remove: BTreeSet<K>,
}

impl<K> Default for Delta<K> {
    fn default() -> Self {
        Delta {
            add: BTreeSet::new(),
            remove: BTreeSet::new(),
        }
    }
}

impl<K> Delta<K> {
    fn len(&self) -> usize {
        self.add.len() + self.remove.len()
    }
}

impl<K: Hash + Ord + Copy> Counted<K> {
    fn more(&mut self, key: K, delta: &mut Delta<K>) {
        let count = self.0.entry(key).or_default();
        *count += 1;
        if *count == 1 && !delta.remove.remove(&key) {
            delta.add.insert(key);
        }
    }

    fn less(&mut self, key: K, delta: &mut Delta<K>) {
        let Some(count) = self.0.get_mut(&key) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.0.remove(&key);
            if !delta.add.remove(&key) {
                delta.remove.insert(key);
            }
        }
    }

    pub(crate) fn keys(&self) -> BTreeSet<K> {
        self.0.keys().copied().collect()
    }
}

/// What the kernel's maps hold.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The node's Pods' addresses.
    pods: (IpAddr, u8),
    pub(crate) fronts: HashMap<Front, Backends>,
    pub(crate) chains: BTreeSet<Chain>,
    /// Pods of this node that may reach themselves through a front.
    pub(crate) hairpin: Counted<IpAddr>,
    /// Endpoints that aren't Pods of this node.
    pub(crate) away: Counted<Place>,
    /// Endpoints that clients may keep.
    pub(crate) kept: Counted<Kept>,
}

/// Edits of one transaction, in the order the kernel needs them: chains, deletions, additions.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Edits {
    pub(crate) new_chains: BTreeSet<Chain>,
    pub(crate) remove_fronts: Vec<(Front, Target)>,
    pub(crate) remove_slots: Vec<(Front, u32, Endpoint)>,
    pub(crate) add_slots: Vec<(Front, u32, Endpoint)>,
    pub(crate) add_fronts: Vec<(Front, Target)>,
    pub(crate) hairpin: Delta<IpAddr>,
    pub(crate) away: Delta<Place>,
    pub(crate) kept: Delta<Kept>,
}

impl Edits {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Edits::default()
    }

    /// An upper bound of this transaction's bytes on the wire.
    pub(crate) fn bytes_max(&self) -> usize {
        let elements = self.remove_fronts.len()
            + self.remove_slots.len()
            + self.add_slots.len()
            + self.add_fronts.len()
            + self.hairpin.len()
            + self.away.len()
            + self.kept.len();
        8192 + elements * 112 + self.new_chains.len() * 4096
    }
}

/// Puts `wanted` into slots so that as few slots as possible change from `old`.
pub(crate) fn assign(old: &[Endpoint], wanted: &[Endpoint]) -> Box<[Endpoint]> {
    let wanted = wanted.iter().copied().collect::<BTreeSet<_>>();
    let mut fresh = wanted
        .iter()
        .copied()
        .filter(|endpoint| !old.contains(endpoint))
        .collect::<Vec<_>>()
        .into_iter();
    let mut slots = Vec::with_capacity(wanted.len());
    let mut holes = Vec::new();
    for endpoint in old {
        if wanted.contains(endpoint) {
            slots.push(*endpoint);
        } else if let Some(new) = fresh.next() {
            slots.push(new);
        } else {
            holes.push(slots.len());
            slots.push(*endpoint);
        }
    }
    slots.extend(fresh);
    // Close the holes from the back: the last endpoint moves into the first hole.
    for hole in holes.into_iter().rev() {
        slots.swap_remove(hole);
    }
    slots.into_boxed_slice()
}

impl Contents {
    pub(crate) fn new(pods: (IpAddr, u8)) -> Contents {
        Contents {
            pods,
            fronts: HashMap::new(),
            chains: BTreeSet::new(),
            hairpin: Counted::default(),
            away: Counted::default(),
            kept: Counted::default(),
        }
    }

    /// Changes `front` to `wanted` (None: gone), adding the edits to `edits`.
    pub(crate) fn set(&mut self, front: Front, wanted: Option<&Wanted>, edits: &mut Edits) {
        let old = self.fronts.remove(&front);
        let new = wanted.map(|wanted| Backends {
            sticky_seconds: wanted.sticky_seconds,
            slots: assign(
                old.as_ref().map_or(&[], |old| &old.slots),
                &wanted.endpoints,
            ),
            barred: wanted.barred,
        });
        if old != new {
            let target = |backends: &Option<Backends>| {
                backends
                    .as_ref()
                    .map(|backends| Target::of(&front, backends))
            };
            let (was, is) = (target(&old), target(&new));
            // Counted up before down: what stays is then no edit.
            if let Some(new) = &new {
                self.count(front, new, true, edits);
            }
            if let Some(old) = &old {
                self.count(front, old, false, edits);
            }
            let slots = |backends: &Option<Backends>| backends.clone().unwrap_or_default().slots;
            let (before, after) = (slots(&old), slots(&new));
            for slot in 0..before.len().max(after.len()) {
                let (was, is) = (before.get(slot), after.get(slot));
                if was != is {
                    let edit = |endpoint: &Endpoint| (front, slot as u32, *endpoint);
                    edits.remove_slots.extend(was.map(edit));
                    edits.add_slots.extend(is.map(edit));
                }
            }
            if was != is {
                edits
                    .remove_fronts
                    .extend(was.map(|target| (front, target)));
                if let Some(Target::Spread(chain)) = is
                    && self.chains.insert(chain)
                {
                    edits.new_chains.insert(chain);
                }
                edits.add_fronts.extend(is.map(|target| (front, target)));
            }
        }
        if let Some(new) = new {
            self.fronts.insert(front, new);
        }
    }

    /// Adds, or takes away, what the slots of a front ask of the other sets.
    fn count(&mut self, front: Front, backends: &Backends, more: bool, edits: &mut Edits) {
        fn step<K: Hash + Ord + Copy>(
            counted: &mut Counted<K>,
            key: K,
            more: bool,
            delta: &mut Delta<K>,
        ) {
            match more {
                true => counted.more(key, delta),
                false => counted.less(key, delta),
            }
        }
        for endpoint in &backends.slots {
            let (ip, port) = *endpoint;
            if within(self.pods, ip) {
                step(&mut self.hairpin, ip, more, &mut edits.hairpin);
            } else {
                let place = (ip, front.protocol, port);
                step(&mut self.away, place, more, &mut edits.away);
            }
            if backends.sticky_seconds != 0 {
                let kept = (front.ip, front.protocol, front.port, *endpoint);
                step(&mut self.kept, kept, more, &mut edits.kept);
            }
        }
    }

    /// Takes over a front that the kernel has.
    pub(crate) fn adopt(&mut self, front: Front, backends: Backends) {
        self.count(front, &backends, true, &mut Edits::default());
        self.fronts.insert(front, backends);
    }

    /// The edits that fill an empty table with all of this.
    pub(crate) fn all(&self) -> Edits {
        let mut edits = Edits {
            new_chains: self.chains.clone(),
            ..Edits::default()
        };
        edits.hairpin.add = self.hairpin.keys();
        edits.away.add = self.away.keys();
        edits.kept.add = self.kept.keys();
        for (front, backends) in &self.fronts {
            edits.add_fronts.push((*front, Target::of(front, backends)));
            let slots = backends.slots.iter().enumerate();
            edits
                .add_slots
                .extend(slots.map(|(slot, endpoint)| (*front, slot as u32, *endpoint)));
        }
        edits
    }

    /// Chains that the fronts need.
    pub(crate) fn needed_chains(&self) -> BTreeSet<Chain> {
        self.fronts
            .iter()
            .filter_map(|(front, backends)| match Target::of(front, backends) {
                Target::Spread(chain) => Some(chain),
                Target::Barred(_) => None,
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "contents_tests.rs"]
mod tests;
