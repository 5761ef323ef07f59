//! A node agent's port: TLS of the cluster's CA, and who may ask for what.

mod common;

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use common::*;
use futures::{SinkExt, StreamExt, stream::BoxStream};
use knarr_api::{AgentAnswer, ApiServer, NodeAgent, NodeUse, PodStreams};
use knarr_remotecommand::ServerStreams;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{WebSocketStream, tungstenite::client::IntoClientRequest};

struct Echo;

#[async_trait::async_trait]
impl NodeAgent for Echo {
    async fn measure(&self) -> NodeUse {
        NodeUse::default()
    }
    async fn get(&self, path: &str, _: &[(String, String)]) -> AgentAnswer {
        let text = format!("asked {path}");
        AgentAnswer {
            status: 200,
            content_type: "text/plain",
            body: Box::pin(futures::stream::once(async move { Ok(text.into()) })),
        }
    }
}

struct Port {
    f: Fixture,
    address: SocketAddr,
}

async fn open() -> Port {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::for_tests(dir.path());
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    api.set_node_agent("n1", Arc::new(Echo));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = api.clone();
    tokio::spawn(async move {
        served
            .serve_agent("n1", &[address.ip()], vec![listener])
            .await
            .unwrap()
    });
    let f = Fixture { api, client, dir };
    Port { f, address }
}

impl Port {
    async fn connect(&self, certificate: bool) -> TlsStream<tokio::net::TcpStream> {
        let pki = self.f.dir.path().join("pki");
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(pki.join("ca.crt")).unwrap())
            .unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
        let config = match certificate {
            true => config
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_file(pki.join("admin.crt")).unwrap()],
                    PrivateKeyDer::from_pem_file(pki.join("admin.key")).unwrap(),
                )
                .unwrap(),
            false => config.with_no_client_auth(),
        };
        let socket = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::from(self.address.ip());
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
            .unwrap()
    }

    async fn websocket(
        &self,
        path: &str,
        protocol: &str,
    ) -> WebSocketStream<TlsStream<tokio::net::TcpStream>> {
        let stream = self.connect(true).await;
        let mut request = format!("wss://n1{path}").into_client_request().unwrap();
        let protocol = protocol.parse().unwrap();
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
        let (client, _) = tokio_tungstenite::client_async(request, stream)
            .await
            .unwrap();
        client
    }

    /// The status and the body.
    async fn ask(&self, method: &str, path: &str, token: &str, certificate: bool) -> (u16, String) {
        let mut stream = self.connect(certificate).await;
        let bearer = match token {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: n1\r\n{bearer}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        let text = String::from_utf8_lossy(&all).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, body.to_owned())
    }
}

#[tokio::test]
async fn who_asks_is_known_and_allowed() {
    let p = open().await;
    let account = json!({"metadata": {"name": "prometheus"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(p.f.post(accounts, account).await.code, 201);
    let token =
        p.f.post(&format!("{accounts}/prometheus/token"), json!({"spec": {}}))
            .await;
    let token = token.json()["status"]["token"].as_str().unwrap().to_owned();
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "scrape"},
        "rules": [{"apiGroups": [""], "resources": ["nodes/metrics", "nodes/healthz"], "verbs": ["get"]}]});
    assert_eq!(
        p.f.post(&format!("{rbac}/clusterroles"), role).await.code,
        201
    );
    let binding = json!({"metadata": {"name": "scrape"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "scrape"},
        "subjects": [{"kind": "ServiceAccount", "name": "prometheus", "namespace": "default"}]});
    let bindings = format!("{rbac}/clusterrolebindings");
    assert_eq!(p.f.post(&bindings, binding).await.code, 201);
    let user = "system:serviceaccount:default:prometheus";
    let forbidden = |sub: &str| {
        format!("Forbidden (user={user}, verb=get, resource=nodes, subresource(s)=[{sub}])\n")
    };
    for (path, code, wanted) in [
        ("/metrics", 200, "asked /metrics".to_owned()),
        ("/metrics/cadvisor", 200, "asked /metrics/cadvisor".into()),
        ("/healthz", 200, "asked /healthz".into()),
        ("/stats/summary", 403, forbidden("stats")),
        ("/pods", 403, forbidden("pods proxy")),
        ("/containerLogs/a/b/c", 403, forbidden("proxy")),
    ] {
        let (got, body) = p.ask("GET", path, &token, false).await;
        assert_eq!(got, code, "{path}: {body}");
        assert!(body.contains(wanted.trim_end()), "{path}: {body}");
    }
    let (code, body) = p.ask("GET", "/metrics", "", false).await;
    assert_eq!((code, body.contains("Unauthorized")), (401, true));
    assert_eq!(p.ask("GET", "/metrics", "wrong", false).await.0, 401);
    assert_eq!(p.ask("GET", "/pods", "", true).await.0, 200);
}

