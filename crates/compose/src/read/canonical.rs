//! Short forms made long, so that all after this sees one form of each key (compose-go's `transform` package).

use super::{ports, volume};
use crate::{
    Error,
    tree::{Map, Mark, Node, Value},
};

const CONTAINERS: [&str; 2] = ["services", "jobs"];

/// The long form of everything, in place.
pub(super) fn canonical(file: &mut Node) -> Result<(), Error> {
    let Some(map) = file.map_mut() else {
        return Ok(());
    };
    for kind in CONTAINERS {
        for (name, service) in map
            .get_mut(kind)
            .and_then(Node::map_mut)
            .into_iter()
            .flatten()
        {
            workload(service, &format!("{kind}.{name}"))?;
        }
    }
    for kind in ["volumes", "networks", "secrets", "configs"] {
        let entries = map.get_mut(kind).and_then(Node::map_mut).into_iter();
        for (name, resource) in entries.flatten() {
            external(resource, &format!("{kind}.{name}"))?;
        }
    }
    Ok(())
}

fn each(
    map: &mut Map,
    key: &str,
    change: impl FnOnce(&mut Node) -> Result<(), Error>,
) -> Result<(), Error> {
    match map.get_mut(key) {
        Some(node) => change(node),
        None => Ok(()),
    }
}

fn workload(node: &mut Node, place: &str) -> Result<(), Error> {
    container(node, place)?;
    let Some(map) = node.map_mut() else {
        return Ok(());
    };
    each(map, "build", |n| build(n, place))?;
    each(map, "depends_on", |n| depends_on(n, place))?;
    each(map, "ports", |n| port_list(n, place))?;
    for hook in map
        .get_mut("pre_start")
        .map(Node::items_mut)
        .into_iter()
        .flatten()
    {
        container(hook, place)?;
    }
    let watch = map.get_mut("develop").and_then(Node::map_mut);
    for rule in watch
        .and_then(|w| w.get_mut("watch"))
        .map(Node::items_mut)
        .into_iter()
        .flatten()
        .filter_map(Node::map_mut)
    {
        each(rule, "ignore", listed)?;
        each(rule, "include", listed)?;
    }
    if let Some(schedule) = map
        .get_mut("triggers")
        .and_then(Node::map_mut)
        .and_then(|t| t.get_mut("schedule"))
    {
        for item in schedule.items_mut() {
            if item.str().is_some() {
                wrap(item, "cron");
            }
        }
    }
    Ok(())
}

fn container(node: &mut Node, place: &str) -> Result<(), Error> {
    let Some(map) = node.map_mut() else {
        return Ok(());
    };
    each(map, "env_file", |n| env_file(n, place))?;
    for key in ["label_file", "dns"] {
        each(map, key, listed)?;
    }
    for key in ["networks", "models"] {
        each(map, key, names)?;
    }
    each(map, "gpus", |n| {
        if n.str().is_some() {
            let all = n.mark.node(Value::text("all"));
            let request = n.mark.node(Value::Map(Map::from([("count".into(), all)])));
            n.value = Value::List(vec![request]);
        }
        Ok(())
    })?;
    for port in map
        .get_mut("expose")
        .map(Node::items_mut)
        .into_iter()
        .flatten()
    {
        if let Some(text) = port.scalar() {
            port.value = Value::text(text);
        }
    }
    for item in map
        .get_mut("volumes")
        .map(Node::items_mut)
        .into_iter()
        .flatten()
    {
        let Some(text) = item.str().map(String::from) else {
            continue;
        };
        let short = volume::parse(&text).map_err(|e| item.error(e))?;
        *item = short.long(&item.mark);
    }
    for item in map
        .get_mut("devices")
        .map(Node::items_mut)
        .into_iter()
        .flatten()
    {
        device(item)?;
    }
    for key in ["secrets", "configs"] {
        for item in map.get_mut(key).map(Node::items_mut).into_iter().flatten() {
            if item.str().is_some() {
                wrap(item, "source");
            }
        }
    }
    // An empty entry in `dns` is left out: `dns: ${DNS:-}`.
    if let Some(Node {
        value: Value::List(all),
        ..
    }) = map.get_mut("dns")
    {
        all.retain(|n| !n.is_null() && n.str() != Some(""));
    }
    Ok(())
}

