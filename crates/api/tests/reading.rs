//! Lists, watches, tables, discovery.

mod common;

use common::*;
use http::Method;
use serde_json::{Value, json};

fn names(list: &Value) -> Vec<String> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["metadata"]["name"].as_str().unwrap().to_string())
        .collect()
}

#[tokio::test]
async fn lists_select() {
    let f = start();
    f.made("/api/v1/namespaces", json!({"metadata": {"name": "other"}}))
        .await;
    for (ns, name, node) in [
        ("default", "a", "n1"),
        ("default", "b", "n2"),
        ("other", "a", "n1"),
    ] {
        let mut p = pod(name);
        p["spec"]["nodeName"] = node.into();
        f.made(&format!("/api/v1/namespaces/{ns}/pods"), p).await;
    }
    for (path, want) in [
        ("/api/v1/pods", vec!["a", "b", "a"]),
        ("/api/v1/namespaces/default/pods", vec!["a", "b"]),
        ("/api/v1/pods?labelSelector=app%3Da", vec!["a", "a"]),
        ("/api/v1/pods?labelSelector=app%20notin%20(a)", vec!["b"]),
        (
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1",
            vec!["a", "a"],
        ),
        (
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1,metadata.namespace!%3Dother",
            vec!["a"],
        ),
        ("/api/v1/pods?fieldSelector=metadata.name%3Db", vec!["b"]),
        (
            "/api/v1/namespaces/default/pods?fieldSelector=metadata.name%3Db",
            vec!["b"],
        ),
        (
            "/api/v1/namespaces/default/pods?fieldSelector=metadata.name%3Dc",
            vec![],
        ),
        (
            "/api/v1/pods?fieldSelector=metadata.namespace%3Dother",
            vec!["a"],
        ),
        ("/api/v1/namespaces/none/pods", vec![]),
        ("/api/v1/pods?resourceVersion=0", vec!["a", "b", "a"]),
    ] {
        let l = f.get(path).await.json();
        assert_eq!(names(&l), want, "{path}");
        assert_eq!(
            (&l["kind"], &l["apiVersion"]),
            (&json!("PodList"), &json!("v1"))
        );
    }
}

