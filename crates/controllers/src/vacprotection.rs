//! VolumeAttributesClasses stay while a claim or a volume names them (`pkg/controller/volume/vacprotection`).

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::json;

use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        rest::{Ignored, Rest},
        work::{Next, work},
    },
    objects::{
        meta::{Key, Object},
        volume::{AttributesClass, Claim, Volume},
    },
};

const NAME: &str = "vacprotection";
const FINALIZER: &str = "kubernetes.io/vac-protection";

struct Controller {
    rest: Rest,
    classes: Arc<Cache<AttributesClass>>,
    claims: Arc<Cache<Claim>>,
    volumes: Arc<Cache<Volume>>,
    queue: Queue<Key>,
}

/// The controller that protects VolumeAttributesClasses.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let caches = &ctx.caches;
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        classes: caches.attributes_classes.clone(),
        claims: caches.claims.clone(),
        volumes: caches.volumes.clone(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.classes.on_change(move |_, new| {
        if let Some(class) = new {
            me.queue.add(class.metadata.key());
        }
    });
    // whoever no longer names a class may have been the last
    let me = c.clone();
    c.claims.on_change(move |old, _| {
        for name in old.iter().flat_map(|c| c.attributes_classes()) {
            me.queue.add(Key::new("", name));
        }
    });
    let me = c.clone();
    c.volumes.on_change(move |old, _| {
        let name = old.and_then(|v| v.spec.volume_attributes_class_name.as_ref());
        if let Some(name) = name {
            me.queue.add(Key::new("", name));
        }
    });
    Box::pin(async move {
        c.classes.synced().await;
        c.claims.synced().await;
        c.volumes.synced().await;
        work(NAME, &c.queue, 1, |key| c.reconcile(key)).await;
    })
}

impl Controller {
    fn used(&self, name: &str) -> bool {
        let mut used = false;
        self.claims
            .each(|c| used |= c.attributes_classes().any(|n| n == name));
        self.volumes.each(|v| {
            used |= v.spec.volume_attributes_class_name.as_deref() == Some(name);
        });
        used
    }

    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(class) = self.classes.at(&key) else {
            return Ok(Next::Wait);
        };
        let meta = &class.metadata;
        let protected = meta.finalizers.iter().any(|f| &**f == FINALIZER);
        let mut finalizers: Vec<&str> = meta.finalizers.iter().map(|f| &**f).collect();
        match (meta.deleting(), protected) {
            (false, false) => finalizers.push(FINALIZER),
            (true, true) if !self.used(&meta.name) => finalizers.retain(|f| *f != FINALIZER),
            _ => return Ok(Next::Wait),
        }
        let patch = json!({"metadata": {
            "resourceVersion": meta.resource_version, "finalizers": finalizers,
        }});
        let path = AttributesClass::KIND.at(meta);
        match self.rest.merge::<Ignored>(&path, &patch).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(Next::Wait),
        }
    }
}
