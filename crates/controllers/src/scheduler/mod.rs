//! Scheduler: gives pods their nodes as upstream's default profile does, makes room for the more important, and says why when it can't.
//!
//! Every change of nodes, pods and volumes is taken into [`state::State`] as it comes in; a turn ([`cycle::decide`]) looks only there, so turns are short and need no lock of their own. What a turn decides counts at once for the next; the writes follow ([`act`]), many at a time.

mod act;
mod cycle;
mod devices;
mod filter;
mod hints;
mod interpod;
mod preempt;
mod queue;
mod reserve;
mod score;
mod spread;
mod state;
#[cfg(test)]
mod tests;
mod verdict;
mod view;
mod volumes;

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

use self::{cycle::Decision, devices::Devices, hints::Happening, state::State, volumes::Storage};
use crate::{
    machinery::{cache::Cache, context::Context, recorder::Recorder, rest::Rest},
    objects::{
        meta::Object,
        pod::Pod,
        policy::Budget,
        selector::{Requirement, Selector},
        service::Service,
        workload::{ReplicaSet, ReplicationController, StatefulSet},
    },
};

const NAME: &str = "scheduler";
/// Requests to the server at a time.
const CALLS_MAX: usize = 32;
/// Pods whose decisions are being written at a time; above it turns wait.
const DOING_MAX: usize = 4096;
/// Turns without letting others run.
const TURNS: usize = 32;

struct Scheduler {
    rest: Rest,
    recorder: Recorder,
    storage: Storage,
    devices: Devices,
    budgets: Arc<Cache<Budget>>,
    services: Arc<Cache<Service>>,
    replica_sets: Arc<Cache<ReplicaSet>>,
    replication_controllers: Arc<Cache<ReplicationController>>,
    stateful_sets: Arc<Cache<StatefulSet>>,
    state: Mutex<State>,
    /// there may be a pod whose turn it is
    wake: Notify,
    claims_changed: watch::Sender<()>,
    calls: Semaphore,
}

/// The scheduler.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let caches = &ctx.caches;
    let s = Arc::new(Scheduler {
        rest: ctx.rest(NAME),
        recorder: ctx.recorder.clone(),
        storage: Storage {
            claims: caches.claims.clone(),
            volumes: caches.volumes.clone(),
            classes: caches.classes.clone(),
            drivers: caches.csi_nodes.clone(),
            all_drivers: caches.csi_drivers.clone(),
            capacities: caches.capacities.clone(),
            attachments: caches.attachments.clone(),
        },
        devices: Devices {
            claims: caches.resource_claims.clone(),
            slices: caches.resource_slices.clone(),
            classes: caches.device_classes.clone(),
            ..Default::default()
        },
        budgets: caches.budgets.clone(),
        services: caches.services.clone(),
        replica_sets: caches.replica_sets.clone(),
        replication_controllers: caches.replication_controllers.clone(),
        stateful_sets: caches.stateful_sets.clone(),
        state: Mutex::default(),
        wake: Notify::new(),
        claims_changed: watch::Sender::new(()),
        calls: Semaphore::new(CALLS_MAX),
    });
    s.budgets.want();
    s.services.want();
    s.replica_sets.want();
    s.replication_controllers.want();
    s.stateful_sets.want();
    let me = s.clone();
    caches.pods.on_change(move |old, new| {
        me.change(|s| s.pod(old, new));
        if new.is_none() {
            // it may be waiting for its volumes
            me.claims_changed.send_replace(());
        }
    });
    let me = s.clone();
    caches
        .nodes
        .on_change(move |old, new| me.change(|s| s.node(old, new)));
    let me = s.clone();
    caches
        .namespaces
        .on_change(move |old, new| me.change(|s| s.namespace(old, new)));
    let me = s.clone();
    s.storage.claims.on_change(move |old, new| {
        if let Some(claim) = new.or(old) {
            let m = claim.meta();
            let what = Happening::Claim(m.namespace.clone(), m.name.clone());
            me.change(|s| s.happened(&what));
            me.claims_changed.send_replace(());
        }
    });
    s.storage.volumes.on_change(s.clone().on_storage());
    s.storage.classes.on_change(s.clone().on_storage());
    s.storage.drivers.on_change(s.clone().on_storage());
    s.storage.all_drivers.on_change(s.clone().on_storage());
    s.storage.capacities.on_change(s.clone().on_storage());
    s.storage.attachments.on_change(s.clone().on_storage());
    let me = s.clone();
    s.devices.claims.on_change(move |old, new| {
        if let Some(claim) = new.or(old) {
            me.change(|s| s.device_claim(claim, new.is_none()));
        }
    });
    s.devices.slices.on_change(s.clone().on_devices());
    s.devices.classes.on_change(s.clone().on_devices());
    let ready = [
        caches.pods.clone().ready(),
        caches.nodes.clone().ready(),
        caches.namespaces.clone().ready(),
        caches.claims.clone().ready(),
        caches.volumes.clone().ready(),
        caches.classes.clone().ready(),
        caches.csi_nodes.clone().ready(),
        caches.csi_drivers.clone().ready(),
        caches.capacities.clone().ready(),
        caches.attachments.clone().ready(),
        caches.budgets.clone().ready(),
        caches.resource_claims.clone().ready(),
        caches.resource_slices.clone().ready(),
        caches.device_classes.clone().ready(),
    ];
    Box::pin(async move {
        futures::future::join_all(ready).await;
        s.run().await;
    })
}

