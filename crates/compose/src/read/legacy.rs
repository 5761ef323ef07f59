//! Older layouts: the first one without `services:`, and keys that have moved since.

use crate::tree::{Map, Node, Value};

/// Top-level keys of all later layouts.
const TOP: [&str; 10] = [
    "version", "services", "name", "include", "networks", "volumes", "secrets", "configs",
    "models", "jobs",
];

/// Brings a document of an older layout, or with newer keys under `x-`, into today's.
pub(super) fn modernize(document: &mut Node) {
    let mark = document.mark.clone();
    let Some(map) = document.map_mut() else {
        return;
    };
    let is_service = |n: &Node| {
        ["image", "build", "extends"]
            .iter()
            .any(|k| n.map().is_some_and(|m| m.contains_key(*k)))
    };
    let first_layout = !map.is_empty()
        && !map.keys().any(|k| TOP.contains(&k.as_str()))
        && map
            .iter()
            .all(|(k, n)| k.starts_with("x-") || is_service(n))
        && map.values().any(is_service);
    if first_layout {
        let mut volumes = Map::new();
        let mut services = Map::new();
        for (name, mut service) in std::mem::take(map) {
            first(&mut service, &mut volumes);
            services.insert(name, service);
        }
        if !volumes.is_empty() {
            map.insert("volumes".into(), mark.node(Value::Map(volumes)));
        }
        map.insert("services".into(), mark.node(Value::Map(services)));
    }
    for (_, service) in map
        .get_mut("services")
        .and_then(Node::map_mut)
        .into_iter()
        .flatten()
    {
        let Some(service) = service.map_mut() else {
            continue;
        };
        promote(service, "x-develop", "develop");
        let watch = service.get_mut("develop").and_then(Node::map_mut);
        for rule in watch
            .and_then(|w| w.get_mut("watch"))
            .map(Node::items_mut)
            .into_iter()
            .flatten()
        {
            if let Some(rule) = rule.map_mut() {
                promote(rule, "x-initialSync", "initial_sync");
            }
        }
    }
}

fn promote(map: &mut Map, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.entry(to.into()).or_insert(value);
    }
}

/// A service of the first layout.
fn first(service: &mut Node, volumes: &mut Map) {
    let mark = service.mark.clone();
    for volume in service
        .get("volumes")
        .map(Node::items)
        .into_iter()
        .flatten()
    {
        let source = volume.str().and_then(|s| s.split_once(':')).map(|(s, _)| s);
        if let Some(name) = source
            && !name.starts_with(['.', '/', '~'])
        {
            volumes.insert(name.to_string(), mark.node(Value::Null));
        }
    }
    let Some(map) = service.map_mut() else {
        return;
    };
    if let Some(dockerfile) = map.remove("dockerfile") {
        let build = map
            .entry("build".into())
            .or_insert_with(|| mark.node(Value::text(".")));
        let context = build.clone();
        build.value = Value::Map(Map::from([
            ("context".to_string(), context),
            ("dockerfile".to_string(), dockerfile),
        ]));
    }
    if let Some(mut net) = map.remove("net") {
        // `container:web` could name a service in this layout.
        if let Some(text) = net.str().map(|t| t.replace("container:", "service:")) {
            net.value = Value::Text(text);
        }
        map.entry("network_mode".into()).or_insert(net);
    }
    if map.contains_key("links") {
        // Its containers found each other by links alone, which set variables.
        map.entry("x-knarr-links".into())
            .or_insert(mark.node(Value::text("environment")));
    }
    let mut logging = Map::new();
    for (old, new) in [("log_driver", "driver"), ("log_opt", "options")] {
        if let Some(value) = map.remove(old) {
            logging.insert(new.to_string(), value);
        }
    }
    if !logging.is_empty() {
        map.entry("logging".into())
            .or_insert(mark.node(Value::Map(logging)));
    }
}
