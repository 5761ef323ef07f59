//! The rule set of one family: static but for its map elements and the `lb`/`np` chains, one per
//! number of endpoints in use.
//!
//! ```text
//! nat prerouting           from a pod to 127.0.0.11 port 53 → the DNS server
//! nat prerouting           from outside: ip.proto.port → svc-out map → goto lbx-N
//!                          from outside, to a local address: proto.port → ports-out map → goto npx-N
//! nat prerouting, output   ip.proto.port               → svc map     → goto lb-N
//!                          ip.0.0                      → svc map     → goto any-N
//!                          to a local address: proto.port → nodeports map → goto np-N
//! lb-N                     ip.proto.port.(random mod N) → eps map → dnat     else slot 0 → dnat
//! np-N                     the same with the unspecified address
//! any-N                    the same with protocol and port 0, and the port stays
//! lbx-N, npx-N             the same with other slots
//! nat postrouting          a pod that reached itself → snat node;  pods leaving the cluster → masquerade;
//!                          from outside to an endpoint that is elsewhere → masquerade
//! filter input, forward, output   a new flow to a front without endpoints → refuse or drop;
//!                          to the service range, still untranslated → refuse
//! ```
//!
//! The two look-ups (`svc`, then `eps`) may straddle a commit that shrinks N: the slot-0 rule
//! catches that. `…-sticky-S` chains first look for what the client had (session affinity): `had`
//! maps client and front to an endpoint, for S seconds after the last connection; `kept` has the
//! endpoints that a front's clients may keep, so an endpoint that is gone is nobody's any more.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    expr::{DNATED, Exprs, Meta, Nat, Reject, reg, state},
    family::{Family, octets},
    front::{By, Chain, DROP, REFUSE, Scope},
    table::{Hook, Set, Writer, datatype as t},
};

pub(crate) const SERVICES: &str = "svc";
pub(crate) const NODE_PORTS: &str = "nodeports";
pub(crate) const OUTSIDE_SERVICES: &str = "svc-out";
pub(crate) const OUTSIDE_PORTS: &str = "ports-out";
pub(crate) const BARRED: &str = "barred";
pub(crate) const BARRED_PORTS: &str = "barred-ports";
pub(crate) const ENDPOINTS: &str = "eps";
pub(crate) const HAIRPIN: &str = "hairpin";
pub(crate) const AWAY: &str = "away";
pub(crate) const KEPT: &str = "kept";
const HAD: &str = "had";

/// Slots of [`Scope::Outside`] begin here.
pub(crate) const OUTSIDE_SLOTS: u32 = 1 << 16;

/// Counts up when the rules change: a table of another version is made anew.
pub(crate) const VERSION: u64 = 4;

/// What the rules of a family are made of.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) family: Family,
    /// This node's Pods.
    pub(crate) pods: (IpAddr, u8),
    /// All nodes' Pods.
    pub(crate) cluster: (IpAddr, u8),
    pub(crate) services: (IpAddr, u8),
    /// What Pods take the node for: the gateway (IPv4), which each node has, or the node's address among them.
    pub(crate) node: IpAddr,
    pub(crate) dns_ip: IpAddr,
}

fn sets(family: Family) -> [Set<'static>; 11] {
    let (ip, bytes) = match family {
        Family::V4 => (t::IPV4, 4),
        Family::V6 => (t::IPV6, 16),
    };
    let front = (t::concat(&[ip, t::PROTOCOL, t::SERVICE]), bytes + 8);
    let port = (t::concat(&[t::PROTOCOL, t::SERVICE]), 8);
    let endpoint = (t::concat(&[ip, t::SERVICE]), bytes + 4);
    let set = |name, key, data| Set {
        name,
        key,
        data,
        dynamic: false,
    };
    let chain = Some((t::VERDICT, 16));
    let slot = (
        t::concat(&[ip, t::PROTOCOL, t::SERVICE, t::MARK]),
        bytes + 12,
    );
    let kept = (
        t::concat(&[ip, t::PROTOCOL, t::SERVICE, ip, t::SERVICE]),
        2 * bytes + 12,
    );
    let had = (t::concat(&[ip, ip, t::PROTOCOL, t::SERVICE]), 2 * bytes + 8);
    [
        set(SERVICES, front, chain),
        set(NODE_PORTS, port, chain),
        set(OUTSIDE_SERVICES, front, chain),
        set(OUTSIDE_PORTS, port, chain),
        set(BARRED, front, chain),
        set(BARRED_PORTS, port, chain),
        set(ENDPOINTS, slot, Some(endpoint)),
        set(HAIRPIN, (t::concat(&[ip, ip]), 2 * bytes), None),
        set(AWAY, front, None),
        set(KEPT, kept, None),
        Set {
            dynamic: true,
            ..set(HAD, had, Some(endpoint))
        },
    ]
}

const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
const RTN_LOCAL: u32 = 2;

/// Name of the tables of an instance, one a family.
pub(crate) fn table_name(instance: &str) -> String {
    format!("knarr-{instance}")
}

