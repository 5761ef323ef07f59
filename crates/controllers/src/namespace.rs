//! Namespace deletion: everything in it goes, then it does (`pkg/controller/namespace`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

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
        status,
        work::{Next, work},
    },
    objects::{
        meta::{Condition, Key, Meta, Object, nullable},
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

/// What's still there after a pass.
#[derive(Default)]
struct Remains {
    /// resource → objects
    objects: BTreeMap<String, usize>,
    /// finalizer → objects
    finalizers: BTreeMap<String, usize>,
    /// what couldn't be deleted
    errors: Vec<String>,
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
        let done =
            remains.objects.is_empty() && remains.errors.is_empty() && found.failed.is_empty();
        if done {
            self.finalize(&ns).await?;
            return Ok(Next::Wait);
        }
        self.report(&ns, &found, &remains).await?;
        if !remains.errors.is_empty() || !found.failed.is_empty() {
            let all: Vec<_> = found
                .failed
                .iter()
                .chain(&remains.errors)
                .cloned()
                .collect();
            return Err(crate::error::Error::Other(format!(
                "namespace {} can't be emptied: {}",
                key.name,
                all.join("; ")
            )));
        }
        Ok(Next::After(LOOK_AGAIN))
    }

    /// One pass over all kinds; pods first, events last.
    async fn empty(&self, namespace: &str, resources: &[Arc<Resource>]) -> Remains {
        let mut remains = Remains::default();
        let mut order: Vec<_> = resources
            .iter()
            .filter(|r| r.namespaced && r.deletable)
            .collect();
        order.sort_by_key(|r| {
            let pods = r.group.is_empty() && &*r.plural == "pods";
            (!pods, r.is_event())
        });
        for resource in order {
            match self.empty_of(namespace, resource).await {
                Ok(left) if left.is_empty() => {}
                Ok(left) => {
                    for object in &left {
                        for f in &object.finalizers {
                            *remains.finalizers.entry(f.to_string()).or_default() += 1;
                        }
                    }
                    remains
                        .objects
                        .insert(resource.group_resource(), left.len());
                }
                Err(e) => remains
                    .errors
                    .push(format!("{}: {e}", resource.group_resource())),
            }
        }
        remains
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

/// What `kubectl describe namespace` shows of a deletion that takes its time (`status_condition_utils.go`).
fn conditions(old: &[Condition], found: &Discovered, remains: &Remains) -> Vec<Condition> {
    let list = |all: &BTreeMap<String, usize>, f: fn(&str, usize) -> String| {
        all.iter()
            .map(|(k, n)| f(k, *n))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let discovery = (!found.failed.is_empty()).then(|| {
        format!(
            "Discovery failed for some groups, {} failing: {}",
            found.failed.len(),
            found.failed.join("; ")
        )
    });
    let content = (!remains.errors.is_empty()).then(|| {
        format!(
            "Failed to delete all resource types, {} remaining: {}",
            remains.errors.len(),
            remains.errors.join("; ")
        )
    });
    let left = (!remains.objects.is_empty()).then(|| {
        format!(
            "Some resources are remaining: {}",
            list(&remains.objects, |r, n| format!(
                "{r} has {n} resource instances"
            ))
        )
    });
    let finalizers = (!remains.finalizers.is_empty()).then(|| {
        format!(
            "Some content in the namespace has finalizers remaining: {}",
            list(&remains.finalizers, |f, n| format!(
                "{f} in {n} resource instances"
            ))
        )
    });
    let mut all = old.to_vec();
    for (kind, bad, reason, good, good_message) in [
        (
            "NamespaceDeletionDiscoveryFailure",
            discovery,
            "DiscoveryFailed",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            "GroupVersionParsingFailed",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            content,
            "ContentDeletionFailed",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            left,
            "SomeResourcesRemain",
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            finalizers,
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ] {
        let new = match bad {
            Some(message) => status::condition(kind, "True", reason, message),
            None => status::condition(kind, "False", good, good_message.into()),
        };
        match all.iter_mut().find(|c| *c.kind == *kind) {
            Some(c) if c.status == new.status && c.reason == new.reason => {
                c.message = new.message;
            }
            Some(c) => *c = new,
            None => all.push(new),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_remains() {
        let remains = Remains {
            objects: [("pods".into(), 2)].into(),
            finalizers: [("example.com/x".into(), 1)].into(),
            errors: vec![],
        };
        let found = Discovered::default();
        let first = conditions(&[], &found, &remains);
        let show: Vec<_> = first
            .iter()
            .map(|c| format!("{}={} {}", c.kind, c.status, c.message))
            .collect();
        assert_eq!(
            show[2..],
            [
                "NamespaceDeletionContentFailure=False All content successfully deleted, may be waiting on finalization",
                "NamespaceContentRemaining=True Some resources are remaining: pods has 2 resource instances",
                "NamespaceFinalizersRemaining=True Some content in the namespace has finalizers remaining: example.com/x in 1 resource instances",
            ]
        );
        assert_eq!(conditions(&first, &found, &remains), first);
    }
}
