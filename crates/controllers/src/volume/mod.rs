//! PersistentVolumes: claims are bound to volumes, volumes are made for claims (local-path) and reclaimed after (`pkg/controller/volume/persistentvolume`).

mod claims;
mod copy;
mod directory;
pub mod matching;
mod provision;
mod reclaim;

use std::{path::PathBuf, sync::Arc};

use futures::future::BoxFuture;
use serde_json::json;

use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        recorder::Recorder,
        rest::{Ignored, Rest},
        work::{WORKERS, work},
    },
    objects::{
        meta::{Key, Meta, Object},
        node::Node,
        pod::Pod,
        volume::{Claim, StorageClass, Volume},
    },
};

const NAME: &str = "volume";
const SOURCE: &str = "persistentvolume-controller";
/// Who makes the volumes of the class `local-path`.
pub const PROVISIONER: &str = "knarr.dev/local-path";
const DEFAULT_CLASS: &str = "local-path";
const DEFAULT_CLASS_MARK: &str = "storageclass.kubernetes.io/is-default-class";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

struct Controller {
    rest: Rest,
    recorder: Recorder,
    root: PathBuf,
    claims: Arc<Cache<Claim>>,
    volumes: Arc<Cache<Volume>>,
    classes: Arc<Cache<StorageClass>>,
    nodes: Arc<Cache<Node>>,
    pods: Arc<Cache<Pod>>,
    claim_queue: Queue<Key>,
    volume_queue: Queue<Key>,
}

/// The volume controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let caches = &ctx.caches;
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        recorder: ctx.recorder.clone(),
        root: ctx.config.volumes_dir.clone(),
        claims: caches.claims.clone(),
        volumes: caches.volumes.clone(),
        classes: caches.classes.clone(),
        nodes: caches.nodes.clone(),
        pods: caches.pods.clone(),
        claim_queue: Queue::default(),
        volume_queue: Queue::default(),
    });
    c.nodes.want();
    let me = c.clone();
    c.claims.on_change(move |old, new| {
        let Some(claim) = new.or(old) else { return };
        me.claim_queue.add(claim.metadata.key());
        if !claim.spec.volume_name.is_empty() {
            me.volume_queue.add(Key::new("", &claim.spec.volume_name));
        }
        let bound = |c: &Arc<Claim>| &*c.status.phase == "Bound";
        if bound(claim) && !old.is_some_and(bound) {
            me.wake_copies_of(claim);
        }
    });
    let me = c.clone();
    c.volumes.on_change(move |old, new| {
        let Some(volume) = new.or(old) else { return };
        me.volume_queue.add(volume.metadata.key());
        match &volume.spec.claim_ref {
            Some(r) => me.claim_queue.add(Key::new(&r.namespace, &r.name)),
            // one more to choose from
            None => me.wake_pending(),
        }
    });
    let me = c.clone();
    c.classes.on_change(move |_, _| me.wake_pending());
    let me = c.clone();
    c.pods.on_change(move |old, new| {
        // a claim in use waits for its last pod
        let ended = new.is_none_or(|p| p.terminal());
        if ended && let Some(pod) = new.or(old) {
            for name in pod.claims() {
                if me
                    .claims
                    .get(&pod.metadata.namespace, &name)
                    .is_some_and(|c| c.metadata.deleting())
                {
                    me.claim_queue.add(Key::new(&pod.metadata.namespace, &name));
                }
            }
        }
    });
    Box::pin(async move {
        c.claims.synced().await;
        c.volumes.synced().await;
        c.classes.synced().await;
        c.nodes.synced().await;
        c.pods.synced().await;
        c.default_class().await;
        futures::join!(
            work("persistentvolumeclaim", &c.claim_queue, WORKERS, |k| c
                .claim(k)),
            work("persistentvolume", &c.volume_queue, WORKERS, |k| c
                .volume(k)),
        );
    })
}

impl Controller {
    /// Claims that are to be copies of one that has come to be.
    fn wake_copies_of(&self, claim: &Claim) {
        let waiting = self.claims.in_namespace(&claim.metadata.namespace, |c| {
            &*c.status.phase != "Bound"
                && c.spec
                    .data_source_ref
                    .as_ref()
                    .is_some_and(|s| s.name == claim.metadata.name)
        });
        for copy in waiting {
            self.claim_queue.add(copy.metadata.key());
        }
    }

    fn wake_pending(&self) {
        self.claims.each(|c| {
            if &*c.status.phase != "Bound" {
                self.claim_queue.add(c.metadata.key());
            }
        });
    }

    /// Where nobody has said how volumes are made: here, in directories.
    async fn default_class(&self) {
        let mut known = false;
        self.classes
            .each(|c| known |= c.is_default() || &*c.metadata.name == DEFAULT_CLASS);
        if known {
            return;
        }
        let body = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": DEFAULT_CLASS, "annotations": {DEFAULT_CLASS_MARK: "true"}},
            "provisioner": PROVISIONER,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "WaitForFirstConsumer",
            "allowVolumeExpansion": true,
        });
        match self
            .rest
            .create::<Ignored>(&StorageClass::KIND.collection(""), &body)
            .await
        {
            Ok(_) => {}
            Err(e) if e.is_already_exists() => {}
            Err(e) => {
                tracing::warn!(error = %e, "the default StorageClass {DEFAULT_CLASS} can't be made: claims without a class stay pending")
            }
        }
    }

    /// Takes a finalizer off.
    async fn unprotect<T: Object>(&self, meta: &Meta, finalizer: &str) -> Result<()> {
        let stay: Vec<_> = meta
            .finalizers
            .iter()
            .filter(|f| &***f != finalizer)
            .collect();
        let patch = json!({"metadata": {
            "resourceVersion": meta.resource_version, "finalizers": stay,
        }});
        match self.rest.merge::<Ignored>(&T::KIND.at(meta), &patch).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e),
        }
    }
}
