//! Reading and writing objects, through raw requests and kube's own types.

#[path = "../common/mod.rs"]
mod common;
mod devices;
mod failures;
mod patches;

use common::*;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, ResourceExt,
    api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

#[tokio::test]
async fn default_objects_are_there() {
    let f = start();
    let namespaces: Api<Namespace> = Api::all(f.client.clone());
    let list = namespaces.list(&ListParams::default()).await.unwrap();
    let names: Vec<String> = list.iter().map(ResourceExt::name_any).collect();
    assert_eq!(
        names,
        ["default", "kube-node-lease", "kube-public", "kube-system"]
    );
    let d = namespaces.get("default").await.unwrap();
    assert_eq!(d.labels()["kubernetes.io/metadata.name"], "default");
    assert_eq!(
        d.spec.unwrap().finalizers.unwrap(),
        vec!["kubernetes".to_string()]
    );
    let s = f
        .get("/api/v1/namespaces/default/services/kubernetes")
        .await;
    assert_eq!(s.json()["spec"]["clusterIP"], "10.43.0.1");
    let ca = "/api/v1/namespaces/kube-public/configmaps/kube-root-ca.crt";
    let ca = f.get(ca).await.json()["data"]["ca.crt"].to_string();
    assert!(ca.contains("BEGIN CERTIFICATE"), "{ca}");
}

#[tokio::test]
async fn typed_clients_create_read_replace_patch_and_delete() {
    let f = start();
    let api: Api<ConfigMap> = Api::namespaced(f.client.clone(), "default");
    let mut cm = ConfigMap {
        metadata: ObjectMeta {
            generate_name: Some("a-".into()),
            ..Default::default()
        },
        data: Some([("k".into(), "v".into())].into()),
        ..Default::default()
    };
    cm = api.create(&PostParams::default(), &cm).await.unwrap();
    let name = cm.name_any();
    assert!(name.starts_with("a-") && name.len() == 7, "{name}");
    assert!(cm.uid().is_some() && cm.creation_timestamp().is_some());
    assert_eq!(cm.managed_fields()[0].manager.as_deref(), Some("tester"));
    let stale = cm.clone();
    cm.data = Some([("k".into(), "w".into())].into());
    let newer = api
        .replace(&name, &PostParams::default(), &cm)
        .await
        .unwrap();
    assert_ne!(newer.resource_version(), cm.resource_version());
    let conflict = api
        .replace(&name, &PostParams::default(), &stale)
        .await
        .unwrap_err();
    let kube::Error::Api(status) = conflict else {
        panic!("{conflict}")
    };
    assert_eq!(
        (status.code, status.message.as_str()),
        (
            409,
            format!("Operation cannot be fulfilled on configmaps \"{name}\": the object has been modified; please apply your changes to the latest version and try again").as_str()
        )
    );
    let patched = api
        .patch(
            &name,
            &PatchParams::default(),
            &Patch::Merge(json!({"data": {"k": null, "n": "1"}})),
        )
        .await
        .unwrap();
    assert_eq!(
        patched.data.unwrap(),
        [("n".to_string(), "1".to_string())].into()
    );
    api.delete(&name, &Default::default()).await.unwrap();
    assert!(api.get_opt(&name).await.unwrap().is_none());
}

