//! What follows from changes of roles, service accounts and their Secrets, and of what every cluster has: one task that reads the store's events.

use std::sync::{Arc, Weak};

use knarr_store::{Cursor, Event};

use super::{aggregation, legacy, tracking};
use crate::server::Inner;

const BATCH: usize = 256;
const CLUSTER_ROLES: &str = "/registry/rbac.authorization.k8s.io/clusterroles/";
const SECRETS: &str = "/registry/core/secrets/";
const ACCOUNTS: &str = "/registry/core/serviceaccounts/";

/// Runs until the server ends. It holds the server only while it works.
pub async fn run(inner: Weak<Inner>) {
    while let Some(cursor) = start(&inner).await {
        follow(&inner, cursor).await;
    }
}

/// Looks at everything once, then at what happens after.
async fn start(inner: &Weak<Inner>) -> Option<Cursor> {
    let inner = inner.upgrade().filter(|i| !i.stopping.is_cancelled())?;
    let from = inner.store.snapshot().revision();
    if let Err(f) = aggregation::run(&inner).await {
        tracing::warn!("aggregating cluster roles: {}", f.message());
    }
    legacy::all(&inner).await;
    inner.store.watch("/registry/", from).ok().or_else(|| {
        // the ring has moved on meanwhile, as it does under a flood of writes
        let now = inner.store.snapshot().revision();
        inner.store.watch("/registry/", now).ok()
    })
}

/// Returns when the cursor fell behind, or the server ends.
async fn follow(inner: &Weak<Inner>, mut cursor: Cursor) {
    let Some((stopping, used)) = inner
        .upgrade()
        .map(|i| (i.stopping.clone(), i.access.used.clone()))
    else {
        return;
    };
    loop {
        let events = tokio::select! {
            events = cursor.next(BATCH) => events,
            () = used.wake.notified() => {
                let Some(inner) = inner.upgrade() else { return };
                tracking::write(&inner).await;
                continue;
            }
            () = stopping.cancelled() => return,
        };
        let (Ok(events), Some(inner)) = (events, inner.upgrade()) else {
            return;
        };
        handle(&inner, &events).await;
        inner.access.keep(&inner.store);
    }
}

async fn handle(inner: &Arc<Inner>, events: &[Arc<Event>]) {
    let mut roles = false;
    if events.iter().any(|e| *e.key == *tracking::MAP_KEY) {
        tracking::since(inner).await;
    }
    crate::kept::mend(inner, events).await;
    for event in events {
        if event.key.starts_with(CLUSTER_ROLES) {
            roles = true;
        } else if let Some(rest) = event.key.strip_prefix(SECRETS)
            && event.value.is_some()
        {
            if let Some((namespace, name)) = rest.split_once('/') {
                legacy::secret(inner, namespace, name).await;
            }
        } else if let Some(rest) = event.key.strip_prefix(ACCOUNTS)
            && event.value.is_none()
            && let Some((namespace, name)) = rest.split_once('/')
        {
            legacy::account_gone(inner, namespace, name).await;
        }
    }
    if roles && let Err(f) = aggregation::run(inner).await {
        tracing::warn!("aggregating cluster roles: {}", f.message());
    }
}
