//! Addresses of Pods besides their own, of Docker's networks with subnets. Needs root.

mod lab;

use knarr_network::{Error, Network};
use lab::{Cluster, Pod, WEB, answers, node};
use std::net::{Ipv4Addr, SocketAddr};

fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    (ip, port).into()
}

fn with(address: &str, bits: u8) -> knarr_network::Pod {
    knarr_network::Pod {
        further: vec![(address.parse().unwrap(), bits)],
        mac: Some([2, 0x42, 0xac, 0x1c, 0, bits]),
        ..Default::default()
    }
}

#[test]
fn pods_reach_each_other_at_further_addresses() {
    node(async || {
        let cluster = Cluster::start();
        let (network, _running) = cluster.network().await;
        let web: Ipv4Addr = "172.28.0.10".parse().unwrap();
        let a = Pod::start_with(&network, "a", with("172.28.0.10", 16)).await;
        let b = Pod::start_with(&network, "b", with("172.28.0.11", 24)).await;
        let plain = Pod::start(&network, "plain").await;
        for from in [None, Some(&a), Some(&b), Some(&plain)] {
            answers(from, at(web, WEB), &["a"]).await;
        }
        // Within the range it goes by its address there, and by its own elsewhere.
        for (to, want) in [
            (web, "172.28.0.11".parse().unwrap()),
            (plain.ip, b.ip),
            ("8.8.8.8".parse().unwrap(), b.ip),
        ] {
            let source = b.run(move || {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect((to, 9)).unwrap();
                socket.local_addr().unwrap().ip()
            });
            assert_eq!(source.await, std::net::IpAddr::V4(want), "towards {to}");
        }
        let mac = b.run(|| {
            std::process::Command::new("ip")
                .args(["link", "show", "eth0"])
                .output()
        });
        let mac = String::from_utf8(mac.await.unwrap().stdout).unwrap();
        assert!(mac.contains("02:42:ac:1c:00:18"), "{mac}");
        // Who comes next may have it, while the former one's namespace is still there.
        network.detach("a").await.unwrap();
        let c = Pod::start_with(&network, "c", with("172.28.0.10", 16)).await;
        answers(Some(&b), at(web, WEB), &["c"]).await;
        drop((a, c));
        refusals(&network, &plain).await;
        network.purge().await.unwrap();
    });
}

async fn refusals(network: &Network, pod: &Pod) {
    let netns = std::path::Path::new("/proc/self/ns/net");
    for (address, bits) in [
        ("8.8.8.8", 24),
        ("169.254.169.254", 32),
        ("127.0.0.1", 8),
        ("10.43.0.10", 32),
        ("172.28.0.9", 33),
        (&*pod.ip.to_string(), 32),
    ] {
        let asking = knarr_network::Pod {
            uid: "refused".into(),
            ..with(address, bits)
        };
        let refused = network.connect(&asking, netns).await;
        assert!(
            matches!(refused, Err(Error::Address { .. })),
            "{address}/{bits}: {refused:?}"
        );
    }
}
