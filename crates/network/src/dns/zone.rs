//! What cluster names mean: pure, from the shared model of Services.
//!
//! Source: kubernetes/dns "Kubernetes DNS-Based Service Discovery" 1.1.0; where it is silent, CoreDNS' kubernetes plugin.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
    },
};

use crate::{
    nft::family::within,
    services::view::{Address, Endpoint, View, Views},
};

/// Seconds an answer may be kept, as CoreDNS does.
const TTL: u32 = 5;
/// Version of the specification, served as `dns-version.<domain>`.
const VERSION: &str = "1.1.0";

/// The zone's fixed facts.
pub(super) struct Zone {
    /// Labels of the cluster domain, lower case, from the left.
    domain: Vec<String>,
    domain_name: String,
    dns_ips: Vec<IpAddr>,
    /// Ranges whose reverse names are ours.
    ranges: Vec<(IpAddr, u8)>,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) records: Vec<Record>,
    /// Goes with empty answers (RFC 2308).
    pub(super) soa: Option<Record>,
    /// An alias whose target the asker wants resolved, too.
    pub(super) chase: Option<Name>,
}

enum Found {
    Records(Vec<RData>),
    Alias(String),
    /// The name exists, but has nothing of this type.
    NoData,
    NoName,
}

impl Zone {
    pub(super) fn new(domain: &str, dns_ips: Vec<IpAddr>, ranges: Vec<(IpAddr, u8)>) -> Zone {
        let domain_name = domain.trim_matches('.').to_ascii_lowercase();
        Zone {
            domain: domain_name.split('.').map(str::to_string).collect(),
            domain_name,
            dns_ips,
            ranges,
        }
    }

    /// None for a name that isn't the cluster's.
    pub(super) fn answer(&self, views: &Views, query: &Query) -> Option<Answer> {
        let labels = query
            .name()
            .iter()
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect::<Vec<_>>();
        let found = if let Some(rest) = labels.strip_suffix(&self.domain[..]) {
            self.forward(views, rest, query.query_type())
        } else {
            let ip = reverse(&labels)?;
            if !self.ranges.iter().any(|range| within(*range, ip)) {
                return None;
            }
            self.backward(views, ip, query.query_type())
        };
        Some(self.shape(query, found))
    }

    fn shape(&self, query: &Query, found: Found) -> Answer {
        let record = |data| {
            let mut record = Record::from_rdata(query.name().clone(), TTL, data);
            record.dns_class = DNSClass::IN;
            record
        };
        let mut answer = Answer {
            code: ResponseCode::NoError,
            records: Vec::new(),
            soa: None,
            chase: None,
        };
        match found {
            Found::Records(data) => answer.records = data.into_iter().map(record).collect(),
            Found::Alias(target) => match Name::from_ascii(format!("{target}.")) {
                Ok(name) => {
                    answer.records = vec![record(RData::CNAME(CNAME(name.clone())))];
                    if query.query_type() != RecordType::CNAME {
                        answer.chase = Some(name);
                    }
                }
                Err(_) => answer.code = ResponseCode::ServFail,
            },
            Found::NoData => answer.soa = self.soa(),
            Found::NoName => {
                answer.code = ResponseCode::NXDomain;
                answer.soa = self.soa();
            }
        }
        answer
    }

    fn name(&self, prefix: &str) -> Option<Name> {
        Name::from_ascii(format!("{prefix}{}.", self.domain_name)).ok()
    }

    fn soa(&self) -> Option<Record> {
        let soa = SOA::new(
            self.name("ns.dns.")?,
            self.name("hostmaster.")?,
            1,
            7200,
            1800,
            86400,
            TTL,
        );
        Some(Record::from_rdata(self.name("")?, TTL, RData::SOA(soa)))
    }

