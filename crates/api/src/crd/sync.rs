//! From the stored definitions to what is served: run after every write of one, and once at the start.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use knarr_store::{CommitError, Expect, Op};
use serde_json::Value;
use tokio::sync::Mutex;

use super::{
    cleanup, custom,
    definition::{Definition, condition},
    names,
};
use crate::{
    catalog,
    object::{self},
    registry::Handle,
    server::Inner,
};

/// Rounds until the conditions of all definitions hold together.
const ROUNDS_MAX: usize = 64;

/// What is known of the definitions.
#[derive(Default)]
pub struct Definitions {
    state: Mutex<State>,
    /// Definitions whose objects are being deleted.
    pub(super) cleaning: parking_lot::Mutex<HashSet<String>>,
}

#[derive(Default)]
struct State {
    known: BTreeMap<String, Known>,
}

struct Known {
    /// Of the store, of what was looked at last.
    revision: u64,
    definition: Arc<Definition>,
    /// What is served of it; empty when nothing may be.
    served: Vec<Handle>,
    /// All its names are its own.
    settled: bool,
    /// What a change of makes another definition of it.
    shape: (i64, bool, String),
}

/// Brings what is served in line with the stored definitions.
pub async fn sync(inner: &Arc<Inner>) {
    let Some(r) = inner
        .catalog()
        .preferred("apiextensions.k8s.io", "customresourcedefinitions")
    else {
        return;
    };
    let mut state = inner.definitions.state.lock().await;
    let mut changed = false;
    for _ in 0..ROUNDS_MAX {
        let (round, again) = state.round(inner, &r).await;
        changed |= round;
        if !again {
            break;
        }
    }
    if changed {
        let mut all: Vec<Handle> = state
            .known
            .values()
            .flat_map(|k| k.served.clone())
            .collect();
        all.sort_by(|a, b| {
            a.group
                .cmp(b.group)
                .then_with(|| super::priority::compare(b.version, a.version))
                .then_with(|| a.plural.cmp(b.plural))
        });
        let next = inner.catalog().with_custom(all);
        inner.served.store(Arc::new(next));
        inner.aggregation.changed.notify_one();
    }
    for k in state.known.values() {
        if k.definition.terminating {
            cleanup::start(inner, &k.definition);
        }
    }
}

impl State {
    /// Looks at every definition that changed. Returns whether what is served changes, and whether another look is needed.
    async fn round(&mut self, inner: &Arc<Inner>, r: &Handle) -> (bool, bool) {
        let snapshot = inner.store.snapshot();
        let prefix = catalog::prefix(r, "");
        let mut changed = false;
        let mut again = false;
        let mut seen = HashSet::new();
        let entries: Vec<knarr_store::Entry> = snapshot.range(&prefix, None).cloned().collect();
        for entry in &entries {
            let name = entry.key[prefix.len()..].to_owned();
            seen.insert(name.clone());
            let known = self.known.get(&name);
            if known.is_some_and(|k| k.revision == entry.mod_revision && k.settled) {
                continue;
            }
            let Ok(mut o) = object::parse(&entry.value) else {
                tracing::error!(
                    definition = name,
                    "a stored definition is not JSON and is not served"
                );
                continue;
            };
            let before = o.clone();
            let group = o["spec"]["group"].as_str().unwrap_or("").to_owned();
            let others = self.known.values().map(|k| &*k.definition);
            let taken = names::Taken::of(&group, others.filter(|d| d.name != name));
            names::settle(&mut o, &taken, None);
            let bytes = if o == before {
                entry.value.clone()
            } else {
                o.to_string().into()
            };
            let mut loaded = self.load(&name, &o, &bytes);
            if let Some(Err(why)) = &loaded {
                tracing::error!(definition = name, "can't be served: {why}");
                o = before.clone();
                names::settle(&mut o, &taken, Some(why));
                // without it, what it was before would be served on
                changed |= self.forget(&name);
                loaded = None;
            }
            if o != before {
                let op = Op::Put {
                    key: entry.key.clone(),
                    value: object::encode(&o).spliced(),
                    expect: Expect::Revision(entry.mod_revision),
                };
                match inner.store.commit(vec![op]).await {
                    // the next round reads what was written
                    Ok(_) | Err(CommitError::Conflict { .. }) => again = true,
                    Err(e) => {
                        tracing::error!(definition = name, "its status can't be written: {e}");
                    }
                }
                continue;
            }
            let (learnt, freed) = self.learn(&name, entry, &o, loaded);
            changed |= learnt;
            // others in its group may have waited for a name that it gave up
            again |= freed && self.known.values().any(|k| !k.settled);
        }
        let gone: Vec<String> = self
            .known
            .keys()
            .filter(|n| !seen.contains(*n))
            .cloned()
            .collect();
        for name in gone {
            changed |= self.forget(&name);
            // its names are free for others
            again |= self.known.values().any(|k| !k.settled);
        }
        (changed, again)
    }

