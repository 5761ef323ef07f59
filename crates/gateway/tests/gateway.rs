//! The gateway against the real API server in-process, and endpoints made by hand on loopback.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use k8s_openapi::{
    api::{
        core::v1::{Event, Secret, Service},
        discovery::v1::EndpointSlice,
        networking::v1::Ingress,
    },
    serde::de::DeserializeOwned,
};
use knarr_api::ApiServer;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

const DEADLINE: Duration = Duration::from_secs(30);

struct Crew {
    client: Client,
    task: tokio::task::JoinHandle<()>,
    http: u16,
    https: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A port that is free now.
async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(last) if tokio::time::Instant::now() > end => {
                panic!("{what}: not within {DEADLINE:?}; last seen: {last}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

impl Crew {
    async fn start() -> Crew {
        let dir = tempfile::tempdir().unwrap();
        let api = ApiServer::for_tests(dir.path());
        let (http, https) = (free_port().await, free_port().await);
        let loopback = [127, 0, 0, 1];
        let config = knarr_gateway::Config {
            bind: loopback.into(),
            ingress_http: (loopback, http).into(),
            ingress_https: (loopback, https).into(),
            address: loopback.into(),
        };
        let client = api.client("admin", &["system:masters"], "test");
        let task = tokio::spawn(knarr_gateway::run(config, client.clone()));
        Crew {
            client,
            task,
            http,
            https,
            _dir: dir,
        }
    }

    async fn apply<K>(&self, object: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let name = object["metadata"]["name"].as_str().unwrap().to_string();
        let parameters = PatchParams::apply("test").force();
        let api = Api::<K>::namespaced(self.client.clone(), "default");
        api.patch(&name, &parameters, &Patch::Apply(object))
            .await
            .unwrap();
    }

    /// A Service `web` that publishes `port`; `more` goes into the port.
    async fn publish(&self, port: u16, more: Value) {
        let mut spec = json!({"name": "p", "port": port});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let object = json!({"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},
            "spec":{"type":"LoadBalancer","allocateLoadBalancerNodePorts":false,"ports":[spec]}});
        self.apply::<Service>(object).await;
    }

    /// The endpoints of `web`: all listen on the same port, each at an address of its own.
    async fn endpoints(&self, all: &[SocketAddr]) {
        self.endpoints_of("TCP", all).await;
    }

    async fn endpoints_of(&self, protocol: &str, all: &[SocketAddr]) {
        let port = all.first().map_or(1, SocketAddr::port);
        let endpoints = all
            .iter()
            .map(|a| json!({"addresses":[a.ip().to_string()],"conditions":{"ready":true}}))
            .collect::<Vec<_>>();
        let object = json!({"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
            "metadata":{"name":"web-1","labels":{"kubernetes.io/service-name":"web"}},
            "ports":[{"name":"p","port":port,"protocol":protocol}],"endpoints":endpoints});
        self.apply::<EndpointSlice>(object).await;
    }

    async fn service(&self) -> Service {
        Api::<Service>::namespaced(self.client.clone(), "default")
            .get("web")
            .await
            .unwrap()
    }
}

/// An HTTP server, 1.1 and 2, that answers with its name, and what it was asked.
struct Backend {
    address: SocketAddr,
    seen: Arc<AtomicUsize>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Backend {
    async fn start(name: &'static str, address: &str) -> Backend {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let counter = seen.clone();
        tokio::spawn(async move {
            let mut until = stopped.clone();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    _ = until.changed() => {
                        // As a server in a cluster must: what was sent before it was known to go is still taken.
                        let grace = tokio::time::sleep(Duration::from_millis(500));
                        tokio::pin!(grace);
                        loop {
                            tokio::select! {
                                accepted = listener.accept() => last_ones(name, accepted.unwrap().0, counter.clone()),
                                () = &mut grace => return,
                            }
                        }
                    }
                };
                let (counter, mut stopped) = (counter.clone(), stopped.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        counter.fetch_add(1, Relaxed);
                        async move { Ok::<_, hyper::Error>(reply(name, request).await) }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let mut connection = std::pin::pin!(
                        builder.serve_connection_with_upgrades(TokioIo::new(stream), service)
                    );
                    tokio::select! {
                        _ = connection.as_mut() => {}
                        _ = stopped.changed() => {
                            connection.as_mut().graceful_shutdown();
                            let _ = connection.await;
                        }
                    }
                });
            }
        });
        Backend {
            address,
            seen,
            stop,
        }
    }

    /// Ends as a well-behaved server does on SIGTERM: no new connections, idle ones are closed.
    fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// Serves a connection that came late: one request.
fn last_ones(name: &'static str, stream: TcpStream, counter: Arc<AtomicUsize>) {
    tokio::spawn(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            counter.fetch_add(1, Relaxed);
            async move { Ok::<_, hyper::Error>(reply(name, request).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().keep_alive(false);
        let _ = builder
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
}

async fn reply(name: &str, mut request: Request<Incoming>) -> Response<Full<bytes::Bytes>> {
    if request.headers().contains_key("upgrade") {
        let key = request.headers()["sec-websocket-key"].as_bytes().to_vec();
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(&key);
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let io = TokioIo::new(upgraded.await.unwrap());
            let role = tokio_tungstenite::tungstenite::protocol::Role::Server;
            let mut socket =
                tokio_tungstenite::WebSocketStream::from_raw_socket(io, role, None).await;
            while let Some(Ok(message)) = socket.next().await {
                if !message.is_text() || socket.send(message).await.is_err() {
                    return;
                }
            }
        });
        return Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", accept)
            .body(Full::default())
            .unwrap();
    }
    let (parts, body) = request.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .map_or("-", |v| v.to_str().unwrap())
            .to_string()
    };
    let text = format!(
        "{name} {:?} {} {} host={} for={} proto={} body={}",
        parts.version,
        parts.method,
        parts.uri.path(),
        header("host"),
        header("x-forwarded-for"),
        header("x-forwarded-proto"),
        bytes.len()
    );
    Response::new(Full::from(text))
}

/// One request on a connection of its own; status and body.
async fn ask(port: u16, request: &str) -> Result<(u16, String), String> {
    let work = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&all).into_owned())
    };
    let all = tokio::time::timeout(DEADLINE, work)
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())?;
    let status = all.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
    Ok((
        status,
        all.split_once("\r\n\r\n")
            .map_or("", |(_, body)| body)
            .to_string(),
    ))
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n")
}

