//! Service addresses in the kernel, with real connections between namespaces. Needs root.

mod lab;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use lab::{
    Cluster, Pod, VIP, VIP6, WEB, answers, ask_on, command, connect, eventually, node, resolve, who,
};
use serde_json::json;

fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    (ip, port).into()
}

#[test]
fn an_address_is_spread_over_its_endpoints_from_everywhere() {
    node(async || {
        let cluster = Cluster::start();
        let (network, _running) = cluster.network().await;
        let a = Pod::start(&network, "a").await;
        let b = Pod::start(&network, "b").await;
        let c = Pod::start(&network, "c").await;
        cluster
            .service(json!({"type":"NodePort","ports":[
            {"name":"http","port":80,"targetPort":WEB,"nodePort":30080}]}))
            .await;
        answers(None, at(VIP, 80), &[]).await;
        answers(Some(&c), at(VIP, 80), &[]).await;
        cluster.endpoints(&[&a, &b]).await;
        answers(None, at(VIP, 80), &["a", "b"]).await;
        answers(Some(&c), at(VIP, 80), &["a", "b"]).await;
        let node_port = at(Ipv4Addr::new(169, 254, 1, 1), 30080);
        answers(None, node_port, &["a", "b"]).await;
        answers(Some(&c), node_port, &["a", "b"]).await;
        // Only while they last, also for an endpoint of its own Service (hairpin).
        cluster.endpoints(&[&a]).await;
        answers(Some(&a), at(VIP, 80), &["a"]).await;
        answers(Some(&c), at(VIP, 80), &["a"]).await;
        cluster.endpoints(&[&a, &b, &c]).await;
        answers(Some(&a), at(VIP, 80), &["a", "b", "c"]).await;
        // An address of the range without a Service refuses at once; a Service that goes does so, too.
        answers(Some(&a), at(Ipv4Addr::new(10, 43, 9, 9), 80), &[]).await;
        cluster.delete_service().await;
        answers(Some(&a), at(VIP, 80), &[]).await;
        answers(None, node_port, &[]).await;
        network.purge().await.unwrap();
    });
}

#[test]
fn pods_see_each_other_by_their_own_address() {
    node(async || {
        let cluster = Cluster::start();
        let (network, _running) = cluster.network().await;
        let a = Pod::start(&network, "a").await;
        let b = Pod::start(&network, "b").await;
        cluster.service(json!({})).await;
        cluster.endpoints(&[&b]).await;
        answers(Some(&a), at(VIP, 80), &["b"]).await;
        for to in [at(VIP, 80), at(b.ip, WEB)] {
            assert_eq!(a.ask(to).await.unwrap(), format!("b {}", a.ip), "{to}");
        }
        network.purge().await.unwrap();
    });
}

