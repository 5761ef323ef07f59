//! What travels: encodings of answers, failures and watches, and the words of refusals. The expectations are what
//! upstream's API server v1.36 answers to the same requests.

mod common;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::*;
use http::Method;
use serde_json::{Value, json};

const PROTO: &str = "application/vnd.kubernetes.protobuf";
const YAML: &str = "application/yaml";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

async fn with_configmaps() -> Fixture {
    let f = start();
    for i in 0..5 {
        let mut cm = configmap(&format!("c{i}"), json!({"k": i.to_string()}));
        cm["metadata"]["labels"] = json!({"n": i.to_string()});
        f.made(CONFIGMAPS, cm).await;
    }
    f
}

#[tokio::test]
async fn answers_come_in_the_encoding_asked_for() {
    let f = with_configmaps().await;
    let one = format!("{CONFIGMAPS}/c0");
    let none = format!("{CONFIGMAPS}/none");
    let meta = format!("{PROTO};as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let metas = format!("{PROTO};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    for (accept, path, code, content_type, starts) in [
        (
            "",
            &*one,
            200,
            "application/json",
            "{\"kind\":\"ConfigMap\"",
        ),
        (
            YAML,
            &one,
            200,
            YAML,
            "apiVersion: v1\ndata:\n  k: \"0\"\nkind: ConfigMap\n",
        ),
        (
            PROTO,
            &one,
            200,
            PROTO,
            "k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12",
        ),
        (
            PROTO,
            "/api",
            200,
            PROTO,
            "k8s\0\n\x0f\n\0\x12\x0bAPIVersions\x12",
        ),
        (
            PROTO,
            CONFIGMAPS,
            200,
            PROTO,
            "k8s\0\n\x13\n\x02v1\x12\rConfigMapList\x12",
        ),
        (
            PROTO,
            &none,
            404,
            PROTO,
            "k8s\0\n\x0c\n\x02v1\x12\x06Status\x12",
        ),
        (
            YAML,
            &none,
            404,
            YAML,
            "apiVersion: v1\ncode: 404\ndetails:\n  kind: configmaps\n  name: none\nkind: Status\n",
        ),
        (
            &meta,
            &one,
            200,
            PROTO,
            "k8s\0\n'\n\x0emeta.k8s.io/v1\x12\x15PartialObjectMetadata\x12",
        ),
        (
            &metas,
            CONFIGMAPS,
            200,
            PROTO,
            "k8s\0\n+\n\x0emeta.k8s.io/v1\x12\x19PartialObjectMetadataList\x12",
        ),
        (
            "application/json;pretty=1",
            &one,
            200,
            "application/json",
            "{\n  \"kind\": \"ConfigMap\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {\n    \"name\": \"c0\",\n",
        ),
        (
            "application/json;q=0.5,application/yaml",
            &one,
            200,
            YAML,
            "apiVersion",
        ),
        (
            PROTO,
            "/apis",
            200,
            PROTO,
            "k8s\0\n\x12\n\x02v1\x12\x0cAPIGroupList\x12",
        ),
        (
            YAML,
            "/api/v1",
            200,
            YAML,
            "groupVersion: v1\nkind: APIResourceList\n",
        ),
        (
            YAML,
            "/apis/authorization.k8s.io/v1",
            200,
            YAML,
            "apiVersion: v1\ngroupVersion: ",
        ),
        ("application/cbor", &one, 406, "application/json", "{\n  \""),
        (
            "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            CONFIGMAPS,
            406,
            "application/json",
            "{\n  \"",
        ),
        (TABLE, "/apis", 406, "application/json", "{\n  \""),
    ] {
        let headers: &[(&str, &str)] = &[("accept", accept)];
        let headers = if accept.is_empty() { &[] } else { headers };
        let a = f.send(Method::GET, path, headers, vec![]).await;
        assert_eq!(a.code, code, "{accept} of {path}");
        assert_eq!(
            a.headers["content-type"], content_type,
            "{accept} of {path}"
        );
        assert_eq!(
            a.headers["cache-control"], "no-cache, private",
            "{accept} of {path}"
        );
        assert!(
            a.bytes.starts_with(starts.as_bytes()),
            "{accept} of {path}: {:?}",
            String::from_utf8_lossy(&a.bytes)
        );
    }
}

#[tokio::test]
async fn protobuf_goes_both_ways() {
    let f = with_configmaps().await;
    let headers = [("accept", PROTO), ("content-type", PROTO)];
    let send = async |method: Method, path: &str, body: Value| {
        let body = match body.get("kind").and_then(Value::as_str) {
            Some(kind) => knarr_schema::encode_protobuf("v1", kind, body.to_string().as_bytes()),
            None => Ok(vec![]),
        };
        let a = f.send(method, path, &headers, body.unwrap()).await;
        (a.code, knarr_schema::decode_protobuf(&a.bytes).unwrap())
    };
    let (code, (_, kind, made)) =
        send(Method::POST, CONFIGMAPS, configmap("p", json!({"a": "b"}))).await;
    assert_eq!(
        (code, &*kind, &made["data"]),
        (201, "ConfigMap", &json!({"a": "b"}))
    );
    let mut changed = made.clone();
    changed["data"]["c"] = "é".into();
    let (code, (.., updated)) = send(Method::PUT, &format!("{CONFIGMAPS}/p"), changed).await;
    assert_eq!((code, &updated["data"]["c"]), (200, &json!("é")));
    assert_eq!(f.get(&format!("{CONFIGMAPS}/p")).await.json(), updated);
    let (code, (_, kind, list)) =
        send(Method::GET, &format!("{CONFIGMAPS}?limit=2"), Value::Null).await;
    assert_eq!((code, &*kind), (200, "ConfigMapList"));
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert_eq!(list["metadata"]["remainingItemCount"], 4);
    let options =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}});
    let (code, (_, kind, status)) = send(Method::DELETE, &format!("{CONFIGMAPS}/p"), options).await;
    assert_eq!(
        (code, &*kind, &status["reason"]),
        (409, "Status", &json!("Conflict"))
    );
}