/// Waits until the port answers with 200.
async fn serves(port: u16) -> String {
    eventually("the port serves", async || {
        match ask(port, &get("/")).await {
            Ok((200, body)) => Ok(body),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

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
    ] {
        assert_eq!(ask(port, request).await.unwrap().0, expected, "{name}");
    }
    assert_eq!(backend.seen.load(Relaxed), seen);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_endpoints_are_replaced() {
    let crew = Crew::start().await;
    let port = free_port().await;
    let mut backends = vec![Backend::start("0", "127.0.0.2:0").await];
    let shared = backends[0].address.port();
    crew.publish(port, json!({"appProtocol":"http"})).await;
    crew.endpoints(&[backends[0].address]).await;
    serves(port).await;
    let done = Arc::new(AtomicBool::new(false));
    let clients = (0..8).map(|number| {
        let done = done.clone();
        tokio::spawn(async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let mut count = 0;
            while !done.load(Relaxed) {
                let method = if number % 2 == 0 { "GET" } else { "POST" };
                let body = if number % 2 == 0 { "" } else { "some words" };
                let request = Request::builder()
                    .method(method)
                    .uri("/")
                    .header("host", "x")
                    .body(Full::<bytes::Bytes>::from(body))
                    .unwrap();
                sender.ready().await.unwrap();
                let response = sender.send_request(request).await.unwrap();
                let status = response.status();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(status, 200, "{method} after {count} requests: {body:?}");
                count += 1;
            }
            count
        })
    });
    let clients = clients.collect::<Vec<_>>();
    for round in 3..11u8 {
        let next = Backend::start("n", &format!("127.0.0.{round}:{shared}")).await;
        crew.endpoints(&[next.address]).await;
        let seen = next.seen.clone();
        eventually("requests move on", async || {
            if seen.load(Relaxed) > 20 {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        })
        .await;
        // Nobody can take back a POST that a server drops unread: as everywhere, it serves on for a moment after it
        // left the endpoints.
        tokio::time::sleep(Duration::from_millis(500)).await;
        backends.last().unwrap().stop();
        backends.push(next);
    }
    done.store(true, Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
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
    let waiting = tokio::spawn(async move { ask(port, &get("/")).await.unwrap() });
    let backend = Backend::start("late", "127.0.0.1:0").await;
    crew.endpoints(&[backend.address]).await;
    let (status, body) = waiting.await.unwrap();
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
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
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