    fn forward(&self, views: &Views, rest: &[String], kind: RecordType) -> Found {
        let rest = rest.iter().map(String::as_str).collect::<Vec<_>>();
        match rest[..] {
            [] => match (kind, self.soa(), self.name("ns.dns.")) {
                (RecordType::SOA, Some(soa), _) => Found::Records(vec![soa.data]),
                (RecordType::NS, _, Some(ns)) => Found::Records(vec![RData::NS(NS(ns))]),
                _ => Found::NoData,
            },
            ["dns-version"] if kind == RecordType::TXT => {
                Found::Records(vec![RData::TXT(TXT::new(vec![VERSION.into()]))])
            }
            ["dns-version"] | ["svc"] | ["pod"] | ["dns"] => Found::NoData,
            ["ns", "dns"] => addresses(kind, self.dns_ips.iter().copied()),
            [ref inner @ .., "svc"] => self.service(views, inner, kind),
            [namespace, "pod"] if views.contains_key(namespace) => Found::NoData,
            [ip, _, "pod"] => match dashed(ip) {
                Some(ip) => addresses(kind, [ip]),
                None => Found::NoName,
            },
            _ => Found::NoName,
        }
    }

    fn service(&self, views: &Views, inner: &[&str], kind: RecordType) -> Found {
        let Some((namespace, inner)) = inner.split_last() else {
            return Found::NoData;
        };
        let Some(services) = views.get(*namespace) else {
            return Found::NoName;
        };
        let Some((name, inner)) = inner.split_last() else {
            return Found::NoData;
        };
        let Some(view) = services.get(*name) else {
            return Found::NoName;
        };
        if let Address::External(target) = &view.service.address {
            return match inner {
                [] => Found::Alias(target.to_string()),
                _ => Found::NoName,
            };
        }
        match inner {
            [] => match (kind, &view.service.address) {
                (RecordType::SRV, _) => {
                    match self.srv(view, namespace, name, |_, _| true) {
                        records if !records.is_empty() => Found::Records(records),
                        // A name with an address exists, with ports or without.
                        _ if matches!(view.service.address, Address::Virtual(_))
                            || ready(view).next().is_some() =>
                        {
                            Found::NoData
                        }
                        _ => Found::NoName,
                    }
                }
                (_, Address::Virtual(ips)) => addresses(kind, ips.iter().copied()),
                _ => {
                    let ips = ready(view).map(|e| e.ip).collect::<BTreeSet<_>>();
                    match ips.is_empty() {
                        // As CoreDNS: a headless Service without endpoints has no name.
                        true => Found::NoName,
                        false => addresses(kind, ips),
                    }
                }
            },
            [protocol] if protocol.starts_with('_') => {
                let records = self.srv(view, namespace, name, |port, number| {
                    !port.is_empty() && protocol_name(number) == &protocol[1..]
                });
                match records.is_empty() {
                    true => Found::NoName,
                    // Names below it exist.
                    false => Found::NoData,
                }
            }
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                // "Unnamed ports do not have an SRV record" (2.3.2)
                let records = self.srv(view, namespace, name, |name, number| {
                    !name.is_empty()
                        && name == &port[1..]
                        && protocol_name(number) == &protocol[1..]
                });
                match (records.is_empty(), kind) {
                    (true, _) => Found::NoName,
                    (false, RecordType::SRV | RecordType::ANY) => Found::Records(records),
                    (false, _) => Found::NoData,
                }
            }
            [host] => {
                let named = ready(view).filter(|e| host_name(e) == *host);
                match named.map(|e| e.ip).collect::<BTreeSet<_>>() {
                    ips if ips.is_empty() => Found::NoName,
                    ips => addresses(kind, ips),
                }
            }
            _ => Found::NoName,
        }
    }

    /// One record a port; for a headless Service one a port and endpoint. An endpoint may be in several slices, and a
    /// number may serve two protocols: no record comes twice.
    fn srv(
        &self,
        view: &View,
        namespace: &str,
        name: &str,
        wanted: impl Fn(&str, u8) -> bool,
    ) -> Vec<RData> {
        let base = format!("{name}.{namespace}.svc.");
        let records = match &view.service.address {
            Address::Virtual(_) => {
                let ports = view.service.ports.iter();
                ports
                    .filter(|p| wanted(&p.name, p.protocol))
                    .map(|p| (base.clone(), p.port))
                    .collect::<BTreeSet<_>>()
            }
            _ => view
                .endpoints()
                .filter(|(endpoint, _)| endpoint.ready)
                .flat_map(|(endpoint, ports)| ports.iter().map(move |p| (endpoint, p)))
                .filter(|(_, p)| wanted(&p.name, p.protocol))
                .map(|(endpoint, p)| (format!("{}.{base}", host_name(endpoint)), p.port))
                .collect(),
        };
        let record = |(prefix, port): (String, u16)| {
            self.name(&prefix)
                .map(|target| RData::SRV(SRV::new(0, 100, port, target)))
        };
        records.into_iter().filter_map(record).collect()
    }

    fn backward(&self, views: &Views, ip: IpAddr, kind: RecordType) -> Found {
        let mut names = Vec::new();
        for (namespace, services) in views {
            for (name, view) in services.iter() {
                match &view.service.address {
                    Address::Virtual(vips) if vips.contains(&ip) => {
                        names.extend(self.name(&format!("{name}.{namespace}.svc.")));
                    }
                    Address::Headless => names.extend(
                        ready(view)
                            .filter(|e| e.ip == ip)
                            .filter_map(|e| {
                                self.name(&format!("{}.{name}.{namespace}.svc.", host_name(e)))
                            })
                            .take(1),
                    ),
                    _ => {}
                }
            }
        }
        match (names.is_empty(), kind) {
            (true, _) => Found::NoName,
            (false, RecordType::PTR) => {
                Found::Records(names.into_iter().map(|n| RData::PTR(PTR(n))).collect())
            }
            _ => Found::NoData,
        }
    }
}

