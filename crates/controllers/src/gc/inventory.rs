//! Keeps the graph: watches the metadata of every resource that discovery finds.
//!
//! Kinds that another controller watches anyway are taken from its cache; the others are watched as PartialObjectMetadata.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet},
};

use super::{
    discovery::{ByKind, Discovered, Resource, discover},
    graph::{Graph, Uid},
};
use crate::{
    machinery::{
        context::Watched,
        queue::{BACKOFF_MIN, Queue},
        reflector::{Sink, reflect},
        rest::Rest,
    },
    objects::meta::Meta,
};

/// Longest pause between attempts at discovery.
const DISCOVERY_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A kind that can't be listed holds up the others no longer than this.
const LISTS: Duration = Duration::from_secs(30);
/// Changes of CRDs come in groups.
const SETTLE: Duration = Duration::from_millis(100);

type Gone = Box<dyn Fn(&str) + Send + Sync>;
type Count = Box<dyn Fn(&Resource, &str) + Send + Sync>;
type Touch = Box<dyn Fn(&Resource) + Send + Sync>;

/// The graph, and what follows from its changes.
pub struct Inventory {
    /// who owns whom
    pub graph: Mutex<Graph>,
    /// objects to look at
    pub queue: Queue<Uid>,
    /// kinds
    pub kinds: RwLock<ByKind>,
    /// what discovery found last
    pub discovered: RwLock<Arc<Discovered>>,
    gone: RwLock<Vec<Gone>>,
    count: RwLock<Vec<Count>>,
    touch: RwLock<Vec<Touch>>,
    /// `plural.group` of kinds that were removed: one of that name now is another
    removed: Mutex<HashSet<Box<str>>>,
    stale: Notify,
    complete: watch::Sender<bool>,
}

impl Default for Inventory {
    fn default() -> Self {
        Inventory {
            graph: Mutex::default(),
            queue: Queue::default(),
            kinds: RwLock::default(),
            discovered: RwLock::default(),
            gone: RwLock::default(),
            count: RwLock::default(),
            touch: RwLock::default(),
            removed: Mutex::default(),
            stale: Notify::new(),
            complete: watch::Sender::new(false),
        }
    }
}

/// An object's metadata.
#[derive(Deserialize)]
struct Partial {
    metadata: Meta,
}

struct Feed {
    inventory: Arc<Inventory>,
    resource: Arc<Resource>,
    synced: watch::Sender<bool>,
}

impl Feed {
    fn defines_kinds(&self) -> bool {
        matches!(
            &*self.resource.plural,
            "customresourcedefinitions" | "apiservices"
        )
    }
}

impl Sink<Partial> for Feed {
    fn replace(&self, items: Vec<Partial>) {
        let there: HashSet<&str> = items.iter().map(|i| &*i.metadata.uid).collect();
        let absent = self
            .inventory
            .graph
            .lock()
            .absent(&self.resource, |uid| there.contains(uid));
        for uid in absent {
            self.inventory.gone(&uid);
        }
        for item in &items {
            self.inventory.seen(&self.resource, &item.metadata);
        }
        self.synced.send_replace(true);
    }
    fn apply(&self, item: Partial) {
        self.inventory.seen(&self.resource, &item.metadata);
        if self.defines_kinds() {
            self.inventory.outdated();
        }
    }
    fn delete(&self, item: Partial) {
        self.inventory.gone(&item.metadata.uid);
        if self.defines_kinds() {
            self.inventory.removed.lock().insert(item.metadata.name);
            self.inventory.outdated();
        }
    }
}

impl Inventory {
    fn seen(&self, resource: &Arc<Resource>, meta: &Meta) {
        let (new, look) = {
            let mut graph = self.graph.lock();
            let new = graph.get(&meta.uid).is_none_or(|n| n.resource.is_none());
            (new, graph.seen(resource, meta))
        };
        for uid in look {
            self.queue.add(uid);
        }
        self.touched(resource);
        if new && !meta.namespace.is_empty() {
            self.counted(resource, &meta.namespace);
        }
    }
    /// The kinds have changed: nothing is judged until they're known again.
    fn outdated(&self) {
        self.complete.send_replace(false);
        self.stale.notify_one();
    }
    /// Someone known only as an owner isn't there.
    pub fn never_was(&self, uid: &str) {
        let look = self.graph.lock().never_was(uid);
        for uid in look {
            self.queue.add(uid);
        }
    }
    /// An object is gone.
    pub fn gone(&self, uid: &str) {
        let (there, look) = {
            let mut graph = self.graph.lock();
            let there = graph
                .get(uid)
                .and_then(|n| Some((n.resource.clone()?, n.namespace.clone())));
            (there, graph.gone(uid))
        };
        for uid in look {
            self.queue.add(uid);
        }
        if let Some((resource, _)) = &there {
            self.touched(resource);
        }
        if let Some((resource, namespace)) = there.filter(|(_, n)| !n.is_empty()) {
            for handler in self.gone.read().iter() {
                handler(&namespace);
            }
            self.counted(&resource, &namespace);
        }
    }
    /// `handler` hears of each namespace that loses an object.
    pub fn on_gone(&self, handler: impl Fn(&str) + Send + Sync + 'static) {
        self.gone.write().push(Box::new(handler));
    }
    /// `handler` hears of each namespace that gains or loses an object, and of which kind.
    pub fn on_count(&self, handler: impl Fn(&Resource, &str) + Send + Sync + 'static) {
        self.count.write().push(Box::new(handler));
    }
    /// `handler` hears of each change of an object, by its kind.
    pub fn on_touch(&self, handler: impl Fn(&Resource) + Send + Sync + 'static) {
        self.touch.write().push(Box::new(handler));
    }
    fn touched(&self, resource: &Resource) {
        for handler in self.touch.read().iter() {
            handler(resource);
        }
    }
    fn counted(&self, resource: &Resource, namespace: &str) {
        for handler in self.count.read().iter() {
            handler(resource, namespace);
        }
    }
    /// Returns when every resource has been listed once, or has had [`LISTS`] for it.
    pub async fn complete(&self) {
        let mut rx = self.complete.subscribe();
        // the sender lives in self
        let _ = rx.wait_for(|c| *c).await;
    }