pub(crate) fn nat(number: u32, priority: i32) -> Option<Hook> {
    Some(Hook {
        kind: "nat",
        number,
        priority,
    })
}

pub(crate) fn filter(number: u32) -> Option<Hook> {
    Some(Hook {
        kind: "filter",
        number,
        priority: 0,
    })
}

/// Loads the key of a front's maps; answers nothing: address at 0, then protocol and port.
fn front(e: &mut Exprs<'_>) -> u32 {
    let words = e.family.words();
    e.destination(reg(0))
        .meta(reg(words), Meta::L4Proto)
        .port(reg(words + 1));
    reg(0)
}

/// Loads the key of the front of the rest of an address.
fn rest(e: &mut Exprs<'_>) -> u32 {
    let words = e.family.words();
    e.destination(reg(0)).immediate(reg(words), &[0; 8]);
    reg(0)
}

/// Goes on only for a local address, and loads protocol and port.
fn local_port(e: &mut Exprs<'_>) -> u32 {
    e.destination_kind(reg(0))
        .compare(reg(0), true, &RTN_LOCAL.to_ne_bytes());
    e.meta(reg(0), Meta::L4Proto).port(reg(1));
    reg(0)
}

fn lo() -> [u8; 16] {
    let mut name = [0u8; 16];
    name[..2].copy_from_slice(b"lo");
    name
}

/// Writes the whole static rule set into a fresh table.
pub(crate) fn write(w: &mut Writer<'_>, plan: &Plan) {
    w.add_table();
    for (id, set) in sets(plan.family).iter().enumerate() {
        w.add_set(id as u32 + 1, set);
    }
    w.add_chain(REFUSE, None);
    w.add_rule(REFUSE, |e| {
        e.meta(reg(0), Meta::L4Proto)
            .compare(reg(0), true, &[libc::IPPROTO_TCP as u8])
            .reject(Reject::TcpReset);
    });
    w.add_rule(REFUSE, |e| {
        e.reject(Reject::IcmpPortUnreachable);
    });
    w.add_chain(DROP, None);
    w.add_rule(DROP, |e| {
        e.drop();
    });
    translations(w, plan);
    sources(w, plan);
    refusals(w, plan);
}

fn translations(w: &mut Writer<'_>, plan: &Plan) {
    for (chain, hook) in [("prerouting", PREROUTING), ("output", OUTPUT)] {
        w.add_chain(chain, nat(hook, DSTNAT));
        if hook == PREROUTING {
            if plan.family == Family::V4 {
                w.add_rule(chain, |e| {
                    e.source(reg(0)).range(reg(0), true, plan.pods);
                    e.destination(reg(0))
                        .compare(reg(0), true, &crate::RESOLVER.octets());
                    e.port(reg(0)).compare(reg(0), true, &53u16.to_be_bytes());
                    e.immediate(reg(0), &octets(plan.dns_ip))
                        .nat(Nat::Destination, reg(0), None);
                });
            }
            w.add_rule(chain, |e| {
                e.source(reg(0)).range(reg(0), false, plan.pods);
                let key = front(e);
                e.verdict_map(OUTSIDE_SERVICES, key);
            });
            w.add_rule(chain, |e| {
                e.source(reg(0)).range(reg(0), false, plan.pods);
                let key = local_port(e);
                e.verdict_map(OUTSIDE_PORTS, key);
            });
        }
        w.add_rule(chain, |e| {
            let key = front(e);
            e.verdict_map(SERVICES, key);
        });
        w.add_rule(chain, |e| {
            let key = rest(e);
            e.verdict_map(SERVICES, key);
        });
        w.add_rule(chain, |e| {
            // Nobody but the node itself speaks to its loopback.
            if plan.family == Family::V6 {
                e.destination(reg(0)).compare(
                    reg(0),
                    false,
                    &std::net::Ipv6Addr::LOCALHOST.octets(),
                );
            }
            let key = local_port(e);
            e.verdict_map(NODE_PORTS, key);
        });
    }
}

