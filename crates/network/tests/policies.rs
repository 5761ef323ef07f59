//! NetworkPolicies in the kernel, with real packets between namespaces. Needs root.

mod lab;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{Namespace, Pod as PodObject},
    networking::v1::NetworkPolicy,
};
use kube::{Api, api::DeleteParams};
use lab::{Cluster, Pod, VIP, WEB, ask, ask_on, command, eventually, node};
use serde_json::{Value, json};

/// What is not let through is dropped: nothing comes back for so long. Too short for a busy machine only delays a test,
/// for each look is repeated until it is as expected.
const SILENCE: Duration = Duration::from_millis(300);

fn tcp(to: SocketAddr) -> bool {
    TcpStream::connect_timeout(&to, SILENCE).is_ok()
}

fn udp(to: SocketAddr) -> bool {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket.connect(to).unwrap();
    socket.send(b"?").is_ok() && socket.recv(&mut [0; 100]).is_ok()
}

/// A name, a policy, and what then gets through.
type Case = (&'static str, Value, Vec<(&'static str, bool)>);

/// Three Pods of their own names' labels, known to the API: a and b in `default`, c in `other`.
struct Ground {
    cluster: Cluster,
    network: knarr_network::Network,
    _running: lab::Running,
    pods: BTreeMap<&'static str, Pod>,
}

impl Ground {
    async fn new() -> Ground {
        let cluster = Cluster::start();
        let (network, running) = cluster.network().await;
        let other = json!({"apiVersion":"v1","kind":"Namespace","metadata":{"name":"other","labels":{"team":"y"}}});
        let namespaces = Api::<Namespace>::all(cluster.client());
        let other = serde_json::from_value(other).unwrap();
        namespaces
            .create(&Default::default(), &other)
            .await
            .unwrap();
        let mut ground = Ground {
            cluster,
            network,
            _running: running,
            pods: BTreeMap::new(),
        };
        for (name, namespace) in [("a", "default"), ("b", "default"), ("c", "other")] {
            ground.add(name, namespace).await;
        }
        ground
    }

    /// First on the node, then in the API, as with any Pod.
    async fn add(&mut self, name: &'static str, namespace: &str) {
        let more = knarr_network::Pod {
            ports: vec![("web".into(), 6, WEB)],
            ..Default::default()
        };
        let pod = Pod::start_in(&self.network, namespace, name, more).await;
        let api = Api::<PodObject>::namespaced(self.cluster.client(), namespace);
        let object = json!({"apiVersion":"v1","kind":"Pod",
            "metadata":{"name":name,"namespace":namespace,"labels":{"app":name}},
            "spec":{"nodeName":"n1","automountServiceAccountToken":false,"containers":[
                {"name":"c","image":"x","ports":[{"name":"web","containerPort":WEB}]}]}});
        let object = serde_json::from_value(object).unwrap();
        api.create(&Default::default(), &object).await.unwrap();
        let status = json!({"status":{"phase":"Running","podIP":pod.ip.to_string(),"podIPs":
            [{"ip":pod.ip.to_string()},{"ip":pod.ip6.unwrap().to_string()}]}});
        let patch = kube::api::Patch::Merge(&status);
        api.patch_status(name, &Default::default(), &patch)
            .await
            .unwrap();
        self.pods.insert(name, pod);
    }

    fn policies(&self) -> Api<NetworkPolicy> {
        Api::namespaced(self.cluster.client(), "default")
    }

    async fn policy(&self, name: &str, spec: &Value) {
        let object = json!({"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":name},"spec":spec});
        self.cluster.apply::<NetworkPolicy>(object).await;
    }

    /// `from > to/protocol` as it must be: in both families.
    async fn expect(&self, name: &str, cases: &[(&str, bool)]) {
        for (case, expected) in cases {
            let (from, to) = case.split_once(" > ").unwrap();
            let (to, protocol) = to.split_once('/').unwrap();
            let (from, to) = (&self.pods[from], &self.pods[to]);
            for ip in [IpAddr::V4(to.ip), to.ip6.unwrap().into()] {
                let to = SocketAddr::new(ip, WEB);
                let try_it = if protocol == "tcp" { tcp } else { udp };
                eventually(
                    &format!("{name}: {case} ({ip}) is {expected}"),
                    async || match from.run(move || try_it(to)).await {
                        got if got == *expected => Ok(()),
                        got => Err(format!("{got}\n{}", command("nft list ruleset"))),
                    },
                )
                .await;
            }
        }
    }

    async fn clear(&self, names: &[&str]) {
        for name in names {
            self.policies()
                .delete(name, &DeleteParams::default())
                .await
                .unwrap();
        }
    }
}

