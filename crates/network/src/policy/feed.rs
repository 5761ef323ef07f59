//! Watches policies, and Pods and Namespaces while there is a policy; hands on plans.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, stream::BoxStream};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::{
    Api, Client,
    runtime::{watcher, watcher::Event},
};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch as signal};

use super::{
    objects::{Facts, Namespace, Pod, Policy, World},
    plan::plan,
};
use crate::{
    keeper::Keeper,
    services::{Step, Table, watch},
};

/// Changes taken in one go before a plan is made of them.
const BURST_MAX: usize = 4096;
/// How long a Pod's start waits for the policies that are about it.
const WAIT: Duration = Duration::from_secs(10);

/// A Pod that this node is about to start: the API doesn't know its addresses yet.
type Started = HashMap<String, ((String, String), Facts)>;

/// What is shared between the watch and the Pods' starts.
#[derive(Default)]
struct Known {
    world: World,
    /// By uid.
    started: Started,
    /// All that matters is known.
    synced: bool,
}

/// Policies as they are enforced.
pub(crate) struct Policies {
    known: Mutex<Known>,
    synced: signal::Sender<bool>,
}

impl Default for Policies {
    fn default() -> Self {
        Policies {
            known: Mutex::default(),
            synced: signal::Sender::new(false),
        }
    }
}

impl Policies {
    /// Returns when the policies about the Pod hold for its addresses, or after a while.
    ///
    /// A policy that is made later holds as soon as it is seen.
    pub(crate) async fn admit(&self, keeper: &Keeper, name: (String, String), pod: Facts) {
        let uid = pod.uid.clone();
        self.known.lock().started.insert(uid, (name, pod));
        let hold = async {
            let mut synced = self.synced.subscribe();
            // The sender lives as long as this.
            let _ = synced.wait_for(|synced| *synced).await;
            let done = self.enforce(keeper);
            if let Some(done) = done {
                let _ = done.await;
            }
        };
        if tokio::time::timeout(WAIT, hold).await.is_err() {
            tracing::warn!(
                "a Pod starts before its network policies are in place: the API or the kernel does not answer"
            );
        }
    }

    /// The Pod's addresses are free again.
    pub(crate) fn dismiss(&self, keeper: &Keeper, uid: &str) {
        let gone = self.known.lock().started.remove(uid).is_some();
        if gone {
            drop(self.enforce(keeper));
        }
    }

    /// Hands a plan to the kernel's thread; None when there was no policy and is none.
    fn enforce(&self, keeper: &Keeper) -> Option<oneshot::Receiver<()>> {
        let mut known = self.known.lock();
        if !known.synced {
            return None;
        }
        let started = std::mem::take(&mut known.started);
        let planned = plan_with(&mut known.world, &started);
        known.started = started;
        // Under the lock: a later plan is posted later.
        Some(keeper.policy(Arc::new(planned)))
    }

    /// Watches until dropped, for the node of that name; `seen` is told of its Pods.
    pub(crate) async fn run(
        &self,
        client: Client,
        node: &str,
        keeper: &Keeper,
        seen: &(dyn Fn(&Facts) + Sync),
    ) {
        let all = watcher::Config::default;
        let policies = watch::<NetworkPolicy>(Api::all(client.clone()), all());
        tokio::pin!(policies);
        let mut tables = (
            Table::<()>::default(),
            Table::<()>::default(),
            Table::<()>::default(),
        );
        let mut pods: Option<BoxStream<'_, Event<Pod>>> = None;
        let mut namespaces: Option<BoxStream<'_, Event<Namespace>>> = None;
        loop {
            let mut changed = tokio::select! {
                Some(event) = policies.next() => self.policy(&mut tables.0, event),
                Some(event) = next(&mut pods) => self.pod(&mut tables.1, event, node, seen),
                Some(event) = next(&mut namespaces) => self.namespace(&mut tables.2, event),
                else => return,
            };
            for _ in 0..BURST_MAX {
                if let Some(Some(event)) = policies.next().now_or_never() {
                    changed |= self.policy(&mut tables.0, event);
                } else if let Some(Some(event)) = next(&mut pods).now_or_never() {
                    changed |= self.pod(&mut tables.1, event, node, seen);
                } else if let Some(Some(event)) = next(&mut namespaces).now_or_never() {
                    changed |= self.namespace(&mut tables.2, event);
                } else {
                    break;
                }
            }
            if !tables.0.synced {
                continue;
            }
            let any = !self.known.lock().world.policies.is_empty();
            if any && pods.is_none() {
                pods = Some(watch::<Pod>(Api::all(client.clone()), all()).boxed());
                namespaces = Some(watch::<Namespace>(Api::all(client.clone()), all()).boxed());
            }
            if !any && pods.is_some() {
                // Nobody asks any more.
                (pods, namespaces) = (None, None);
                (tables.1, tables.2) = Default::default();
                let mut known = self.known.lock();
                known.world.pods.clear();
                known.world.namespaces.clear();
                changed = true;
            }
            let synced = !any || tables.1.synced && tables.2.synced;
            let first = {
                let mut known = self.known.lock();
                // Once known, what is enforced stays while the peers are listed for another first policy.
                known.synced = synced;
                synced && !*self.synced.borrow()
            };
            if synced && (changed || first) {
                drop(self.enforce(keeper));
            }
            self.synced
                .send_if_modified(|was| std::mem::replace(was, synced) != synced);
        }
    }

