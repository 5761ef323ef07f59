//! Subnets of networks, and containers' addresses in them.
//!
//! A container has such an address besides its Pod's: the Pod's annotation asks the node for it. It is given at each start
//! and free again when the container has ended, so that a container may take another's place with its address.

use super::{Endpoint, Network};
use crate::{
    containers::Entry,
    daemon::Daemon,
    error::{Fault, Result},
    http::Fields,
    record::Record,
    state::Status,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

/// What the node is to give the Pod: addresses with the bits of their ranges.
const ADDRESSES: &str = "knarr.dev/addresses";
const MAC: &str = "knarr.dev/mac-address";

/// A range of addresses, written as `172.28.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range {
    first: Ipv4Addr,
    bits: u8,
}

impl Range {
    /// The address it was made with: an endpoint's.
    pub fn ip(self) -> Ipv4Addr {
        self.first
    }
    pub fn bits(self) -> u8 {
        self.bits
    }
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0)
    }
    /// Its first address is the range's.
    pub fn masked(self) -> Range {
        Range {
            first: Ipv4Addr::from(u32::from(self.first) & self.mask()),
            bits: self.bits,
        }
    }
    fn last(self) -> u32 {
        u32::from(self.first) | !self.mask()
    }
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.first) & self.mask()
    }
    pub fn overlaps(self, other: Range) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }
    pub fn parse(text: &str) -> Option<Range> {
        let (first, bits) = text.split_once('/')?;
        let bits: u8 = bits.parse().ok()?;
        let first = first.parse().ok()?;
        (bits <= 32).then_some(Range { first, bits })
    }
}

impl TryFrom<String> for Range {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Range, String> {
        Range::parse(&text).ok_or(text)
    }
}

