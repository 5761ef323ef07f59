//! Questions to the kernel that change nothing: does it have nf_tables, does it have veth links?

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, netlink::NETFILTER, recv, send, socket,
};
use std::time::Duration;

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN` of linux/netfilter/nf_tables.h: the number of the ruleset's generation.
const NFT_GETGEN: u16 = 10 << 8 | 16;
/// linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
/// linux/netlink.h
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const EOPNOTSUPP: i32 = 95;

/// Asks for the ruleset's generation, which also loads the module where it can be loaded.
pub fn nftables() -> bool {
    // struct nfgenmsg: family, version, resource id
    let answer = ask(Some(NETFILTER), message(NFT_GETGEN, REQUEST, &[0, 0, 0, 0]));
    // Any sound answer is the generation's message; what isn't there is an error.
    answer.is_some_and(|error| error == 0)
}

/// Asks for a link that can't be: veth's own check refuses the address before anything is made. A kernel without veth
/// says so before that.
pub fn veth() -> bool {
    link_kind("veth")
}

/// Brings up this thread's namespace's loopback.
///
/// # Errors
/// When the kernel refuses.
pub fn loopback_up() -> std::io::Result<()> {
    // struct ifinfomsg: family, type, index, flags, change
    let mut body = vec![0; 4];
    body.extend(1_i32.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    match ask(None, message(RTM_NEWLINK, REQUEST | ACK, &body)) {
        Some(0) => Ok(()),
        Some(error) => Err(std::io::Error::from_raw_os_error(-error)),
        None => Err(std::io::Error::other("the kernel does not answer")),
    }
}

fn link_kind(name: &str) -> bool {
    let mut body = vec![0; 16]; // struct ifinfomsg
    attribute(&mut body, IFLA_ADDRESS, &[1, 0, 0, 0, 0, 0]); // a multicast address
    let mut info = Vec::new();
    attribute(
        &mut info,
        IFLA_INFO_KIND,
        &[name.as_bytes(), b"\0"].concat(),
    );
    attribute(&mut body, IFLA_LINKINFO, &info);
    let request = message(RTM_NEWLINK, REQUEST | ACK | CREATE | EXCLUSIVE, &body);
    ask(None, request).is_some_and(|error| error != -EOPNOTSUPP)
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(16 + body.len());
    all.extend((16 + body.len() as u32).to_ne_bytes());
    all.extend(kind.to_ne_bytes());
    all.extend(flags.to_ne_bytes());
    all.extend([0; 8]); // sequence and port
    all.extend(body);
    all
}

fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend((4 + value.len() as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Sends (None: rtnetlink, which is protocol 0); the errno of the answer, 0 for any other kind of message. None: no such family, or no answer.
fn ask(family: Option<rustix::net::Protocol>, message: Vec<u8>) -> Option<i32> {
    let link = socket(AddressFamily::NETLINK, SocketType::RAW, family).ok()?;
    let limit = Some(Duration::from_secs(2));
    rustix::net::sockopt::set_socket_timeout(&link, rustix::net::sockopt::Timeout::Recv, limit)
        .ok()?;
    send(&link, &message, SendFlags::empty()).ok()?;
    let mut answer = [0u8; 4096];
    let (length, _) = recv(&link, &mut answer[..], RecvFlags::empty()).ok()?;
    let answer = answer.get(..length)?;
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    match kind {
        NLMSG_ERROR => Some(i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?)),
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_told_from_what_is_not() {
        assert!(
            rustix::process::geteuid().is_root(),
            "the kernel answers root only"
        );
        assert!(nftables() && veth());
        assert!(!link_kind("nosuchlink"));
    }
}
