//! Extended resources of the node: what somebody says of its capacity (`kubectl patch node … --subresource=status`) is offered to
//! Pods, as the kubelet does at its next beat (kubernetes `pkg/kubelet/nodestatus`, setters MachineInfo). Knows of changes by a
//! watch of the one node.

use std::collections::BTreeMap;

use futures::StreamExt;
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::api::resource::Quantity};
use kube::{
    Api,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Map, Value, json};

/// Follows the node until dropped; what can't be written is tried again when the node changes, or the watch begins anew.
pub(crate) async fn follow(client: kube::Client, name: String) {
    let api: Api<Node> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut nodes = Box::pin(
        watcher(api.clone(), config)
            .default_backoff()
            .applied_objects(),
    );
    while let Some(node) = nodes.next().await {
        let Ok(node) = node else { continue };
        let Some(change) = node.status.and_then(|s| change(s.capacity, s.allocatable)) else {
            continue;
        };
        let patch = Patch::Merge(json!({"status": {"allocatable": change}}));
        let parameters = PatchParams::default();
        if let Err(error) = api.patch_status(&name, &parameters, &patch).await {
            tracing::warn!(%error, "the node's extended resources are not offered to Pods");
        }
    }
}

type Amounts = Option<BTreeMap<String, Quantity>>;

/// What is to be changed of `allocatable`, as a merge patch.
fn change(capacity: Amounts, allocatable: Amounts) -> Option<Value> {
    let extended = |all: Amounts| {
        let mut all = all.unwrap_or_default();
        all.retain(|name, _| is_extended(name));
        all
    };
    let (capacity, allocatable) = (extended(capacity), extended(allocatable));
    let mut change = Map::new();
    for (name, amount) in &capacity {
        if allocatable.get(name) != Some(amount) {
            change.insert(name.clone(), json!(amount));
        }
    }
    for name in allocatable.keys().filter(|n| !capacity.contains_key(*n)) {
        change.insert(name.clone(), Value::Null);
    }
    (!change.is_empty()).then(|| change.into())
}

/// Of a domain that isn't Kubernetes's own (`v1helper.IsExtendedResourceName`).
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_resources_are_offered_as_the_capacity_says() {
        let amounts = |all: &[(&str, &str)]| {
            let all = all.iter();
            Some(
                all.map(|(n, a)| ((*n).to_owned(), Quantity((*a).to_owned())))
                    .collect(),
            )
        };
        let x = "example.com/x";
        for (name, capacity, allocatable, want) in [
            ("none", amounts(&[("cpu", "4")]), None, None),
            (
                "new",
                amounts(&[("cpu", "4"), (x, "5")]),
                amounts(&[("cpu", "2")]),
                Some(json!({x: "5"})),
            ),
            ("as it is", amounts(&[(x, "5")]), amounts(&[(x, "5")]), None),
            (
                "fewer",
                amounts(&[(x, "3")]),
                amounts(&[(x, "5")]),
                Some(json!({x: "3"})),
            ),
            (
                "gone",
                amounts(&[("cpu", "4")]),
                amounts(&[("cpu", "2"), (x, "5")]),
                Some(json!({x: null})),
            ),
            (
                "the node's own",
                amounts(&[("hugepages-2Mi", "4Mi"), ("kubernetes.io/y", "1")]),
                None,
                None,
            ),
        ] {
            assert_eq!(change(capacity, allocatable), want, "{name}");
        }
    }
}
