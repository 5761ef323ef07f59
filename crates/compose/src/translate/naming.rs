//! Which Services the names of a project become, and which labels tell who finds what.
//!
//! On knarr a Service says all its names itself (`knarr.dev/dns-names`), as they are written and for those networks' and
//! links' containers that they are meant for. Other clusters have names of one kind only: there each is a Service of its
//! own, found by all of the namespace, and what can't be said so is a warning.

use super::dns_name;
use crate::{Project, Scope, Service};
use std::collections::{BTreeMap, BTreeSet};

/// A Service to be: a name that leads to the containers of some services.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub targets: BTreeSet<String>,
    /// Of the annotation.
    pub words: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Naming {
    /// By the object's name.
    pub services: BTreeMap<String, Named>,
    /// Service → labels of its Pods, all `true`.
    pub labels: BTreeMap<String, BTreeSet<String>>,
    /// What other clusters can't do.
    pub warnings: Vec<String>,
}

/// The label of the Pods in a network; one that projects share is called alike in all of them.
pub(super) fn network_label(project: &Project, network: &str) -> String {
    match project.networks.get(network) {
        Some(n) if n.shared => format!("shared-network.knarr.dev/{}", dns_name(&n.name)),
        _ => format!("network.knarr.dev/{}", dns_name(network)),
    }
}

/// Who finds a name: all, or the Pods with one of these labels.
type Clients = Option<BTreeSet<String>>;

/// What a name leads to, and for whom.
struct Meaning<'a> {
    targets: BTreeSet<&'a str>,
    clients: Clients,
    /// Networks of other projects' Pods, too.
    beyond: BTreeSet<String>,
    said: bool,
}

pub(super) fn naming(project: &Project, isolated: bool) -> Naming {
    let mut made = Naming::default();
    let reachable = |s: &&Service| !s.namespaces.no_network;
    for service in project.services.values().filter(reachable) {
        let named = made.services.entry(dns_name(&service.name)).or_default();
        named.targets.insert(service.name.clone());
    }
    let mut names: BTreeMap<&str, Vec<(&Service, &crate::Name)>> = BTreeMap::new();
    for service in project.services.values().filter(reachable) {
        for name in &service.names {
            names.entry(&name.name).or_default().push((service, name));
        }
    }
    for (name, uses) in names {
        for meaning in meanings(project, isolated, name, &uses) {
            match project.at_home {
                true => at_home(&mut made, name, &meaning),
                false if meaning.said => elsewhere(&mut made, name, &meaning),
                false => {}
            }
        }
    }
    for service in project.services.values() {
        let labels = made.labels.entry(service.name.clone()).or_default();
        for network in &service.networks {
            let label = network_label(project, network);
            let shared = project.networks.get(network).is_some_and(|n| n.shared);
            let asked = made.services.values().flat_map(|s| &s.words);
            if isolated || shared || asked.clone().any(|w| w.contains(&label)) {
                labels.insert(label);
            }
        }
        let mut links = project.services.values().flat_map(|s| &s.names);
        let links = links.any(|n| n.scope == Scope::Service(service.name.clone()));
        if project.at_home && (links || !service.external_links.is_empty()) {
            labels.insert(link_label(&service.name));
        }
    }
    made
}

fn link_label(user: &str) -> String {
    format!("links.knarr.dev/{}", dns_name(user))
}

/// What services call containers of others: (target, name) and who calls it so.
pub(super) fn outer(project: &Project) -> BTreeMap<(&str, &str), BTreeSet<String>> {
    let mut all: BTreeMap<(&str, &str), BTreeSet<String>> = BTreeMap::new();
    for service in project.services.values() {
        for (target, alias) in &service.external_links {
            let users = all.entry((target, alias)).or_default();
            users.insert(link_label(&service.name));
        }
    }
    all
}

