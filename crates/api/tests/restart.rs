//! What was acknowledged is there after a restart.

mod common;

use common::*;
use serde_json::json;

#[tokio::test]
async fn objects_survive_and_old_watches_are_told_to_list_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = knarr_api::Config::for_tests(dir.path());
    let store = config.store.clone();
    let api = knarr_api::ApiServer::with_resources(config, RESOURCES).unwrap();
    let client = api.client("admin", &["system:masters"], "tester");
    let f = Fixture { api, client, dir };
    let made = f.made(CONFIGMAPS, configmap("a", json!({"k": "v"}))).await;
    let namespaces = f.get("/api/v1/namespaces").await.json();
    let Fixture { api, client, dir } = f;
    store.close().await;
    drop((api, client, store));

    let config = knarr_api::Config::for_tests(dir.path());
    let api = knarr_api::ApiServer::with_resources(config, RESOURCES).unwrap();
    let client = api.client("admin", &["system:masters"], "tester");
    let f = Fixture { api, client, dir };
    assert_eq!(f.get(&format!("{CONFIGMAPS}/a")).await.json(), made);
    let again = f.get("/api/v1/namespaces").await.json();
    assert_eq!(
        again["items"], namespaces["items"],
        "the default namespaces are not made twice"
    );
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    f.patch(
        &format!("{CONFIGMAPS}/a"),
        "merge-patch",
        r#"{"data":{"k":"w"}}"#,
    )
    .await;
    let mut w = f
        .watch(&format!(
            "{CONFIGMAPS}?watch=true&resourceVersion={version}"
        ))
        .await;
    let e = w.next().await.unwrap();
    // either the change since, or the order to list again; never a gap
    match e["type"].as_str().unwrap() {
        "ERROR" => assert_eq!(e["object"]["code"], 410),
        "MODIFIED" => assert_eq!(e["object"]["data"]["k"], "w"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_store_that_cannot_commit_is_503() {
    let dir = tempfile::tempdir().unwrap();
    let config = knarr_api::Config::for_tests(dir.path());
    let store = config.store.clone();
    let api = knarr_api::ApiServer::with_resources(config, RESOURCES).unwrap();
    let client = api.client("admin", &["system:masters"], "tester");
    let f = Fixture { api, client, dir };
    let made = f.made(CONFIGMAPS, configmap("a", json!({}))).await;
    store.close().await;
    let a = f.post(CONFIGMAPS, configmap("b", json!({}))).await;
    assert_eq!(
        (a.code, a.json()["reason"].as_str()),
        (503, Some("ServiceUnavailable"))
    );
    assert_eq!(
        f.delete(&format!("{CONFIGMAPS}/a"), json!({})).await.code,
        503
    );
    assert_eq!(
        f.get(&format!("{CONFIGMAPS}/a")).await.json(),
        made,
        "reads go on"
    );
}
