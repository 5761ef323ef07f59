//! Which addresses a Service gets: what it asks for, or a free one of the ranges (upstream
//! `pkg/registry/core/service/ipallocator`). What is taken is what there is an IPAddress for.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use rand::Rng;
use serde_json::{Value, json};

use crate::{
    kinds::json::{items, text},
    registry::{FieldError, Lookup},
};

/// The group of IPAddress and ServiceCIDR.
pub(crate) const GROUP: &str = "networking.k8s.io";

/// A range of addresses: the base, and how many bits of it are fixed.
pub(crate) type Range = (IpAddr, u8);

/// Addresses that are looked through for a free one, at most.
const CANDIDATES_MAX: u128 = 1 << 16;
/// The offset of the DNS server's address in the platform's own range: given only to who asks for it.
const DNS_OFFSET: u128 = 10;

/// The ranges that addresses are given of, of the ready ServiceCIDRs that are to stay; on a server without these objects the
/// platform's own.
pub(crate) fn ranges(lookup: &dyn Lookup) -> Vec<Range> {
    let objects = lookup.list(GROUP, "servicecidrs", None);
    if objects.is_empty() {
        return own(lookup);
    }
    let usable = objects.iter().filter(|o| is_ready(o));
    usable
        .flat_map(|o| items(o, "/spec/cidrs"))
        .filter_map(|cidr| parse(cidr.as_str()?))
        .collect()
}

fn own(lookup: &dyn Lookup) -> Vec<Range> {
    let (base, bits) = lookup.service_cidr();
    let second = lookup.service_cidr6();
    std::iter::once((base.into(), bits))
        .chain(second.map(|(base, bits)| (base.into(), bits)))
        .collect()
}

fn is_ready(range: &Value) -> bool {
    let conditions = items(range, "/status/conditions");
    let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
    range["metadata"]["deletionTimestamp"].is_null() && conditions.iter().any(ready)
}

/// `10.0.0.0/8`
pub(crate) fn parse(cidr: &str) -> Option<Range> {
    let (base, bits) = cidr.split_once('/')?;
    Some((base.parse().ok()?, bits.parse().ok()?))
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// The range's first number, and how many addresses can be given: all after it but IPv4's broadcast.
fn size((base, bits): Range) -> (u128, u128) {
    match base {
        IpAddr::V4(base) => {
            let hosts = u32::MAX.checked_shr(bits.into()).unwrap_or(0);
            (u32::from(base).into(), hosts.saturating_sub(1).into())
        }
        IpAddr::V6(base) => (base.into(), u128::MAX.checked_shr(bits.into()).unwrap_or(0)),
    }
}

fn at((base, _): Range, number: u128) -> IpAddr {
    match base {
        // of a range of IPv4, and so below 2³²
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(number as u32)),
        IpAddr::V6(_) => IpAddr::V6(number.into()),
    }
}

/// Whether the address is one of those that the range gives: not its first, and not IPv4's broadcast (upstream's
/// `servicecidr.PrefixContainsIP`).
fn gives(range: Range, ip: IpAddr) -> bool {
    let (first, usable) = size(range);
    let offset = number(ip).wrapping_sub(first);
    ip.is_ipv4() == range.0.is_ipv4() && offset > 0 && offset <= usable
}

/// The lower part of a range, which is given of last: it is for those who ask for an address by number (upstream's
/// calculateRangeOffset).
fn reserved(addresses: u128) -> u128 {
    match addresses {
        0..=16 => 0,
        more => (more / 16).clamp(16, 256),
    }
}

/// A free address of the range, by chance: of the upper part as long as there is one.
fn free_of(range: Range, own: bool, taken: &dyn Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let (first, usable) = size(range);
    let not_given = if range.0.is_ipv4() { 2 } else { 1 };
    let low = reserved(usable.saturating_add(not_given)).min(usable);
    let parts = [(low + 1, usable), (1, low)];
    parts.into_iter().find_map(|(from, to)| {
        let count = (to + 1).checked_sub(from).filter(|n| *n > 0)?;
        let start = rand::rng().random_range(0..count);
        (0..count.min(CANDIDATES_MAX))
            .map(|n| from + (start + n) % count)
            .filter(|offset| !own || *offset != DNS_OFFSET)
            .map(|offset| at(range, first + offset))
            .find(|ip| !taken(*ip))
    })
}