    fn policy(&self, table: &mut Table<()>, event: Event<NetworkPolicy>) -> bool {
        let synced = table.synced;
        let mut changed = false;
        for step in table.steps(event) {
            let mut known = self.known.lock();
            match step {
                Step::Apply((namespace, name), object) => {
                    table.all.insert((namespace.clone(), name.clone()), ());
                    let policy = Policy {
                        namespace: namespace.to_string(),
                        uid: object.metadata.uid.unwrap_or_default(),
                        spec: object.spec.unwrap_or_default(),
                    };
                    let key = (namespace.into(), name.into());
                    let old = known.world.policies.insert(key, policy.clone());
                    changed |= old != Some(policy);
                }
                Step::Delete(key) => {
                    table.all.remove(&key);
                    let key = (key.0.into(), key.1.into());
                    changed |= known.world.policies.remove(&key).is_some();
                }
            }
        }
        changed || synced != table.synced
    }

    fn pod(
        &self,
        table: &mut Table<()>,
        event: Event<Pod>,
        node: &str,
        seen: &(dyn Fn(&Facts) + Sync),
    ) -> bool {
        let synced = table.synced;
        let mut changed = false;
        for step in table.steps(event) {
            let mut known = self.known.lock();
            match step {
                Step::Apply(key, object) => {
                    table.all.insert(key.clone(), ());
                    let key = (key.0.into(), key.1.into());
                    let facts = Facts::of(&object, node);
                    if let Some(facts) = facts.as_ref().filter(|facts| facts.here) {
                        seen(facts);
                    }
                    let old = match facts.clone() {
                        Some(facts) => known.world.pods.insert(key, facts),
                        None => known.world.pods.remove(&key),
                    };
                    changed |= old != facts;
                }
                Step::Delete(key) => {
                    table.all.remove(&key);
                    let key = (key.0.into(), key.1.into());
                    changed |= known.world.pods.remove(&key).is_some();
                }
            }
        }
        changed || synced != table.synced
    }

    fn namespace(&self, table: &mut Table<()>, event: Event<Namespace>) -> bool {
        let synced = table.synced;
        let mut changed = false;
        for step in table.steps(event) {
            let mut known = self.known.lock();
            match step {
                Step::Apply((none, name), object) => {
                    table.all.insert((none, name.clone()), ());
                    let labels = object.metadata.labels.unwrap_or_default();
                    let old = known.world.namespaces.insert(name.into(), labels.clone());
                    changed |= old != Some(labels);
                }
                Step::Delete(key) => {
                    table.all.remove(&key);
                    let name = key.1.to_string();
                    changed |= known.world.namespaces.remove(&name).is_some();
                }
            }
        }
        changed || synced != table.synced
    }
}

/// The next event of a stream that may not be there.
async fn next<S: futures::Stream + Unpin>(of: &mut Option<S>) -> Option<S::Item> {
    match of {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

/// A plan in which the Pods that are being started have the addresses they got.
fn plan_with(world: &mut World, started: &Started) -> super::Desired {
    if world.policies.is_empty() {
        return super::Desired::default();
    }
    let mut before = BTreeMap::new();
    for (name, facts) in started.values() {
        let seen = world.pods.get(name);
        // The API has the newer labels, but not always addresses; another of the name has its own.
        let merged = match seen {
            Some(seen) if seen.uid == facts.uid => Facts {
                ips: joined(&seen.ips, &facts.ips),
                here: true,
                ..seen.clone()
            },
            // It has ended, or isn't seen yet, or its namesake is still there: as it was when it was started.
            _ => facts.clone(),
        };
        before.insert(name.clone(), world.pods.insert(name.clone(), merged));
    }
    let planned = plan(world);
    for (name, old) in before {
        match old {
            Some(old) => drop(world.pods.insert(name, old)),
            None => drop(world.pods.remove(&name)),
        }
    }
    planned
}

fn joined(a: &[IpAddr], b: &[IpAddr]) -> Vec<IpAddr> {
    let mut all = a.to_vec();
    all.extend(b.iter().filter(|ip| !a.contains(ip)));
    all
}
