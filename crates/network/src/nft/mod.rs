//! Our own small nf_tables client: no `nft` binary, no C library.
//!
//! `netlink` moves bytes, `expr` encodes rule expressions, `table` writes objects and reads them
//! back, `ruleset` is the node's static rule set, `contents` what its maps hold, `elements` their
//! bytes, `conntrack` the flows that must be forgotten.

pub(crate) mod conntrack;
pub(crate) mod contents;
pub(crate) mod elements;
pub(crate) mod expr;
pub(crate) mod family;
pub(crate) mod front;
pub(crate) mod netlink;
pub(crate) mod ruleset;
pub(crate) mod table;

/// NFNL_SUBSYS_NFTABLES
const SUBSYSTEM: u16 = 10;
