//! Names that are two for Compose and one for Kubernetes: `a_b` and `a-b`. They would be each other's containers and files.

use super::{Project, section};
use crate::{Error, tree::Node};
use std::collections::BTreeMap;

/// What leads to a service's published ports, behind its name.
const PUBLISHED: &str = "-published";

/// # Errors
/// The second of two names that are one, by name and line.
pub(super) fn check(project: &Project, tree: &Node) -> Result<(), Error> {
    let keys = |kind: &str| -> Vec<&String> {
        match kind {
            "services" => project.services.keys().collect(),
            "volumes" => project.volumes.keys().collect(),
            "networks" => project.networks.keys().collect(),
            "configs" => project.configs.keys().collect(),
            _ => project.secrets.keys().collect(),
        }
    };
    for kind in ["services", "volumes", "networks", "configs", "secrets"] {
        let mut known: BTreeMap<String, &String> = BTreeMap::new();
        for name in keys(kind) {
            let object = crate::translate::object_name(name);
            if let Some(other) = known.insert(object.clone(), name) {
                return Err(at(tree, kind, name).error(format!(
                    "{kind}.{name}: it and {kind}.{other} are both {object:?} to Kubernetes, which knows small letters, digits and - only: rename one"
                )));
            }
        }
        if kind != "services" {
            continue;
        }
        for (object, name) in &known {
            let Some(other) = object
                .strip_suffix(PUBLISHED)
                .and_then(|lead| known.get(lead))
                .filter(|other| !project.services[**other].ports.is_empty())
            else {
                continue;
            };
            return Err(at(tree, kind, name).error(format!(
                "services.{name}: {object:?} is what leads to the ports that {other} publishes: rename it"
            )));
        }
    }
    Ok(())
}

fn at<'a>(tree: &'a Node, kind: &str, name: &str) -> &'a Node {
    section(tree, kind)
        .find(|(key, _)| *key == name)
        .map_or(tree, |(_, node)| node)
}
