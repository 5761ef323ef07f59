//! The bytes of the maps' elements: written as edits, and read back.

use std::collections::{BTreeSet, HashMap};

use super::{
    contents::{Contents, Edits, Kept, Place},
    expr::verdict_goto,
    family::{Family, octets},
    front::{Backends, Barred, Chain, Endpoint, Front, Scope, Target},
    netlink::{Messages, Refusal, Socket, attribute, attributes, text},
    ruleset::{
        AWAY, BARRED, BARRED_PORTS, ENDPOINTS, HAIRPIN, KEPT, NODE_PORTS, OUTSIDE_PORTS,
        OUTSIDE_SERVICES, OUTSIDE_SLOTS, SERVICES,
    },
    table::{DEL_ELEMENT, GET_ELEMENT, NEW_ELEMENT, Writer},
};

/// Every map from fronts to chains.
const FRONTS: [&str; 6] = [
    SERVICES,
    NODE_PORTS,
    OUTSIDE_SERVICES,
    OUTSIDE_PORTS,
    BARRED,
    BARRED_PORTS,
];

/// The map that a front's verdict is in.
fn map_of(front: &Front, target: Target) -> &'static str {
    match (front.scope, target, front.is_node_port()) {
        (Scope::Outside, _, false) => OUTSIDE_SERVICES,
        (Scope::Outside, _, true) => OUTSIDE_PORTS,
        (_, Target::Spread(_), false) => SERVICES,
        (_, Target::Spread(_), true) => NODE_PORTS,
        (_, Target::Barred(_), false) => BARRED,
        (_, Target::Barred(_), true) => BARRED_PORTS,
    }
}

fn is_ports(map: &str) -> bool {
    [NODE_PORTS, OUTSIDE_PORTS, BARRED_PORTS].contains(&map)
}

fn scope_of(map: &str) -> Scope {
    match [OUTSIDE_SERVICES, OUTSIDE_PORTS].contains(&map) {
        true => Scope::Outside,
        false => Scope::All,
    }
}

/// Reads the maps of `table`; the flag says whether they fit together.
pub(crate) fn read(
    socket: &mut Socket,
    family: Family,
    table: &str,
    mut contents: Contents,
    chains: BTreeSet<Chain>,
) -> Result<(Contents, bool), Refusal> {
    let mut sound = true;
    let mut targets = HashMap::<Front, Target>::new();
    for map in FRONTS {
        read_set(socket, family, table, map, |key, data| {
            let front = front_of(family, key, is_ports(map), scope_of(map));
            let target = attribute(data, 2)
                .and_then(|verdict| attribute(verdict, 2))
                .and_then(|name| Target::parse(text(name)));
            match (front, target) {
                (Some(front), Some(target)) => drop(targets.insert(front, target)),
                _ => sound = false,
            }
        })?;
    }
    let words = family.bytes() as usize;
    let mut slots = HashMap::<Front, HashMap<u32, Endpoint>>::new();
    read_set(socket, family, table, ENDPOINTS, |key, data| {
        let value = attribute(data, 1).unwrap_or_default();
        let endpoint = family
            .read(value)
            .and_then(|ip| Some((ip, port_at(value, words)?)));
        let slot = key
            .get(words + 8..words + 12)
            .map(|bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let (scope, slot) = match slot {
            Some(slot) if slot >= OUTSIDE_SLOTS => (Scope::Outside, Some(slot - OUTSIDE_SLOTS)),
            slot => (Scope::All, slot),
        };
        match (front_of(family, key, false, scope), slot, endpoint) {
            (Some(front), Some(slot), Some(endpoint)) => {
                slots.entry(front).or_default().insert(slot, endpoint);
            }
            _ => sound = false,
        }
    })?;
    let (mut hairpin, mut away, mut kept) = <(BTreeSet<_>, BTreeSet<_>, BTreeSet<_>)>::default();
    read_set(socket, family, table, HAIRPIN, |key, _| {
        hairpin.extend(family.read(key))
    })?;
    let place = |key: &[u8]| -> Option<Place> {
        let front = front_of(family, key, false, Scope::All)?;
        Some((front.ip, front.protocol, front.port))
    };
    read_set(socket, family, table, AWAY, |key, _| {
        away.extend(place(key))
    })?;
    read_set(socket, family, table, KEPT, |key, _| {
        let (front, endpoint) = (place(key), key.get(words + 8..));
        if let (Some((ip, protocol, port)), Some(endpoint)) = (front, endpoint)
            && let (Some(to), Some(number)) = (family.read(endpoint), port_at(endpoint, words))
        {
            kept.insert((ip, protocol, port, (to, number)));
        }
    })?;

    contents.chains = chains;
    for (front, target) in targets {
        let found = slots.remove(&front).unwrap_or_default();
        let ordered = (0..found.len() as u32)
            .map_while(|slot| found.get(&slot).copied())
            .collect::<Box<[_]>>();
        let (sticky_seconds, endpoints, barred) = match target {
            Target::Spread(chain) => (chain.sticky_seconds, chain.endpoints, Barred::Refuse),
            Target::Barred(barred) => (0, 0, barred),
        };
        sound &= ordered.len() == found.len() && ordered.len() as u32 == endpoints;
        contents.adopt(
            front,
            Backends {
                sticky_seconds,
                slots: ordered,
                barred,
            },
        );
    }
    sound &= slots.is_empty()
        && contents.hairpin.keys() == hairpin
        && contents.away.keys() == away
        && contents.kept.keys() == kept;
    Ok((contents, sound))
}

fn port_at(bytes: &[u8], at: usize) -> Option<u16> {
    <[u8; 2]>::try_from(bytes.get(at..at + 2)?)
        .ok()
        .map(u16::from_be_bytes)
}

fn front_of(family: Family, key: &[u8], node_port: bool, scope: Scope) -> Option<Front> {
    let (ip, rest) = if node_port {
        (family.unspecified(), key)
    } else {
        (family.read(key)?, key.get(family.bytes() as usize..)?)
    };
    Some(Front {
        ip,
        protocol: *rest.first()?,
        port: port_at(rest, 4)?,
        scope,
    })
}

fn read_set(
    socket: &mut Socket,
    family: Family,
    table: &str,
    set: &str,
    mut each: impl FnMut(&[u8], &[u8]),
) -> Result<(), Refusal> {
    let request = |m: &mut Messages| {
        m.string(1, table);
        m.string(2, set);
    };
    socket.dump(GET_ELEMENT, family.number(), request, |_, body| {
        for (_, element) in attribute(body, 3).into_iter().flat_map(attributes) {
            let key = attribute(element, 1)
                .and_then(|key| attribute(key, 1))
                .unwrap_or_default();
            each(key, attribute(element, 2).unwrap_or_default());
        }
    })
}

/// Protocol and port as they are in a key: a register each.
pub(crate) fn protocol_port(protocol: u8, port: u16) -> [u8; 8] {
    let [high, low] = port.to_be_bytes();
    [protocol, 0, 0, 0, high, low, 0, 0]
}

fn front_key(front: &Front) -> Vec<u8> {
    let mut key = match front.is_node_port() {
        true => Vec::new(),
        false => octets(front.ip),
    };
    key.extend(protocol_port(front.protocol, front.port));
    key
}

fn place_key(&(ip, protocol, port): &Place) -> Vec<u8> {
    [&octets(ip)[..], &protocol_port(protocol, port)].concat()
}

fn endpoint_value((ip, port): Endpoint) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    [&octets(ip)[..], &[high, low, 0, 0]].concat()
}

