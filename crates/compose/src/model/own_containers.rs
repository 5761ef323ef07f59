//! `container:NAME` where NAME is the `container_name` of a service of the same files: that service is meant.
//!
//! Docker looks for a container of that name, whoever made it; in a project's own files it's the project's.

use crate::{
    read,
    tree::{Map, Node, Value},
};
use std::collections::BTreeMap;

/// Puts `service:` in its place, with what that implies.
pub(super) fn resolve(tree: &mut Node) {
    let mut names = BTreeMap::new();
    for (service, node) in super::section(tree, "services") {
        if let Some(name) = node.text_of("container_name") {
            names.insert(name, service.clone());
        }
    }
    let services = tree.map_mut().and_then(|m| m.get_mut("services"));
    for service in services
        .and_then(Node::map_mut)
        .into_iter()
        .flat_map(Map::values_mut)
    {
        let mark = service.mark.clone();
        let Some(map) = service.map_mut() else {
            continue;
        };
        let mut changed = false;
        for key in ["network_mode", "ipc", "pid"] {
            let Some(node) = map.get_mut(key) else {
                continue;
            };
            let meant = node.str().and_then(|t| t.strip_prefix("container:"));
            if let Some(other) = meant.and_then(|name| names.get(name)) {
                node.value = Value::text(format!("service:{other}"));
                changed = true;
            }
        }
        let shared = map.get_mut("volumes_from").map(Node::items_mut);
        for node in shared.into_iter().flatten() {
            let meant = node.str().and_then(|t| t.strip_prefix("container:"));
            let Some((name, mode)) = meant.map(|m| m.split_once(':').unwrap_or((m, ""))) else {
                continue;
            };
            if let Some(other) = names.get(name) {
                let text = match mode {
                    "" => other.clone(),
                    mode => format!("{other}:{mode}"),
                };
                node.value = Value::text(text);
                changed = true;
            }
        }
        if changed {
            read::implied_dependencies(map, &mark);
        }
    }
}
