//! CustomResourceDefinitions and what they define, over the API.

mod common;

use common::{Answer, Fixture};
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
async fn what_does_not_fit_is_told_in_upstreams_words() {
    let f = start();
    f.made(CRDS, widgets()).await;
    for (name, spec, want) in [
        (
            "type",
            json!({"size": "x"}),
            r#"spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#,
        ),
        ("required", json!({}), "spec.size: Required value"),
        (
            "enum",
            json!({"size": 1, "color": "blue"}),
            r#"spec.color: Unsupported value: "blue": supported values: "red", "green""#,
        ),
        (
            "maximum",
            json!({"size": 11}),
            "spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10",
        ),
        (
            "format",
            json!({"size": 1, "when": "x"}),
            r#"spec.when: Invalid value: "x": spec.when in body must be of type date-time: "x""#,
        ),
        (
            "set",
            json!({"size": 1, "tags": ["a", "a"]}),
            r#"spec.tags[1]: Duplicate value: "a""#,
        ),
        (
            "map",
            json!({"size": 1, "parts": [{"name": "a"}, {"name": "a"}]}),
            r#"spec.parts[1]: Duplicate value: {"name":"a"}"#,
        ),
        (
            "port",
            json!({"size": 1, "port": true}),
            r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#,
        ),
    ] {
        let a = f.post(WIDGETS, widget("a", spec)).await;
        assert_eq!(a.code, 422, "{name}: {}", message(&a));
        assert!(message(&a).contains(want), "{name}: {}", message(&a));
    }
    let strict = format!("{WIDGETS}?fieldValidation=Strict");
    let mut odd = widget("a", json!({"size": 1, "odd": 1, "free": {"any": 1}}));
    odd["metadata"]["strange"] = 1.into();
    let a = f.post(&strict, odd).await;
    assert_eq!(a.code, 400);
    assert!(
        message(&a).contains(r#"unknown field "metadata.strange", unknown field "spec.odd""#),
        "{}",
        message(&a)
    );
    let twice = br#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"size":1,"size":2}}"#;
    let a = f
        .send(
            http::Method::POST,
            &strict,
            &[("content-type", "application/json")],
            twice.to_vec(),
        )
        .await;
    assert!(
        message(&a).contains(r#"duplicate field "spec.size""#),
        "{}",
        message(&a)
    );
    let mut put = widget("a", json!({"size": 1}));
    let a = f.put(&format!("{WIDGETS}/a"), put.clone()).await;
    assert_eq!(a.code, 404, "{}", message(&a));
    f.made(WIDGETS, put.clone()).await;
    let a = f.put(&format!("{WIDGETS}/a"), put.take()).await;
    assert!(
        message(&a).contains("metadata.resourceVersion: Invalid value"),
        "{}",
        message(&a)
    );
    let a = f
        .patch(&format!("{WIDGETS}/a"), "strategic-merge-patch", "{}")
        .await;
    assert_eq!(a.code, 415, "{}", message(&a));
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
async fn versions_convert_and_come_and_go() {
    let f = start();
    let mut crd = widgets();
    let mut old = crd["spec"]["versions"][0].clone();
    old["name"] = "v1beta1".into();
    old["storage"] = false.into();
    old["deprecated"] = true.into();
    old["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["color"]["default"] =
        "green".into();
    crd["spec"]["versions"].as_array_mut().unwrap().push(old);
    f.made(CRDS, crd.clone()).await;
    f.made(WIDGETS, widget("a", json!({"size": 1}))).await;
    let beta = "/apis/example.com/v1beta1/namespaces/default/widgets";
    let a = f.get(&format!("{beta}/a")).await;
    assert_eq!(a.json()["apiVersion"], "example.com/v1beta1");
    let warning = a.headers.get("warning").unwrap().to_str().unwrap();
    assert!(
        warning.contains("example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget"),
        "{warning}"
    );
    let mut b = widget("b", json!({"size": 1}));
    b["apiVersion"] = "example.com/v1beta1".into();
    let b = f.made(beta, b).await;
    assert_eq!(
        (b["spec"]["color"].as_str(), b["apiVersion"].as_str()),
        (Some("green"), Some("example.com/v1beta1"))
    );
    assert_eq!(
        f.get(&format!("{WIDGETS}/b")).await.json()["apiVersion"],
        "example.com/v1"
    );

    let mut watch = f.watch(&format!("{beta}?watch=true")).await;
    assert_eq!(
        watch.next().await.unwrap()["object"]["apiVersion"],
        "example.com/v1beta1"
    );
    let off =
        json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}]).to_string();
    let a = f
        .patch(&format!("{CRDS}/widgets.example.com"), "json-patch", &off)
        .await;
    assert_eq!(a.code, 200, "{}", message(&a));
    assert_eq!(f.get(&format!("{beta}/a")).await.code, 404);
    while watch.next().await.is_some() {}
    let gone = json!([{"op": "remove", "path": "/spec/versions/0"}]).to_string();
    let a = f
        .patch(&format!("{CRDS}/widgets.example.com"), "json-patch", &gone)
        .await;
    assert!(
        message(&a).contains("was previously a storage version"),
        "{}",
        message(&a)
    );
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
    for _ in 0..1000 {
        if f.get(WIDGETS).await.code == 404 {
            break;
        }
        tokio::task::yield_now().await;
    }
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

/// A conversion webhook on loopback: `spec.size` in v1 is `spec.width` in v2. Returns its URL and CA.
async fn converter() -> (String, String) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use http_body_util::{BodyExt, Full};
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let ca = STANDARD.encode(cert.pem());
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let tls = rustls::ServerConfig::builder_with_provider(std::sync::Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![cert.der().clone()], key)
    .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/convert", listener.local_addr().unwrap());
    let answer = |request: http::Request<hyper::body::Incoming>| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let review: Value = serde_json::from_slice(&body).unwrap();
        let wanted = &review["request"]["desiredAPIVersion"];
        let mut objects = review["request"]["objects"].clone();
        for o in objects.as_array_mut().unwrap() {
            let (from, to) = if wanted == "example.com/v2" {
                ("size", "width")
            } else {
                ("width", "size")
            };
            let spec = o["spec"].as_object_mut().unwrap();
            if let Some(v) = spec.remove(from) {
                spec.insert(to.into(), v);
            }
            o["apiVersion"] = wanted.clone();
        }
        let answer = json!({"kind": "ConversionReview", "apiVersion": review["apiVersion"], "response": {
            "uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": objects}});
        Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(bytes::Bytes::from(
            answer.to_string(),
        ))))
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let service = hyper::service::service_fn(answer);
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(io, service)
                        .await;
                }
            });
        }
    });
    (url, ca)
}

