//! What names mean, on a small model of every kind of Service.

use super::*;
use crate::services::view::{Service, ServicePort, Slice, SlicePort};
use std::{collections::HashMap, net::Ipv4Addr, sync::Arc};

fn endpoint(last: u8, hostname: Option<&str>, ready: bool) -> Endpoint {
    Endpoint {
        ip: Ipv4Addr::new(10, 42, 0, last).into(),
        hostname: hostname.map(Into::into),
        node: None,
        for_zones: Box::default(),
        for_nodes: Box::default(),
        ready,
        draining: false,
        starting: false,
        generation: Default::default(),
    }
}

fn virtual_ips(ips: &[&str]) -> Address {
    Address::Virtual(ips.iter().map(|ip| ip.parse().unwrap()).collect())
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
        more: Box::default(),
        sticky_seconds: 0,
        internal_local: false,
        external_local: false,
        health_port: 0,
        foreign: false,
        any_port: false,
        names: Box::default(),
        selector: Box::default(),
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
        virtual_ips(&["10.43.0.7", "fd00:43::7"]),
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
    let shared = |port: &str, number| {
        let slice = Slice {
            service: ("shop".into(), "twice".into()),
            ports: [SlicePort {
                name: port.into(),
                protocol: 6,
                port: number,
            }]
            .into(),
            endpoints: [endpoint(6, Some("t-0"), true)].into(),
        };
        Arc::new(slice)
    };
    let twice = view(Address::Headless, vec![]);
    let twice = Arc::new(View {
        service: twice.service.clone(),
        slices: [
            shared("http", 8080),
            shared("admin", 9090),
            shared("http", 8080),
        ]
        .into(),
    });
    let ports = |of: &Arc<View>, ports: Vec<ServicePort>| {
        let service = Service {
            address: virtual_ips(&["10.43.0.8"]),
            ports: ports.into(),
            ..(*of.service).clone()
        };
        Arc::new(View {
            service: service.into(),
            slices: of.slices.clone(),
        })
    };
    let bare = ports(&web, vec![]);
    let unnamed = ports(
        &web,
        vec![ServicePort {
            name: "".into(),
            protocol: 17,
            port: 99,
            node_port: 0,
        }],
    );
    let alias = |to: &str| view(Address::External(to.into()), vec![]);
    let services = [
        ("twice", twice),
        ("bare", bare),
        ("unnamed", unnamed),
        ("inner", alias("db.shop.svc.cluster.local")),
        ("round", alias("round.shop.svc.cluster.local")),
        ("lost", alias("none.shop.svc.cluster.local")),
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
    let ip = |text: &str| text.parse().unwrap();
    Zone::new(
        "cluster.local",
        vec![ip("10.43.0.10"), ip("fd00:43::a")],
        vec![
            (ip("10.42.0.0"), 16),
            (ip("10.43.0.0"), 16),
            (ip("fd00:42::"), 64),
            (ip("fd00:43::"), 112),
        ],
    )
}

fn check(name: &str, kind: RecordType, expected: &str) {
    let query = Query::query(Name::from_ascii(name).unwrap(), kind);
    let got = match zone().answer(&views(), &query, &Asker::default()) {
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
    check(web, T::AAAA, "NoError fd00:43::7");
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

#[test]
fn both_families_have_names() {
    use RecordType as T;
    let web = "web.shop.svc.cluster.local.";
    check(web, T::ANY, "NoError 10.43.0.7 | fd00:43::7");
    let reverse = |last: char, net: &str| {
        let zeros = "0.".repeat(23);
        format!("{last}.{zeros}{net}0.0.d.f.ip6.arpa.")
    };
    check(&reverse('7', "3.4.0.0."), T::PTR, &format!("NoError {web}"));
    check(&reverse('8', "3.4.0.0."), T::PTR, "NXDomain");
    check(&reverse('8', "9.4.0.0."), T::PTR, "foreign");
    check("7.ip6.arpa.", T::PTR, "foreign");
    let pod = "fd00-42--9.shop.pod.cluster.local.";
    check(pod, T::AAAA, "NoError fd00:42::9");
    check(pod, T::A, "NoError");
    check("ns.dns.cluster.local.", T::AAAA, "NoError fd00:43::a");
}

#[test]
fn an_endpoint_in_several_slices_is_one() {
    use RecordType as T;
    let twice = "twice.shop.svc.cluster.local.";
    check(twice, T::A, "NoError 10.42.0.6");
    check(&format!("t-0.{twice}"), T::A, "NoError 10.42.0.6");
    check(
        &format!("_http._tcp.{twice}"),
        T::SRV,
        &format!("NoError 0 100 8080 t-0.{twice}"),
    );
    check(
        twice,
        T::SRV,
        &format!("NoError 0 100 8080 t-0.{twice} | 0 100 9090 t-0.{twice}"),
    );
    check(
        "6.0.42.10.in-addr.arpa.",
        T::PTR,
        &format!("NoError t-0.{twice}"),
    );
}

#[test]
fn a_name_that_exists_is_never_denied() {
    use RecordType as T;
    check("bare.shop.svc.cluster.local.", T::A, "NoError 10.43.0.8");
    check("bare.shop.svc.cluster.local.", T::SRV, "NoError");
    check("idle.shop.svc.cluster.local.", T::SRV, "NXDomain");
    check("_http._tcp.web.shop.svc.cluster.local.", T::A, "NoError");
    check("_tcp.web.shop.svc.cluster.local.", T::SRV, "NoError");
    check("10-42-0-4.db.shop.svc.cluster.local.", T::AAAA, "NoError");
    check("10-42-0-9.shop.pod.cluster.local.", T::AAAA, "NoError");
    check("7.0.43.10.in-addr.arpa.", T::A, "NoError");
    check("dns-version.cluster.local.", T::A, "NoError");
    check("pod.cluster.local.", T::A, "NoError");
    check("shop.pod.cluster.local.", T::A, "NoError");
}

#[test]
fn a_port_that_does_not_exist_has_no_name() {
    use RecordType as T;
    for kind in [T::A, T::SRV] {
        check("_x._tcp.web.shop.svc.cluster.local.", kind, "NXDomain");
        check("_http._udp.web.shop.svc.cluster.local.", kind, "NXDomain");
        check("_udp.web.shop.svc.cluster.local.", kind, "NXDomain");
        check("_._udp.unnamed.shop.svc.cluster.local.", kind, "NXDomain");
        check("_udp.unnamed.shop.svc.cluster.local.", kind, "NXDomain");
        check("_http._tcp.idle.shop.svc.cluster.local.", kind, "NXDomain");
        check("_http._tcp.out.shop.svc.cluster.local.", kind, "NXDomain");
        check("a.b.c.web.shop.svc.cluster.local.", kind, "NXDomain");
    }
    check(
        "unnamed.shop.svc.cluster.local.",
        T::SRV,
        "NoError 0 100 99 unnamed.shop.svc.cluster.local.",
    );
}

#[test]
fn answers_keep_the_case_of_the_question_and_live_five_seconds() {
    let asked = Name::from_ascii("dB.sHop.SVC.cluster.LOCAL.").unwrap();
    let query = Query::query(asked.clone(), RecordType::A);
    let answer = zone().answer(&views(), &query, &Asker::default()).unwrap();
    assert_eq!(answer.records.len(), 2);
    for record in &answer.records {
        assert!(record.name.eq_case(&asked), "{}", record.name);
        assert_eq!(record.ttl, 5);
    }
    let nothing = Query::query(asked, RecordType::AAAA);
    let soa = zone()
        .answer(&views(), &nothing, &Asker::default())
        .unwrap()
        .soa
        .unwrap();
    let RData::SOA(data) = &soa.data else {
        panic!("{soa}")
    };
    assert_eq!((soa.ttl, data.minimum), (5, 5));
    assert_eq!(soa.name.to_string(), "cluster.local.");
}

#[test]
fn names_that_services_say_of_themselves() {
    use crate::services::names::{Client, parse};
    let said = |ip: &str, names: &str| {
        let old = view(virtual_ips(&[ip]), vec![]);
        let service = Service {
            names: parse(names),
            ..(*old.service).clone()
        };
        Arc::new(View {
            service: service.into(),
            slices: old.slices.clone(),
        })
    };
    let shop = [
        ("web", said("10.43.1.1", "web shop-web-1")),
        ("db-internal", said("10.43.1.2", "db.internal API")),
        (
            "main",
            said(
                "10.43.1.3",
                "main@network.knarr.dev/back db@network.knarr.dev/back",
            ),
        ),
        (
            "db",
            said(
                "10.43.1.4",
                "db@network.knarr.dev/front,shared-network.knarr.dev/proxy",
            ),
        ),
        ("db-web", said("10.43.1.5", "web@links.knarr.dev/job")),
    ];
    let other = [("mine", said("10.43.1.9", "mine"))];
    let named = |all: Vec<(&str, Arc<View>)>| {
        let all: HashMap<Box<str>, _> = all.into_iter().map(|(n, v)| (n.into(), v)).collect();
        Arc::new(all)
    };
    let views: Views = HashMap::from([
        ("shop".into(), named(shop.into())),
        ("other".into(), named(other.into())),
    ]);
    let client = |namespace: &str, label: &str| {
        Some(Client {
            namespace: namespace.into(),
            labels: [(label.to_string(), "true".to_string())].into(),
        })
    };
    let (front, back) = ("network.knarr.dev/front", "network.knarr.dev/back");
    let proxy = "shared-network.knarr.dev/proxy";
    let suffix = |namespace: &str| format!("{namespace}.svc.cluster.local.");
    for (name, asker, expected) in [
        (format!("web.{}", suffix("shop")), None, "NoError 10.43.1.1"),
        (
            format!("shop-web-1.{}", suffix("shop")),
            None,
            "NoError 10.43.1.1",
        ),
        (
            format!("DB.internal.{}", suffix("shop")),
            client("shop", back),
            "NoError 10.43.1.2",
        ),
        (
            format!("api.{}", suffix("shop")),
            client("shop", back),
            "NoError 10.43.1.2",
        ),
        (
            "db.internal.".into(),
            client("shop", back),
            "NoError 10.43.1.2",
        ),
        ("db.internal.".into(), client("other", back), "foreign"),
        ("db.internal.".into(), None, "foreign"),
        ("web.".into(), client("shop", front), "NoError 10.43.1.1"),
        (
            "web.".into(),
            client("shop", "links.knarr.dev/job"),
            "NoError 10.43.1.5",
        ),
        (
            format!("db.{}", suffix("shop")),
            client("shop", front),
            "NoError 10.43.1.4",
        ),
        (
            format!("db.{}", suffix("shop")),
            client("shop", back),
            "NoError 10.43.1.3",
        ),
        (
            format!("db.{}", suffix("shop")),
            client("shop", "x.knarr.dev/y"),
            "NXDomain",
        ),
        (format!("db.{}", suffix("shop")), None, "NoError 10.43.1.4"),
        (
            format!("db.{}", suffix("shop")),
            client("other", "x.knarr.dev/y"),
            "NoError 10.43.1.4",
        ),
        (
            format!("main.{}", suffix("shop")),
            client("shop", front),
            "NXDomain",
        ),
        (
            format!("db.{}", suffix("other")),
            client("other", proxy),
            "NoError 10.43.1.4",
        ),
        (
            format!("main.{}", suffix("other")),
            client("other", proxy),
            "NXDomain",
        ),
        ("db.".into(), client("other", proxy), "NoError 10.43.1.4"),
        (
            format!("db.{}", suffix("none")),
            client("none", proxy),
            "NoError 10.43.1.4",
        ),
    ] {
        let query = Query::query(Name::from_ascii(&name).unwrap(), RecordType::A);
        let known = Asker {
            client: asker.clone().map(Arc::new),
            pod: None,
        };
        let got = match zone().answer(&views, &query, &known) {
            None => "foreign".to_string(),
            Some(answer) => {
                let all = answer.records.iter().map(|r| r.data.to_string());
                let all = all.collect::<Vec<_>>().join(" ");
                format!("{:?} {all}", answer.code).trim().to_string()
            }
        };
        assert_eq!(got, expected, "{name} for {asker:?}");
    }
}

#[test]
fn hosts_of_a_network_are_found_by_their_own_names() {
    use crate::services::names::{Client, parse};
    let net = |names: &str, hosts: &[(&str, &str)]| {
        let endpoint = |(host, ip): &(&str, &str)| Endpoint {
            ip: ip.parse().unwrap(),
            hostname: Some((*host).into()),
            ..endpoint(9, None, true)
        };
        let old = view(Address::Headless, hosts.iter().map(endpoint).collect());
        let service = Service {
            names: parse(names),
            ..(*old.service).clone()
        };
        Arc::new(View {
            service: service.into(),
            slices: old.slices.clone(),
        })
    };
    let all = [
        (
            "a",
            net(
                "*@net.knarr.dev/a=",
                &[("db", "10.42.0.5"), ("us-my-u-db-e", "10.42.0.6")],
            ),
        ),
        (
            "b",
            net(
                "*@net.knarr.dev/b=",
                &[("db", "172.28.0.5"), ("other", "172.28.0.6")],
            ),
        ),
        ("c", net("", &[("hidden", "10.42.0.7")])),
    ];
    let all: HashMap<Box<str>, _> = all.into_iter().map(|(n, v)| (n.into(), v)).collect();
    let views: Views = HashMap::from([("docker".into(), Arc::new(all))]);
    let client = |nets: &[&str]| Client {
        namespace: "docker".into(),
        labels: nets
            .iter()
            .map(|n| (format!("net.knarr.dev/{n}"), String::new()))
            .collect(),
    };
    for (name, nets, expected) in [
        ("db.", &["a"][..], Some("NoError 10.42.0.5")),
        ("DB.", &["b"], Some("NoError 172.28.0.5")),
        ("db.", &["a", "b"], Some("NoError 10.42.0.5 172.28.0.5")),
        ("my_db.", &["a"], Some("NoError 10.42.0.6")),
        ("other.", &["a"], None),
        ("hidden.", &["a", "b"], None),
        ("db.", &[], None),
    ] {
        let query = Query::query(Name::from_ascii(name).unwrap(), RecordType::A);
        let asker = Asker {
            client: Some(client(nets).into()),
            pod: None,
        };
        let answer = zone().answer(&views, &query, &asker);
        let shown = answer.map(|answer| {
            let mut ips: Vec<String> = answer.records.iter().map(|r| r.data.to_string()).collect();
            ips.sort();
            format!("{:?} {}", answer.code, ips.join(" "))
        });
        assert_eq!(shown.as_deref(), expected, "{name} of {nets:?}");
    }
}

#[test]
fn a_container_means_its_own_address_by_its_own_names() {
    use crate::services::{
        names::{Client, parse},
        own::{Generation, Pod},
    };
    /// Endpoints: the address's last part, the Pod's name, its state.
    type Endpoints<'a> = &'a [(u8, &'a str, char)];
    let service = |address: Address, names: &str, any: bool, app: &str, all: Endpoints<'_>| {
        let one = |(last, pod, state): &(u8, &str, char)| Endpoint {
            starting: *state == 's',
            draining: *state == 'd',
            generation: Generation::of(pod),
            ..endpoint(*last, None, *state == 'r')
        };
        let old = view(address, all.iter().map(one).collect());
        let service = Service {
            names: parse(names),
            any_port: any,
            selector: [("app".into(), app.into())].into(),
            ..(*old.service).clone()
        };
        Arc::new(View {
            service: service.into(),
            slices: old.slices.clone(),
        })
    };
    let vip = |n: u8| virtual_ips(&[&format!("10.43.0.{n}")]);
    let all = [
        (
            "kafka",
            service(
                vip(1),
                "kafka my_kafka queue@network.knarr.dev/n",
                true,
                "kafka",
                &[],
            ),
        ),
        (
            "one",
            service(vip(2), "one", true, "one", &[(7, "one-a-x", 's')]),
        ),
        (
            "update",
            service(
                vip(3),
                "update",
                true,
                "update",
                &[(6, "update-a-x", 'r'), (7, "update-b-y", 's')],
            ),
        ),
        (
            "many",
            service(
                vip(4),
                "many",
                true,
                "many",
                &[
                    (5, "many-a-x", 'r'),
                    (6, "many-a-y", 's'),
                    (7, "many-a-z", 's'),
                    (8, "many-a-w", 'd'),
                ],
            ),
        ),
        (
            "cold",
            service(
                vip(5),
                "cold",
                true,
                "cold",
                &[(6, "cold-a-y", 's'), (7, "cold-a-z", 's')],
            ),
        ),
        (
            "both",
            service(
                vip(6),
                "both",
                true,
                "both",
                &[(6, "left-a-y", 'r'), (7, "right-b-z", 'r')],
            ),
        ),
        (
            "robin",
            service(
                Address::Headless,
                "robin",
                false,
                "robin",
                &[(6, "robin-a-y", 'r'), (7, "robin-a-z", 's')],
            ),
        ),
        (
            "plain",
            service(vip(7), "", false, "plain", &[(7, "plain-a-x", 'r')]),
        ),
    ];
    let services: HashMap<Box<str>, _> = all.into_iter().map(|(n, v)| (n.into(), v)).collect();
    let views: Views = HashMap::from([("shop".into(), Arc::new(services))]);
    let label = |key: &str, value: &str| (key.to_string(), value.to_string());
    let asker = |namespace: &str, pod: &str, app: &str| Asker {
        client: Some(Arc::new(Client {
            namespace: namespace.into(),
            labels: [label("network.knarr.dev/n", "true")].into(),
        })),
        pod: Some(Arc::new(Pod {
            address: Ipv4Addr::new(10, 42, 0, 7),
            namespace: namespace.into(),
            labels: [label("app", app)].into(),
            generation: Generation::of(pod),
        })),
    };
    let own = "NoError 10.42.0.7";
    for (what, name, asker, expected) in [
        (
            "before it is an endpoint",
            "kafka",
            asker("shop", "kafka-a-x", "kafka"),
            own,
        ),
        (
            "as it is written",
            "my_kafka",
            asker("shop", "kafka-a-x", "kafka"),
            own,
        ),
        (
            "its alias in a network",
            "queue",
            asker("shop", "kafka-a-x", "kafka"),
            own,
        ),
        (
            "another",
            "kafka",
            asker("shop", "web-a-x", "web"),
            "NoError 10.43.0.1",
        ),
        (
            "the same labels elsewhere",
            "kafka",
            asker("other", "kafka-a-x", "kafka"),
            "NoError 10.43.0.1",
        ),
        (
            "nobody known",
            "kafka",
            Asker::default(),
            "NoError 10.43.0.1",
        ),
        (
            "before it is ready",
            "one",
            asker("shop", "one-a-x", "one"),
            own,
        ),
        (
            "not without being one of it",
            "one",
            Asker {
                pod: None,
                ..asker("shop", "one-a-x", "one")
            },
            "NoError 10.43.0.2",
        ),
        (
            "one that was there before this process",
            "one",
            Asker {
                client: None,
                pod: Some(Pod::at(Ipv4Addr::new(10, 42, 0, 7)).into()),
            },
            own,
        ),
        (
            "the other of a lone one's update is no sibling",
            "update",
            asker("shop", "update-b-y", "update"),
            own,
        ),
        (
            "first of many, then who is ready",
            "many",
            asker("shop", "many-a-z", "many"),
            "NoError 10.42.0.7 10.42.0.5",
        ),
        (
            "while nobody is ready, who starts",
            "cold",
            asker("shop", "cold-a-z", "cold"),
            "NoError 10.42.0.7 10.42.0.6",
        ),
        (
            "services of one alias are siblings",
            "both",
            asker("shop", "right-b-z", "right"),
            "NoError 10.42.0.7 10.42.0.6",
        ),
        (
            "without a virtual address",
            "robin",
            asker("shop", "robin-a-z", "robin"),
            "NoError 10.42.0.7 10.42.0.6",
        ),
        (
            "a plain manifest's Service stays as it is",
            "plain",
            asker("shop", "plain-a-x", "plain"),
            "NoError 10.43.0.7",
        ),
    ] {
        let name = format!("{name}.shop.svc.cluster.local.");
        let ask = |kind| {
            let query = Query::query(Name::from_ascii(&name).unwrap(), kind);
            let answer = zone()
                .answer(&views, &query, &asker)
                .expect("of the cluster");
            let all = answer.records.iter().map(|r| r.data.to_string());
            (
                answer.first_stays,
                format!("{:?} {}", answer.code, all.collect::<Vec<_>>().join(" ")),
            )
        };
        let itself = expected.starts_with(own);
        assert_eq!(ask(RecordType::A), (itself, expected.to_string()), "{what}");
        assert_eq!(ask(RecordType::AAAA).1, "NoError ", "{what}: IPv6");
    }
}
