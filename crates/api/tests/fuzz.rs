//! Random bad input in bounded amounts: each target mutates seeds and sends them where untrusted bytes are read. What is
//! looked for: panics (the server answers those with a certain 500), hangs, and answers that contradict themselves.
//!
//! Under `cargo test` each target runs a few hundred inputs from a fixed start. `cargo run -p xtask -- fuzz --minutes N
//! --target decoder` runs one for longer; a failure prints the input as base64 and the number it began with.

mod common;
#[path = "fuzz/mutate.rs"]
mod mutate;

use base64::{Engine, engine::general_purpose::STANDARD};
use common::*;
use http::Method;
use mutate::{Mutator, rounds};
use serde_json::{Value, json};
use std::time::Duration;

/// Time for one answer.
const PATIENCE: Duration = Duration::from_secs(120);

fn objects() -> Vec<(&'static str, &'static str, &'static str, Value)> {
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "eggs.spam.io"},
        "spec": {"group": "spam.io", "scope": "Namespaced", "names": {"plural": "eggs", "singular": "egg", "kind": "Egg"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"n": {"type": "integer", "minimum": 1}}}}}}}]}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"selector": {"a": "b"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}], "type": "NodePort"}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "annotations": {"a": "b"}}, "data": {"k": "AAEC"}, "type": "Opaque"});
    vec![
        (
            "",
            "v1",
            "ConfigMap",
            configmap("c", json!({"a": "b", "c": "1"})),
        ),
        ("", "v1", "Pod", pod("p")),
        ("apps", "v1", "Deployment", deployment("d", 3)),
        ("", "v1", "Service", service),
        ("", "v1", "Secret", secret),
        (
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            crd,
        ),
    ]
}

struct Target {
    f: Fixture,
}

impl Target {
    async fn new() -> Target {
        let dir = tempfile::tempdir().unwrap();
        let api = knarr_api::ApiServer::for_tests(dir.path());
        let client = api.client("admin", &["system:masters"], "tester/1.0");
        let f = Fixture { api, client, dir };
        f.made(CONFIGMAPS, configmap("c", json!({"a": "b"}))).await;
        f.made(DEPLOYMENTS, deployment("d", 1)).await;
        Target { f }
    }

