//! `metrics.k8s.io`: what nodes measure, in all the forms clients ask for.

mod common;

use std::{sync::Arc, time::Duration};

use common::*;
use http::Method;
use knarr_api::{AgentAnswer, ApiServer, ContainerUse, NodeAgent, NodeUse, Use};
use serde_json::{Value, json};

struct Measured;

fn used(cpu_nano_cores: u64, working_set_bytes: u64) -> Use {
    Use {
        cpu_nano_cores,
        working_set_bytes,
        at: "2026-01-02T03:04:05Z".parse().unwrap(),
        window: Duration::from_millis(10_062),
    }
}

#[async_trait::async_trait]
impl NodeAgent for Measured {
    async fn measure(&self) -> NodeUse {
        let of = |namespace: &str, pod: &str, container: &str, used: Use| ContainerUse {
            namespace: namespace.into(),
            pod: pod.into(),
            container: container.into(),
            used,
        };
        NodeUse {
            node: Some(used(1_500_000_000, 3 << 30)),
            containers: vec![
                of("default", "web", "sidecar", used(500_000, 1 << 20)),
                of("default", "web", "app", used(2_000_001, 5 << 20)),
                of("other", "db", "db", used(0, 4096)),
                of("other", "gone", "x", used(1, 1)),
            ],
        }
    }
    async fn get(&self, path: &str, query: &[(String, String)]) -> AgentAnswer {
        let text = json!({"path": path, "query": query}).to_string();
        let body = futures::stream::once(async move { Ok(text.into()) });
        AgentAnswer {
            status: 200,
            content_type: "application/json",
            body: Box::pin(body),
        }
    }
}

#[tokio::test]
async fn a_nodes_proxy_leads_to_its_agent() {
    let f = server().await;
    for (method, path, code, wanted) in [
        (
            Method::GET,
            "/api/v1/nodes/n1/proxy/stats/summary?only_cpu_and_memory=true&x=%2F",
            200,
            json!({"path": "/stats/summary", "query": [["only_cpu_and_memory", "true"], ["x", "/"]]}),
        ),
        (
            Method::GET,
            "/api/v1/nodes/n1:10250/proxy/a%20b",
            200,
            json!({"path": "/a b", "query": []}),
        ),
    ] {
        let (got, answer) = ask(&f, method, path, Value::Null).await;
        assert_eq!((got, answer), (code, wanted), "{path}");
    }
    for (method, path, code) in [
        (Method::POST, "/api/v1/nodes/n1/proxy/stats/summary", 405),
        (Method::POST, "/api/v1/nodes/n1/proxy/run/a/b/c", 404),
        (Method::GET, "/api/v1/nodes/n2/proxy/pods", 503),
        (Method::GET, "/api/v1/nodes/n3/proxy/pods", 404),
    ] {
        let (got, answer) = ask(&f, method, path, Value::Null).await;
        assert_eq!(got, code, "{path}: {answer}");
    }
}

async fn ask(f: &Fixture, method: Method, path: &str, body: Value) -> (u16, Value) {
    let bytes = match body {
        Value::Null => vec![],
        body => body.to_string().into(),
    };
    let answer = f
        .send(method, path, &[("content-type", "application/json")], bytes)
        .await;
    let value = serde_json::from_slice(&answer.bytes);
    (answer.code, value.unwrap_or(Value::Null))
}

async fn server() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::for_tests(dir.path());
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    api.set_node_agent("n1", Arc::new(Measured));
    let f = Fixture { api, client, dir };
    let create = async |path: &str, o: Value| {
        let (code, answer) = ask(&f, Method::POST, path, o).await;
        assert_eq!(code, 201, "{answer}");
    };
    for name in ["n1", "n2"] {
        let node = json!({"metadata": {"name": name, "labels": {"zone": name}}});
        create("/api/v1/nodes", node).await;
    }
    create("/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await;
    for (namespace, name) in [("default", "web"), ("default", "new"), ("other", "db")] {
        let account = json!({"metadata": {"name": "default"}});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        ask(&f, Method::POST, &path, account).await;
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        });
        create(&format!("/api/v1/namespaces/{namespace}/pods"), pod).await;
    }
    f
}

async fn get(f: &Fixture, path: &str) -> (u16, Value) {
    let path = format!("/apis/metrics.k8s.io/v1beta1/{path}");
    ask(f, Method::GET, &path, Value::Null).await
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .filter_map(|o| o["metadata"]["name"].as_str())
        .collect()
}

