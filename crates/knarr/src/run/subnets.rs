//! Networks with subnets: what `network create` says of them, and which address a container has there.
//!
//! A container has such an address beside its own, while it runs; the next one may have it then.

use super::{
    networks::{self, Own},
    record::{Home, Joined, Record},
};
use crate::error::Error;
use clap::Args;
use knarr_docker::{NoAddress, Pool, Range};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr},
};

#[derive(Args, Default)]
pub struct SubnetArguments {
    /// A range of private addresses, e.g. 172.28.0.0/16; may be repeated
    #[arg(long, value_name = "RANGE")]
    subnet: Vec<String>,
    /// Which part of the subnet containers get addresses of
    #[arg(long, value_name = "RANGE")]
    ip_range: Vec<String>,
    /// An address of the subnet that no container gets
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// NAME=ADDRESS, another that no container gets
    #[arg(long, value_name = "NAME=ADDRESS")]
    aux_address: Vec<String>,
}

impl SubnetArguments {
    /// Each with what belongs to it.
    ///
    /// SOURCE: docker/cli `cli/command/network/create.go` createIPAMConfig
    ///
    /// # Errors
    /// What can't be read, or belongs to none.
    pub fn read(&self) -> Result<Vec<Pool>, Error> {
        let bad = |why: String| Error::Failed(why);
        if self.subnet.len() < self.ip_range.len() || self.subnet.len() < self.gateway.len() {
            return Err(bad(
                "every ip-range or gateway must have a corresponding subnet".into(),
            ));
        }
        let mut configs: Vec<serde_json::Value> = Vec::new();
        for subnet in &self.subnet {
            let range = Range::parse(subnet);
            let overlaps = |c: &serde_json::Value| {
                let other = c["Subnet"].as_str().and_then(Range::parse);
                range.zip(other).is_some_and(|(a, b)| a.overlaps(b))
            };
            if configs.iter().any(overlaps) {
                return Err(bad(
                    "multiple overlapping subnet configuration is not supported".into(),
                ));
            }
            configs.push(json!({ "Subnet": subnet }));
        }
        let mut put = |what: &str,
                       said: &str,
                       ip: Option<IpAddr>,
                       key: &str,
                       name: Option<&str>| {
            let holds = |c: &&mut serde_json::Value| {
                let subnet = c["Subnet"].as_str().and_then(Range::parse);
                matches!((subnet, ip), (Some(subnet), Some(IpAddr::V4(ip))) if subnet.contains(ip))
            };
            let found = configs.iter_mut().find(holds);
            let found =
                found.ok_or_else(|| bad(format!("no matching subnet for {what} {said}")))?;
            match name {
                Some(name) => found[key][name] = json!(said),
                None if !found[key].is_null() => {
                    return Err(bad(format!(
                        "cannot configure multiple {what}s on the same subnet"
                    )));
                }
                None => found[key] = json!(said),
            }
            Ok(())
        };
        for said in &self.ip_range {
            let first = Range::parse(said).map(|r| r.ip().into());
            put("range", said, first, "IPRange", None)?;
        }
        for said in &self.gateway {
            put("gateway", said, said.parse().ok(), "Gateway", None)?;
        }
        for said in &self.aux_address {
            let (name, ip) = said
                .split_once('=')
                .ok_or_else(|| bad(format!("invalid argument {said:?} for \"--aux-address\" flag: must be formatted as key=value")))?;
            put(
                "aux-address",
                ip,
                ip.parse().ok(),
                "AuxiliaryAddresses",
                Some(name),
            )?;
        }
        let ipam = json!({ "Config": configs });
        knarr_docker::subnets(ipam.as_object().cloned().unwrap_or_default()).map_err(bad)
    }
}

/// Sees that a new network's subnets are nobody else's and lead nowhere. The lock is held.
///
/// # Errors
/// When they do.
pub fn check_free(home: &Home, pools: &[Pool]) -> Result<(), Error> {
    if pools.is_empty() {
        return Ok(());
    }
    let own = Range::parse(&format!("{}/16", home.settings()?.base));
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let mut taken: Vec<Range> = super::record::routed(&routes)
        .into_iter()
        // those of one address are links to containers
        .filter(|(_, mask)| *mask != u32::MAX)
        .filter_map(|(base, mask)| {
            Range::parse(&format!("{}/{}", Ipv4Addr::from(base), mask.leading_ones()))
        })
        .collect();
    taken.extend(own);
    let others = networks::all(home);
    taken.extend(others.iter().flat_map(|n| &n.pools).map(|p| p.subnet));
    match pools
        .iter()
        .any(|p| taken.iter().any(|t| t.overlaps(p.subnet)))
    {
        true => Err(Error::Failed(
            "invalid pool request: Pool overlaps with other one on this address space".into(),
        )),
        false => Ok(()),
    }
}

