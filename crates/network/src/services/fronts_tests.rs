use super::*;
use crate::services::{
    objects,
    view::{Service, Slice},
};

fn view(service: &str, slices: &[&str]) -> View {
    let service: objects::Service = serde_json::from_str(service).expect("service");
    let slices = slices.iter().map(|text| {
        let object: objects::EndpointSlice = serde_json::from_str(text).expect("slice");
        Slice::of(&object).expect("a slice of a service").into()
    });
    View {
        service: Service::of(&service).into(),
        slices: slices.collect(),
    }
}

fn show(view: &View, family: Family) -> Vec<String> {
    let here = Here {
        node: "n1".into(),
        zone: Some("z1".into()),
    };
    of(view, family, &here, "10.96.0.10".parse().ok())
        .into_iter()
        .map(|(front, wanted)| {
            let endpoints = wanted
                .endpoints
                .iter()
                .map(|(ip, port)| format!("{ip}:{port}"))
                .collect::<Vec<_>>()
                .join(",");
            let sticky = match wanted.sticky_seconds {
                0 => String::new(),
                seconds => format!(" sticky {seconds}"),
            };
            let outside = match front.scope {
                Scope::Outside => " outside",
                Scope::All => "",
            };
            let barred = match (wanted.endpoints.is_empty(), wanted.barred) {
                (true, Barred::Drop) => "drop",
                (true, Barred::Refuse) => "refuse",
                _ => "",
            };
            format!(
                "{}/{}:{}{outside}{sticky} {endpoints}{barred}",
                front.protocol, front.ip, front.port
            )
        })
        .collect()
}

fn check(name: &str, service: &str, slices: &[&str], expected: &[&str]) {
    assert_eq!(show(&view(service, slices), Family::V4), expected, "{name}");
}

const SERVICE: &str = r#"{"metadata":{"name":"web","namespace":"shop"},
    "spec":{"clusterIP":"10.96.0.5","ports":[{"name":"http","port":80,"targetPort":"http"}]}}"#;

fn slice(endpoints: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"web-1","namespace":"shop","labels":{{"kubernetes.io/service-name":"web"}}}},
        "addressType":"IPv4","ports":[{{"name":"http","protocol":"TCP","port":8080}}],"endpoints":[{endpoints}]}}"#
    )
}

fn with(from: &str, to: &str) -> String {
    SERVICE.replace(from, to)
}

#[test]
fn endpoints_as_kube_proxy_chooses_them() {
    let ready = r#"{"addresses":["10.42.0.2"],"conditions":{"ready":true}}"#;
    let unsaid = r#"{"addresses":["10.42.0.3"]}"#;
    let not_ready = r#"{"addresses":["10.42.0.4"],"conditions":{"ready":false,"serving":false}}"#;
    let draining = r#"{"addresses":["10.42.0.5"],"conditions":{"ready":false,"serving":true,"terminating":true}}"#;
    let dead = r#"{"addresses":["10.42.0.6"],"conditions":{"ready":false,"serving":false,"terminating":true}}"#;
    let join = |all: &[&str]| slice(&all.join(","));
    for (name, slices, expected) in [
        ("no slice", vec![], "6/10.96.0.5:80 refuse"),
        (
            "ready and unsaid",
            vec![join(&[ready, unsaid, not_ready])],
            "6/10.96.0.5:80 10.42.0.2:8080,10.42.0.3:8080",
        ),
        (
            "draining yields to ready",
            vec![join(&[ready, draining])],
            "6/10.96.0.5:80 10.42.0.2:8080",
        ),
        (
            "draining alone serves",
            vec![join(&[draining, dead, not_ready])],
            "6/10.96.0.5:80 10.42.0.5:8080",
        ),
        (
            "slices join, doubles fold",
            vec![join(&[ready]), join(&[ready, unsaid])],
            "6/10.96.0.5:80 10.42.0.2:8080,10.42.0.3:8080",
        ),
    ] {
        let slices = slices.iter().map(String::as_str).collect::<Vec<_>>();
        check(name, SERVICE, &slices, &[expected]);
    }
}