impl From<Range> for String {
    fn from(range: Range) -> String {
        range.to_string()
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub subnet: Range,
    /// Where addresses are chosen; `--ip-range`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
    pub gateway: Ipv4Addr,
    /// Addresses that no container gets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub auxiliary: BTreeMap<String, Ipv4Addr>,
}

impl Pool {
    /// As in `IPAM.Config`.
    pub fn shown(&self) -> Value {
        let mut shown = json!({ "Subnet": self.subnet, "Gateway": self.gateway });
        if let Some(range) = self.range {
            shown["IPRange"] = json!(range);
        }
        if !self.auxiliary.is_empty() {
            shown["AuxiliaryAddresses"] = json!(self.auxiliary);
        }
        shown
    }
}

/// Reads `IPAM` of a request. SOURCE: moby `api/types/network/ipam.go` ValidateIPAM.
pub fn read(ipam: Map<String, Value>) -> Result<Vec<Pool>> {
    let mut f = Fields::new(ipam, "IPAM");
    let mut pools = Vec::new();
    let mut wrong = Vec::new();
    for config in f.list("Config")? {
        match pool(&config)? {
            Ok(pool) => pools.extend(pool),
            Err(mut why) => wrong.append(&mut why),
        }
    }
    if let Some(driver) = f.text("Driver")?.filter(|d| d != "default") {
        return Err(Fault::unsupported(format!("--ipam-driver={driver}")));
    }
    if let Some((option, _)) = f.strings("Options")?.into_iter().next() {
        return Err(Fault::unsupported(format!("--ipam-opt {option}")));
    }
    f.finish()?;
    match wrong.is_empty() {
        true => Ok(pools),
        false => Err(Fault::bad(format!(
            "invalid network config:\n{}",
            wrong.join("\n")
        ))),
    }
}

type Checked = std::result::Result<Option<Pool>, Vec<String>>;

fn pool(config: &Value) -> Result<Checked> {
    let map = config.as_object().cloned().unwrap_or_default();
    let mut f = Fields::new(map, "IPAM.Config");
    let mut text = |key: &str| f.text(key).map(Option::unwrap_or_default);
    let (subnet, range, gateway) = (text("Subnet")?, text("IPRange")?, text("Gateway")?);
    let auxiliary = f.strings("AuxiliaryAddresses")?;
    f.finish()?;
    if subnet.is_empty() && range.is_empty() && gateway.is_empty() && auxiliary.is_empty() {
        return Ok(Ok(None));
    }
    if let Some((ip, _)) = subnet.split_once('/')
        && ip.parse::<std::net::Ipv6Addr>().is_ok()
    {
        return Err(Fault::unsupported(format!(
            "--subnet {subnet} (IPAM.Config.Subnet; subnets of IPv4 are)"
        )));
    }
    let Some(given) = Range::parse(&subnet) else {
        let why = format!("invalid subnet {subnet}: invalid CIDR block notation");
        return Ok(Err(vec![why]));
    };
    let subnet = given.masked();
    let mut wrong = Vec::new();
    if given != subnet {
        wrong.push(format!("invalid subnet {given}: it should be {subnet}"));
    }
    if !subnet.first.is_private() || subnet.bits < 8 || subnet.bits > 30 {
        return Err(Fault::unsupported(format!(
            "--subnet {subnet} (IPAM.Config.Subnet; those with 8 to 30 bits in 10.0.0.0/8, 172.16.0.0/12 and 192.168.0.0/16 are)"
        )));
    }
    let inside = |text: &str| match text.parse::<IpAddr>() {
        Err(_) => Err("invalid address".to_string()),
        Ok(IpAddr::V6(_)) => Err("parent subnet is an IPv4 block".into()),
        Ok(IpAddr::V4(ip)) if subnet.contains(ip) => Ok(ip),
        Ok(_) => Err(format!(
            "parent subnet {subnet} doesn't contain this address"
        )),
    };
    let range = match Range::parse(&range) {
        None if range.is_empty() => None,
        None => {
            wrong.push(format!(
                "invalid ip-range {range}: invalid CIDR block notation"
            ));
            None
        }
        Some(range) => {
            let why = match () {
                () if range.bits < subnet.bits => Some(format!(
                    "CIDR block is bigger than its parent subnet {subnet}"
                )),
                () if range != range.masked() => Some(format!("it should be {}", range.masked())),
                () if !subnet.overlaps(range) => {
                    Some(format!("parent subnet {subnet} doesn't contain ip-range"))
                }
                () => None,
            };
            wrong.extend(why.map(|why| format!("invalid ip-range {range}: {why}")));
            Some(range)
        }
    };
    let first = Ipv4Addr::from(u32::from(range.unwrap_or(subnet).first) + 1);
    let gateway = match gateway.is_empty() {
        true => first,
        false => inside(&gateway).unwrap_or_else(|why| {
            wrong.push(format!("invalid gateway {gateway}: {why}"));
            first
        }),
    };
    let mut kept = BTreeMap::new();
    for (name, address) in auxiliary {
        match inside(&address) {
            Ok(ip) => drop(kept.insert(name, ip)),
            Err(why) => wrong.push(format!("invalid auxiliary address {name}: {why}")),
        }
    }
    Ok(match wrong.is_empty() {
        true => Ok(Some(Pool {
            subnet,
            range,
            gateway,
            auxiliary: kept,
        })),
        false => Err(wrong),
    })
}

/// Sees that a new network's subnets are nobody else's.
pub fn check_free(daemon: &Daemon, pools: &[Pool], all: &[Network]) -> Result<()> {
    let platform = daemon.pod_ranges.iter().filter_map(|r| Range::parse(r));
    let others = all.iter().flat_map(|n| &n.pools).map(|pool| pool.subnet);
    let taken: Vec<Range> = platform.chain(others).collect();
    let both = |(at, pool): (usize, &Pool)| {
        let beside = pools.iter().take(at).map(|p| p.subnet);
        let mut all = taken.iter().copied().chain(beside);
        all.any(|other| other.overlaps(pool.subnet))
    };
    match pools.iter().enumerate().any(both) {
        true => Err(Fault::forbidden(
            "invalid pool request: Pool overlaps with other one on this address space",
        )),
        false => Ok(()),
    }
}

/// Sees that the address an endpoint asks for can be one of its network's.
/// SOURCE: moby `daemon/container_operations.go` validateEndpointSettings, `api/types/network/endpoint.go` IsInRange.
pub fn check_asked(endpoint: &Endpoint, network: &Network) -> Result<()> {
    let Some(ip) = endpoint.asked else {
        return Ok(());
    };
    let why = match network {
        n if !n.is_own() => {
            "user specified IP address is supported on user defined networks only".to_string()
        }
        n if n.pools.is_empty() => {
            "user specified IP address is supported only when connecting to networks with user configured subnets".into()
        }
        n if !n.pools.iter().any(|pool| pool.subnet.contains(ip)) => {
            format!("no configured subnet or ip-range contain the IP address {ip}")
        }
        _ => return Ok(()),
    };
    Err(Fault::bad(format!("invalid endpoint settings:\n{why}")))
}

/// Whether a container has its addresses now.
fn holds(entry: &Entry) -> bool {
    !entry.gated() && entry.state().status != Status::Exited
}

/// Gives the container addresses in those of its networks that have subnets, for the run that is about to begin.
/// [`Daemon::giving`] is held until that is written down.
pub fn give(daemon: &Daemon, record: &mut Record, all: &[Network]) -> Result<()> {
    let others = daemon.containers.all();
    let id = record.id.clone();
    let others = others.iter().filter(|e| e.record.id != id);
    let others: Vec<(bool, &Endpoint)> = others
        .flat_map(|e| e.record.endpoints.iter().map(|p| (holds(e), p)))
        .collect();
    for endpoint in &mut record.endpoints {
        let network = all.iter().find(|n| n.id == endpoint.network_id);
        let Some(network) = network.filter(|n| !n.pools.is_empty()) else {
            (endpoint.address, endpoint.gateway) = (None, None);
            continue;
        };
        let there = others.iter().filter(|(_, e)| e.network_id == network.id);
        let held: BTreeSet<Ipv4Addr> = there
            .clone()
            .filter(|(holds, _)| *holds)
            .filter_map(|(_, e)| e.address.map(|a| a.first))
            .collect();
        let wished: BTreeSet<Ipv4Addr> = there.filter_map(|(_, e)| e.asked).collect();
        let (pool, ip) = choose(network, endpoint, &held, &wished)?;
        endpoint.address = Some(Range {
            first: ip,
            bits: pool.subnet.bits,
        });
        endpoint.gateway = Some(pool.gateway);
    }
    Ok(())
}

/// [`pick`] for an endpoint.
fn choose<'a>(
    network: &'a Network,
    endpoint: &Endpoint,
    held: &BTreeSet<Ipv4Addr>,
    wished: &BTreeSet<Ipv4Addr>,
) -> Result<(&'a Pool, Ipv4Addr)> {
    let former = endpoint.address.map(|a| a.first);
    pick(&network.pools, endpoint.asked, former, held, wished).map_err(|none| {
        Fault::forbidden(match none {
            NoAddress::InUse => {
                "failed to set up container networking: Address already in use".to_string()
            }
            NoAddress::Full => format!(
                "failed to set up container networking: no available IPv4 addresses on this network's address pools: {} ({})",
                network.name, network.id
            ),
        })
    })
}

