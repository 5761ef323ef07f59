//! Our own small nf_tables client: no `nft` binary, no C library.
//!
//! `netlink` moves bytes, `expr` encodes rule expressions, `table` writes objects and reads them
//! back, `ruleset` is the node's static rule set, `elements` the contents of its maps.

pub(crate) mod conntrack;
pub(crate) mod elements;
mod expr;
pub(crate) mod netlink;
pub(crate) mod ruleset;
pub(crate) mod table;

/// NFPROTO_IPV4: the one family of our table.
pub(crate) const FAMILY: u8 = 2;
/// NFNL_SUBSYS_NFTABLES
const SUBSYSTEM: u16 = 10;