#[tokio::test]
async fn webhooks_convert() {
    let f = start();
    let (url, ca) = converter().await;
    let mut crd = widgets();
    let mut new = crd["spec"]["versions"][0].clone();
    new["name"] = "v2".into();
    new["storage"] = false.into();
    let text = new
        .to_string()
        .replace("\"size\"", "\"width\"")
        .replace(".spec.size", ".spec.width");
    crd["spec"]["versions"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::from_str(&text).unwrap());
    crd["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": url, "caBundle": ca}}});
    f.made(CRDS, crd).await;
    let v2 = "/apis/example.com/v2/namespaces/default/widgets";
    f.made(WIDGETS, widget("a", json!({"size": 1}))).await;
    let a = f.get(&format!("{v2}/a")).await;
    assert_eq!(
        (a.code, &a.json()["spec"]["width"]),
        (200, &json!(1)),
        "{}",
        message(&a)
    );
    let mut b = widget("b", json!({"width": 2}));
    b["apiVersion"] = "example.com/v2".into();
    let b = f.made(v2, b).await;
    assert_eq!(
        (&b["spec"]["width"], &b["apiVersion"]),
        (&json!(2), &json!("example.com/v2"))
    );
    assert_eq!(
        f.get(&format!("{WIDGETS}/b")).await.json()["spec"]["size"],
        2
    );
    let list = f.get(v2).await.json();
    let widths: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| &o["spec"]["width"])
        .collect();
    assert_eq!(widths, [&json!(1), &json!(2)]);
    let mut watch = f.watch(&format!("{v2}?watch=true")).await;
    for want in [1, 2] {
        assert_eq!(watch.next().await.unwrap()["object"]["spec"]["width"], want);
    }
    let a = f
        .patch(&format!("{v2}/a"), "merge-patch", r#"{"spec":{"width":3}}"#)
        .await;
    assert_eq!(
        (a.code, &a.json()["spec"]["width"]),
        (200, &json!(3)),
        "{}",
        message(&a)
    );
    assert_eq!(watch.next().await.unwrap()["object"]["spec"]["width"], 3);
    assert_eq!(
        f.get(&format!("{WIDGETS}/a")).await.json()["spec"]["size"],
        3
    );
    let a = f.delete(&format!("{v2}/a"), json!({})).await;
    assert_eq!(a.code, 200, "{}", message(&a));
    assert_eq!(watch.next().await.unwrap()["type"], "DELETED");

    let off = json!([{"op": "replace", "path": "/spec/conversion/webhook/clientConfig/url", "value": "https://127.0.0.1:1/"}]);
    let a = f
        .patch(
            &format!("{CRDS}/widgets.example.com"),
            "json-patch",
            &off.to_string(),
        )
        .await;
    assert_eq!(a.code, 200, "{}", message(&a));
    let a = f.get(&format!("{v2}/b")).await;
    assert_eq!(a.code, 500);
    assert!(
        message(&a).contains("conversion webhook for example.com/v1, Kind=Widget failed"),
        "{}",
        message(&a)
    );
    assert_eq!(
        f.get(&format!("{WIDGETS}/b")).await.code,
        200,
        "the stored version needs no webhook"
    );
}