#[test]
fn hints_count_when_all_have_them_and_one_is_for_here() {
    let endpoint = |last: u8, zones: &str, nodes: &str| {
        format!(
            r#"{{"addresses":["10.42.0.{last}"],"hints":{{"forZones":[{zones}],"forNodes":[{nodes}]}}}}"#
        )
    };
    let named = |name: &str| format!(r#"{{"name":"{name}"}}"#);
    let (z1, z2, n1, n2) = (named("z1"), named("z2"), named("n1"), named("n2"));
    for (name, endpoints, expected) in [
        (
            "our zone",
            vec![endpoint(2, &z1, ""), endpoint(3, &z2, "")],
            "10.42.0.2:8080",
        ),
        (
            "no one is for here",
            vec![endpoint(2, &z2, ""), endpoint(3, &z2, "")],
            "10.42.0.2:8080,10.42.0.3:8080",
        ),
        (
            "one has no hint",
            vec![endpoint(2, &z1, ""), endpoint(3, "", "")],
            "10.42.0.2:8080,10.42.0.3:8080",
        ),
        (
            "our node before our zone",
            vec![endpoint(2, &z1, &n2), endpoint(3, &z1, &n1)],
            "10.42.0.3:8080",
        ),
    ] {
        let slice = slice(&endpoints.join(","));
        let expected = format!("6/10.96.0.5:80 {expected}");
        check(name, SERVICE, &[&slice], &[&expected]);
    }
}

#[test]
fn policies_keep_traffic_on_the_node() {
    let here = slice(r#"{"addresses":["10.42.0.2"],"nodeName":"n1"}"#);
    let there = slice(r#"{"addresses":["10.42.1.2"],"nodeName":"n2"}"#);
    let internal = with(r#""spec":{"#, r#""spec":{"internalTrafficPolicy":"Local","#);
    for (name, slices, expected) in [
        (
            "one here",
            vec![&*here, &*there],
            "6/10.96.0.5:80 10.42.0.2:8080",
        ),
        ("none here", vec![&*there], "6/10.96.0.5:80 drop"),
        ("none at all", vec![], "6/10.96.0.5:80 refuse"),
    ] {
        check(name, &internal, &slices, &[expected]);
    }
    let external = with(
        r#""spec":{"#,
        r#""spec":{"externalTrafficPolicy":"Local","externalIPs":["192.0.2.9"],"#,
    )
    .replace(r#""port":80"#, r#""port":80,"nodePort":30080"#);
    check(
        "from outside to what is here, from inside to all",
        &external,
        &[&here, &there],
        &[
            "6/10.96.0.5:80 10.42.0.2:8080,10.42.1.2:8080",
            "6/192.0.2.9:80 10.42.0.2:8080,10.42.1.2:8080",
            "6/192.0.2.9:80 outside 10.42.0.2:8080",
            "6/0.0.0.0:30080 10.42.0.2:8080,10.42.1.2:8080",
            "6/0.0.0.0:30080 outside 10.42.0.2:8080",
        ],
    );
    check(
        "none here, for who is outside",
        &external,
        &[&there],
        &[
            "6/10.96.0.5:80 10.42.1.2:8080",
            "6/192.0.2.9:80 10.42.1.2:8080",
            "6/192.0.2.9:80 outside drop",
            "6/0.0.0.0:30080 10.42.1.2:8080",
            "6/0.0.0.0:30080 outside drop",
        ],
    );
}

#[test]
fn services_and_their_fronts() {
    let slice = slice(r#"{"addresses":["10.42.0.2"]}"#);
    let web = "6/10.96.0.5:80 10.42.0.2:8080";
    check("headless", &with("10.96.0.5", "None"), &[&slice], &[]);
    check("IPv6", &with("10.96.0.5", "fd00::5"), &[&slice], &[]);
    check(
        "the DNS address is the node's",
        &with("10.96.0.5", "10.96.0.10"),
        &[&slice],
        &[],
    );
    check(
        "port names must match",
        &with(r#""name":"http","#, r#""name":"other","#),
        &[&slice],
        &["6/10.96.0.5:80 refuse"],
    );
    check(
        "protocols must match",
        &with(r#""port":80"#, r#""port":80,"protocol":"UDP""#),
        &[&slice],
        &["17/10.96.0.5:80 refuse"],
    );
    check(
        "node port and affinity",
        &with(r#""port":80"#, r#""port":80,"nodePort":30080"#).replace(
            r#""clusterIP""#,
            r#""sessionAffinity":"ClientIP","clusterIP""#,
        ),
        &[&slice],
        &[
            "6/10.96.0.5:80 sticky 10800 10.42.0.2:8080",
            "6/0.0.0.0:30080 sticky 10800 10.42.0.2:8080",
        ],
    );
    check(
        "a time of its own",
        &with(
            r#""clusterIP""#,
            r#""sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":9}},"clusterIP""#,
        ),
        &[&slice],
        &["6/10.96.0.5:80 sticky 9 10.42.0.2:8080"],
    );
    check(
        "another proxy's",
        &with(
            r#""name":"web","#,
            r#""name":"web","labels":{"service.kubernetes.io/service-proxy-name":"x"},"#,
        ),
        &[&slice],
        &[],
    );
    check(
        "external name",
        r#"{"metadata":{},"spec":{"type":"ExternalName","externalName":"a.example"}}"#,
        &[],
        &[],
    );
    let balanced = |mode: &str| {
        with(r#""spec":{"#, r#""spec":{"type":"LoadBalancer","#).replacen(
            '{',
            &format!(
                r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"192.0.2.7","ipMode":"{mode}"}}]}}}},"#
            ),
            1,
        )
    };
    check(
        "a balancer that sends us whole packets",
        &balanced("VIP"),
        &[&slice],
        &[web, "6/192.0.2.7:80 10.42.0.2:8080"],
    );
    check("one that doesn't", &balanced("Proxy"), &[&slice], &[web]);
}

#[test]
fn both_families() {
    let service = with(
        r#""clusterIP""#,
        r#""clusterIPs":["10.96.0.5","fd00::5"],"clusterIP""#,
    )
    .replace(r#""port":80"#, r#""port":80,"nodePort":30080"#);
    let four = slice(r#"{"addresses":["10.42.0.2"]}"#);
    let six = slice(r#"{"addresses":["fd00:1::2"]}"#).replace(r#""IPv4""#, r#""IPv6""#);
    let view = view(&service, &[&four, &six]);
    assert_eq!(
        show(&view, Family::V4),
        [
            "6/10.96.0.5:80 10.42.0.2:8080",
            "6/0.0.0.0:30080 10.42.0.2:8080"
        ]
    );
    assert_eq!(
        show(&view, Family::V6),
        ["6/fd00::5:80 fd00:1::2:8080", "6/:::30080 fd00:1::2:8080"]
    );
}

#[test]
fn balancers_are_told_of_local_endpoints() {
    let balanced = |more: &str| {
        with(
            r#""spec":{"#,
            &format!(r#""spec":{{"type":"LoadBalancer",{more}"healthCheckNodePort":30999,"#),
        )
    };
    let local = balanced(r#""externalTrafficPolicy":"Local","#);
    let here = r#"{"addresses":["10.42.0.2"],"nodeName":"n1"}"#;
    let also = r#"{"addresses":["10.42.0.3"],"nodeName":"n1"}"#;
    let unready = r#"{"addresses":["10.42.0.4"],"nodeName":"n1","conditions":{"ready":false,"serving":true,"terminating":true}}"#;
    let away = r#"{"addresses":["10.42.1.2"],"nodeName":"n2"}"#;
    for (name, service, endpoints, expected) in [
        ("none", &local, vec![], (30999, 0)),
        ("one", &local, vec![here, away], (30999, 1)),
        ("two", &local, vec![here, also, unready], (30999, 2)),
        ("twice the same", &local, vec![here, here], (30999, 1)),
        ("elsewhere", &local, vec![away], (30999, 0)),
        ("for all nodes", &balanced(""), vec![here], (0, 1)),
    ] {
        let slices: Vec<String> = endpoints.iter().map(|e| slice(e)).collect();
        let slices: Vec<&str> = slices.iter().map(String::as_str).collect();
        let view = view(service, &slices);
        let node = Here {
            node: "n1".into(),
            zone: None,
        };
        let got = (view.service.health_port, view.ready_here(&node));
        assert_eq!(got, expected, "{name}");
    }
}
