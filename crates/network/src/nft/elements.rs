//! What the maps hold: fronts (VIP or node port) and the endpoints behind each, by slot.
//!
//! Pure: [`plan`] turns wanted changes into the smallest set of element edits.

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
};

use super::{
    FAMILY,
    expr::verdict_goto,
    netlink::{Messages, Refusal, Socket, attribute, attributes, text},
    ruleset::{ENDPOINTS, HAIRPIN, NODE_PORTS, SERVICES},
    table::{DEL_ELEMENT, GET_ELEMENT, NEW_ELEMENT, Writer},
};

/// A place clients connect to. `ip` 0.0.0.0 means a node port: any local address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Front {
    pub(crate) ip: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

impl Front {
    pub(crate) fn is_node_port(&self) -> bool {
        self.ip.is_unspecified()
    }
}

pub(crate) type Endpoint = (Ipv4Addr, u16);

/// Endpoints by slot, and how one is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Backends {
    pub(crate) affinity: bool,
    pub(crate) slots: Box<[Endpoint]>,
}

/// A chain that spreads over a number of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Chain {
    pub(crate) node_port: bool,
    pub(crate) affinity: bool,
    pub(crate) endpoints: u32,
}

impl Chain {
    pub(crate) fn of(front: &Front, backends: &Backends) -> Chain {
        Chain {
            node_port: front.is_node_port(),
            affinity: backends.affinity,
            endpoints: backends.slots.len() as u32,
        }
    }

    pub(crate) fn name(self) -> String {
        let base = if self.node_port { "np" } else { "lb" };
        format!(
            "{base}{}-{}",
            if self.affinity { "h" } else { "" },
            self.endpoints
        )
    }

    pub(crate) fn parse(name: &str) -> Option<Chain> {
        let (base, endpoints) = name.split_once('-')?;
        let (node_port, affinity) = match base {
            "lb" => (false, false),
            "lbh" => (false, true),
            "np" => (true, false),
            "nph" => (true, true),
            _ => return None,
        };
        Some(Chain {
            node_port,
            affinity,
            endpoints: endpoints.parse().ok()?,
        })
    }
}

/// What the kernel's maps hold.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) fronts: HashMap<Front, Backends>,
    pub(crate) chains: BTreeSet<Chain>,
    /// endpoint address → in how many slots
    hairpin: HashMap<Ipv4Addr, u32>,
}

/// Edits of one transaction, in the order the kernel needs them: chains, deletions, additions.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Edits {
    pub(crate) new_chains: BTreeSet<Chain>,
    pub(crate) remove_fronts: Vec<(Front, Chain)>,
    pub(crate) remove_slots: Vec<(Front, u32, Endpoint)>,
    pub(crate) remove_hairpin: Vec<Ipv4Addr>,
    pub(crate) add_slots: Vec<(Front, u32, Endpoint)>,
    pub(crate) add_hairpin: Vec<Ipv4Addr>,
    pub(crate) add_fronts: Vec<(Front, Chain)>,
}

