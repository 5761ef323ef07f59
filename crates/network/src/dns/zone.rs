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
    clients::Asker,
    nft::family::within,
    services::{
        names::{Client, EVERY_HOST, SHARED},
        own,
        view::{Address, Endpoint, View, Views},
    },
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
    /// The first of the records is for the one who asks, wherever the others come.
    pub(super) first_stays: bool,
    /// An alias whose target the asker wants resolved, too.
    pub(super) chase: Option<Name>,
}

/// What a name of the annotation `knarr.dev/dns-names` leads to.
enum Named<'a> {
    /// One of this namespace.
    Service(&'a str, &'a View),
    /// There is such a name, but not for the one who asks.
    Refused,
    Unknown,
}

enum Found {
    Records(Vec<RData>),
    /// In this order: the first is the one who asks.
    Own(Vec<RData>),
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

    /// None for a name that isn't the cluster's. `asker` is the Pod that asks, if it is known.
    pub(super) fn answer(&self, views: &Views, query: &Query, asker: &Asker) -> Option<Answer> {
        let labels = query
            .name()
            .iter()
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect::<Vec<_>>();
        let found = if let Some(rest) = labels.strip_suffix(&self.domain[..]) {
            self.forward(views, rest, query.query_type(), asker)
        } else if let Some(found) = bare(views, asker, &labels.join("."), query.query_type()) {
            found
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
            first_stays: matches!(found, Found::Own(_)),
            chase: None,
        };
        match found {
            Found::Records(data) | Found::Own(data) => {
                answer.records = data.into_iter().map(record).collect()
            }
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

    fn forward(&self, views: &Views, rest: &[String], kind: RecordType, asker: &Asker) -> Found {
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
            [ref inner @ .., "svc"] => self.service(views, inner, kind, asker),
            [namespace, "pod"] if views.contains_key(namespace) => Found::NoData,
            [ip, _, "pod"] => match dashed(ip) {
                Some(ip) => addresses(kind, [ip]),
                None => Found::NoName,
            },
            _ => Found::NoName,
        }
    }

    fn service(&self, views: &Views, inner: &[&str], kind: RecordType, asker: &Asker) -> Found {
        let Some((namespace, inner)) = inner.split_last() else {
            return Found::NoData;
        };
        match named(views, namespace, &inner.join("."), asker.client.as_deref()) {
            Named::Service(of, view) if kind != RecordType::SRV => {
                return itself(of, view, kind, asker).unwrap_or_else(|| answered(view, kind));
            }
            Named::Refused => return Found::NoName,
            _ => {}
        }
        let Some(services) = views.get(*namespace) else {
            return Found::NoName;
        };
        let Some((name, inner)) = inner.split_last() else {
            return Found::NoData;
        };
        // No Service may have `_` in its name; Compose's services may, and are asked for by it.
        let found = services.get(*name).or_else(|| {
            let dashed = name.contains('_').then(|| name.replace('_', "-"))?;
            services.get(dashed.as_str())
        });
        let Some(view) = found else {
            return Found::NoName;
        };
        if let Address::External(target) = &view.service.address {
            return match inner {
                [] => Found::Alias(target.to_string()),
                _ => Found::NoName,
            };
        }
        if inner.is_empty()
            && let Some(found) = itself(namespace, view, kind, asker)
        {
            return found;
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
                let host = odd_name(host);
                let named = ready(view).filter(|e| host_name(e) == host);
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

/// Looks for a name among those that Services of the namespace say of themselves, then among those of networks that the
/// client shares with other namespaces. A name for some goes before a name for all.
fn named<'a>(
    views: &'a Views,
    namespace: &'a str,
    name: &str,
    client: Option<&Client>,
) -> Named<'a> {
    let mut refused = false;
    let mut best: Option<(bool, &str, &View)> = None;
    let own = |view: &View| view.service.names.iter().any(|n| &*n.name == name);
    let services = views.get(namespace).into_iter().flat_map(|all| all.iter());
    for (service, view) in services.filter(|(_, view)| own(view)) {
        for entry in view.service.names.iter().filter(|n| &*n.name == name) {
            if !entry.admits(namespace, client) {
                // Those of other namespaces ask for the Service, not for what its own call it.
                refused |= client.is_some_and(|c| &*c.namespace == namespace);
                continue;
            }
            let found = (entry.clients.is_none(), &**service, &**view);
            if best.is_none_or(|b| (found.0, found.1) < (b.0, b.1)) {
                best = Some(found);
            }
        }
    }
    if let Some((_, _, view)) = best {
        return Named::Service(namespace, view);
    }
    let shares = |c: &&Client| {
        &*c.namespace == namespace && c.labels.keys().any(|key| key.starts_with(SHARED))
    };
    if let Some(client) = client.filter(shares) {
        let others = views.iter().filter(|(other, _)| &***other != namespace);
        let mut found = others
            .flat_map(|(other, all)| {
                all.iter()
                    .map(move |(service, view)| (other, service, view))
            })
            .filter(|(other, _, view)| {
                let mut names = view.service.names.iter();
                names.any(|n| {
                    &*n.name == name && n.clients.is_some() && n.admits(other, Some(client))
                })
            })
            .collect::<Vec<_>>();
        found.sort_by_key(|(other, service, _)| (*other, *service));
        if let Some((other, _, view)) = found.first() {
            return Named::Service(other, view);
        }
    }
    match refused {
        true => Named::Refused,
        false => Named::Unknown,
    }
}

/// A name as it is written, without the search list: Docker's resolver knows it so.
fn bare(views: &Views, asker: &Asker, name: &str, kind: RecordType) -> Option<Found> {
    let client = asker.client.as_deref()?;
    if let Named::Service(of, view) = named(views, &client.namespace, name, Some(client)) {
        return Some(itself(of, view, kind, asker).unwrap_or_else(|| answered(view, kind)));
    }
    let services = views.get(&*client.namespace)?;
    let host = odd_name(name);
    let whole = services.values().filter(|view| {
        let mut names = view.service.names.iter();
        names.any(|n| &*n.name == EVERY_HOST && n.admits(&client.namespace, Some(client)))
    });
    let ips = whole
        .flat_map(|view| ready(view).filter(|e| e.hostname.as_deref() == Some(&*host)))
        .map(|endpoint| endpoint.ip)
        .collect::<BTreeSet<_>>();
    (!ips.is_empty()).then(|| addresses(kind, ips))
}

/// What a Service means to one of its own Pods; None: it isn't one, or asks for ports.
fn itself(namespace: &str, view: &View, kind: RecordType, asker: &Asker) -> Option<Found> {
    let ips = own::addresses(view, namespace, asker.pod.as_deref()?)?;
    if kind == RecordType::SRV {
        return None;
    }
    Some(match addresses(kind, ips) {
        Found::Records(records) => Found::Own(records),
        other => other,
    })
}

/// The addresses of a Service that is asked for by one of the names it says of itself.
fn answered(view: &View, kind: RecordType) -> Found {
    match &view.service.address {
        Address::External(target) => Found::Alias(target.to_string()),
        Address::Virtual(ips) => addresses(kind, ips.iter().copied()),
        Address::Headless => {
            let mut ips = ready(view).map(|e| e.ip).collect::<BTreeSet<_>>();
            if ips.is_empty() {
                let starting = view.endpoints().filter(|(e, _)| e.starting);
                ips = starting.map(|(e, _)| e.ip).collect();
            }
            match ips.is_empty() {
                true => Found::NoName,
                false => addresses(kind, ips),
            }
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

/// Compose and Docker call containers what Kubernetes has no host name for, `my_db`: their endpoints have it written
/// otherwise (`crates/docker/src/names.rs`, `host_label`), and are asked for as they are called.
pub(crate) fn odd_name(asked: &str) -> std::borrow::Cow<'_, str> {
    match asked.contains('_') {
        true => format!("us-{}-e", asked.replace('_', "-u-")).into(),
        false => asked.into(),
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
