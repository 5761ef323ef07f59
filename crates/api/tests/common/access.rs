//! Helpers for tests of who may do what.

use super::{Fixture, send};
use base64::Engine;
use http::Method;
use kube::Client;
use serde_json::{Value, json};

pub const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
pub const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
pub const SECRETS: &str = "/api/v1/namespaces/default/secrets";
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

pub async fn role(f: &Fixture, kind: &str, name: &str, rules: Value) {
    let (path, namespace) = place(kind);
    let mut o = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": {"name": name}, "rules": rules});
    if let Some(n) = namespace {
        o["metadata"]["namespace"] = n.into();
    }
    f.made(&path, o).await;
}

pub fn place(kind: &str) -> (String, Option<&'static str>) {
    let plural = format!("{}s", kind.to_lowercase());
    match kind.starts_with("Cluster") {
        true => (format!("{RBAC}/{plural}"), None),
        false => (
            format!("{RBAC}/namespaces/default/{plural}"),
            Some("default"),
        ),
    }
}

pub fn binding(kind: &str, name: &str, role: &str, subject: Value) -> Value {
    let (role_kind, role) = role.split_once('/').unwrap();
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "subjects": [subject], "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role}})
}

pub async fn bind(f: &Fixture, kind: &str, name: &str, role: &str, subject: Value) {
    f.made(&place(kind).0, binding(kind, name, role, subject))
        .await;
}

pub fn user(name: &str) -> Value {
    json!({"kind": "User", "name": name})
}

pub async fn get(client: &Client, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let a = send(client, Method::GET, path, headers, vec![]).await;
    let body = serde_json::from_slice(&a.bytes).unwrap_or(Value::Null);
    (a.code, body)
}

pub async fn post(client: &Client, path: &str, body: &Value) -> (u16, Value) {
    let headers = &[("content-type", "application/json")];
    let a = send(client, Method::POST, path, headers, body.to_string().into()).await;
    (a.code, a.json())
}

/// Asks as the holder of a token.
pub async fn with_token(f: &Fixture, token: &str, path: &str) -> (u16, Value) {
    get(
        &f.client,
        path,
        &[("authorization", &format!("Bearer {token}"))],
    )
    .await
}

pub async fn whoami(f: &Fixture, headers: &[(&str, &str)]) -> (u16, Value) {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let a = send(&f.client, Method::POST, path, headers, b"{}".to_vec()).await;
    (a.code, a.json()["status"]["userInfo"].clone())
}

pub async fn account(f: &Fixture, name: &str) -> String {
    let made = f.made(ACCOUNTS, json!({"metadata": {"name": name}})).await;
    made["metadata"]["uid"].as_str().unwrap().to_string()
}

pub async fn token(f: &Fixture, account: &str, spec: Value) -> (u16, Value) {
    let path = format!("{ACCOUNTS}/{account}/token");
    post(&f.client, &path, &json!({"spec": spec})).await
}

pub fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(part)
        .unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Asks until it is so; what follows from a change follows soon, not at once.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while !ask().await {
        assert!(std::time::Instant::now() < end, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
