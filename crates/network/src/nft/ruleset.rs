//! The node's rule set: static but for its map elements and the `lb`/`np` chains, one per number
//! of endpoints in use.
//!
//! ```text
//! nat prerouting, output   ip.proto.port            → svc map   → goto lb-N
//!                          (to a local address) proto.port → nodeports map → goto np-N
//! lb-N                     ip.proto.port.(random mod N) → eps map → dnat     else slot 0 → dnat
//! np-N                     the same with ip 0.0.0.0
//! nat postrouting          a pod that reached itself → snat gateway;  pods leaving the cluster → masquerade
//!                          from another node to another node, translated → masquerade
//! filter forward, output   to the service range, still untranslated → reject
//! ```
//!
//! The two look-ups (`svc`, then `eps`) may straddle a commit that shrinks N: the slot-0 rule
//! catches that. `lbh`/`nph` chains choose the slot by a hash of the client's address (session
//! affinity).

use std::net::Ipv4Addr;

use super::{
    elements::Chain,
    expr::{Meta, Nat, Reject, reg},
    table::{Hook, Set, Writer, datatype as t},
};
use crate::Config;

pub(crate) const SERVICES: &str = "svc";
pub(crate) const NODE_PORTS: &str = "nodeports";
pub(crate) const ENDPOINTS: &str = "eps";
pub(crate) const HAIRPIN: &str = "hairpin";

const SETS: [Set; 4] = [
    Set {
        name: SERVICES,
        key: (t::concat(&[t::IPV4, t::PROTOCOL, t::SERVICE]), 12),
        data: Some((t::VERDICT, 16)),
    },
    Set {
        name: NODE_PORTS,
        key: (t::concat(&[t::PROTOCOL, t::SERVICE]), 8),
        data: Some((t::VERDICT, 16)),
    },
    Set {
        name: ENDPOINTS,
        key: (t::concat(&[t::IPV4, t::PROTOCOL, t::SERVICE, t::MARK]), 16),
        data: Some((t::concat(&[t::IPV4, t::SERVICE]), 8)),
    },
    Set {
        name: HAIRPIN,
        key: (t::concat(&[t::IPV4, t::IPV4]), 8),
        data: None,
    },
];

const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
const RTN_LOCAL: u32 = 2;
/// Any constant will do; it only has to stay the same.
const AFFINITY_SEED: u32 = 0x6b6e_6172;

/// Name of the table of an instance.
pub(crate) fn table_name(instance: &str) -> String {
    format!("knarr-{instance}")
}