#[test]
fn pods_reach_the_outside_by_the_nodes_address() {
    node(async || {
        let cluster = Cluster::start();
        let (network, _running) = cluster.network().await;
        let outside = Pod::outside().await;
        let a = Pod::start(&network, "a").await;
        eventually("an answer from outside", async || {
            match a.ask(at(outside.ip, WEB)).await {
                Ok(answer) if answer == "outside 192.0.2.1" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        command("ip link del out0");
        network.purge().await.unwrap();
    });
}

#[test]
fn client_ip_affinity_keeps_to_one_endpoint() {
    node(async || {
        let cluster = Cluster::start();
        let (network, _running) = cluster.network().await;
        let mut pods = Vec::new();
        for name in ["a", "b", "c", "d", "e", "f"] {
            pods.push(Pod::start(&network, name).await);
        }
        cluster.service(json!({"sessionAffinity":"ClientIP"})).await;
        cluster.endpoints(&pods.iter().collect::<Vec<_>>()).await;
        let mut all = std::collections::BTreeSet::new();
        for pod in &pods {
            eventually("one endpoint a client", async || {
                match pod.run(|| who(at(VIP, 80))).await {
                    got if got.len() == 1 && got[0].is_some() => Ok(()),
                    got => Err(format!("{got:?}")),
                }
            })
            .await;
            all.extend(pod.run(|| who(at(VIP, 80))).await);
        }
        assert!(all.len() > 1, "six clients, all at {all:?}");
        network.purge().await.unwrap();
    });
}

#[test]
fn udp_clients_move_when_their_endpoint_goes() {
    node(async || {
        let cluster = Cluster::start();
        let (network, _running) = cluster.network().await;
        let a = Pod::start(&network, "a").await;
        let b = Pod::start(&network, "b").await;
        let client = Pod::start(&network, "client").await;
        cluster.service(json!({})).await;
        cluster.endpoints(&[&a]).await;
        answers(Some(&client), at(VIP, 80), &["a"]).await;
        // one socket, so one flow
        let socket = client
            .run(|| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                socket.connect((VIP, 80)).unwrap();
                socket
                    .set_read_timeout(Some(std::time::Duration::from_millis(200)))
                    .unwrap();
                std::sync::Arc::new(socket)
            })
            .await;
        let ask = async || {
            let socket = socket.clone();
            let answer = client.run(move || {
                let mut buffer = [0; 100];
                socket.send(b"?")?;
                let n = socket.recv(&mut buffer)?;
                Ok::<_, std::io::Error>(String::from_utf8_lossy(&buffer[..n]).into_owned())
            });
            answer.await.map_err(|e| e.to_string())
        };
        let from = async |name: &str| match ask().await {
            Ok(answer) if answer.starts_with(name) => Ok(()),
            other => Err(format!("{other:?}")),
        };
        eventually("an answer of a", async || from("a ").await).await;
        cluster.endpoints(&[&b]).await;
        eventually("an answer of b", async || from("b ").await).await;
        network.purge().await.unwrap();
    });
}

#[test]
fn connections_go_on_while_the_platform_is_away() {
    node(async || {
        let cluster = Cluster::start();
        let (network, running) = cluster.network().await;
        let a = Pod::start(&network, "a").await;
        let b = Pod::start(&network, "b").await;
        cluster.service(json!({})).await;
        cluster.endpoints(&[&a]).await;
        answers(Some(&b), at(VIP, 80), &["a"]).await;
        let stream = b.run(|| connect(at(VIP, 80)).unwrap()).await;
        let stream = std::sync::Arc::new(parking_lot::Mutex::new(stream));
        running.stop().await;
        drop(network);
        answers(Some(&b), at(VIP, 80), &["a"]).await;
        let before = command("nft -a list table knarr-t");
        let (network, _running) = cluster.network().await;
        assert_eq!(
            before,
            command("nft -a list table knarr-t"),
            "handles tell that nothing was made anew"
        );
        let held = stream.clone();
        assert!(
            b.run(move || ask_on(&mut held.lock()))
                .await
                .unwrap()
                .starts_with("a ")
        );
        // what was missed is made up for
        cluster.endpoints(&[&b]).await;
        answers(Some(&b), at(VIP, 80), &["b"]).await;
        network.purge().await.unwrap();
    });
}

#[test]
fn a_damaged_table_is_mended() {
    let damages = [
        "nft delete table ip knarr-t",
        "nft flush chain ip knarr-t prerouting",
        "nft flush map ip knarr-t eps",
        "nft flush map ip knarr-t svc",
        "nft add rule ip knarr-t forward drop",
    ];
    for damage in damages {
        node(async || {
            let cluster = Cluster::start();
            let (network, running) = cluster.network().await;
            let a = Pod::start(&network, "a").await;
            cluster.service(json!({})).await;
            cluster.endpoints(&[&a]).await;
            answers(None, at(VIP, 80), &["a"]).await;
            running.stop().await;
            drop(network);
            command(damage);
            let (network, _running) = cluster.network().await;
            answers(None, at(VIP, 80), &["a"]).await;
            let client = Pod::start(&network, "b").await;
            answers(Some(&client), at(VIP, 80), &["a"]).await;
            network.purge().await.unwrap();
        });
    }
}

#[test]
fn many_services_in_few_transactions() {
    node(async || {
        let cluster = Cluster::start();
        let (network, _running) = cluster.network().await;
        let a = Pod::start(&network, "a").await;
        cluster.service(json!({"ports":(1..=250).map(|port| json!({"name":format!("p{port}"),"port":port,"targetPort":WEB})).collect::<Vec<_>>()})).await;
        let object = json!({"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
            "metadata":{"name":"web-1","labels":{"kubernetes.io/service-name":"web"}},
            "ports":(1..=250).map(|port| json!({"name":format!("p{port}"),"port":WEB,"protocol":"TCP"})).collect::<Vec<_>>(),
            "endpoints":[{"addresses":[a.ip.to_string()]}]});
        cluster
            .apply::<k8s_openapi::api::discovery::v1::EndpointSlice>(object)
            .await;
        for port in [1, 100, 250] {
            answers(None, at(VIP, port), &["a"]).await;
        }
        network.purge().await.unwrap();
    });
}

#[test]
fn purge_leaves_the_namespace_as_it_was() {
    node(async || {
        command("ip link set lo up");
        let look = || {
            let sysctl = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
            [
                "nft list ruleset",
                "ip -o addr",
                "ip -o link",
                "ip route show table all",
            ]
            .map(command)
            .join("\n")
                + &sysctl
        };
        let before = look();
        let cluster = Cluster::start();
        let (network, running) = cluster.network().await;
        let a = Pod::start(&network, "a").await;
        cluster.service(json!({})).await;
        cluster.endpoints(&[&a]).await;
        answers(None, at(VIP, 80), &["a"]).await;
        running.stop().await;
        network.purge().await.unwrap();
        assert_eq!(before, look());
        network.purge().await.unwrap();
    });
}

#[test]
fn names_lead_to_services() {
    node(async || {
        let cluster = Cluster::start();
        let (network, _running) = cluster.network().await;
        let a = Pod::start(&network, "a").await;
        let client = Pod::start(&network, "client").await;
        cluster.service(json!({})).await;
        cluster.endpoints(&[&a]).await;
        eventually("the name's address", async || {
            let answer = client
                .run(|| resolve("web.default.svc.cluster.local"))
                .await;
            match answer {
                Ok(ips) if ips == [IpAddr::V4(VIP)] => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        answers(Some(&client), at(VIP, 80), &["a"]).await;
        network.purge().await.unwrap();
    });
}

#[test]
fn both_families_lead_to_a_service() {
    node(async || {
        let cluster = Cluster::start();
        let (network, _running) = cluster.network().await;
        let a = Pod::start(&network, "a").await;
        let b = Pod::start(&network, "b").await;
        cluster
            .service(
                json!({"type":"NodePort","ipFamilyPolicy":"RequireDualStack",
                "clusterIPs":[VIP.to_string(), VIP6.to_string()],"sessionAffinity":"ClientIP",
                "ports":[{"name":"http","port":80,"targetPort":WEB,"nodePort":30080}]}),
            )
            .await;
        cluster.endpoints(&[&a]).await;
        let six = json!({"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv6",
            "metadata":{"name":"web-6","labels":{"kubernetes.io/service-name":"web"}},
            "ports":[{"name":"http","port":WEB,"protocol":"TCP"}],
            "endpoints":[{"addresses":[a.ip6.unwrap().to_string()]}]});
        cluster
            .apply::<k8s_openapi::api::discovery::v1::EndpointSlice>(six)
            .await;
        let vip6 = SocketAddr::from((VIP6, 80));
        let node6: std::net::Ipv6Addr = "fd00:2a::1".parse().unwrap();
        for to in [at(VIP, 80), vip6, SocketAddr::from((node6, 30080))] {
            // From the node, from another Pod, and from the endpoint itself.
            answers(None, to, &["a"]).await;
            answers(Some(&b), to, &["a"]).await;
            answers(Some(&a), to, &["a"]).await;
        }
        assert_eq!(
            b.ask(vip6).await.unwrap(),
            format!("a {}", b.ip6.unwrap()),
            "by its own address"
        );
        let nobody: SocketAddr = "[fd00:2b::99]:80".parse().unwrap();
        answers(Some(&b), nobody, &[]).await;
        answers(None, nobody, &[]).await;
        // The node's ports are at its loopback, too, and nobody else gets there.
        answers(None, at(Ipv4Addr::LOCALHOST, 30080), &["a"]).await;
        network.purge().await.unwrap();
    });
}

#[test]
fn a_pods_port_on_the_node() {
    node(async || {
        let cluster = Cluster::start();
        let (network, running) = cluster.network().await;
        let port = |host_ip: Option<Ipv4Addr>, protocol| knarr_network::HostPort {
            host_ip: host_ip.map(IpAddr::V4),
            protocol,
            host_port: 9090,
            container_port: WEB,
        };
        let with = |ports: Vec<knarr_network::HostPort>| knarr_network::Pod {
            host_ports: ports,
            ..Default::default()
        };
        // One number on two addresses.
        let loopback = Ipv4Addr::LOCALHOST;
        let gateway = Ipv4Addr::new(169, 254, 1, 1);
        let a = with(vec![port(Some(loopback), 6)]);
        let a = Pod::start_with(&network, "a", a).await;
        let b = with(vec![port(Some(gateway), 6), port(None, 17)]);
        let b = Pod::start_with(&network, "b", b).await;
        answers(None, at(loopback, 9090), &["a"]).await;
        answers(None, at(gateway, 9090), &["b"]).await;
        answers(Some(&a), at(gateway, 9090), &["b"]).await;
        answers(Some(&b), at(gateway, 9090), &["b"]).await;
        // They last as long as their Pod, and no restart takes them.
        running.stop().await;
        drop(network);
        let (network, _running) = cluster.network().await;
        answers(None, at(loopback, 9090), &["a"]).await;
        network.detach("a").await.unwrap();
        answers(None, at(loopback, 9090), &[]).await;
        network.purge().await.unwrap();
    });
}
