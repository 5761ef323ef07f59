//! IPAddresses and ServiceCIDRs, as controllers see them.

use std::net::IpAddr;

use serde::Deserialize;

use super::meta::{Condition, Meta, nullable, object};

/// The label that tells whose an IPAddress is, and its value on those that the API server makes for Services.
pub const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
/// The label with the address's family.
pub const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// `networking.k8s.io/v1.IPAddress`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct IpAddress {
    /// metadata; the name is the address
    pub metadata: Meta,
    /// spec
    pub spec: IpAddressSpec,
}
object!(
    IpAddress,
    "networking.k8s.io",
    "v1",
    "ipaddresses",
    "IPAddress"
);

/// `networking.k8s.io/v1.IPAddressSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpAddressSpec {
    /// whose it is
    pub parent_ref: Parent,
}

/// `networking.k8s.io/v1.ParentReference`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Parent {
    /// group; empty for the core group
    pub group: Box<str>,
    /// e.g. `services`
    pub resource: Box<str>,
    /// namespace
    pub namespace: Box<str>,
    /// name
    pub name: Box<str>,
}

impl IpAddress {
    /// The address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.metadata.name.parse().ok()
    }
    /// The API server made it for a Service.
    pub fn of_services(&self) -> bool {
        self.metadata.labels.get(MANAGED_BY.0) == Some(MANAGED_BY.1)
    }
}

/// `networking.k8s.io/v1.ServiceCIDR`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidr {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: ServiceCidrSpec,
    /// status
    pub status: ServiceCidrStatus,
}
object!(
    ServiceCidr,
    "networking.k8s.io",
    "v1",
    "servicecidrs",
    "ServiceCIDR"
);

/// `networking.k8s.io/v1.ServiceCIDRSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidrSpec {
    /// one of a family, or one of each
    #[serde(deserialize_with = "nullable")]
    pub cidrs: Vec<Box<str>>,
}

/// `networking.k8s.io/v1.ServiceCIDRStatus`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidrStatus {
    /// Ready
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    base: u128,
    /// of 32 or 128
    bits: u32,
    six: bool,
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

impl Prefix {
    /// `10.0.0.0/8`
    pub fn parse(cidr: &str) -> Option<Prefix> {
        let (base, bits) = cidr.split_once('/')?;
        let (base, bits) = (base.parse::<IpAddr>().ok()?, bits.parse().ok()?);
        let six = base.is_ipv6();
        (bits <= if six { 128 } else { 32 }).then(|| Prefix {
            base: number(base),
            bits,
            six,
        })
    }
    /// How many addresses there are behind the first.
    fn last(&self) -> u128 {
        let free = if self.six { 128 } else { 32 } - self.bits;
        1_u128.checked_shl(free).map_or(u128::MAX, |n| n - 1)
    }
    /// Whether it gives the address: not its first, nor IPv4's broadcast (upstream's `servicecidr.PrefixContainsIP`).
    pub fn gives(&self, ip: IpAddr) -> bool {
        let offset = number(ip).wrapping_sub(self.base);
        let last = if self.six {
            self.last()
        } else {
            self.last().saturating_sub(1)
        };
        self.six == ip.is_ipv6() && offset > 0 && offset <= last
    }
    /// Whether all of the other is in it.
    pub fn contains(&self, other: &Prefix) -> bool {
        self.six == other.six
            && self.bits <= other.bits
            && other.base.wrapping_sub(self.base) <= self.last()
    }
    /// Whether they have an address in common.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        self.contains(other) || other.contains(self)
    }
}

impl ServiceCidr {
    /// Its ranges.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.spec.cidrs.iter().filter_map(|c| Prefix::parse(c))
    }
    /// Whether it gives the address.
    pub fn gives(&self, ip: IpAddr) -> bool {
        self.prefixes().any(|p| p.gives(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_they_should() {
        for (outer, inner, contains, overlaps) in [
            ("10.0.0.0/8", "10.1.0.0/16", true, true),
            ("10.1.0.0/16", "10.0.0.0/8", false, true),
            ("10.0.0.0/16", "10.0.0.0/16", true, true),
            ("10.0.0.0/16", "10.1.0.0/16", false, false),
            ("0.0.0.0/0", "255.255.255.255/32", true, true),
            ("::/0", "10.0.0.0/8", false, false),
            ("fd00::/64", "fd00::/112", true, true),
        ] {
            let [a, b] = [outer, inner].map(|c| Prefix::parse(c).unwrap());
            assert_eq!(
                (a.contains(&b), a.overlaps(&b)),
                (contains, overlaps),
                "{outer} {inner}"
            );
        }
        assert_eq!(Prefix::parse("10.0.0.0/33"), None);
        for (cidr, ip, wanted) in [
            ("10.0.0.0/30", "10.0.0.0", false),
            ("10.0.0.0/30", "10.0.0.2", true),
            ("10.0.0.0/30", "10.0.0.3", false),
            ("fd00::/126", "fd00::3", true),
            ("::/0", "ffff::", true),
        ] {
            assert_eq!(
                Prefix::parse(cidr).unwrap().gives(ip.parse().unwrap()),
                wanted,
                "{cidr} {ip}"
            );
        }
    }
}