impl Edits {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Edits::default()
    }

    /// An upper bound of this transaction's bytes on the wire.
    pub(crate) fn bytes_max(&self) -> usize {
        let elements = self.remove_fronts.len()
            + self.remove_slots.len()
            + self.remove_hairpin.len()
            + self.add_slots.len()
            + self.add_hairpin.len()
            + self.add_fronts.len();
        4096 + elements * 80 + self.new_chains.len() * 2048
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
    /// Changes `front` to `wanted` (None or empty: gone), adding the edits to `edits`.
    pub(crate) fn set(
        &mut self,
        front: Front,
        wanted: Option<(bool, &[Endpoint])>,
        edits: &mut Edits,
    ) {
        let old = self.fronts.remove(&front).unwrap_or_default();
        let new = wanted
            .filter(|(_, endpoints)| !endpoints.is_empty())
            .map(|(affinity, endpoints)| Backends {
                affinity,
                slots: assign(&old.slots, endpoints),
            })
            .unwrap_or_default();
        if old != new {
            for slot in 0..old.slots.len().max(new.slots.len()) {
                let (was, is) = (old.slots.get(slot), new.slots.get(slot));
                if was == is {
                    continue;
                }
                if let Some(endpoint) = was {
                    edits.remove_slots.push((front, slot as u32, *endpoint));
                    self.hairpin_less(endpoint.0, edits);
                }
                if let Some(endpoint) = is {
                    edits.add_slots.push((front, slot as u32, *endpoint));
                    self.hairpin_more(endpoint.0, edits);
                }
            }
            let chain = |backends: &Backends| {
                (!backends.slots.is_empty()).then(|| Chain::of(&front, backends))
            };
            let (was, is) = (chain(&old), chain(&new));
            if was != is {
                edits.remove_fronts.extend(was.map(|chain| (front, chain)));
                if let Some(chain) = is {
                    if self.chains.insert(chain) {
                        edits.new_chains.insert(chain);
                    }
                    edits.add_fronts.push((front, chain));
                }
            }
        }
        if !new.slots.is_empty() {
            self.fronts.insert(front, new);
        }
    }

    fn hairpin_more(&mut self, ip: Ipv4Addr, edits: &mut Edits) {
        let count = self.hairpin.entry(ip).or_default();
        *count += 1;
        if *count == 1 {
            match edits.remove_hairpin.iter().position(|gone| *gone == ip) {
                Some(at) => drop(edits.remove_hairpin.swap_remove(at)),
                None => edits.add_hairpin.push(ip),
            }
        }
    }

    fn hairpin_less(&mut self, ip: Ipv4Addr, edits: &mut Edits) {
        let Some(count) = self.hairpin.get_mut(&ip) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.hairpin.remove(&ip);
            match edits.add_hairpin.iter().position(|new| *new == ip) {
                Some(at) => drop(edits.add_hairpin.swap_remove(at)),
                None => edits.remove_hairpin.push(ip),
            }
        }
    }

    /// The edits that fill an empty table with all of this.
    pub(crate) fn all(&self) -> Edits {
        let mut edits = Edits {
            new_chains: self.chains.clone(),
            add_hairpin: self.hairpin.keys().copied().collect(),
            ..Edits::default()
        };
        for (front, backends) in &self.fronts {
            edits.add_fronts.push((*front, Chain::of(front, backends)));
            edits.add_slots.extend(
                backends
                    .slots
                    .iter()
                    .enumerate()
                    .map(|(slot, endpoint)| (*front, slot as u32, *endpoint)),
            );
        }
        edits
    }

    /// Reads the maps of `table`; the flag says whether they fit together.
    pub(crate) fn read(
        socket: &mut Socket,
        table: &str,
        chains: BTreeSet<Chain>,
    ) -> Result<(Contents, bool), Refusal> {
        let mut sound = true;
        let mut wanted = HashMap::<Front, Chain>::new();
        for set in [SERVICES, NODE_PORTS] {
            read_set(socket, table, set, |key, data| {
                let front = front_of(key, set == NODE_PORTS);
                let chain = attribute(data, 2)
                    .and_then(|verdict| attribute(verdict, 2))
                    .and_then(|name| Chain::parse(text(name)));
                match (front, chain) {
                    (Some(front), Some(chain)) => drop(wanted.insert(front, chain)),
                    _ => sound = false,
                }
            })?;
        }
        let mut slots = HashMap::<Front, HashMap<u32, Endpoint>>::new();
        read_set(socket, table, ENDPOINTS, |key, data| {
            let endpoint =
                attribute(data, 1).and_then(|value| Some((ip_at(value, 0)?, port_at(value, 4)?)));
            let slot = key
                .get(12..16)
                .map(|bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
            match (front_of(key, false), slot, endpoint) {
                (Some(front), Some(slot), Some(endpoint)) => {
                    slots.entry(front).or_default().insert(slot, endpoint);
                }
                _ => sound = false,
            }
        })?;
        let mut members = BTreeSet::new();
        read_set(socket, table, HAIRPIN, |key, _| {
            members.extend(ip_at(key, 0))
        })?;

        let mut contents = Contents {
            chains,
            ..Contents::default()
        };
        for (front, chain) in wanted {
            let found = slots.remove(&front).unwrap_or_default();
            let ordered = (0..found.len() as u32)
                .map_while(|slot| found.get(&slot).copied())
                .collect::<Box<[_]>>();
            sound &= ordered.len() == found.len()
                && ordered.len() as u32 == chain.endpoints
                && !ordered.is_empty();
            if ordered.is_empty() {
                continue;
            }
            for (ip, _) in &ordered {
                *contents.hairpin.entry(*ip).or_default() += 1;
            }
            contents.fronts.insert(
                front,
                Backends {
                    affinity: chain.affinity,
                    slots: ordered,
                },
            );
        }
        sound &= slots.is_empty()
            && contents.hairpin.len() == members.len()
            && contents.hairpin.keys().all(|ip| members.contains(ip));
        Ok((contents, sound))
    }

    /// Chains that the fronts need.
    pub(crate) fn needed_chains(&self) -> BTreeSet<Chain> {
        self.fronts
            .iter()
            .map(|(front, backends)| Chain::of(front, backends))
            .collect()
    }
}

fn ip_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes.get(at..at + 4)?)
        .ok()
        .map(Ipv4Addr::from)
}

fn port_at(bytes: &[u8], at: usize) -> Option<u16> {
    <[u8; 2]>::try_from(bytes.get(at..at + 2)?)
        .ok()
        .map(u16::from_be_bytes)
}

