//! What can go wrong with the network, and what to do about it.

use std::{net::Ipv4Addr, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the kernel does not let this process change the network: run knarr as root (it needs CAP_NET_ADMIN)"
    )]
    Denied,
    #[error("{what}: {source}")]
    Netlink {
        what: String,
        source: rtnetlink::Error,
    },
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "no Pod address is left in the range: remove Pods, or start a fresh data directory with a larger --pod-cidr"
    )]
    Full,
    #[error(
        "this kernel has no nf_tables ({detail}): load the module with `modprobe nf_tables nft_nat nft_numgen nft_masq nft_reject_ipv4`, or use a kernel built with CONFIG_NF_TABLES"
    )]
    NoNftables { detail: String },
    #[error("nf_tables: {0}")]
    Nft(String),
    #[error("cluster DNS: {0}")]
    Dns(#[from] crate::dns::Error),
    #[error("the address {address} can't be a container's: {why}; choose another subnet")]
    Address { address: Ipv4Addr, why: String },
    #[error("the Pod's network namespace has no eth0 any more: start the Pod again")]
    NoLink,
    #[error("a network worker ended: {0}")]
    Worker(String),
}

/// `map_err(netlink("adding the link"))`, with missing rights told apart.
pub(crate) fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let what = what.into();
    move |source| match &source {
        rtnetlink::Error::NetlinkError(m)
            if matches!(m.raw_code().abs(), libc::EPERM | libc::EACCES) =>
        {
            Error::Denied
        }
        _ => Error::Netlink { what, source },
    }
}

/// Is this the kernel's answer with that errno?
pub(crate) fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(m) if m.raw_code().abs() == errno)
}

pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { path, source }
}
