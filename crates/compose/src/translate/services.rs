//! The names services are found by, and the ports that are open on the host.

use super::{Context, dns_name, naming};
use crate::{Port, Service};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The host's address that a Service publishes on.
const HOST_IP: &str = "knarr.dev/host-ip";
/// On knarr: a Service's address carries all ports, as the address of a container of Docker's does.
const PORTS: &str = "knarr.dev/ports";
/// On knarr: what the Service is called, as the files write it.
const NAMES: &str = "knarr.dev/dns-names";

/// All ports that are known of a service: published, exposed, and those its image names.
pub(super) fn ports(context: &Context<'_>, service: &Service) -> Vec<Port> {
    let facts = context.facts(&service.name);
    let plain = |(target, protocol): &(u16, String)| Port {
        target: *target,
        published: None,
        host_ip: None,
        protocol: protocol.clone(),
        app_protocol: None,
        name: None,
    };
    let more = service.expose.iter().chain(&facts.exposed).map(plain);
    service.ports.iter().cloned().chain(more).collect()
}

/// (host address, host port, protocol) of what it publishes by number.
pub(super) fn published(service: &Service) -> Vec<(Option<String>, u16, String)> {
    if service.namespaces.no_network || service.namespaces.host_network {
        return vec![];
    }
    service
        .ports
        .iter()
        .filter_map(|p| {
            // Of a range, which one is not chosen yet.
            let (number, _) = p.published.filter(|(a, b)| a == b)?;
            Some((p.host_ip.clone(), number, p.protocol.clone()))
        })
        .collect()
}

fn port(p: &Port, number: u16) -> Value {
    let mut port = json!({
        "name": format!("{}-{number}", p.protocol.to_lowercase()), "port": number, "targetPort": p.target, "protocol": p.protocol,
    });
    if let Some(a) = &p.app_protocol {
        port["appProtocol"] = json!(a);
    }
    port
}

pub(super) fn services(context: &Context<'_>, shared: &mut Vec<Value>) {
    let all = &context.project.services;
    let leads = |object: &str, named: &naming::Named| {
        let mut targets = named.targets.iter();
        targets.next().is_some_and(|t| dns_name(t) == object) && targets.next().is_none()
    };
    // Each service's own, with what it publishes, then what else they are called.
    for own in [true, false] {
        let named = context.naming.services.iter();
        for (object, named) in named.filter(|(o, n)| leads(o, n) == own) {
            let targets: Vec<&Service> = named.targets.iter().filter_map(|t| all.get(t)).collect();
            let selector = match &targets[..] {
                [one] => context.selector(one),
                _ => {
                    json!({ naming::alias_label(object): "true", "app.kubernetes.io/part-of": context.namespace })
                }
            };
            let label = targets.first().filter(|_| own).map(|s| s.name.as_str());
            let meta = context.meta(object.clone(), label);
            shared.push(service(
                context,
                &targets,
                meta,
                &selector,
                &named.words,
                own,
            ));
            if let Some(one) = targets
                .first()
                .filter(|s| own && !s.namespaces.host_network)
            {
                on_host(context, one, &selector, shared);
            }
        }
    }
}

/// Other names for containers of other projects (`external_links`), for those who say so.
pub(super) fn outer(context: &Context<'_>, shared: &mut Vec<Value>) {
    if !context.project.at_home {
        return;
    }
    let mut taken: BTreeSet<String> = context.naming.services.keys().cloned().collect();
    for ((target, alias), users) in naming::outer(context.project) {
        let mut object = dns_name(alias);
        let mut number = 1;
        while !taken.insert(object.clone()) {
            number += 1;
            object = dns_name(&format!("{alias}-{number}"));
        }
        let users: Vec<String> = users.into_iter().collect();
        let mut metadata = context.meta(object, None);
        metadata["annotations"] = json!({ NAMES: format!("{alias}@{}", users.join(",")) });
        shared.push(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "type": "ExternalName", "externalName": target },
        }));
    }
}