#[tokio::test]
async fn watches_are_framed_in_protobuf() {
    let f = with_configmaps().await;
    for (accept, kind) in [
        (PROTO.to_string(), "ConfigMap"),
        (
            format!("{PROTO};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"),
            "PartialObjectMetadata",
        ),
    ] {
        let path = format!(
            "{CONFIGMAPS}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Dc3&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        );
        let a = f
            .send(Method::GET, &path, &[("accept", &accept)], vec![])
            .await;
        assert_eq!(
            a.headers["content-type"],
            "application/vnd.kubernetes.protobuf;stream=watch"
        );
        let mut rest = &a.bytes[..];
        let mut events = Vec::new();
        while let Some((head, tail)) = rest.split_first_chunk::<4>() {
            let (frame, tail) = tail.split_at(u32::from_be_bytes(*head) as usize);
            rest = tail;
            let name = frame[2..].split(|b| *b == 0x12).next().unwrap();
            events.push(String::from_utf8(name.to_vec()).unwrap());
            let object = frame.windows(4).position(|w| w == b"k8s\0").unwrap();
            let text = String::from_utf8_lossy(&frame[object..]);
            assert!(text.contains(kind), "{text:?}");
        }
        assert_eq!(events, ["ADDED", "BOOKMARK"], "{accept}");
    }
    let a = f
        .send(
            Method::GET,
            &format!("{CONFIGMAPS}?watch=1&timeoutSeconds=1"),
            &[("accept", YAML)],
            vec![],
        )
        .await;
    assert_eq!(a.code, 406);
}

#[tokio::test]
async fn refusals_of_lists_and_watches_have_upstreams_words() {
    let f = with_configmaps().await;
    let token = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let old = token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"c1\u0000"}"#);
    for (query, code, message) in [
        (
            "limit=x",
            400,
            "strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
        (
            "timeoutSeconds=x",
            400,
            "strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
        (
            "resourceVersion=x",
            400,
            "invalid resource version: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        (
            "watch=1&resourceVersion=x",
            500,
            "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        (
            "resourceVersionMatch=Exact",
            422,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            422,
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            "resourceVersionMatch=No&resourceVersion=1",
            422,
            "Unsupported value: \"No\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            "resourceVersion=1&limit=2",
            410,
            "The resourceVersion for the provided list is too old.",
        ),
        (
            "sendInitialEvents=true",
            422,
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
        ),
        (
            "continue=x",
            400,
            "invalid continue token: continue key is not valid: illegal base64 data at input byte 0",
        ),
        (
            "continue=x&resourceVersion=5",
            400,
            "invalid continue token: continue key is not valid: illegal base64 data at input byte 0",
        ),
        (
            &format!("continue={old}"),
            410,
            "The provided continue parameter is too old to display a consistent list result.",
        ),
        (
            "watch=1&sendInitialEvents=true",
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1",
            422,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (
            "watch=1&sendInitialEvents=true&resourceVersionMatch=Exact",
            422,
            "Unsupported value: \"Exact\": supported values: \"NotOlderThan\"",
        ),
        (
            "labelSelector=-bad%3D1",
            400,
            "unable to parse requirement: <nil>: Invalid value: \"-bad\": name part must consist of",
        ),
        ("labelSelector=a+in+()", 200, ""),
        ("resourceVersion=0&limit=2", 200, ""),
    ] {
        let a = f.get(&format!("{CONFIGMAPS}?{query}")).await;
        let got = a.json();
        assert_eq!(a.code, code, "{query}: {got}");
        if !message.is_empty() {
            let said = got["message"].as_str().unwrap();
            assert!(said.contains(message), "{query}: {said}");
            assert_eq!(got["code"], code, "{query}");
        }
    }
    let table = [("accept", TABLE)];
    let a = f
        .send(
            Method::GET,
            &format!("{CONFIGMAPS}?includeObject=No"),
            &table,
            vec![],
        )
        .await;
    assert_eq!(
        a.json()["message"],
        "Unable to convert to Table as requested: includeObject: Invalid value: \"No\": must be 'Metadata', 'Object', 'None', or empty"
    );
}

#[tokio::test]
async fn an_expired_continuation_goes_on_inconsistently() {
    let f = with_configmaps().await;
    let old = URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"c1\u0000"}"#);
    let a = f.get(&format!("{CONFIGMAPS}?limit=2&continue={old}")).await;
    assert_eq!((a.code, &a.json()["reason"]), (410, &json!("Expired")));
    let next = a.json()["metadata"]["continue"]
        .as_str()
        .unwrap()
        .to_string();
    let list = f
        .get(&format!("{CONFIGMAPS}?limit=2&continue={next}"))
        .await
        .json();
    let names: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["metadata"]["name"].clone())
        .collect();
    assert_eq!(names, ["c2", "c3"]);
    let next = list["metadata"]["continue"].as_str().unwrap();
    let list = f.get(&format!("{CONFIGMAPS}?continue={next}")).await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(list["items"][0]["metadata"]["name"], "c4");
}

#[tokio::test]
async fn a_time_limit_of_the_clients_own() {
    let f = start();
    for path in ["/version", "/healthz", CONFIGMAPS] {
        let a = f.get(&format!("{path}?timeout=soon")).await;
        let said = "invalid timeout specified in the request URL - time: invalid duration \"soon\"";
        assert_eq!((a.code, a.json()["message"].as_str()), (400, Some(said)));
        for fine in ["0s", "3m", "-1s"] {
            assert_eq!(f.get(&format!("{path}?timeout={fine}")).await.code, 200);
        }
    }
    // that it ends what takes longer is tested where a request can be made to (`deadline`); watches it doesn't end
    let watch = format!("{CONFIGMAPS}?watch=true&timeoutSeconds=1&timeout=1ns");
    assert_eq!(f.get(&watch).await.code, 200);
}

#[tokio::test]
async fn health_checks_by_name() {
    let f = start();
    let ok = (200, "ok");
    for (path, want) in [
        ("/healthz", ok),
        ("/healthz/etcd", ok),
        ("/livez/ping", ok),
        ("/readyz/etcd-readiness", ok),
        ("/readyz?exclude=etcd", ok),
        ("/livez/none", (404, "404 page not found\n")),
        ("/livez/", (404, "404 page not found\n")),
        ("/none", (404, "404 page not found\n")),
    ] {
        let a = f.get(path).await;
        assert_eq!(
            (a.code, &*String::from_utf8(a.bytes).unwrap()),
            want,
            "{path}"
        );
    }
    let livez = async |query: &str| {
        let a = f.get(&format!("/livez?verbose{query}")).await;
        (a.code, String::from_utf8(a.bytes).unwrap())
    };
    let (code, all) = livez("").await;
    assert_eq!(code, 200);
    assert!(
        all.starts_with("[+]ping ok\n[+]log ok\n[+]loopback-serving-certificate ok\n[+]etcd ok\n[+]poststarthook/"),
        "{all}"
    );
    assert!(all.ends_with(" ok\nlivez check passed\n"), "{all}");
    // as clients exclude checks, and what is said to names that there aren't
    let (_, some) = livez("&exclude=etcd&exclude=x").await;
    let want = all.replace("[+]etcd ok", "[+]etcd excluded: ok").replace(
        "livez check",
        "warn: some health checks cannot be excluded: no matches for \"x\"\nlivez check",
    );
    assert_eq!(some, want);
    for path in ["/version", "/api/v1"] {
        assert_eq!(
            f.send(Method::HEAD, path, &[], vec![]).await.code,
            405,
            "{path}"
        );
    }
}

#[tokio::test]
async fn applying_a_scale() {
    let f = start();
    let path = format!("{DEPLOYMENTS}/d/scale?fieldManager=s");
    let applied = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let made = f
        .patch(
            &format!("{DEPLOYMENTS}/d?fieldManager=a"),
            "apply",
            &applied.to_string(),
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.json());
    let scale = |n: i64| {
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": n}})
            .to_string()
    };
    // nobody set the replicas: they count as set before
    let a = f.patch(&path, "apply", &scale(3)).await;
    assert_eq!(a.code, 409);
    assert_eq!(
        a.json()["message"],
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" with subresource \"scale\" using autoscaling/v1: .spec.replicas"
    );
    let a = f
        .patch(&format!("{path}&force=true"), "apply", &scale(3))
        .await;
    assert_eq!((a.code, &a.json()["spec"]), (200, &json!({"replicas": 3})));
    let live = f.get(&format!("{DEPLOYMENTS}/d")).await.json();
    let entry = live["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["manager"] == "s")
        .unwrap();
    assert_eq!(
        entry,
        &json!({"manager": "s", "operation": "Apply", "apiVersion": "apps/v1", "subresource": "scale",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}})
    );
    let a = f
        .patch(
            &format!("{DEPLOYMENTS}/d/scale?fieldManager=t"),
            "apply",
            &scale(4),
        )
        .await;
    assert_eq!(
        a.json()["details"]["causes"][0]["message"],
        "conflict with \"s\" with subresource \"scale\""
    );
}