/// A panic ends this alone.
async fn guarded(writes: BoxFuture<'static, ()>) {
    if AssertUnwindSafe(writes).catch_unwind().await.is_err() {
        tracing::error!("a bug: writing a scheduler's decision panicked; the others go on");
    }
}

impl Scheduler {
    /// Takes a change in.
    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let result = f(&mut self.state.lock());
        self.wake.notify_one();
        result
    }
    fn on_storage<T>(
        self: Arc<Self>,
    ) -> impl Fn(Option<&Arc<T>>, Option<&Arc<T>>) + Send + Sync + 'static {
        move |_, _| {
            self.change(|s| s.happened(&Happening::Storage));
            self.claims_changed.send_replace(());
        }
    }

    fn on_devices<T>(
        self: Arc<Self>,
    ) -> impl Fn(Option<&Arc<T>>, Option<&Arc<T>>) + Send + Sync + 'static {
        move |_, _| self.change(|s| s.happened(&Happening::Devices))
    }

    async fn run(self: Arc<Self>) {
        let mut doing: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        loop {
            let mut turns = 0;
            while turns < TURNS && doing.len() < DOING_MAX {
                turns += 1;
                match std::panic::catch_unwind(AssertUnwindSafe(|| self.turn())) {
                    Ok(Some(writes)) => doing.push(Box::pin(guarded(writes))),
                    Ok(None) => break,
                    Err(_) => tracing::error!(
                        "a bug: the scheduler panicked on a pod, which waits until it changes; the others go on"
                    ),
                }
            }
            if turns == TURNS && doing.len() < DOING_MAX {
                // lets writes start, and others run
                while let Some(Some(())) = doing.next().now_or_never() {}
                tokio::task::yield_now().await;
                continue;
            }
            let due = self.state.lock().due();
            let later = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(()) = doing.next(), if !doing.is_empty() => {}
                () = self.wake.notified(), if doing.len() < DOING_MAX => {}
                () = later => {}
            }
        }
    }

    /// The next pod's decision, and what is to be written for it.
    fn turn(self: &Arc<Self>) -> Option<BoxFuture<'static, ()>> {
        let like = |pod: &Pod| self.like(pod);
        let budgets = || {
            let mut all = vec![];
            self.budgets.each(|b| all.push(b.clone()));
            all
        };
        let (pod, decision) = {
            let mut state = self.state.lock();
            state.turn(&self.storage, &self.devices, &like, &budgets)?
        };
        let me = self.clone();
        Some(match decision {
            Decision::Bind(node, todo) => Box::pin(async move { me.bind(pod, node, todo).await }),
            Decision::Preempt(candidate, diagnosis) => {
                Box::pin(async move { me.preempt(pod, candidate, diagnosis).await })
            }
            Decision::Wait(diagnosis, forget) => {
                Box::pin(async move { me.unschedulable(pod, diagnosis, forget).await })
            }
        })
    }

    /// The pods that are like this one, by its Services and its owner (`helper.DefaultSelector`); None: none says so.
    fn like(&self, pod: &Pod) -> Option<Selector> {
        let meta = &pod.metadata;
        let mut like = Selector::default();
        let of_pod = |s: &Service| {
            s.spec
                .selector
                .as_ref()
                .is_some_and(|l| !l.is_empty() && l.subset_of(&meta.labels))
        };
        for service in self.services.in_namespace(&meta.namespace, of_pod) {
            for (key, value) in service.spec.selector.iter().flat_map(|l| l.iter()) {
                like.match_labels.set(key, value);
            }
        }
        if let Some(owner) = meta.controller() {
            let (space, name) = (&*meta.namespace, &*owner.name);
            let of_owner = match &*owner.kind {
                "ReplicaSet" => self
                    .replica_sets
                    .get(space, name)
                    .map(|o| o.spec.selector.clone()),
                "ReplicationController" => self
                    .replication_controllers
                    .get(space, name)
                    .map(|o| o.spec.selector.clone()),
                "StatefulSet" => self
                    .stateful_sets
                    .get(space, name)
                    .map(|o| o.spec.selector.clone()),
                _ => None,
            };
            if let Some(s) = of_owner {
                let equal = s.match_labels.iter().map(|(key, value)| Requirement {
                    key: key.into(),
                    operator: "In".into(),
                    values: vec![value.into()],
                });
                like.match_expressions.extend(equal);
                like.match_expressions.extend(s.match_expressions);
            }
        }
        (!like.is_empty()).then_some(like)
    }
}
