//! ComponentStatus: what runs, in the forms clients ask for (upstream `pkg/registry/core/componentstatus`).

mod common;

use std::sync::Arc;

use common::{builtin, send};
use http::Method;
use serde_json::{Value, json};

const PATH: &str = "/api/v1/componentstatuses";

fn status(name: &str, healthy: &str, message: &str) -> Value {
    json!({"metadata": {"name": name}, "conditions": [{"type": "Healthy", "status": healthy, "message": message}]})
}

#[tokio::test]
async fn components_are_shown_as_upstream_does() {
    let f = builtin();
    f.api.set_components(Arc::new(|component| match component {
        "scheduler" => Ok(()),
        other => Err(format!("{other} has gone")),
    }));
    let gone = "controller-manager has gone";
    let all = [
        status("scheduler", "True", "ok"),
        status("controller-manager", "False", gone),
        status("etcd-0", "True", "ok"),
    ];
    let list = |items: &[Value]| json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items});
    let mut one = all[2].clone();
    one["kind"] = "ComponentStatus".into();
    one["apiVersion"] = "v1".into();
    let refused = |code: u16, reason: &str, message: &str, details: Value| {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
            "reason": reason, "message": message, "details": details})
    };
    let method = "the server does not allow this method on the requested resource";
    for (name, method, path, code, wanted) in [
        ("all", Method::GET, "", 200, list(&all)),
        ("one", Method::GET, "/etcd-0", 200, one),
        (
            "by name",
            Method::GET,
            "?fieldSelector=metadata.name%3Dscheduler",
            200,
            list(&all[..1]),
        ),
        (
            "by a label",
            Method::GET,
            "?labelSelector=a%3Db",
            200,
            list(&[]),
        ),
        (
            "no such",
            Method::GET,
            "/nope",
            404,
            refused(
                404,
                "NotFound",
                "componentstatus \"nope\" not found",
                json!({"name": "nope", "kind": "componentstatus"}),
            ),
        ),
        (
            "watched",
            Method::GET,
            "?watch=1",
            405,
            refused(
                405,
                "MethodNotAllowed",
                "watch is not supported on resources of kind \"componentstatuses\"",
                json!({"kind": "componentstatuses"}),
            ),
        ),
        (
            "made",
            Method::POST,
            "",
            405,
            refused(405, "MethodNotAllowed", method, json!({})),
        ),
        (
            "deleted",
            Method::DELETE,
            "/etcd-0",
            405,
            refused(405, "MethodNotAllowed", method, json!({})),
        ),
    ] {
        let a = send(
            &f.client,
            method,
            &format!("{PATH}{path}"),
            &[],
            b"{}".to_vec(),
        )
        .await;
        assert_eq!((a.code, a.json()), (code, wanted), "{name}");
        let warned = a.headers.get("warning").map(|w| w.to_str().unwrap());
        let deprecated = (code != 405 || name == "watched")
            .then_some("299 - \"v1 ComponentStatus is deprecated in v1.19+\"");
        assert_eq!(warned, deprecated, "{name}");
    }
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = send(&f.client, Method::GET, PATH, &accept, vec![])
        .await
        .json();
    let rows = table["rows"].as_array().unwrap().iter();
    let cells: Vec<&Value> = rows.map(|r| &r["cells"]).collect();
    assert_eq!(
        cells,
        [
            &json!(["scheduler", "Healthy", "ok", ""]),
            &json!(["controller-manager", "Unhealthy", gone, ""]),
            &json!(["etcd-0", "Healthy", "ok", ""]),
        ]
    );
}

