//! Where a load balancer asks whether a node forwards to Services at all (port 10256), and what the node says of its way
//! of doing so to those on it (127.0.0.1 port 10249).
//!
//! Source: kubernetes `pkg/proxy/healthcheck/proxy_health.go`, `cmd/kube-proxy/app/server.go` (serveMetrics).

use std::{net::IpAddr, sync::Arc, time::Duration};

use hyper::{Request, StatusCode, body::Incoming};
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::Api;
use tokio::net::TcpListener;

use crate::{
    Listen,
    answers::{self, Answer, text},
};

/// `ProxyHealthzPort`
const HEALTH: u16 = 10256;
/// `ProxyStatusPort`
const STATUS: u16 = 10249;
/// Services are rules of nf_tables here.
const MODE: &str = "nftables";
/// What a cluster autoscaler puts on a node that it's about to remove.
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";
/// A port that is taken is tried again after this long.
const RETRY: Duration = Duration::from_secs(30);
const READ_DEADLINE: Duration = Duration::from_secs(5);

/// Who answers, and for which families.
struct Told {
    node: String,
    client: kube::Client,
    /// the node's addresses: one a family
    addresses: Vec<IpAddr>,
}

/// Answers until dropped. A port that can't be had is tried again: another program's answer is not ours to refuse.
/// `everywhere` listens on all of the node's addresses, `inside` on its loopback alone.
pub async fn serve_node_health(
    node: &str,
    addresses: Vec<IpAddr>,
    everywhere: Listen,
    inside: Listen,
    client: kube::Client,
) {
    let told = Arc::new(Told {
        node: node.to_owned(),
        client,
        addresses,
    });
    tokio::join!(
        keep(everywhere, HEALTH, told.clone()),
        keep(inside, STATUS, told)
    );
}

async fn keep(listen: Listen, port: u16, told: Arc<Told>) {
    loop {
        match listen(port) {
            Ok(listener) => serve(listener, port, told.clone()).await,
            Err(error) => tracing::debug!(port, %error, "a node's health is not answered"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn serve(listener: TcpListener, port: u16, told: Arc<Told>) {
    let answer = move |request: Request<Incoming>| {
        let told = told.clone();
        async move { told.answer(port, request.uri().path()).await }
    };
    answers::serve(listener, answer).await;
}

impl Told {
    async fn answer(&self, port: u16, path: &str) -> Answer {
        match (port, path) {
            (HEALTH, "/healthz") => self.health(Some(self.eligible().await)),
            (HEALTH, "/livez") => self.health(None),
            (STATUS, "/proxyMode") => text(StatusCode::OK, MODE),
            (STATUS, "/healthz") => text(StatusCode::OK, "ok"),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    /// No balancer should begin anything here when the node is about to go.
    async fn eligible(&self) -> bool {
        let nodes: Api<Node> = Api::all(self.client.clone());
        match tokio::time::timeout(READ_DEADLINE, nodes.get_opt(&self.node)).await {
            Ok(Ok(found)) => found.is_some_and(|node| stays(&node)),
            // nobody knows: it forwards as well as before
            Ok(Err(_)) | Err(_) => true,
        }
    }

    fn health(&self, eligible: Option<bool>) -> Answer {
        let now = Timestamp::now().to_string();
        let families = self.addresses.iter().map(|ip| match ip {
            IpAddr::V4(_) => "IPv4",
            IpAddr::V6(_) => "IPv6",
        });
        let family = serde_json::json!({"lastUpdated": now, "healthy": true});
        let status: serde_json::Map<_, _> = families
            .map(|name| (name.to_owned(), family.clone()))
            .collect();
        let mut body = serde_json::json!({
            "lastUpdated": now, "currentTime": now, "healthy": true, "status": status,
        });
        if let Some(eligible) = eligible {
            body["nodeEligible"] = eligible.into();
        }
        let code = match eligible {
            Some(false) => StatusCode::SERVICE_UNAVAILABLE,
            Some(true) | None => StatusCode::OK,
        };
        answers::json(code, body.to_string())
    }
}

fn stays(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_none() && !taints.into_iter().any(|t| t.key == LEAVING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    #[test]
    fn nodes_that_go() {
        for (name, node, want) in [
            ("plain", json!({"metadata": {}}), true),
            (
                "another's taint",
                json!({"metadata": {}, "spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]}}),
                true,
            ),
            (
                "an autoscaler's",
                json!({"metadata": {}, "spec": {"taints": [{"key": LEAVING, "effect": "NoSchedule"}]}}),
                false,
            ),
            (
                "deleted",
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                false,
            ),
        ] {
            let node = serde_json::from_value(node).unwrap();
            assert_eq!(stays(&node), want, "{name}");
        }
    }

    #[tokio::test]
    async fn answers_are_kube_proxys() {
        let dir = tempfile::tempdir().unwrap();
        let api = knarr_api::ApiServer::for_tests(dir.path());
        let client = api.client("test", &["system:masters"], "test");
        let nodes: Api<Node> = Api::all(client.clone());
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
        nodes.create(&Default::default(), &node).await.unwrap();
        let of = |node: &str| Told {
            node: node.into(),
            client: client.clone(),
            addresses: vec![IpAddr::from([192, 0, 2, 1])],
        };
        let ask = async |told: &Told, port: u16, path: &str| {
            let answer = told.answer(port, path).await;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8_lossy(&body).into_owned())
        };
        for (port, path, want) in [
            (STATUS, "/proxyMode", (200, "nftables")),
            (STATUS, "/healthz", (200, "ok")),
            (HEALTH, "/proxyMode", (404, "404 page not found\n")),
            (STATUS, "/livez", (404, "404 page not found\n")),
        ] {
            let (status, body) = ask(&of("n1"), port, path).await;
            assert_eq!((status, &*body), want, "{port}{path}");
        }
        for (node, path, want, eligible) in [
            ("n1", "/healthz", 200, json!(true)),
            ("gone", "/healthz", 503, json!(false)),
            ("gone", "/livez", 200, Value::Null),
        ] {
            let (status, body) = ask(&of(node), HEALTH, path).await;
            assert_eq!(status, want, "{node}{path}");
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["nodeEligible"], eligible, "{node}{path}");
            assert!(body["lastUpdated"].is_string());
            assert_eq!(body["status"]["IPv4"]["healthy"], true);
        }
    }
}