/// Why no address can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAddress {
    /// The one asked for is somebody's.
    InUse,
    Full,
}

/// The address asked for; else the one it had; else the lowest that nobody has or wants.
///
/// # Errors
/// When there is none.
pub fn pick<'a>(
    pools: &'a [Pool],
    asked: Option<Ipv4Addr>,
    former: Option<Ipv4Addr>,
    held: &BTreeSet<Ipv4Addr>,
    wished: &BTreeSet<Ipv4Addr>,
) -> std::result::Result<(&'a Pool, Ipv4Addr), NoAddress> {
    let of = |ip: Ipv4Addr| pools.iter().find(|pool| pool.subnet.contains(ip));
    let kept = |pool: &Pool, ip: Ipv4Addr| {
        ip == pool.gateway
            || ip == pool.subnet.first
            || u32::from(ip) == pool.subnet.last()
            || pool.auxiliary.values().any(|a| *a == ip)
    };
    if let Some(ip) = asked {
        let pool = of(ip).filter(|pool| !kept(pool, ip) && !held.contains(&ip));
        return pool.map(|pool| (pool, ip)).ok_or(NoAddress::InUse);
    }
    let free =
        |pool: &Pool, ip: Ipv4Addr| !kept(pool, ip) && !held.contains(&ip) && !wished.contains(&ip);
    if let Some(former) = former
        && let Some(pool) = of(former).filter(|pool| free(pool, former))
    {
        return Ok((pool, former));
    }
    for pool in pools {
        let range = pool.range.unwrap_or(pool.subnet);
        // as many as are kept, held and wished may be passed over, and then one is free
        let mut all = (u32::from(range.first)..=range.last()).map(Ipv4Addr::from);
        if let Some(ip) = all.find(|ip| free(pool, *ip)) {
            return Ok((pool, ip));
        }
    }
    Err(NoAddress::Full)
}

/// What the Pod's annotations say of it to the node; null takes them away.
pub fn annotations(record: &Record) -> Map<String, Value> {
    let all = record.endpoints.iter().filter_map(|e| e.address);
    let all: Vec<String> = all.map(|a| a.to_string()).collect();
    let mac = record.endpoints.iter().find(|e| !e.mac.is_empty());
    let addresses = (!all.is_empty()).then(|| all.join(" "));
    [
        (ADDRESSES.to_string(), json!(addresses)),
        (MAC.to_string(), json!(mac.map(|e| &e.mac))),
    ]
    .into_iter()
    .collect()
}