/// A name. On knarr its address carries all ports. Elsewhere an address carries the ports that are known; where none is,
/// the name leads straight to the containers (headless), so that any works.
fn service(
    context: &Context<'_>,
    services: &[&Service],
    mut metadata: Value,
    selector: &Value,
    words: &[String],
    own: bool,
) -> Value {
    let mut known: Vec<Port> = services.iter().flat_map(|s| ports(context, s)).collect();
    if !context.project.at_home {
        known.extend(super::mentions::ports(context, services));
    }
    let mut seen = BTreeSet::new();
    let mut ports: Vec<Value> = known
        .iter()
        .filter(|p| seen.insert((p.target, p.protocol.clone())))
        .map(|p| port(p, p.target))
        .collect();
    let mut spec = json!({ "selector": selector });
    let headless = services.iter().any(|s| s.dns_round_robin);
    let mut annotations = serde_json::Map::new();
    if !words.is_empty() {
        annotations.insert(NAMES.into(), json!(words.join(" ")));
    }
    if context.project.at_home && !headless {
        annotations.insert(PORTS.into(), json!("any"));
        if ports.is_empty() {
            // An address is given to ports only: this one stands for all.
            ports.push(json!({ "name": "any", "port": 1, "targetPort": 1, "protocol": "TCP" }));
        }
    }
    if ports.is_empty() || headless {
        spec["clusterIP"] = json!("None");
    }
    if !ports.is_empty() {
        spec["ports"] = json!(ports);
    }
    // Other clusters may not let everybody have addresses: only what is asked for.
    let wanted = |asked: bool| context.project.at_home || asked;
    if let [one] = services
        && !headless
        && !ports.is_empty()
        && own
    {
        let all = one.addresses.iter().filter(|(_, asked)| wanted(*asked));
        let all: Vec<String> = all.map(|(ip, _)| ip.to_string()).collect();
        if !all.is_empty() {
            spec["externalIPs"] = json!(all);
        }
    }
    // On knarr, who isn't ready is reached as long as nobody is.
    let asks_itself = |s: &&Service| super::mentions::asks_itself(context, s);
    if !context.project.at_home && services.iter().any(asks_itself) {
        spec["publishNotReadyAddresses"] = json!(true);
    }
    if !annotations.is_empty() {
        metadata["annotations"] = Value::Object(annotations);
    }
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec })
}

/// Ports of the host: by number, one Service for each address; any free one, another.
fn on_host(context: &Context<'_>, service: &Service, selector: &Value, shared: &mut Vec<Value>) {
    let name = dns_name(&service.name);
    let by_number: Vec<&Port> = service
        .ports
        .iter()
        .filter(|p| p.published.is_some())
        .collect();
    let addresses: BTreeSet<Option<&String>> =
        by_number.iter().map(|p| p.host_ip.as_ref()).collect();
    for (i, address) in addresses.into_iter().enumerate() {
        let suffix = if i == 0 {
            String::new()
        } else {
            format!("-{i}")
        };
        let mut metadata = context.meta(
            dns_name(&format!("{name}-published{suffix}")),
            Some(&service.name),
        );
        if let Some(ip) = address {
            metadata["annotations"] = json!({ HOST_IP: ip });
        }
        let mut seen = BTreeSet::new();
        let ports: Vec<Value> = by_number
            .iter()
            .filter(|p| p.host_ip.as_ref() == address)
            .map(|p| (p, p.published.map_or(p.target, |r| r.0)))
            .filter(|(p, number)| seen.insert((*number, p.protocol.clone())))
            .map(|(p, number)| port(p, number))
            .collect();
        shared.push(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "selector": selector, "ports": ports },
        }));
    }
    let mut seen = BTreeSet::new();
    let any: Vec<Value> = service
        .ports
        .iter()
        .filter(|p| p.published.is_none() && seen.insert((p.target, p.protocol.clone())))
        .map(|p| port(p, p.target))
        .collect();
    if !any.is_empty() {
        let metadata = context.meta(
            dns_name(&format!("{name}-published-any")),
            Some(&service.name),
        );
        shared.push(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "type": "NodePort", "selector": selector, "ports": any },
        }));
    }
}
