//! Who may use a published port: `loadBalancerSourceRanges`.

use std::{net::IpAddr, sync::Arc};

/// Ranges of addresses; none at all: everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clients(Arc<[(IpAddr, u8)]>);

impl Clients {
    /// From `ADDRESS/BITS` each; what isn't one (the API takes none) counts as a range that nobody is in.
    pub(crate) fn of(ranges: &[String]) -> Clients {
        let nobody = (IpAddr::from([255, 255, 255, 255]), 32);
        let all = ranges.iter().map(|range| {
            let read = || {
                let (address, bits) = range.trim().split_once('/')?;
                let address: IpAddr = address.parse().ok()?;
                let bits = bits.parse().ok()?;
                let most = if address.is_ipv4() { 32 } else { 128 };
                (bits <= most).then_some((address, bits))
            };
            read().unwrap_or(nobody)
        });
        Clients(all.collect())
    }

    pub(crate) fn admit(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.0.is_empty() || self.0.iter().any(|range| within(client, *range))
    }
}

fn within(address: IpAddr, (base, bits): (IpAddr, u8)) -> bool {
    let (a, b, width) = match (address, base) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    let host_bits = width - u32::from(bits);
    // a shift by the whole width is none in Rust
    (a ^ b).checked_shr(host_bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_admit_who_is_in_one() {
        for (ranges, client, wanted) in [
            (&[][..], "203.0.113.9", true),
            (&["203.0.113.0/24"], "203.0.113.9", true),
            (&["203.0.113.0/24"], "203.0.114.9", false),
            (&["203.0.113.0/24", " 192.0.2.7/32 "], "192.0.2.7", true),
            (&["0.0.0.0/0"], "192.0.2.7", true),
            (&["0.0.0.0/0"], "2001:db8::1", false),
            (&["203.0.113.0/24"], "::ffff:203.0.113.9", true),
            (&["2001:db8::/32"], "2001:db8:1::5", true),
            (&["2001:db8::/32"], "2001:db9::5", false),
            (&["::/0"], "2001:db9::5", true),
            (&["nonsense"], "203.0.113.9", false),
            (&["10.0.0.0/33"], "10.0.0.1", false),
        ] {
            let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            let got = Clients::of(&ranges).admit(client.parse().unwrap());
            assert_eq!(got, wanted, "{ranges:?} {client}");
        }
    }
}