/// The addresses of the kind that is asked for.
fn addresses(kind: RecordType, ips: impl IntoIterator<Item = IpAddr>) -> Found {
    let records = ips.into_iter().filter_map(|ip| match (ip, kind) {
        (IpAddr::V4(ip), RecordType::A | RecordType::ANY) => Some(RData::A(A(ip))),
        (IpAddr::V6(ip), RecordType::AAAA | RecordType::ANY) => Some(RData::AAAA(AAAA(ip))),
        _ => None,
    });
    let records = records.collect::<Vec<_>>();
    match records.is_empty() {
        true => Found::NoData,
        false => Found::Records(records),
    }
}

/// The address in a Pod's name, `10-0-0-1` or `fd00--1`.
fn dashed(label: &str) -> Option<IpAddr> {
    let four = label.replace('-', ".").parse().ok().map(IpAddr::V4);
    four.or_else(|| label.replace('-', ":").parse().ok().map(IpAddr::V6))
}

fn ready(view: &View) -> impl Iterator<Item = &Endpoint> {
    view.endpoints()
        .map(|(endpoint, _)| endpoint)
        .filter(|endpoint| endpoint.ready)
}

/// The endpoint's own label: its hostname, or its address with dashes.
fn host_name(endpoint: &Endpoint) -> String {
    match &endpoint.hostname {
        Some(name) => name.to_string(),
        None => endpoint.ip.to_string().replace(['.', ':'], "-"),
    }
}

fn protocol_name(number: u8) -> &'static str {
    match i32::from(number) {
        libc::IPPROTO_TCP => "tcp",
        libc::IPPROTO_UDP => "udp",
        _ => "sctp",
    }
}

/// The address in `d.c.b.a.in-addr.arpa`, or in the 32 digits before `ip6.arpa`.
fn reverse(labels: &[String]) -> Option<IpAddr> {
    let (_, rest) = labels.split_last().filter(|(last, _)| *last == "arpa")?;
    let (family, digits) = rest.split_last()?;
    match (&**family, digits) {
        ("in-addr", [d, c, b, a]) => format!("{a}.{b}.{c}.{d}").parse().ok().map(IpAddr::V4),
        ("ip6", digits) if digits.len() == 32 => {
            digits.iter().rev().try_fold(0u128, |all, digit| {
                let mut one = digit.chars();
                let value = one.next()?.to_digit(16)?;
                one.next().is_none().then_some(all << 4 | u128::from(value))
            })
        }
        .map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests;