#[tokio::test]
async fn writes_that_change_nothing_keep_the_revision() {
    let f = start();
    let made = f.made(DEPLOYMENTS, deployment("d", 2)).await;
    let path = format!("{DEPLOYMENTS}/d");
    assert_eq!(made["metadata"]["generation"], 1);
    let version = |v: &Value| {
        v["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .to_string()
    };
    for (what, a) in [
        ("PUT of what was read", f.put(&path, made.clone()).await),
        (
            "PUT of the manifest",
            f.put(&path, deployment("d", 2)).await,
        ),
        (
            "empty merge patch",
            f.patch(&path, "merge-patch", "{}").await,
        ),
        (
            "same value",
            f.patch(&path, "strategic-merge-patch", r#"{"spec":{"replicas":2}}"#)
                .await,
        ),
        ("empty json patch", f.patch(&path, "json-patch", "[]").await),
    ] {
        assert_eq!(a.code, 200, "{what}: {}", a.json());
        assert_eq!(version(&a.json()), version(&made), "{what}");
    }
    let changed = f
        .patch(&path, "merge-patch", r#"{"spec":{"replicas":3}}"#)
        .await
        .json();
    assert_ne!(version(&changed), version(&made));
    assert_eq!(changed["metadata"]["generation"], 2);
    let labelled = f
        .patch(&path, "merge-patch", r#"{"metadata":{"labels":{"a":"b"}}}"#)
        .await
        .json();
    assert_eq!(labelled["metadata"]["generation"], 2);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let f = start();
    let mut d = deployment("d", 1);
    d["status"] = json!({"replicas": 9});
    let made = f.made(DEPLOYMENTS, d).await;
    assert!(
        made.get("status")
            .is_none_or(|s| s.get("replicas").is_none()),
        "{made}"
    );
    let path = format!("{DEPLOYMENTS}/d");
    let a = f
        .patch(
            &format!("{path}/status"),
            "merge-patch",
            r#"{"spec":{"replicas":7},"status":{"replicas":5}}"#,
        )
        .await
        .json();
    assert_eq!(
        (&a["spec"]["replicas"], &a["status"]["replicas"]),
        (&json!(1), &json!(5))
    );
    assert_eq!(a["metadata"]["generation"], 1);
    let a = f
        .patch(
            &path,
            "merge-patch",
            r#"{"spec":{"replicas":7},"status":{"replicas":1}}"#,
        )
        .await
        .json();
    assert_eq!(
        (&a["spec"]["replicas"], &a["status"]["replicas"]),
        (&json!(7), &json!(5))
    );
    let mut managers: Vec<(String, String)> = a["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| {
            (
                m["manager"].as_str().unwrap().to_string(),
                m["subresource"].as_str().unwrap_or("").to_string(),
            )
        })
        .collect();
    managers.sort();
    assert_eq!(
        managers,
        [
            ("tester".to_string(), String::new()),
            ("tester".into(), "status".into())
        ]
    );
    assert_eq!(f.get(&format!("{path}/status")).await.json(), a);
}

#[tokio::test]
async fn scale() {
    let f = start();
    f.made(DEPLOYMENTS, deployment("d", 2)).await;
    let path = format!("{DEPLOYMENTS}/d/scale");
    let s = f.get(&path).await.json();
    assert_eq!(
        (
            &s["kind"],
            &s["apiVersion"],
            &s["spec"]["replicas"],
            &s["status"]["selector"]
        ),
        (
            &json!("Scale"),
            &json!("autoscaling/v1"),
            &json!(2),
            &json!("app=d")
        )
    );
    let mut stale = s.clone();
    let mut put = s;
    put["spec"]["replicas"] = 4.into();
    let a = f.put(&path, put).await;
    assert_eq!(
        (a.code, &a.json()["spec"]["replicas"]),
        (200, &json!(4)),
        "{}",
        a.json()
    );
    stale["spec"]["replicas"] = 5.into();
    assert_eq!(f.put(&path, stale).await.code, 409);
    let a = f
        .patch(&path, "merge-patch", r#"{"spec":{"replicas":0}}"#)
        .await;
    assert_eq!(
        (a.code, &a.json()["spec"]),
        (200, &json!({})),
        "{}",
        a.json()
    );
    let d = f.get(&format!("{DEPLOYMENTS}/d")).await.json();
    assert_eq!(
        (&d["spec"]["replicas"], &d["metadata"]["generation"]),
        (&json!(0), &json!(3))
    );
    let a = f
        .patch(&path, "merge-patch", r#"{"spec":{"replicas":-1}}"#)
        .await;
    assert_eq!(a.code, 422);
}

#[tokio::test]
async fn dry_runs_change_nothing() {
    let f = start();
    let before = f.get(CONFIGMAPS).await.json();
    let a = f
        .post(
            &format!("{CONFIGMAPS}?dryRun=All"),
            configmap("a", json!({"k": "v"})),
        )
        .await;
    assert_eq!((a.code, &a.json()["data"]["k"]), (201, &json!("v")));
    assert!(a.json()["metadata"].get("resourceVersion").is_none());
    assert_eq!(f.get(CONFIGMAPS).await.json(), before);
    let made = f.made(CONFIGMAPS, configmap("a", json!({"k": "v"}))).await;
    let path = format!("{CONFIGMAPS}/a");
    let a = f
        .patch(
            &format!("{path}?dryRun=All"),
            "merge-patch",
            r#"{"data":{"k":"w"}}"#,
        )
        .await;
    assert_eq!(a.json()["data"]["k"], "w");
    let a = f.delete(&format!("{path}?dryRun=All"), json!({})).await;
    assert_eq!((a.code, &a.json()["status"]), (200, &json!("Success")));
    let a = f
        .delete(
            &path,
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]}),
        )
        .await;
    assert_eq!(a.code, 200);
    assert_eq!(f.get(&path).await.json(), made);
}
