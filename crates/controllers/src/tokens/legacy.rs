//! Tokens that were made for service accounts unasked, and that nobody has used for a year, are marked as invalid, and deleted
//! a year later (`pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go`). The API server notes their use.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    error::Result,
    machinery::{
        context::Context,
        queue::BACKOFF_MAX,
        rest::{Delete, Ignored, Rest},
    },
    objects::meta::{Meta, Object, Seconds, now, nullable, object, parse_time, rfc3339},
};

const NAME: &str = "legacytokencleaner";
/// How often is looked.
const EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a token may lie idle, s.
const IDLE_S: i64 = 365 * DAY_S;
const DAY_S: i64 = 24 * 60 * 60;
const TRACKING: &str = "/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking";
const SECRETS: &str = "/api/v1/secrets?fieldSelector=type%3Dkubernetes.io%2Fservice-account-token";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Objects per page of a list.
const PAGE: usize = 200;

/// A Secret without its data.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Secret {
    metadata: Meta,
}
object!(Secret, "", "v1", "secrets", "Secret");

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Account {
    metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    secrets: Vec<Named>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: Box<str>,
}

#[derive(Deserialize)]
struct List<T> {
    metadata: ListMeta,
    items: Vec<T>,
}
#[derive(Deserialize)]
struct ListMeta {
    #[serde(rename = "continue", default)]
    next: Option<String>,
}

/// What becomes of a token that belongs to its account and no Pod mounts.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    /// marked from this day on
    Invalid,
    Deleted,
}

/// `2026-01-31`, of which the later one is the greater.
fn day(at: Seconds) -> String {
    rfc3339(at)[..10].to_string()
}

fn is_day(text: &str) -> bool {
    text.len() == 10 && parse_time(Some(&format!("{text}T00:00:00Z"))).is_some()
}

fn fate(secret: &Meta, now: Seconds) -> Fate {
    let kept = day(now - IDLE_S);
    let label = |key: &str| secret.labels.get(key).unwrap_or_default();
    let used = label(LAST_USED);
    let young = secret
        .creation_timestamp
        .is_none_or(|at| at >= now - IDLE_S);
    if young || secret.deleting() || (!used.is_empty() && (!is_day(used) || used >= kept.as_str()))
    {
        return Fate::Stays;
    }
    match label(INVALID_SINCE) {
        since if !is_day(since) => Fate::Invalid,
        since if since >= kept.as_str() => Fate::Stays,
        _ => Fate::Deleted,
    }
}

/// The cleaner of legacy tokens.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let rest = ctx.rest(NAME);
    Box::pin(async move {
        loop {
            let pause = match sweep(&rest, now()).await {
                Ok(()) => EVERY,
                Err(e) => {
                    tracing::debug!(error = %e, "old tokens can't be looked at now, trying again");
                    BACKOFF_MAX
                }
            };
            tokio::time::sleep(pause).await;
        }
    })
}

async fn sweep(rest: &Rest, now: Seconds) -> Result<()> {
    let tracking: Value = match rest.get(TRACKING).await {
        Err(e) if e.is_not_found() => return Ok(()),
        other => other?,
    };
    let since = tracking["data"]["since"].as_str().unwrap_or_default();
    let since = parse_time(Some(&format!("{since}T00:00:00Z")));
    // the day itself may have been tracked in part
    if since.is_none_or(|at| now < at + DAY_S + IDLE_S) {
        return Ok(());
    }
    let mut mounted = BTreeMap::new();
    let mut next = String::new();
    loop {
        let path = format!("{SECRETS}&limit={PAGE}&continue={next}");
        let page: List<Secret> = rest
            .get_as(&path, crate::machinery::reflector::METADATA_LIST)
            .await?;
        for secret in &page.items {
            one(rest, &secret.metadata, now, &mut mounted).await?;
        }
        match page.metadata.next.filter(|n| !n.is_empty()) {
            Some(more) => next = more,
            None => return Ok(()),
        }
    }
}

