//! CustomResourceDefinitions and what they define, over the API.

#[path = "../common/mod.rs"]
mod common;
mod refused;
mod versions;

use common::{Answer, Fixture, access::eventually};
use knarr_api::{ApiServer, Config};
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn start() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::new(Config::for_tests(dir.path())).unwrap();
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    Fixture { api, client, dir }
}

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 10},
            "color": {"type": "string", "default": "red", "enum": ["red", "green"]},
            "when": {"type": "string", "format": "date-time"},
            "port": {"x-kubernetes-int-or-string": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}}
        }},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}}}
    }})
}

fn widgets() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema()},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Made", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]}]}})
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

fn condition<'v>(o: &'v Value, ty: &str) -> &'v str {
    let all = o["status"]["conditions"].as_array().unwrap();
    let found = all.iter().find(|c| c["type"] == ty);
    found.map_or("", |c| c["status"].as_str().unwrap())
}

fn message(a: &Answer) -> String {
    a.json()["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn what_is_defined_is_served_at_once() {
    let f = start();
    let made = f.made(CRDS, widgets()).await;
    assert_eq!(made["spec"]["names"]["listKind"], "WidgetList");
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    let o = f.get(&format!("{CRDS}/widgets.example.com")).await.json();
    assert_eq!(condition(&o, "Established"), "True");
    assert_eq!(condition(&o, "NamesAccepted"), "True");
    assert_eq!(o["status"]["acceptedNames"], o["spec"]["names"]);

    let w = f
        .made(WIDGETS, widget("a", json!({"size": 2, "odd": 1})))
        .await;
    assert_eq!(
        w["spec"],
        json!({"size": 2, "color": "red"}),
        "pruned and defaulted"
    );
    assert_eq!(w["metadata"]["generation"], 1);
    let list = f.get(WIDGETS).await.json();
    assert_eq!(
        (
            list["kind"].as_str(),
            list["items"].as_array().unwrap().len()
        ),
        (Some("WidgetList"), 1)
    );
    let groups = f.get("/apis").await.json().to_string();
    assert!(groups.contains("example.com/v1"), "{groups}");
    let resources = f.get("/apis/example.com/v1").await.json().to_string();
    for want in [
        "widgets",
        "widgets/status",
        "widgets/scale",
        "\"wd\"",
        "\"all\"",
    ] {
        assert!(resources.contains(want), "{want} {resources}");
    }
    let chosen = f
        .get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dgreen"))
        .await
        .json();
    assert_eq!(chosen["items"], json!([]));
    let scale = f.get(&format!("{WIDGETS}/a/scale")).await.json();
    assert_eq!(scale["spec"]["replicas"], 2);
}

#[tokio::test]
async fn server_side_apply_knows_the_schema() {
    let f = start();
    f.made(CRDS, widgets()).await;
    let at = |manager: &str| format!("{WIDGETS}/a?fieldManager={manager}&fieldValidation=Strict");
    let yaml = |spec: &str| {
        format!("apiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: a\nspec:\n{spec}")
    };
    let a = f
        .patch(
            &at("one"),
            "apply",
            &yaml("  size: 1\n  parts:\n  - {name: x, n: 1}\n"),
        )
        .await;
    assert_eq!(a.code, 201, "{}", message(&a));
    let a = f
        .patch(&at("two"), "apply", &yaml("  parts:\n  - {name: z}\n"))
        .await;
    assert_eq!(a.code, 200, "{}", message(&a));
    assert_eq!(
        a.json()["spec"]["parts"],
        json!([{"name": "x", "n": 1}, {"name": "z"}])
    );
    let a = f.patch(&at("two"), "apply", &yaml("  size: 2\n")).await;
    assert_eq!(a.code, 409, "{}", message(&a));
    let a = f
        .patch(&at("one"), "apply", &yaml("  size: 1\n  odd: 1\n"))
        .await;
    assert!(
        message(&a).contains(".spec.odd: field not declared in schema"),
        "{}",
        message(&a)
    );
    let a = f
        .patch(&at("one"), "apply", &yaml("  size: 1\n  size: 1\n"))
        .await;
    assert!(
        message(&a).contains(r#"line 7: key "size" already set in map"#),
        "{}",
        message(&a)
    );
}

#[tokio::test]
async fn status_and_scale_are_their_own() {
    let f = start();
    f.made(CRDS, widgets()).await;
    let w = f.made(WIDGETS, widget("a", json!({"size": 1}))).await;
    let at = format!("{WIDGETS}/a");
    let status =
        json!({"status": {"replicas": 1, "selector": "a=b"}, "spec": {"size": 9}}).to_string();
    let a = f
        .patch(&format!("{at}/status"), "merge-patch", &status)
        .await;
    assert_eq!(a.code, 200, "{}", message(&a));
    let got = a.json();
    assert_eq!(
        (&got["spec"]["size"], &got["status"]["replicas"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(got["metadata"]["generation"], w["metadata"]["generation"]);
    let a = f
        .patch(
            &format!("{at}/status"),
            "merge-patch",
            r#"{"status":{"replicas":"x"}}"#,
        )
        .await;
    assert!(
        message(&a).contains(
            r#"status.replicas: Invalid value: "string": replicas in body must be of type integer"#
        ),
        "{}",
        message(&a)
    );
    let a = f
        .patch(
            &format!("{at}/scale"),
            "merge-patch",
            r#"{"spec":{"replicas":3}}"#,
        )
        .await;
    assert_eq!(
        (a.code, a.json()["status"]["selector"].as_str()),
        (200, Some("a=b")),
        "{}",
        message(&a)
    );
    let got = f.get(&at).await.json();
    assert_eq!(
        (&got["spec"]["size"], &got["metadata"]["generation"]),
        (&json!(3), &json!(2))
    );
    let a = f
        .send(
            http::Method::GET,
            WIDGETS,
            &[("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")],
            vec![],
        )
        .await;
    let table = a.json();
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Name", "Size", "Made"]);
    assert_eq!(table["rows"][0]["cells"][1], 3);
}

#[tokio::test]
async fn a_definition_takes_its_objects_with_it() {
    let f = start();
    f.made(CRDS, widgets()).await;
    f.made(WIDGETS, widget("a", json!({"size": 1}))).await;
    let mut held = widget("b", json!({"size": 1}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    f.made(WIDGETS, held).await;
    let mut watch = f
        .watch(&format!(
            "{CRDS}?watch=true&resourceVersion=0&fieldSelector=metadata.name%3Dwidgets.example.com"
        ))
        .await;
    let a = f
        .delete(&format!("{CRDS}/widgets.example.com"), json!({}))
        .await;
    assert_eq!(a.code, 200);
    assert_eq!(condition(&a.json(), "Terminating"), "True");
    let a = f.post(WIDGETS, widget("c", json!({"size": 1}))).await;
    assert_eq!(a.code, 403, "{}", message(&a));
    assert!(
        message(&a).contains("create not allowed while custom resource definition is terminating")
    );
    let a = f
        .patch(
            &format!("{WIDGETS}/b"),
            "merge-patch",
            r#"{"metadata":{"finalizers":null}}"#,
        )
        .await;
    assert_eq!(a.code, 200, "{}", message(&a));
    loop {
        let e = watch.next().await.unwrap();
        if e["type"] == "DELETED" {
            break;
        }
    }
    // the definition is made again, and finds nothing of the old one
    eventually("the definition has gone", async || {
        f.get(&format!("{CRDS}/widgets.example.com")).await.code == 404
            && f.get(WIDGETS).await.code == 404
    })
    .await;
    f.made(CRDS, widgets()).await;
    assert_eq!(f.get(WIDGETS).await.json()["items"], json!([]));
}

#[tokio::test]
async fn what_was_acknowledged_is_served_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::for_tests(dir.path());
    let store = config.store.clone();
    let api = ApiServer::new(config).unwrap();
    let client = api.client("admin", &["system:masters"], "tester");
    let f = Fixture { api, client, dir };
    f.made(CRDS, widgets()).await;
    let w = f.made(WIDGETS, widget("a", json!({"size": 1}))).await;
    let Fixture { api, client, dir } = f;
    store.close().await;
    drop((api, client, store));

    let api = ApiServer::new(Config::for_tests(dir.path())).unwrap();
    let client = api.client("admin", &["system:masters"], "tester");
    let f = Fixture { api, client, dir };
    assert_eq!(f.get(&format!("{WIDGETS}/a")).await.json(), w);
}

#[tokio::test]
async fn openapi_follows_the_definitions() {
    let f = start();
    let before = f.get("/openapi/v2").await;
    f.made(CRDS, widgets()).await;
    let after = f.get("/openapi/v2").await;
    assert_ne!(before.headers["etag"], after.headers["etag"]);
    let v2 = after.json();
    let d = &v2["definitions"]["com.example.v1.Widget"];
    assert_eq!(
        d["x-kubernetes-group-version-kind"],
        json!([{"group": "example.com", "kind": "Widget", "version": "v1"}])
    );
    assert_eq!(
        d["properties"]["spec"]["properties"]["size"]["type"],
        "integer"
    );
    assert!(v2["definitions"].get("com.example.v1.WidgetList").is_some());
    assert!(
        v2["paths"]
            .get("/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/status")
            .is_some()
    );
    let index = f.get("/openapi/v3").await.json();
    let at = index["paths"]["apis/example.com/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_owned();
    let v3 = f.get(&at).await.json();
    assert_eq!(
        v3["components"]["schemas"]["com.example.v1.Widget"]["properties"]["spec"]["properties"]["color"]
            ["default"],
        "red"
    );

    let wider = json!([{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/more", "value": {"type": "string"}}]);
    let a = f
        .patch(
            &format!("{CRDS}/widgets.example.com"),
            "json-patch",
            &wider.to_string(),
        )
        .await;
    assert_eq!(a.code, 200, "{}", message(&a));
    let index = f.get("/openapi/v3").await.json();
    assert_ne!(
        index["paths"]["apis/example.com/v1"]["serverRelativeURL"],
        at.as_str()
    );
    let v2 = f.get("/openapi/v2").await.json();
    assert_eq!(
        v2["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["properties"]["more"]["type"],
        "string"
    );
}
