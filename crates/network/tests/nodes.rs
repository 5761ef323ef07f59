//! Two nodes on one machine: Pods, Services, node ports and names work from and to both. Needs root.

mod lab;

use std::net::{Ipv4Addr, SocketAddr};

use knarr_network::{Config, Network, Place};
use lab::{Cluster, Pod, Running, VIP, WEB, ask, eventually, node};
use serde_json::json;

const NODE_PORT: u16 = 30080;

fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    (ip, port).into()
}

fn second(first: &Config) -> Config {
    Config {
        state_dir: first.state_dir.with_file_name("network-2"),
        node_cidr: (Ipv4Addr::new(10, 42, 32, 0), 19),
        place: Some(Place {
            dir: first.state_dir.with_file_name("place-2"),
            hostname: "n-2".into(),
            number: 2,
            machine_ip: first.node_ip(),
            machine_ip6: first.ipv6.as_ref().map(knarr_network::Ipv6::node_ip),
            machine_outside: vec![],
        }),
        node: "n2".into(),
        ipv6: first.ipv6.clone().map(|ipv6| knarr_network::Ipv6 {
            node_cidr: ("fd00:2a::1:0".parse().unwrap(), 112),
            ..ipv6
        }),
        ..first.clone()
    }
}

struct Two {
    cluster: Cluster,
    networks: [Network; 2],
    place: Place,
    running: [Running; 2],
}

impl Two {
    async fn start() -> Two {
        Two::start_on(&[]).await
    }

    /// On a machine with these addresses towards the outside.
    async fn start_on(outside: &[Ipv4Addr]) -> Two {
        let cluster = Cluster::start();
        let (first, running) = cluster.network().await;
        let mut config = second(&cluster.config());
        let place = config.place.as_mut().unwrap();
        place.machine_outside = outside.iter().map(|ip| (*ip).into()).collect();
        let place = place.clone();
        let network = Network::open(config).await.unwrap();
        let (services, dns, client) = (network.clone(), network.clone(), cluster.client());
        let tasks = vec![
            tokio::spawn(async move { services.run_services(client).await }),
            tokio::spawn(async move { dns.run_dns().await.unwrap() }),
        ];
        Two {
            cluster,
            networks: [first, network],
            place,
            running: [running, Running(tasks)],
        }
    }

    /// On the second node, outside of its Pods.
    async fn on_second<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let net = std::fs::File::open(self.place.net()).unwrap();
        let inside = move || {
            let fd = std::os::fd::AsFd::as_fd(&net);
            rustix::thread::move_into_link_name_space(fd, None).unwrap();
            work()
        };
        tokio::task::spawn_blocking(move || std::thread::spawn(inside).join().unwrap())
            .await
            .unwrap()
    }

    async fn purge(self) {
        for running in self.running {
            running.stop().await;
        }
        let [first, second] = self.networks;
        second.purge().await.unwrap();
        first.purge().await.unwrap();
        assert!(!self.place.dir.exists());
    }
}

