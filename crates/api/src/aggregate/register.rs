//! An APIService for every group version that this server answers itself (upstream's autoregister controller).

use std::{collections::HashSet, sync::Arc};

use serde_json::{Value, json};

use crate::{
    bootstrap, catalog,
    delete::{self, DeleteOptions, Requester},
    discovery,
    identity::Identity,
    kinds, measured, object,
    object::meta,
    registry::Handle,
    server::Inner,
    status::Failure,
};

const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Priorities of custom resources' groups and versions.
const CUSTOM: (i64, i64) = (1000, 100);

/// Of the built-in groups (kubernetes `cmd/kube-apiserver/app/aggregator.go`); those that are missing go by [`CUSTOM`].
const PRIORITIES: [(&str, i64); 23] = [
    ("", 18_000),
    ("apiregistration.k8s.io", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("resource.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("storagemigration.k8s.io", 15_800),
    (measured::GROUP, measured::PRIORITIES.0),
];

fn priorities(group: &str, version: &str) -> Option<(i64, i64)> {
    let (_, of_group) = PRIORITIES.iter().find(|(g, _)| *g == group)?;
    let of_version = match (group, version) {
        ("", _) => 1,
        (measured::GROUP, _) => measured::PRIORITIES.1,
        ("autoscaling", "v2") => 30,
        ("resource.k8s.io" | "flowcontrol.apiserver.k8s.io", "v1") => 21,
        (_, "v1") => 15,
        _ => 9,
    };
    Some((*of_group, of_version))
}

/// Makes what is missing and removes what is no longer served; others' objects stay as they are.
pub async fn run(inner: &Arc<Inner>, r: &Handle) -> Result<(), Failure> {
    let catalog = inner.catalog();
    let (mut wanted, mut missing) = (HashSet::new(), Vec::new());
    // the group of these objects is served by who keeps them, and has none itself
    let groups = discovery::groups(&catalog)
        .into_iter()
        .filter(|g| *g != r.group);
    for group in std::iter::once("").chain(groups) {
        for version in discovery::versions(&catalog, group) {
            let name = format!("{version}.{group}");
            let built_in = priorities(group, version);
            let (of_group, of_version) = built_in.unwrap_or(CUSTOM);
            wanted.insert(name.clone());
            let label = if built_in.is_some() {
                "onstart"
            } else {
                "true"
            };
            let mut spec = json!({"version": version, "groupPriorityMinimum": of_group, "versionPriority": of_version});
            if !group.is_empty() {
                spec["group"] = group.into();
            }
            let o = json!({
                "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": name, "labels": {MANAGED: label}}, "spec": spec,
            });
            missing.push(bootstrap::ensure(inner, r, "", o));
        }
    }
    // at once: their commits share a flush
    futures::future::try_join_all(missing).await?;
    let prefix = catalog::prefix(r, "");
    let objects: Vec<Value> = {
        let snapshot = inner.store.snapshot();
        let all = snapshot.range(&prefix, None);
        all.filter_map(|e| object::parse(&e.value).ok()).collect()
    };
    for o in objects {
        let managed = o["metadata"]["labels"][MANAGED].is_string();
        if managed && kinds::apiservices::is_local(&o) && !wanted.contains(meta(&o, "name")) {
            let who = Identity::loopback();
            let options = DeleteOptions::default();
            let gone = delete::delete(
                inner,
                r,
                "",
                meta(&o, "name"),
                &options,
                Requester::Named(&who),
            );
            match gone.await {
                Err(f) if f.code() != 404 => return Err(f),
                _ => {}
            }
        }
    }
    Ok(())
}