fn front_of(key: &[u8], node_port: bool) -> Option<Front> {
    let (ip, rest) = if node_port {
        (Ipv4Addr::UNSPECIFIED, key)
    } else {
        (ip_at(key, 0)?, key.get(4..)?)
    };
    Some(Front {
        ip,
        protocol: *rest.first()?,
        port: port_at(rest, 4)?,
    })
}

fn read_set(
    socket: &mut Socket,
    table: &str,
    set: &str,
    mut each: impl FnMut(&[u8], &[u8]),
) -> Result<(), Refusal> {
    let request = |m: &mut Messages| {
        m.string(1, table);
        m.string(2, set);
    };
    socket.dump(GET_ELEMENT, FAMILY, request, |_, body| {
        for (_, element) in attribute(body, 3).into_iter().flat_map(attributes) {
            let key = attribute(element, 1)
                .and_then(|key| attribute(key, 1))
                .unwrap_or_default();
            each(key, attribute(element, 2).unwrap_or_default());
        }
    })
}

fn key(front: &Front, slot: Option<u32>) -> Vec<u8> {
    let mut key = Vec::with_capacity(16);
    // A node port's front has no address in its verdict map, and 0.0.0.0 in the endpoint map.
    if slot.is_some() || !front.is_node_port() {
        key.extend_from_slice(&front.ip.octets());
    }
    key.extend_from_slice(&[front.protocol, 0, 0, 0]);
    key.extend_from_slice(&front.port.to_be_bytes());
    key.extend_from_slice(&[0, 0]);
    key.extend(slot.into_iter().flat_map(u32::to_ne_bytes));
    key
}

enum Data {
    None,
    Goto(String),
    Value([u8; 8]),
}

/// A message holds its elements in one attribute of at most 64 KiB: stay well below.
const MESSAGE_BYTES_MAX: usize = 48 << 10;

fn write_set(
    w: &mut Writer<'_>,
    kind: u16,
    set: &str,
    elements: impl Iterator<Item = (Vec<u8>, Data)>,
) {
    let table = w.table;
    let mut elements = elements.peekable();
    let flags = if kind == NEW_ELEMENT {
        super::netlink::NLM_CREATE | super::netlink::NLM_EXCL
    } else {
        0
    };
    while elements.peek().is_some() {
        w.batch.message(kind, flags, FAMILY, 0, |m| {
            m.string(1, table);
            m.string(2, set);
            m.nest(3, |m| {
                while m.filled() < MESSAGE_BYTES_MAX {
                    let Some((key, data)) = elements.next() else {
                        break;
                    };
                    m.nest(1, |m| {
                        m.nest(1, |m| m.attr(1, &key));
                        match data {
                            Data::None => {}
                            Data::Goto(chain) => m.nest(2, |m| verdict_goto(m, &chain)),
                            Data::Value(value) => m.nest(2, |m| m.attr(1, &value)),
                        }
                    });
                }
            });
        });
    }
}

