//! A node agent's port: TLS of the cluster's CA, and who may ask for what.

mod common;

use std::{net::SocketAddr, sync::Arc};

use common::*;
use knarr_api::{AgentAnswer, ApiServer, NodeAgent, NodeUse};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
    /// The status and the body.
    async fn ask(&self, method: &str, path: &str, token: &str, certificate: bool) -> (u16, String) {
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
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
            .unwrap();
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
    assert_eq!(p.ask("POST", "/run/a/b/c", "", true).await.0, 405);
}
