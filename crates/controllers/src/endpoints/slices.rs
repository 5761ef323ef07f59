//! EndpointSlice controller (`pkg/controller/endpointslice`).

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::json;

use super::{
    addresses::{families, groups},
    affected, managed,
    plan::{Content, plan},
};
use crate::{
    error::{Error, Result},
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        rest::{Delete, Ignored, Rest},
        work::{Next, WORKERS, work},
    },
    objects::{
        meta::{Key, Labels, Meta, Object},
        node::Node,
        pod::Pod,
        service::{EndpointSlice, Service},
        template::safe_hash,
    },
};

const NAME: &str = "endpointslice";
/// Label: the service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label: who keeps the slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Label: the service has no address.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Names tried before giving up until later.
const NAMES_MAX: u32 = 16;

struct Controller {
    rest: Rest,
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    slices: Arc<Cache<EndpointSlice>>,
    queue: Queue<Key>,
}

/// The EndpointSlice controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        services: ctx.caches.services.clone(),
        pods: ctx.caches.pods.clone(),
        nodes: ctx.caches.nodes.clone(),
        slices: ctx.caches.slices.clone(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.services.on_change(move |old, new| {
        if let Some(s) = new.or(old) {
            me.queue.add(s.metadata.key());
        }
    });
    let me = c.clone();
    c.pods.on_change(move |old, new| {
        for key in affected(&me.services, old, new) {
            me.queue.add(key);
        }
    });
    let me = c.clone();
    c.slices.on_change(move |old, new| {
        // ours that someone else changed or deleted
        for s in [old, new].into_iter().flatten() {
            if let Some(service) = owner(s) {
                me.queue.add(Key::new(&s.metadata.namespace, service));
            }
        }
    });
    c.nodes.want();
    Box::pin(async move {
        c.services.synced().await;
        c.pods.synced().await;
        c.nodes.synced().await;
        c.slices.synced().await;
        work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
    })
}

/// The service of a slice that we keep.
fn owner(slice: &EndpointSlice) -> Option<&str> {
    let labels = &slice.metadata.labels;
    (labels.get(MANAGED_BY) == Some(MANAGER))
        .then(|| labels.get(SERVICE_NAME))
        .flatten()
}

/// Labels of a service's slices.
fn labels(service: &Service) -> Labels {
    let mut all: Labels = service
        .metadata
        .labels
        .iter()
        .filter(|(k, _)| ![HEADLESS, SERVICE_NAME, MANAGED_BY].contains(k))
        .collect();
    all.set(SERVICE_NAME, &service.metadata.name);
    all.set(MANAGED_BY, MANAGER);
    if service.headless() {
        all.set(HEADLESS, "");
    }
    all
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next> {
        // slices of a service that's gone are garbage, and collected
        let Some(service) = self
            .services
            .at(&key)
            .filter(|s| managed(s) && !s.metadata.deleting())
        else {
            return Ok(Next::Wait);
        };
        let selector = service.spec.selector.clone().unwrap_or_default();
        let pods = self
            .pods
            .in_namespace(&key.namespace, |p| selector.subset_of(&p.metadata.labels));
        let existing = self
            .slices
            .in_namespace(&key.namespace, |s| owner(s) == Some(&key.name));
        let labels = labels(&service);
        let families = families(&service);
        for family in &families {
            let wanted = groups(&service, family, &pods, |node| {
                let node = self.nodes.get("", node)?;
                node.metadata.labels.get(ZONE).map(Into::into)
            });
            let of_family: Vec<_> = existing
                .iter()
                .filter(|s| &*s.address_type == *family)
                .cloned()
                .collect();
            let plan = plan(wanted, &of_family, &labels);
            // new endpoints before old ones go
            for content in &plan.create {
                self.create(&service, family, &labels, content, &existing)
                    .await?;
            }
            for (slice, content) in &plan.update {
                let mut patch_labels = json!(labels);
                for (k, _) in slice.metadata.labels.iter() {
                    if labels.get(k).is_none() {
                        patch_labels[k] = serde_json::Value::Null;
                    }
                }
                let patch = json!({
                    "metadata": {
                        "resourceVersion": slice.metadata.resource_version,
                        "labels": patch_labels,
                    },
                    "endpoints": content.endpoints,
                    "ports": content.ports,
                });
                self.rest
                    .merge::<Ignored>(&EndpointSlice::KIND.at(&slice.metadata), &patch)
                    .await?;
            }
            for slice in &plan.delete {
                self.delete(slice).await?;
            }
        }
        for slice in existing
            .iter()
            .filter(|s| !families.contains(&&*s.address_type))
        {
            self.delete(slice).await?;
        }
        Ok(Next::Wait)
    }

    async fn delete(&self, slice: &EndpointSlice) -> Result<()> {
        let meta = &slice.metadata;
        self.rest
            .delete(&EndpointSlice::KIND.at(meta), &Delete::uid(&meta.uid))
            .await
    }

    /// Names are derived, not random: with a cache that lags behind, the second attempt meets the first.
    async fn create(
        &self,
        service: &Service,
        family: &str,
        labels: &Labels,
        content: &Content,
        existing: &[Arc<EndpointSlice>],
    ) -> Result<()> {
        let meta = &service.metadata;
        let collection = EndpointSlice::KIND.collection(&meta.namespace);
        for i in 0.. {
            let hash = safe_hash(format!("{}{family}{i}", meta.uid).as_bytes(), None);
            let base = &meta.name[..meta.name.len().min(57)];
            let name = format!("{base}-{}", &hash[hash.len().saturating_sub(5)..]);
            if existing.iter().any(|s| *s.metadata.name == *name) {
                continue;
            }
            let body = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": name, "namespace": meta.namespace, "labels": labels,
                    "ownerReferences": [service.controller_ref()],
                },
                "addressType": family,
                "endpoints": content.endpoints,
                "ports": content.ports,
            });
            match self.rest.create::<Ignored>(&collection, &body).await {
                Ok(_) => return Ok(()),
                Err(e) if e.is_namespace_terminating() => return Ok(()),
                Err(e) if e.is_already_exists() => {
                    #[derive(serde::Deserialize)]
                    struct Existing {
                        metadata: Meta,
                    }
                    let path = EndpointSlice::KIND.path(&meta.namespace, &name);
                    let there: Existing = self.rest.get(&path).await?;
                    if there.metadata.controlled_by(&meta.uid) || i > NAMES_MAX {
                        return Err(e);
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Err(Error::Other(format!(
            "no free name for a slice of service {}",
            meta.key()
        )))
    }
}
