//! Who owns which front: Services their addresses and node ports, Pods their ports on the node. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use crate::{
    keeper::HostPorts,
    nft::{
        front::{Barred, Front, Wanted},
        ruleset::Plan,
    },
    services::{
        Burst, fronts,
        view::{Here, Key, View},
    },
};

/// Changes by front: None for those that go.
pub(crate) type Changes = HashMap<Front, Option<Wanted>>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// Before Services: a Pod that asks for a port on the node gets it, as with the portmap plugin.
    Pod(String),
    Service(Key),
}

/// Every front that somebody wants. Two may want the same: the first by [`Owner`]'s order has it, and when it goes, the next.
#[derive(Default)]
pub(crate) struct Fronts {
    claims: HashMap<Front, BTreeMap<Owner, Wanted>>,
    fronts_of: HashMap<Owner, Vec<Front>>,
    here: Here,
}

impl Fronts {
    /// Replaces what an owner wants; `changes` gets every front that this touches.
    fn claim(&mut self, owner: &Owner, wanted: Vec<(Front, Wanted)>, changes: &mut Changes) {
        for front in self.fronts_of.remove(owner).unwrap_or_default() {
            if let Some(claims) = self.claims.get_mut(&front) {
                claims.remove(owner);
                changes.insert(front, claims.values().next().cloned());
                if claims.is_empty() {
                    self.claims.remove(&front);
                }
            }
        }
        for (front, wanted) in wanted {
            let claims = self.claims.entry(front).or_default();
            if claims.insert(owner.clone(), wanted).is_none() {
                let owned = self.fronts_of.entry(owner.clone()).or_default();
                owned.push(front);
            }
            changes.insert(front, claims.values().next().cloned());
        }
    }

    /// A Pod's ports on the node.
    pub(crate) fn host_ports(&mut self, pod: &str, ports: HostPorts) -> Changes {
        let mut by_front = BTreeMap::<Front, Wanted>::new();
        for (front, endpoint) in ports {
            let wanted = by_front.entry(front).or_insert_with(|| Wanted {
                sticky_seconds: 0,
                endpoints: Vec::new(),
                barred: Barred::Refuse,
            });
            wanted.endpoints.push(endpoint);
        }
        let mut changes = Changes::new();
        let wanted = by_front.into_iter().collect();
        self.claim(&Owner::Pod(pod.to_string()), wanted, &mut changes);
        changes
    }

    /// Services that changed; `had` is what the kernel has, of which a whole burst leaves nothing unclaimed.
    pub(crate) fn burst(&mut self, burst: Burst, had: Vec<Front>, plans: &[Plan]) -> Changes {
        let mut changes = Changes::new();
        self.here = burst.here;
        if burst.whole {
            let gone = self.fronts_of.keys().filter(
                |owner| matches!(owner, Owner::Service(key) if !burst.changes.contains_key(key)),
            );
            for owner in gone.cloned().collect::<Vec<_>>() {
                self.claim(&owner, Vec::new(), &mut changes);
            }
        }
        for (key, view) in burst.changes {
            let wanted = match view {
                Some(view) => self.wanted(&view, plans),
                None => Vec::new(),
            };
            self.claim(&Owner::Service(key), wanted, &mut changes);
        }
        for front in had {
            if !self.claims.contains_key(&front) {
                changes.insert(front, None);
            }
        }
        changes
    }

    fn wanted(&self, view: &View, plans: &[Plan]) -> Vec<(Front, Wanted)> {
        plans
            .iter()
            .flat_map(|plan| fronts::of(view, plan.family, &self.here, Some::<IpAddr>(plan.dns_ip)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::front::Scope;
    use std::net::Ipv4Addr;

    fn front(port: u16) -> Front {
        Front {
            ip: Ipv4Addr::UNSPECIFIED.into(),
            protocol: 6,
            port,
            scope: Scope::All,
        }
    }

    fn wanted(last: u8) -> Wanted {
        Wanted {
            sticky_seconds: 0,
            endpoints: vec![(Ipv4Addr::new(10, 0, 0, last).into(), 80)],
            barred: Barred::Refuse,
        }
    }

    #[test]
    fn the_next_in_line_gets_a_front_that_is_given_up() {
        let mut fronts = Fronts::default();
        let owner = |name: &str| Owner::Service(("ns".into(), name.into()));
        let (a, b) = (owner("a"), owner("b"));
        let mut changes = Changes::new();
        fronts.claim(&b, vec![(front(1), wanted(2))], &mut changes);
        fronts.claim(&a, vec![(front(1), wanted(1))], &mut changes);
        assert_eq!(
            changes[&front(1)],
            Some(wanted(1)),
            "one order, whoever came first"
        );
        let ports = vec![(front(1), (Ipv4Addr::new(10, 0, 0, 9).into(), 80))];
        assert_eq!(fronts.host_ports("p", ports)[&front(1)], Some(wanted(9)));
        assert_eq!(fronts.host_ports("p", vec![])[&front(1)], Some(wanted(1)));
        fronts.claim(&a, vec![], &mut changes);
        assert_eq!(changes[&front(1)], Some(wanted(2)));
        fronts.claim(&b, vec![], &mut changes);
        assert_eq!(changes[&front(1)], None);
        assert!(fronts.claims.is_empty() && fronts.fronts_of.is_empty());
    }
}
