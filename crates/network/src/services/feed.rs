//! Watches Services and EndpointSlices, and hands on what changed, a burst at a time.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arc_swap::ArcSwap;
use futures::{FutureExt, Stream, StreamExt};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};

use super::{
    objects,
    view::{Here, Key, Service, Slice, View, Views},
};

/// What changed since the last burst: None for a Service that is gone.
pub(crate) type Changes = HashMap<Key, Option<Arc<View>>>;

/// A node's label.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Events taken in one go before they are handed on; a bound on the delay of the first of them.
const BURST_MAX: usize = 4096;

/// What a burst brought.
pub(crate) struct Burst {
    /// The changes are everything there is: the first burst, once all lists are in, and whenever `here` changes.
    pub(crate) whole: bool,
    pub(crate) changes: Changes,
    pub(crate) here: Here,
}

/// Watches until dropped, from the node `here`. Keeps `views` current, and calls `changed` after each burst.
pub(crate) async fn run(
    client: Client,
    here: Here,
    views: &ArcSwap<Views>,
    changed: impl Fn(Burst),
) {
    let services = watch::<objects::Service>(Api::all(client.clone()), watcher::Config::default());
    let slices =
        watch::<objects::EndpointSlice>(Api::all(client.clone()), watcher::Config::default());
    let own = watcher::Config::default().fields(&format!("metadata.name={}", here.node));
    let nodes = watch::<objects::Node>(Api::all(client), own);
    tokio::pin!(services, slices, nodes);
    let mut model = Model {
        here,
        ..Model::default()
    };
    let mut first = true;
    loop {
        tokio::select! {
            Some(event) = services.next() => model.service(event),
            Some(event) = slices.next() => model.slice(event),
            Some(event) = nodes.next() => model.node(event),
            else => return,
        }
        for _ in 0..BURST_MAX {
            if let Some(Some(event)) = services.next().now_or_never() {
                model.service(event);
            } else if let Some(Some(event)) = slices.next().now_or_never() {
                model.slice(event);
            } else if let Some(Some(event)) = nodes.next().now_or_never() {
                model.node(event);
            } else {
                break;
            }
        }
        if !model.services.synced || !model.slices.synced {
            continue;
        }
        let whole = first || std::mem::take(&mut model.moved);
        if whole || !model.dirty.is_empty() {
            if whole {
                model.dirty.extend(model.services.all.keys().cloned());
            }
            let changes = model.take_changes();
            let next = match first {
                true => build(&Views::new(), &changes),
                false => build(&views.load(), &changes),
            };
            views.store(Arc::new(next));
            changed(Burst {
                whole,
                changes,
                here: model.here.clone(),
            });
            first = false;
        }
    }
}

/// The events of one kind, for ever; errors are logged and retried with back-off.
pub(crate) fn watch<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Event<K>>
where
    K: Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    watcher(api, config).default_backoff().filter_map(|event| async {
        event.inspect_err(|error| tracing::warn!(kind = %K::kind(&()), %error, "watch failed, trying again")).ok()
    })
}

/// The objects of one kind, and which of them the current relist has shown.
pub(crate) struct Table<T> {
    pub(crate) all: HashMap<Key, T>,
    unseen: Option<HashSet<Key>>,
    pub(crate) synced: bool,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table {
            all: HashMap::new(),
            unseen: None,
            synced: false,
        }
    }
}

pub(crate) enum Step<K> {
    Apply(Key, K),
    Delete(Key),
}

impl<T> Table<T> {
    /// The single steps in an event; a finished relist deletes what it didn't show.
    pub(crate) fn steps<K: Resource<DynamicType = ()>>(&mut self, event: Event<K>) -> Vec<Step<K>> {
        match event {
            Event::Init => {
                self.unseen = Some(self.all.keys().cloned().collect());
                Vec::new()
            }
            Event::InitDone => {
                self.synced = true;
                self.unseen
                    .take()
                    .into_iter()
                    .flatten()
                    .map(Step::Delete)
                    .collect()
            }
            Event::InitApply(object) | Event::Apply(object) => {
                let key = key(&object);
                if let Some(unseen) = &mut self.unseen {
                    unseen.remove(&key);
                }
                vec![Step::Apply(key, object)]
            }
            Event::Delete(object) => vec![Step::Delete(key(&object))],
        }
    }
}