    /// Takes what is known of a definition away; whether there was any.
    fn forget(&mut self, name: &str) -> bool {
        let known = self.known.remove(name);
        if let Some(k) = &known {
            k.definition.retired.cancel();
        }
        known.is_some()
    }

    /// What is to be served of a definition with these conditions; None when that is served already. Err = why it can't
    /// be.
    fn load(&self, name: &str, o: &Value, bytes: &Bytes) -> Option<Result<Loaded, String>> {
        let state = Conditions::of(o);
        let known = self.known.get(name);
        if known.is_some_and(|k| k.shape == state.shape && k.served.is_empty() != state.serve) {
            return None;
        }
        Some(Loaded::read(bytes, state.serve).map_err(|e| e.to_string()))
    }

    /// Takes note of a definition whose conditions hold: whether what is served changes, and whether its names do.
    fn learn(
        &mut self,
        name: &str,
        entry: &knarr_store::Entry,
        o: &Value,
        loaded: Option<Result<Loaded, String>>,
    ) -> (bool, bool) {
        let state = Conditions::of(o);
        let Some(Ok(loaded)) = loaded else {
            if let Some(k) = self.known.get_mut(name) {
                k.revision = entry.mod_revision;
                k.settled = state.settled;
            }
            return (false, false);
        };
        let known = Known {
            revision: entry.mod_revision,
            definition: loaded.definition,
            served: loaded.served,
            settled: state.settled,
            shape: state.shape,
        };
        let accepted = known.shape.2.clone();
        let old = self.known.insert(name.to_owned(), known);
        let freed = old.as_ref().is_some_and(|k| k.shape.2 != accepted);
        if let Some(old) = old {
            old.definition.retired.cancel();
        }
        (true, freed)
    }
}

/// What a stored definition says of itself.
struct Conditions {
    /// All its names are its own.
    settled: bool,
    /// It may be served.
    serve: bool,
    /// What a change of makes another definition of it.
    shape: (i64, bool, String),
}

impl Conditions {
    fn of(o: &Value) -> Conditions {
        let settled = condition(o, "NamesAccepted") == Some("True");
        let established = condition(o, "Established") == Some("True");
        let terminating = o.pointer("/metadata/deletionTimestamp").is_some();
        let generation = o["metadata"]["generation"].as_i64().unwrap_or(0);
        let names = o["status"]["acceptedNames"].to_string() + object::meta(o, "uid");
        Conditions {
            settled,
            serve: settled || established,
            shape: (generation, terminating, names),
        }
    }
}

/// A definition read, and the resources that come of it.
struct Loaded {
    definition: Arc<Definition>,
    served: Vec<Handle>,
}

impl Loaded {
    fn read(bytes: &Bytes, serve: bool) -> Result<Loaded, super::definition::Error> {
        let definition = Arc::new(Definition::read(bytes)?);
        let mut served = Vec::new();
        for (at, v) in definition.versions.iter().enumerate() {
            if serve && v.served {
                served.push(custom::resource(&definition, at)?);
            }
        }
        Ok(Loaded { definition, served })
    }
}