#[tokio::test]
async fn objects_are_what_the_nodes_measured() {
    let f = server().await;
    let (code, mut pod) = get(&f, "namespaces/default/pods/web").await;
    assert_eq!(code, 200, "{pod}");
    assert!(pod["metadata"]["creationTimestamp"].is_string());
    pod["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("creationTimestamp");
    assert_eq!(
        pod,
        json!({
            "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
            "timestamp": "2026-01-02T03:04:05Z", "window": "10.062s",
            "containers": [
                {"name": "app", "usage": {"cpu": "2000001n", "memory": "5Mi"}},
                {"name": "sidecar", "usage": {"cpu": "500u", "memory": "1Mi"}},
            ],
        })
    );
    let (_, node) = get(&f, "nodes/n1").await;
    assert_eq!(node["usage"], json!({"cpu": "1500m", "memory": "3Gi"}));
    assert_eq!(node["metadata"]["labels"]["zone"], "n1");
}

#[tokio::test]
async fn collections_are_selected() {
    let f = server().await;
    for (path, wanted) in [
        ("nodes", &["n1"][..]),
        ("nodes?labelSelector=zone%3Dn2", &[]),
        ("nodes?fieldSelector=metadata.name%3Dn1", &["n1"]),
        ("pods", &["web", "db"]),
        ("namespaces/other/pods", &["db"]),
        ("namespaces/default/pods", &["web"]),
        ("pods?labelSelector=app%21%3Dweb", &["db"]),
        ("pods?fieldSelector=metadata.name%3Dweb", &["web"]),
        (
            "pods?fieldSelector=metadata.namespace%3Dother%2Cmetadata.name%3Dweb",
            &[],
        ),
    ] {
        let (code, list) = get(&f, path).await;
        assert_eq!(code, 200, "{path}: {list}");
        assert_eq!(names(&list), wanted, "{path}");
        let kind = if path.starts_with("nodes") {
            "Node"
        } else {
            "Pod"
        };
        assert_eq!(list["kind"], format!("{kind}MetricsList"));
        assert_eq!(list["metadata"], json!({}));
    }
}

#[tokio::test]
async fn refusals_are_metrics_servers() {
    let f = server().await;
    for (method, path, code, message) in [
        (
            Method::GET,
            "namespaces/default/pods/none",
            404,
            "pods \"none\" not found",
        ),
        (
            Method::GET,
            "namespaces/default/pods/new",
            404,
            "podmetrics.metrics.k8s.io \"default/new\" not found",
        ),
        (
            Method::GET,
            "nodes/n2",
            404,
            "nodemetrics.metrics.k8s.io \"n2\" not found",
        ),
        (Method::GET, "nodes/n3", 404, "nodes \"n3\" not found"),
        (
            Method::DELETE,
            "nodes/n1",
            405,
            "the server does not allow this method on the requested resource",
        ),
        (
            Method::GET,
            "nodes?watch=true",
            405,
            "watch is not supported on resources of kind \"nodes.metrics.k8s.io\"",
        ),
    ] {
        let path = format!("/apis/metrics.k8s.io/v1beta1/{path}");
        let (got, status) = ask(&f, method.clone(), &path, Value::Null).await;
        assert_eq!(got, code, "{method} {path}: {status}");
        assert_eq!(status["message"], message, "{method} {path}");
    }
}

async fn as_accepted(f: &Fixture, path: &str, accept: &str) -> bytes::Bytes {
    let request = http::Request::get(format!("/apis/metrics.k8s.io/v1beta1/{path}"))
        .header("accept", accept)
        .body(kube::client::Body::empty())
        .unwrap();
    let response = f.client.send(request).await.unwrap();
    assert_eq!(response.status(), 200, "{path} as {accept}");
    use http_body_util::BodyExt;
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn there_are_tables_and_protobuf() {
    let f = server().await;
    let table = as_accepted(
        &f,
        "pods",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    )
    .await;
    let table: Value = serde_json::from_slice(&table).unwrap();
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(columns, ["Name", "cpu", "memory", "Window"]);
    assert_eq!(
        table["rows"][0]["cells"],
        json!(["web", "2500001n", "6Mi", "10.062s"])
    );
    let bytes = as_accepted(&f, "nodes/n1", "application/vnd.kubernetes.protobuf").await;
    let (version, kind, object) = knarr_schema::decode_protobuf(&bytes).unwrap();
    assert_eq!(
        (version.as_str(), kind.as_str()),
        ("metrics.k8s.io/v1beta1", "NodeMetrics")
    );
    assert_eq!(object["window"], "10.062s");
    assert_eq!(object["usage"], json!({"cpu": "1500m", "memory": "3Gi"}));
    assert_eq!(object["timestamp"], "2026-01-02T03:04:05Z");
}

#[tokio::test]
async fn it_is_discovered_described_and_may_be_replaced() {
    let f = server().await;
    let (_, list) = get(&f, "").await;
    assert_eq!(list["resources"][0]["verbs"], json!(["get", "list"]));
    let path = "/openapi/v3/apis/metrics.k8s.io/v1beta1";
    let (code, document) = ask(&f, Method::GET, path, Value::Null).await;
    assert_eq!(code, 200);
    let schema = "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics";
    let properties = &document["components"]["schemas"][schema]["properties"];
    assert!(properties["containers"].is_object(), "{document}");
    let paths = document["paths"].as_object().unwrap();
    let one = "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{name}";
    assert!(paths[one]["get"].is_object() && paths[one]["delete"].is_null());

    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    let own = format!("{services}/v1beta1.metrics.k8s.io");
    let until = async |what: &str, wanted: &dyn Fn(u16, &Value) -> bool, path: &str| {
        let end = std::time::Instant::now() + Duration::from_secs(120);
        loop {
            let (code, answer) = ask(&f, Method::GET, path, Value::Null).await;
            if wanted(code, &answer) {
                return answer;
            }
            assert!(std::time::Instant::now() < end, "{what}: {answer}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut service = until("registered", &|code, _| code == 200, &own).await;
    assert_eq!(service["spec"]["service"], Value::Null);
    service["spec"]["service"] = json!({"name": "metrics-server", "namespace": "kube-system"});
    service["spec"]["insecureSkipTLSVerify"] = true.into();
    let (code, answer) = ask(&f, Method::PUT, &own, service).await;
    assert_eq!(code, 200, "{answer}");
    let nodes = "/apis/metrics.k8s.io/v1beta1/nodes";
    until("theirs", &|code, _| code == 503, nodes).await;
    let (code, _) = ask(&f, Method::DELETE, &own, Value::Null).await;
    assert_eq!(code, 200);
    until("ours again", &|code, _| code == 200, nodes).await;
}