    /// Watches until dropped. `shared` are the kinds that others watch.
    pub async fn run(self: Arc<Self>, rest: Rest, shared: Vec<Watched>) {
        let mut shared: HashMap<String, Watched> = shared
            .into_iter()
            .map(|w| (w.kind.collection(""), w))
            .collect();
        let mut tasks = JoinSet::new();
        let mut running: HashMap<Arc<Resource>, AbortHandle> = HashMap::new();
        let mut pause = BACKOFF_MIN;
        loop {
            let found = match discover(&rest).await {
                Ok(found) if !found.resources.is_empty() => found,
                other => {
                    if let Err(e) = other {
                        tracing::debug!(error = %e, "discovery failed, trying again");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(DISCOVERY_PAUSE_MAX);
                    continue;
                }
            };
            let failed = !found.failed.is_empty();
            // A group that didn't answer is asked again soon, and less and less often.
            pause = match failed {
                true => (pause * 2).min(DISCOVERY_PAUSE_MAX),
                false => BACKOFF_MIN,
            };
            *self.kinds.write() = ByKind::new(&found.resources);
            let mut firsts: Vec<BoxFuture<'static, ()>> = vec![];
            let wanted: HashSet<Arc<Resource>> = found
                .resources
                .iter()
                .filter(|r| r.watchable && !r.is_event())
                .cloned()
                .collect();
            // The watch of a kind that was removed may sleep for long before it asks for its successor.
            for name in self.removed.lock().drain() {
                running.retain(|resource, handle| {
                    let stays = *resource.group_resource() != *name;
                    if !stays {
                        handle.abort();
                    }
                    stays
                });
            }
            for resource in &wanted {
                if running.contains_key(resource) {
                    continue;
                }
                let feed = Feed {
                    inventory: self.clone(),
                    resource: resource.clone(),
                    synced: watch::Sender::new(false),
                };
                let mut synced = feed.synced.subscribe();
                let path = resource.collection("");
                let handle = match shared.remove(&path) {
                    Some(watched) => {
                        (watched.subscribe)(Box::new(move |old, new| match (old, new) {
                            (_, Some(new)) => feed.inventory.seen(&feed.resource, new),
                            (Some(old), None) => feed.inventory.gone(&old.uid),
                            (None, None) => {}
                        }));
                        firsts.push(watched.synced);
                        tasks.spawn(std::future::pending())
                    }
                    None => {
                        let rest = rest.clone();
                        firsts.push(Box::pin(async move {
                            let _ = synced.wait_for(|s| *s).await;
                        }));
                        tasks.spawn(async move { reflect(&rest, &path, true, &feed).await })
                    }
                };
                running.insert(resource.clone(), handle);
            }
            running.retain(|resource, handle| {
                let stays = wanted.contains(resource) || failed;
                if !stays {
                    handle.abort();
                    let all = self.graph.lock().absent(resource, |_| false);
                    for uid in all {
                        self.gone(&uid);
                    }
                }
                stays
            });
            *self.discovered.write() = Arc::new(found);
            let firsts = futures::future::join_all(firsts);
            if tokio::time::timeout(LISTS, firsts).await.is_err() {
                tracing::warn!(
                    "some kinds can't be listed; what depends on their objects may stay too long"
                );
            }
            self.complete.send_replace(true);
            if failed {
                tokio::select! {
                    _ = self.stale.notified() => {}
                    _ = tokio::time::sleep(pause) => {}
                }
            } else {
                self.stale.notified().await;
            }
            tokio::time::sleep(SETTLE).await;
        }
    }
}