    /// Sends one input; an answer in time that is no panic.
    async fn send(
        &self,
        m: &Mutator,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> u16 {
        let told = || {
            format!(
                "{} with {path} {headers:?}, base64 {}",
                m.told(),
                STANDARD.encode(body)
            )
        };
        let sent = self.f.send(method, path, headers, body.to_vec());
        let a = tokio::time::timeout(PATIENCE, sent)
            .await
            .unwrap_or_else(|_| panic!("no answer: {}", told()));
        let text = String::from_utf8_lossy(&a.bytes);
        assert!(!text.contains("handler panicked"), "a panic: {}", told());
        assert!((200..600).contains(&a.code), "{}: {}", a.code, told());
        a.code
    }
}

#[test]
fn fuzz_decoder() {
    let seeds: Vec<_> = objects();
    let mut m = Mutator::new("decoder");
    for _ in rounds(3000) {
        let (group, version, kind, object) = &seeds[m.below(seeds.len())];
        let ty = knarr_schema::kind(group, version, kind).unwrap();
        let text = m.json(object);
        let Ok(decoded) = knarr_schema::decode(ty, &text) else {
            continue;
        };
        // what was taken is taken again, and nothing of it is unknown any more
        let again = knarr_schema::decode(ty, decoded.value.to_string().as_bytes());
        let again = again
            .unwrap_or_else(|e| panic!("{e}: {}, base64 {}", m.told(), STANDARD.encode(&text)));
        assert_eq!(
            again.value,
            decoded.value,
            "{}, base64 {}",
            m.told(),
            STANDARD.encode(&text)
        );
        assert!(
            again.unknown.is_empty(),
            "{}: {:?}",
            m.told(),
            again.unknown
        );
    }
}

#[test]
fn fuzz_protobuf() {
    let seeds: Vec<Vec<u8>> = objects()
        .iter()
        .map(|(.., o)| {
            let text = |k: &str| o[k].as_str().unwrap();
            knarr_schema::encode_protobuf(
                text("apiVersion"),
                text("kind"),
                o.to_string().as_bytes(),
            )
            .unwrap()
        })
        .collect();
    let mut m = Mutator::new("protobuf");
    for _ in rounds(5000) {
        let seed = &seeds[m.below(seeds.len())];
        let bytes = m.bytes(seed);
        let Ok((api_version, kind, value)) = knarr_schema::decode_protobuf(&bytes) else {
            continue;
        };
        let told = || format!("{}, base64 {}", m.told(), STANDARD.encode(&bytes));
        let encoded =
            knarr_schema::encode_protobuf(&api_version, &kind, value.to_string().as_bytes());
        let encoded = encoded.unwrap_or_else(|e| panic!("{e}: {}", told()));
        let (.., again) =
            knarr_schema::decode_protobuf(&encoded).unwrap_or_else(|e| panic!("{e}: {}", told()));
        assert_eq!(again, value, "{}", told());
    }
}

#[tokio::test]
async fn fuzz_bodies() {
    let t = Target::new().await;
    let seeds = objects();
    let mut m = Mutator::new("bodies");
    for _ in rounds(400) {
        let (group, version, kind, object) = &seeds[m.below(seeds.len())];
        let plural = format!("{}s", kind.to_lowercase());
        let base = if group.is_empty() {
            format!("/api/{version}")
        } else {
            format!("/apis/{group}/{version}")
        };
        let path = match *kind {
            "CustomResourceDefinition" => format!("{base}/{plural}?dryRun=All"),
            _ => format!("{base}/namespaces/default/{plural}?dryRun=All"),
        };
        let (content_type, body) = match m.below(3) {
            0 => ("application/json", m.json(object)),
            1 => ("application/yaml", m.bytes(object.to_string().as_bytes())),
            _ => {
                let text = |k: &str| object[k].as_str().unwrap();
                let whole = knarr_schema::encode_protobuf(
                    text("apiVersion"),
                    text("kind"),
                    object.to_string().as_bytes(),
                );
                (
                    "application/vnd.kubernetes.protobuf",
                    m.bytes(&whole.unwrap()),
                )
            }
        };
        t.send(
            &m,
            Method::POST,
            &path,
            &[("content-type", content_type)],
            &body,
        )
        .await;
    }
}

#[tokio::test]
async fn fuzz_patch() {
    let t = Target::new().await;
    let merge = json!({"metadata": {"labels": {"a": null, "b": "c"}, "finalizers": ["x/y"], "$deleteFromPrimitiveList/finalizers": ["x/y"]},
        "spec": {"replicas": 2, "strategy": {"$retainKeys": ["type"], "type": "Recreate"}, "template": {"spec": {
            "$setElementOrder/containers": [{"name": "c"}, {"name": "e"}],
            "containers": [{"name": "c", "image": "j", "env": [{"name": "A", "value": "1"}, {"$patch": "delete", "name": "B"}]}, {"name": "e", "image": "i"}]}}}});
    let steps = json!([{"op": "test", "path": "/kind", "value": "Deployment"}, {"op": "add", "path": "/spec/template/spec/containers/-", "value": {"name": "x", "image": "y"}},
        {"op": "move", "from": "/metadata/labels", "path": "/metadata/annotations"}, {"op": "remove", "path": "/spec/template/spec/containers/0"},
        {"op": "copy", "from": "/spec/replicas", "path": "/spec/minReadySeconds"}, {"op": "replace", "path": "/spec/replicas", "value": 7}]);
    let mut m = Mutator::new("patch");
    for _ in rounds(400) {
        let (kind, seed) = match m.below(4) {
            0 => ("json-patch+json", &steps),
            1 => ("merge-patch+json", &merge),
            2 => ("strategic-merge-patch+json", &merge),
            _ => ("apply-patch+yaml", &deployment("d", 2)),
        };
        let body = m.json(seed);
        let sub = ["", "/status", "/scale"][m.below(3)];
        let dry = if m.below(4) == 0 { "" } else { "&dryRun=All" };
        let path = format!(
            "{DEPLOYMENTS}/d{sub}?fieldManager=m{}&force={}{dry}",
            m.below(3),
            kind == "apply-patch+yaml"
        );
        t.send(
            &m,
            Method::PATCH,
            &path,
            &[("content-type", &format!("application/{kind}"))],
            &body,
        )
        .await;
    }
    // the object is still one
    assert_eq!(
        t.f.get(&format!("{DEPLOYMENTS}/d")).await.json()["kind"],
        "Deployment"
    );
}

#[tokio::test]
async fn fuzz_selector() {
    let t = Target::new().await;
    let seeds = [
        "a=b,c in (d,e),!f,g notin (h),i>5,j",
        "metadata.name=c,metadata.namespace!=x",
        "x.y/z==w",
        "a\\=b=c",
        "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6Nywic3RhcnQiOiJhIn0",
    ];
    let mut m = Mutator::new("selector");
    for _ in rounds(2000) {
        let seed = seeds[m.below(seeds.len())];
        let text = m.bytes(seed.as_bytes());
        let escaped: String = text.iter().map(|b| format!("%{b:02x}")).collect();
        let key = [
            "labelSelector",
            "fieldSelector",
            "continue",
            "resourceVersion",
            "limit",
            "resourceVersionMatch",
            "dryRun",
        ][m.below(7)];
        let resource = ["configmaps", "pods", "services", "events"][m.below(4)];
        let watch = if m.below(8) == 0 {
            "&watch=1&timeoutSeconds=1&resourceVersion=x"
        } else {
            ""
        };
        let path = format!("/api/v1/{resource}?{key}={escaped}{watch}");
        let code = t.send(&m, Method::GET, &path, &[], &[]).await;
        assert!(
            matches!(code, 200 | 400 | 410 | 422 | 500 | 504),
            "{code}: {}",
            m.told()
        );
    }
}

#[tokio::test]
async fn fuzz_paths_and_headers() {
    let t = Target::new().await;
    let paths = [
        "/api/v1/namespaces/default/configmaps/c",
        "/apis/apps/v1/namespaces/default/deployments/d/scale",
        "/openapi/v3/apis/apps/v1",
        "/readyz/ping",
        "/apis/apps",
        "/metrics",
    ];
    let accepts = [
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/yaml;q=0.5,*/*",
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    ];
    let mut m = Mutator::new("paths");
    for _ in rounds(1500) {
        let seed = paths[m.below(paths.len())];
        let path = m.bytes(seed.as_bytes());
        let path: String = path
            .iter()
            .map(|b| {
                if b.is_ascii_alphanumeric() || b"/._-?=&".contains(b) {
                    char::from(*b).to_string()
                } else {
                    format!("%{b:02x}")
                }
            })
            .collect();
        let path = format!("/{}", path.trim_start_matches('/'));
        let seed = accepts[m.below(accepts.len())];
        let accept = m.bytes(seed.as_bytes());
        let accept: String = accept
            .iter()
            .filter(|b| (32..127).contains(*b))
            .map(|b| char::from(*b))
            .collect();
        let method = [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::OPTIONS,
        ][m.below(5)]
        .clone();
        t.send(
            &m,
            method,
            &path,
            &[("accept", &accept), ("content-type", &accept)],
            b"{}",
        )
        .await;
    }
}
