//! Merging of files and of services (Compose specification, 13-merge.md; compose-go's `override` package).

use super::volume;
use crate::{
    Error,
    tree::{Map, Mark, Node, Tag, Value, dotted, fits},
};
use std::collections::{BTreeMap, BTreeSet};

/// `over` merged into `base`, which stand at `path`.
pub(super) fn merge(base: Node, over: Node, path: &mut Vec<String>) -> Result<Node, Error> {
    if let Some(special) = special(path) {
        return special(base, over, path);
    }
    match (base.value, over.value) {
        (value, Value::Null) => Ok(Node {
            value,
            mark: base.mark,
            tag: base.tag,
        }),
        (Value::Map(base_map), Value::Map(over_map)) => Ok(Node {
            value: Value::Map(mappings(base_map, over_map, path)?),
            mark: over.mark,
            tag: Tag::None,
        }),
        (Value::List(base_list), Value::List(over_list)) => Ok(Node {
            value: Value::List(append(base_list, over_list)),
            mark: over.mark,
            tag: Tag::None,
        }),
        (Value::Map(_) | Value::List(_), _) => {
            Err(over.mark.error(format!("cannot override {}", dotted(path))))
        }
        (_, value) => Ok(Node {
            value,
            mark: over.mark,
            tag: Tag::None,
        }),
    }
}

type Merger = fn(Node, Node, &mut Vec<String>) -> Result<Node, Error>;

/// How a place is merged that is not merged by its type alone.
fn special(path: &[String]) -> Option<Merger> {
    let [kind, _, rest @ ..] = path else {
        return None;
    };
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    match (kind.as_str(), &rest[..]) {
        ("networks", ["ipam", "config"]) => Some(ipam),
        ("networks" | "volumes" | "secrets" | "configs", ["labels"]) => Some(key_values),
        ("services" | "jobs", rest) => match rest {
            ["build"] => Some(build),
            ["command" | "entrypoint"] | ["healthcheck", "test"] => Some(replace),
            ["depends_on"] => Some(dependencies),
            ["networks" | "models"] => Some(named),
            ["logging"] => Some(logging),
            ["ulimits", _] => Some(ulimit),
            ["annotations" | "environment" | "labels" | "sysctls"]
            | ["build", "args" | "additional_contexts" | "labels"]
            | ["deploy", "labels"]
            | ["volumes", _, "volume", "labels"] => Some(key_values),
            [
                "dns" | "dns_opt" | "dns_search" | "env_file" | "label_file" | "extra_hosts"
                | "tmpfs",
            ]
            | ["build", "extra_hosts"] => Some(sequences),
            _ => None,
        },
        _ => None,
    }
}

fn mappings(mut base: Map, over: Map, path: &mut Vec<String>) -> Result<Map, Error> {
    for (key, value) in over {
        match base.remove(&key) {
            None => base.insert(key, value),
            Some(old) => {
                path.push(key.clone());
                let merged = merge(old, value, path)?;
                path.pop();
                base.insert(key, merged)
            }
        };
    }
    Ok(base)
}

fn append(mut base: Vec<Node>, over: Vec<Node>) -> Vec<Node> {
    for item in over {
        if !base.contains(&item) {
            base.push(item);
        }
    }
    base
}

fn replace(_: Node, over: Node, _: &mut Vec<String>) -> Result<Node, Error> {
    Ok(over)
}

/// A `build: FOLDER` as the mapping it stands for.
fn build(base: Node, over: Node, path: &mut Vec<String>) -> Result<Node, Error> {
    let map = |n: Node| match n.value {
        Value::Map(m) => m,
        Value::Text(_) => Map::from([("context".to_string(), n)]),
        _ => Map::new(),
    };
    let mark = over.mark.clone();
    Ok(mark.node(Value::Map(mappings(map(base), map(over), path)?)))
}

fn dependencies(base: Node, over: Node, path: &mut Vec<String>) -> Result<Node, Error> {
    as_mappings(base, over, path, |mark| {
        Value::Map(Map::from([
            (
                "condition".to_string(),
                mark.node(Value::text("service_started")),
            ),
            ("required".to_string(), mark.node(Value::Bool(true))),
        ]))
    })
}

fn named(base: Node, over: Node, path: &mut Vec<String>) -> Result<Node, Error> {
    as_mappings(base, over, path, |_| Value::Null)
}

fn as_mappings(
    base: Node,
    over: Node,
    path: &mut Vec<String>,
    default: fn(&Mark) -> Value,
) -> Result<Node, Error> {
    let mark = over.mark.clone();
    let (base, over) = (
        into_map(base, path, default)?,
        into_map(over, path, default)?,
    );
    Ok(mark.node(Value::Map(mappings(base, over, path)?)))
}