/// One for each set of services that the name stands for in some networks, or for one that links.
fn meanings<'a>(
    project: &Project,
    isolated: bool,
    name: &str,
    uses: &[(&'a Service, &crate::Name)],
) -> Vec<Meaning<'a>> {
    let mut by_network: BTreeMap<Option<&str>, BTreeSet<&'a str>> = BTreeMap::new();
    let mut by_user: BTreeMap<&str, BTreeSet<&'a str>> = BTreeMap::new();
    for (service, use_) in uses {
        match &use_.scope {
            Scope::Networks(all) if all.is_empty() => {
                by_network.entry(None).or_default().insert(&service.name);
            }
            Scope::Networks(all) => {
                for network in all {
                    let of = by_network.entry(Some(network)).or_default();
                    of.insert(&service.name);
                }
            }
            Scope::Service(user) => {
                by_user.entry(user).or_default().insert(&service.name);
            }
        }
    }
    let mut groups: BTreeMap<BTreeSet<&'a str>, BTreeSet<Option<&str>>> = BTreeMap::new();
    for (network, mut targets) in by_network {
        // A service's own name goes before what others are called.
        if let Some(own) = targets.iter().copied().find(|t| t.to_lowercase() == name) {
            targets = [own].into();
        }
        groups.entry(targets).or_default().insert(network);
    }
    let said = uses.iter().any(|(_, n)| n.said);
    let one = groups.len() == 1;
    let mut all: Vec<Meaning<'a>> = Vec::new();
    for (targets, networks) in groups {
        let labels = |shared: bool| -> BTreeSet<String> {
            let of = networks.iter().flatten();
            let wanted = |n: &&&str| !shared || project.networks.get(**n).is_some_and(|n| n.shared);
            of.filter(wanted)
                .map(|n| network_label(project, n))
                .collect()
        };
        let for_all = networks.contains(&None) || (one && !isolated);
        all.push(Meaning {
            clients: (!for_all).then(|| labels(false)),
            beyond: labels(true),
            targets,
            said,
        });
    }
    let mut by_targets: BTreeMap<BTreeSet<&'a str>, BTreeSet<String>> = BTreeMap::new();
    for (user, targets) in by_user {
        let users = by_targets.entry(targets).or_default();
        users.insert(link_label(user));
    }
    for (targets, users) in by_targets {
        all.push(Meaning {
            targets,
            clients: Some(users),
            beyond: BTreeSet::new(),
            said: true,
        });
    }
    all
}

/// The object that leads to exactly these services: the one's own, or one that is made for them.
fn object_of(made: &mut Naming, name: &str, targets: &BTreeSet<&str>) -> String {
    if let [one] = &targets.iter().collect::<Vec<_>>()[..] {
        return dns_name(one);
    }
    let same = |n: &Named| {
        n.targets
            .iter()
            .map(String::as_str)
            .eq(targets.iter().copied())
    };
    if let Some((object, _)) = made.services.iter().find(|(_, n)| same(n)) {
        return object.clone();
    }
    let mut object = dns_name(name);
    let mut number = 1;
    while made.services.contains_key(&object) {
        number += 1;
        object = dns_name(&format!("{name}-{number}"));
    }
    together(made, &object, targets);
    object
}

/// A Service before the containers of several, or of one under another name.
fn together(made: &mut Naming, object: &str, targets: &BTreeSet<&str>) {
    let targets: BTreeSet<String> = targets.iter().map(|t| t.to_string()).collect();
    if targets.len() > 1 {
        for target in &targets {
            let labels = made.labels.entry(target.clone()).or_default();
            labels.insert(alias_label(object));
        }
    }
    let named = made.services.entry(object.to_string()).or_default();
    named.targets = targets;
}

/// The label of the Pods that several services' common name leads to.
pub(super) fn alias_label(object: &str) -> String {
    format!("alias.knarr.dev/{object}")
}

fn at_home(made: &mut Naming, name: &str, meaning: &Meaning<'_>) {
    let object = object_of(made, name, &meaning.targets);
    let list = |labels: &BTreeSet<String>| labels.iter().cloned().collect::<Vec<_>>().join(",");
    let named = made.services.entry(object).or_default();
    match &meaning.clients {
        Some(clients) => named.words.push(format!("{name}@{}", list(clients))),
        None => {
            named.words.push(name.to_string());
            if !meaning.beyond.is_empty() {
                let word = format!("{name}@{}", list(&meaning.beyond));
                named.words.push(word);
            }
        }
    }
}

fn elsewhere(made: &mut Naming, name: &str, meaning: &Meaning<'_>) {
    let object = dns_name(name);
    let targets: Vec<&str> = meaning.targets.iter().copied().collect();
    let whose = targets.join(", ");
    if object != name {
        made.warnings.push(format!(
            "services.{whose}: the name {name:?} is found on knarr only: other clusters know it as {object:?}"
        ));
    }
    let lead = made.services.get(&object).map(|n| &n.targets);
    match lead {
        Some(lead) if lead.iter().map(String::as_str).eq(targets.iter().copied()) => {}
        Some(lead) => {
            let other = lead.iter().cloned().collect::<Vec<_>>().join(", ");
            made.warnings.push(format!(
                "services.{whose}: the name {name:?}, which some know it by, is found on knarr only: on other clusters it means {other}"
            ));
        }
        None => together(made, &object, &meaning.targets),
    }
}
