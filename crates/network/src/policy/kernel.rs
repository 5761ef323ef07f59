//! One family's table of policies: there while a Pod is isolated, changed in one transaction, by the difference.
//!
//! ```text
//! filter forward   established, related → accept;  a pod to itself → accept
//!                  source → egress map → goto out-…
//!                  goto to
//! to               destination → ingress map → goto in-…;  accept
//! in-…, out-…      jump to each policy's chain;  drop
//! …-policy-…       a peer → jump to its rule's ports, or let through
//! ```
//!
//! To let through is to go to `to` on the way out, and to accept on the way in.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{Block, Desired, Direction, Peer, Port, Rule, Then};
use crate::nft::{
    elements::{Data, protocol_port, write_set},
    expr::{Exprs, Meta, reg, state},
    family::{Family, octets},
    netlink::{Refusal, Socket},
    ruleset::filter,
    table::{self, DEL_ELEMENT, NEW_ELEMENT, Set, Writer, datatype as t},
};

const INGRESS: &str = "ingress";
const EGRESS: &str = "egress";
/// Isolated Pods' addresses, twice each: what they send to themselves.
const SELF: &str = "self";
const TO: &str = "to";
const FORWARD: &str = "forward";
const HOOK_FORWARD: u32 = 2;

pub(crate) fn table_name(instance: &str) -> String {
    format!("knarr-{instance}-policy")
}

pub(crate) struct Table {
    family: Family,
    name: String,
    socket: Option<Socket>,
    /// What the kernel holds; None when that isn't known.
    have: Option<Arc<Desired>>,
    /// None until the policies are known: what a former process left holds on.
    want: Option<Arc<Desired>>,
}

impl Table {
    pub(crate) fn new(family: Family, instance: &str) -> Table {
        Table {
            family,
            name: table_name(instance),
            socket: None,
            have: None,
            want: None,
        }
    }

    pub(crate) fn want(&mut self, desired: Arc<Desired>) {
        self.want = Some(desired);
    }

    /// Brings the kernel to what is wanted. What fails is made anew by the next call.
    pub(crate) fn apply(&mut self) -> Result<(), Refusal> {
        let Some(want) = self.want.clone() else {
            return Ok(());
        };
        if self.have.as_ref() == Some(&want) {
            return Ok(());
        }
        if self.socket.is_none() {
            let socket = Socket::open().map_err(|error| Refusal::io("socket", error))?;
            self.socket = Some(socket);
        }
        let Some(socket) = &mut self.socket else {
            return Ok(());
        };
        let have = self.have.take().filter(|have| !have.is_empty());
        let family = self.family;
        let changed = match have {
            Some(have) if !want.is_empty() => {
                let changed = table::commit(socket, family, &self.name, |w| {
                    difference(w, &have, &want);
                });
                // Somebody else was at it, perhaps.
                changed.or_else(|refusal| {
                    tracing::warn!(table = %self.name, %refusal.text, "the nf_tables table refused a change: rebuilding it");
                    whole(socket, family, &self.name, &want)
                })
            }
            _ => whole(socket, family, &self.name, &want),
        };
        changed?;
        self.have = Some(want);
        Ok(())
    }
}

/// Replaces the table in one transaction; without any isolated Pod there is none.
fn whole(socket: &mut Socket, family: Family, name: &str, want: &Desired) -> Result<(), Refusal> {
    let exists = table::tables(socket, family)?.iter().any(|t| t == name);
    if want.is_empty() && !exists {
        return Ok(());
    }
    table::commit(socket, family, name, |w| {
        if exists {
            w.delete_table();
        }
        if !want.is_empty() {
            frame(w);
            difference(w, &Desired::default(), want);
        }
    })
}

fn ip_type(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (t::IPV4, 4),
        Family::V6 => (t::IPV6, 16),
    }
}

