//! What the tests share: the API server in-process with the gateway before it, and endpoints on loopback.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    serde::de::DeserializeOwned,
};
use knarr_api::ApiServer;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

pub const DEADLINE: Duration = Duration::from_secs(120);
/// A request waits for an endpoint no longer than this.
const ENDPOINT: Duration = Duration::from_secs(5);

pub struct Crew {
    pub client: Client,
    task: tokio::task::JoinHandle<()>,
    pub http: u16,
    pub https: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A port that is free, and stays so until the gateway takes it: below those that the kernel gives to whoever asks for any
/// (`ip_local_port_range`), and no other test of this process gets it.
pub async fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 12_000..32_000;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // processes beside this one begin elsewhere
    let first = std::process::id().wrapping_mul(7919);
    loop {
        let turn = NEXT.fetch_add(1, Relaxed) as u32;
        assert!(turn < PORTS.len() as u32, "all ports are taken");
        let port = PORTS.start + first.wrapping_add(turn) % PORTS.len() as u32;
        let at = SocketAddr::from(([127, 0, 0, 1], port as u16));
        if TcpListener::bind(at).await.is_ok() && UdpSocket::bind(at).await.is_ok() {
            return at.port();
        }
    }
}

pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
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
    pub async fn start() -> Crew {
        let dir = tempfile::tempdir().unwrap();
        let api = ApiServer::for_tests_on_loopback(dir.path());
        let (http, https) = (free_port().await, free_port().await);
        let loopback = [127, 0, 0, 1];
        let config = knarr_gateway::Config {
            bind: loopback.into(),
            ingress_http: (loopback, http).into(),
            ingress_https: (loopback, https).into(),
            address: loopback.into(),
            further: Vec::new(),
            neighbour: None,
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

    pub async fn apply<K>(&self, object: Value)
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
    pub async fn publish(&self, port: u16, more: Value) {
        let mut spec = json!({"name": "p", "port": port});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let object = json!({"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},
            "spec":{"type":"LoadBalancer","allocateLoadBalancerNodePorts":false,"ports":[spec]}});
        self.apply::<Service>(object).await;
    }

    /// The endpoints of `web`: all listen on the same port, each at an address of its own.
    pub async fn endpoints(&self, all: &[SocketAddr]) {
        self.endpoints_of("TCP", all).await;
    }

    pub async fn endpoints_of(&self, protocol: &str, all: &[SocketAddr]) {
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

    pub async fn service(&self) -> Service {
        Api::<Service>::namespaced(self.client.clone(), "default")
            .get("web")
            .await
            .unwrap()
    }
}

/// An HTTP server, 1.1 and 2, that answers with its name, and what it was asked.
pub struct Backend {
    pub address: SocketAddr,
    pub seen: Arc<AtomicUsize>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Backend {
    pub async fn start(name: &'static str, address: &str) -> Backend {
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
                    _ = until.changed() => return,
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
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
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
pub async fn ask(port: u16, request: &str) -> Result<(u16, String), String> {
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

/// What a request is answered for which an endpoint comes while it waits, as `comes` lets it; `goes` takes that back. A
/// machine that stood still for the whole of the wait proves nothing: then once more.
pub async fn answer_to_one_that_waits<T>(
    port: u16,
    comes: impl AsyncFn() -> T,
    goes: impl AsyncFn(T),
) -> (u16, String, T) {
    for _ in 0..10 {
        let begin = Instant::now();
        let waiting = tokio::spawn(async move { ask(port, &get("/")).await.unwrap() });
        // well over the first few pauses, well under the wait
        tokio::time::sleep(Duration::from_secs(1)).await;
        let early = waiting.is_finished() && begin.elapsed() < ENDPOINT;
        assert!(!early, "{:?}", waiting.await);
        let endpoint = comes().await;
        let (status, body) = waiting.await.unwrap();
        if status == 200 || begin.elapsed() < ENDPOINT {
            return (status, body, endpoint);
        }
        goes(endpoint).await;
    }
    panic!("ten times no endpoint was found within {ENDPOINT:?}");
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n")
}

/// Waits until the port answers with 200, and as HTTP: who is slow to speak at first is spliced.
pub async fn serves(port: u16) -> String {
    eventually("the port serves", async || {
        match ask(port, &get("/")).await {
            Ok((200, body)) if body.contains("for=127.0.0.1") => Ok(body),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}
