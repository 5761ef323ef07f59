//! Whether the parts of a project fit together (compose-go's `checkConsistency`).

use super::{Service, section};
use crate::{
    Error,
    tree::{Node, Value},
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(tree: &Node, active: &BTreeSet<String>) -> Result<(), Error> {
    let known: BTreeSet<&String> = section(tree, "services").map(|(n, _)| n).collect();
    let mut containers: BTreeMap<String, &String> = BTreeMap::new();
    for (name, node) in section(tree, "services").filter(|(n, _)| active.contains(*n)) {
        one(name, node, tree)?;
        if let Some(container) = node.text_of("container_name").filter(|c| !c.is_empty())
            && let Some(other) = containers.insert(container.clone(), name)
        {
            return Err(node.error(format!(
                "services.{name}: container name {container:?} is already in use by service {other}"
            )));
        }
        for (other, dependency) in node
            .get("depends_on")
            .and_then(Node::map)
            .into_iter()
            .flatten()
        {
            if active.contains(other) || (known.contains(other) && !dependency.bool_of("required"))
            {
                continue;
            }
            // compose-go lets an unknown service pass when it is not required.
            if !dependency.bool_of("required") && !known.contains(other) {
                continue;
            }
            let hint = match known.contains(other) {
                true => {
                    ": it is in a profile that is not switched on: use --profile, or required: false"
                }
                false => "",
            };
            return Err(dependency.error(format!(
                "service {name:?} depends on undefined service {other:?}{hint}"
            )));
        }
    }
    for (name, secret) in section(tree, "secrets") {
        let said = ["external", "file", "environment", "driver"];
        if !said.iter().any(|k| secret.get(k).is_some()) {
            return Err(secret.error(format!(
                "secret {name:?} must declare either `file` or `environment`"
            )));
        }
    }
    circles(tree, active)
}

fn one(name: &str, node: &Node, tree: &Node) -> Result<(), Error> {
    let declared = |kind: &str, key: &str| {
        tree.get(kind)
            .and_then(Node::map)
            .is_some_and(|m| m.contains_key(key))
    };
    let build = node.get("build");
    let image = node.text_of("image").filter(|i| !i.is_empty());
    if build.is_none() && image.is_none() && node.get("provider").is_none() {
        return Err(node.error(format!(
            "service {name:?} has neither an image nor a build context specified"
        )));
    }
    if let Some(build) = build {
        if build.get("dockerfile").is_some() && build.get("dockerfile_inline").is_some() {
            return Err(build.error(format!(
                "service {name:?} declares mutualy exclusive dockerfile and dockerfile_inline"
            )));
        }
        let contexts = build.get("additional_contexts").map(Node::entries);
        for (add, context) in contexts.into_iter().flatten() {
            let text = context.scalar().unwrap_or_default();
            let Some(target) = text.strip_prefix("service:") else {
                continue;
            };
            let Some(other) = tree.get("services").and_then(|s| s.get(target)) else {
                return Err(context.error(format!(
                    "service {name:?} declares unknown service {target:?} as additional contexts {add}"
                )));
            };
            if other.get("build").is_none() {
                return Err(context.error(format!(
                    "service {name:?} declares non-buildable service {target:?} as additional contexts {add}"
                )));
            }
        }
        let platforms = build.texts_of("platforms");
        if let Some(platform) = node.text_of("platform")
            && !platforms.is_empty()
            && !platforms.contains(&platform)
        {
            return Err(build.error(format!(
                "service.build.platforms MUST include service.platform {platform:?}"
            )));
        }
        for secret in build.get("secrets").map(Node::items).unwrap_or_default() {
            let source = secret.text_of("source").unwrap_or_default();
            if !declared("secrets", &source) {
                return Err(secret.error(format!(
                    "service {name:?} refers to undefined build secret {source}"
                )));
            }
        }
    }
    if let Some(mode) = node.get("network_mode") {
        if node
            .get("networks")
            .and_then(Node::map)
            .is_some_and(|m| !m.is_empty())
        {
            return Err(mode.error(format!(
                "service {name} declares mutually exclusive `network_mode` and `networks`"
            )));
        }
        if let Some(service) = mode.str().and_then(|m| m.strip_prefix("service:"))
            && !declared("services", service)
        {
            return Err(mode.error(format!(
                "service {service:?} not found for network_mode 'service:{service}'"
            )));
        }
    }
    for (network, at) in node
        .get("networks")
        .and_then(Node::map)
        .into_iter()
        .flatten()
    {
        if !declared("networks", network) {
            return Err(at.error(format!(
                "service {name:?} refers to undefined network {network}"
            )));
        }
    }
    if let Some(test) = node.get("healthcheck").and_then(|h| h.get("test"))
        && let Some(first) = test.texts().first()
        && !matches!(first.as_str(), "CMD" | "CMD-SHELL" | "NONE")
    {
        return Err(
            test.error("healthcheck.test must start either by \"CMD\", \"CMD-SHELL\" or \"NONE\"")
        );
    }
    for volume in node.get("volumes").map(Node::items).unwrap_or_default() {
        if let Some(source) = volume.text_of("source")
            && volume.text_of("type").as_deref() == Some("volume")
            && !declared("volumes", &source)
        {
            return Err(volume.error(format!(
                "service {name:?} refers to undefined volume {source}"
            )));
        }
    }
    for (kind, word) in [("configs", "config"), ("secrets", "secret")] {
        for file in node.get(kind).map(Node::items).unwrap_or_default() {
            let source = file.text_of("source").unwrap_or_default();
            if !declared(kind, &source) {
                return Err(file.error(format!(
                    "service {name:?} refers to undefined {word} {source}"
                )));
            }
        }
    }
    for (model, at) in node.get("models").and_then(Node::map).into_iter().flatten() {
        if !declared("models", model) {
            return Err(at.error(format!(
                "service {name:?} refers to undefined model {model}"
            )));
        }
    }
    amounts(name, node)?;
    targets(name, node)
}

/// Things that can be said in two places must be said alike.
fn amounts(name: &str, node: &Node) -> Result<(), Error> {
    let deploy = node.get("deploy");
    let replicas = deploy.and_then(|d| d.get("replicas"));
    let scale = node.get("scale");
    if let (Some(scale), Some(replicas)) = (scale, replicas)
        && scale != replicas
    {
        return Err(scale.error(format!(
            "services.{name}: can't set distinct values on 'scale' and 'deploy.replicas'"
        )));
    }
    for (count, key) in [(scale, "scale"), (replicas, "deploy.replicas")] {
        if let Some(at) = count
            && matches!(at.value, Value::Int(n) if n < 0)
        {
            return Err(at.error(format!(
                "services.{name}.{key}: must be greater than or equal to 0"
            )));
        }
        if let Some(at) = count
            && matches!(at.value, Value::Int(n) if n > 1)
            && node.get("container_name").is_some()
        {
            return Err(at.error(format!(
                "services.{name}: can't set container_name and {key} as container name must be unique"
            )));
        }
    }
    let resources = deploy.and_then(|d| d.get("resources"));
    let number = |text: Option<String>| {
        let text = text?;
        let bytes = crate::units::bytes(&text).map(|b| b as f64);
        text.parse::<f64>().ok().or(bytes)
    };
    for (key, part, inner) in [
        ("cpus", "limits", "cpus"),
        ("mem_limit", "limits", "memory"),
        ("mem_reservation", "reservations", "memory"),
        ("pids_limit", "limits", "pids"),
    ] {
        let (Some(at), Some(there)) = (node.get(key), resources.and_then(|r| r.get(part))) else {
            continue;
        };
        let own = number(at.scalar()).unwrap_or_default();
        if own != 0.0 && number(there.text_of(inner)).unwrap_or_default() != own {
            return Err(at.error(format!(
                "services.{name}: can't set distinct values on '{key}' and 'deploy.resources.{part}.{inner}'"
            )));
        }
    }
    let watch = node.get("develop").and_then(|d| d.get("watch"));
    for rule in watch.map(Node::items).unwrap_or_default() {
        let action = rule.text_of("action").unwrap_or_default();
        if rule.text_of("target").is_none_or(|t| t.is_empty())
            && !matches!(action.as_str(), "rebuild" | "restart")
        {
            return Err(rule.error(format!(
                "services.{name}.develop.watch: target is required for non-rebuild actions"
            )));
        }
    }
    Ok(())
}

/// One mount at each place.
fn targets(name: &str, node: &Node) -> Result<(), Error> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut add = |target: String, place: String, at: &Node| match seen.get(&target) {
        Some(other) => Err(at.error(format!(
            "{place}: target {target} already mounted as {other}"
        ))),
        None => {
            seen.insert(target, place);
            Ok(())
        }
    };
    for (i, item) in node
        .get("tmpfs")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let text = item.scalar().unwrap_or_default();
        let target = text.split(':').next().unwrap_or_default();
        add(
            target.to_string(),
            format!("services.{name}.tmpfs[{i}]"),
            item,
        )?;
    }
    for (i, item) in node
        .get("volumes")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let target = item.text_of("target").unwrap_or_default();
        add(target, format!("services.{name}.volumes[{i}]"), item)?;
    }
    Ok(())
}