/// An address of the family for the Service of this name: the one asked for, or a free one. `shown`: what it asks for in all;
/// `taken`: what other Services have, whether or not there is an IPAddress for it.
pub(crate) fn give(
    name: &str,
    asked: Option<&str>,
    family: &str,
    shown: &[String],
    taken: &HashSet<IpAddr>,
    lookup: &dyn Lookup,
) -> Result<IpAddr, Vec<FieldError>> {
    let invalid = |detail: String| {
        vec![FieldError::Invalid {
            field: "spec.clusterIPs".into(),
            value: json!(shown),
            detail,
        }]
    };
    let of_family = |range: &&Range| super::families::family_of(range.0) == family;
    let is_taken = |ip: IpAddr| {
        let name = ip.to_string();
        taken.contains(&ip) || lookup.get(GROUP, "ipaddresses", "", &name).is_some()
    };
    let ranges = ranges(lookup);
    let Some(asked) = asked else {
        let own = own(lookup);
        let free = ranges
            .iter()
            .filter(of_family)
            .find_map(|range| free_of(*range, own.contains(range), &is_taken));
        return free.ok_or_else(|| {
            let detail =
                format!("failed to allocate a serviceIP for Service {name:?}: range is full");
            vec![FieldError::Internal {
                field: "spec.clusterIPs".into(),
                detail,
            }]
        });
    };
    let refuse = |detail: String| Err(invalid(format!("failed to allocate IP {asked}: {detail}")));
    let Ok(ip) = asked.parse::<IpAddr>() else {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        return Err(invalid(detail.into()));
    };
    if !ranges.iter().any(|range| gives(*range, ip)) {
        return refuse("the provided network does not match the current range".into());
    }
    if is_taken(ip) {
        return refuse("provided IP is already allocated".into());
    }
    Ok(ip)
}

/// The addresses that a Service holds.
pub(crate) fn held(service: &Value) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = items(service, "/spec/clusterIPs")
        .iter()
        .filter_map(|ip| ip.as_str()?.parse().ok())
        .collect();
    if all.is_empty() {
        all.extend(text(service, "/spec/clusterIP").parse::<IpAddr>());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(cidr: &str) -> Range {
        parse(cidr).unwrap()
    }

    #[test]
    fn all_of_a_range_is_given_the_lower_part_last() {
        for (cidr, upper, lower) in [
            ("10.0.0.0/24", 238, 16),
            ("10.0.0.0/28", 14, 0),
            ("10.0.0.0/30", 2, 0),
            ("10.0.0.0/31", 0, 0),
            ("10.0.0.0/32", 0, 0),
            ("fd00::/112", 65535 - 256, 256),
            ("fd00::/124", 15, 0),
        ] {
            let mut given = HashSet::new();
            let mut last = vec![];
            while let Some(ip) = free_of(range(cidr), false, &|ip| given.contains(&ip)) {
                assert!(gives(range(cidr), ip) && given.insert(ip), "{cidr}: {ip}");
                last.push(ip);
                if given.len() > 300 {
                    break; // enough of a large range
                }
            }
            let wanted = (upper + lower).min(301);
            assert_eq!(given.len(), wanted, "{cidr}");
            let (first, _) = size(range(cidr));
            let is_lower = |ip: &&IpAddr| number(**ip) - first <= lower as u128;
            let early = last.iter().take(upper.min(301)).filter(is_lower).count();
            assert_eq!(early, 0, "{cidr}");
        }
    }

    #[test]
    fn addresses_are_of_their_ranges() {
        for (cidr, ip, wanted) in [
            ("10.0.0.0/24", "10.0.0.0", false),
            ("10.0.0.0/24", "10.0.0.1", true),
            ("10.0.0.0/24", "10.0.0.254", true),
            ("10.0.0.0/24", "10.0.0.255", false),
            ("10.0.0.0/24", "10.0.1.0", false),
            ("0.0.0.0/0", "255.255.255.254", true),
            ("10.0.0.0/24", "fd00::1", false),
            ("fd00::/64", "fd00::ffff:1", true),
            ("fd00::/64", "fd00:0:0:1::", false),
            ("fd00::/64", "fd00::ffff:ffff:ffff:ffff", true),
            ("fd00::1/128", "fd00::1", false),
        ] {
            assert_eq!(
                gives(range(cidr), ip.parse().unwrap()),
                wanted,
                "{cidr} {ip}"
            );
        }
    }
}
