//! The objects of a network.

use super::{KEY, LABEL, Network, label};
use crate::{NAMESPACE, daemon::Daemon, error::Result};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Service},
    networking::v1::NetworkPolicy,
};
use serde_json::{Value, json};

fn metadata(network: &Network) -> Value {
    json!({
        "name": network.object(),
        "namespace": NAMESPACE,
        "labels": { LABEL: network.short(), "app.kubernetes.io/managed-by": "docker" },
        "annotations": { "docker.knarr.dev/name": network.name },
    })
}

pub fn description(network: &Network) -> Result<ConfigMap> {
    let text = serde_json::to_string(network)?;
    Ok(serde_json::from_value(json!({
        "metadata": metadata(network), "data": { KEY: text },
    }))?)
}

/// By which names others find what is in a Service; see `knarr-network`.
pub const NAMES: &str = "knarr.dev/dns-names";

/// The network's members find all of its containers by their names.
pub fn found_by(network: &Network) -> String {
    format!("*@{}=", label(network.short()))
}

/// Headless, without a selector: its endpoints are written by us, a container has several names in it.
pub fn service(network: &Network) -> Result<Service> {
    let mut metadata = metadata(network);
    metadata["annotations"][NAMES] = json!(found_by(network));
    Ok(serde_json::from_value(json!({
        "metadata": metadata,
        "spec": { "clusterIP": "None", "publishNotReadyAddresses": true },
    }))?)
}

/// Lets in who is in the network too, and who is no container of Docker's: other Pods of the machine, the machine, the
/// world. An internal network lets nothing out.
pub fn policy(daemon: &Daemon, network: &Network) -> Result<NetworkPolicy> {
    let member = json!({ "podSelector": { "matchLabels": { label(network.short()): "" } } });
    let others = json!({ "namespaceSelector": { "matchExpressions": [
        { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [NAMESPACE] },
    ] } });
    let world = |cidr: &str| {
        let v6 = cidr.contains(':');
        let inside = daemon.pod_ranges.iter().filter(|r| r.contains(':') == v6);
        json!({ "ipBlock": { "cidr": cidr, "except": inside.collect::<Vec<_>>() } })
    };
    let mut spec = json!({
        "podSelector": member["podSelector"],
        "policyTypes": ["Ingress"],
        "ingress": [{ "from": [member, others, world("0.0.0.0/0"), world("::/0")] }],
    });
    if network.internal {
        spec["ingress"] = json!([{ "from": [member] }]);
        spec["policyTypes"] = json!(["Ingress", "Egress"]);
        // names are asked of the node, which no policy keeps a Pod from
        spec["egress"] = json!([{ "to": [member] }]);
    }
    Ok(serde_json::from_value(
        json!({ "metadata": metadata(network), "spec": spec }),
    )?)
}

/// Of the network `none`: nothing in, nothing out.
pub fn nothing(network: &Network) -> Result<NetworkPolicy> {
    Ok(serde_json::from_value(json!({
        "metadata": metadata(network),
        "spec": {
            "podSelector": { "matchLabels": { label("none"): "" } },
            "policyTypes": ["Ingress", "Egress"],
        },
    }))?)
}