async fn one(
    rest: &Rest,
    secret: &Meta,
    now: Seconds,
    mounted: &mut BTreeMap<Box<str>, BTreeSet<String>>,
) -> Result<()> {
    let fate = fate(secret, now);
    if fate == Fate::Stays || !made_unasked(rest, secret).await? {
        return Ok(());
    }
    let namespace = &secret.namespace;
    if !mounted.contains_key(namespace) {
        let pods: Value = rest
            .get(&format!("/api/v1/namespaces/{namespace}/pods"))
            .await?;
        let mut names = BTreeSet::new();
        secrets_of(&pods, &mut names);
        mounted.insert(namespace.clone(), names);
    }
    if mounted
        .get(namespace)
        .is_some_and(|m| m.contains(&*secret.name))
    {
        return Ok(());
    }
    let path = Secret::KIND.at(secret);
    if fate == Fate::Deleted {
        let this = Delete::uid(&secret.uid).at(&secret.resource_version);
        return rest.delete(&path, &this).await;
    }
    let patch = json!({"metadata": {"uid": secret.uid, "labels": {INVALID_SINCE: day(now)}}});
    rest.merge::<Ignored>(&path, &patch).await.map(|_| ())
}

/// Whether the account names the Secret, as it does those that were made for it unasked.
async fn made_unasked(rest: &Rest, secret: &Meta) -> Result<bool> {
    let note = |key: &str| secret.annotations.get(key).unwrap_or_default();
    let (name, uid) = (note(ACCOUNT), note(ACCOUNT_UID));
    if name.is_empty() {
        return Ok(false);
    }
    let path = format!(
        "/api/v1/namespaces/{}/serviceaccounts/{name}",
        secret.namespace
    );
    let account: Account = match rest.get(&path).await {
        Err(e) if e.is_not_found() => return Ok(false),
        other => other?,
    };
    let its = uid.is_empty() || *account.metadata.uid == *uid;
    Ok(its && account.secrets.iter().any(|s| s.name == secret.name))
}

/// Names of the Secrets that anything in a list of Pods refers to, wherever in it: more than upstream keeps, never less.
fn secrets_of(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, v) in fields {
                match (key.as_str(), v) {
                    ("secretName", Value::String(name)) => {
                        names.insert(name.clone());
                    }
                    ("secret" | "secretRef" | "secretKeyRef", Value::Object(of)) => {
                        let name = of.get("name").and_then(Value::as_str);
                        names.extend(name.map(String::from));
                    }
                    ("imagePullSecrets", Value::Array(all)) => {
                        let all = all.iter().filter_map(|s| s["name"].as_str());
                        names.extend(all.map(String::from));
                    }
                    _ => {}
                }
                secrets_of(v, names);
            }
        }
        Value::Array(all) => all.iter().for_each(|v| secrets_of(v, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_tokens_go_in_two_steps() {
        let now = parse_time(Some("2026-06-15T12:00:00Z")).unwrap();
        let old = "2020-01-01T00:00:00Z";
        for (case, created, labels, wanted) in [
            ("young", "2026-01-01T00:00:00Z", json!({}), Fate::Stays),
            ("never used", old, json!({}), Fate::Invalid),
            (
                "used lately",
                old,
                json!({LAST_USED: "2026-01-01"}),
                Fate::Stays,
            ),
            (
                "used a year ago",
                old,
                json!({LAST_USED: "2025-06-15"}),
                Fate::Stays,
            ),
            (
                "used before",
                old,
                json!({LAST_USED: "2025-06-14"}),
                Fate::Invalid,
            ),
            (
                "used on no day",
                old,
                json!({LAST_USED: "yesterday"}),
                Fate::Stays,
            ),
            (
                "marked",
                old,
                json!({INVALID_SINCE: "2026-06-01"}),
                Fate::Stays,
            ),
            (
                "marked on no day",
                old,
                json!({INVALID_SINCE: "x"}),
                Fate::Invalid,
            ),
            (
                "marked long ago",
                old,
                json!({INVALID_SINCE: "2025-06-14"}),
                Fate::Deleted,
            ),
            (
                "marked and used",
                old,
                json!({INVALID_SINCE: "2025-06-14", LAST_USED: "2026-06-01"}),
                Fate::Stays,
            ),
        ] {
            let meta =
                json!({"metadata": {"name": "s", "creationTimestamp": created, "labels": labels}});
            let secret: Secret = serde_json::from_value(meta).unwrap();
            assert_eq!(fate(&secret.metadata, now), wanted, "{case}");
        }
    }

    #[test]
    fn mounted_secrets_are_found() {
        let pods = json!({"items": [{"spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"name": "v", "secret": {"secretName": "volume"}}, {"name": "p", "projected": {"sources": [{"secret": {"name": "projected"}}]}}],
            "containers": [{"envFrom": [{"secretRef": {"name": "env"}}], "env": [{"name": "a", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}],
        }}]});
        let mut names = BTreeSet::new();
        secrets_of(&pods, &mut names);
        assert_eq!(
            names.into_iter().collect::<Vec<_>>(),
            ["env", "key", "projected", "pull", "volume"]
        );
    }
}
