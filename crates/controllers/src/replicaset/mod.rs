//! ReplicaSet and ReplicationController: as many pods as wanted (`pkg/controller/replicaset/replica_set.go`).

pub mod ranking;
mod status;

use std::{collections::HashSet, sync::Arc};

use futures::future::{BoxFuture, join_all};

use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        expectations::Expectations,
        ownership,
        pods::{PodControl, slow_start},
        queue::Queue,
        rest::Rest,
        status as write_status,
        work::{Next, WORKERS, work},
    },
    objects::{
        meta::{Key, Object, now},
        pod::Pod,
        template::PodName,
        workload::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus, ReplicationController},
    },
};

/// Pods made or deleted in one go.
const BURST: usize = 500;

/// ReplicaSet and ReplicationController alike.
pub trait Replicator: Object {
    /// controller's name
    const NAME: &'static str;
    /// Events' source
    const SOURCE: &'static str;
    /// its status counts pods that go away
    const COUNTS_TERMINATING: bool;
    /// spec
    fn spec(&self) -> &ReplicaSetSpec;
    /// status
    fn status(&self) -> &ReplicaSetStatus;
}
impl Replicator for ReplicaSet {
    const NAME: &'static str = "replicaset";
    const SOURCE: &'static str = "replicaset-controller";
    const COUNTS_TERMINATING: bool = true;
    fn spec(&self) -> &ReplicaSetSpec {
        &self.spec
    }
    fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }
}
impl Replicator for ReplicationController {
    const NAME: &'static str = "replicationcontroller";
    const SOURCE: &'static str = "replication-controller";
    const COUNTS_TERMINATING: bool = false;
    fn spec(&self) -> &ReplicaSetSpec {
        &self.spec
    }
    fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }
}

struct Controller<R> {
    rest: Rest,
    control: PodControl,
    pods: Arc<Cache<Pod>>,
    sets: Arc<Cache<R>>,
    queue: Queue<Key>,
    expected: Expectations,
}

/// The ReplicaSet controller.
pub fn replica_sets(ctx: &Context) -> BoxFuture<'static, ()> {
    start(ctx, ctx.caches.replica_sets.clone())
}

/// The ReplicationController controller.
pub fn replication_controllers(ctx: &Context) -> BoxFuture<'static, ()> {
    start(ctx, ctx.caches.replication_controllers.clone())
}

fn start<R: Replicator>(ctx: &Context, sets: Arc<Cache<R>>) -> BoxFuture<'static, ()> {
    let rest = ctx.rest(R::NAME);
    let c = Arc::new(Controller {
        control: PodControl::new(rest.clone(), ctx.recorder.clone(), R::SOURCE),
        rest,
        pods: ctx.caches.pods.clone(),
        sets,
        queue: Queue::default(),
        expected: Expectations::default(),
    });
    let me = c.clone();
    c.sets.on_change(move |old, new| {
        if let Some(set) = new.or(old) {
            if new.is_none() {
                me.expected.forget(&set.meta().key());
            }
            me.queue.add(set.meta().key());
        }
    });
    let me = c.clone();
    c.pods.on_change(move |old, new| me.pod_changed(old, new));
    Box::pin(async move {
        c.sets.synced().await;
        c.pods.synced().await;
        work(R::NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
    })
}

impl<R: Replicator> Controller<R> {
    /// The set that controls the pod, if it is of our kind and known.
    fn owner(&self, pod: &Pod) -> Option<Key> {
        let c = pod.metadata.controller()?;
        if &*c.kind != R::KIND.kind {
            return None;
        }
        let set = self.sets.get(&pod.metadata.namespace, &c.name)?;
        (set.meta().uid == c.uid).then(|| set.meta().key())
    }

    fn pod_changed(&self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        match (old, new) {
            (None, Some(pod)) if !pod.metadata.deleting() => match self.owner(pod) {
                Some(key) => {
                    self.expected.created(&key);
                    self.queue.add(key);
                }
                None => self.wake_adopters(pod),
            },
            (Some(old), Some(new)) => {
                if same_to_us(old, new) {
                    return;
                }
                let owner = self.owner(new);
                if new.metadata.deleting()
                    && let Some(key) = &owner
                {
                    self.expected.deleted(key, &new.metadata.uid);
                }
                let before = self.owner(old);
                if before != owner
                    && let Some(key) = before
                {
                    self.queue.add(key);
                }
                match owner {
                    Some(key) => self.queue.add(key),
                    None => self.wake_adopters(new),
                }
            }
            (Some(pod), None) | (None, Some(pod)) => {
                if let Some(key) = self.owner(pod) {
                    self.expected.deleted(&key, &pod.metadata.uid);
                    self.queue.add(key);
                }
            }
            (None, None) => {}
        }
    }