/// Six bytes in hexadecimal, as Go's `net.ParseMAC` reads them.
pub fn mac(text: &str) -> Result<String> {
    let bad = || {
        Fault::bad(format!(
            "invalid MAC address {text:?}: address {text}: invalid MAC address"
        ))
    };
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let byte = |part: &&str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
    match parts.len() == 6 && parts.iter().all(byte) {
        true => Ok(parts.join(":").to_lowercase()),
        false => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(config: Value) -> Result<Vec<Pool>> {
        let ipam = json!({ "Driver": "default", "Config": [config] });
        read(ipam.as_object().unwrap().clone())
    }

    #[test]
    fn what_subnets_may_say() {
        for (config, want) in [
            (json!({}), Ok("")),
            (
                json!({ "Subnet": "172.28.0.0/16" }),
                Ok("172.28.0.0/16 172.28.0.1"),
            ),
            (
                json!({ "Subnet": "172.28.0.0/16", "IPRange": "172.28.5.0/24", "Gateway": "172.28.5.254" }),
                Ok("172.28.0.0/16 172.28.5.254"),
            ),
            (
                json!({ "Subnet": "172.28.0.1/16" }),
                Err("invalid subnet 172.28.0.1/16: it should be 172.28.0.0/16"),
            ),
            (
                json!({ "Subnet": "172.28.0.0/33" }),
                Err("invalid subnet 172.28.0.0/33: invalid CIDR block notation"),
            ),
            (
                json!({ "Gateway": "172.28.0.1" }),
                Err("invalid subnet : invalid CIDR block notation"),
            ),
            (
                json!({ "Subnet": "10.1.0.0/16", "Gateway": "10.2.0.1" }),
                Err(
                    "invalid gateway 10.2.0.1: parent subnet 10.1.0.0/16 doesn't contain this address",
                ),
            ),
            (
                json!({ "Subnet": "10.1.0.0/24", "IPRange": "10.1.0.0/16" }),
                Err(
                    "invalid ip-range 10.1.0.0/16: CIDR block is bigger than its parent subnet 10.1.0.0/24",
                ),
            ),
            (
                json!({ "Subnet": "10.1.0.0/24", "AuxiliaryAddresses": { "a": "x" } }),
                Err("invalid auxiliary address a: invalid address"),
            ),
            (
                json!({ "Subnet": "8.8.8.0/24" }),
                Err("--subnet 8.8.8.0/24"),
            ),
            (
                json!({ "Subnet": "2001:db8::/64" }),
                Err("--subnet 2001:db8::/64"),
            ),
        ] {
            match (read_one(config.clone()), want) {
                (Ok(pools), Ok(want)) => {
                    let shown = pools.iter().map(|p| format!("{} {}", p.subnet, p.gateway));
                    assert_eq!(shown.collect::<String>(), want, "{config}");
                }
                (Err(fault), Err(want)) => {
                    assert!(fault.message.contains(want), "{config}: {}", fault.message);
                }
                (got, want) => panic!("{config}: {got:?}, wanted {want:?}"),
            }
        }
    }

    #[test]
    fn which_address_is_given() {
        let pools =
            read_one(json!({ "Subnet": "10.9.0.0/29", "AuxiliaryAddresses": { "a": "10.9.0.2" } }));
        let network = Network {
            pools: pools.unwrap(),
            ..Network::always("x")
        };
        let ips = |list: &[u8]| {
            list.iter()
                .map(|n| Ipv4Addr::new(10, 9, 0, *n))
                .collect::<BTreeSet<_>>()
        };
        for (asked, former, held, wished, want) in [
            (None, None, &[][..], &[][..], Some(3)),
            (None, None, &[3], &[4], Some(5)),
            (None, Some(6), &[3], &[], Some(6)),
            (None, Some(3), &[3], &[], Some(4)),
            (None, Some(5), &[], &[5], Some(3)),
            (None, None, &[3, 4, 5], &[6], None),
            (Some(5), Some(3), &[3], &[5], Some(5)),
            (Some(5), None, &[5], &[], None),
            (Some(1), None, &[], &[], None),
            (Some(2), None, &[], &[], None),
        ] {
            let endpoint = Endpoint {
                asked: asked.map(|n| Ipv4Addr::new(10, 9, 0, n)),
                address: former.map(|n| Range {
                    first: Ipv4Addr::new(10, 9, 0, n),
                    bits: 29,
                }),
                ..Endpoint::default()
            };
            let got = choose(&network, &endpoint, &ips(held), &ips(wished));
            let got = got.ok().map(|(_, ip)| ip.octets()[3]);
            assert_eq!(got, want, "{asked:?} {former:?} {held:?} {wished:?}");
        }
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(mac("02-42-AC-11-00-02").unwrap(), "02:42:ac:11:00:02");
        for bad in ["", "02:42", "02:42:ac:11:00:zz", "02:42:ac:11:00:002"] {
            assert!(mac(bad).is_err(), "{bad:?}");
        }
    }
}
