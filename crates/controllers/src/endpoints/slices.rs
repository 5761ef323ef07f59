//! EndpointSlice controller (`pkg/controller/endpointslice`).

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{
    addresses::{families, groups},
    affected, managed,
    plan::plan,
    store::Store,
};
use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        rest::Rest,
        work::{Next, WORKERS, work},
        written::Written,
    },
    objects::{
        meta::{Key, Labels, Object},
        node::Node,
        pod::Pod,
        service::{EndpointSlice, Service},
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

struct Controller {
    rest: Rest,
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    slices: Arc<Cache<EndpointSlice>>,
    queue: Queue<Key>,
    /// slices, by service
    written: Written,
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
        written: Written::default(),
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
        if let Some(wait) = self.written.ahead(&key, self.slices.seen()) {
            return Ok(Next::After(wait));
        }
        let selector = service.spec.selector.clone().unwrap_or_default();
        let pods = self
            .pods
            .in_namespace(&key.namespace, |p| selector.subset_of(&p.metadata.labels));
        let existing = self
            .slices
            .in_namespace(&key.namespace, |s| owner(s) == Some(&key.name));
        let labels = labels(&service);
        let families = families(&service);
        let store = Store {
            rest: &self.rest,
            written: &self.written,
            key: &key,
            owner: service.controller_ref(),
            labels: &labels,
            annotations: None,
        };
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
            store.carry_out(&plan, family, &existing).await?;
        }
        for slice in existing
            .iter()
            .filter(|s| !families.contains(&&*s.address_type))
        {
            store.delete(slice).await?;
        }
        Ok(Next::Wait)
    }
}