/// Sees that an address that is asked for can be one of the network's.
///
/// SOURCE: moby `daemon/container_operations.go` validateEndpointSettings
///
/// # Errors
/// When it can't.
pub fn check_asked(place: &Joined, network: &Own) -> Result<(), Error> {
    let Some(ip) = place.asked else {
        return Ok(());
    };
    let why = match network.pools.as_slice() {
        [] => "user specified IP address is supported only when connecting to networks with user configured subnets".to_string(),
        pools if pools.iter().any(|p| p.subnet.contains(ip)) => return Ok(()),
        _ => format!("no configured subnet or ip-range contain the IP address {ip}"),
    };
    Err(Error::Input(format!(
        "invalid config for network {}: invalid endpoint settings:\n{why}",
        network.name
    )))
}

/// Gives a container that starts its addresses. The lock is held.
///
/// # Errors
/// When one can't be had.
pub fn give(home: &Home, record: &mut Record) -> Result<(), Error> {
    if record.networks.is_empty() {
        return Ok(());
    }
    let networks = networks::all(home);
    let of = |id: &str| networks.iter().find(|n| n.id == id);
    if !record
        .networks
        .iter()
        .any(|p| of(&p.id).is_some_and(|n| !n.pools.is_empty()))
    {
        return Ok(());
    }
    let others: Vec<Record> = home
        .all()
        .into_iter()
        .filter(|r| r.id != record.id)
        .collect();
    for place in &mut record.networks {
        let Some(network) = of(&place.id).filter(|n| !n.pools.is_empty()) else {
            (place.address, place.subnet) = (None, None);
            continue;
        };
        let there = |running: bool| {
            let id = &place.id;
            let all = others
                .iter()
                .filter(move |r| r.address.is_some() || !running);
            all.flat_map(move |r| r.networks.iter().filter(move |n| n.id == *id))
        };
        let held: BTreeSet<Ipv4Addr> = there(true).filter_map(|n| n.address).collect();
        let wished: BTreeSet<Ipv4Addr> = there(false).filter_map(|n| n.asked).collect();
        let picked =
            knarr_docker::pick_address(&network.pools, place.asked, place.address, &held, &wished);
        let (pool, ip) = picked.map_err(|none| {
            Error::Failed(match none {
                NoAddress::InUse => "failed to set up container networking: Address already in use".into(),
                NoAddress::Full => format!(
                    "failed to set up container networking: no available IPv4 addresses on this network's address pools: {} ({})",
                    network.name, network.id
                ),
            })
        })?;
        place.address = Some(ip);
        place.subnet = Some((pool.subnet.bits(), pool.gateway));
    }
    Ok(())
}

/// A container's addresses in subnets, each with the bits of its subnet.
pub fn addresses(record: &Record) -> impl Iterator<Item = (&str, (Ipv4Addr, u8))> {
    record.networks.iter().filter_map(|place| {
        let (ip, (bits, _)) = place.address.zip(place.subnet)?;
        Some((place.id.as_str(), (ip, bits)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_create_says_of_subnets() {
        let all = |texts: &str| {
            texts
                .split_whitespace()
                .map(str::to_string)
                .collect::<Vec<_>>()
        };
        for (subnet, range, gateway, aux, wanted) in [
            ("", "", "", "", Ok("")),
            ("172.28.0.0/16", "", "", "", Ok("172.28.0.0/16 172.28.0.1")),
            (
                "172.28.0.0/16 10.9.0.0/24",
                "172.28.5.0/24",
                "10.9.0.254",
                "a=10.9.0.2",
                Ok("172.28.0.0/16 172.28.5.1, 10.9.0.0/24 10.9.0.254"),
            ),
            (
                "nope",
                "",
                "",
                "",
                Err("invalid subnet nope: invalid CIDR block notation"),
            ),
            (
                "172.28.0.1/16",
                "",
                "",
                "",
                Err("it should be 172.28.0.0/16"),
            ),
            (
                "",
                "",
                "10.9.0.1",
                "",
                Err("every ip-range or gateway must have"),
            ),
            (
                "10.9.0.0/24",
                "",
                "10.8.0.1",
                "",
                Err("no matching subnet for gateway 10.8.0.1"),
            ),
            (
                "10.9.0.0/24",
                "",
                "",
                "a=10.8.0.1",
                Err("no matching subnet for aux-address 10.8.0.1"),
            ),
            (
                "10.9.0.0/24 10.9.0.0/16",
                "",
                "",
                "",
                Err("multiple overlapping subnet"),
            ),
            (
                "10.9.0.0/24 10.8.0.0/24",
                "",
                "10.9.0.1 10.9.0.2",
                "",
                Err("cannot configure multiple gateways"),
            ),
        ] {
            let arguments = SubnetArguments {
                subnet: all(subnet),
                ip_range: all(range),
                gateway: all(gateway),
                aux_address: all(aux),
            };
            let got = arguments.read().map(|pools| {
                let one = |p: &Pool| format!("{} {}", p.subnet, p.gateway);
                pools.iter().map(one).collect::<Vec<_>>().join(", ")
            });
            match (got, wanted) {
                (Ok(got), Ok(wanted)) => assert_eq!(got, wanted, "{subnet}"),
                (Err(got), Err(part)) => assert!(got.to_string().contains(part), "{subnet}: {got}"),
                (got, _) => panic!("{subnet} {range} {gateway}: {got:?}"),
            }
        }
    }
}
