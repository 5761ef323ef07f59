//! Which addresses besides its own a Pod may have. A Pod says them itself, so they must not take anything from others.

use crate::{Config, Error, error::io, nft::family::within, place};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
};

const ROUTES: &str = "/proc/net/route";

/// # Errors
/// [`Error::Address`] for one that is not private, in a range of the cluster, or leads elsewhere.
pub(crate) fn check(config: &Config, all: &[(Ipv4Addr, u8)]) -> Result<(), Error> {
    if all.is_empty() {
        return Ok(());
    }
    let routes = place::within(config.place.as_ref(), || {
        fs::read_to_string("/proc/thread-self/net/route").map_err(io(ROUTES))
    })?;
    let ours = format!("kn{}", config.instance);
    for (address, bits) in all {
        let refuse = |why: &str| {
            Err(Error::Address {
                address: *address,
                why: why.into(),
            })
        };
        if !address.is_private() || *bits > 32 || *bits < 8 {
            return refuse("it is not in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16");
        }
        let ip = IpAddr::V4(*address);
        let mut plans = config.plans().into_iter();
        if plans.any(|plan| within(plan.cluster, ip) || within(plan.services, ip)) {
            return refuse("it is in the platform's own ranges");
        }
        if let Some(link) = elsewhere(&routes, &ours, *address) {
            return refuse(&format!("the machine reaches it over {link}"));
        }
    }
    Ok(())
}

/// The link that leads to the address, if it is neither one of ours nor the way to everywhere. Of the lines of
/// `/proc/net/route`: link, destination, gateway, flags, …, mask; numbers in the machine's byte order.
fn elsewhere<'a>(routes: &'a str, ours: &str, address: Ipv4Addr) -> Option<&'a str> {
    let line = |line: &'_ str| -> Option<(u32, u32)> {
        let mut words = line.split_whitespace().skip(1);
        let mut number =
            |at: usize| Some(u32::from_be(u32::from_str_radix(words.nth(at)?, 16).ok()?));
        Some((number(0)?, number(5)?))
    };
    let mut lines = routes.lines().skip(1);
    let found = lines.find(|text| {
        line(text).is_some_and(|(to, mask)| {
            mask != 0 && u32::from(address) & mask == to && !text.starts_with(ours)
        })
    });
    found.and_then(|text| text.split_whitespace().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_that_lead_elsewhere() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            knab12\t0A001CAC\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n\
            kncd34\t0B001CAC\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n\
            docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        for (address, want) in [
            ("192.168.1.7", Some("eth0")),
            ("192.168.2.7", None),
            ("172.28.0.10", None),
            ("172.28.0.11", Some("kncd34")),
            ("172.17.3.3", Some("docker0")),
            ("10.1.2.3", None),
        ] {
            assert_eq!(
                elsewhere(routes, "knab", address.parse().unwrap()),
                want,
                "{address}"
            );
        }
    }
}
