//! Bad input: every answer is a `Status` (or the plain text of a path outside of the API) with upstream's code and reason,
//! and nothing panics or hangs. `data/refusals.json` holds requests and what upstream's API server v1.36 answers to them.

mod common;

use base64::Engine as _;
use common::*;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Time for one answer: none of them has anything to wait for.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
struct Case {
    name: String,
    method: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    /// the body, when it isn't text
    #[serde(default)]
    base64: String,
    code: u16,
    #[serde(default)]
    reason: String,
    /// only where it is told word for word
    #[serde(default)]
    message: String,
}

async fn seeded() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let api = knarr_api::ApiServer::for_tests(dir.path());
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    let f = Fixture { api, client, dir };
    let mut cm = configmap("seed", json!({"k": "v"}));
    cm["metadata"]["labels"] = json!({"a": "b"});
    f.made(CONFIGMAPS, cm).await;
    f.made(DEPLOYMENTS, deployment("seed", 1)).await;
    f
}

async fn answer(f: &Fixture, c: &Case) -> Answer {
    let mut headers: Vec<(&str, &str)> = Vec::new();
    headers.extend(c.headers.iter().map(|(k, v)| (&**k, &**v)));
    let body = match &*c.base64 {
        "" => c.body.clone().into_bytes(),
        text => base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap(),
    };
    let method = Method::from_bytes(c.method.as_bytes()).unwrap();
    tokio::time::timeout(PATIENCE, f.send(method, &c.path, &headers, body))
        .await
        .unwrap_or_else(|_| panic!("{}: no answer", c.name))
}

/// JSON of an answer, whatever it was asked for in; None for plain text.
fn status(a: &Answer) -> Option<Value> {
    if let Ok((.., value)) = knarr_schema::decode_protobuf(&a.bytes) {
        return Some(value);
    }
    serde_json::from_slice(&a.bytes).ok()
}