#[test]
fn everything_is_reached_from_both_nodes() {
    node(async || {
        let two = Two::start().await;
        let a = Pod::start(&two.networks[0], "a").await;
        let b = Pod::start(&two.networks[1], "b").await;
        let b2 = Pod::start(&two.networks[1], "b2").await;
        assert_eq!(b.ip, Ipv4Addr::new(10, 42, 32, 2));
        let web = json!({"type":"NodePort","ports":[
            {"name":"http","port":80,"targetPort":WEB,"nodePort":NODE_PORT}]});
        two.cluster.service(web).await;
        let (first, second) = (two.networks[0].node_ip(), two.networks[1].node_ip());
        for server in [&a, &b] {
            two.cluster.endpoints(&[server]).await;
            let doors = [
                at(VIP, 80),
                at(first, NODE_PORT),
                at(second, NODE_PORT),
                at(server.ip, WEB),
            ];
            for to in doors {
                for from in [Some(&a), Some(&b), Some(&b2), None] {
                    let who = from.map_or("node", |pod| &pod.name);
                    let wanted = format!("{} ", server.name);
                    eventually(&format!("{who} asks {to} of {wanted}"), async || {
                        let answer = match from {
                            Some(pod) => pod.ask(to).await,
                            None => tokio::task::spawn_blocking(move || ask(to)).await.unwrap(),
                        };
                        match answer {
                            Ok(text) if text.starts_with(&wanted) => Ok(()),
                            other => Err(format!("{other:?}")),
                        }
                    })
                    .await;
                }
                eventually(
                    &format!("node 2 asks {to} of {}", server.name),
                    async || match two.on_second(move || ask(to)).await {
                        Ok(text) if text.starts_with(&server.name) => Ok(()),
                        other => Err(format!("{other:?}")),
                    },
                )
                .await;
            }
        }
        // b answers now: Pods of both nodes are known to it by their own addresses
        for to in [at(VIP, 80), at(b.ip, WEB)] {
            assert_eq!(a.ask(to).await.unwrap(), format!("b {}", a.ip), "{to}");
        }
        let server = b.ip;
        let answer = two.on_second(move || ask(at(server, WEB))).await.unwrap();
        let hosts = ["169.254.1.1", &second.to_string()].map(|ip| format!("b {ip}"));
        assert!(hosts.contains(&answer), "{answer}");
        two.purge().await;
    });
}

#[test]
fn nodes_know_each_other_by_their_own_addresses() {
    node(async || {
        let machine = Ipv4Addr::new(198, 51, 100, 7);
        lab::command(&format!("ip addr add {machine}/32 dev lo"));
        let two = Two::start_on(&[machine]).await;
        let a = Pod::start(&two.networks[0], "a").await;
        let b = Pod::start(&two.networks[1], "b").await;
        let web = json!({"type":"NodePort","externalTrafficPolicy":"Local","ports":[
            {"name":"http","port":80,"targetPort":WEB,"nodePort":NODE_PORT}]});
        two.cluster.service(web).await;
        let placed = [(&a, Some("n1")), (&b, Some("n2"))];
        two.cluster.placed_endpoints(&placed).await;
        let (first, second) = (two.networks[0].node_ip(), two.networks[1].node_ip());
        let asked = at(second, NODE_PORT);
        let wanted = format!("b {machine}");
        eventually("the machine asks node 2 in its own name", async || {
            match tokio::task::spawn_blocking(move || ask(asked))
                .await
                .unwrap()
            {
                Ok(text) if text == wanted => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let (asked, wanted) = (at(first, NODE_PORT), format!("a {second}"));
        eventually(
            "node 2 asks the machine in its own name",
            async || match two.on_second(move || ask(asked)).await {
                Ok(text) if text == wanted => Ok(()),
                other => Err(format!("{other:?}")),
            },
        )
        .await;
        two.purge().await;
    });
}

#[test]
fn pods_of_the_second_node_reach_the_outside_and_names() {
    node(async || {
        let two = Two::start().await;
        let outside = Pod::outside().await;
        let b = Pod::start(&two.networks[1], "b").await;
        eventually("an answer from outside", async || {
            match b.ask(at(outside.ip, WEB)).await {
                Ok(answer) if answer == "outside 192.0.2.1" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        eventually("cluster DNS listens on the second node", async || {
            let connect = || std::net::TcpStream::connect((lab::DNS, 53)).map(drop);
            two.on_second(connect).await.map_err(|e| e.to_string())
        })
        .await;
        two.purge().await;
    });
}

#[test]
fn a_restart_finds_the_second_node_as_it_was() {
    node(async || {
        let two = Two::start().await;
        let a = Pod::start(&two.networks[0], "a").await;
        let b = Pod::start(&two.networks[1], "b").await;
        let inode = || {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(two.place.net()).unwrap().ino()
        };
        let before = inode();
        let again = Network::open(second(&two.cluster.config())).await.unwrap();
        assert_eq!(inode(), before);
        assert_eq!(again.leases(), [("b".to_string(), b.ip)]);
        assert_eq!(
            a.ask(at(b.ip, WEB)).await.unwrap(),
            format!("b {}", a.ip),
            "its links and routes stayed"
        );
        drop(again);
        two.purge().await;
    });
}
