//! The gateway against the real API server in-process, and endpoints made by hand on loopback.

mod crew;
mod edges;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use crew::{Backend, Crew, answer_to_one_that_waits, ask, eventually, free_port, get, serves};
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::{
    core::v1::{Event, Secret, Service},
    networking::v1::Ingress,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

#[tokio::test]
async fn a_request_and_its_headers() {
    let crew = Crew::start().await;
    let backend = Backend::start("a", "127.0.0.1:0").await;
    let port = free_port().await;
    crew.publish(port, json!({})).await;
    crew.endpoints(&[backend.address]).await;
    let body = serves(port).await;
    assert!(
        body.contains("a HTTP/1.1 GET / host=shop.test for=127.0.0.1 proto=http body=0"),
        "{body}"
    );
    let chunked = "POST /up HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (status, body) = ask(port, chunked).await.unwrap();
    assert_eq!(status, 200);
    assert!(
        body.contains("POST /up") && body.contains("body=5"),
        "{body}"
    );
    eventually("the address in status", async || {
        let status = crew
            .service()
            .await
            .status
            .and_then(|s| s.load_balancer?.ingress);
        match status.as_deref() {
            Some([one]) if one.ip.as_deref() == Some("127.0.0.1") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // What isn't fit never comes through.
    let seen = backend.seen.load(Relaxed);
    for (name, request, expected) in [
        (
            "no host",
            "GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
            400,
        ),
        (
            "two hosts",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n",
            400,
        ),
        ("nonsense", "GET nonsense\r\n\r\n", 400),
        (
            "a bad length",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
            400,
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            400,
        ),
        (
            "an encoding that hides the length",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, x\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "a space before the colon",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length : 1\r\n\r\nx",
            400,
        ),
        (
            "a folded header",
            "GET / HTTP/1.1\r\nhost: a\r\nx-a: b\r\n c\r\n\r\n",
            400,
        ),
        (
            "user information",
            "GET http://b@a/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            400,
        ),
    ] {
        assert_eq!(ask(port, request).await.unwrap().0, expected, "{name}");
    }
    assert_eq!(backend.seen.load(Relaxed), seen);
    // Of two framings the chunks count, and what follows is no request: the connection ends.
    let smuggled = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nhost: a\r\n\r\n";
    let (status, body) = ask(port, smuggled).await.unwrap();
    assert!(status == 200 && body.contains("body=0"), "{status} {body}");
    assert_eq!(backend.seen.load(Relaxed), seen + 1);
    Api::<Service>::namespaced(crew.client.clone(), "default")
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    eventually("the port is closed", async || {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Err(_) => Ok(()),
            Ok(_) => Err("it is open".into()),
        }
    })
    .await;
}

/// Eight clients ask without a pause while the one endpoint is replaced 17 times. `patient` servers finish what was
/// sent to them before they end; others end at once.
async fn check_replacement(method: &'static str, patient: bool) {
    let crew = Crew::start().await;
    let port = free_port().await;
    let mut backends = vec![Backend::start("0", "127.0.0.2:0").await];
    let shared = backends[0].address.port();
    crew.publish(port, json!({"appProtocol":"http"})).await;
    crew.endpoints(&[backends[0].address]).await;
    serves(port).await;
    let done = Arc::new(AtomicBool::new(false));
    let counts = (0..8)
        .map(|_| Arc::new(AtomicUsize::new(0)))
        .collect::<Vec<_>>();
    let clients = counts.iter().map(|count| {
        let (done, count) = (done.clone(), count.clone());
        tokio::spawn(async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            while !done.load(Relaxed) {
                let text = if method == "GET" { "" } else { "some words" };
                let request = Request::builder()
                    .method(method)
                    .uri("/")
                    .header("host", "x")
                    .body(Full::<bytes::Bytes>::from(text))
                    .unwrap();
                sender.ready().await.unwrap();
                let response = sender.send_request(request).await.unwrap();
                let status = response.status();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(status, 200, "after {count:?} requests: {body:?}");
                count.fetch_add(1, Relaxed);
            }
        })
    });
    let clients = clients.collect::<Vec<_>>();
    for round in 3..20u8 {
        let next = Backend::start("n", &format!("127.0.0.{round}:{shared}")).await;
        crew.endpoints(&[next.address]).await;
        let seen = next.seen.clone();
        eventually("requests move on", async || {
            assert!(clients.iter().all(|c| !c.is_finished()), "a request failed");
            match seen.load(Relaxed) > 20 {
                true => Ok(()),
                false => Err(format!("{seen:?}")),
            }
        })
        .await;
        if patient {
            // What was under way has its answer when each client has one more.
            let before = counts.iter().map(|c| c.load(Relaxed)).collect::<Vec<_>>();
            eventually("requests go on", async || {
                assert!(clients.iter().all(|c| !c.is_finished()), "a request failed");
                let mut pairs = counts.iter().zip(&before);
                match pairs.all(|(count, before)| count.load(Relaxed) > *before) {
                    true => Ok(()),
                    false => Err(format!("{counts:?}")),
                }
            })
            .await;
        }
        backends.last().unwrap().stop();
        backends.push(next);
    }
    done.store(true, Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(counts.iter().all(|count| count.load(Relaxed) > 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_endpoints_are_replaced() {
    check_replacement("POST", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_harmless_request_fails_though_endpoints_end_at_once() {
    check_replacement("GET", false).await;
}

#[tokio::test]
async fn another_endpoint_is_asked_when_one_refuses() {
    let crew = Crew::start().await;
    let port = free_port().await;
    let alive = Backend::start("alive", "127.0.0.2:0").await;
    // Nobody listens there.
    let dead = SocketAddr::from(([127, 0, 0, 3], alive.address.port()));
    crew.publish(port, json!({"appProtocol":"http"})).await;
    crew.endpoints(&[dead, alive.address]).await;
    serves(port).await;
    for _ in 0..30 {
        assert_eq!(ask(port, &get("/")).await.unwrap().0, 200);
    }
}

#[tokio::test]
async fn a_client_keeps_its_endpoint_where_the_service_says_so() {
    let crew = Crew::start().await;
    let port = free_port().await;
    let one = Backend::start("one", "127.0.0.2:0").await;
    let two = Backend::start("two", &format!("127.0.0.3:{}", one.address.port())).await;
    crew.apply::<Service>(
        json!({"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},
        "spec":{"type":"LoadBalancer","allocateLoadBalancerNodePorts":false,"sessionAffinity":"ClientIP",
            "ports":[{"name":"p","port":port,"appProtocol":"http"}]}}),
    )
    .await;
    crew.endpoints(&[one.address, two.address]).await;
    serves(port).await;
    for _ in 0..30 {
        assert_eq!(ask(port, &get("/")).await.unwrap().0, 200);
    }
    let seen = (one.seen.load(Relaxed), two.seen.load(Relaxed));
    assert!(seen.0.min(seen.1) == 0, "{seen:?}");
}

#[tokio::test]
async fn requests_wait_for_the_first_endpoint() {
    let crew = Crew::start().await;
    let port = free_port().await;
    crew.publish(port, json!({"appProtocol":"http"})).await;
    eventually("the port is open", async || {
        TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(|e| e.to_string())
    })
    .await;
    let backend = Backend::start("late", "127.0.0.1:0").await;
    let comes = async || crew.endpoints(&[backend.address]).await;
    let goes = async |()| {
        crew.endpoints(&[]).await;
        eventually("none is known", async || {
            match ask(port, &get("/")).await.unwrap() {
                (503, _) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    };
    let (status, body, ()) = answer_to_one_that_waits(port, comes, goes).await;
    assert_eq!(status, 200, "{body}");
    crew.endpoints(&[]).await;
    let (status, body) = eventually("no endpoint", async || {
        match ask(port, &get("/")).await.unwrap() {
            (200, body) => Err(body),
            other => Ok(other),
        }
    })
    .await;
    assert_eq!(status, 503);
    assert!(body.contains("default/web"), "{body}");
}

#[tokio::test]
async fn web_sockets_and_http2() {
    let crew = Crew::start().await;
    let backend = Backend::start("a", "127.0.0.1:0").await;
    let port = free_port().await;
    crew.publish(port, json!({})).await;
    crew.endpoints(&[backend.address]).await;
    serves(port).await;
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://127.0.0.1:{port}/chat"))
        .await
        .unwrap();
    for text in ["one", "two"] {
        socket.send(text.into()).await.unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap().into_text().unwrap(),
            text
        );
    }
    // HTTP/2 with prior knowledge from the client; to the endpoint as the port says.
    for (protocol, version) in [
        (json!({}), "HTTP/1.1"),
        (json!({"appProtocol":"kubernetes.io/h2c"}), "HTTP/2.0"),
    ] {
        crew.publish(port, protocol).await;
        eventually(version, async || {
            let stream = TcpStream::connect(("127.0.0.1", port))
                .await
                .map_err(|e| e.to_string())?;
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .map_err(|e| e.to_string())?;
            tokio::spawn(connection);
            let request = Request::builder()
                .uri("http://shop.test/two")
                .body(Full::<bytes::Bytes>::from("abc"))
                .unwrap();
            let response = sender
                .send_request(request)
                .await
                .map_err(|e| e.to_string())?;
            let body = response
                .into_body()
                .collect()
                .await
                .map_err(|e| e.to_string())?
                .to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            match body.contains(&format!("a {version} GET /two")) && body.contains("body=3") {
                true => Ok(()),
                false => Err(body),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn other_protocols_are_spliced() {
    let crew = Crew::start().await;
    // Says hello first, then sends all back when the client has ended its half.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = b"hello ".to_vec();
                stream.write_all(&all).await.unwrap();
                all.clear();
                stream.read_to_end(&mut all).await.unwrap();
                stream.write_all(&all).await.unwrap();
            });
        }
    });
    let port = free_port().await;
    crew.publish(port, json!({})).await;
    crew.endpoints(&[address]).await;
    for (name, first) in [("the server first", false), ("the client first", true)] {
        let said = eventually(name, async || {
            let mut stream = TcpStream::connect(("127.0.0.1", port))
                .await
                .map_err(|e| e.to_string())?;
            let mut hello = [0; 6];
            if first {
                stream.write_all(b"*1\r\n").await.unwrap();
            }
            stream
                .read_exact(&mut hello)
                .await
                .map_err(|e| e.to_string())?;
            assert_eq!(&hello, b"hello ");
            stream.write_all(b"PING\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = String::new();
            stream
                .read_to_string(&mut rest)
                .await
                .map_err(|e| e.to_string())?;
            Ok(rest)
        })
        .await;
        assert_eq!(
            said,
            if first { "*1\r\nPING\r\n" } else { "PING\r\n" },
            "{name}"
        );
    }
}

#[tokio::test]
async fn where_http_was_spoken_who_is_silent_will_speak_it_too() {
    let crew = Crew::start().await;
    let backend = Backend::start("a", "127.0.0.1:0").await;
    let port = free_port().await;
    crew.publish(port, json!({})).await;
    crew.endpoints(&[backend.address]).await;
    serves(port).await;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // longer than a client is waited for whose protocol nothing tells
    tokio::time::sleep(Duration::from_millis(400)).await;
    stream.write_all(get("/late").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.contains("GET /late") && answer.contains("for=127.0.0.1 proto=http"),
        "{answer}"
    );
}

#[tokio::test]
async fn datagrams_go_there_and_back() {
    let crew = Crew::start().await;
    let port = free_port().await;
    let names = ["a", "b"];
    let mut backends = Vec::new();
    for (number, name) in names.into_iter().enumerate() {
        let at = backends.first().map_or(0, SocketAddr::port);
        let socket = UdpSocket::bind((format!("127.0.0.{}", number + 2), at))
            .await
            .unwrap();
        backends.push(socket.local_addr().unwrap());
        tokio::spawn(async move {
            let mut buffer = vec![0; 65535];
            loop {
                let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
                let mut answer = format!("{name}:").into_bytes();
                answer.extend_from_slice(&buffer[..n]);
                socket.send_to(&answer, from).await.unwrap();
            }
        });
    }
    crew.publish(port, json!({"protocol":"UDP"})).await;
    let endpoints = async |all: &[SocketAddr]| {
        crew.endpoints_of("UDP", all).await;
    };
    endpoints(&backends[..1]).await;
    let ask = async |client: &UdpSocket, text: &str| {
        client
            .send_to(text.as_bytes(), ("127.0.0.1", port))
            .await
            .map_err(|e| e.to_string())?;
        let mut buffer = vec![0; 65535];
        let answer =
            tokio::time::timeout(Duration::from_millis(300), client.recv(&mut buffer)).await;
        let n = answer
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())?;
        Ok::<_, String>(String::from_utf8_lossy(&buffer[..n]).into_owned())
    };
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    eventually("an answer", async || match ask(&client, "one").await {
        Ok(answer) if answer == "a:one" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let large = "x".repeat(9000);
    eventually("a large answer", async || {
        match ask(&client, &large).await {
            Ok(answer) if answer.len() == 9002 => Ok(()),
            other => Err(format!("{:?}", other.map(|a| a.len()))),
        }
    })
    .await;
    // The endpoint goes: the same client is served by the other.
    endpoints(&backends[1..]).await;
    eventually("an answer of b", async || match ask(&client, "two").await {
        Ok(answer) if answer == "b:two" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test]
async fn a_taken_port_is_told_and_tried_again() {
    let crew = Crew::start().await;
    // one that nobody gets who asks for any, when it is free again
    let port = free_port().await;
    let taken = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let backend = Backend::start("a", "127.0.0.1:0").await;
    crew.endpoints(&[backend.address]).await;
    crew.publish(port, json!({"appProtocol":"http"})).await;
    let message = eventually("an Event", async || {
        let events = Api::<Event>::namespaced(crew.client.clone(), "default")
            .list(&ListParams::default())
            .await
            .unwrap();
        let found = events
            .items
            .into_iter()
            .find(|e| e.reason.as_deref() == Some("PortInUse"));
        found.and_then(|e| e.message).ok_or("none".into())
    })
    .await;
    assert!(message.contains(&port.to_string()), "{message}");
    assert!(
        crew.service()
            .await
            .status
            .and_then(|s| s.load_balancer?.ingress)
            .is_none()
    );
    drop(taken);
    serves(port).await;
}

#[tokio::test]
async fn ingresses_with_and_without_tls() {
    let crew = Crew::start().await;
    let backend = Backend::start("a", "127.0.0.1:0").await;
    crew.apply::<Service>(json!({"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"ports":[{"name":"p","port":80}]}})).await;
    crew.endpoints(&[backend.address]).await;
    assert!(
        TcpStream::connect(("127.0.0.1", crew.http)).await.is_err(),
        "nothing listens without an Ingress"
    );
    let own = rcgen::generate_simple_self_signed(["shop.test".to_string()]).unwrap();
    crew.apply::<Secret>(json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"cert"},"type":"kubernetes.io/tls",
        "stringData":{"tls.crt":own.cert.pem(),"tls.key":own.signing_key.serialize_pem()}})).await;
    crew.apply::<Ingress>(json!({"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"in"},"spec":{
        "tls":[{"hosts":["shop.test"],"secretName":"cert"}],
        "rules":[{"host":"shop.test","http":{"paths":[{"path":"/api","pathType":"Prefix","backend":{"service":{"name":"web","port":{"name":"p"}}}}]}}]}}))
        .await;
    eventually("the route", async || {
        match ask(crew.http, &get("/api/x")).await {
            Ok((200, body)) if body.contains("GET /api/x") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for (name, path, host) in [
        ("another path", "/apis", "shop.test"),
        ("another host", "/api", "other.test"),
    ] {
        let request = get(path).replace("shop.test", host);
        assert_eq!(ask(crew.http, &request).await.unwrap().0, 404, "{name}");
    }
    // Only that certificate is trusted, so the handshake proves which one was shown.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    eventually("TLS", async || {
        let stream = TcpStream::connect(("127.0.0.1", crew.https))
            .await
            .map_err(|e| e.to_string())?;
        let name = "shop.test".try_into().unwrap();
        let mut stream = connector
            .connect(name, stream)
            .await
            .map_err(|e| e.to_string())?;
        stream
            .write_all(get("/api").as_bytes())
            .await
            .map_err(|e| e.to_string())?;
        let mut all = String::new();
        let _ = stream.read_to_string(&mut all).await;
        match all.starts_with("HTTP/1.1 200") && all.contains("proto=https") {
            true => Ok(()),
            false => Err(all),
        }
    })
    .await;
    let ingresses = Api::<Ingress>::namespaced(crew.client.clone(), "default");
    eventually("the address in status", async || {
        let status = ingresses
            .get("in")
            .await
            .unwrap()
            .status
            .and_then(|s| s.load_balancer?.ingress);
        status
            .filter(|i| i.len() == 1)
            .map(drop)
            .ok_or("none".into())
    })
    .await;
    ingresses
        .delete("in", &DeleteParams::default())
        .await
        .unwrap();
    eventually(
        "the listener is closed",
        async || match TcpStream::connect(("127.0.0.1", crew.http)).await {
            Err(_) => Ok(()),
            Ok(_) => Err("it is open".into()),
        },
    )
    .await;
}
