//! The default roles and bindings, brought up to date at the first request after a start (upstream
//! `pkg/registry/rbac/rest/storage_rbac.go`): what is missing is added, what the cluster's owner added or protected stays.

use futures::{StreamExt, TryStreamExt};
use knarr_access::{
    policy::{self, Step},
    rbac::{GROUP, Kind},
};
use serde_json::Value;

use super::{aggregation, tracking};
use crate::{
    bootstrap, catalog,
    delete::{self, DeleteOptions, Requester},
    identity::Identity,
    object,
    query::WriteOptions,
    registry::Handle,
    server::Inner,
    status::Failure,
    write::{Change, Part, Write},
};

/// Writes under way at once; their commits share a flush.
const CONCURRENCY: usize = 32;

/// Does it. A server without the RBAC kinds has none.
pub async fn run(inner: &Inner) -> Result<(), Failure> {
    tracking::since(inner).await;
    if inner.catalog().preferred(GROUP, "clusterroles").is_none() {
        return Ok(());
    }
    let (roles, bindings): (Vec<_>, Vec<_>) = policy::defaults()
        .into_iter()
        .partition(|d| matches!(d.kind, Kind::Role | Kind::ClusterRole));
    // a binding without its role would be an error to whoever is bound
    for part in [roles, bindings] {
        futures::stream::iter(part)
            .map(Ok)
            .try_for_each_concurrent(CONCURRENCY, |d| one(inner, d))
            .await?;
    }
    aggregation::run(inner).await
}

fn resource(inner: &Inner, kind: Kind) -> Option<Handle> {
    let plural = match kind {
        Kind::Role => "roles",
        Kind::ClusterRole => "clusterroles",
        Kind::RoleBinding => "rolebindings",
        Kind::ClusterRoleBinding => "clusterrolebindings",
    };
    inner.catalog().preferred(GROUP, plural)
}

async fn one(inner: &Inner, d: policy::Default) -> Result<(), Failure> {
    let Some(r) = resource(inner, d.kind) else {
        return Ok(());
    };
    let key = catalog::key(&r, &d.namespace, &d.name);
    let live: Option<Value> = match inner.store.snapshot().get(&key) {
        Some(entry) => Some(object::parse(&entry.value)?),
        None => None,
    };
    let Some(live) = live else {
        return bootstrap::ensure(inner, &r, &d.namespace, d.object).await;
    };
    match policy::reconcile(&d, &live) {
        Step::Leave => Ok(()),
        Step::Update(_) => {
            let (who, options) = (
                Identity::loopback(),
                WriteOptions::internal(bootstrap::MANAGER),
            );
            let (namespace, name) = (d.namespace.as_str(), d.name.as_str());
            let mut w = Write::new(inner, &who, &r, namespace, name, &options, Part::Main);
            w.update(|live, _| {
                // somebody may have written since: looked at again
                let object = match policy::reconcile(&d, live) {
                    Step::Update(new) => new,
                    _ => live.clone(),
                };
                Ok(Change {
                    object,
                    applied: false,
                })
            })
            .await
            .map(|_| ())
        }
        Step::Replace => {
            let options = DeleteOptions::default();
            let (who, r) = (Identity::loopback(), &r);
            let by = Requester::Named(&who);
            delete::delete(inner, r, &d.namespace, &d.name, &options, by).await?;
            bootstrap::ensure(inner, r, &d.namespace, d.object).await
        }
    }
}
