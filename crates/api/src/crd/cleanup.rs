//! Deletes a definition's objects before the definition goes: apiextensions-apiserver `pkg/controller/finalizer`.

use std::sync::Arc;

use knarr_store::{CommitError, Expect};
use serde_json::Value;

use super::{definition::Definition, kind::CLEANUP, names, sync};
use crate::{
    catalog,
    delete::{self, DeleteOptions, Requester},
    identity::Identity,
    object,
    registry::Handle,
    server::Inner,
    write::{may_go, put_or_delete},
};

/// Attempts of one status write against concurrent writers.
const ATTEMPTS_MAX: usize = 64;
/// Events taken at once while objects with finalizers are waited for.
const BATCH_EVENTS: usize = 64;

/// Starts the deletion of a terminating definition's objects, unless it is under way.
pub fn start(inner: &Arc<Inner>, d: &Arc<Definition>) {
    if !inner.definitions.cleaning.lock().insert(d.name.clone()) {
        return;
    }
    let (inner, d) = (inner.clone(), d.clone());
    tokio::spawn(async move {
        let done = tokio::select! {
            done = run(&inner, &d) => done,
            () = inner.stopping.cancelled() => false,
        };
        inner.definitions.cleaning.lock().remove(&d.name);
        if done {
            sync::sync(&inner).await;
        }
    });
}

/// Returns whether the definition's finalizer is off.
async fn run(inner: &Arc<Inner>, d: &Definition) -> bool {
    let Some(definitions) = inner
        .catalog()
        .preferred("apiextensions.k8s.io", "customresourcedefinitions")
    else {
        return false;
    };
    let waits = |o: &mut Value| {
        if !crate::finalizers::of(o).iter().any(|f| f == CLEANUP) {
            return false;
        }
        let message = "CustomResource deletion is in progress";
        names::set(
            o,
            "Terminating",
            true,
            "InstanceDeletionInProgress",
            message,
        );
        true
    };
    if !change(inner, &definitions, d, waits).await {
        return false;
    }
    let objects = inner.catalog().preferred(d.group, d.plural);
    let (reason, message) = match objects.filter(|r| r.custom.is_some()) {
        Some(r) => {
            if !delete_all(inner, &r).await {
                let failed = |o: &mut Value| {
                    let message = "could not issue all deletes";
                    names::set(o, "Terminating", true, "InstanceDeletionFailed", message);
                    true
                };
                change(inner, &definitions, d, failed).await;
                return false;
            }
            ("InstanceDeletionCompleted", "removed all instances")
        }
        None => ("NeverEstablished", "resource was never established"),
    };
    change(inner, &definitions, d, |o| {
        names::set(o, "Terminating", false, reason, message);
        let left: Vec<String> = crate::finalizers::of(o)
            .into_iter()
            .filter(|f| f != CLEANUP)
            .collect();
        object::meta_mut(o).insert("finalizers".into(), left.into());
        true
    })
    .await
}

/// Deletes every object and waits until the last is gone.
async fn delete_all(inner: &Arc<Inner>, r: &Handle) -> bool {
    let prefix = catalog::prefix(r, "");
    let who = Identity::loopback();
    let mut asked = std::collections::HashSet::new();
    loop {
        let snapshot = inner.store.snapshot();
        let all: Vec<Arc<str>> = snapshot
            .range(&prefix, None)
            .map(|e| e.key.clone())
            .collect();
        if all.is_empty() {
            return true;
        }
        for key in all {
            if !asked.insert(key.clone()) {
                continue;
            }
            let (namespace, name) = catalog::split_key(r, &key);
            let options = DeleteOptions::default();
            let by = Requester::Collection(&who);
            match delete::delete(inner, r, namespace, name, &options, by).await {
                Ok(_) => {}
                Err(f) if f.code() == 404 => {}
                Err(f) => {
                    tracing::warn!(
                        object = &*key,
                        "an object of a deleted definition can't be deleted: {}",
                        f.message()
                    );
                    return false;
                }
            }
        }
        // the rest waits for its finalizers
        let from = inner.store.snapshot().revision();
        let gone = inner.store.snapshot().range(&prefix, None).next().is_none();
        if gone {
            return true;
        }
        match inner.store.watch(&prefix, from) {
            Ok(mut cursor) => {
                // behind the ring or not: the next look tells
                let _ = cursor.next(BATCH_EVENTS).await;
            }
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Changes the stored definition, unless it is another one by now or `f` says no.
async fn change(
    inner: &Inner,
    definitions: &Handle,
    d: &Definition,
    f: impl Fn(&mut Value) -> bool,
) -> bool {
    let key: Arc<str> = catalog::key(definitions, "", &d.name).into();
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = inner.store.snapshot();
        let Some(entry) = snapshot.get(&key) else {
            return false;
        };
        let Ok(mut o) = object::parse(&entry.value) else {
            return false;
        };
        if object::meta(&o, "uid") != d.uid || !f(&mut o) {
            return false;
        }
        let encoded = object::encode(&o);
        let expect = Expect::Revision(entry.mod_revision);
        let op = put_or_delete(key.clone(), &encoded, expect, may_go(definitions, &o));
        match inner.store.commit(vec![op]).await {
            Ok(_) => return true,
            Err(CommitError::Conflict { .. }) => {}
            Err(e) => {
                tracing::error!(definition = d.name, "can't be written: {e}");
                return false;
            }
        }
    }
    false
}
