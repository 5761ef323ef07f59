//! Deployment: templates replaced by a rollout (`pkg/controller/deployment`).

mod progress;
mod revision;
mod sets;
mod size;

use std::sync::Arc;

use futures::future::BoxFuture;

use self::{
    sets::Rollout,
    size::{Share, Size},
};
use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        ownership,
        queue::Queue,
        recorder::Recorder,
        rest::Rest,
        status,
        work::{Next, WORKERS, work},
    },
    objects::{
        meta::Key,
        pod::{Phase, Pod},
        workload::{Deployment, DeploymentStatus, ReplicaSet},
    },
};

const NAME: &str = "deployment";
const SOURCE: &str = "deployment-controller";

pub(crate) struct Controller {
    rest: Rest,
    recorder: Recorder,
    pods: Arc<Cache<Pod>>,
    sets: Arc<Cache<ReplicaSet>>,
    deployments: Arc<Cache<Deployment>>,
    queue: Queue<Key>,
}

/// The Deployment controller.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        recorder: ctx.recorder.clone(),
        pods: ctx.caches.pods.clone(),
        sets: ctx.caches.replica_sets.clone(),
        deployments: ctx.caches.deployments.clone(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.deployments.on_change(move |old, new| {
        if let Some(d) = new.or(old) {
            me.queue.add(d.metadata.key());
        }
    });
    let me = c.clone();
    c.sets.on_change(move |old, new| {
        for set in old.iter().chain(&new) {
            me.wake(set);
        }
    });
    let me = c.clone();
    c.pods.on_change(move |old, new| {
        // Recreate waits for the last old pod to go
        let Some(pod) = new.or(old) else { return };
        let ended = new.is_none() || pod.terminal();
        if ended
            && let Some(o) = pod.metadata.controller()
            && &*o.kind == "ReplicaSet"
            && let Some(set) = me.sets.get(&pod.metadata.namespace, &o.name)
            && let Some(d) = me.owner(&set)
            && size::recreates(&d.spec)
        {
            me.queue.add(d.metadata.key());
        }
    });
    Box::pin(async move {
        c.deployments.synced().await;
        c.sets.synced().await;
        c.pods.synced().await;
        work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
    })
}

impl Controller {
    fn owner(&self, set: &ReplicaSet) -> Option<Arc<Deployment>> {
        let o = set.metadata.controller()?;
        if &*o.kind != "Deployment" {
            return None;
        }
        let d = self.deployments.get(&set.metadata.namespace, &o.name)?;
        (d.metadata.uid == o.uid).then_some(d)
    }