/// Writes the whole static rule set into a fresh table.
pub(crate) fn write(w: &mut Writer<'_>, config: &Config) {
    w.add_table();
    for (id, set) in SETS.iter().enumerate() {
        w.add_set(id as u32 + 1, set);
    }
    let nat = |number, priority| {
        Some(Hook {
            kind: "nat",
            number,
            priority,
        })
    };
    let filter = |number| {
        Some(Hook {
            kind: "filter",
            number,
            priority: 0,
        })
    };
    w.add_chain("refuse", None);
    w.add_rule("refuse", |e| {
        e.meta(reg(0), Meta::L4Proto)
            .compare(reg(0), true, &[libc::IPPROTO_TCP as u8])
            .reject(Reject::TcpReset);
    });
    w.add_rule("refuse", |e| {
        e.reject(Reject::IcmpPortUnreachable);
    });

    for (chain, hook) in [("prerouting", PREROUTING), ("output", OUTPUT)] {
        w.add_chain(chain, nat(hook, DSTNAT));
        w.add_rule(chain, |e| {
            e.destination(reg(0))
                .meta(reg(1), Meta::L4Proto)
                .port(reg(2))
                .verdict_map(SERVICES, reg(0));
        });
        w.add_rule(chain, |e| {
            e.destination(reg(0)).mask(reg(0), [255, 0, 0, 0]).compare(
                reg(0),
                false,
                &[127, 0, 0, 0],
            );
            e.destination_kind(reg(0))
                .compare(reg(0), true, &RTN_LOCAL.to_ne_bytes());
            e.meta(reg(1), Meta::L4Proto)
                .port(reg(2))
                .verdict_map(NODE_PORTS, reg(1));
        });
    }

    let (pods, pods_mask) = (config.pod_cidr.0, mask(config.pod_cidr.1));
    let mut lo = [0u8; 16];
    lo[..2].copy_from_slice(b"lo");
    w.add_chain("postrouting", nat(POSTROUTING, SRCNAT));
    // From one of the other nodes to another's Pod (or its own) through a port or address of this node: the answer has to
    // come back this way.
    let other_nodes = match config.place {
        None => crate::place::links(&config.instance).into_bytes(),
        Some(_) => [crate::place::UPLINK.as_bytes(), b"\0"].concat(),
    };
    w.add_rule("postrouting", |e| {
        for link in [Meta::IifName, Meta::OifName] {
            e.meta(reg(0), link).compare(reg(0), true, &other_nodes);
        }
        e.translated(reg(0)).masquerade();
    });
    w.add_rule("postrouting", |e| {
        e.source(reg(0)).destination(reg(1)).member(HAIRPIN, reg(0));
        e.immediate(reg(0), &crate::GATEWAY.octets())
            .nat(Nat::Source, reg(0), None);
    });
    let (own, own_mask) = (config.node_cidr.0, mask(config.node_cidr.1));
    // Every node has the gateway's address: only this one's Pods can answer it.
    for (from, from_mask, to, to_mask) in [
        (pods, pods_mask, pods, pods_mask),
        (crate::GATEWAY, [255; 4], own, own_mask),
    ] {
        w.add_rule("postrouting", |e| {
            e.source(reg(0))
                .mask(reg(0), from_mask)
                .compare(reg(0), true, &from.octets());
            e.destination(reg(0))
                .mask(reg(0), to_mask)
                .compare(reg(0), false, &to.octets());
            e.meta(reg(0), Meta::OifName)
                .compare(reg(0), false, &lo)
                .masquerade();
        });
    }

    let (services, services_mask) = (config.service_cidr.0, mask(config.service_cidr.1));
    for (chain, hook) in [("forward", FORWARD), ("output-filter", OUTPUT)] {
        w.add_chain(chain, filter(hook));
        w.add_rule(chain, |e| {
            e.destination(reg(0))
                .compare(reg(0), true, &config.dns_ip.octets())
                .accept();
        });
        w.add_rule(chain, |e| {
            e.destination(reg(0))
                .mask(reg(0), services_mask)
                .compare(reg(0), true, &services.octets())
                .goto("refuse");
        });
    }
}

/// Writes the chain that spreads over `chain.endpoints` endpoints.
pub(crate) fn write_chain(w: &mut Writer<'_>, chain: Chain) {
    let name = chain.name();
    w.add_chain(&name, None);
    for random in [true, false] {
        // One endpoint: there is nothing to choose.
        if random && chain.endpoints == 1 {
            continue;
        }
        w.add_rule(&name, |e| {
            if chain.node_port {
                e.immediate(reg(0), &Ipv4Addr::UNSPECIFIED.octets());
            } else {
                e.destination(reg(0));
            }
            e.meta(reg(1), Meta::L4Proto).port(reg(2));
            match (random, chain.affinity) {
                (true, false) => e.random(reg(3), chain.endpoints),
                (true, true) => {
                    e.source(reg(4))
                        .hash(reg(4), reg(3), chain.endpoints, AFFINITY_SEED)
                }
                (false, _) => e.immediate(reg(3), &0u32.to_ne_bytes()),
            };
            e.map(ENDPOINTS, reg(0), reg(8))
                .nat(Nat::Destination, reg(8), Some(reg(9)));
        });
    }
}

pub(crate) fn mask(prefix: u8) -> [u8; 4] {
    u32::MAX
        .checked_shl(32 - u32::from(prefix))
        .unwrap_or(0)
        .to_be_bytes()
}