/// The table and what is always in it.
fn frame(w: &mut Writer<'_>) {
    let (ip, bytes) = ip_type(w.family);
    w.add_table();
    for (id, name) in [(1, INGRESS), (2, EGRESS)] {
        w.add_set(
            id,
            &Set {
                name,
                key: (ip, bytes),
                data: Some((t::VERDICT, 16)),
                dynamic: false,
            },
        );
    }
    w.add_set(
        3,
        &Set {
            name: SELF,
            key: (t::concat(&[ip, ip]), 2 * bytes),
            data: None,
            dynamic: false,
        },
    );
    w.add_chain(TO, None);
    w.add_rule(TO, |e| {
        e.destination(reg(0)).verdict_map(INGRESS, reg(0));
    });
    w.add_rule(TO, |e| {
        e.accept();
    });
    w.add_chain(FORWARD, filter(HOOK_FORWARD));
    w.add_rule(FORWARD, |e| {
        e.state(state::ESTABLISHED | state::RELATED).accept();
    });
    let words = w.family.words();
    w.add_rule(FORWARD, |e| {
        e.source(reg(0))
            .destination(reg(words))
            .member(SELF, reg(0))
            .accept();
    });
    w.add_rule(FORWARD, |e| {
        e.source(reg(0)).verdict_map(EGRESS, reg(0));
    });
    w.add_rule(FORWARD, |e| {
        e.goto(TO);
    });
}

/// A set of addresses, or of addresses with protocol and port, as the kernel wants it.
type Elements = BTreeMap<String, BTreeSet<Vec<u8>>>;

fn sets(family: Family, desired: &Desired) -> (Elements, Elements) {
    let ours = |ip: &IpAddr| Family::of(*ip) == family;
    let peers = desired.peers.iter().map(|(name, ips)| {
        let keys = ips.iter().filter(|ip| ours(ip)).map(|ip| octets(*ip));
        (name.clone(), keys.collect())
    });
    let named = desired.named.iter().map(|(name, places)| {
        let keys = places.iter().filter(|(ip, ..)| ours(ip));
        let keys = keys.map(|(ip, protocol, port)| {
            [&octets(*ip)[..], &protocol_port(*protocol, *port)].concat()
        });
        (name.clone(), keys.collect())
    });
    (peers.collect(), named.collect())
}

/// The rules of a chain that mean something in a family.
fn rules(family: Family, all: &[Rule]) -> Vec<&Rule> {
    let ours = |rule: &&Rule| match &rule.peer {
        Peer::Block { block, .. } => Family::of(block.0) == family,
        _ => true,
    };
    all.iter().filter(ours).collect()
}

