//! Deletion in all its ways: grace, finalizers, propagation, namespaces, collections, eviction.

mod common;

use common::*;
use serde_json::{Value, json};

#[tokio::test]
async fn a_plain_delete_answers_with_a_status() {
    let f = start();
    let made = f.made(CONFIGMAPS, configmap("a", json!({}))).await;
    let a = f.delete(&format!("{CONFIGMAPS}/a"), json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": made["metadata"]["uid"]}})).await;
    assert_eq!(a.code, 200);
    assert_eq!(
        a.json(),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}})
    );
    assert_eq!(
        f.delete(&format!("{CONFIGMAPS}/a"), json!({})).await.code,
        404
    );
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let f = start();
    let mut o = configmap("a", json!({}));
    o["metadata"]["finalizers"] = json!(["example.com/hold"]);
    f.made(CONFIGMAPS, o).await;
    let path = format!("{CONFIGMAPS}/a");
    let a = f.delete(&path, json!({})).await;
    assert_eq!((a.code, &a.json()["kind"]), (200, &json!("ConfigMap")));
    assert!(a.json()["metadata"]["deletionTimestamp"].is_string());
    let again = f.delete(&path, json!({})).await.json();
    assert_eq!(again["metadata"], a.json()["metadata"]);
    let more = f
        .patch(
            &path,
            "merge-patch",
            r#"{"metadata":{"finalizers":["example.com/hold","example.com/more"]}}"#,
        )
        .await;
    assert_eq!(more.code, 422);
    assert!(
        more.json()["message"]
            .as_str()
            .unwrap()
            .contains("no new finalizers can be added if the object is being deleted")
    );
    let mut w = f
        .watch(&format!(
            "{CONFIGMAPS}?watch=true&resourceVersion={}",
            again["metadata"]["resourceVersion"].as_str().unwrap()
        ))
        .await;
    assert_eq!(
        f.patch(&path, "merge-patch", r#"{"metadata":{"finalizers":null}}"#)
            .await
            .code,
        200
    );
    assert_eq!(f.get(&path).await.code, 404);
    let e = w.next().await.unwrap();
    assert_eq!(e["type"], "DELETED");
    assert_ne!(
        e["object"]["metadata"]["resourceVersion"],
        again["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn propagation_becomes_finalizers() {
    let f = start();
    for (policy, want) in [
        ("Foreground", Some("foregroundDeletion")),
        ("Orphan", Some("orphan")),
        ("Background", None),
    ] {
        f.made(DEPLOYMENTS, deployment("d", 1)).await;
        let path = format!("{DEPLOYMENTS}/d");
        let a = f
            .delete(&path, json!({"propagationPolicy": policy}))
            .await
            .json();
        match want {
            Some(finalizer) => {
                assert_eq!(
                    a["metadata"]["finalizers"],
                    json!([finalizer]),
                    "{policy}: {a}"
                );
                assert_eq!(a["metadata"]["generation"], 2, "{policy}");
                f.patch(&path, "merge-patch", r#"{"metadata":{"finalizers":[]}}"#)
                    .await;
            }
            None => assert_eq!(a["status"], "Success", "{policy}"),
        }
        assert_eq!(f.get(&path).await.code, 404, "{policy}");
    }
    f.made(DEPLOYMENTS, deployment("d", 1)).await;
    let a = f
        .delete(
            &format!("{DEPLOYMENTS}/d?propagationPolicy=Sideways"),
            json!({}),
        )
        .await;
    assert_eq!(a.code, 422);
    let a = f
        .delete(&format!("{DEPLOYMENTS}/d?orphanDependents=true"), json!({}))
        .await
        .json();
    assert_eq!(a["metadata"]["finalizers"], json!(["orphan"]));
}

#[tokio::test]
async fn pods_go_gracefully_and_a_second_delete_only_shortens() {
    let f = start();
    let mut o = pod("p");
    o["spec"]["nodeName"] = "n".into();
    f.made(PODS, o).await;
    let path = format!("{PODS}/p");
    let first = f
        .delete(&path, json!({"gracePeriodSeconds": 60}))
        .await
        .json();
    assert_eq!(first["metadata"]["deletionGracePeriodSeconds"], 60);
    let longer = f
        .delete(&path, json!({"gracePeriodSeconds": 90}))
        .await
        .json();
    assert_eq!(longer["metadata"], first["metadata"]);
    let shorter = f
        .delete(&path, json!({"gracePeriodSeconds": 5}))
        .await
        .json();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let at = |v: &Value| {
        v["metadata"]["deletionTimestamp"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
    };
    assert_eq!(
        (at(&first) - at(&shorter))
            .total(jiff::Unit::Second)
            .unwrap(),
        55.0
    );
    let last = f
        .delete(&path, json!({"gracePeriodSeconds": 0}))
        .await
        .json();
    assert_eq!(
        (&last["kind"], &last["metadata"]["name"]),
        (&json!("Pod"), &json!("p"))
    );
    assert_eq!(f.get(&path).await.code, 404);
    f.made(PODS, pod("unbound")).await;
    f.delete(&format!("{PODS}/unbound"), json!({})).await;
    assert_eq!(f.get(&format!("{PODS}/unbound")).await.code, 404);
}

#[tokio::test]
async fn namespaces_terminate_then_finalize() {
    let f = start();
    f.made("/api/v1/namespaces", json!({"metadata": {"name": "team"}}))
        .await;
    let a = f.delete("/api/v1/namespaces/team", json!({})).await.json();
    assert_eq!(a["status"]["phase"], "Terminating");
    assert!(a["metadata"]["deletionTimestamp"].is_string());
    let refused = f
        .post(
            "/api/v1/namespaces/team/configmaps",
            configmap("a", json!({})),
        )
        .await;
    assert_eq!(refused.code, 403);
    let s = refused.json();
    assert_eq!(
        s["message"],
        "configmaps \"a\" is forbidden: unable to create new content in namespace team because it is being terminated"
    );
    assert_eq!(s["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let again = f.delete("/api/v1/namespaces/team", json!({})).await;
    assert_eq!(
        (again.code, &again.json()["kind"]),
        (200, &json!("Namespace"))
    );
    let mut finalized = a.clone();
    finalized["spec"]["finalizers"] = json!([]);
    let a = f.put("/api/v1/namespaces/team/finalize", finalized).await;
    assert_eq!(a.code, 200, "{}", a.json());
    assert_eq!(f.get("/api/v1/namespaces/team").await.code, 404);
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let f = start();
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut o = configmap(name, json!({}));
        o["metadata"]["labels"] = json!({"l": label});
        f.made(CONFIGMAPS, o).await;
    }
    let a = f
        .delete(&format!("{CONFIGMAPS}?labelSelector=l%3Dx"), json!({}))
        .await
        .json();
    assert_eq!(
        (&a["kind"], a["items"].as_array().unwrap().len()),
        (&json!("ConfigMapList"), 2)
    );
    let left = f.get(CONFIGMAPS).await.json();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
}

#[tokio::test]
async fn pods_are_bound_once_and_evicted() {
    let f = start();
    f.made(PODS, pod("p")).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let a = f.post(&format!("{PODS}/p/binding"), binding.clone()).await;
    assert_eq!(
        (a.code, &a.json()["status"]),
        (201, &json!("Success")),
        "{}",
        a.json()
    );
    let p = f.get(&format!("{PODS}/p")).await.json();
    assert_eq!(p["spec"]["nodeName"], "n1");
    assert_eq!(p["status"]["conditions"][0]["type"], "PodScheduled");
    let a = f.post(&format!("{PODS}/p/binding"), binding).await;
    assert_eq!(a.code, 409);
    assert!(
        a.json()["message"]
            .as_str()
            .unwrap()
            .contains("pod p is already assigned to node \"n1\"")
    );
    f.made(PODS, pod("q")).await;
    let a = f
        .post(
            "/api/v1/namespaces/default/bindings",
            json!({"metadata": {"name": "q"}, "target": {"name": "n2"}}),
        )
        .await;
    assert_eq!(a.code, 201, "{}", a.json());
    // kube's eviction has neither kind nor version
    let a = f
        .post(
            &format!("{PODS}/p/eviction"),
            json!({"delete_options": null, "metadata": {"name": "p"}}),
        )
        .await;
    assert_eq!((a.code, &a.json()["status"]), (201, &json!("Success")));
    assert!(f.get(&format!("{PODS}/p")).await.json()["metadata"]["deletionTimestamp"].is_string());
}

#[tokio::test]
async fn the_range_of_services_is_an_object_that_is_ready() {
    let f = builtin();
    const RANGE: &str = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";
    let range = f.get(RANGE).await.json();
    let cidr = range["spec"]["cidrs"][0].as_str().unwrap().to_string();
    let service = f
        .get("/api/v1/namespaces/default/services/kubernetes")
        .await;
    let address = service.json()["spec"]["clusterIP"]
        .as_str()
        .unwrap()
        .to_string();
    let network = address.strip_suffix(".1").unwrap();
    assert!(cidr.starts_with(network), "{address} is of {cidr}");
    let ready = &range["status"]["conditions"][0];
    assert_eq!(ready["type"], "Ready");
    assert_eq!(ready["status"], "True");
    assert_eq!(ready["message"], "Kubernetes default Service CIDR is ready");
}