#[tokio::test]
async fn bad_input_is_refused_as_upstream_refuses_it() {
    let f = seeded().await;
    let cases: Vec<Case> = serde_json::from_str(include_str!("data/refusals.json")).unwrap();
    assert!(cases.len() > 500);
    let mut wrong = Vec::new();
    for c in &cases {
        let a = answer(&f, c).await;
        let got = status(&a);
        let text = |k: &str| {
            let value = got.as_ref().and_then(|s| s.get(k)).and_then(Value::as_str);
            value.unwrap_or("").to_string()
        };
        let told = c.message.is_empty() || text("message") == c.message;
        // what isn't of the API machinery answers with text, and HEAD with nothing
        let shaped = got
            .as_ref()
            .is_none_or(|s| s["kind"] == "Status" && s["code"] == c.code);
        if a.code != c.code || text("reason") != c.reason || !told || !shaped {
            wrong.push(format!(
                "{}: {} {} {:?}: wanted {} {} {:?}, got {} {} {:?}",
                c.name,
                c.method,
                c.path,
                c.body,
                c.code,
                c.reason,
                c.message,
                a.code,
                text("reason"),
                text("message")
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

#[tokio::test]
async fn sizes_and_depths_are_bounded() {
    let f = seeded().await;
    let nested =
        |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    let long = |n: usize| "x".repeat(n);
    let operations = |n: usize| {
        let one = r#"{"op":"test","path":"/kind","value":"ConfigMap"}"#;
        format!("[{}]", vec![one; n].join(","))
    };
    let seed = format!("{CONFIGMAPS}/seed");
    let deep = "application/json";
    let named = |what: &str| format!(r#"{{"metadata":{{"name":"x",{what}}}}}"#);
    for (name, method, path, content_type, body, codes) in [
        (
            "body over 3 MiB",
            Method::POST,
            CONFIGMAPS,
            deep,
            format!(r#"{{"data":{{"a":"{}"}}}}"#, long(3 << 20)),
            &[413][..],
        ),
        (
            "patch over 3 MiB",
            Method::PATCH,
            &seed,
            "application/merge-patch+json",
            format!(r#"{{"data":{{"a":"{}"}}}}"#, long(3 << 20)),
            &[413],
        ),
        (
            "data over 1 MiB",
            Method::POST,
            CONFIGMAPS,
            deep,
            format!(
                r#"{{"metadata":{{"name":"x"}},"data":{{"a":"{}"}}}}"#,
                long((1 << 20) + 1)
            ),
            &[422],
        ),
        (
            "annotations over 256 KiB",
            Method::POST,
            CONFIGMAPS,
            deep,
            named(&format!(r#""annotations":{{"a":"{}"}}"#, long(263_000))),
            &[422],
        ),
        (
            "too many operations",
            Method::PATCH,
            &seed,
            "application/json-patch+json",
            operations(10_001),
            &[413],
        ),
        (
            "many operations",
            Method::PATCH,
            &seed,
            "application/json-patch+json",
            operations(10_000),
            &[200],
        ),
        (
            "deep JSON",
            Method::POST,
            CONFIGMAPS,
            deep,
            nested("{\"a\":", "}", 100_000),
            &[400, 422],
        ),
        (
            "deep JSON list",
            Method::POST,
            CONFIGMAPS,
            deep,
            nested("[", "]", 100_000),
            &[400],
        ),
        (
            "deep annotation",
            Method::POST,
            CONFIGMAPS,
            deep,
            named(&format!(
                r#""annotations":{}"#,
                nested("{\"a\":", "}", 100_000)
            )),
            &[400],
        ),
        (
            "deep YAML",
            Method::POST,
            CONFIGMAPS,
            YAML,
            "[".repeat(100_000),
            &[400],
        ),
        (
            "deep YAML map",
            Method::POST,
            CONFIGMAPS,
            YAML,
            "{a: ".repeat(50_000),
            &[400],
        ),
        (
            "deep merge patch",
            Method::PATCH,
            &seed,
            "application/merge-patch+json",
            nested("{\"a\":", "}", 100_000),
            &[400],
        ),
        (
            "deep strategic merge",
            Method::PATCH,
            &seed,
            "application/strategic-merge-patch+json",
            nested("{\"a\":", "}", 100_000),
            &[400],
        ),
        (
            "deep apply",
            Method::PATCH,
            &format!("{seed}?fieldManager=f"),
            "application/apply-patch+yaml",
            nested("{\"a\":", "}", 100_000),
            &[400],
        ),
        (
            "YAML aliases",
            Method::POST,
            CONFIGMAPS,
            YAML,
            bomb(),
            &[400, 422],
        ),
        (
            "long selector",
            Method::GET,
            &format!(
                "{CONFIGMAPS}?labelSelector={}",
                vec!["a=b"; 10_000].join(",")
            ),
            deep,
            String::new(),
            &[200],
        ),
        (
            "long set",
            Method::GET,
            &format!(
                "{CONFIGMAPS}?labelSelector=a+in+({})",
                vec!["b"; 20_000].join(",")
            ),
            deep,
            String::new(),
            &[200],
        ),
        (
            "brackets",
            Method::GET,
            &format!("{CONFIGMAPS}?labelSelector={}", "(".repeat(60_000)),
            deep,
            String::new(),
            &[400],
        ),
    ] {
        let headers = [("content-type", content_type)];
        let sent = f.send(method, path, &headers, body.into_bytes());
        let a = tokio::time::timeout(PATIENCE, sent)
            .await
            .unwrap_or_else(|_| panic!("{name}: no answer"));
        assert!(
            codes.contains(&a.code),
            "{name}: {} {}",
            a.code,
            String::from_utf8_lossy(&a.bytes[..a.bytes.len().min(500)])
        );
        if a.code >= 400 {
            assert_eq!(a.json()["kind"], "Status", "{name}");
        }
    }
    // still there
    assert_eq!(f.get("/readyz").await.code, 200);
    assert_eq!(f.get(&seed).await.json()["data"], json!({"k": "v"}));
}

const YAML: &str = "application/yaml";

/// Nine aliases of nine aliases, nine times: some 10⁹ items when it is followed.
fn bomb() -> String {
    let mut out = String::from("a0: &a0 [x]\n");
    for i in 1..10 {
        let before = vec![format!("*a{}", i - 1); 9].join(",");
        out.push_str(&format!("a{i}: &a{i} [{before}]\n"));
    }
    out
}

#[tokio::test]
async fn cut_and_changed_protobuf_is_refused_or_taken_but_never_harmful() {
    let f = seeded().await;
    let object = deployment("p", 2);
    let good =
        knarr_schema::encode_protobuf("apps/v1", "Deployment", object.to_string().as_bytes())
            .unwrap();
    let headers = [("content-type", "application/vnd.kubernetes.protobuf")];
    let path = format!("{DEPLOYMENTS}?dryRun=All");
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 0xff;
        for body in [good[..at].to_vec(), changed] {
            let sent = f.send(Method::POST, &path, &headers, body);
            let a = tokio::time::timeout(PATIENCE, sent)
                .await
                .expect("an answer");
            assert!(matches!(a.code, 201 | 400 | 422), "{at}: {}", a.code);
        }
    }
}