    fn wake(&self, set: &ReplicaSet) {
        if let Some(d) = self.owner(set) {
            self.queue.add(d.metadata.key());
        } else if set.metadata.controller().is_none() {
            for d in self.deployments.in_namespace(&set.metadata.namespace, |d| {
                !d.spec.selector.is_empty() && d.spec.selector.matches(&set.metadata.labels)
            }) {
                self.queue.add(d.metadata.key());
            }
        }
    }

    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(d) = self.deployments.at(&key) else {
            return Ok(Next::Wait);
        };
        if d.spec.selector.is_empty() {
            self.recorder.warning(
                &*d,
                SOURCE,
                "SelectingAll",
                "This deployment is selecting all pods. A non-empty selector is required.".into(),
            );
            return Ok(Next::Wait);
        }
        let candidates = self.sets.in_namespace(&key.namespace, |_| true);
        let sets = ownership::claim(&self.rest, &*d, &d.spec.selector, candidates).await?;
        let (new, old) = sets::sort(&d, sets);
        let mut r = Rollout {
            status: d.status.clone(),
            d,
            new,
            old,
        };
        if r.d.metadata.deleting() {
            let s = progress::count(&r.d, &r.status, &r.all(), r.new.as_deref());
            self.write_status(&mut r, s).await?;
            return Ok(Next::Wait);
        }
        progress::note_pause(&r.d, &mut r.status);
        if r.d.spec.paused || scaled(&r) {
            self.sync_new(&mut r, false).await?;
            self.scale(&mut r).await?;
            if r.d.spec.paused {
                self.clean_up(&r).await?;
            }
            let s = progress::count(&r.d, &r.status, &r.all(), r.new.as_deref());
            return self.write_status(&mut r, s).await;
        }
        if size::recreates(&r.d.spec) {
            self.recreate(&mut r).await?;
        } else {
            self.roll(&mut r).await?;
        }
        let s = progress::rollout(&r.d, &r.status, &r.all(), r.new.as_deref());
        let done = size::complete(&r.d, s.updated_replicas, s.replicas, s.available_replicas);
        let next = self.write_status(&mut r, s).await?;
        if done {
            self.clean_up(&r).await?;
        }
        Ok(next)
    }

    /// One step of a rolling update: up if there's room, else down if enough is available.
    async fn roll(&self, r: &mut Rollout) -> Result<()> {
        self.sync_new(r, true).await?;
        let Some(new) = r.new.clone() else {
            return Ok(());
        };
        let size = size::grow_new(&r.d.spec, r.wanted(), new.spec.replicas);
        if size != new.spec.replicas {
            if let Some(n) = self.resize(&r.d, &new, size).await? {
                r.new = Some(n);
            }
            return Ok(());
        }
        let size_of = |s: &ReplicaSet| Size {
            wanted: s.spec.replicas,
            available: s.status.available_replicas,
        };
        let mut sizes: Vec<Size> = r.old.iter().map(|s| size_of(s)).collect();
        size::shrink_old(&r.d.spec, size_of(&new), &mut sizes);
        for (i, size) in sizes.iter().enumerate() {
            if size.wanted != r.old[i].spec.replicas
                && let Some(n) = self.resize(&r.d, &r.old[i], size.wanted).await?
            {
                r.old[i] = n;
            }
        }
        Ok(())
    }

    /// All old pods go, then the new ones come.
    async fn recreate(&self, r: &mut Rollout) -> Result<()> {
        self.sync_new(r, false).await?;
        let mut scaled_down = false;
        for i in 0..r.old.len() {
            if r.old[i].spec.replicas > 0
                && let Some(n) = self.resize(&r.d, &r.old[i], 0).await?
            {
                r.old[i] = n;
                scaled_down = true;
            }
        }
        if scaled_down || self.old_pods_run(r) {
            return Ok(());
        }
        if r.new.is_none() {
            self.sync_new(r, true).await?;
        }
        if let Some(new) = r.new.clone()
            && let Some(n) = self.resize(&r.d, &new, r.d.spec.replicas).await?
        {
            r.new = Some(n);
        }
        Ok(())
    }

    fn old_pods_run(&self, r: &Rollout) -> bool {
        let old: Vec<&str> = r.old.iter().map(|s| &*s.metadata.uid).collect();
        !self
            .pods
            .in_namespace(&r.d.metadata.namespace, |p| {
                !matches!(p.status.phase, Phase::Succeeded | Phase::Failed)
                    && p.metadata
                        .controller()
                        .is_some_and(|c| old.contains(&&*c.uid))
            })
            .is_empty()
    }

    /// Brings sizes in line with `spec.replicas` without a step of a rollout (`scale`).
    async fn scale(&self, r: &mut Rollout) -> Result<()> {
        if let Some(one) = active_or_latest(r) {
            if one.spec.replicas != r.d.spec.replicas || scaled_set(&r.d, &one) {
                self.put_size(r, &one, r.d.spec.replicas).await?;
            }
            return Ok(());
        }
        if let Some(new) = &r.new
            && saturated(&r.d, new)
        {
            for old in r.old.clone() {
                if old.spec.replicas > 0 {
                    self.put_size(r, &old, 0).await?;
                }
            }
            return Ok(());
        }
        if size::recreates(&r.d.spec) {
            return Ok(());
        }
        let active: Vec<_> = r
            .all()
            .into_iter()
            .filter(|s| s.spec.replicas > 0)
            .collect();
        let shares: Vec<Share> = active
            .iter()
            .map(|s| Share {
                wanted: s.spec.replicas,
                max_before: revision::number(&s.metadata.annotations, revision::MAX_REPLICAS),
                created: s.metadata.creation_timestamp.unwrap_or(0),
            })
            .collect();
        let sizes = size::proportional(&r.d.spec, r.d.status.replicas, &shares);
        for (set, size) in active.iter().zip(sizes) {
            self.put_size(r, set, size).await?;
        }
        Ok(())
    }

    async fn put_size(&self, r: &mut Rollout, set: &ReplicaSet, size: i32) -> Result<()> {
        if let Some(n) = self.resize(&r.d, set, size).await? {
            for slot in r.old.iter_mut().chain(&mut r.new) {
                if slot.metadata.uid == n.metadata.uid {
                    *slot = n.clone();
                }
            }
        }
        Ok(())
    }

    /// Writes the status if it changed; says when the deadline is.
    async fn write_status(&self, r: &mut Rollout, new: DeploymentStatus) -> Result<Next> {
        if new != r.d.status {
            r.d = Arc::new(status::write(&self.rest, &*r.d, &new, &["terminatingReplicas"]).await?);
        }
        Ok(progress::deadline(&r.d, &new))
    }
}

/// The set was sized for another `spec.replicas`.
fn scaled_set(d: &Deployment, set: &ReplicaSet) -> bool {
    revision::number(&set.metadata.annotations, revision::DESIRED_REPLICAS)
        .is_some_and(|n| n != d.spec.replicas)
}

/// The Deployment was scaled since its active sets got their sizes.
fn scaled(r: &Rollout) -> bool {
    r.old
        .iter()
        .chain(&r.new)
        .any(|s| s.spec.replicas > 0 && scaled_set(&r.d, s))
}

/// The only active set, or the latest when none is; None when there are several.
fn active_or_latest(r: &Rollout) -> Option<Arc<ReplicaSet>> {
    let all = r.all();
    let mut active = all.iter().filter(|s| s.spec.replicas > 0);
    match (active.next(), active.next()) {
        (None, _) => r.new.clone().or_else(|| r.old.last().cloned()),
        (Some(one), None) => Some(one.clone()),
        _ => None,
    }
}

/// The new set is all there is to be.
fn saturated(d: &Deployment, new: &ReplicaSet) -> bool {
    new.spec.replicas == d.spec.replicas
        && revision::number(&new.metadata.annotations, revision::DESIRED_REPLICAS)
            == Some(d.spec.replicas)
        && new.status.available_replicas == d.spec.replicas
}
