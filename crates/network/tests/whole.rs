//! Services whose address carries all ports (`knarr.dev/ports: any`), and names that only some find. Needs root.

mod lab;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use lab::{Cluster, Pod, VIP, WEB, command, eventually, node, resolve, resolve_at, who};
use serde_json::json;

/// A further address, which no container has.
const OUTER: Ipv4Addr = Ipv4Addr::new(172, 28, 0, 5);

fn at(port: u16) -> SocketAddr {
    (VIP, port).into()
}

async fn service(cluster: &Cluster, name: &str, ip: Ipv4Addr, names: &str) {
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "annotations": { "knarr.dev/ports": "any", "knarr.dev/dns-names": names } },
        // One port is named, and is another than the container's.
        "spec": { "clusterIP": ip.to_string(), "selector": { "app": "early" }, "externalIPs": [OUTER.to_string()], "ports": [{ "name": "http", "port": 80, "targetPort": WEB }] },
    });
    cluster.apply::<Service>(object).await;
}

/// Pods, and whether each is ready.
async fn endpoints(cluster: &Cluster, pods: &[(&Pod, bool)]) {
    let endpoints = pods.iter().map(|(pod, ready)| {
        json!({ "addresses": [pod.ip.to_string()], "conditions": { "ready": ready, "serving": ready, "terminating": false } })
    });
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "web-1", "labels": { "kubernetes.io/service-name": "web" } },
        "ports": [{ "name": "http", "port": WEB, "protocol": "TCP" }],
        "endpoints": endpoints.collect::<Vec<_>>(),
    });
    cluster.apply::<EndpointSlice>(object).await;
}

/// What the Service's name means to a Pod.
async fn means(pod: &Pod, expected: &[Ipv4Addr]) {
    let expected = expected.iter().copied().map(IpAddr::V4).collect::<Vec<_>>();
    eventually(&format!("web for {}", pod.name), async || {
        let got = pod.run(|| resolve("web.default.svc.cluster.local")).await;
        match got.as_ref().is_ok_and(|got| *got == expected) {
            true => Ok(()),
            false => Err(format!("{got:?}, wanted {expected:?}")),
        }
    })
    .await;
}

async fn answers(from: &Pod, port: u16, expected: &[&str]) {
    lab::answers(Some(from), at(port), expected).await;
}

