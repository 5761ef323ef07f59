//! ConfigMaps, Secrets and claims that Pods refer to: read when needed, watched one by one while referred to.
//!
//! No content is kept: a change wakes the Pods that asked, and they read again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret};
use kube::{
    Api, Resource,
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::pod::mailbox::Mailbox;

const READ_DEADLINE: Duration = Duration::from_secs(10);

/// Keys and values of a ConfigMap or Secret.
#[derive(Debug, Clone, Default)]
pub(crate) struct Data(pub(crate) BTreeMap<String, Vec<u8>>);

impl Data {
    pub(crate) fn get(&self, key: &str) -> Option<&Vec<u8>> {
        self.0.get(key)
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.0.iter()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
    Claim,
}

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Reference {
    pub kind: Kind,
    pub namespace: Box<str>,
    pub name: Box<str>,
}

struct Watched {
    readers: Mutex<Vec<Weak<Mailbox>>>,
    _task: DropGuard,
}

/// Keeps the watch of one object alive.
pub(crate) struct Subscription {
    _watched: Arc<Watched>,
}

#[derive(Clone)]
pub(crate) struct Sources {
    client: kube::Client,
    watched: Arc<Mutex<HashMap<Reference, Weak<Watched>>>>,
}

impl Sources {
    pub(crate) fn new(client: kube::Client) -> Sources {
        Sources {
            client,
            watched: Arc::default(),
        }
    }

    /// Ok(None): not there, and `optional`.
    pub(crate) async fn config_map(
        &self,
        namespace: &str,
        name: &str,
        optional: bool,
    ) -> Result<Option<Data>, String> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let Some(map) = self.read(api, "configmap", name, optional).await? else {
            return Ok(None);
        };
        let mut data = BTreeMap::new();
        for (key, value) in map.data.into_iter().flatten() {
            data.insert(key, value.into_bytes());
        }
        for (key, value) in map.binary_data.into_iter().flatten() {
            data.insert(key, value.0);
        }
        Ok(Some(Data(data)))
    }

    /// Ok(None): not there, and `optional`.
    pub(crate) async fn secret(
        &self,
        namespace: &str,
        name: &str,
        optional: bool,
    ) -> Result<Option<Data>, String> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let Some(secret) = self.read(api, "secret", name, optional).await? else {
            return Ok(None);
        };
        let data = secret.data.into_iter().flatten();
        Ok(Some(Data(data.map(|(k, v)| (k, v.0)).collect())))
    }

    pub(crate) async fn claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<PersistentVolumeClaim, String> {
        let api = Api::namespaced(self.client.clone(), namespace);
        let found = self.read(api, "persistentvolumeclaim", name, false).await?;
        found.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))
    }

    pub(crate) async fn volume(&self, name: &str) -> Result<PersistentVolume, String> {
        let api = Api::all(self.client.clone());
        let found = self.read(api, "persistentvolume", name, false).await?;
        found.ok_or_else(|| format!("persistentvolume {name:?} not found"))
    }

    async fn read<K>(
        &self,
        api: Api<K>,
        what: &str,
        name: &str,
        optional: bool,
    ) -> Result<Option<K>, String>
    where
        K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        match tokio::time::timeout(READ_DEADLINE, api.get_opt(name)).await {
            Err(_) => Err(format!(
                "{what} {name:?}: the API server did not answer in time"
            )),
            Ok(Err(error)) => Err(format!("{what} {name:?}: {error}")),
            Ok(Ok(None)) if !optional => Err(format!("{what} {name:?} not found")),
            Ok(Ok(found)) => Ok(found),
        }
    }

    /// Wakes `mailbox` whenever the object appears, changes or goes.
    pub(crate) fn subscribe(&self, reference: Reference, mailbox: &Arc<Mailbox>) -> Subscription {
        let mut table = self.watched.lock();
        table.retain(|_, weak| weak.strong_count() > 0);
        let watched = table
            .get(&reference)
            .and_then(Weak::upgrade)
            .unwrap_or_else(|| {
                let cancel = CancellationToken::new();
                let watched = Arc::new(Watched {
                    readers: Mutex::default(),
                    _task: cancel.clone().drop_guard(),
                });
                table.insert(reference.clone(), Arc::downgrade(&watched));
                let weak = Arc::downgrade(&watched);
                let client = self.client.clone();
                tokio::spawn(async move {
                    let _ = cancel
                        .run_until_cancelled(watch(client, reference, weak))
                        .await;
                });
                watched
            });
        let mut readers = watched.readers.lock();
        readers.retain(|r| r.strong_count() > 0);
        readers.push(Arc::downgrade(mailbox));
        drop(readers);
        Subscription { _watched: watched }
    }
}

async fn watch(client: kube::Client, reference: Reference, watched: Weak<Watched>) {
    let namespace = &reference.namespace;
    match reference.kind {
        Kind::ConfigMap => {
            follow(
                Api::<ConfigMap>::namespaced(client, namespace),
                &reference,
                watched,
            )
            .await
        }
        Kind::Secret => {
            follow(
                Api::<Secret>::namespaced(client, namespace),
                &reference,
                watched,
            )
            .await
        }
        Kind::Claim => {
            follow(
                Api::<PersistentVolumeClaim>::namespaced(client, namespace),
                &reference,
                watched,
            )
            .await;
        }
    }
}

async fn follow<K>(api: Api<K>, reference: &Reference, watched: Weak<Watched>)
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
    K::DynamicType: Default,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={}", reference.name));
    let stream = watcher(api, config).default_backoff();
    let mut stream = Box::pin(stream);
    // The version the readers have seen: the first list wakes nobody who has just read the same.
    let mut version: Option<String> = None;
    let mut first = true;
    loop {
        let seen = match stream.try_next().await {
            Ok(Some(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                object.meta().resource_version.clone()
            }
            Ok(Some(watcher::Event::Delete(_))) => None,
            Ok(Some(_)) => continue,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, kind = ?reference.kind, "watch of a referenced object is retried");
                continue;
            }
        };
        if !std::mem::take(&mut first) && seen == version {
            continue;
        }
        version = seen;
        let Some(watched) = watched.upgrade() else {
            return;
        };
        for reader in watched.readers.lock().iter().filter_map(Weak::upgrade) {
            reader.sources_changed();
        }
    }
}