fn difference(w: &mut Writer<'_>, have: &Desired, want: &Desired) {
    let family = w.family;
    let (ip, bytes) = ip_type(family);
    let (had_peers, peers) = (sets(family, have), sets(family, want));
    let mut id = 100;
    for (had, wanted, key) in [
        (&had_peers.0, &peers.0, (ip, bytes)),
        (
            &had_peers.1,
            &peers.1,
            (t::concat(&[ip, t::PROTOCOL, t::SERVICE]), bytes + 8),
        ),
    ] {
        for (name, keys) in wanted {
            let before = had.get(name);
            if before.is_none() {
                id += 1;
                w.add_set(
                    id,
                    &Set {
                        name,
                        key,
                        data: None,
                        dynamic: false,
                    },
                );
            }
            let empty = BTreeSet::new();
            let before = before.unwrap_or(&empty);
            let bare = |key: &Vec<u8>| (key.clone(), Data::None);
            write_set(w, DEL_ELEMENT, name, before.difference(keys).map(bare));
            write_set(w, NEW_ELEMENT, name, keys.difference(before).map(bare));
        }
    }
    // All chains are there before a rule jumps to one.
    for chain in want.chains.keys().filter(|c| !have.chains.contains_key(*c)) {
        w.add_chain(chain, None);
    }
    for (chain, steps) in &want.chains {
        let steps = rules(family, steps);
        match have.chains.get(chain) {
            Some(before) if rules(family, before) == steps => continue,
            Some(_) => w.flush_chain(chain),
            None => {}
        }
        for step in steps {
            w.add_rule(chain, |e| rule(e, step));
        }
    }
    let both = |desired: &Desired| {
        let all = desired.ingress.keys().chain(desired.egress.keys());
        all.filter(|ip| Family::of(**ip) == family)
            .map(|ip| [octets(*ip), octets(*ip)].concat())
            .collect::<BTreeSet<_>>()
    };
    let (before, now) = (both(have), both(want));
    let bare = |key: &Vec<u8>| (key.clone(), Data::None);
    write_set(w, DEL_ELEMENT, SELF, before.difference(&now).map(bare));
    write_set(w, NEW_ELEMENT, SELF, now.difference(&before).map(bare));
    for (map, before, now) in [
        (INGRESS, &have.ingress, &want.ingress),
        (EGRESS, &have.egress, &want.egress),
    ] {
        let ours = |(ip, _): &(&IpAddr, &String)| Family::of(**ip) == family;
        let gone = before.iter().filter(ours);
        let gone = gone.filter(|(ip, chain)| now.get(*ip) != Some(*chain));
        write_set(
            w,
            DEL_ELEMENT,
            map,
            gone.map(|(ip, _)| (octets(*ip), Data::None)),
        );
        let new = now.iter().filter(ours);
        let new = new.filter(|(ip, chain)| before.get(*ip) != Some(*chain));
        write_set(
            w,
            NEW_ELEMENT,
            map,
            new.map(|(ip, chain)| (octets(*ip), Data::Goto(chain.clone()))),
        );
    }
    // What refers to a chain, or to a set, goes first.
    let gone = have.chains.keys().filter(|c| !want.chains.contains_key(*c));
    let gone = gone.collect::<Vec<_>>();
    for chain in &gone {
        w.flush_chain(chain);
    }
    for chain in gone {
        w.delete_chain(chain);
    }
    let named = have.named.keys().filter(|s| !want.named.contains_key(*s));
    let peers = have.peers.keys().filter(|s| !want.peers.contains_key(*s));
    for set in named.chain(peers) {
        w.delete_set(set);
    }
}

fn rule(e: &mut Exprs<'_>, rule: &Rule) {
    let words = e.family.words();
    let peer = |e: &mut Exprs<'_>| {
        match rule.direction {
            Direction::Ingress => e.source(reg(0)),
            Direction::Egress => e.destination(reg(0)),
        };
    };
    let inside = |e: &mut Exprs<'_>, within: bool, block: Block| {
        if block.1 > 0 {
            peer(e);
            e.range(reg(0), within, block);
        }
    };
    match &rule.peer {
        Peer::Any => {}
        Peer::Selected(set) => {
            peer(e);
            e.member(set, reg(0));
        }
        Peer::Block { block, except } => {
            inside(e, true, *block);
            let family = e.family;
            for block in except.iter().filter(|b| Family::of(b.0) == family) {
                inside(e, false, *block);
            }
        }
    }
    match &rule.port {
        Port::Any => {}
        Port::Protocol(protocol) => {
            e.meta(reg(0), Meta::L4Proto)
                .compare(reg(0), true, &[*protocol]);
        }
        Port::Range(protocol, low, high) => {
            e.meta(reg(0), Meta::L4Proto)
                .compare(reg(0), true, &[*protocol])
                .port(reg(0))
                .between(reg(0), *low, *high);
        }
        Port::Named(set) => {
            e.destination(reg(0))
                .meta(reg(words), Meta::L4Proto)
                .port(reg(words + 1))
                .member(set, reg(0));
        }
    }
    match (&rule.then, rule.direction) {
        (Then::Allow, Direction::Ingress) => e.accept(),
        (Then::Allow, Direction::Egress) => e.goto(TO),
        (Then::Jump(chain), _) => e.jump(chain),
        (Then::Drop, _) => e.drop(),
    };
}