#[tokio::test]
async fn rules_hold() {
    let f = start();
    let mut crd = widgets();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    *crd.pointer_mut(spec).unwrap() = json!({"type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "messageExpression": "self.min > 9 ? 'min is far above max' : 'min is above max'", "fieldPath": ".min"},
            {"rule": "self.min < 100", "message": "min is too large", "reason": "FieldValueForbidden"},
            {"rule": "self.max >= oldSelf.max", "message": "max may not shrink"}],
        "required": ["min", "max"],
        "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "other": {"type": "string"},
            "name": {"type": "string", "maxLength": 20, "x-kubernetes-validations": [{"rule": "self.startsWith('x')"}]},
            "parts": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "maxLength": 9},
                    "n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "n may not shrink"}]}}}}}});
    crd["spec"]["versions"][0]["selectableFields"] = Value::Null;
    crd["spec"]["versions"][0]["additionalPrinterColumns"] = Value::Null;
    crd["spec"]["versions"][0]["subresources"] = Value::Null;
    // a rule that doesn't compile is refused in cel-go's words
    let mut bad = crd.clone();
    *bad.pointer_mut(&format!("{spec}/x-kubernetes-validations/0/rule"))
        .unwrap() = "self.mim > 1".into();
    let a = f.post(CRDS, bad).await;
    assert_eq!(a.code, 422, "{}", message(&a));
    assert!(message(&a).contains("spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value:"), "{}", message(&a));
    assert!(
        message(&a).contains("compilation failed: ERROR: <input>:1:5: undefined field 'mim'"),
        "{}",
        message(&a)
    );
    // and so is a default that its own rule refuses
    let mut bad = crd.clone();
    bad.pointer_mut(&format!("{spec}/properties/name")).unwrap()["default"] = "y".into();
    let a = f.post(CRDS, bad).await;
    assert!(
        message(&a).contains(
            "properties[name].default: Invalid value: \"y\": failed rule: self.startsWith('x')"
        ),
        "{}",
        message(&a)
    );
    f.made(CRDS, crd.clone()).await;

    let good = json!({"min": 1, "max": 2, "parts": [{"name": "a", "n": 3}]});
    f.made(WIDGETS, widget("a", good.clone())).await;
    for (name, spec, want) in [
        (
            "messageExpression and fieldPath",
            json!({"min": 3, "max": 2}),
            "spec.min: Invalid value: min is above max",
        ),
        (
            "reason",
            json!({"min": 100, "max": 200}),
            "spec: Forbidden: min is too large",
        ),
        (
            "no message",
            json!({"min": 1, "max": 2, "name": "a"}),
            r#"spec.name: Invalid value: "a": failed rule: self.startsWith('x')"#,
        ),
        (
            "not asked of what is wrong already",
            json!({"min": 1}),
            "some validation rules were not checked because the object was invalid",
        ),
    ] {
        let a = f.post(WIDGETS, widget("b", spec)).await;
        assert_eq!(a.code, 422, "{name}");
        assert!(message(&a).contains(want), "{name}: {}", message(&a));
    }
    for (name, patch, want) in [
        (
            "transition",
            json!({"spec": {"max": 1}}),
            "spec: Invalid value: max may not shrink",
        ),
        (
            "transition in a list",
            json!({"spec": {"parts": [{"name": "z"}, {"name": "a", "n": 2}]}}),
            "spec.parts[1].n: Invalid value: 2: n may not shrink",
        ),
    ] {
        let a = f
            .patch(&format!("{WIDGETS}/a"), "merge-patch", &patch.to_string())
            .await;
        assert_eq!(a.code, 422, "{name}");
        assert!(message(&a).contains(want), "{name}: {}", message(&a));
    }
    // what a stricter definition makes wrong may stay until it is touched
    *crd.pointer_mut(&format!("{spec}/x-kubernetes-validations"))
        .unwrap() = json!([]);
    *crd.pointer_mut(&format!("{spec}/properties/min")).unwrap() =
        json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self > 5"}]});
    let apply = crd.to_string();
    let a = f
        .patch(
            &format!("{CRDS}/widgets.example.com?fieldManager=t&force=true"),
            "apply",
            &apply,
        )
        .await;
    assert_eq!(a.code, 200, "{}", message(&a));
    let a = f
        .patch(
            &format!("{WIDGETS}/a"),
            "merge-patch",
            r#"{"spec":{"other":"x"}}"#,
        )
        .await;
    assert_eq!(a.code, 200, "{}", message(&a));
    let a = f
        .patch(
            &format!("{WIDGETS}/a"),
            "merge-patch",
            r#"{"spec":{"min":2}}"#,
        )
        .await;
    assert!(
        message(&a).contains("spec.min: Invalid value: 2: failed rule: self > 5"),
        "{}",
        message(&a)
    );
}