#[tokio::test]
async fn the_servers_checks_are_counted_and_told() {
    let f = builtin();
    for path in ["/readyz", "/readyz", "/livez/ping"] {
        assert_eq!(f.get(path).await.code, 200, "{path}");
    }
    let text = String::from_utf8(f.get("/metrics/slis").await.bytes.to_vec()).unwrap();
    for line in [
        "# TYPE kubernetes_healthcheck gauge",
        "kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1",
        "kubernetes_healthchecks_total{name=\"etcd\",status=\"success\",type=\"readyz\"} 2",
        "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"livez\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    assert!(!text.contains("error"), "{text}");
    let root = f.get("/").await.json();
    let paths: Vec<&str> = root["paths"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for path in [
        "/api/v1",
        "/flagz",
        "/livez/ping",
        "/metrics/slis",
        "/readyz/shutdown",
        "/statusz",
    ] {
        assert!(paths.contains(&path), "{path}");
    }
    assert!(paths.is_sorted());
}

#[tokio::test]
async fn pages_for_people_are_objects_for_those_who_ask() {
    let f = builtin();
    f.api
        .set_flags([("api".to_owned(), "127.0.0.1:1".to_owned())].into());
    const NONE: &str = "only the following media types are accepted: application/json, application/yaml, text/plain";
    for (path, kind) in [("/statusz", "Statusz"), ("/flagz", "Flagz")] {
        let text = String::from_utf8(f.get(path).await.bytes.to_vec()).unwrap();
        let head = format!("\n\napiserver {}\nWarning: ", &path[1..]);
        assert!(format!("\n{text}").starts_with(&head), "{text}");
        for (accept, want) in [
            ("*/*".to_owned(), None),
            (
                format!("application/json;v=v1beta1;g=config.k8s.io;as={kind}"),
                Some(Ok("v1beta1")),
            ),
            (
                format!("text/html, application/json;v=v1alpha1;g=config.k8s.io;as={kind}"),
                Some(Ok("v1alpha1")),
            ),
            (
                format!("application/json;v=v2;g=config.k8s.io;as={kind}"),
                Some(Err(406)),
            ),
            ("application/json".to_owned(), Some(Err(406))),
            (
                "application/vnd.kubernetes.protobuf".to_owned(),
                Some(Err(406)),
            ),
        ] {
            let headers = [("accept", accept.as_str())];
            let a = send(&f.client, Method::GET, path, &headers, vec![]).await;
            let content = a.headers["content-type"].to_str().unwrap();
            match want {
                None => assert_eq!(content, "text/plain; charset=utf-8"),
                Some(Err(code)) => {
                    assert_eq!(
                        (a.code, &a.json()["message"]),
                        (code, &json!(NONE)),
                        "{accept}"
                    );
                }
                Some(Ok(version)) => {
                    assert_eq!(
                        content,
                        format!("application/json;g=config.k8s.io;v={version};as={kind}")
                    );
                    assert_eq!(a.headers.contains_key("warning"), version == "v1alpha1");
                    let o = a.json();
                    assert_eq!(o["apiVersion"], format!("config.k8s.io/{version}"));
                    assert_eq!(
                        (&o["kind"], &o["metadata"]["name"]),
                        (&json!(kind), &json!("apiserver"))
                    );
                    let told = if kind == "Flagz" {
                        &o["flags"]["api"]
                    } else {
                        &o["emulationVersion"]
                    };
                    assert!(["127.0.0.1:1", "1.36"].contains(&told.as_str().unwrap()));
                }
            }
        }
    }
}

#[tokio::test]
async fn what_every_cluster_has_comes_back() {
    let f = builtin();
    for path in [
        "/apis/networking.k8s.io/v1/servicecidrs/kubernetes",
        "/api/v1/namespaces/default/services/kubernetes",
    ] {
        let before = f.get(path).await.json();
        let a = f.delete(path, json!({})).await;
        assert_eq!(a.code, 200, "{path}: {}", a.json());
        let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
        let after = loop {
            let a = f.get(path).await;
            if a.code == 200 && a.json()["metadata"]["uid"] != before["metadata"]["uid"] {
                break a.json();
            }
            assert!(std::time::Instant::now() < end, "{path} did not come back");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        assert_eq!(after["spec"], before["spec"], "{path}");
    }
    let range = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";
    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while f.get(range).await.json()["status"]["conditions"][0]["status"] != "True" {
        assert!(std::time::Instant::now() < end, "it does not become ready");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
