//! One kind's objects in memory, shared by all controllers.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::reflector::Sink;
use crate::objects::meta::{Key, Object};

type Handler<T> = Box<dyn Fn(Option<&Arc<T>>, Option<&Arc<T>>) + Send + Sync>;
type ByName<T> = BTreeMap<Box<str>, Arc<T>>;

/// Objects of one kind by namespace and name. Filled by one reflector; handlers hear of each change after the cache has it.
pub struct Cache<T> {
    objects: RwLock<HashMap<Box<str>, ByName<T>>>,
    handlers: RwLock<Vec<Handler<T>>>,
    synced: watch::Sender<bool>,
    wanted: AtomicBool,
    /// the newest revision of an object that came in
    seen: AtomicU64,
    /// held while a change is put in and told, so that handlers hear of changes in their order
    telling: Mutex<()>,
}

impl<T: Object> Default for Cache<T> {
    fn default() -> Self {
        Cache {
            objects: Default::default(),
            handlers: Default::default(),
            synced: watch::Sender::new(false),
            wanted: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            telling: Mutex::new(()),
        }
    }
}

impl<T: Object> Cache<T> {
    /// Asks for the kind to be watched.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }
    /// Someone asked.
    pub fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }
    /// `handler(old, new)` is called on each change, in order; it must only take notes (enqueue).
    pub fn on_change(
        &self,
        handler: impl Fn(Option<&Arc<T>>, Option<&Arc<T>>) + Send + Sync + 'static,
    ) {
        self.want();
        self.handlers.write().push(Box::new(handler));
    }
    /// Like [`Cache::on_change`], but first told of what's there already.
    pub fn replay(
        &self,
        handler: impl Fn(Option<&Arc<T>>, Option<&Arc<T>>) + Send + Sync + 'static,
    ) {
        let _telling = self.telling.lock();
        self.each(|o| handler(None, Some(o)));
        self.on_change(handler);
    }
    /// Returns when the first list is in.
    pub async fn synced(&self) {
        let mut rx = self.synced.subscribe();
        // the sender lives in self
        let _ = rx.wait_for(|s| *s).await;
    }
    /// Resolves when the first list is in.
    pub fn ready(self: Arc<Self>) -> futures::future::BoxFuture<'static, ()> {
        self.want();
        Box::pin(async move { self.synced().await })
    }
    /// The newest revision of an object that came in; 0 when the server's aren't numbers.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }
    fn note(&self, item: &T) {
        if let Ok(revision) = item.meta().resource_version.parse() {
            self.seen.fetch_max(revision, Ordering::AcqRel);
        }
    }
    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.objects.read().get(namespace)?.get(name).cloned()
    }
    /// One object.
    pub fn at(&self, key: &Key) -> Option<Arc<T>> {
        self.get(&key.namespace, &key.name)
    }
    /// Objects of a namespace for which `keep` holds, by name.
    pub fn in_namespace(&self, namespace: &str, mut keep: impl FnMut(&T) -> bool) -> Vec<Arc<T>> {
        self.objects
            .read()
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter(|o| keep(o))
            .cloned()
            .collect()
    }
    /// Calls `f` with every object.
    pub fn each(&self, mut f: impl FnMut(&Arc<T>)) {
        for by_name in self.objects.read().values() {
            by_name.values().for_each(&mut f);
        }
    }

    fn insert(&self, item: Arc<T>) -> Option<Arc<T>> {
        let meta = item.meta();
        let mut objects = self.objects.write();
        if let Some(by_name) = objects.get_mut(&meta.namespace) {
            return by_name.insert(meta.name.clone(), item);
        }
        let namespace = meta.namespace.clone();
        objects
            .entry(namespace)
            .or_default()
            .insert(meta.name.clone(), item);
        None
    }
    fn remove(&self, key: &Key) -> Option<Arc<T>> {
        let mut objects = self.objects.write();
        let by_name = objects.get_mut(&key.namespace)?;
        let old = by_name.remove(&key.name);
        if by_name.is_empty() {
            objects.remove(&key.namespace);
        }
        old
    }
    fn tell(&self, old: Option<&Arc<T>>, new: Option<&Arc<T>>) {
        for handler in self.handlers.read().iter() {
            handler(old, new);
        }
    }
}

impl<T: Object> Sink<T> for Cache<T> {
    fn replace(&self, items: Vec<T>) {
        let mut gone: std::collections::HashSet<Key> = Default::default();
        self.each(|o| {
            gone.insert(o.meta().key());
        });
        for item in items {
            gone.remove(&item.meta().key());
            let same = self.at(&item.meta().key()).is_some_and(|old| {
                !old.meta().resource_version.is_empty()
                    && old.meta().resource_version == item.meta().resource_version
            });
            if !same {
                self.apply(item);
            }
        }
        let _telling = self.telling.lock();
        for key in gone {
            if let Some(old) = self.remove(&key) {
                self.tell(Some(&old), None);
            }
        }
        drop(_telling);
        self.synced.send_replace(true);
    }
    fn apply(&self, item: T) {
        let item = Arc::new(item);
        let _telling = self.telling.lock();
        let old = self.insert(item.clone());
        self.note(&item);
        match old {
            // deleted and made again while we weren't looking
            Some(old) if old.meta().uid != item.meta().uid => {
                self.tell(Some(&old), None);
                self.tell(None, Some(&item));
            }
            old => self.tell(old.as_ref(), Some(&item)),
        }
    }
    fn delete(&self, item: T) {
        let _telling = self.telling.lock();
        self.note(&item);
        if let Some(old) = self.remove(&item.meta().key()) {
            self.tell(Some(&old), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::node::ServiceAccount;

    fn sa(name: &str, uid: &str, rv: &str) -> ServiceAccount {
        serde_json::from_value(serde_json::json!({"metadata":
            {"namespace":"n","name":name,"uid":uid,"resourceVersion":rv}}))
        .unwrap()
    }

    #[test]
    fn tells_each_change_once() {
        let cache = Cache::<ServiceAccount>::default();
        let log = Arc::new(Mutex::new(Vec::<String>::new()));
        let l = log.clone();
        cache.on_change(move |old, new| {
            let show = |o: Option<&Arc<ServiceAccount>>| {
                o.map_or("-".to_owned(), |o| {
                    format!("{}{}", o.metadata.uid, o.metadata.resource_version)
                })
            };
            l.lock().push(format!("{}>{}", show(old), show(new)));
        });
        cache.replace(vec![sa("a", "u", "1"), sa("b", "v", "2")]);
        cache.apply(sa("a", "u", "3"));
        // relist: b unchanged, a made again under another uid, c new
        cache.replace(vec![
            sa("b", "v", "2"),
            sa("a", "w", "4"),
            sa("c", "x", "5"),
        ]);
        cache.replace(vec![sa("c", "x", "5")]);
        cache.delete(sa("c", "x", "6"));
        cache.delete(sa("c", "x", "6"));
        let mut log = log.lock().clone();
        log[6..8].sort();
        assert_eq!(
            log,
            [
                "->u1", "->v2", "u1>u3", "u3>-", "->w4", "->x5", "v2>-", "w4>-", "x5>-"
            ]
        );
        assert!(cache.objects.read().is_empty());
    }
}