#[tokio::test]
async fn heads_alone_over_http2() {
    let p = open().await;
    for (certificate, code) in [(false, 401), (true, 200)] {
        let stream = p.connect(certificate).await;
        let (mut sender, connection) = hyper::client::conn::http2::handshake(
            hyper_util::rt::TokioExecutor::new(),
            hyper_util::rt::TokioIo::new(stream),
        )
        .await
        .unwrap();
        let driver = tokio::spawn(connection);
        let request = http::Request::head("https://n1/metrics")
            .body(http_body_util::Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status().as_u16(), code);
        // a body would end the stream with a protocol error
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        assert!(body.unwrap().to_bytes().is_empty());
        driver.abort();
    }
}

/// Runs `echo` and `fail`; echoes what is typed into anything else.
struct Runs;

#[async_trait::async_trait]
impl PodStreams for Runs {
    async fn log(
        &self,
        namespace: &str,
        pod: &str,
        query: &str,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, (u16, String, String)> {
        if query.contains("previous=true") {
            let why = "previous terminated container \"c\" in pod \"p\" not found";
            return Err((400, "BadRequest".into(), why.into()));
        }
        let text = format!("log of {namespace}/{pod}: {query}");
        Ok(futures::stream::once(async move { Ok(text.into()) }).boxed())
    }
    async fn exec(&self, _: &str, _: &str, query: &str, streams: ServerStreams) {
        let ServerStreams {
            stdin,
            stdout,
            stderr,
            status,
            ..
        } = streams;
        if let Some(mut stderr) = stderr {
            stderr.write_all(query.as_bytes()).await.unwrap();
        }
        if let Some(mut stdout) = stdout {
            stdout.write_all(b"out;").await.unwrap();
            if let Some(mut stdin) = stdin {
                tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
            }
        }
        let told = match query.contains("fail") {
            true => {
                json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "it failed",
                "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}})
            }
            false => json!({"status": "Success"}),
        };
        let _ = status.send(told.to_string().into());
    }
    /// Says which port it is.
    async fn dial(&self, _: &str, _: &str, port: u16) -> Result<tokio::net::TcpStream, String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(format!("port {port}").as_bytes())
                .await
                .unwrap();
        });
        tokio::net::TcpStream::connect(address)
            .await
            .map_err(|e| e.to_string())
    }
    async fn check(&self, _: &str, _: &str, query: &str) -> Result<(), (u16, String, String)> {
        match query == "container=c" {
            true => Ok(()),
            false => Err((404, "NotFound".into(), "not this one".into())),
        }
    }
}

async fn with_pods() -> (Port, String) {
    let p = open().await;
    p.f.api.set_pod_streams("n1", Arc::new(Runs));
    let mut uid = String::new();
    for (name, node) in [("p", "n1"), ("elsewhere", "n2")] {
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = node.into();
        let made = p.f.made(PODS, pod).await;
        if name == "p" {
            uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
        }
    }
    (p, uid)
}

