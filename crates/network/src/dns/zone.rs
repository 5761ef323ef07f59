//! What cluster names mean: pure, from the shared model of Services.
//!
//! Source: kubernetes/dns "Kubernetes DNS-Based Service Discovery" 1.1.0; where it is silent, CoreDNS' kubernetes plugin.

use std::net::Ipv4Addr;

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, CNAME, NS, PTR, SOA, SRV, TXT},
    },
};

use crate::services::view::{Address, Endpoint, View, Views};

/// Seconds an answer may be kept, as CoreDNS does.
const TTL: u32 = 5;
/// Version of the specification, served as `dns-version.<domain>`.
const VERSION: &str = "1.1.0";

/// The zone's fixed facts.
pub(super) struct Zone {
    /// Labels of the cluster domain, lower case, from the left.
    domain: Vec<String>,
    domain_name: String,
    dns_ip: Ipv4Addr,
    /// Ranges whose reverse names are ours.
    ranges: [(Ipv4Addr, u8); 2],
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
    pub(super) fn new(domain: &str, dns_ip: Ipv4Addr, ranges: [(Ipv4Addr, u8); 2]) -> Zone {
        let domain_name = domain.trim_matches('.').to_ascii_lowercase();
        Zone {
            domain: domain_name.split('.').map(str::to_string).collect(),
            domain_name,
            dns_ip,
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
            ["ns", "dns"] => addresses(kind, [self.dns_ip]),
            [ref inner @ .., "svc"] => self.service(views, inner, kind),
            [namespace, "pod"] if views.contains_key(namespace) => Found::NoData,
            [ip, _, "pod"] => match ip.replace('-', ".").parse() {
                Ok(ip) => addresses(kind, [ip]),
                Err(_) => Found::NoName,
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
                (RecordType::SRV, _) => self.srv(view, namespace, name, |_, _| true),
                (_, Address::Virtual(ip)) => addresses(kind, [*ip]),
                _ => {
                    let mut ips = ready(view).map(|e| e.ip).collect::<Vec<_>>();
                    ips.sort_unstable();
                    ips.dedup();
                    match ips.is_empty() {
                        // As CoreDNS: a headless Service without endpoints has no name.
                        true => Found::NoName,
                        false => addresses(kind, ips),
                    }
                }
            },
            [protocol] if protocol.starts_with('_') => Found::NoData,
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                if kind != RecordType::SRV {
                    return Found::NoData;
                }
                self.srv(view, namespace, name, |name, number| {
                    name == &port[1..] && protocol_name(number) == &protocol[1..]
                })
            }
            [host] => {
                let named = ready(view).filter(|e| host_name(e) == *host);
                match named.map(|e| e.ip).collect::<Vec<_>>() {
                    ips if ips.is_empty() => Found::NoName,
                    ips => addresses(kind, ips),
                }
            }
            _ => Found::NoName,
        }
    }

    /// One record a port; for a headless Service one a port and endpoint.
    fn srv(
        &self,
        view: &View,
        namespace: &str,
        name: &str,
        wanted: impl Fn(&str, u8) -> bool,
    ) -> Found {
        let base = format!("{name}.{namespace}.svc.");
        let record = |port, prefix: &str| {
            self.name(prefix)
                .map(|target| RData::SRV(SRV::new(0, 100, port, target)))
        };
        let records = match &view.service.address {
            Address::Virtual(_) => {
                let ports = view.service.ports.iter();
                ports
                    .filter(|p| wanted(&p.name, p.protocol))
                    .filter_map(|p| record(p.port, &base))
                    .collect::<Vec<_>>()
            }
            _ => view
                .endpoints()
                .filter(|(endpoint, _)| endpoint.ready)
                .flat_map(|(endpoint, ports)| ports.iter().map(move |p| (endpoint, p)))
                .filter(|(_, p)| wanted(&p.name, p.protocol))
                .filter_map(|(endpoint, p)| {
                    record(p.port, &format!("{}.{base}", host_name(endpoint)))
                })
                .collect(),
        };
        match records.is_empty() {
            true => Found::NoName,
            false => Found::Records(records),
        }
    }

    fn backward(&self, views: &Views, ip: Ipv4Addr, kind: RecordType) -> Found {
        let mut names = Vec::new();
        for (namespace, services) in views {
            for (name, view) in services.iter() {
                match &view.service.address {
                    Address::Virtual(vip) if *vip == ip => {
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

fn addresses(kind: RecordType, ips: impl IntoIterator<Item = Ipv4Addr>) -> Found {
    match kind {
        RecordType::A | RecordType::ANY => {
            Found::Records(ips.into_iter().map(|ip| RData::A(A(ip))).collect())
        }
        _ => Found::NoData,
    }
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
        None => endpoint.ip.to_string().replace('.', "-"),
    }
}

fn protocol_name(number: u8) -> &'static str {
    match i32::from(number) {
        libc::IPPROTO_TCP => "tcp",
        libc::IPPROTO_UDP => "udp",
        _ => "sctp",
    }
}

fn within((base, prefix): (Ipv4Addr, u8), ip: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    u32::from(ip) & mask == u32::from(base) & mask
}

/// The address in `d.c.b.a.in-addr.arpa`.
fn reverse(labels: &[String]) -> Option<Ipv4Addr> {
    let [d, c, b, a, arpa @ ..] = labels else {
        return None;
    };
    if arpa != ["in-addr", "arpa"] {
        return None;
    }
    format!("{a}.{b}.{c}.{d}").parse().ok()
}

/// Names the model's parts for the tests of this module's neighbours.
#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::services::view::{Service, ServicePort, Slice, SlicePort};
    use std::{collections::HashMap, sync::Arc};

    fn endpoint(last: u8, hostname: Option<&str>, ready: bool) -> Endpoint {
        Endpoint {
            ip: Ipv4Addr::new(10, 42, 0, last),
            hostname: hostname.map(Into::into),
            ready,
            draining: false,
        }
    }

    fn view(address: Address, endpoints: Vec<Endpoint>) -> Arc<View> {
        let port = ServicePort {
            name: "http".into(),
            protocol: 6,
            port: 80,
            node_port: 0,
        };
        let service = Service {
            address,
            ports: [port].into(),
            affinity: false,
            foreign: false,
        };
        let slice = Slice {
            service: ("shop".into(), "x".into()),
            ports: [SlicePort {
                name: "http".into(),
                protocol: 6,
                port: 8080,
            }]
            .into(),
            endpoints: endpoints.into(),
        };
        Arc::new(View {
            service: service.into(),
            slices: [Arc::new(slice)].into(),
        })
    }

    pub(in crate::dns) fn views() -> Views {
        let web = view(
            Address::Virtual(Ipv4Addr::new(10, 43, 0, 7)),
            vec![endpoint(2, None, true)],
        );
        let db = view(
            Address::Headless,
            vec![
                endpoint(3, Some("db-0"), true),
                endpoint(4, None, true),
                endpoint(5, Some("db-2"), false),
            ],
        );
        let idle = view(Address::Headless, vec![]);
        let out = view(Address::External("www.example.org".into()), vec![]);
        let big = view(
            Address::Headless,
            (10..210).map(|n| endpoint(n, None, true)).collect(),
        );
        let services = [
            ("web", web),
            ("db", db),
            ("idle", idle),
            ("out", out),
            ("big", big),
        ];
        let services = services.map(|(name, view)| (name.into(), view)).into();
        HashMap::from([("shop".into(), Arc::new(services))])
    }

    pub(in crate::dns) fn zone() -> Zone {
        let ip = |a, b| Ipv4Addr::new(10, a, 0, b);
        Zone::new(
            "cluster.local",
            ip(43, 10),
            [(ip(42, 0), 16), (ip(43, 0), 16)],
        )
    }

    fn check(name: &str, kind: RecordType, expected: &str) {
        let query = Query::query(Name::from_ascii(name).unwrap(), kind);
        let got = match zone().answer(&views(), &query) {
            None => "foreign".to_string(),
            Some(answer) => {
                let mut all = answer
                    .records
                    .iter()
                    .map(|r| r.data.to_string())
                    .collect::<Vec<_>>();
                all.sort();
                assert_eq!(
                    all.is_empty(),
                    answer.soa.is_some(),
                    "{name}: SOA goes with empty answers"
                );
                format!("{:?} {}", answer.code, all.join(" | "))
                    .trim()
                    .to_string()
            }
        };
        assert_eq!(got, expected, "{name} {kind}");
    }

    #[test]
    fn names_and_their_answers() {
        use RecordType as T;
        let web = "web.shop.svc.cluster.local.";
        check(web, T::A, "NoError 10.43.0.7");
        check("WEB.Shop.svc.Cluster.LOCAL.", T::A, "NoError 10.43.0.7");
        check(web, T::AAAA, "NoError");
        check(web, T::MX, "NoError");
        check(
            "_http._tcp.web.shop.svc.cluster.local.",
            T::SRV,
            "NoError 0 100 80 web.shop.svc.cluster.local.",
        );
        check("_http._udp.web.shop.svc.cluster.local.", T::SRV, "NXDomain");
        check("_tcp.web.shop.svc.cluster.local.", T::A, "NoError");
        check("none.shop.svc.cluster.local.", T::A, "NXDomain");
        check("web.none.svc.cluster.local.", T::A, "NXDomain");
        check("shop.svc.cluster.local.", T::A, "NoError");
        check("none.svc.cluster.local.", T::A, "NXDomain");
        check("svc.cluster.local.", T::A, "NoError");
        check(
            "db.shop.svc.cluster.local.",
            T::A,
            "NoError 10.42.0.3 | 10.42.0.4",
        );
        check("db-0.db.shop.svc.cluster.local.", T::A, "NoError 10.42.0.3");
        check("db-2.db.shop.svc.cluster.local.", T::A, "NXDomain");
        check(
            "10-42-0-4.db.shop.svc.cluster.local.",
            T::A,
            "NoError 10.42.0.4",
        );
        check(
            "_http._tcp.db.shop.svc.cluster.local.",
            T::SRV,
            "NoError 0 100 8080 10-42-0-4.db.shop.svc.cluster.local. | 0 100 8080 db-0.db.shop.svc.cluster.local.",
        );
        check("idle.shop.svc.cluster.local.", T::A, "NXDomain");
        check(
            "out.shop.svc.cluster.local.",
            T::A,
            "NoError www.example.org.",
        );
        check(
            "out.shop.svc.cluster.local.",
            T::CNAME,
            "NoError www.example.org.",
        );
        check(
            "10-42-0-9.shop.pod.cluster.local.",
            T::A,
            "NoError 10.42.0.9",
        );
        check("x.shop.pod.cluster.local.", T::A, "NXDomain");
        check("dns-version.cluster.local.", T::TXT, "NoError 1.1.0");
        check("ns.dns.cluster.local.", T::A, "NoError 10.43.0.10");
        check("cluster.local.", T::A, "NoError");
        check(
            "7.0.43.10.in-addr.arpa.",
            T::PTR,
            "NoError web.shop.svc.cluster.local.",
        );
        check(
            "3.0.42.10.in-addr.arpa.",
            T::PTR,
            "NoError db-0.db.shop.svc.cluster.local.",
        );
        check("99.9.42.10.in-addr.arpa.", T::PTR, "NXDomain");
        check("1.1.1.1.in-addr.arpa.", T::PTR, "foreign");
        check("example.org.", T::A, "foreign");
        check("notcluster.local.", T::A, "foreign");
    }
}