#[tokio::test]
async fn chunks_show_one_moment() {
    let f = start();
    for i in 0..7 {
        f.made(CONFIGMAPS, configmap(&format!("c{i}"), json!({})))
            .await;
    }
    let first = f.get(&format!("{CONFIGMAPS}?limit=3")).await.json();
    assert_eq!(names(&first), ["c0", "c1", "c2"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    f.delete(&format!("{CONFIGMAPS}/c4"), json!({})).await;
    f.made(CONFIGMAPS, configmap("c9", json!({}))).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = f
        .get(&format!("{CONFIGMAPS}?limit=3&continue={token}"))
        .await
        .json();
    assert_eq!(names(&second), ["c3", "c4", "c5"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = f
        .get(&format!("{CONFIGMAPS}?limit=3&continue={token}"))
        .await
        .json();
    assert_eq!(names(&third), ["c6"]);
    assert!(third["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn a_forgotten_chunk_is_410_with_a_way_on() {
    let f = start();
    for i in 0..4 {
        f.made(CONFIGMAPS, configmap(&format!("c{i}"), json!({})))
            .await;
    }
    let first = f.get(&format!("{CONFIGMAPS}?limit=1")).await.json();
    // enough newer chunked lists push the first one's snapshot out
    for i in 0..40 {
        f.patch(
            &format!("{CONFIGMAPS}/c3"),
            "merge-patch",
            &format!(r#"{{"data":{{"n":"{i}"}}}}"#),
        )
        .await;
        f.get(&format!("{CONFIGMAPS}?limit=1")).await;
    }
    let token = first["metadata"]["continue"].as_str().unwrap();
    let a = f
        .get(&format!("{CONFIGMAPS}?limit=1&continue={token}"))
        .await;
    assert_eq!(a.code, 410);
    let s = a.json();
    assert!(s["message"].as_str().unwrap().starts_with(
        "The provided continue parameter is too old to display a consistent list result."
    ));
    let token = s["metadata"]["continue"].as_str().unwrap();
    let rest = f
        .get(&format!("{CONFIGMAPS}?continue={token}"))
        .await
        .json();
    assert_eq!(names(&rest), ["c1", "c2", "c3"]);
}

#[tokio::test]
async fn watches_tell_what_happens() {
    let f = start();
    let list = f.get(CONFIGMAPS).await.json();
    let from = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut w = f
        .watch(&format!("{CONFIGMAPS}?watch=1&resourceVersion={from}"))
        .await;
    let made = f.made(CONFIGMAPS, configmap("a", json!({"k": "1"}))).await;
    let changed = f
        .patch(
            &format!("{CONFIGMAPS}/a"),
            "merge-patch",
            r#"{"data":{"k":"2"}}"#,
        )
        .await
        .json();
    f.delete(&format!("{CONFIGMAPS}/a"), json!({})).await;
    assert_eq!(
        w.next().await.unwrap(),
        json!({"type": "ADDED", "object": made})
    );
    assert_eq!(
        w.next().await.unwrap(),
        json!({"type": "MODIFIED", "object": changed})
    );
    let deleted = w.next().await.unwrap();
    assert_eq!(
        (&deleted["type"], &deleted["object"]["data"]["k"]),
        (&json!("DELETED"), &json!("2"))
    );
    let rv = |v: &Value| {
        v["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert!(rv(&deleted["object"]) > rv(&changed));
}

#[tokio::test]
async fn selectors_turn_changes_into_arrivals_and_departures() {
    let f = start();
    let mut w = f
        .watch("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dn1")
        .await;
    let mut labels = f
        .watch("/api/v1/pods?watch=true&labelSelector=app%3Dp")
        .await;
    let mut named = f
        .watch(&format!(
            "{PODS}?watch=true&fieldSelector=metadata.name%3Dp"
        ))
        .await;
    f.made(PODS, pod("p2")).await;
    f.made(PODS, pod("p")).await;
    f.post(
        &format!("{PODS}/p/binding"),
        json!({"metadata": {"name": "p"}, "target": {"name": "n1"}}),
    )
    .await;
    f.patch(
        &format!("{PODS}/p"),
        "merge-patch",
        r#"{"metadata":{"labels":{"app":"q"}}}"#,
    )
    .await;
    f.delete(&format!("{PODS}/p"), json!({"gracePeriodSeconds": 0}))
        .await;
    let step = |kind: &str| (kind.to_string(), "p".to_string());
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        assert_eq!(w.step().await, step(kind));
    }
    assert_eq!(labels.step().await, step("ADDED"));
    assert_eq!(labels.step().await, step("MODIFIED"));
    let gone = labels.next().await.unwrap();
    assert_eq!(
        (&gone["type"], &gone["object"]["metadata"]["labels"]["app"]),
        (&json!("DELETED"), &json!("p"))
    );
    for kind in ["ADDED", "MODIFIED", "MODIFIED", "DELETED"] {
        assert_eq!(named.step().await, step(kind));
    }
}

#[tokio::test]
async fn watch_lists_end_their_initial_events_with_a_bookmark() {
    let f = start();
    f.made(CONFIGMAPS, configmap("a", json!({}))).await;
    let path = format!(
        "{CONFIGMAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut w = f.watch(&path).await;
    assert_eq!(w.step().await, ("ADDED".into(), "a".into()));
    let b = w.next().await.unwrap();
    assert_eq!(b["type"], "BOOKMARK");
    assert_eq!(b["object"]["kind"], "ConfigMap");
    assert_eq!(
        b["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    f.made(CONFIGMAPS, configmap("b", json!({}))).await;
    assert_eq!(w.step().await, ("ADDED".into(), "b".into()));
    let a = f
        .get(&format!(
            "{CONFIGMAPS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true"
        ))
        .await;
    assert_eq!(a.code, 422);
    assert!(
        a.json()["message"]
            .as_str()
            .unwrap()
            .contains("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
    );
}

#[tokio::test]
async fn watches_end_in_time_and_tell_where_they_were() {
    let f = start();
    let mut w = f
        .watch(&format!(
            "{CONFIGMAPS}?watch=true&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion=1"
        ))
        .await;
    // other kinds' events move the position on
    let last = w.next().await.unwrap();
    assert_eq!(last["type"], "BOOKMARK");
    assert_ne!(last["object"]["metadata"]["resourceVersion"], "1");
    assert!(w.next().await.is_none());
}

#[tokio::test]
async fn a_past_beyond_the_ring_is_410() {
    let f = start();
    // more events than the ring holds; each writer has an object of its own, so that no write is in vain
    let writes = (0..64).map(|n| {
        let f = &f;
        async move {
            let name = format!("a{n}");
            f.made(CONFIGMAPS, configmap(&name, json!({}))).await;
            for i in 0..72 {
                let path = format!("{CONFIGMAPS}/{name}");
                let change = format!(r#"{{"data":{{"k":"{i}"}}}}"#);
                assert_eq!(f.patch(&path, "merge-patch", &change).await.code, 200);
            }
        }
    });
    futures::future::join_all(writes).await;
    let mut w = f
        .watch(&format!("{CONFIGMAPS}?watch=true&resourceVersion=2"))
        .await;
    let e = w.next().await.unwrap();
    assert_eq!(
        (&e["type"], &e["object"]["code"], &e["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert!(
        e["object"]["message"]
            .as_str()
            .unwrap()
            .starts_with("too old resource version: 2 (")
    );
    assert!(w.next().await.is_none());
}

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

#[tokio::test]
async fn tables_and_partial_objects() {
    let f = start();
    f.made(CONFIGMAPS, configmap("a", json!({"k": "v"}))).await;
    let as_table = [("accept", TABLE)];
    let t = f
        .send(Method::GET, CONFIGMAPS, &as_table, vec![])
        .await
        .json();
    assert_eq!(
        (&t["kind"], &t["apiVersion"]),
        (&json!("Table"), &json!("meta.k8s.io/v1"))
    );
    assert_eq!(t["columnDefinitions"][1]["name"], "Data");
    assert_eq!(t["rows"][0]["cells"], json!(["a", 1]));
    assert_eq!(t["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let t = f
        .send(
            Method::GET,
            &format!("{CONFIGMAPS}/a?includeObject=Object"),
            &as_table,
            vec![],
        )
        .await
        .json();
    assert_eq!(t["rows"][0]["object"]["data"]["k"], "v");
    let t = f
        .send(
            Method::GET,
            &format!("{CONFIGMAPS}?includeObject=None"),
            &as_table,
            vec![],
        )
        .await
        .json();
    assert_eq!(t["rows"][0]["object"], Value::Null);
    let partial = [(
        "accept",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    )];
    let l = f
        .send(Method::GET, CONFIGMAPS, &partial, vec![])
        .await
        .json();
    assert_eq!(
        (&l["kind"], &l["items"][0]["metadata"]["name"]),
        (&json!("PartialObjectMetadataList"), &json!("a"))
    );
    assert!(l["items"][0].get("data").is_none());

    let request = http::Request::get(format!("{CONFIGMAPS}?watch=true"))
        .header("accept", TABLE)
        .body(kube::client::Body::empty())
        .unwrap();
    let mut w = watch_of(f.client.send(request).await.unwrap());
    let first = w.next().await.unwrap();
    assert_eq!(
        (
            &first["object"]["kind"],
            &first["object"]["rows"][0]["cells"]
        ),
        (&json!("Table"), &json!(["a", 1]))
    );
    assert_eq!(
        first["object"]["columnDefinitions"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    f.made(CONFIGMAPS, configmap("b", json!({}))).await;
    let second = w.next().await.unwrap();
    assert_eq!(second["object"]["columnDefinitions"], Value::Null);
    assert_eq!(second["object"]["rows"][0]["cells"], json!(["b", 0]));
}

#[tokio::test]
async fn long_lists_are_compressed_but_watches_never() {
    let f = start();
    for i in 0..5 {
        f.made(
            CONFIGMAPS,
            configmap(&format!("c{i}"), json!({"k": "x".repeat(40_000)})),
        )
        .await;
    }
    let gzip = [("accept-encoding", "gzip")];
    let a = f.send(Method::GET, CONFIGMAPS, &gzip, vec![]).await;
    assert_eq!(a.headers["content-encoding"], "gzip");
    assert!(a.bytes.len() < 20_000, "{}", a.bytes.len());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&a.bytes[..]), &mut text)
        .unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        f.get(CONFIGMAPS).await.json()
    );
    let a = f
        .send(
            Method::GET,
            &format!("{CONFIGMAPS}?watch=true&timeoutSeconds=1"),
            &gzip,
            vec![],
        )
        .await;
    assert!(a.headers.get("content-encoding").is_none());
    assert!(a.bytes.len() > 200_000);
}

#[tokio::test]
async fn discovery() {
    let f = start();
    let groups = f.get("/apis").await.json();
    let names: Vec<&str> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| g["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["apps", "authentication.k8s.io", "authorization.k8s.io"]
    );
    let core = f.get("/api/v1").await.json();
    let find = |list: &Value, name: &str| {
        list["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["name"] == name)
            .cloned()
            .unwrap_or(Value::Null)
    };
    assert_eq!(find(&core, "configmaps")["shortNames"], json!(["cm"]));
    assert_eq!(find(&core, "pods/eviction")["group"], "policy");
    assert_eq!(find(&core, "namespaces")["namespaced"], false);
    let apps = f.get("/apis/apps/v1").await.json();
    assert_eq!(apps["groupVersion"], "apps/v1");
    assert_eq!(find(&apps, "deployments/scale")["kind"], "Scale");
    assert_eq!(find(&apps, "deployments")["categories"], json!(["all"]));
    assert_eq!(f.get("/api").await.json()["versions"], json!(["v1"]));
    assert_eq!(
        f.get("/apis/apps").await.json()["preferredVersion"]["groupVersion"],
        "apps/v1"
    );
    assert_eq!(f.get("/apis/nope").await.code, 404);
    assert_eq!(f.get("/apis/apps/v9").await.code, 404);

    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    let a = f
        .send(Method::GET, "/apis", &[("accept", accept)], vec![])
        .await;
    assert_eq!(
        a.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let d = a.json();
    assert_eq!(
        (&d["kind"], &d["apiVersion"]),
        (
            &json!("APIGroupDiscoveryList"),
            &json!("apidiscovery.k8s.io/v2")
        )
    );
    let r = &d["items"][0]["versions"][0]["resources"][0];
    assert_eq!(
        (&r["resource"], &r["scope"], &r["responseKind"]["kind"]),
        (
            &json!("deployments"),
            &json!("Namespaced"),
            &json!("Deployment")
        )
    );
    let tag = a.headers["etag"].to_str().unwrap().to_string();
    let again = f
        .send(
            Method::GET,
            "/apis",
            &[("accept", accept), ("if-none-match", &tag)],
            vec![],
        )
        .await;
    assert_eq!((again.code, again.bytes.len()), (304, 0));
}

#[tokio::test]
async fn health_version_and_metrics() {
    let f = start();
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
        let a = f.get(path).await;
        assert_eq!(
            (a.code, String::from_utf8(a.bytes).unwrap().as_str()),
            (200, "ok"),
            "{path}"
        );
    }
    let a = f.get("/readyz?verbose").await;
    let text = String::from_utf8(a.bytes).unwrap();
    assert!(
        text.contains("[+]ping ok\n") && text.ends_with("readyz check passed\n"),
        "{text}"
    );
    assert!(
        f.get("/version").await.json()["gitVersion"]
            .as_str()
            .unwrap()
            .starts_with("v1.36.")
    );
    f.get(CONFIGMAPS).await;
    let text = String::from_utf8(f.get("/metrics").await.bytes).unwrap();
    assert!(
        text.contains("apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1\n")
            && text.contains("\napiserver_storage_objects{resource=\"namespaces\"} ")
            && text.contains("\napiserver_current_inflight_requests{request_kind=\"readOnly\"} 1\n")
            && text.contains("\nprocess_resident_memory_bytes "),
        "{text}"
    );
}

#[tokio::test]
async fn openapi_documents() {
    let f = start();
    let index = f.get("/openapi/v3").await.json();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_string();
    let a = f
        .send(Method::GET, &url, &[("accept", "application/json")], vec![])
        .await;
    assert!(
        a.json()["components"]["schemas"]
            .get("io.k8s.api.apps.v1.Deployment")
            .is_some()
    );
    let tag = a.headers["etag"].to_str().unwrap().to_string();
    assert_eq!(
        f.send(Method::GET, &url, &[("if-none-match", &tag)], vec![])
            .await
            .code,
        304
    );
    let a = f
        .send(
            Method::GET,
            "/openapi/v2",
            &[
                (
                    "accept",
                    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
                ),
                ("accept-encoding", "gzip"),
            ],
            vec![],
        )
        .await;
    assert_eq!(
        a.headers["content-type"],
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
    assert_eq!(a.headers["content-encoding"], "gzip");
    assert!(a.bytes.len() > 1000);
    let a = f.get("/openapi/v2").await;
    assert_eq!(a.json()["swagger"], "2.0");
}