fn sources(w: &mut Writer<'_>, plan: &Plan) {
    let chain = "postrouting";
    let words = plan.family.words();
    w.add_chain(chain, nat(POSTROUTING, SRCNAT));
    w.add_rule(chain, |e| {
        e.source(reg(0))
            .destination(reg(words))
            .member(HAIRPIN, reg(0));
        e.immediate(reg(0), &octets(plan.node))
            .nat(Nat::Source, reg(0), None);
    });
    let whole = (plan.family.bytes() * 8) as u8;
    // Every node has the gateway's address: only this one's Pods can answer it.
    for (from, to) in [
        (plan.cluster, plan.cluster),
        ((plan.node, whole), plan.pods),
    ] {
        w.add_rule(chain, |e| {
            e.source(reg(0)).range(reg(0), true, from);
            e.destination(reg(0)).range(reg(0), false, to);
            if plan.family == Family::V6 {
                // Neighbours on the link, and groups, are nobody's outside.
                e.destination(reg(0)).range(
                    reg(0),
                    false,
                    (
                        std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(),
                        10,
                    ),
                );
                e.destination(reg(0)).range(
                    reg(0),
                    false,
                    (
                        std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(),
                        8,
                    ),
                );
            }
            e.meta(reg(0), Meta::OifName)
                .compare(reg(0), false, &lo())
                .masquerade();
        });
    }
    if plan.family == Family::V4 {
        // A node port at 127.0.0.1: Pods answer the node, not themselves.
        w.add_rule(chain, |e| {
            e.source(reg(0))
                .range(reg(0), true, (Ipv4Addr::LOCALHOST.into(), 8));
            e.meta(reg(0), Meta::OifName).compare(reg(0), false, &lo());
            e.immediate(reg(0), &octets(plan.node))
                .nat(Nat::Source, reg(0), None);
        });
    }
    // The answers must come back here to be translated.
    for load in [front as fn(&mut Exprs<'_>) -> u32, rest] {
        w.add_rule(chain, |e| {
            e.status(DNATED);
            e.source(reg(0)).range(reg(0), false, plan.pods);
            let key = load(e);
            e.member(AWAY, key);
            e.meta(reg(0), Meta::OifName)
                .compare(reg(0), false, &lo())
                .masquerade();
        });
    }
}

fn refusals(w: &mut Writer<'_>, plan: &Plan) {
    for (chain, hook) in [
        ("input", INPUT),
        ("forward", FORWARD),
        ("output-filter", OUTPUT),
    ] {
        w.add_chain(chain, filter(hook));
        if plan.family == Family::V4 && hook == INPUT {
            // `route_localnet` is for the node's own packets.
            w.add_rule(chain, |e| {
                e.destination(reg(0))
                    .range(reg(0), true, (Ipv4Addr::LOCALHOST.into(), 8));
                e.meta(reg(0), Meta::IifName).compare(reg(0), false, &lo());
                e.state(state::NEW).drop();
            });
        }
        w.add_rule(chain, |e| {
            e.state(state::NEW);
            let key = front(e);
            e.verdict_map(BARRED, key);
        });
        w.add_rule(chain, |e| {
            e.state(state::NEW);
            let key = rest(e);
            e.verdict_map(BARRED, key);
        });
        w.add_rule(chain, |e| {
            e.state(state::NEW);
            let key = local_port(e);
            e.verdict_map(BARRED_PORTS, key);
        });
        w.add_rule(chain, |e| {
            e.destination(reg(0))
                .compare(reg(0), true, &octets(plan.dns_ip))
                .accept();
        });
        w.add_rule(chain, |e| {
            e.destination(reg(0)).range(reg(0), true, plan.services);
            e.goto(REFUSE);
        });
    }
}

/// Writes the chain that spreads over `chain.endpoints` endpoints.
pub(crate) fn write_chain(w: &mut Writer<'_>, chain: Chain) {
    let name = chain.name();
    let words = w.family.words();
    let offset = match chain.scope {
        Scope::All => 0,
        Scope::Outside => OUTSIDE_SLOTS,
    };
    w.add_chain(&name, None);
    // Client, front's address, protocol, port, then the slot or the endpoint.
    let (client, place, chosen) = (reg(0), reg(words), reg(2 * words + 2));
    let to_port = Some(reg(3 * words + 2)).filter(|_| chain.by != By::Rest);
    let load = |e: &mut Exprs<'_>| {
        e.source(client);
        match chain.by {
            By::NodePort => e.immediate(place, &vec![0; words as usize * 4]),
            By::Address | By::Rest => e.destination(place),
        };
        match chain.by {
            By::Rest => e.immediate(reg(2 * words), &[0; 8]),
            By::Address | By::NodePort => e
                .meta(reg(2 * words), Meta::L4Proto)
                .port(reg(2 * words + 1)),
        };
    };
    let choose = |e: &mut Exprs<'_>| {
        match chain.endpoints {
            1 => e.immediate(chosen, &offset.to_ne_bytes()),
            many => e.random(chosen, many, offset),
        };
        e.map(ENDPOINTS, place, chosen);
    };
    if chain.sticky_seconds != 0 {
        w.add_rule(&name, |e| {
            load(e);
            e.map(HAD, client, chosen).member(KEPT, place);
            e.keep(HAD, client, chosen, chain.sticky_seconds).nat(
                Nat::Destination,
                chosen,
                to_port,
            );
        });
        w.add_rule(&name, |e| {
            load(e);
            choose(e);
            e.forget(HAD, client, chosen);
            e.keep(HAD, client, chosen, chain.sticky_seconds).nat(
                Nat::Destination,
                chosen,
                to_port,
            );
        });
    }
    w.add_rule(&name, |e| {
        load(e);
        choose(e);
        e.nat(Nat::Destination, chosen, to_port);
    });
    if chain.endpoints > 1 {
        w.add_rule(&name, |e| {
            load(e);
            e.immediate(chosen, &offset.to_ne_bytes())
                .map(ENDPOINTS, place, chosen)
                .nat(Nat::Destination, chosen, to_port);
        });
    }
}
