//! Namespace deletion: its Pods go, then everything else in it, then it does (`pkg/controller/namespace/deletion`).

mod conditions;

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use self::conditions::{Remains, conditions};
use crate::{
    error::Result,
    gc::{
        discovery::{Discovered, Resource, discover},
        inventory::Inventory,
    },
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        reflector::METADATA_LIST,
        rest::{Delete, Ignored, Rest},
        work::{Next, work},
    },
    objects::{
        meta::{Key, Meta, Object, now, nullable},
        node::Namespace,
    },
};

const NAME: &str = "namespace";
const FINALIZER: &str = "kubernetes";
/// Namespaces emptied at a time.
const WORKERS: usize = 4;
/// A look without a reason, in case an event was missed.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

struct Controller {
    rest: Rest,
    namespaces: Arc<Cache<Namespace>>,
    inventory: Arc<Inventory>,
    queue: Queue<Key>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default, deserialize_with = "nullable")]
    items: Vec<Partial>,
}
#[derive(Deserialize)]
struct Partial {
    metadata: Meta,
}

/// The namespace controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    ctx.inventory_wanted();
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        namespaces: ctx.caches.namespaces.clone(),
        inventory: ctx.inventory.clone(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.namespaces.on_change(move |_, new| {
        if let Some(n) = new
            && n.metadata.deleting()
        {
            me.queue.add(n.metadata.key());
        }
    });
    let me = c.clone();
    c.inventory.on_gone(move |namespace| {
        let going = me
            .namespaces
            .get("", namespace)
            .is_some_and(|n| n.metadata.deleting());
        if going {
            me.queue.add(Key::new("", namespace));
        }
    });
    Box::pin(async move {
        c.namespaces.synced().await;
        work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
    })
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(ns) = self.namespaces.at(&key) else {
            return Ok(Next::Wait);
        };
        if !ns.metadata.deleting() || !ns.spec.finalizers.iter().any(|f| &**f == FINALIZER) {
            return Ok(Next::Wait);
        }
        // asked anew: a kind made a moment ago has objects, too
        let found = match discover(&self.rest).await {
            Ok(d) => d,
            Err(e) => Discovered {
                resources: vec![],
                failed: vec![e.to_string()],
            },
        };
        let remains = self.empty(&key.name, &found.resources).await;
        self.report(&ns, &found, &remains).await?;
        if remains.errors.is_empty() && found.failed.is_empty() {
            if remains.objects.is_empty() {
                self.finalize(&ns).await?;
                return Ok(Next::Wait);
            }
            return Ok(Next::After(LOOK_AGAIN));
        }
        let all: Vec<_> = found
            .failed
            .iter()
            .chain(&remains.errors)
            .cloned()
            .collect();
        Err(crate::error::Error::Other(format!(
            "namespace {} can't be emptied: {}",
            key.name,
            all.join("; ")
        )))
    }

    /// One pass over all kinds. While a Pod is left nothing else is deleted, so that what Pods lean on (network policies, accounts) outlives them; events are last.
    async fn empty(&self, namespace: &str, resources: &[Arc<Resource>]) -> Remains {
        let mut remains = Remains::default();
        let (pods, mut others): (Vec<_>, Vec<_>) = resources
            .iter()
            .filter(|r| r.namespaced && r.deletable)
            .partition(|r| r.group.is_empty() && &*r.plural == "pods");
        others.sort_by_key(|r| r.is_event());
        for resource in pods {
            if let Err(e) = self.count(namespace, resource, &mut remains).await {
                remains.errors.push(format!(
                    "failed to delete pods for namespace: {namespace}, err: {e}"
                ));
            }
        }
        if !remains.objects.is_empty() {
            return remains;
        }
        for resource in others {
            if let Err(e) = self.count(namespace, resource, &mut remains).await {
                remains.errors.push(e.to_string());
            }
        }
        remains
    }

    /// Empties a kind and notes what's left.
    async fn count(
        &self,
        namespace: &str,
        resource: &Resource,
        remains: &mut Remains,
    ) -> Result<()> {
        let left = self.empty_of(namespace, resource).await?;
        if left.is_empty() {
            return Ok(());
        }
        remains.note(namespace, resource, &left, now());
        Ok(())
    }

    async fn list(&self, namespace: &str, resource: &Resource) -> Result<Vec<Meta>> {
        let list: Result<List> = self
            .rest
            .get_as(&resource.collection(namespace), METADATA_LIST)
            .await;
        match list {
            Ok(l) => Ok(l.items.into_iter().map(|i| i.metadata).collect()),
            // the kind went away since discovery
            Err(e) if e.is_not_found() => Ok(vec![]),
            Err(e) => Err(e),
        }
    }

    /// Deletes the objects of a kind; returns what's left.
    async fn empty_of(&self, namespace: &str, resource: &Resource) -> Result<Vec<Meta>> {
        let there = self.list(namespace, resource).await?;
        if there.iter().all(Meta::deleting) {
            return Ok(there);
        }
        let options = Delete::default().propagate("Background");
        let all = if resource.collection_deletable {
            self.rest
                .delete(&resource.collection(namespace), &options)
                .await
        } else {
            Ok(())
        };
        if let Err(e) = all {
            tracing::debug!(namespace, resource = %resource.plural, error = %e, "deleting one by one");
        }
        let left = self.list(namespace, resource).await?;
        let mut again = false;
        for object in left.iter().filter(|o| !o.deleting()) {
            again = true;
            self.rest
                .delete(&resource.path(namespace, &object.name), &options)
                .await?;
        }
        if again {
            return self.list(namespace, resource).await;
        }
        Ok(left)
    }

    async fn finalize(&self, ns: &Namespace) -> Result<()> {
        let path = Namespace::KIND.at(&ns.metadata);
        let mut live: Value = match self.rest.get(&path).await {
            Ok(v) => v,
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e),
        };
        if live.pointer("/metadata/uid").and_then(Value::as_str) != Some(&ns.metadata.uid) {
            return Ok(());
        }
        if let Some(finalizers) = live
            .pointer_mut("/spec/finalizers")
            .and_then(Value::as_array_mut)
        {
            finalizers.retain(|f| f != FINALIZER);
        }
        match self
            .rest
            .put::<Ignored>(&format!("{path}/finalize"), &live)
            .await
        {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn report(&self, ns: &Namespace, found: &Discovered, remains: &Remains) -> Result<()> {
        let conditions = conditions(&ns.status.conditions, found, remains);
        if conditions == ns.status.conditions {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": ns.metadata.resource_version},
            "status": {"phase": "Terminating", "conditions": conditions},
        });
        let path = format!("{}/status", Namespace::KIND.at(&ns.metadata));
        match self.rest.merge::<Ignored>(&path, &patch).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e),
        }
    }
}
