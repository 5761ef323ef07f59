//! Attach and detach: a VolumeAttachment for each volume that a Pod on a node needs attached, for the driver's external attacher to act on (`pkg/controller/volume/attachdetach`).

mod plan;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde_json::json;

use self::plan::{Attached, Step, Wanted, plan};
use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        recorder::Recorder,
        rest::{Delete, Ignored, Rest},
        work::{Next, work},
    },
    objects::{
        csi::{CsiDriver, VolumeAttachment},
        meta::{Key, Meta, Object, now},
        node::Node,
        pod::Pod,
        volume::{Claim, Volume},
    },
};

const NAME: &str = "attachdetach";
const SOURCE: &str = "attachdetach-controller";
/// A volume whose node does not say that it's unmounted is detached by force after this.
const UNMOUNT_PATIENCE_S: i64 = 6 * 60;
const LOOK_AGAIN: Duration = Duration::from_secs(10);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

struct Controller {
    rest: Rest,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    claims: Arc<Cache<Claim>>,
    volumes: Arc<Cache<Volume>>,
    drivers: Arc<Cache<CsiDriver>>,
    attachments: Arc<Cache<VolumeAttachment>>,
    /// node names
    queue: Queue<Key>,
}

/// The attach/detach controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let caches = &ctx.caches;
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        recorder: ctx.recorder.clone(),
        pods: caches.pods.clone(),
        nodes: caches.nodes.clone(),
        claims: caches.claims.clone(),
        volumes: caches.volumes.clone(),
        drivers: caches.csi_drivers.clone(),
        attachments: caches.attachments.clone(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.pods.on_change(move |old, new| {
        for pod in [old, new].into_iter().flatten() {
            if !pod.spec.node_name.is_empty() && pod.claims().next().is_some() {
                me.queue.add(Key::new("", &pod.spec.node_name));
            }
        }
    });
    let me = c.clone();
    c.nodes.on_change(move |old, new| {
        let of = |n: Option<&Arc<Node>>| n.map(|n| n.status.volumes_in_use.clone());
        if (new.is_none() || of(old) != of(new))
            && let Some(node) = new.or(old)
        {
            me.queue.add(Key::new("", &node.metadata.name));
        }
    });
    let me = c.clone();
    c.attachments.on_change(move |old, new| {
        if let Some(a) = new.or(old) {
            me.tell(old, new);
            me.queue.add(Key::new("", &a.spec.node_name));
        }
    });
    let me = c.clone();
    c.volumes.on_change(move |_, new| {
        if new.is_some_and(|v| v.spec.csi.is_some() && v.spec.claim_ref.is_some()) {
            me.all();
        }
    });
    let me = c.clone();
    c.drivers.on_change(move |_, _| me.all());
    // a claim that is bound after its Pod was put on a node
    let me = c.clone();
    c.claims.on_change(move |old, new| {
        if let Some(claim) = new
            && !claim.spec.volume_name.is_empty()
            && old.is_none_or(|o| o.spec.volume_name.is_empty())
        {
            me.all();
        }
    });
    Box::pin(async move {
        c.pods.synced().await;
        c.nodes.synced().await;
        c.claims.synced().await;
        c.volumes.synced().await;
        c.drivers.synced().await;
        c.attachments.synced().await;
        work(NAME, &c.queue, 2, |key| c.reconcile(key)).await;
    })
}

impl Controller {
    fn all(&self) {
        self.nodes
            .each(|n| self.queue.add(Key::new("", &n.metadata.name)));
    }