#[test]
fn a_table_of_policies_and_verdicts() {
    node(async || {
        let ground = Ground::new().await;
        let a = json!({"matchLabels":{"app":"a"}});
        let open = [("b > a/tcp", true), ("c > a/udp", true)];
        ground.expect("no policy", &open).await;
        let (a4, c4) = (ground.pods["a"].ip, ground.pods["c"].ip);
        let table: Vec<Case> = vec![
            (
                "deny in",
                json!({"podSelector":a}),
                vec![
                    ("b > a/tcp", false),
                    ("b > a/udp", false),
                    ("a > b/tcp", true),
                    ("b > c/tcp", true),
                    ("a > a/tcp", true),
                ],
            ),
            (
                "deny out",
                json!({"podSelector":a,"policyTypes":["Egress"]}),
                vec![
                    ("a > b/tcp", false),
                    ("a > c/udp", false),
                    ("b > a/tcp", true),
                    ("a > a/tcp", true),
                ],
            ),
            (
                "from pods of the namespace",
                json!({"podSelector":a,"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"b"}}}]}]}),
                vec![("b > a/tcp", true), ("c > a/tcp", false)],
            ),
            (
                "from a namespace",
                json!({"podSelector":a,"ingress":[{"from":[{"namespaceSelector":{"matchLabels":{"team":"y"}}}]}]}),
                vec![
                    ("c > a/tcp", true),
                    ("c > a/udp", true),
                    ("b > a/tcp", false),
                ],
            ),
            (
                "one protocol",
                json!({"podSelector":a,"ingress":[{"ports":[{"port":WEB,"protocol":"UDP"}]}]}),
                vec![("b > a/udp", true), ("b > a/tcp", false)],
            ),
            (
                "a range of ports",
                json!({"podSelector":a,"ingress":[{"ports":[{"port":WEB - 1,"endPort":WEB + 1}]}]}),
                vec![("b > a/tcp", true), ("b > a/udp", false)],
            ),
            (
                "a named port, out",
                json!({"podSelector":a,"policyTypes":["Egress"],"egress":[{"to":[{"podSelector":{}}],"ports":[{"port":"web"}]}]}),
                vec![
                    ("a > b/tcp", true),
                    ("a > c/tcp", false),
                    ("a > b/udp", false),
                ],
            ),
            (
                "blocks with a hole",
                json!({"podSelector":a,"ingress":[{"from":[
                    {"ipBlock":{"cidr":"10.42.0.0/16","except":[format!("{c4}/32")]}},
                    {"ipBlock":{"cidr":"fd00:2a::/64","except":[format!("{}/128", ground.pods["c"].ip6.unwrap())]}}]}]}),
                vec![("b > a/tcp", true), ("c > a/tcp", false)],
            ),
        ];
        for (name, spec, cases) in &table {
            ground.policy("p", spec).await;
            ground.expect(name, cases).await;
            // The node reaches its own Pods, whatever is said.
            let seen = tokio::task::spawn_blocking(move || ask((a4, WEB).into()))
                .await
                .unwrap();
            let seen = seen.unwrap_or_else(|e| format!("{e}"));
            assert!(seen.starts_with("a "), "{name}: a probe: {seen}");
        }
        // Policies add up, and what is left is let go.
        ground
            .policy("all", &json!({"podSelector":{},"ingress":[{}]}))
            .await;
        ground
            .expect(
                "another lets everything in",
                &[("c > a/tcp", true), ("c > b/tcp", true)],
            )
            .await;
        ground.clear(&["p", "all"]).await;
        ground.expect("none left", &open).await;
        eventually(
            "the table goes with the last policy",
            async || match command("nft list tables") {
                tables if tables.contains("knarr-t-policy") => Err(tables),
                _ => Ok(()),
            },
        )
        .await;
        ground.network.purge().await.unwrap();
    });
}

#[test]
fn a_pod_is_isolated_before_it_starts() {
    node(async || {
        let mut ground = Ground::new().await;
        ground.policy("deny", &json!({"podSelector":{}})).await;
        ground.expect("deny", &[("a > b/tcp", false)]).await;
        // What a Pod that has just its address takes in, the API knowing nothing of it: one look, no waiting.
        ground.add("d", "default").await;
        let to: SocketAddr = (ground.pods["d"].ip, WEB).into();
        assert!(!ground.pods["c"].run(move || tcp(to)).await);
        // Its address is free again, and nobody's.
        ground.network.detach("d").await.unwrap();
        ground.network.purge().await.unwrap();
    });
}

#[test]
fn flows_that_were_let_in_go_on_and_services_lead_through() {
    node(async || {
        let ground = Ground::new().await;
        let (a, b, c) = (&ground.pods["a"], &ground.pods["b"], &ground.pods["c"]);
        ground.cluster.service(json!({})).await;
        ground.cluster.endpoints(&[a]).await;
        let vip: SocketAddr = (VIP, 80).into();
        eventually("the Service", async || {
            b.ask(vip).await.map(drop).map_err(|e| e.to_string())
        })
        .await;
        let held = b.run(move || lab::connect(vip).unwrap()).await;
        let from_b = json!({"podSelector":{"matchLabels":{"app":"a"}},"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"b"}}}]}]});
        ground.policy("p", &from_b).await;
        ground
            .expect("b alone", &[("c > a/tcp", false), ("b > a/tcp", true)])
            .await;
        // Policies see who asks and who answers, not the Service's address.
        eventually("who may gets through", async || {
            match b.run(move || tcp(vip)).await {
                true => Ok(()),
                false => Err("silence".into()),
            }
        })
        .await;
        eventually("who may not doesn't", async || {
            match c.run(move || tcp(vip)).await {
                true => Err("an answer".into()),
                false => Ok(()),
            }
        })
        .await;
        ground
            .policy("p", &json!({"podSelector":{"matchLabels":{"app":"a"}}}))
            .await;
        ground.expect("nobody", &[("b > a/tcp", false)]).await;
        let mut held = held;
        let answer = b.run(move || ask_on(&mut held)).await.unwrap();
        assert!(answer.starts_with("a "), "{answer}");
        ground.network.purge().await.unwrap();
    });
}