fn key<K: Resource<DynamicType = ()>>(object: &K) -> Key {
    (
        object.namespace().unwrap_or_default().into(),
        object.name_any().into(),
    )
}

#[derive(Default)]
struct Model {
    here: Here,
    /// `here` has changed.
    moved: bool,
    services: Table<Arc<Service>>,
    slices: Table<Arc<Slice>>,
    /// Service → its slices
    slices_of: HashMap<Key, Vec<Key>>,
    dirty: HashSet<Key>,
}

impl Model {
    fn service(&mut self, event: Event<objects::Service>) {
        for step in self.services.steps(event) {
            match step {
                Step::Apply(key, object) => {
                    let service = Arc::new(Service::of(&object));
                    // Status writes, and most annotations, change nothing here.
                    if self.services.all.get(&key) != Some(&service) {
                        self.services.all.insert(key.clone(), service);
                        self.dirty.insert(key);
                    }
                }
                Step::Delete(key) => {
                    self.services.all.remove(&key);
                    self.dirty.insert(key);
                }
            }
        }
    }

    fn slice(&mut self, event: Event<objects::EndpointSlice>) {
        for step in self.slices.steps(event) {
            let (key, new) = match step {
                Step::Apply(key, object) => (key, Slice::of(&object).map(Arc::new)),
                Step::Delete(key) => (key, None),
            };
            let old = match &new {
                Some(slice) => self.slices.all.insert(key.clone(), slice.clone()),
                None => self.slices.all.remove(&key),
            };
            if old == new {
                continue;
            }
            if let Some(old) = old {
                if let Some(keys) = self.slices_of.get_mut(&old.service) {
                    keys.retain(|other| *other != key);
                    if keys.is_empty() {
                        self.slices_of.remove(&old.service);
                    }
                }
                self.dirty.insert(old.service.clone());
            }
            if let Some(new) = new {
                self.slices_of
                    .entry(new.service.clone())
                    .or_default()
                    .push(key);
                self.dirty.insert(new.service.clone());
            }
        }
    }

    /// The node's zone, which it may be told late.
    fn node(&mut self, event: Event<objects::Node>) {
        let zone = match event {
            Event::Apply(node) | Event::InitApply(node) => {
                let labels = node.metadata.labels.unwrap_or_default();
                labels.get(ZONE).map(|zone| zone.as_str().into())
            }
            _ => return,
        };
        if zone != self.here.zone {
            self.here.zone = zone;
            self.moved = true;
        }
    }

    fn take_changes(&mut self) -> Changes {
        let view = |key: &Key| {
            let service = self.services.all.get(key)?.clone();
            let slices = self
                .slices_of
                .get(key)
                .into_iter()
                .flatten()
                .filter_map(|slice| self.slices.all.get(slice).cloned());
            Some(Arc::new(View {
                service,
                slices: slices.collect(),
            }))
        };
        let changes = self
            .dirty
            .iter()
            .map(|key| (key.clone(), view(key)))
            .collect();
        self.dirty.clear();
        changes
    }
}