/// `TEXT` becomes `{KEY: TEXT}`.
fn wrap(node: &mut Node, key: &str) {
    let mark = node.mark.clone();
    let value = std::mem::replace(&mut node.value, Value::Null);
    node.value = Value::Map(Map::from([(key.to_string(), mark.node(value))]));
}

fn listed(node: &mut Node) -> Result<(), Error> {
    if let Value::Text(_) = node.value {
        let item = node.clone();
        node.value = Value::List(vec![item]);
    }
    Ok(())
}

fn names(node: &mut Node) -> Result<(), Error> {
    if let Value::List(items) = &node.value {
        let entry = |n: &Node| Some((n.scalar()?, n.mark.node(Value::Null)));
        node.value = Value::Map(items.iter().filter_map(entry).collect());
    }
    Ok(())
}

fn env_file(node: &mut Node, place: &str) -> Result<(), Error> {
    listed(node)?;
    if !matches!(node.value, Value::List(_)) {
        return Err(node.error(format!(
            "{place}.env_file: invalid type {} for env_file",
            node.value
        )));
    }
    for item in node.items_mut() {
        if item.str().is_some() {
            wrap(item, "path");
        }
        let mark = item.mark.clone();
        if let Some(map) = item.map_mut() {
            map.entry("required".into())
                .or_insert_with(|| mark.node(Value::Bool(true)));
        }
    }
    Ok(())
}

fn build(node: &mut Node, place: &str) -> Result<(), Error> {
    if node.str().is_some() {
        wrap(node, "context");
    }
    let Some(map) = node.map_mut() else {
        return Err(node.error(format!(
            "{place}.build: invalid type {} for build",
            node.value
        )));
    };
    for item in map
        .get_mut("secrets")
        .map(Node::items_mut)
        .into_iter()
        .flatten()
    {
        if item.str().is_some() {
            wrap(item, "source");
        }
    }
    for key in ["provenance", "sbom"] {
        each(map, key, |n| {
            n.value = Value::text(n.value.to_string());
            Ok(())
        })?;
    }
    each(map, "additional_contexts", |n| pairs_of(n, true, place))?;
    each(map, "ssh", |n| {
        for item in n.items() {
            let text = item.scalar().unwrap_or_default();
            if !text.contains('=') && text != "default" {
                return Err(item.error(format!("invalid ssh key {text:?}")));
            }
        }
        pairs_of(n, false, place)
    })
}

/// `KEY=value` items as a mapping; without `=` the value is null.
fn pairs_of(node: &mut Node, strict: bool, place: &str) -> Result<(), Error> {
    let Value::List(items) = &node.value else {
        return Ok(());
    };
    let mut map = Map::new();
    for item in items {
        let text = item.scalar().unwrap_or_default();
        let (key, value) = match text.split_once('=') {
            Some((k, v)) => (k, Value::text(v)),
            None if strict => {
                return Err(
                    item.error(format!("{place}: invalid value {text}, expected key=value"))
                );
            }
            None => (text.as_str(), Value::Null),
        };
        map.insert(key.to_string(), item.mark.node(value));
    }
    node.value = Value::Map(map);
    Ok(())
}

fn depends_on(node: &mut Node, place: &str) -> Result<(), Error> {
    if let Value::List(items) = &node.value {
        let empty = |n: &Node| Some((n.scalar()?, n.mark.node(Value::Map(Map::new()))));
        node.value = Value::Map(items.iter().filter_map(empty).collect());
    }
    for (name, dependency) in node.map_mut().into_iter().flatten() {
        let mark = dependency.mark.clone();
        let Some(map) = dependency.map_mut() else {
            return Err(mark.error(format!("{place}.depends_on.{name}: unsupported value")));
        };
        map.entry("condition".into())
            .or_insert_with(|| mark.node(Value::text("service_started")));
        map.entry("required".into())
            .or_insert_with(|| mark.node(Value::Bool(true)));
    }
    Ok(())
}

