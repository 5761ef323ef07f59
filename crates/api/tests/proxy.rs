//! The proxy subresources: what can't be reached is said as upstream says it.

mod common;

use common::*;
use http::Method;
use knarr_api::ApiServer;
use serde_json::json;

fn server() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::for_tests(dir.path());
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    Fixture { api, client, dir }
}

#[tokio::test]
async fn what_cannot_be_reached() {
    let f = server();
    let ns = "/api/v1/namespaces/default";
    f.made(&format!("{ns}/pods"), pod("bare")).await;
    let pods = format!("{ns}/pods/bare/status");
    let mut looped = f.get(&pods).await.json();
    looped["status"]["podIP"] = "127.0.0.1".into();
    looped["status"]["podIPs"] = json!([{"ip": "127.0.0.1"}]);
    assert_eq!(f.put(&pods, looped).await.code, 200);
    f.made(
        &format!("{ns}/services"),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"ports": [{"name": "http", "port": 80}], "selector": {"app": "web"}}}),
    )
    .await;
    for (path, code, reason, message) in [
        (
            "pods/none/proxy/",
            404,
            "NotFound",
            "pods \"none\" not found",
        ),
        (
            "pods/bare:80/proxy/",
            400,
            "BadRequest",
            "address not allowed",
        ),
        (
            "pods/ftp:bare:21/proxy/",
            400,
            "BadRequest",
            "invalid pod request \"ftp:bare:21\"",
        ),
        (
            "pods/bare:x/proxy/",
            400,
            "BadRequest",
            "invalid port \"x\"",
        ),
        (
            "services/none/proxy/",
            404,
            "NotFound",
            "services \"none\" not found",
        ),
        (
            "services/web:81/proxy/",
            503,
            "ServiceUnavailable",
            "no service port 81 found for service \"web\"",
        ),
        (
            "services/web:http/proxy/",
            503,
            "ServiceUnavailable",
            "no endpoints available for service \"web:http\"",
        ),
        (
            "services/a:b:c:d/proxy/",
            400,
            "BadRequest",
            "invalid service request \"a:b:c:d\"",
        ),
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let answer = f
                .send(method.clone(), &format!("{ns}/{path}"), &[], vec![])
                .await;
            let status = answer.json();
            assert_eq!(
                (
                    answer.code,
                    status["reason"].as_str(),
                    status["message"].as_str()
                ),
                (code, Some(reason), Some(message)),
                "{method} {path}"
            );
        }
    }
}
