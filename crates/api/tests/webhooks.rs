//! Mutating and validating admission webhooks.

mod common;
mod webhook_server;

use common::{Answer, send};
use http::Method;
use knarr_api::ApiServer;
use kube::Client;
use serde_json::{Value, json};
use webhook_server::{patch, serve};

struct Server {
    client: Client,
    _dir: tempfile::TempDir,
}

fn start() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::for_tests(dir.path());
    Server {
        client: api.client("admin", &["system:masters"], "tester/1.0"),
        _dir: dir,
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

impl Server {
    async fn call(&self, method: Method, path: &str, body: Value) -> Answer {
        let headers = [("content-type", "application/json")];
        send(
            &self.client,
            method,
            path,
            &headers,
            body.to_string().into(),
        )
        .await
    }
    async fn made(&self, path: &str, body: Value) -> Value {
        let a = self.call(Method::POST, path, body).await;
        assert_eq!(a.code, 201, "{path}: {}", String::from_utf8_lossy(&a.bytes));
        a.json()
    }
    async fn message(&self, method: Method, path: &str, body: Value) -> String {
        let a = self.call(method, path, body).await;
        format!("{} {}", a.code, a.json()["message"].as_str().unwrap_or(""))
    }
    /// A configuration of one webhook for ConfigMaps.
    async fn hook(&self, kind: &str, name: &str, client: Value, more: Value) {
        let mut hook = json!({"name": format!("{name}.example.com"), "clientConfig": client,
            "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 30,
            "rules": [{"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
        for (k, v) in more.as_object().unwrap() {
            hook[k] = v.clone();
        }
        self.made(
            &format!("{GROUP}/{kind}webhookconfigurations"),
            json!({"metadata": {"name": name}, "webhooks": [hook]}),
        )
        .await;
    }
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn a_validating_webhook_refuses_in_upstreams_words() {
    let s = start();
    let w = serve(&["127.0.0.1"], |_, review| {
        let data = &review["request"]["object"]["data"];
        let status = match data["say"].as_str() {
            Some("message") => json!({"message": "not today", "code": 418, "reason": "Teapot"}),
            Some("reason") => json!({"reason": "Because"}),
            Some("nothing") => Value::Null,
            _ => return (200, json!({"allowed": true, "warnings": ["beware"], "auditAnnotations": {"k": "v"}})),
        };
        (200, json!({"allowed": false, "status": status}))
    })
    .await;
    s.hook("validating", "deny", w.url("/v"), json!({})).await;
    for (say, want) in [
        (
            "message",
            "418 admission webhook \"deny.example.com\" denied the request: not today",
        ),
        (
            "reason",
            "400 admission webhook \"deny.example.com\" denied the request: Because",
        ),
        (
            "nothing",
            "400 admission webhook \"deny.example.com\" denied the request without explanation",
        ),
    ] {
        assert_eq!(
            s.message(Method::POST, MAPS, map("a", json!({"say": say})))
                .await,
            want
        );
    }
    let a = s.call(Method::POST, MAPS, map("a", json!({}))).await;
    assert_eq!(
        (a.code, a.warnings()),
        (201, vec!["299 - \"beware\"".to_string()])
    );
    let request = w.last();
    assert_eq!(request["operation"], "CREATE");
    assert_eq!(
        request["kind"],
        json!({"group": "", "version": "v1", "kind": "ConfigMap"})
    );
    assert_eq!(
        request["resource"],
        json!({"group": "", "version": "v1", "resource": "configmaps"})
    );
    assert_eq!(
        (&request["name"], &request["namespace"]),
        (&json!("a"), &json!("default"))
    );
    assert_eq!(request["userInfo"]["username"], "admin");
    assert_eq!(request["oldObject"], Value::Null);
    assert_eq!(request["options"]["kind"], "CreateOptions");
    assert!(request["object"]["metadata"]["uid"].is_string());
    // an update shows both, a delete the old one
    let a = s
        .call(
            Method::PUT,
            &format!("{MAPS}/a"),
            map("a", json!({"x": "y"})),
        )
        .await;
    assert_eq!(a.code, 200);
    assert_eq!(w.last()["oldObject"]["metadata"]["name"], "a");
    assert_eq!(w.last()["object"]["data"]["x"], "y");
    assert_eq!(
        s.call(Method::DELETE, &format!("{MAPS}/a"), json!({}))
            .await
            .code,
        200
    );
    let request = w.last();
    assert_eq!(
        (&request["operation"], &request["object"]),
        (&json!("DELETE"), &Value::Null)
    );
    assert_eq!(request["oldObject"]["data"]["x"], "y");
    assert_eq!(request["options"]["kind"], "DeleteOptions");
}

#[tokio::test]
async fn mutating_webhooks_patch_in_order_and_are_asked_again() {
    let s = start();
    let w = serve(&["127.0.0.1"], |path, review| {
        let data = &review["request"]["object"]["data"];
        let step = |k: &str| json!([{"op": "add", "path": format!("/data/{k}"), "value": "yes"}]);
        let steps = match path {
            "/first" if data["second"] == "yes" => step("first-again"),
            "/first" => step("first"),
            "/second" => step("second"),
            _ => {
                return (
                    200,
                    patch(json!([{"op": "add", "path": "/nonsense/deep", "value": 1}])),
                );
            }
        };
        (200, patch(steps))
    })
    .await;
    s.hook(
        "mutating",
        "a-first",
        w.url("/first"),
        json!({"reinvocationPolicy": "IfNeeded"}),
    )
    .await;
    s.hook("mutating", "b-second", w.url("/second"), json!({}))
        .await;
    let made = s.made(MAPS, map("a", json!({"k": "v"}))).await;
    assert_eq!(
        made["data"],
        json!({"k": "v", "first": "yes", "second": "yes", "first-again": "yes"})
    );
    assert_eq!((w.count("/first"), w.count("/second")), (2, 1));
    // the stored object is what was answered
    assert_eq!(
        s.call(Method::GET, &format!("{MAPS}/a"), Value::Null)
            .await
            .json()["data"],
        made["data"]
    );
    s.hook("mutating", "c-bad", w.url("/bad"), json!({})).await;
    let message = s.message(Method::POST, MAPS, map("b", json!({}))).await;
    assert!(
        message.starts_with("500 Internal error occurred: "),
        "{message}"
    );
}

#[tokio::test]
async fn failures_follow_the_failure_policy() {
    let s = start();
    let w = serve(&["127.0.0.1"], |path, _| match path {
        "/slow" => (0, Value::Null),
        "/broken" => (500, Value::Null),
        _ => (200, Value::Null),
    })
    .await;
    let other = serve(&["127.0.0.1"], |_, _| (200, json!({"allowed": true}))).await;
    let mut strange = other.url("/ok");
    strange["caBundle"] = w.ca.clone().into();
    let gone = json!({"service": {"name": "gone", "namespace": "default", "path": "/x"}, "caBundle": w.ca});
    for (name, client, timeout, want) in [
        ("slow", w.url("/slow"), 1, format!("failed calling webhook \"slow.example.com\": failed to call webhook: Post \"https://127.0.0.1:{}/slow?timeout=1s\": context deadline exceeded", w.address.port())),
        ("broken", w.url("/broken"), 30, "failed calling webhook \"broken.example.com\": failed to call webhook: an error on the server (".into()),
        ("absent", w.url("/absent"), 30, "failed calling webhook \"absent.example.com\": received invalid webhook response: webhook response was absent".into()),
        ("strange", strange, 30, format!("failed calling webhook \"strange.example.com\": failed to call webhook: Post \"https://127.0.0.1:{}/ok?timeout=30s\": tls: failed to verify certificate: x509: certificate signed by unknown authority", other.address.port())),
        ("gone", gone, 30, "failed calling webhook \"gone.example.com\": failed to call webhook: Post \"https://gone.default.svc:443/x?timeout=30s\": service \"gone\" not found".into()),
    ] {
        s.hook("validating", name, client, json!({"timeoutSeconds": timeout})).await;
        let message = s.message(Method::POST, MAPS, map("a", json!({}))).await;
        let want = format!("500 Internal error occurred: {want}");
        assert!(message.starts_with(&want), "{name}: {message}");
        // nobody is kept from mending it
        let path = format!("{GROUP}/validatingwebhookconfigurations/{name}");
        let patched = send(&s.client, Method::PATCH, &path, &[("content-type", "application/strategic-merge-patch+json")],
            json!({"webhooks": [{"name": format!("{name}.example.com"), "failurePolicy": "Ignore"}]}).to_string().into()).await;
        assert_eq!(patched.code, 200, "{}", String::from_utf8_lossy(&patched.bytes));
        assert_eq!(s.call(Method::POST, MAPS, map(name, json!({}))).await.code, 201, "{name}");
        assert_eq!(s.call(Method::DELETE, &path, json!({})).await.code, 200);
    }
}

#[tokio::test]
async fn selectors_conditions_and_services() {
    let s = start();
    let w = serve(&["hook.default.svc"], |_, _| {
        (200, json!({"allowed": false, "status": {"message": "no"}}))
    })
    .await;
    s.made(
        "/api/v1/namespaces/default/services",
        json!({"metadata": {"name": "hook"}, "spec": {"type": "ExternalName", "externalName": "localhost"}}),
    )
    .await;
    let service = json!({"service": {"name": "hook", "namespace": "default", "port": w.address.port()}, "caBundle": w.ca});
    s.hook("validating", "picky", service, json!({
        "objectSelector": {"matchLabels": {"guard": "me"}},
        "namespaceSelector": {"matchExpressions": [{"key": "free", "operator": "DoesNotExist"}]},
        "matchConditions": [{"name": "not-admin", "expression": "!('free' in object.data)"}, {"name": "create", "expression": "request.operation == 'CREATE'"}],
        "sideEffects": "NoneOnDryRun",
    })).await;
    s.made(
        "/api/v1/namespaces",
        json!({"metadata": {"name": "free", "labels": {"free": "yes"}}}),
    )
    .await;
    let with = |name: &str, data: Value| {
        let mut m = map(name, data);
        m["metadata"]["labels"] = json!({"guard": "me"});
        m
    };
    s.made(MAPS, map("no-label", json!({"a": "b"}))).await;
    s.made(
        "/api/v1/namespaces/free/configmaps",
        with("free", json!({"a": "b"})),
    )
    .await;
    s.made(MAPS, with("condition", json!({"free": "b"}))).await;
    assert_eq!(w.count("/"), 0);
    let want = "400 admission webhook \"picky.example.com\" denied the request: no";
    assert_eq!(
        s.message(Method::POST, MAPS, with("all", json!({"a": "b"})))
            .await,
        want
    );
    assert_eq!(
        s.message(
            Method::POST,
            &format!("{MAPS}?dryRun=All"),
            with("all", json!({"a": "b"}))
        )
        .await,
        want
    );
    assert_eq!(w.last()["dryRun"], true);
    // a condition that fails is a refusal: no data at all
    let mut bare = with("bare", json!({}));
    bare.as_object_mut().unwrap().remove("data");
    let message = s.message(Method::POST, MAPS, bare).await;
    assert!(message.starts_with("403 configmaps \"bare\" is forbidden: expression '!('free' in object.data)' resulted in error: no such key: data"), "{message}");
}

#[tokio::test]
async fn configurations_are_checked() {
    let s = start();
    let path = format!("{GROUP}/validatingwebhookconfigurations");
    let bad = json!({"metadata": {"name": "bad"}, "webhooks": [{"name": "short", "clientConfig": {"url": "http://a@b?c"}, "sideEffects": "Some",
        "admissionReviewVersions": ["v2"], "timeoutSeconds": 31, "matchConditions": [{"name": "x", "expression": "object.x +"}],
        "rules": [{"operations": ["GET"], "apiGroups": ["*", "a"], "apiVersions": [], "resources": ["a/*", "a/b"]}]}]});
    let a = s.call(Method::POST, &path, bad).await;
    assert_eq!(a.code, 422);
    let causes: Vec<String> = a.json()["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            format!(
                "{}: {}",
                c["field"].as_str().unwrap(),
                c["message"].as_str().unwrap()
            )
        })
        .collect();
    for want in [
        "webhooks[0].name: Invalid value: \"short\": should be a domain with at least three segments separated by dots",
        "webhooks[0].rules[0].operations[0]: Unsupported value: \"GET\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
        "webhooks[0].rules[0].apiVersions: Required value",
        "webhooks[0].rules[0].resources[1]: Invalid value: \"a/b\": if 'a/*' is present, must not specify a/b",
        "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
        "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
        "webhooks[0].clientConfig.url: Invalid value: \"a\": user information is not permitted in the URL",
        "webhooks[0].clientConfig.url: Invalid value: \"c\": query parameters are not permitted in the URL",
        "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
    ] {
        assert!(causes.iter().any(|c| c == want), "{want}\nin {causes:#?}");
    }
    assert!(causes.iter().any(|c| c.starts_with("webhooks[0].matchConditions[0].expression: Invalid value: \"object.x +\": compilation failed: ERROR: <input>:1:11: Syntax error")), "{causes:#?}");
    // what isn't given is filled in
    let good = s.made(&path, json!({"metadata": {"name": "good"}, "webhooks": [{"name": "a.b.c", "clientConfig": {"service": {"name": "s", "namespace": "n"}}, "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "rules": [{"operations": ["*"], "apiGroups": ["example.com"], "apiVersions": ["*"], "resources": ["*"]}]}]})).await;
    let hook = &good["webhooks"][0];
    assert_eq!(hook["failurePolicy"], "Fail");
    assert_eq!(hook["matchPolicy"], "Equivalent");
    assert_eq!(hook["timeoutSeconds"], 10);
    assert_eq!(hook["rules"][0]["scope"], "*");
    assert_eq!(hook["clientConfig"]["service"]["port"], 443);
    assert_eq!(
        (&hook["namespaceSelector"], &hook["objectSelector"]),
        (&json!({}), &json!({}))
    );
    assert_eq!(good["metadata"]["generation"], 1);
}