/// Services that depend on each other in a circle.
fn circles(tree: &Node, active: &BTreeSet<String>) -> Result<(), Error> {
    fn visit<'a>(
        at: &'a str,
        tree: &'a Node,
        active: &BTreeSet<String>,
        done: &mut BTreeSet<&'a str>,
        trail: &mut Vec<&'a str>,
    ) -> Option<Vec<String>> {
        if let Some(start) = trail.iter().position(|t| *t == at) {
            let circle = trail[start..].iter().chain([&at]);
            return Some(circle.map(|s| s.to_string()).collect());
        }
        if !active.contains(at) || !done.insert(at) {
            return None;
        }
        trail.push(at);
        let node = tree.get("services").and_then(|s| s.get(at));
        let found = node
            .and_then(|n| n.get("depends_on"))
            .and_then(Node::map)
            .into_iter()
            .flatten()
            .find_map(|(other, _)| visit(other, tree, active, done, trail));
        trail.pop();
        found
    }
    let mut done = BTreeSet::new();
    for name in active {
        if let Some(circle) = visit(name, tree, active, &mut done, &mut vec![]) {
            let node = tree
                .get("services")
                .and_then(|s| s.get(&circle[0])?.get("depends_on"))
                .unwrap_or(tree);
            return Err(node.error(format!(
                "dependency cycle detected: {}",
                circle.join(" -> ")
            )));
        }
    }
    Ok(())
}