fn slot_key(front: &Front, slot: u32) -> Vec<u8> {
    let slot = match front.scope {
        Scope::All => slot,
        Scope::Outside => slot + OUTSIDE_SLOTS,
    };
    let mut key = place_key(&(front.ip, front.protocol, front.port));
    key.extend(slot.to_ne_bytes());
    key
}

fn kept_key(&(ip, protocol, port, endpoint): &Kept) -> Vec<u8> {
    let mut key = place_key(&(ip, protocol, port));
    key.extend(endpoint_value(endpoint));
    key
}

pub(crate) enum Data {
    None,
    Goto(String),
    Value(Vec<u8>),
}

/// A message holds its elements in one attribute of at most 64 KiB: stay well below.
const MESSAGE_BYTES_MAX: usize = 48 << 10;

/// Adds or (`kind`) deletes elements.
pub(crate) fn write_set(
    w: &mut Writer<'_>,
    kind: u16,
    set: &str,
    elements: impl Iterator<Item = (Vec<u8>, Data)>,
) {
    let (table, family) = (w.table, w.family);
    let mut elements = elements.peekable();
    let flags = if kind == NEW_ELEMENT {
        super::netlink::NLM_CREATE | super::netlink::NLM_EXCL
    } else {
        0
    };
    while elements.peek().is_some() {
        w.batch.message(kind, flags, family.number(), 0, |m| {
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
    let bare = |key: Vec<u8>| (key, Data::None);
    for map in FRONTS {
        let gone = edits.remove_fronts.iter();
        let gone = gone.filter(|(front, target)| map_of(front, *target) == map);
        write_set(
            w,
            DEL_ELEMENT,
            map,
            gone.map(|(front, _)| bare(front_key(front))),
        );
    }
    let slots = edits.remove_slots.iter();
    let slots = slots.map(|(front, slot, _)| bare(slot_key(front, *slot)));
    write_set(w, DEL_ELEMENT, ENDPOINTS, slots);
    for (kind, hairpin, away, kept) in [
        (
            DEL_ELEMENT,
            &edits.hairpin.remove,
            &edits.away.remove,
            &edits.kept.remove,
        ),
        (
            NEW_ELEMENT,
            &edits.hairpin.add,
            &edits.away.add,
            &edits.kept.add,
        ),
    ] {
        let twice = hairpin
            .iter()
            .map(|ip| bare([octets(*ip), octets(*ip)].concat()));
        write_set(w, kind, HAIRPIN, twice);
        write_set(
            w,
            kind,
            AWAY,
            away.iter().map(|place| bare(place_key(place))),
        );
        write_set(w, kind, KEPT, kept.iter().map(|kept| bare(kept_key(kept))));
    }
    let slots = edits.add_slots.iter().map(|(front, slot, endpoint)| {
        (
            slot_key(front, *slot),
            Data::Value(endpoint_value(*endpoint)),
        )
    });
    write_set(w, NEW_ELEMENT, ENDPOINTS, slots);
    for map in FRONTS {
        let new = edits.add_fronts.iter();
        let new = new.filter(|(front, target)| map_of(front, *target) == map);
        let new = new.map(|(front, target)| (front_key(front), Data::Goto(target.chain())));
        write_set(w, NEW_ELEMENT, map, new);
    }
}
