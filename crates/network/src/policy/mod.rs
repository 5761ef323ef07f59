//! NetworkPolicies, enforced where packets are forwarded to and from this node's Pods.
//!
//! `objects` is what is watched, `plan` makes of it what the kernel shall hold, `kernel` brings it there, `feed` drives.
//! What the node itself sends to its Pods, and what they send to it, is never forwarded, and so always let through, as
//! networking/v1 wants it. A flow that was let in stays until it ends.

pub(crate) mod feed;
pub(crate) mod kernel;
pub(crate) mod objects;
pub(crate) mod plan;
mod selector;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// An address range.
pub(crate) type Block = (IpAddr, u8);

/// What the kernel shall hold, of both families. Empty: nothing at all.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Desired {
    /// Peers' addresses, by the selector they come from.
    pub(crate) peers: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Where a named port is.
    pub(crate) named: BTreeMap<String, BTreeSet<(IpAddr, u8, u16)>>,
    pub(crate) chains: BTreeMap<String, Vec<Rule>>,
    /// Pods that policies isolate, with the chain that says what they may take in, and send.
    pub(crate) ingress: BTreeMap<IpAddr, String>,
    pub(crate) egress: BTreeMap<IpAddr, String>,
}

impl Desired {
    pub(crate) fn is_empty(&self) -> bool {
        self.ingress.is_empty() && self.egress.is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

/// Whom a rule is about: who sends (ingress), or who is sent to (egress).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peer {
    Any,
    /// Name of a set in [`Desired::peers`].
    Selected(String),
    Block {
        block: Block,
        except: Vec<Block>,
    },
}

/// To which ports; protocols are IP protocol numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Port {
    Any,
    Protocol(u8),
    Range(u8, u16, u16),
    /// Name of a set in [`Desired::named`].
    Named(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Then {
    /// Let through, as far as this direction goes.
    Allow,
    Jump(String),
    Drop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) direction: Direction,
    pub(crate) peer: Peer,
    pub(crate) port: Port,
    pub(crate) then: Then,
}
