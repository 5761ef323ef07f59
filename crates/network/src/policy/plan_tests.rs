use serde_json::{Value, json};

use super::*;
use crate::policy::selector::Labels;

fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(k, v)| (k.into(), v.into())).collect()
}

/// `namespace/name labels address`
fn pod(text: &str) -> ((String, String), Facts) {
    let [name, labelled, ip] = text.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{text}");
    };
    let (namespace, name) = name.split_once('/').unwrap();
    let facts = Facts {
        uid: name.into(),
        namespace: namespace.into(),
        labels: labels(labelled),
        ips: vec![
            format!("10.0.0.{ip}").parse().unwrap(),
            format!("fd00::{ip}").parse().unwrap(),
        ],
        ports: vec![("web".into(), 6, 8080)],
        here: name != "far",
    };
    ((namespace.into(), name.into()), facts)
}

fn world(policies: &[Value]) -> World {
    let pods = [
        "a/web app=web 2",
        "a/db app=db 3",
        "b/web app=web 4",
        "b/far app=far 5",
    ];
    let policies = policies.iter().enumerate().map(|(at, spec)| {
        let policy = Policy {
            namespace: "a".into(),
            uid: at.to_string(),
            spec: serde_json::from_value(spec.clone()).unwrap(),
        };
        (("a".to_string(), format!("p{at}")), policy)
    });
    World {
        policies: policies.collect(),
        pods: pods.iter().map(|text| pod(text)).collect(),
        namespaces: [
            ("a".to_string(), labels("team=x")),
            ("b".to_string(), labels("team=y")),
        ]
        .into(),
    }
}

/// Would this go through? As the kernel would do it, by the plan alone.
fn passes(desired: &Desired, from: &str, to: &str, protocol: u8, port: u16) -> bool {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let out = desired.egress.get(&from);
    let into = desired.ingress.get(&to);
    [out, into]
        .into_iter()
        .flatten()
        .all(|chain| walk(desired, chain, from, to, protocol, port).unwrap_or(true))
}

/// A chain's verdict; None at its end.
fn walk(
    desired: &Desired,
    chain: &str,
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    port: u16,
) -> Option<bool> {
    for rule in &desired.chains[chain] {
        let peer = match rule.direction {
            Direction::Ingress => from,
            Direction::Egress => to,
        };
        let within = crate::nft::family::within;
        let peer_fits = match &rule.peer {
            Peer::Any => true,
            Peer::Selected(set) => desired.peers[set].contains(&peer),
            Peer::Block { block, except } => {
                within(*block, peer) && !except.iter().any(|e| within(*e, peer))
            }
        };
        let port_fits = match &rule.port {
            Port::Any => true,
            Port::Protocol(wanted) => *wanted == protocol,
            Port::Range(wanted, low, high) => *wanted == protocol && (*low..=*high).contains(&port),
            Port::Named(set) => desired.named[set].contains(&(to, protocol, port)),
        };
        if peer_fits && port_fits {
            match &rule.then {
                Then::Allow => return Some(true),
                Then::Drop => return Some(false),
                Then::Jump(next) => {
                    let verdict = walk(desired, next, from, to, protocol, port);
                    if verdict.is_some() {
                        return verdict;
                    }
                }
            }
        }
    }
    None
}

const AWEB: &str = "10.0.0.2";
const ADB: &str = "10.0.0.3";
const BWEB: &str = "10.0.0.4";
const OUTSIDE: &str = "192.0.2.7";
const TCP: u8 = 6;
const UDP: u8 = 17;

/// from, to, protocol, port, and whether it passes
type Case = (&'static str, &'static str, u8, u16, bool);

fn check(name: &str, policies: &[Value], cases: &[Case]) {
    let desired = plan(&world(policies));
    for (from, to, protocol, port, expected) in cases {
        assert_eq!(
            passes(&desired, from, to, *protocol, *port),
            *expected,
            "{name}: {from} → {to}:{port}/{protocol}"
        );
    }
}

#[test]
fn isolation() {
    check("no policy", &[], &[(OUTSIDE, AWEB, TCP, 80, true)]);
    check(
        "deny all in",
        &[json!({"podSelector":{}})],
        &[
            (OUTSIDE, AWEB, TCP, 80, false),
            (ADB, AWEB, TCP, 80, false),
            (AWEB, BWEB, TCP, 80, true),
            (AWEB, OUTSIDE, UDP, 53, true),
        ],
    );
    check(
        "deny all out",
        &[json!({"podSelector":{},"policyTypes":["Egress"]})],
        &[
            (OUTSIDE, AWEB, TCP, 80, true),
            (ADB, AWEB, TCP, 80, false),
            (AWEB, OUTSIDE, UDP, 53, false),
            (BWEB, OUTSIDE, UDP, 53, true),
        ],
    );
    check(
        "egress rules isolate both ways unless types are named",
        &[json!({"podSelector":{"matchLabels":{"app":"web"}},"egress":[{}]})],
        &[
            (OUTSIDE, AWEB, TCP, 80, false),
            (AWEB, OUTSIDE, TCP, 80, true),
            (OUTSIDE, ADB, TCP, 80, true),
        ],
    );
    check(
        "everything may come in",
        &[json!({"podSelector":{},"ingress":[{}]})],
        &[(OUTSIDE, AWEB, UDP, 1, true)],
    );
    check(
        "policies add up",
        &[
            json!({"podSelector":{}}),
            json!({"podSelector":{"matchLabels":{"app":"web"}},"ingress":[{"ports":[{"port":80}]}]}),
        ],
        &[
            (OUTSIDE, AWEB, TCP, 80, true),
            (OUTSIDE, AWEB, TCP, 81, false),
            (OUTSIDE, ADB, TCP, 80, false),
        ],
    );
}

