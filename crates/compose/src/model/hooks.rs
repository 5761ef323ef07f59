//! `pre_start`, `post_start`, `pre_stop`.

use super::values;
use crate::{Error, tree::Node};
use std::collections::BTreeMap;

/// A command inside the running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    pub command: Vec<String>,
    pub working_dir: Option<String>,
    pub environment: BTreeMap<String, String>,
}

/// A container that runs to its end before the service's own starts.
#[derive(Debug, Clone)]
pub struct Prelude {
    /// None: the service's.
    pub image: Option<String>,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub environment: BTreeMap<String, String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
}

pub(super) fn hooks(service: &Node, key: &str) -> Result<Vec<Hook>, Error> {
    let mut all = Vec::new();
    for node in service.get(key).map(Node::items).unwrap_or_default() {
        if let Some(user) = node.get("user")
            && user.scalar() != service.text_of("user")
        {
            return Err(user.error(format!(
                "{key}.user: a hook runs as the container's own user: leave it out, or give the service this user"
            )));
        }
        if node.bool_of("privileged") && !service.bool_of("privileged") {
            return Err(node.error(format!(
                "{key}.privileged: a hook has the container's own privileges: leave it out, or make the service privileged"
            )));
        }
        let command = node.texts_of("command");
        if command.is_empty() {
            return Err(node.error(format!("{key}.command is empty")));
        }
        all.push(Hook {
            command,
            working_dir: node.text_of("working_dir"),
            environment: values::pairs(node, "environment").into_iter().collect(),
        });
    }
    Ok(all)
}

pub(super) fn preludes(service: &Node) -> Vec<Prelude> {
    let list = |n: &Node, key: &str| n.get(key).map(Node::texts);
    let all = service.get("pre_start").map(Node::items);
    all.unwrap_or_default()
        .iter()
        .map(|n| Prelude {
            image: n.text_of("image"),
            command: list(n, "command"),
            entrypoint: list(n, "entrypoint"),
            environment: values::pairs(n, "environment").into_iter().collect(),
            user: n.text_of("user"),
            working_dir: n.text_of("working_dir"),
        })
        .collect()
}