    /// What a Pod that waits should hear.
    fn tell(&self, old: Option<&Arc<VolumeAttachment>>, new: Option<&Arc<VolumeAttachment>>) {
        let Some(new) = new else { return };
        let name = &new.spec.source.persistent_volume_name;
        let error =
            |a: &VolumeAttachment| a.status.attach_error.as_ref().map(|e| e.message.clone());
        let attached = new.status.attached && old.is_some_and(|o| !o.status.attached);
        let failed = error(new).filter(|e| old.and_then(|o| error(o)).as_ref() != Some(e));
        if !attached && failed.is_none() {
            return;
        }
        for pod in self.users(&new.spec.node_name, name) {
            match &failed {
                Some(e) if !new.status.attached => self.recorder.warning(
                    &*pod,
                    SOURCE,
                    "FailedAttachVolume",
                    format!("AttachVolume.Attach failed for volume {name:?} : {e}"),
                ),
                _ if attached => self.recorder.normal(
                    &*pod,
                    SOURCE,
                    "SuccessfulAttachVolume",
                    format!("AttachVolume.Attach succeeded for volume {name:?} "),
                ),
                _ => {}
            }
        }
    }

    /// Pods of a node that use a volume.
    fn users(&self, node: &str, volume: &str) -> Vec<Arc<Pod>> {
        let mut found = vec![];
        self.pods.each(|p| {
            if &*p.spec.node_name == node
                && p.claims().any(|c| {
                    let claim = self.claims.get(&p.metadata.namespace, &c);
                    claim.is_some_and(|c| &*c.spec.volume_name == volume)
                })
            {
                found.push(p.clone());
            }
        });
        found
    }

    /// Whether volumes of the driver are attached at all; so they are when nobody says otherwise.
    fn attaches(&self, driver: &str) -> bool {
        self.drivers
            .get("", driver)
            .and_then(|d| d.spec.attach_required)
            .unwrap_or(true)
    }

    /// The volumes that Pods of the node need, by attachment.
    fn wanted(&self, node: &str) -> BTreeMap<Box<str>, Wanted> {
        let mut wanted = BTreeMap::new();
        self.pods.each(|p| {
            if &*p.spec.node_name != node || p.terminal() {
                return;
            }
            for name in p.claims() {
                let Some(claim) = self.claims.get(&p.metadata.namespace, &name) else {
                    continue;
                };
                let Some(volume) = self
                    .volumes
                    .get("", &claim.spec.volume_name)
                    .filter(|v| v.is_bound_to(&claim))
                else {
                    continue;
                };
                let Some(csi) = volume
                    .spec
                    .csi
                    .as_ref()
                    .filter(|c| self.attaches(&c.driver))
                else {
                    continue;
                };
                let w = Wanted {
                    volume: volume.metadata.name.clone(),
                    driver: csi.driver.clone(),
                    handle: csi.volume_handle.clone(),
                    exclusive: volume.exclusive(),
                    pod: p.metadata.key(),
                };
                wanted.entry(w.attachment(node)).or_insert(w);
            }
        });
        wanted
    }

