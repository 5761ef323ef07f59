//! When service accounts' Secrets were last used as tokens, by the day: a label on each, which the cleaner of such tokens goes
//! by, and since when that is noted (upstream `pkg/serviceaccount/legacy.go`, `pkg/controlplane/controller/legacytokentracking`).

use std::collections::BTreeSet;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::authenticate::stored;
use crate::{
    bootstrap,
    object::meta,
    own::{change, change_if_there},
    server::Inner,
    write::Part,
};

pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const NAMESPACE: &str = "kube-system";
const MAP: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// Where the ConfigMap is in the store.
pub const MAP_KEY: &str =
    "/registry/core/configmaps/kube-system/kube-apiserver-legacy-service-account-token-tracking";
/// Secrets whose use waits to be noted, at most; others are noted when they are used again.
const WAITING_MAX: usize = 256;

/// The Secrets, by namespace and name, whose use is to be noted.
#[derive(Default)]
pub struct Used {
    waiting: Mutex<BTreeSet<(String, String)>>,
    /// there is something to note
    pub wake: Notify,
}

fn day(days_from_now: i64) -> String {
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days_from_now);
    at.strftime("%Y-%m-%d").to_string()
}

impl Used {
    /// The Secret has been used as a token.
    pub fn note(&self, secret: &Value) {
        let last = secret["metadata"]["labels"][LAST_USED]
            .as_str()
            .unwrap_or("");
        // tomorrow: of a server whose clock is ahead
        if last == day(0) || last == day(1) {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING_MAX {
            waiting.insert((
                meta(secret, "namespace").into(),
                meta(secret, "name").into(),
            ));
            self.wake.notify_one();
        }
    }
}

/// Writes down what has been noted.
pub async fn write(inner: &Inner) {
    let waiting = std::mem::take(&mut *inner.access.used.waiting.lock());
    let Some(r) = inner.catalog().preferred("", "secrets") else {
        return;
    };
    for (namespace, name) in waiting {
        let place = (namespace.as_str(), name.as_str());
        let today = day(0);
        let done = change_if_there(inner, &r, place, Part::Main, bootstrap::MANAGER, |o| {
            o["metadata"]["labels"][LAST_USED] = today.as_str().into();
        });
        if let Err(f) = done.await {
            tracing::warn!(
                namespace,
                name,
                "the use of a token can't be noted: {}",
                f.message()
            );
        }
    }
}

fn tells_a_day(map: &Value) -> bool {
    let since = map["data"]["since"].as_str().unwrap_or("");
    since.len() == 10 && since.parse::<jiff::civil::Date>().is_ok()
}

/// Notes since when use is noted, unless that is there.
pub async fn since(inner: &Inner) {
    let Some(r) = inner.catalog().preferred("", "configmaps") else {
        return;
    };
    if stored(inner, "configmaps", NAMESPACE, MAP).is_some_and(|o| tells_a_day(&o)) {
        return;
    }
    let o = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": MAP, "namespace": NAMESPACE}, "data": {"since": day(0)},
    });
    let ensured = async {
        bootstrap::ensure(inner, &r, NAMESPACE, o).await?;
        if stored(inner, "configmaps", NAMESPACE, MAP).is_some_and(|o| tells_a_day(&o)) {
            return Ok(());
        }
        let place = (NAMESPACE, MAP);
        change(inner, &r, place, Part::Main, bootstrap::MANAGER, |o| {
            o["data"]["since"] = day(0).into();
        })
        .await
    };
    if let Err(f) = ensured.await {
        tracing::warn!(
            "since when tokens are tracked can't be noted: {}",
            f.message()
        );
    }
}
