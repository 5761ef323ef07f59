//! Secrets of type `kubernetes.io/service-account-token`: filled with a token that has no end, and removed with their
//! account (upstream `pkg/controller/serviceaccount/tokens_controller.go`).

use base64::{Engine, engine::general_purpose::STANDARD};
use knarr_access::{
    jwt::{Claims, LEGACY_ISSUER, Legacy},
    user::account_user,
};
use serde_json::Value;

use super::authenticate::stored;
use crate::{
    catalog,
    delete::{self, DeleteOptions, Requester},
    identity::Identity,
    object,
    object::meta,
    query::WriteOptions,
    server::Inner,
    write::{Change, Part, Write},
};

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
const MANAGER: &str = "kube-controller-manager";

/// Looks at every Secret.
pub async fn all(inner: &Inner) {
    for (namespace, name) in token_secrets(inner, "") {
        secret(inner, &namespace, &name).await;
    }
}

/// Namespace and name of the token Secrets in a namespace, or in all when it is empty.
fn token_secrets(inner: &Inner, namespace: &str) -> Vec<(String, String)> {
    let Some(r) = inner.catalog().preferred("", "secrets") else {
        return vec![];
    };
    let snapshot = inner.store.snapshot();
    let mut found = Vec::new();
    for entry in snapshot.range(&catalog::prefix(&r, namespace), None) {
        let (namespace, name) = catalog::split_key(&r, &entry.key);
        if object::parse(&entry.value).is_ok_and(|s| s["type"] == TYPE) {
            found.push((namespace.to_string(), name.to_string()));
        }
    }
    found
}

/// The account is gone, and so are its Secrets.
pub async fn account_gone(inner: &Inner, namespace: &str, account: &str) {
    for (namespace, name) in token_secrets(inner, namespace) {
        let its = stored(inner, "secrets", &namespace, &name)
            .is_some_and(|s| s["metadata"]["annotations"][NAME] == account);
        if its {
            secret(inner, &namespace, &name).await;
        }
    }
}

/// Fills the Secret, or removes it when its account is not there.
pub async fn secret(inner: &Inner, namespace: &str, name: &str) {
    let Some(r) = inner.catalog().preferred("", "secrets") else {
        return;
    };
    let Some(live) = stored(inner, "secrets", namespace, name) else {
        return;
    };
    if live["type"] != TYPE || !meta(&live, "deletionTimestamp").is_empty() {
        return;
    }
    let Some(account_name) = live["metadata"]["annotations"][NAME].as_str() else {
        return;
    };
    let account = stored(inner, "serviceaccounts", namespace, account_name).filter(|a| {
        let uid = live["metadata"]["annotations"][UID].as_str().unwrap_or("");
        uid.is_empty() || uid == meta(a, "uid")
    });
    let who = Identity::loopback();
    let done = match account {
        None => {
            let (options, by) = (DeleteOptions::default(), Requester::Named(&who));
            let deleted = delete::delete(inner, &r, namespace, name, &options, by).await;
            deleted.map(|_| ())
        }
        Some(account) => {
            let Some(filled) = filled(inner, &live, &account) else {
                return;
            };
            let options = WriteOptions::internal(MANAGER);
            let mut w = Write::new(inner, &who, &r, namespace, name, &options, Part::Main);
            w.update(|_, _| {
                // it has the resource version it was made of: a Secret changed meanwhile comes by again
                Ok(Change {
                    object: filled.clone(),
                    applied: false,
                })
            })
            .await
            .map(|_| ())
        }
    };
    match done {
        Err(f) if !matches!(f.code(), 404 | 409) => {
            tracing::warn!(
                namespace,
                name,
                "a service account's Secret: {}",
                f.message()
            );
        }
        _ => {}
    }
}

/// The Secret with all it must have; None when it has it.
fn filled(inner: &Inner, live: &Value, account: &Value) -> Option<Value> {
    let mut new = live.clone();
    let namespace = meta(live, "namespace");
    let mut put = |key: &str, value: &str| new["data"][key] = STANDARD.encode(value).into();
    let held = |key: &str| live["data"][key].as_str().unwrap_or("");
    if held("ca.crt") != STANDARD.encode(&inner.pki.ca_pem) {
        put("ca.crt", &inner.pki.ca_pem);
    }
    if held("namespace").is_empty() {
        put("namespace", namespace);
    }
    if held("token").is_empty() {
        let claims = Claims {
            iss: LEGACY_ISSUER.into(),
            sub: account_user(namespace, meta(account, "name")),
            legacy: Legacy {
                namespace: namespace.into(),
                secret: meta(live, "name").into(),
                account: meta(account, "name").into(),
                uid: meta(account, "uid").into(),
            },
            ..Claims::default()
        };
        match inner.access.signer().sign(&claims) {
            Ok(token) => put("token", &token),
            Err(e) => tracing::warn!("a service account's token: {e}"),
        }
    }
    new["metadata"]["annotations"][UID] = meta(account, "uid").into();
    (new != *live).then_some(new)
}
