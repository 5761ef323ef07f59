//! The two address families: each has a table of its own, of the same shape.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(ip: IpAddr) -> Family {
        match ip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// NFPROTO_IPV4, NFPROTO_IPV6
    pub(crate) fn number(self) -> u8 {
        match self {
            Family::V4 => 2,
            Family::V6 => 10,
        }
    }

    /// Length of an address, in bytes.
    pub(crate) fn bytes(self) -> u32 {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }

    /// 32-bit registers that an address takes.
    pub(crate) fn words(self) -> u32 {
        self.bytes() / 4
    }

    pub(crate) fn unspecified(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// The address in the first bytes.
    pub(crate) fn read(self, bytes: &[u8]) -> Option<IpAddr> {
        match self {
            Family::V4 => <[u8; 4]>::try_from(bytes.get(..4)?).ok().map(IpAddr::from),
            Family::V6 => <[u8; 16]>::try_from(bytes.get(..16)?)
                .ok()
                .map(IpAddr::from),
        }
    }
}

/// An address as it is in a packet.
pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The first `prefix` bits set, as long as an address of the family.
pub(crate) fn mask(family: Family, prefix: u8) -> Vec<u8> {
    (0..family.bytes())
        .map(|at| {
            let bits = u32::from(prefix).saturating_sub(at * 8).min(8);
            (0xff00u32 >> bits) as u8
        })
        .collect()
}

/// Is `ip` in the range?
pub(crate) fn within((base, prefix): (IpAddr, u8), ip: IpAddr) -> bool {
    let family = Family::of(base);
    family == Family::of(ip)
        && mask(family, prefix)
            .iter()
            .zip(octets(base).iter().zip(octets(ip)))
            .all(|(mask, (a, b))| a & mask == b & mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_ranges() {
        for (prefix, expected) in [
            (0, [0, 0, 0, 0]),
            (8, [255, 0, 0, 0]),
            (13, [255, 248, 0, 0]),
            (32, [255; 4]),
        ] {
            assert_eq!(mask(Family::V4, prefix), expected, "/{prefix}");
        }
        assert_eq!(mask(Family::V6, 65)[7..9], [255, 128]);
        for (base, prefix, ip, inside) in [
            ("10.42.0.0", 16, "10.42.255.1", true),
            ("10.42.0.0", 16, "10.43.0.1", false),
            ("0.0.0.0", 0, "1.2.3.4", true),
            ("fd00:1::", 32, "fd00:1:2::3", true),
            ("fd00:1::", 32, "fd00:2::3", false),
            ("0.0.0.0", 0, "::1", false),
        ] {
            let range = (base.parse().unwrap(), prefix);
            assert_eq!(
                within(range, ip.parse().unwrap()),
                inside,
                "{ip} in {base}/{prefix}"
            );
        }
    }
}
