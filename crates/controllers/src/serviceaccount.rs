//! What every namespace has: the ServiceAccount `default`, and the ConfigMap `kube-root-ca.crt` with the CA that the one of that name in `kube-public` holds (without that one, none).

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;

use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        reflector::reflect,
        rest::{Ignored, Rest},
        work::{Next, WORKERS, work},
    },
    objects::{
        meta::{Key, Labels, Meta, Object, object},
        node::{Namespace, ServiceAccount},
    },
};

const NAME: &str = "serviceaccount";
const DEFAULT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const PUBLIC: &str = "kube-public";
const NOTE: &str = "kubernetes.io/description";

/// `v1.ConfigMap`, of one name.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigMap {
    metadata: Meta,
    data: Labels,
}
object!(ConfigMap, "", "v1", "configmaps", "ConfigMap");

struct Controller {
    rest: Rest,
    namespaces: Arc<Cache<Namespace>>,
    accounts: Arc<Cache<ServiceAccount>>,
    /// those named [`ROOT_CA`]
    roots: Arc<Cache<ConfigMap>>,
    queue: Queue<Key>,
}

/// The service account controller and the root CA publisher.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        namespaces: ctx.caches.namespaces.clone(),
        accounts: ctx.caches.accounts.clone(),
        roots: Arc::default(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.namespaces.on_change(move |_, new| {
        if let Some(n) = new {
            me.queue.add(n.metadata.key());
        }
    });
    let me = c.clone();
    c.accounts.on_change(move |old, new| {
        if let (Some(o), None) = (old, new)
            && &*o.metadata.name == DEFAULT
        {
            me.queue.add(Key::new("", &o.metadata.namespace));
        }
    });
    let me = c.clone();
    c.roots.on_change(move |old, new| {
        let Some(map) = new.or(old) else { return };
        if &*map.metadata.namespace == PUBLIC {
            me.namespaces.each(|n| me.queue.add(n.metadata.key()));
        } else {
            me.queue.add(Key::new("", &map.metadata.namespace));
        }
    });
    Box::pin(async move {
        let path = format!(
            "{}?fieldSelector=metadata.name%3D{ROOT_CA}",
            ConfigMap::KIND.collection("")
        );
        let work = async {
            c.namespaces.synced().await;
            c.accounts.synced().await;
            c.roots.synced().await;
            work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
        };
        futures::join!(reflect(&c.rest, &path, false, &*c.roots), work);
    })
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next> {
        let namespace = &key.name;
        let active = self
            .namespaces
            .at(&key)
            .is_some_and(|n| !n.metadata.deleting() && &*n.status.phase != "Terminating");
        if !active {
            return Ok(Next::Wait);
        }
        if self.accounts.get(namespace, DEFAULT).is_none() {
            let body = json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": DEFAULT, "namespace": namespace},
            });
            self.ensure(&ServiceAccount::KIND.collection(namespace), &body)
                .await?;
        }
        self.publish(namespace).await?;
        Ok(Next::Wait)
    }

    async fn ensure(&self, collection: &str, body: &serde_json::Value) -> Result<()> {
        match self.rest.create::<Ignored>(collection, body).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_already_exists() || e.is_namespace_terminating() => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn publish(&self, namespace: &str) -> Result<()> {
        let Some(source) = self.roots.get(PUBLIC, ROOT_CA) else {
            return Ok(());
        };
        let Some(ca) = source.data.get("ca.crt") else {
            return Ok(());
        };
        match self.roots.get(namespace, ROOT_CA) {
            Some(map) if map.data.get("ca.crt") == Some(ca) => Ok(()),
            Some(map) => {
                let patch = json!({
                    "metadata": {"resourceVersion": map.metadata.resource_version},
                    "data": {"ca.crt": ca},
                });
                self.rest
                    .merge::<Ignored>(&ConfigMap::KIND.at(&map.metadata), &patch)
                    .await
                    .map(|_| ())
            }
            None => {
                let body = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": ROOT_CA, "namespace": namespace, "annotations": {
                        NOTE: "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
                    }},
                    "data": {"ca.crt": ca},
                });
                self.ensure(&ConfigMap::KIND.collection(namespace), &body)
                    .await
            }
        }
    }
}