    /// An orphan: sets that select it may take it.
    fn wake_adopters(&self, pod: &Pod) {
        if pod.metadata.controller().is_some() {
            return;
        }
        for set in self.sets.in_namespace(&pod.metadata.namespace, |s| {
            !s.spec().selector.is_empty() && s.spec().selector.matches(&pod.metadata.labels)
        }) {
            self.queue.add(set.meta().key());
        }
    }

    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(set) = self.sets.at(&key) else {
            self.expected.forget(&key);
            return Ok(Next::Wait);
        };
        let met = self.expected.met(&key);
        let selector = &set.spec().selector;
        if selector.is_empty() {
            return Ok(Next::Wait);
        }
        let candidates = self.pods.in_namespace(&key.namespace, |p| p.active());
        let pods = ownership::claim(&self.rest, &*set, selector, candidates).await?;
        let managed = if met && !set.meta().deleting() {
            self.manage(&key, &set, &pods).await
        } else {
            Ok(())
        };
        let (mut status, next) = status::of(&*set, &pods, managed.as_ref().err(), now());
        if R::COUNTS_TERMINATING {
            let going = self.pods.in_namespace(&key.namespace, |p| {
                p.metadata.deleting() && !p.terminal() && p.metadata.controlled_by(&set.meta().uid)
            });
            status.terminating_replicas = Some(going.len() as i32);
        }
        if &status != set.status() {
            let keep = ["replicas", "terminatingReplicas"];
            write_status::write(&self.rest, &*set, &status, &keep).await?;
        }
        managed.map(|()| next)
    }

    /// Makes or deletes pods.
    async fn manage(&self, key: &Key, set: &Arc<R>, pods: &[Arc<Pod>]) -> Result<()> {
        let wanted = usize::try_from(set.spec().replicas).unwrap_or(0);
        if pods.len() < wanted {
            self.create(key, set, (wanted - pods.len()).min(BURST))
                .await
        } else if pods.len() > wanted {
            self.delete(key, set, pods, (pods.len() - wanted).min(BURST))
                .await
        } else {
            Ok(())
        }
    }

    async fn create(&self, key: &Key, set: &Arc<R>, count: usize) -> Result<()> {
        self.expected.expect(key, count, HashSet::new());
        let owner = set.controller_ref();
        let prefix = format!("{}-", set.meta().name);
        let (done, error) = slow_start(count, |_| async {
            let body =
                set.spec()
                    .template
                    .pod(PodName::Prefix(&prefix), &key.namespace, &owner, |_| {});
            self.control.create(&**set, body).await.map(|_| ())
        })
        .await;
        // those that weren't made won't be seen
        for _ in done..count {
            self.expected.created(key);
        }
        match error {
            // nothing can be made there any more, and needn't
            Some(e) if e.is_namespace_terminating() => Ok(()),
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    async fn delete(&self, key: &Key, set: &Arc<R>, pods: &[Arc<Pod>], count: usize) -> Result<()> {
        let mut pods = pods.to_vec();
        if count < pods.len() {
            let related = self.related(&**set);
            ranking::rank(&mut pods, &related, now());
        }
        pods.truncate(count);
        self.expected.expect(
            key,
            0,
            pods.iter().map(|p| p.metadata.uid.clone()).collect(),
        );
        let results = join_all(pods.iter().map(|pod| async move {
            let r = self.control.delete(&**set, pod).await;
            if r.is_err() {
                self.expected.deleted(key, &pod.metadata.uid);
            }
            r
        }))
        .await;
        results.into_iter().find(Result::is_err).unwrap_or(Ok(()))
    }

    /// Pods of all sets of the same owner.
    fn related(&self, set: &R) -> Vec<Arc<Pod>> {
        let namespace = &set.meta().namespace;
        let uids: HashSet<Box<str>> = match set.meta().controller() {
            None => HashSet::from([set.meta().uid.clone()]),
            Some(owner) => self
                .sets
                .in_namespace(namespace, |s| s.meta().controlled_by(&owner.uid))
                .iter()
                .map(|s| s.meta().uid.clone())
                .collect(),
        };
        self.pods.in_namespace(namespace, |p| {
            p.metadata
                .controller()
                .is_some_and(|c| uids.contains(&c.uid))
        })
    }
}

/// Nothing that a set looks at has changed.
fn same_to_us(a: &Pod, b: &Pod) -> bool {
    a.status.phase == b.status.phase
        && a.ready() == b.ready()
        && a.ready_since() == b.ready_since()
        && a.metadata.deleting() == b.metadata.deleting()
        && a.metadata.labels == b.metadata.labels
        && a.metadata.owner_references == b.metadata.owner_references
}