#[tokio::test]
async fn streams_are_the_kubelets() {
    let (p, uid) = with_pods().await;
    let some = "output=1&command=x";
    for (method, path, code, wanted) in [
        ("GET", "/exec/default/p".into(), 404, "404: Page Not Found"),
        (
            "PUT",
            "/exec/default/p/c".into(),
            405,
            "405: Method Not Allowed",
        ),
        (
            "GET",
            "/run/default/p/c".into(),
            405,
            "405: Method Not Allowed",
        ),
        (
            "POST",
            "/containerLogs/default/p/c".into(),
            405,
            "405: Method Not Allowed",
        ),
        ("POST", "/metrics".into(), 405, "405: Method Not Allowed"),
        (
            "POST",
            "/exec/default/p/c?stdin=true".into(),
            400,
            "you must specify at least 1 of stdin, stdout, stderr",
        ),
        (
            "POST",
            format!("/exec/default/none/c?{some}"),
            404,
            "pod does not exist",
        ),
        (
            "POST",
            format!("/attach/default/elsewhere/c?{some}"),
            404,
            "pod does not exist",
        ),
        (
            "POST",
            format!("/exec/default/p/d?{some}"),
            500,
            "container not found (\"d\")",
        ),
        (
            "POST",
            format!("/attach/default/p/d?{some}"),
            500,
            "container d not found in pod p_default",
        ),
        (
            "POST",
            format!("/exec/default/p/wrong/c?{some}"),
            500,
            "container not found (\"c\")",
        ),
        (
            "POST",
            format!("/exec/default/p/{uid}/c?{some}"),
            500,
            "Upgrade request required",
        ),
        (
            "GET",
            format!("/exec/default/p/c?{some}"),
            500,
            "Upgrade request required",
        ),
        (
            "POST",
            "/portForward/default/none".into(),
            404,
            "pod does not exist",
        ),
        (
            "POST",
            "/portForward/default/p/wrong".into(),
            404,
            "pod not found",
        ),
        (
            "POST",
            format!("/portForward/default/p/{uid}"),
            500,
            "Upgrade request required",
        ),
        (
            "POST",
            "/run/default/none/c?cmd=x".into(),
            404,
            "pod does not exist",
        ),
        (
            "POST",
            "/run/default/p/d?cmd=x".into(),
            500,
            "container not found (\"d\")",
        ),
        (
            "POST",
            "/run/default/p/c?cmd=echo+a%20b".into(),
            200,
            "out;container=c&stdout=true&stderr=true&command=echo&command=a&command=b",
        ),
        (
            "POST",
            format!("/run/default/p/{uid}/c?cmd=fail"),
            500,
            "command 'fail' exited with 3: container=c",
        ),
        (
            "GET",
            "/containerLogs/default/p/c?tail=5&follow=true&x=1".into(),
            200,
            "log of default/p: follow=true&tailLines=5&container=c",
        ),
        (
            "GET",
            "/containerLogs/default/p/c?tailLines=5&tail=all".into(),
            200,
            "log of default/p: container=c",
        ),
        (
            "GET",
            "/containerLogs/default/p/c?tailLines=-1".into(),
            422,
            "{\"message\": \"Invalid request.\"}",
        ),
        (
            "GET",
            "/containerLogs/default/p/c?tailLines=x".into(),
            400,
            "{\"message\": \"Unable to decode query.\"}",
        ),
        (
            "GET",
            "/containerLogs/default/none/c".into(),
            404,
            "pod \"none\" does not exist",
        ),
        (
            "GET",
            "/containerLogs/default/p/d".into(),
            404,
            "container \"d\" not found in pod \"p\"",
        ),
        (
            "GET",
            "/containerLogs/default/p/c?previous=true".into(),
            400,
            "previous terminated container \"c\" in pod \"p\" not found",
        ),
    ] {
        let (got, body) = p.ask(method, &path, "", true).await;
        assert_eq!(got, code, "{method} {path}: {body}");
        assert!(body.contains(wanted), "{method} {path}: {body}");
    }
}

#[tokio::test]
async fn sessions_are_upgraded_at_the_nodes_port() {
    let (p, uid) = with_pods().await;
    for (path, protocol, says, expected) in [
        (
            "/exec/default/p/c?input=1&output=1&command=cat".to_owned(),
            "v5.channel.k8s.io",
            &[&b"\0hello"[..], b"\xff\0"][..],
            &[&b"\x01out;hello"[..], b"\x03{\"status\":\"Success\"}"][..],
        ),
        (
            format!("/attach/default/p/{uid}/c?output=1&tty=1&error=1"),
            "v4.channel.k8s.io",
            &[],
            &[b"\x01out;", b"\x03{\"status\":\"Success\"}"],
        ),
        (
            format!("/portForward/default/p/{uid}?port=8080"),
            "v4.channel.k8s.io",
            &[],
            &[b"\x00\x90\x1fport 8080", b"\x01\x90\x1f"],
        ),
    ] {
        let mut client = p.websocket(&path, protocol).await;
        for message in says {
            client.send(message.to_vec().into()).await.unwrap();
        }
        // by channel: how bytes are cut into messages is not promised
        let mut got: std::collections::BTreeMap<u8, Vec<u8>> = Default::default();
        while let Some(Ok(message)) = client.next().await {
            let bytes = message.into_data();
            let is_data = !message_is_close(&bytes) && !bytes.is_empty();
            if is_data {
                got.entry(bytes[0]).or_default().extend(&bytes[1..]);
            }
            let whole = expected
                .iter()
                .all(|e| got.get(&e[0]).is_some_and(|g| g == &e[1..]));
            if whole {
                break;
            }
        }
        for e in expected {
            assert_eq!(
                got.get(&e[0])
                    .map(|g| String::from_utf8_lossy(g).into_owned()),
                Some(String::from_utf8_lossy(&e[1..]).into_owned()),
                "{path}"
            );
        }
    }
}

fn message_is_close(bytes: &[u8]) -> bool {
    bytes == [0x03, 0xe8]
}