    async fn reconcile(&self, key: Key) -> Result<Next> {
        let node_name = &*key.name;
        let node = self.nodes.get("", node_name);
        let wanted = self.wanted(node_name);
        let mut present = vec![];
        self.attachments.each(|a| {
            let source = &a.spec.source.persistent_volume_name;
            let csi = self
                .volumes
                .get("", source)
                .and_then(|v| v.spec.csi.clone());
            // those that others made by other names are theirs
            let Some(csi) = csi else { return };
            let w = Wanted {
                volume: source.clone(),
                driver: csi.driver,
                handle: csi.volume_handle,
                exclusive: false,
                pod: Key::new("", ""),
            };
            let here = &*a.spec.node_name == node_name;
            if w.attachment(&a.spec.node_name) == a.metadata.name {
                present.push(Attached {
                    name: a.metadata.name.clone(),
                    unique: w.unique(),
                    volume: w.volume,
                    here,
                    attached: a.status.attached,
                    leaving: a.metadata.deleting(),
                });
            }
        });
        let in_use = node
            .as_ref()
            .map(|n| n.status.volumes_in_use.clone())
            .unwrap_or_default();
        let forced = node
            .as_ref()
            .is_none_or(|n| n.spec.taints.iter().any(|t| &*t.key == OUT_OF_SERVICE));
        let mut next = Next::Wait;
        let steps = plan(&wanted, &present, &in_use, forced);
        if let Some(node) = &node {
            self.report(node, &wanted, &present).await?;
        }
        for step in steps {
            match step {
                Step::Attach(name) => self.attach(&name, &wanted[&name], node_name).await?,
                Step::Wait(name) => {
                    let since = self
                        .attachments
                        .get("", &name)
                        .and_then(|a| a.metadata.creation_timestamp);
                    // the node may be gone for good: nothing tells but time
                    let ready = node.as_ref().is_some_and(|n| n.ready());
                    if !ready && since.is_some_and(|s| now() - s > UNMOUNT_PATIENCE_S) {
                        self.detach(&name).await?;
                    } else {
                        next = next.sooner(Next::After(LOOK_AGAIN));
                    }
                }
                Step::Detach(name) if forced => self.detach(&name).await?,
                // the cache may lag behind: only the server's word counts
                Step::Detach(name) => match self.mounted(node_name, &name, &present).await? {
                    true => next = next.sooner(Next::After(LOOK_AGAIN)),
                    false => self.detach(&name).await?,
                },
                Step::Elsewhere(name) => {
                    let w = &wanted[&name];
                    if let Some(pod) = self.pods.at(&w.pod) {
                        self.recorder.warning(
                            &*pod,
                            SOURCE,
                            "FailedAttachVolume",
                            format!("Multi-Attach error for volume {:?} Volume is already exclusively attached to one node and can't be attached to another", &*w.volume),
                        );
                    }
                    next = next.sooner(Next::After(LOOK_AGAIN));
                }
            }
        }
        Ok(next)
    }

    async fn attach(&self, name: &str, wanted: &Wanted, node: &str) -> Result<()> {
        let body = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": VolumeAttachment::KIND.kind,
            "metadata": {"name": name},
            "spec": {
                "attacher": wanted.driver,
                "nodeName": node,
                "source": {"persistentVolumeName": wanted.volume},
            },
        });
        let collection = VolumeAttachment::KIND.collection("");
        match self.rest.create::<Ignored>(&collection, &body).await {
            Err(e) if !e.is_already_exists() => Err(e),
            _ => Ok(()),
        }
    }

    /// Whether the node says that what was attached by this name is in use.
    async fn mounted(&self, node: &str, name: &str, present: &[Attached]) -> Result<bool> {
        let Some(attached) = present.iter().find(|a| &*a.name == name) else {
            return Ok(false);
        };
        match self.rest.get::<Node>(&Node::KIND.path("", node)).await {
            Ok(node) => Ok(node.status.volumes_in_use.contains(&attached.unique)),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    async fn detach(&self, name: &str) -> Result<()> {
        let Some(a) = self.attachments.get("", name) else {
            return Ok(());
        };
        let meta: &Meta = &a.metadata;
        let path = VolumeAttachment::KIND.at(meta);
        match self.rest.delete(&path, &Delete::uid(&meta.uid)).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    /// `status.volumesAttached` of the Node: what is attached and stays so.
    async fn report(
        &self,
        node: &Node,
        wanted: &BTreeMap<Box<str>, Wanted>,
        present: &[Attached],
    ) -> Result<()> {
        let mut names: Vec<&str> = present
            .iter()
            .filter(|a| a.here && a.attached && !a.leaving && wanted.contains_key(&a.name))
            .map(|a| &*a.unique)
            .collect();
        names.sort_unstable();
        let mut before: Vec<&str> = node
            .status
            .volumes_attached
            .iter()
            .map(|a| &*a.name)
            .collect();
        before.sort_unstable();
        if names == before {
            return Ok(());
        }
        let list: Vec<_> = names
            .iter()
            .map(|n| json!({"name": n, "devicePath": ""}))
            .collect();
        let patch = json!({"status": {"volumesAttached": list}});
        let path = format!("{}/status", Node::KIND.at(&node.metadata));
        self.rest.merge::<Ignored>(&path, &patch).await.map(drop)
    }
}
