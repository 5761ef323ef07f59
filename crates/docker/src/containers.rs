//! All containers, as a watch of their Pods keeps them.

use crate::{
    error::{Fault, Result},
    pod::GATE,
    record::{ANNOTATION, Record},
    state::{self, State},
};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::RwLock;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::watch;

/// A container.
#[derive(Debug, Clone)]
pub struct Entry {
    pub record: Record,
    pub pod: Pod,
    pub paused: bool,
}

impl Entry {
    /// None: no Pod of ours.
    pub fn read(pod: Pod) -> Option<Entry> {
        let text = pod.metadata.annotations.as_ref()?.get(ANNOTATION)?;
        let record = serde_json::from_str(text).ok()?;
        Some(Entry {
            record,
            pod,
            paused: false,
        })
    }
    pub fn gated(&self) -> bool {
        let gates = self
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.scheduling_gates.as_ref());
        gates.is_some_and(|gates| gates.iter().any(|g| g.name == GATE))
    }
    pub fn state(&self) -> State {
        state::of(self)
    }
    pub fn pod_name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }
    fn version(&self) -> u64 {
        let version = self.pod.metadata.resource_version.as_deref();
        version.and_then(|v| v.parse().ok()).unwrap_or(0)
    }
}

/// What became of a container.
#[derive(Debug, Clone)]
pub enum Change {
    Appeared(Arc<Entry>),
    Changed { before: Arc<Entry>, now: Arc<Entry> },
    Gone(Arc<Entry>),
}

/// By id; those who wait hear of every change.
pub struct Containers {
    all: RwLock<HashMap<String, Arc<Entry>>>,
    changed: watch::Sender<u64>,
    /// set once the first list has come
    listed: watch::Sender<bool>,
}

impl Default for Containers {
    fn default() -> Containers {
        Containers {
            all: RwLock::default(),
            changed: watch::Sender::new(0),
            listed: watch::Sender::new(false),
        }
    }
}

impl Containers {
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
    pub fn listed(&self) -> &watch::Sender<bool> {
        &self.listed
    }
    /// Newest first.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        let mut all: Vec<_> = self.all.read().values().cloned().collect();
        all.sort_by(|a, b| b.record.created.cmp(&a.record.created));
        all
    }
    pub fn get(&self, id: &str) -> Option<Arc<Entry>> {
        self.all.read().get(id).cloned()
    }
    pub fn named(&self, name: &str) -> Option<Arc<Entry>> {
        let all = self.all.read();
        all.values().find(|e| e.record.name == name).cloned()
    }

    /// By id, name, or the beginning of an id.
    ///
    /// SOURCE: moby `daemon/container.go` GetContainer
    pub fn find(&self, reference: &str) -> Result<Arc<Entry>> {
        let bare = reference.strip_prefix('/').unwrap_or(reference);
        let all = self.all.read();
        let by_name = || all.values().find(|e| e.record.name == bare);
        if let Some(found) = all.get(bare).or_else(by_name) {
            return Ok(found.clone());
        }
        let mut by_prefix = all
            .iter()
            .filter(|(id, _)| !bare.is_empty() && id.starts_with(bare));
        match (by_prefix.next(), by_prefix.next()) {
            (Some((_, only)), None) => Ok(only.clone()),
            (Some(_), Some(_)) => Err(Fault::bad(format!(
                "Multiple IDs found with provided prefix: {reference}"
            ))),
            _ => Err(Fault::not_found(format!("No such container: {reference}"))),
        }
    }

    /// Takes a Pod as it is now: an older state, or an earlier run's, is passed over.
    pub fn put(&self, pod: Pod) -> Option<Change> {
        let mut entry = Entry::read(pod)?;
        let mut all = self.all.write();
        let before = all.get(&entry.record.id).cloned();
        if let Some(before) = &before {
            let older = entry.record.run < before.record.run
                || (entry.record.run == before.record.run && entry.version() <= before.version());
            if older {
                return None;
            }
            let same = before.record.run == entry.record.run;
            entry.paused = before.paused && same && entry.state().status == state::Status::Running;
        }
        let now = Arc::new(entry);
        all.insert(now.record.id.clone(), now.clone());
        drop(all);
        self.changed.send_modify(|n| *n += 1);
        Some(match before {
            None => Change::Appeared(now),
            Some(before) => Change::Changed { before, now },
        })
    }

    /// A Pod is gone; with the newest run's, the container.
    pub fn remove(&self, pod: &Pod) -> Option<Change> {
        let entry = Entry::read(pod.clone())?;
        let mut all = self.all.write();
        let known = all.get(&entry.record.id)?;
        if known.uid() != entry.uid() {
            return None;
        }
        let gone = all.remove(&entry.record.id)?;
        drop(all);
        self.changed.send_modify(|n| *n += 1);
        Some(Change::Gone(gone))
    }

    /// After a list: what isn't in it is gone.
    pub fn retain(&self, uids: &HashSet<String>) -> Vec<Change> {
        let mut all = self.all.write();
        let lost: Vec<String> = all
            .iter()
            .filter(|(_, e)| !uids.contains(e.uid()))
            .map(|(id, _)| id.clone())
            .collect();
        let gone = lost.iter().filter_map(|id| all.remove(id));
        let gone: Vec<Change> = gone.map(Change::Gone).collect();
        drop(all);
        self.changed.send_modify(|n| *n += 1);
        gone
    }

    pub fn set_paused(&self, id: &str, paused: bool) {
        let mut all = self.all.write();
        if let Some(known) = all.get(id) {
            let mut entry = Entry::clone(known);
            entry.paused = paused;
            all.insert(id.to_string(), Arc::new(entry));
        }
        drop(all);
        self.changed.send_modify(|n| *n += 1);
    }
}