/// Writes `edits` into a batch.
pub(crate) fn write(w: &mut Writer<'_>, edits: &Edits) {
    for chain in &edits.new_chains {
        super::ruleset::write_chain(w, *chain);
    }
    let fronts = |list: &[(Front, Chain)], node_port: bool| {
        list.iter()
            .filter(|(front, _)| front.is_node_port() == node_port)
            .map(|(front, chain)| (key(front, None), Data::Goto(chain.name())))
            .collect::<Vec<_>>()
            .into_iter()
    };
    let slots = |list: &[(Front, u32, Endpoint)]| {
        list.iter()
            .map(|(front, slot, (ip, port))| {
                let mut value = [0; 8];
                value[..4].copy_from_slice(&ip.octets());
                value[4..6].copy_from_slice(&port.to_be_bytes());
                (key(front, Some(*slot)), Data::Value(value))
            })
            .collect::<Vec<_>>()
            .into_iter()
    };
    let hairpins = |list: &[Ipv4Addr]| {
        list.iter()
            .map(|ip| ([ip.octets(), ip.octets()].concat(), Data::None))
            .collect::<Vec<_>>()
            .into_iter()
    };
    let bare = |(key, _): (Vec<u8>, Data)| (key, Data::None);
    write_set(
        w,
        DEL_ELEMENT,
        SERVICES,
        fronts(&edits.remove_fronts, false).map(bare),
    );
    write_set(
        w,
        DEL_ELEMENT,
        NODE_PORTS,
        fronts(&edits.remove_fronts, true).map(bare),
    );
    write_set(
        w,
        DEL_ELEMENT,
        ENDPOINTS,
        slots(&edits.remove_slots).map(bare),
    );
    write_set(w, DEL_ELEMENT, HAIRPIN, hairpins(&edits.remove_hairpin));
    write_set(w, NEW_ELEMENT, ENDPOINTS, slots(&edits.add_slots));
    write_set(w, NEW_ELEMENT, HAIRPIN, hairpins(&edits.add_hairpin));
    write_set(w, NEW_ELEMENT, SERVICES, fronts(&edits.add_fronts, false));
    write_set(w, NEW_ELEMENT, NODE_PORTS, fronts(&edits.add_fronts, true));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(names: &str) -> Vec<Endpoint> {
        names
            .bytes()
            .map(|name| (Ipv4Addr::new(10, 0, 0, name), 80))
            .collect()
    }

    fn check_assign(old: &str, wanted: &str, expected: &str) {
        let got = assign(&endpoints(old), &endpoints(wanted));
        assert_eq!(*got, *endpoints(expected), "{old} → {wanted}");
    }

    #[test]
    fn slots_move_as_little_as_possible() {
        check_assign("", "ab", "ab");
        check_assign("ab", "ba", "ab");
        check_assign("abc", "ab", "ab");
        check_assign("abc", "bc", "cb");
        check_assign("abc", "abd", "abd");
        check_assign("abc", "adef", "adef");
        check_assign("abcd", "d", "d");
        check_assign("abcd", "bc", "cb");
        check_assign("ab", "", "");
        check_assign("ab", "aabb", "ab");
    }

    const FRONT: Front = Front {
        ip: Ipv4Addr::new(10, 96, 0, 1),
        protocol: 6,
        port: 80,
    };

    #[test]
    fn an_unchanged_front_makes_no_edit() {
        let mut contents = Contents::default();
        let mut edits = Edits::default();
        contents.set(FRONT, Some((false, &endpoints("abc"))), &mut edits);
        assert_eq!(
            (
                edits.add_slots.len(),
                edits.add_fronts.len(),
                edits.new_chains.len(),
                edits.add_hairpin.len()
            ),
            (3, 1, 1, 3)
        );
        let mut again = Edits::default();
        contents.set(FRONT, Some((false, &endpoints("cba"))), &mut again);
        assert!(again.is_empty(), "{again:?}");
    }

    #[test]
    fn a_replaced_endpoint_edits_one_slot_and_no_front() {
        let mut contents = Contents::default();
        contents.set(
            FRONT,
            Some((false, &endpoints("abc"))),
            &mut Edits::default(),
        );
        let mut edits = Edits::default();
        contents.set(FRONT, Some((false, &endpoints("abd"))), &mut edits);
        assert_eq!((edits.remove_slots.len(), edits.add_slots.len()), (1, 1));
        assert!(
            edits.add_fronts.is_empty()
                && edits.remove_fronts.is_empty()
                && edits.new_chains.is_empty()
        );
    }

    #[test]
    fn no_endpoints_and_no_front_are_the_same() {
        for gone in [None, Some((false, &[][..]))] {
            let mut contents = Contents::default();
            contents.set(FRONT, Some((true, &endpoints("a"))), &mut Edits::default());
            let mut edits = Edits::default();
            contents.set(FRONT, gone, &mut edits);
            assert_eq!(
                (
                    edits.remove_fronts.len(),
                    edits.remove_slots.len(),
                    edits.remove_hairpin.len()
                ),
                (1, 1, 1)
            );
            assert!(contents.fronts.is_empty());
        }
    }

    #[test]
    fn an_endpoint_that_moves_between_fronts_keeps_its_hairpin() {
        let mut contents = Contents::default();
        let other = Front { port: 81, ..FRONT };
        contents.set(FRONT, Some((false, &endpoints("a"))), &mut Edits::default());
        let mut edits = Edits::default();
        contents.set(FRONT, None, &mut edits);
        contents.set(other, Some((false, &endpoints("a"))), &mut edits);
        assert!(
            edits.remove_hairpin.is_empty() && edits.add_hairpin.is_empty(),
            "{edits:?}"
        );
    }

    #[test]
    fn chain_names_round_trip() {
        for node_port in [false, true] {
            for affinity in [false, true] {
                let chain = Chain {
                    node_port,
                    affinity,
                    endpoints: 12,
                };
                assert_eq!(Chain::parse(&chain.name()), Some(chain));
            }
        }
        for foreign in ["lb", "lb-", "lb-x", "forward", "lbx-3"] {
            assert_eq!(Chain::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn swapped_holes_close_for_every_subset() {
        // Every old subset of six to every wanted subset: no endpoint lost, none invented.
        let all = endpoints("abcdef");
        let subset = |bits: u32| {
            (0..6)
                .filter(|bit| bits & 1 << bit != 0)
                .map(|bit| all[bit as usize])
                .collect::<Vec<_>>()
        };
        for old in 0..64 {
            for wanted in 0..64 {
                let mut got = assign(&subset(old), &subset(wanted)).to_vec();
                got.sort_unstable();
                assert_eq!(got, subset(wanted), "{old:b} → {wanted:b}");
            }
        }
    }
}
