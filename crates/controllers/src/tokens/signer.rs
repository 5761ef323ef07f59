//! The ConfigMap `cluster-info` in `kube-public` is signed by each bootstrap token that may sign, so that who has a token can
//! tell that what everybody may read is true (`pkg/controller/bootstrap/bootstrapsigner.go`). Without that ConfigMap there is
//! nothing to sign.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::future::BoxFuture;
use ring::hmac;
use serde::Deserialize;
use serde_json::{Value, json};

use super::secret::{NAMESPACE, SELECTOR, Secret};
use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        reflector::reflect,
        rest::{Ignored, Rest},
        work::{Next, work},
    },
    objects::meta::{Key, Meta, Object, now, nullable, object},
};

const NAME: &str = "bootstrapsigner";
const PUBLIC: &str = "kube-public";
const INFO: &str = "cluster-info";
/// What is signed, and before which word of a signature's key.
const CONTENT: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

/// `v1.ConfigMap`
#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigMap {
    metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    data: BTreeMap<String, String>,
}
object!(ConfigMap, "", "v1", "configmaps", "ConfigMap");

struct Controller {
    rest: Rest,
    tokens: Arc<Cache<Secret>>,
    /// that of this name
    info: Arc<Cache<ConfigMap>>,
    queue: Queue<Key>,
}

/// The bootstrap signer.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        tokens: Arc::default(),
        info: Arc::default(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.tokens
        .on_change(move |_, _| me.queue.add(Key::new(PUBLIC, INFO)));
    let me = c.clone();
    c.info
        .on_change(move |_, _| me.queue.add(Key::new(PUBLIC, INFO)));
    Box::pin(async move {
        let tokens = format!("{}?{SELECTOR}", Secret::KIND.collection(NAMESPACE));
        let info = ConfigMap::KIND.collection(PUBLIC);
        let info = format!("{info}?fieldSelector=metadata.name%3D{INFO}");
        let work = async {
            c.tokens.synced().await;
            c.info.synced().await;
            work(NAME, &c.queue, 1, |key| c.reconcile(key)).await;
        };
        futures::join!(
            reflect(&c.rest, &tokens, false, &*c.tokens),
            reflect(&c.rest, &info, false, &*c.info),
            work
        );
    })
}

/// A JWS (RFC 7515) with HMAC-SHA-256, without its content, which the reader has.
fn signature(content: &str, id: &str, secret: &str) -> String {
    let header = json!({"alg": "HS256", "kid": id}).to_string();
    let header = URL_SAFE_NO_PAD.encode(header);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    format!("{header}..{tag}")
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(info) = self.info.at(&key) else {
            return Ok(Next::Wait);
        };
        let Some(content) = info.data.get(CONTENT) else {
            return Ok(Next::Wait);
        };
        let now = now();
        let mut wanted = BTreeMap::new();
        let mut next = None;
        self.tokens.each(|token| {
            if let Some((id, secret)) = token.signing(now) {
                let signature = signature(content, &id, &secret);
                wanted.insert(format!("{SIGNATURE}{id}"), signature);
                next = [next, token.end()].into_iter().flatten().min();
            }
        });
        // merge patch: null takes away
        let mut changes = serde_json::Map::new();
        for old in info.data.keys().filter(|k| k.starts_with(SIGNATURE)) {
            if !wanted.contains_key(old) {
                changes.insert(old.clone(), Value::Null);
            }
        }
        for (name, signature) in wanted {
            if info.data.get(&name) != Some(&signature) {
                changes.insert(name, signature.into());
            }
        }
        if !changes.is_empty() {
            let meta = &info.metadata;
            let patch = json!({
                "metadata": {"resourceVersion": meta.resource_version}, "data": changes,
            });
            self.rest
                .merge::<Ignored>(&ConfigMap::KIND.at(meta), &patch)
                .await?;
        }
        Ok(next.map_or(Next::Wait, |at| Next::after_s(at - now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_upstreams() {
        // of upstream's own test (cluster-bootstrap `token/jws`)
        assert_eq!(
            signature(
                "Hello from the other side. I must have called a thousand times.",
                "joshua",
                "my voice is my passcode"
            ),
            "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"
        );
    }
}