/// `old` with `changes` applied; only the namespaces that changed are copied.
fn build(old: &Views, changes: &Changes) -> Views {
    let mut views = old.clone();
    for ((namespace, name), view) in changes {
        match view {
            Some(view) => {
                let services = views.entry(namespace.clone()).or_default();
                Arc::make_mut(services).insert(name.clone(), view.clone());
            }
            None => {
                if let Some(services) = views.get_mut(namespace) {
                    Arc::make_mut(services).remove(name);
                    if services.is_empty() {
                        views.remove(namespace);
                    }
                }
            }
        }
    }
    views
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, ip: &str) -> objects::Service {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"ns"}},"spec":{{"clusterIP":"{ip}","ports":[{{"port":80}}]}}}}"#
        );
        serde_json::from_str(&text).expect("service")
    }

    fn slice(name: &str, service: &str, ips: &[&str]) -> objects::EndpointSlice {
        let endpoints = ips
            .iter()
            .map(|ip| format!(r#"{{"addresses":["{ip}"]}}"#))
            .collect::<Vec<_>>()
            .join(",");
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"ns","labels":{{"kubernetes.io/service-name":"{service}"}}}},
                "addressType":"IPv4","ports":[{{"port":8080}}],"endpoints":[{endpoints}]}}"#
        );
        serde_json::from_str(&text).expect("slice")
    }

    /// What a burst says: `name=endpoints`, sorted; `name-` for one that is gone.
    fn changes(model: &mut Model) -> Vec<String> {
        let mut all = model
            .take_changes()
            .into_iter()
            .map(|((_, name), view)| match view {
                Some(view) => format!(
                    "{name}={}",
                    view.endpoints()
                        .map(|(e, _)| e.ip.to_string())
                        .collect::<Vec<_>>()
                        .join(",")
                ),
                None => format!("{name}-"),
            })
            .collect::<Vec<_>>();
        all.sort();
        all
    }

    #[test]
    fn only_what_changed_is_handed_on() {
        let mut model = Model::default();
        model.service(Event::Init);
        model.service(Event::InitApply(service("a", "10.96.0.1")));
        model.service(Event::InitApply(service("b", "10.96.0.2")));
        model.service(Event::InitDone);
        model.slice(Event::Init);
        model.slice(Event::InitApply(slice("a-1", "a", &["10.42.0.2"])));
        model.slice(Event::InitDone);
        assert!(model.services.synced && model.slices.synced);
        assert_eq!(changes(&mut model), ["a=10.42.0.2", "b="]);
        model.service(Event::Apply(service("a", "10.96.0.1")));
        model.slice(Event::Apply(slice("a-1", "a", &["10.42.0.2"])));
        assert_eq!(changes(&mut model), [""; 0], "the same again is no change");
        model.slice(Event::Apply(slice("b-1", "b", &["10.42.0.3"])));
        assert_eq!(changes(&mut model), ["b=10.42.0.3"]);
        model.slice(Event::Apply(slice("b-1", "a", &["10.42.0.3"])));
        assert_eq!(
            changes(&mut model),
            ["a=10.42.0.2,10.42.0.3", "b="],
            "a slice may change its Service"
        );
        model.slice(Event::Delete(slice("a-1", "a", &[])));
        model.service(Event::Delete(service("b", "10.96.0.2")));
        assert_eq!(changes(&mut model), ["a=10.42.0.3", "b-"]);
    }

    #[test]
    fn a_relist_deletes_what_it_does_not_show() {
        let mut model = Model::default();
        for name in ["a", "b"] {
            model.service(Event::Apply(service(name, "10.96.0.1")));
        }
        model.take_changes();
        model.service(Event::Init);
        model.service(Event::InitApply(service("b", "10.96.0.1")));
        assert_eq!(
            changes(&mut model),
            [""; 0],
            "nothing goes before the list is whole"
        );
        model.service(Event::InitDone);
        assert_eq!(changes(&mut model), ["a-"]);
    }

    #[test]
    fn unchanged_namespaces_are_shared() {
        let mut model = Model::default();
        model.service(Event::Apply(service("a", "10.96.0.1")));
        let first = build(&Views::new(), &model.take_changes());
        let second = build(
            &first,
            &Changes::from([(
                ("other".into(), "x".into()),
                first["ns"]["a"].clone().into(),
            )]),
        );
        assert!(Arc::ptr_eq(&first["ns"], &second["ns"]));
        let third = build(
            &second,
            &Changes::from([(("other".into(), "x".into()), None)]),
        );
        assert!(
            !third.contains_key("other"),
            "an empty namespace is dropped"
        );
    }
}
