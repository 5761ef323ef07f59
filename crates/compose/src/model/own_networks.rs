//! `network_mode: NAME`: Docker joins the container to its network of that name, which is one of the project's own when
//! that has the name, and else one that others have made.

use crate::tree::{Map, Node, Value};

/// The words that name no network.
const WORDS: [&str; 5] = ["", "bridge", "default", "host", "none"];

/// Says the same by `networks`.
pub(super) fn resolve(tree: &mut Node) {
    let networks: Vec<(String, String)> = super::section(tree, "networks")
        .map(|(key, node)| {
            (
                node.text_of("name").unwrap_or_else(|| key.clone()),
                key.clone(),
            )
        })
        .collect();
    let mut foreign = Vec::new();
    let services = tree.map_mut().and_then(|m| m.get_mut("services"));
    for service in services
        .and_then(Node::map_mut)
        .into_iter()
        .flat_map(Map::values_mut)
    {
        let Some(map) = service.map_mut() else {
            continue;
        };
        let others = map.get("networks").and_then(Node::map);
        if others.is_some_and(|n| !n.is_empty()) {
            continue;
        }
        let named = map.get("network_mode").and_then(Node::str);
        let Some(name) = named.filter(|n| !WORDS.contains(n) && !n.contains(':')) else {
            continue;
        };
        let name = name.to_string();
        let own = networks.iter().find(|(shown, _)| *shown == name);
        let key = own.map_or(&name, |(_, key)| key).clone();
        let Some(mode) = map.remove("network_mode") else {
            continue;
        };
        if own.is_none() {
            foreign.push((name, mode.mark.clone()));
        }
        let joined = Map::from([(key, mode.mark.node(Value::Null))]);
        map.insert("networks".into(), mode.mark.node(Value::Map(joined)));
    }
    let (mark, Some(tree)) = (tree.mark.clone(), tree.map_mut()) else {
        return;
    };
    if foreign.is_empty() {
        return;
    }
    let all = tree
        .entry("networks".into())
        .or_insert_with(|| mark.node(Value::Map(Map::new())));
    for (name, mark) in foreign {
        let network = Map::from([
            ("external".into(), mark.node(Value::Bool(true))),
            ("name".into(), mark.node(Value::text(&name))),
        ]);
        if let Some(all) = all.map_mut() {
            all.entry(name)
                .or_insert_with(|| mark.node(Value::Map(network)));
        }
    }
}