#[test]
fn an_address_carries_ports_that_nothing_names() {
    node(async || {
        let cluster = Cluster::start();
        let (network, running) = cluster.network().await;
        let a = Pod::start(&network, "a").await;
        let b = Pod::start(&network, "b").await;
        let client = Pod::start(&network, "client").await;
        service(&cluster, "web", VIP, "web").await;
        answers(&client, WEB, &[]).await;
        // What binds its own name does so before anybody knows it as an endpoint.
        let early = Pod::start(&network, "early").await;
        means(&early, &[early.ip]).await;
        means(&client, &[VIP]).await;
        // Who has no ready container is still reached, as between Compose's containers.
        endpoints(&cluster, &[(&a, false)]).await;
        answers(&client, WEB, &["a"]).await;
        answers(&client, 80, &["a"]).await;
        eventually("its further address", async || {
            match client.run(|| who((OUTER, WEB).into())).await {
                outer if outer == [Some("a".to_string())] => Ok(()),
                outer => Err(format!("{outer:?}")),
            }
        })
        .await;
        // A health check may ask for its own service's name.
        answers(&a, WEB, &["a"]).await;
        endpoints(&cluster, &[(&a, true), (&b, false)]).await;
        answers(&client, WEB, &["a"]).await;
        endpoints(&cluster, &[(&a, true), (&b, true)]).await;
        answers(&client, WEB, &["a", "b"]).await;
        answers(&client, 80, &["a", "b"]).await;
        means(&a, &[a.ip, b.ip]).await;
        means(&b, &[b.ip, a.ip]).await;
        means(&client, &[VIP]).await;
        answers(&client, WEB + 1, &[]).await;
        // Other protocols: UDP follows its endpoint, and ping is answered.
        let socket = client
            .run(|| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                socket.connect(at(WEB)).unwrap();
                let wait = Some(Duration::from_millis(200));
                socket.set_read_timeout(wait).unwrap();
                Arc::new(socket)
            })
            .await;
        for pod in [&a, &b] {
            endpoints(&cluster, &[(pod, true)]).await;
            eventually(&format!("a datagram from {}", pod.name), async || {
                let socket = socket.clone();
                let answer = client.run(move || {
                    let mut buffer = [0; 100];
                    socket.send(b"?")?;
                    let n = socket.recv(&mut buffer)?;
                    Ok::<_, std::io::Error>(String::from_utf8_lossy(&buffer[..n]).into_owned())
                });
                match answer.await {
                    Ok(answer) if answer.starts_with(&pod.name) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
        let said = client
            .run(|| command(&format!("busybox ping -c 1 -W 60 {VIP}")))
            .await;
        assert!(said.contains("1 packets received"), "{said}");
        // The kernel serves on without us, and a new process finds nothing to mend.
        running.stop().await;
        drop(network);
        answers(&client, WEB, &["b"]).await;
        let before = command("nft -a list table knarr-t");
        let (network, _running) = cluster.network().await;
        assert_eq!(before, command("nft -a list table knarr-t"));
        means(&b, &[b.ip]).await;
        network.purge().await.unwrap();
    });
}

#[test]
fn names_are_found_by_those_they_are_for() {
    node(async || {
        let cluster = Cluster::start();
        let (network, running) = cluster.network().await;
        let labelled = |labels: &[&str]| knarr_network::Pod {
            labels: labels
                .iter()
                .map(|l| (l.to_string(), "true".to_string()))
                .collect::<BTreeMap<_, _>>(),
            ..knarr_network::Pod::default()
        };
        let front =
            Pod::start_with(&network, "front", labelled(&["network.knarr.dev/front"])).await;
        let back = Pod::start_with(&network, "back", labelled(&["network.knarr.dev/back"])).await;
        let other = Pod::start(&network, "other").await;
        let second = Ipv4Addr::new(10, 43, 7, 8);
        service(
            &cluster,
            "web",
            VIP,
            "my_web web.internal db@network.knarr.dev/front",
        )
        .await;
        service(&cluster, "web2", second, "db@network.knarr.dev/back").await;
        let (web, web2) = (Some(VIP), Some(second));
        let check = async |pod: &Pod, name: &'static str, expected: &Option<Ipv4Addr>| {
            let expected = expected.map(IpAddr::V4).into_iter().collect::<Vec<_>>();
            eventually(&format!("{name} for {}", pod.name), async || {
                let got = pod.run(move || resolve(name)).await;
                match got.as_ref().is_ok_and(|got| *got == expected) {
                    true => Ok(()),
                    false => Err(format!("{got:?}, wanted {expected:?}")),
                }
            })
            .await;
        };
        for (pod, name, expected) in [
            (&front, "db.default.svc.cluster.local", &web),
            (&back, "db.default.svc.cluster.local", &web2),
            (&other, "db.default.svc.cluster.local", &None),
            (&other, "web.internal.default.svc.cluster.local", &web),
            (&other, "my_web.default.svc.cluster.local", &web),
            (&front, "web.internal", &web),
            (&front, "db", &web),
        ] {
            check(pod, name, expected).await;
        }
        // As in Docker's networks, there is a server at this address; not for Pods that nobody says names of.
        let there = Ipv4Addr::new(127, 0, 0, 11);
        eventually("an answer of that server", async || {
            match back.run(move || resolve_at(there, "db")).await {
                Ok(asked) if asked == [IpAddr::V4(second)] => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let over_tcp = back
            .run(move || std::net::TcpStream::connect((there, 53)).map(drop))
            .await;
        over_tcp.unwrap();
        let nobody = other.run(move || resolve_at(there, "db")).await;
        let refused = nobody.unwrap_err().kind();
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
        // Who is who outlives the process.
        running.stop().await;
        drop(network);
        let (network, _running) = cluster.network().await;
        check(&back, "db.default.svc.cluster.local", &web2).await;
        network.purge().await.unwrap();
    });
}
