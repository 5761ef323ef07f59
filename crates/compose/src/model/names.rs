//! The names that containers are found by, and who finds them: as Docker's resolver knows them.
//!
//! Source: moby `daemon.buildEndpointDNSNames` (the container's name, its aliases, its hostname), docker/compose
//! `getAliases` and `getLinks`.

use super::{Mode, Service, section};
use crate::{Error, tree::Node};
use std::collections::{BTreeMap, BTreeSet};

/// As many containers of a service get names with their numbers.
const NUMBERED_MAX: i64 = 50;

/// Who finds a service by a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The services in one of these networks; all, when it's in none.
    Networks(BTreeSet<String>),
    /// One service, that links it.
    Service(String),
}

/// A name of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// In lower case: DNS knows no other.
    pub name: String,
    pub scope: Scope,
    /// It was asked for; others follow from the project's name.
    pub said: bool,
}

/// What one service calls another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub service: String,
    pub alias: String,
    /// It finds the other's ports and variables among its own variables.
    pub environment: bool,
}

/// Fills in the services' names and links.
pub(super) fn names(services: &mut BTreeMap<String, Service>, tree: &Node, project: &str) {
    let mut found: BTreeMap<String, Vec<Name>> = BTreeMap::new();
    let mut linked: BTreeMap<String, Vec<Link>> = BTreeMap::new();
    for (user, node) in section(tree, "services") {
        let Some(service) = services.get(user) else {
            continue;
        };
        let own = found.entry(user.clone()).or_default();
        let everywhere = Scope::Networks(service.networks.clone());
        let mut add = |name: &str, scope: &Scope, said: bool| {
            let name = Name {
                name: name.trim_end_matches('.').to_lowercase(),
                scope: scope.clone(),
                said,
            };
            if is_name(&name.name) {
                own.push(name);
            }
        };
        add(user, &everywhere, true);
        for key in ["container_name", "hostname"] {
            if let Some(name) = node.text_of(key) {
                add(&name, &everywhere, true);
            }
        }
        if let (Some(host), Some(domain)) = (&service.hostname, &service.domainname) {
            add(&format!("{host}.{domain}"), &everywhere, true);
        }
        if node.get("container_name").is_none() {
            let last = match service.mode {
                Mode::Global => 1,
                _ => service.mode.replicas().clamp(1, NUMBERED_MAX),
            };
            for number in 1..=last {
                for between in ['-', '_'] {
                    let name = format!("{project}{between}{user}{between}{number}");
                    add(&name, &everywhere, false);
                }
            }
        }
        let networks = node.get("networks").and_then(Node::map);
        for (network, said) in networks.into_iter().flatten() {
            for alias in said.texts_of("aliases") {
                add(&alias, &Scope::Networks([network.clone()].into()), true);
            }
        }
        // The engine sets them on its old bridge only; the first layout knew no other network.
        let environment = node.get("x-knarr-links").is_some()
            || node.text_of("network_mode").as_deref() == Some("bridge");
        for link in node.texts_of("links") {
            let (other, alias) = link.split_once(':').unwrap_or((&link, &link));
            linked.entry(user.clone()).or_default().push(Link {
                service: other.to_string(),
                alias: alias.to_string(),
                environment,
            });
        }
    }
    for (user, links) in &linked {
        for link in links.iter().filter(|l| l.alias != l.service) {
            let name = Name {
                name: link.alias.to_lowercase(),
                scope: Scope::Service(user.clone()),
                said: true,
            };
            if is_name(&name.name) {
                found.entry(link.service.clone()).or_default().push(name);
            }
        }
    }
    for (name, service) in services.iter_mut() {
        service.names = found.remove(name).unwrap_or_default();
        service.links = linked.remove(name).unwrap_or_default();
    }
}

/// `CONTAINER[:ALIAS]`: a container in a network that it shares with this one. By its own name it is found anyway.
pub(super) fn external_links(name: &str, node: &Node) -> Result<Vec<(String, String)>, Error> {
    let all = node.get("external_links").map(Node::items);
    let mut links = Vec::new();
    for at in all.unwrap_or_default() {
        let text = at.scalar().unwrap_or_default().to_lowercase();
        let (container, alias) = text.split_once(':').unwrap_or((&text, &text));
        // Compose's own names are found with dashes, too.
        let container_name = container.replace('_', "-");
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        let ends = |c: char| c.is_ascii_alphanumeric();
        let label = |l: &str| l.starts_with(ends) && l.ends_with(ends);
        let is_host = container_name.bytes().all(plain) && container_name.split('.').all(label);
        if !is_host || !is_name(container) || !is_name(alias) {
            return Err(at.error(format!(
                "services.{name}.external_links: {text:?}: say CONTAINER, or CONTAINER:ALIAS"
            )));
        }
        if container != alias {
            links.push((container_name, alias.to_string()));
        }
    }
    Ok(links)
}

/// Whether DNS can be asked for it.
fn is_name(name: &str) -> bool {
    let label = |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_graphic());
    name.len() <= 253 && !name.contains(['@', ',']) && name.split('.').all(label)
}
