//! Reading and writing objects, through raw requests and kube's own types.

mod common;

use common::*;
use http::Method;
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
async fn failures_carry_upstreams_words() {
    let f = start();
    f.made(CONFIGMAPS, configmap("taken", json!({}))).await;
    let cases: &[(&str, Method, &str, Value, u16, &str, &str)] = &[
        (
            "missing",
            Method::GET,
            "/api/v1/namespaces/default/configmaps/x",
            Value::Null,
            404,
            "NotFound",
            "configmaps \"x\" not found",
        ),
        (
            "missing in a group",
            Method::GET,
            "/apis/apps/v1/namespaces/default/deployments/x",
            Value::Null,
            404,
            "NotFound",
            "deployments.apps \"x\" not found",
        ),
        (
            "unknown resource",
            Method::GET,
            "/api/v1/nonsense",
            Value::Null,
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        (
            "taken",
            Method::POST,
            CONFIGMAPS,
            configmap("taken", json!({})),
            409,
            "AlreadyExists",
            "configmaps \"taken\" already exists",
        ),
        (
            "no namespace",
            Method::POST,
            "/api/v1/namespaces/none/configmaps",
            configmap("a", json!({})),
            404,
            "NotFound",
            "namespaces \"none\" not found",
        ),
        (
            "other namespace",
            Method::POST,
            CONFIGMAPS,
            json!({"metadata": {"name": "a", "namespace": "b"}}),
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "no name",
            Method::POST,
            CONFIGMAPS,
            json!({"metadata": {}}),
            422,
            "Invalid",
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        (
            "bad name",
            Method::POST,
            CONFIGMAPS,
            json!({"metadata": {"name": "A"}}),
            422,
            "Invalid",
            "ConfigMap \"A\" is invalid: metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of",
        ),
        (
            "bad label",
            Method::POST,
            CONFIGMAPS,
            json!({"metadata": {"name": "a", "labels": {"a b": "c"}}}),
            422,
            "Invalid",
            "metadata.labels: Invalid value: \"a b\": name part must consist of",
        ),
        (
            "other kind",
            Method::POST,
            CONFIGMAPS,
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}}),
            400,
            "BadRequest",
            "Pod in version \"v1\" cannot be handled as a ConfigMap",
        ),
        (
            "revision at create",
            Method::POST,
            CONFIGMAPS,
            json!({"metadata": {"name": "a", "resourceVersion": "1"}}),
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        ),
        (
            "not JSON",
            Method::POST,
            CONFIGMAPS,
            Value::String("}".into()),
            400,
            "BadRequest",
            "",
        ),
        (
            "validation",
            Method::POST,
            DEPLOYMENTS,
            deployment("a", -1),
            422,
            "Invalid",
            "Deployment.apps \"a\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "wrong type",
            Method::POST,
            DEPLOYMENTS,
            json!({"metadata": {"name": "a"}, "spec": {"replicas": "x"}}),
            400,
            "BadRequest",
            "json: cannot unmarshal string into Go struct field",
        ),
        (
            "unknown field, strict",
            Method::POST,
            "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
            json!({"metadata": {"name": "a"}, "dada": {}}),
            400,
            "BadRequest",
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dada\"",
        ),
        (
            "bad dryRun",
            Method::POST,
            "/api/v1/namespaces/default/configmaps?dryRun=Some",
            configmap("a", json!({})),
            422,
            "Invalid",
            "Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
        (
            "PUT of a missing object",
            Method::PUT,
            "/api/v1/namespaces/default/configmaps/x",
            configmap("x", json!({})),
            404,
            "NotFound",
            "configmaps \"x\" not found",
        ),
        (
            "PUT with another name",
            Method::PUT,
            "/api/v1/namespaces/default/configmaps/taken",
            configmap("x", json!({})),
            400,
            "BadRequest",
            "the name of the object (x) does not match the name on the URL (taken)",
        ),
        (
            "PUT with another uid",
            Method::PUT,
            "/api/v1/namespaces/default/configmaps/taken",
            json!({"metadata": {"name": "taken", "uid": "u"}}),
            409,
            "Conflict",
            "Precondition failed: UID in precondition: u",
        ),
        (
            "method",
            Method::POST,
            "/api/v1/namespaces/default/configmaps/taken",
            json!({}),
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        (
            "default namespace",
            Method::DELETE,
            "/api/v1/namespaces/default",
            Value::Null,
            403,
            "Forbidden",
            "namespaces \"default\" is forbidden: this namespace may not be deleted",
        ),
        (
            "uid precondition",
            Method::DELETE,
            "/api/v1/namespaces/default/configmaps/taken",
            json!({"preconditions": {"uid": "u"}}),
            409,
            "Conflict",
            "the UID in the precondition (u) does not match the UID in record",
        ),
        (
            "bad label selector",
            Method::GET,
            "/api/v1/namespaces/default/configmaps?labelSelector=a%20b",
            Value::Null,
            400,
            "BadRequest",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        (
            "bad field selector",
            Method::GET,
            "/api/v1/namespaces/default/configmaps?fieldSelector=x%3Dy",
            Value::Null,
            400,
            "BadRequest",
            "\"x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        (
            "bad pod field selector",
            Method::GET,
            "/api/v1/pods?fieldSelector=x%3Dy",
            Value::Null,
            400,
            "BadRequest",
            "field label not supported: x",
        ),
        (
            "future list",
            Method::GET,
            "/api/v1/pods?resourceVersion=99999",
            Value::Null,
            504,
            "Timeout",
            "Too large resource version: 99999, current: ",
        ),
        (
            "match without revision",
            Method::GET,
            "/api/v1/pods?resourceVersionMatch=Exact",
            Value::Null,
            422,
            "Invalid",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "bad continue",
            Method::GET,
            "/api/v1/pods?continue=x",
            Value::Null,
            400,
            "BadRequest",
            "continue key is not valid",
        ),
        (
            "past",
            Method::GET,
            "/api/v1/pods?resourceVersion=1&resourceVersionMatch=Exact",
            Value::Null,
            410,
            "Expired",
            "The resourceVersion for the provided list is too old.",
        ),
    ];
    for (what, method, path, body, code, reason, message) in cases {
        let bytes = match body {
            Value::Null => vec![],
            Value::String(s) => s.clone().into_bytes(),
            v => v.to_string().into_bytes(),
        };
        let a = f.send(method.clone(), path, &[], bytes).await;
        let s = a.json();
        assert_eq!(
            (
                a.code,
                s["code"].as_u64(),
                s["reason"].as_str().unwrap_or("")
            ),
            (*code, Some(u64::from(*code)), *reason),
            "{what}: {s}"
        );
        let got = s["message"].as_str().unwrap();
        assert!(got.contains(message), "{what}: {got}");
        assert_eq!(
            (&s["kind"], &s["apiVersion"], &s["status"]),
            (&json!("Status"), &json!("v1"), &json!("Failure")),
            "{what}"
        );
    }
}

#[tokio::test]
async fn invalid_answers_list_their_causes() {
    let f = start();
    let mut d = deployment("x", -1);
    d["metadata"]["labels"] = json!({"a": "b c"});
    let s = f.post(DEPLOYMENTS, d).await.json();
    assert!(
        s["message"]
            .as_str()
            .unwrap()
            .starts_with("Deployment.apps \"x\" is invalid: [metadata.labels: Invalid value"),
        "{s}"
    );
    assert_eq!(s["details"]["kind"], "Deployment");
    assert_eq!(s["details"]["group"], "apps");
    let fields: Vec<&str> = s["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["metadata.labels", "spec.replicas"]);
    assert_eq!(s["details"]["causes"][1]["reason"], "FieldValueInvalid");
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

#[tokio::test]
async fn unknown_fields_warn_are_dropped_or_ignored() {
    let f = start();
    let mut o = configmap("a", json!({}));
    o["dada"] = json!(1);
    let a = f.post(CONFIGMAPS, o.clone()).await;
    assert_eq!(a.code, 201);
    assert_eq!(a.warnings(), ["299 - \"unknown field \\\"dada\\\"\""]);
    assert!(a.json().get("dada").is_none());
    o["metadata"]["name"] = "b".into();
    let a = f
        .post(&format!("{CONFIGMAPS}?fieldValidation=Ignore"), o)
        .await;
    assert_eq!((a.code, a.warnings().len()), (201, 0));
    let twice = r#"{"metadata":{"name":"c"},"data":{"k":"1"},"data":{"k":"2"}}"#;
    let a = f
        .send(
            Method::POST,
            &format!("{CONFIGMAPS}?fieldValidation=Strict"),
            &[],
            twice.into(),
        )
        .await;
    assert!(
        a.json()["message"]
            .as_str()
            .unwrap()
            .contains("duplicate field \"data\""),
        "{}",
        a.json()
    );
    let a = f
        .patch(
            &format!("{CONFIGMAPS}/a?fieldValidation=Strict"),
            "merge-patch",
            r#"{"dada":1}"#,
        )
        .await;
    assert_eq!(a.code, 422);
    assert!(
        a.json()["message"]
            .as_str()
            .unwrap()
            .contains("strict decoding error: unknown field \"dada\"")
    );
}

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