fn port_list(node: &mut Node, place: &str) -> Result<(), Error> {
    let mut all = Vec::new();
    for item in node.items() {
        match &item.value {
            Value::Map(_) => all.push(item.clone()),
            // With variables left as they are written, nobody knows yet.
            Value::Text(text) if text.contains("${") => all.push(item.clone()),
            Value::Int(_) | Value::Text(_) => {
                let text = item.scalar().unwrap_or_default();
                let ports = ports::parse(&text).map_err(|e| item.error(e))?;
                all.extend(ports.into_iter().map(|p| p.long(&item.mark)));
            }
            other => {
                return Err(item.error(format!("{place}.ports: invalid type {other} for port")));
            }
        }
    }
    node.value = Value::List(all);
    Ok(())
}

fn device(node: &mut Node) -> Result<(), Error> {
    let Some(text) = node.str().map(String::from) else {
        return Ok(());
    };
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() > 3 {
        return Err(node.error(format!(
            "confusing device mapping, please use long syntax: {text}"
        )));
    }
    let part = |i: usize| parts.get(i).copied().filter(|p| !p.is_empty());
    let source = part(0).unwrap_or_default();
    let fields = [
        ("source", source),
        ("target", part(1).unwrap_or(source)),
        ("permissions", part(2).unwrap_or("rwm")),
    ];
    let entry = |(k, v): (&str, &str)| (k.to_string(), node.mark.node(Value::text(v)));
    node.value = Value::Map(fields.into_iter().map(entry).collect());
    Ok(())
}

/// `external: {name: X}` becomes `external: true` and `name: X`.
fn external(node: &mut Node, place: &str) -> Result<(), Error> {
    let mark = node.mark.clone();
    let Some(map) = node.map_mut() else {
        return Ok(());
    };
    let Some(old) = map.get("external").filter(|e| e.map().is_some()) else {
        return Ok(());
    };
    let name = old.get("name").cloned();
    if let (Some(name), Some(known)) = (&name, map.get("name"))
        && name != known
    {
        return Err(known.error(format!(
            "{place}: name and external.name conflict; only use name"
        )));
    }
    if let Some(name) = name {
        map.insert("name".into(), name);
    }
    map.insert("external".into(), mark.node(Value::Bool(true)));
    Ok(())
}

/// What stands where the file says nothing.
pub(super) fn defaults(file: &mut Node) {
    let insert = |node: &mut Node, key: &str, value: Value| {
        let mark = node.mark.clone();
        if let Some(map) = node.map_mut() {
            map.entry(key.into()).or_insert_with(|| mark.node(value));
        }
    };
    for (_, service) in workloads(file) {
        let Some(map) = service.map_mut() else {
            continue;
        };
        if let Some(build) = map.get_mut("build") {
            insert(build, "context", Value::text("."));
        }
        for secret in map
            .get_mut("secrets")
            .map(Node::items_mut)
            .into_iter()
            .flatten()
        {
            let source = secret.text_of("source").unwrap_or_default();
            insert(
                secret,
                "target",
                Value::Text(format!("/run/secrets/{source}")),
            );
        }
        for port in map
            .get_mut("ports")
            .map(Node::items_mut)
            .into_iter()
            .flatten()
        {
            insert(port, "protocol", Value::text("tcp"));
            insert(port, "mode", Value::text("ingress"));
        }
        for volume in map
            .get_mut("volumes")
            .map(Node::items_mut)
            .into_iter()
            .flatten()
        {
            if let Some(bind) = volume.map_mut().and_then(|m| m.get_mut("bind")) {
                insert(bind, "create_host_path", Value::Bool(true));
            }
        }
    }
}

/// All services and jobs.
pub(super) fn workloads(file: &mut Node) -> impl Iterator<Item = (&String, &mut Node)> {
    file.map_mut()
        .into_iter()
        .flatten()
        .filter_map(|(kind, all)| {
            CONTAINERS
                .contains(&kind.as_str())
                .then_some(all.map_mut()?)
        })
        .flatten()
}

/// A mark of nothing in a file: what knarr says by itself.
pub(super) fn nowhere() -> Mark {
    Mark {
        file: "".into(),
        line: 0,
    }
}