/// A list of names as a mapping.
fn into_map(node: Node, path: &[String], default: fn(&Mark) -> Value) -> Result<Map, Error> {
    let entry = |item: &Node| match item.str() {
        Some(name) => Ok((name.to_string(), item.mark.node(default(&item.mark)))),
        None => Err(item.error(format!(
            "{}: cannot use {} as a mapping key",
            dotted(path),
            item.value
        ))),
    };
    match node.value {
        Value::Null => Ok(Map::new()),
        Value::Map(m) => Ok(m),
        Value::List(items) => items.iter().map(entry).collect(),
        Value::Text(_) => Ok(Map::from([entry(&node)?])),
        other => Err(node.mark.error(format!(
            "{}: cannot convert {other} into a mapping",
            dotted(path)
        ))),
    }
}

/// `KEY=value` items of a mapping, or a list, or one text.
fn into_sequence(node: Node) -> Vec<Node> {
    match node.value {
        Value::Map(m) => {
            let mut all = Vec::new();
            for (key, value) in m {
                let item = |v: &Value| value.mark.node(Value::text(format!("{key}={v}")));
                match &value.value {
                    Value::Null => all.push(value.mark.node(Value::text(key))),
                    Value::List(items) => all.extend(items.iter().map(|i| item(&i.value))),
                    v => all.push(item(v)),
                }
            }
            all
        }
        Value::List(items) => items,
        Value::Text(_) => vec![node],
        _ => vec![],
    }
}

fn sequences(base: Node, over: Node, _: &mut Vec<String>) -> Result<Node, Error> {
    let mark = over.mark.clone();
    let merged = append(into_sequence(base), into_sequence(over));
    Ok(mark.node(Value::List(merged)))
}

#[expect(clippy::ptr_arg, reason = "one shape for all mergers")]
fn key_values(base: Node, over: Node, path: &mut Vec<String>) -> Result<Node, Error> {
    let mark = over.mark.clone();
    let mut all = into_sequence(base);
    all.extend(into_sequence(over));
    Ok(mark.node(Value::List(unique(all, key_of, path)?)))
}

fn logging(base: Node, over: Node, path: &mut Vec<String>) -> Result<Node, Error> {
    let (old, new) = (base.text_of("driver"), over.text_of("driver"));
    match (base.value, over.value) {
        (Value::Map(b), Value::Map(o)) if old == new || old.is_none() || new.is_none() => {
            Ok(over.mark.node(Value::Map(mappings(b, o, path)?)))
        }
        (Value::Map(_), value @ Value::Map(_)) => Ok(over.mark.node(value)),
        (_, other) => Err(over.mark.error(format!(
            "{}: cannot merge logging: expected a mapping, got {other}",
            dotted(path)
        ))),
    }
}

fn ulimit(base: Node, over: Node, path: &mut Vec<String>) -> Result<Node, Error> {
    match (base.value, over.value) {
        (Value::Map(b), Value::Map(o)) => Ok(over.mark.node(Value::Map(mappings(b, o, path)?))),
        (_, value) => Ok(over.mark.node(value)),
    }
}

fn ipam(base: Node, over: Node, path: &mut Vec<String>) -> Result<Node, Error> {
    let mark = over.mark.clone();
    let subnet = |n: &Node| n.get("subnet").cloned();
    let mut made: Vec<Node> = Vec::new();
    for original in base.items() {
        for one in over.items() {
            if subnet(one) != subnet(original) && !made.iter().any(|m| subnet(m) == subnet(one)) {
                made.push(one.clone());
                continue;
            }
            let merged = match (original.value.clone(), one.value.clone()) {
                (Value::Map(b), Value::Map(o)) => one.mark.node(Value::Map(mappings(b, o, path)?)),
                _ => one.clone(),
            };
            match made.iter_mut().find(|m| subnet(m) == subnet(&merged)) {
                Some(known) => *known = merged,
                None => made.push(merged),
            }
        }
    }
    Ok(mark.node(Value::List(made)))
}

/// What an item of a list is known by: a later item with the same key takes the place of an earlier one.
type Indexer = fn(&Node, &[String]) -> Result<String, Error>;

/// Lists whose items have a key of their own.
fn indexer(path: &[String]) -> Option<Indexer> {
    const KEYED: &[&str] = &[
        "networks.*.labels",
        "networks.*.ipam.options",
        "services.*.annotations",
        "services.*.build.args",
        "services.*.build.additional_contexts",
        "services.*.build.tags",
        "services.*.build.labels",
        "services.*.cap_add",
        "services.*.cap_drop",
        "services.*.deploy.labels",
        "services.*.dns",
        "services.*.dns_opt",
        "services.*.dns_search",
        "services.*.environment",
        "services.*.expose",
        "services.*.labels",
        "services.*.links",
        "services.*.networks.*.aliases",
        "services.*.networks.*.link_local_ips",
        "services.*.profiles",
        "services.*.sysctls",
        "services.*.tmpfs",
    ];
    const OTHERS: &[(&str, Indexer)] = &[
        ("services.*.devices", device_target),
        ("services.*.configs", |n, p| file_target(n, p, "")),
        ("services.*.secrets", |n, p| {
            file_target(n, p, "/run/secrets")
        }),
        ("services.*.env_file", |n, _| {
            Ok(n.text_of("path").or(n.scalar()).unwrap_or_default())
        }),
        ("services.*.ports", port_key),
        ("services.*.volumes", volume_target),
    ];
    let found = OTHERS.iter().find(|(p, _)| fits(path, p)).map(|(_, i)| *i);
    found.or_else(|| {
        KEYED
            .iter()
            .any(|p| fits(path, p))
            .then_some(key_of as Indexer)
    })
}