/// A service that shares another's namespaces runs in that one's Pod, so it can't run otherwise.
pub(super) fn join(services: &BTreeMap<String, Service>, tree: &Node) -> Result<(), Error> {
    for (name, service) in services {
        let Some(lead) = &service.namespaces.joins else {
            continue;
        };
        let node = tree
            .get("services")
            .and_then(|s| s.get(name))
            .unwrap_or(tree);
        let Some(lead) = services.get(lead) else {
            return Err(node.error(format!(
                "services.{name}: it shares the namespaces of {lead:?}, which is no active service"
            )));
        };
        if lead.namespaces.joins.is_some() {
            return Err(node.error(format!(
                "services.{name}: it shares the namespaces of {:?}, which shares those of another itself: name that one",
                lead.name
            )));
        }
        for (key, said) in [
            ("mac_address", &service.mac),
            ("interface_name", &service.interface),
        ] {
            if said.is_some() {
                return Err(node.error(format!(
                    "services.{name}.{key}: knarr cannot honour it: it runs in the Pod of {:?}, whose interface it has",
                    lead.name
                )));
            }
        }
        if lead.mode != service.mode {
            return Err(node.error(format!(
                "services.{name}: it shares the namespaces of {:?} and runs in its Pod, so both need the same replicas and restart",
                lead.name
            )));
        }
    }
    Ok(())
}
