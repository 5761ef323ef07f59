//! Patches of every kind, server-side apply, and bodies in other encodings.

use crate::common::*;
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn bodies_in_other_encodings() {
    let f = start();
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: yam}\ndata:\n  k: |\n    line\n";
    let a = f
        .send(
            Method::POST,
            CONFIGMAPS,
            &[("content-type", "application/yaml")],
            yaml.into(),
        )
        .await;
    assert_eq!(
        (a.code, &a.json()["data"]["k"]),
        (201, &json!("line\n")),
        "{}",
        a.json()
    );
    let a = f
        .send(
            Method::POST,
            CONFIGMAPS,
            &[("content-type", "text/csv")],
            vec![1],
        )
        .await;
    assert_eq!(
        (a.code, a.json()["reason"].as_str()),
        (415, Some("UnsupportedMediaType"))
    );
    let a = f
        .send(
            Method::PATCH,
            &format!("{CONFIGMAPS}/yam"),
            &[("content-type", "application/json")],
            b"{}".to_vec(),
        )
        .await;
    assert_eq!(a.code, 415);
    let a = f
        .send(
            Method::GET,
            CONFIGMAPS,
            &[("accept", "application/cbor")],
            vec![],
        )
        .await;
    assert_eq!(
        (a.code, a.json()["reason"].as_str()),
        (406, Some("NotAcceptable"))
    );
    let a = f
        .send(
            Method::POST,
            CONFIGMAPS,
            &[],
            vec![b' '; 3 * 1024 * 1024 + 1],
        )
        .await;
    assert_eq!(
        (a.code, a.json()["reason"].as_str()),
        (413, Some("RequestEntityTooLarge"))
    );
}

#[tokio::test]
async fn patches() {
    let f = start();
    f.made(CONFIGMAPS, configmap("a", json!({"k": "v"}))).await;
    let path = format!("{CONFIGMAPS}/a");
    let table: &[(&str, &str, u16, Value)] = &[
        (
            "json-patch",
            r#"[{"op":"test","path":"/data/k","value":"v"},{"op":"add","path":"/data/l","value":"1"}]"#,
            200,
            json!({"k": "v", "l": "1"}),
        ),
        (
            "json-patch",
            r#"[{"op":"test","path":"/data/k","value":"nope"}]"#,
            422,
            Value::Null,
        ),
        ("json-patch", r#"{"op":"add"}"#, 400, Value::Null),
        (
            "merge-patch",
            r#"{"data":{"l":null,"m":"2"}}"#,
            200,
            json!({"k": "v", "m": "2"}),
        ),
        (
            "merge-patch",
            r#"{"metadata":{"resourceVersion":"1"},"data":{"z":"z"}}"#,
            409,
            Value::Null,
        ),
        (
            "merge-patch",
            r#"{"metadata":{"name":"other"}}"#,
            400,
            Value::Null,
        ),
        (
            "strategic-merge-patch",
            r#"{"data":{"$patch":"replace","only":"1"}}"#,
            200,
            json!({"only": "1"}),
        ),
        ("strategic-merge-patch", "[]", 400, Value::Null),
    ];
    for (kind, body, code, data) in table {
        let a = f.patch(&path, kind, body).await;
        assert_eq!(a.code, *code, "{kind} {body}: {}", a.json());
        if *code == 200 {
            assert_eq!(&a.json()["data"], data, "{kind} {body}");
        }
    }
    assert_eq!(
        f.patch(&format!("{CONFIGMAPS}/none"), "merge-patch", "{}")
            .await
            .code,
        404
    );
    let containers = f.made(DEPLOYMENTS, deployment("d", 1)).await;
    assert_eq!(
        containers["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let a = f.patch(&format!("{DEPLOYMENTS}/d"), "strategic-merge-patch",
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"new"},{"name":"e","image":"x"}]}}}}"#).await.json();
    let images: Vec<&str> = a["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["image"].as_str().unwrap())
        .collect();
    assert!(
        images.contains(&"new") && images.contains(&"x") && images.len() == 2,
        "{images:?}"
    );
}

#[tokio::test]
async fn concurrent_patches_all_land() {
    let f = start();
    f.made(CONFIGMAPS, configmap("a", json!({}))).await;
    let writes = (0..16).map(|i| {
        let f = &f;
        async move {
            let a = f
                .patch(
                    &format!("{CONFIGMAPS}/a"),
                    "merge-patch",
                    &format!(r#"{{"data":{{"k{i}":"v"}}}}"#),
                )
                .await;
            assert_eq!(a.code, 200, "{}", a.json());
        }
    });
    futures::future::join_all(writes).await;
    let a = f.get(&format!("{CONFIGMAPS}/a")).await.json();
    assert_eq!(a["data"].as_object().unwrap().len(), 16);
}

#[tokio::test]
async fn server_side_apply() {
    let f = start();
    let path = format!("{CONFIGMAPS}/a");
    let mine = |v: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: {v}\n")
    };
    let a = f.patch(&path, "apply", &mine("one")).await;
    assert_eq!(a.code, 422);
    assert!(
        a.json()["message"]
            .as_str()
            .unwrap()
            .contains("fieldManager: Required value: is required for apply patch")
    );
    let a = f
        .patch(&format!("{path}?fieldManager=one"), "apply", &mine("one"))
        .await;
    assert_eq!(a.code, 201, "{}", a.json());
    let first = a.json();
    assert_eq!(first["metadata"]["managedFields"][0]["operation"], "Apply");
    let again = f
        .patch(&format!("{path}?fieldManager=one"), "apply", &mine("one"))
        .await;
    assert_eq!((again.code, again.json()), (200, first.clone()));
    let a = f
        .patch(&format!("{path}?fieldManager=two"), "apply", &mine("two"))
        .await;
    assert_eq!(a.code, 409, "{}", a.json());
    let s = a.json();
    assert_eq!(s["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(s["details"]["causes"][0]["field"], ".data.k");
    assert!(
        s["message"]
            .as_str()
            .unwrap()
            .starts_with("Apply failed with 1 conflict: conflict with \"one\""),
        "{s}"
    );
    let a = f
        .patch(
            &format!("{path}?fieldManager=two&force=true"),
            "apply",
            &mine("two"),
        )
        .await;
    assert_eq!((a.code, &a.json()["data"]["k"]), (200, &json!("two")));
    let gone = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n";
    let a = f
        .patch(&format!("{path}?fieldManager=two"), "apply", gone)
        .await
        .json();
    assert!(a.get("data").is_none_or(|d| d.get("k").is_none()), "{a}");
    let a = f
        .patch(&format!("{path}?force=true"), "merge-patch", "{}")
        .await;
    assert!(
        a.json()["message"]
            .as_str()
            .unwrap()
            .contains("force: Forbidden: may not be specified for non-apply patch")
    );
}