/// Keeps the last of the items that stand for the same thing, in the whole tree.
pub(super) fn enforce_unique(node: &mut Node, path: &mut Vec<String>) -> Result<(), Error> {
    match &mut node.value {
        Value::Map(map) => {
            for (key, value) in map.iter_mut() {
                path.push(key.clone());
                enforce_unique(value, path)?;
                path.pop();
            }
        }
        Value::List(items) => {
            if let Some(indexer) = indexer(path) {
                *items = unique(std::mem::take(items), indexer, path)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn unique(items: Vec<Node>, indexer: Indexer, path: &[String]) -> Result<Vec<Node>, Error> {
    let (mut kept, mut at): (Vec<Node>, BTreeMap<String, usize>) = Default::default();
    for item in items {
        let key = indexer(&item, path)?;
        match at.get(&key) {
            Some(i) => kept[*i] = item,
            None => {
                at.insert(key, kept.len());
                kept.push(item);
            }
        }
    }
    Ok(kept)
}

fn key_of(node: &Node, path: &[String]) -> Result<String, Error> {
    let text = node
        .scalar()
        .ok_or_else(|| node.error(format!("{}: unexpected type {}", dotted(path), node.value)))?;
    Ok(text.split('=').next().unwrap_or_default().to_string())
}

fn volume_target(node: &Node, path: &[String]) -> Result<String, Error> {
    match &node.value {
        Value::Map(_) => node.text_of("target").ok_or_else(|| {
            node.error(format!(
                "service volume {} is missing a mount target",
                dotted(path)
            ))
        }),
        Value::Text(s) => volume::parse(s)
            .map(|v| v.target)
            .map_err(|e| node.error(e)),
        _ => Ok(String::new()),
    }
}

fn device_target(node: &Node, _: &[String]) -> Result<String, Error> {
    if let Some(text) = node.str() {
        let mut parts = text.split(':');
        let first = parts.next().unwrap_or_default();
        return Ok(parts.next().unwrap_or(first).to_string());
    }
    let target = node.text_of("target").or(node.text_of("source"));
    Ok(target.unwrap_or_default())
}

fn file_target(node: &Node, _: &[String], folder: &str) -> Result<String, Error> {
    let named = |name: String| format!("{folder}/{name}");
    Ok(match node.str() {
        Some(name) => named(name.to_string()),
        None => node
            .text_of("target")
            .unwrap_or_else(|| named(node.text_of("source").unwrap_or_default())),
    })
}

fn port_key(node: &Node, path: &[String]) -> Result<String, Error> {
    if node.map().is_none() {
        return Ok(node.scalar().unwrap_or_default());
    }
    let Some(target) = node.text_of("target") else {
        return Err(node.error(format!(
            "service ports {} is missing a target port",
            dotted(path)
        )));
    };
    let or = |key: &str, default: &str| node.text_of(key).unwrap_or(default.into());
    Ok(format!(
        "{}:{}:{target}/{}",
        or("host_ip", "0.0.0.0"),
        or("published", ""),
        or("protocol", "tcp")
    ))
}

/// The places that a file's `!reset` and `!override` empty in what came before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Cleared(BTreeSet<Vec<String>>);

impl Cleared {
    /// Takes the tags out of a tree that was just read, and with `!reset` the values as well.
    pub fn of(node: &mut Node) -> Cleared {
        let mut cleared = Cleared::default();
        collect(node, &mut vec![], &mut cleared.0);
        cleared
    }

    /// Empties `target`, which stands at `path`.
    pub fn apply(&self, target: &mut Node, path: &mut Vec<String>) {
        if self.0.is_empty() {
            return;
        }
        if let Some(map) = target.map_mut() {
            map.retain(|key, value| {
                path.push(key.clone());
                let keep = !self.0.contains(path);
                if keep {
                    self.apply(value, path);
                }
                path.pop();
                keep
            });
        }
    }
}

fn collect(node: &mut Node, path: &mut Vec<String>, cleared: &mut BTreeSet<Vec<String>>) {
    match &mut node.value {
        Value::Map(map) => map.retain(|key, value| {
            path.push(key.clone());
            let keep = value.tag != Tag::Reset;
            if value.tag == Tag::None {
                collect(value, path, cleared);
            } else {
                cleared.insert(path.clone());
            }
            path.pop();
            keep
        }),
        Value::List(items) => {
            items.retain(|i| i.tag != Tag::Reset);
            for (i, item) in items.iter_mut().enumerate() {
                path.push(i.to_string());
                collect(item, path, cleared);
                path.pop();
            }
        }
        _ => {}
    }
}
