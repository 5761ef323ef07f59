//! The names that a network's containers have in it.

use super::{Network, all, api, policy};
use crate::{containers::Entry, daemon::Daemon, error::Result, names, state::Status};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

/// As many as an EndpointSlice takes.
const NAMES_MAX: usize = 1000;

/// What a container is called in a network: its name, its aliases, its id's beginning.
pub fn names_in(entry: &Entry, network: &Network) -> BTreeSet<String> {
    let endpoints = &entry.record.endpoints;
    let Some(endpoint) = endpoints.iter().find(|e| e.network_id == network.id) else {
        return BTreeSet::new();
    };
    let own = [entry.record.name.clone(), entry.record.short().to_string()];
    let all = own.into_iter().chain(endpoint.aliases.iter().cloned());
    all.filter_map(|n| names::host_label(&n)).collect()
}

fn endpoints(containers: &[Arc<Entry>], network: &Network) -> Vec<Value> {
    let mut list = Vec::new();
    for entry in containers.iter().rev() {
        let state = entry.state();
        let here = matches!(state.status, Status::Running | Status::Paused);
        if !here || state.ip.is_empty() {
            continue;
        }
        let endpoints = &entry.record.endpoints;
        let endpoint = endpoints.iter().find(|e| e.network_id == network.id);
        let own = endpoint.and_then(|e| e.address).map(|a| a.ip().to_string());
        let ip = own.unwrap_or_else(|| state.ip.clone());
        for name in names_in(entry, network) {
            list.push(json!({
                "addresses": [ip],
                "hostname": name,
                "conditions": { "ready": true },
                "targetRef": {
                    "kind": "Pod", "namespace": crate::NAMESPACE, "name": entry.pod_name(), "uid": entry.uid(),
                },
            }));
        }
    }
    list.truncate(NAMES_MAX);
    list
}

/// Writes the names of those that run now, where they differ from what was written last.
pub async fn sync(daemon: &Daemon) -> Result<()> {
    let mut written = daemon.names_written.lock().await;
    let own: Vec<Network> = all(daemon)
        .await?
        .into_iter()
        .filter(Network::is_own)
        .collect();
    written.retain(|id, _| own.iter().any(|n| n.id == *id));
    // read after the networks: a container that was put into one is seen with it
    let containers = daemon.containers.all();
    for network in own {
        let endpoints = endpoints(&containers, &network);
        let text = json!(endpoints).to_string();
        if written.get(&network.id) == Some(&text) {
            continue;
        }
        let name = network.object();
        if !written.contains_key(&network.id) {
            // one that a former version made says it in another way
            let names = json!({ "metadata": { "annotations": { policy::NAMES: policy::found_by(&network) } } });
            let services = api::<Service>(daemon);
            services
                .patch(&name, &PatchParams::default(), &Patch::Merge(&names))
                .await?;
        }
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "labels": {
                    "kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": "docker.knarr.dev",
                    super::LABEL: network.short(),
                },
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
        });
        let parameters = PatchParams::apply("docker.knarr.dev").force();
        api::<EndpointSlice>(daemon)
            .patch(&name, &parameters, &Patch::Apply(&slice))
            .await?;
        written.insert(network.id.clone(), text);
    }
    Ok(())
}
