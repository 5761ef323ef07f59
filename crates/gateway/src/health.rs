//! `healthCheckNodePort`: where a load balancer asks a node whether it has endpoints of its own.
//!
//! Source: kubernetes `pkg/proxy/healthcheck/service_health.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
    io,
    sync::Arc,
    time::Duration,
};

use hyper::StatusCode;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    answers::{self, Answer},
    report::{self, Report},
};

/// Namespace and name of the Service.
pub type Key = (Box<str>, Box<str>);

/// A Service's port for such questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPort {
    /// `spec.healthCheckNodePort`
    pub port: u16,
    /// how many ready endpoints it has on this node
    pub local_endpoints: usize,
}

/// All of a node.
pub type HealthPorts = BTreeMap<Key, HealthPort>;

/// A port that is taken is tried again after this long.
const RETRY: Duration = Duration::from_secs(30);
/// Events waiting to be written.
const REPORTS_MAX: usize = 64;

/// Opens a listener on all of the node's addresses.
pub type Listen = Arc<dyn Fn(u16) -> io::Result<TcpListener> + Send + Sync>;

struct Open {
    port: u16,
    server: tokio::task::AbortHandle,
}

/// Serves what `ports` says, until dropped. A port that can't be had gives its Service a Warning Event
/// `FailedToStartServiceHealthcheck`, once, and is tried again.
pub async fn serve_health_ports(
    node: &str,
    mut ports: watch::Receiver<Arc<HealthPorts>>,
    listen: Listen,
    client: kube::Client,
) {
    let (reports, written) = mpsc::channel(REPORTS_MAX);
    let keep = async {
        let mut open: BTreeMap<Key, Open> = BTreeMap::new();
        let mut told: BTreeSet<Key> = BTreeSet::new();
        let mut servers = JoinSet::new();
        loop {
            let wanted = ports.borrow_and_update().clone();
            open.retain(|key, open| {
                let stays = wanted.get(key).is_some_and(|w| w.port == open.port);
                if !stays {
                    open.server.abort();
                }
                stays
            });
            told.retain(|key| wanted.contains_key(key));
            // what was closed frees its port only once its task has gone
            while servers.len() > open.len() && servers.join_next().await.is_some() {}
            let mut failed = false;
            for (key, HealthPort { port, .. }) in wanted.iter() {
                if open.contains_key(key) {
                    continue;
                }
                match listen(*port) {
                    Ok(listener) => {
                        told.remove(key);
                        let server = servers.spawn(serve(listener, key.clone(), ports.clone()));
                        open.insert(
                            key.clone(),
                            Open {
                                port: *port,
                                server,
                            },
                        );
                    }
                    Err(error) => {
                        failed = true;
                        if told.insert(key.clone()) {
                            let text = format!(
                                "node {node} failed to start healthcheck \"{}/{}\" on port {port}: {error}",
                                key.0, key.1
                            );
                            tracing::warn!("{text}");
                            let trouble = Report::Trouble {
                                service: (key.0.to_string(), key.1.to_string()),
                                uid: String::new(),
                                reason: "FailedToStartServiceHealthcheck",
                                text,
                            };
                            // too many at once: the log has it
                            let _ = reports.try_send(trouble);
                        }
                    }
                }
            }
            let again = async {
                match failed {
                    true => tokio::time::sleep(RETRY).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = ports.changed() => if changed.is_err() { return },
                () = again => {}
            }
        }
    };
    tokio::select! {
        () = keep => {}
        () = report::write(client, written) => {}
    }
}

async fn serve(listener: TcpListener, key: Key, ports: watch::Receiver<Arc<HealthPorts>>) {
    let told = move |_| {
        let found = ports.borrow().get(&key).map_or(0, |p| p.local_endpoints);
        ready(answer(&key, found))
    };
    answers::serve(listener, told).await;
}

/// Whatever is asked: path and method don't matter.
fn answer((namespace, name): &Key, local_endpoints: usize) -> Answer {
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\t\"localEndpoints\": {local_endpoints},\n\t\"serviceProxyHealthy\": true\n}}"
    );
    let code = match local_endpoints {
        0 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    let mut response = answers::json(code, body);
    let headers = response.headers_mut();
    headers.insert("x-load-balancing-endpoint-weight", local_endpoints.into());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::net::SocketAddr;

    #[tokio::test]
    async fn answers_are_kube_proxys() {
        for (count, status, wanted) in [
            (
                2,
                200,
                "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}",
            ),
            (
                0,
                503,
                "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 0,\n\t\"serviceProxyHealthy\": true\n}",
            ),
        ] {
            let answer = answer(&("ns".into(), "web".into()), count);
            assert_eq!(answer.status(), status);
            let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(header("content-type"), "application/json");
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(
                header("x-load-balancing-endpoint-weight"),
                count.to_string()
            );
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(String::from_utf8_lossy(&body), wanted);
        }
    }

    async fn status(at: SocketAddr) -> Option<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(at).await.ok()?;
        let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.split(' ').nth(1).map(Into::into)
    }

    #[tokio::test]
    async fn ports_are_open_as_long_as_they_are_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let api = knarr_api::ApiServer::for_tests(dir.path());
        let client = api.client("test", &["system:masters"], "test");
        let (at, mut opened) = mpsc::channel(4);
        // the number asked for says which one it is; where it listens is anybody's
        let listen: Listen = Arc::new(move |port| {
            if port == 9 {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            let _ = at.try_send((port, listener.local_addr()?));
            TcpListener::from_std(listener)
        });
        let key = |name: &str| -> Key { ("default".into(), name.into()) };
        let of = |all: &[(&str, u16, usize)]| {
            let port = |(name, port, local_endpoints): &(&str, u16, usize)| {
                let (port, local_endpoints) = (*port, *local_endpoints);
                (
                    key(name),
                    HealthPort {
                        port,
                        local_endpoints,
                    },
                )
            };
            Arc::new(all.iter().map(port).collect::<HealthPorts>())
        };
        let (wanted, ports) = watch::channel(of(&[("web", 1, 2), ("taken", 9, 1)]));
        let served = client.clone();
        tokio::spawn(async move { serve_health_ports("n1", ports, listen, served).await });
        let (_, web) = opened.recv().await.unwrap();
        assert_eq!(status(web).await.as_deref(), Some("200"));
        wanted.send_replace(of(&[("web", 1, 0), ("taken", 9, 1)]));
        assert_eq!(status(web).await.as_deref(), Some("503"));
        wanted.send_replace(of(&[("web", 2, 1), ("taken", 9, 1)]));
        let (port, moved) = opened.recv().await.unwrap();
        assert_eq!(port, 2);
        assert_eq!(status(moved).await.as_deref(), Some("200"));
        assert_eq!(status(web).await, None, "the former port is closed");
        let events: kube::Api<k8s_openapi::api::core::v1::Event> =
            kube::Api::namespaced(client, "default");
        let told = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                let all = events.list(&Default::default()).await.unwrap();
                if let Some(event) = all.items.into_iter().next() {
                    return event;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let event = told.await.unwrap();
        assert_eq!(
            event.reason.as_deref(),
            Some("FailedToStartServiceHealthcheck")
        );
        let text = event.message.unwrap();
        assert!(
            text.starts_with("node n1 failed to start healthcheck \"default/taken\" on port 9: "),
            "{text}"
        );
    }
}
