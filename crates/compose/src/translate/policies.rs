//! Networks that keep services apart, as NetworkPolicies.

use super::{Context, dns_name, naming::network_label};
use crate::{Project, Service};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// On knarr: a Pod whose questions are answered as Docker's resolver does, with the project's names first.
const CLIENT: &str = "dns.knarr.dev/project";

/// Whether there is anything to keep apart: services that share no network, a network without a way out, or a service
/// without any.
pub(super) fn is_isolated(project: &Project) -> bool {
    let apart = |a: &Service, b: &Service| {
        !a.namespaces.host_network
            && !b.namespaces.host_network
            && a.namespaces.joins.is_none()
            && b.namespaces.joins.is_none()
            && a.networks.is_disjoint(&b.networks)
    };
    let all: Vec<&Service> = project.services.values().collect();
    project.networks.values().any(|n| n.internal)
        || all.iter().any(|s| s.namespaces.no_network)
        || all
            .iter()
            .enumerate()
            .any(|(i, a)| all[i + 1..].iter().any(|b| apart(a, b)))
}

/// The labels that tell policies, names and shared names which Pods are meant.
pub(super) fn labels(context: &Context<'_>, members: &[&Service]) -> BTreeSet<String> {
    let said = members
        .iter()
        .filter_map(|m| context.naming.labels.get(&m.name));
    let mut all: BTreeSet<String> = said.flatten().cloned().collect();
    if context.project.at_home {
        all.insert(CLIENT.into());
    }
    all
}

pub(super) fn policies(context: &Context<'_>) -> Vec<Value> {
    if !context.isolated {
        return vec![];
    }
    let policy = |name: String, spec: Value| json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": context.meta(name, None), "spec": spec });
    let peers = |network: &String| json!({ "matchLabels": { network_label(context.project, network): "true" } });
    let mut all = Vec::new();
    for (name, network) in &context.project.networks {
        let mut from = json!({ "podSelector": peers(name) });
        if network.shared {
            from["namespaceSelector"] = json!({});
        }
        all.push(policy(
            dns_name(&format!("network-{name}")),
            json!({ "podSelector": peers(name), "policyTypes": ["Ingress"], "ingress": [{ "from": [from] }] }),
        ));
    }
    for service in context.project.services.values() {
        let selector = json!({ "matchLabels": context.selector(service) });
        let name = dns_name(&service.name);
        if service.namespaces.no_network {
            all.push(policy(
                dns_name(&format!("{name}-no-network")),
                json!({ "podSelector": selector, "policyTypes": ["Ingress", "Egress"] }),
            ));
            continue;
        }
        let open: BTreeSet<(u16, &str)> = service
            .ports
            .iter()
            .map(|p| (p.target, p.protocol.as_str()))
            .collect();
        if !open.is_empty() {
            let ports: Vec<Value> = open
                .iter()
                .map(|(port, protocol)| json!({ "port": port, "protocol": protocol }))
                .collect();
            all.push(policy(
                dns_name(&format!("{name}-published")),
                json!({ "podSelector": selector, "policyTypes": ["Ingress"], "ingress": [{ "ports": ports }] }),
            ));
        }
        let known = |n: &&String| context.project.networks.contains_key(*n);
        let networks: Vec<&String> = service.networks.iter().filter(known).collect();
        if !networks.is_empty()
            && networks
                .iter()
                .all(|n| context.project.networks[*n].internal)
        {
            let peers: Vec<Value> = networks
                .iter()
                .map(|n| json!({ "podSelector": peers(n) }))
                .collect();
            let dns = json!([{ "port": 53, "protocol": "UDP" }, { "port": 53, "protocol": "TCP" }]);
            all.push(policy(
                dns_name(&format!("{name}-internal")),
                json!({ "podSelector": selector, "policyTypes": ["Egress"], "egress": [{ "to": peers }, { "ports": dns }] }),
            ));
        }
    }
    all
}