#[test]
fn peers() {
    let from = |peers: Value| json!({"podSelector":{"matchLabels":{"app":"db"}},"ingress":[{"from":peers}]});
    check(
        "pods of the own namespace",
        &[from(json!([{"podSelector":{"matchLabels":{"app":"web"}}}]))],
        &[(AWEB, ADB, TCP, 1, true), (BWEB, ADB, TCP, 1, false)],
    );
    check(
        "all pods of namespaces",
        &[from(
            json!([{"namespaceSelector":{"matchLabels":{"team":"y"}}}]),
        )],
        &[
            (AWEB, ADB, TCP, 1, false),
            (BWEB, ADB, TCP, 1, true),
            ("fd00::4", "fd00::3", TCP, 1, true),
        ],
    );
    check(
        "pods of namespaces: both must fit",
        &[from(
            json!([{"namespaceSelector":{},"podSelector":{"matchLabels":{"app":"web"}}}]),
        )],
        &[
            (AWEB, ADB, TCP, 1, true),
            (BWEB, ADB, TCP, 1, true),
            ("10.0.0.5", ADB, TCP, 1, false),
        ],
    );
    check(
        "two peers: either will do",
        &[from(
            json!([{"namespaceSelector":{"matchLabels":{"team":"y"}}},{"podSelector":{}}]),
        )],
        &[
            (AWEB, ADB, TCP, 1, true),
            (BWEB, ADB, TCP, 1, true),
            (OUTSIDE, ADB, TCP, 1, false),
        ],
    );
    check(
        "a block without a part of it",
        &[from(
            json!([{"ipBlock":{"cidr":"192.0.2.0/24","except":["192.0.2.128/25"]}}]),
        )],
        &[
            (OUTSIDE, ADB, TCP, 1, true),
            ("192.0.2.200", ADB, TCP, 1, false),
            ("192.0.3.1", ADB, TCP, 1, false),
            ("fd00::9", "fd00::3", TCP, 1, false),
        ],
    );
    check(
        "a block of everything is of one family",
        &[from(json!([{"ipBlock":{"cidr":"::/0"}}]))],
        &[
            ("fd00::9", "fd00::3", TCP, 1, true),
            (OUTSIDE, ADB, TCP, 1, false),
        ],
    );
}

#[test]
fn ports() {
    let to = |ports: Value| json!({"podSelector":{"matchLabels":{"app":"web"}},"policyTypes":["Egress"],"egress":[{"ports":ports}]});
    check(
        "protocols are TCP unless said",
        &[to(
            json!([{"port":80},{"port":53,"protocol":"UDP"},{"protocol":"SCTP"}]),
        )],
        &[
            (AWEB, ADB, TCP, 80, true),
            (AWEB, ADB, UDP, 80, false),
            (AWEB, ADB, UDP, 53, true),
            (AWEB, ADB, 132, 999, true),
        ],
    );
    check(
        "a range includes its ends",
        &[to(json!([{"port":80,"endPort":82}]))],
        &[
            (AWEB, ADB, TCP, 79, false),
            (AWEB, ADB, TCP, 80, true),
            (AWEB, ADB, TCP, 82, true),
            (AWEB, ADB, TCP, 83, false),
        ],
    );
    check(
        "a named port is the receiver's",
        &[to(json!([{"port":"web"}]))],
        &[
            (AWEB, ADB, TCP, 8080, true),
            (AWEB, ADB, UDP, 8080, false),
            (AWEB, ADB, TCP, 80, false),
            (AWEB, OUTSIDE, TCP, 8080, false),
        ],
    );
    check(
        "a name that nobody has lets nothing through",
        &[json!({"podSelector":{},"ingress":[{"ports":[{"port":"none"}]}]})],
        &[(AWEB, ADB, TCP, 8080, false)],
    );
}

#[test]
fn only_what_is_here_is_enforced_here() {
    let mut world = world(&[]);
    let deny = json!({"podSelector":{}});
    let policy = Policy {
        namespace: "b".into(),
        uid: "x".into(),
        spec: serde_json::from_value(deny).unwrap(),
    };
    world.policies.insert(("b".into(), "deny".into()), policy);
    let desired = plan(&world);
    assert_eq!(desired.ingress.len(), 2, "the far Pod has its own node");
    assert!(passes(&desired, OUTSIDE, "10.0.0.5", TCP, 1));
    assert!(!passes(&desired, OUTSIDE, BWEB, TCP, 1));
}
