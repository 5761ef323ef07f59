//! The finished tree brought into one form: implied networks and dependencies, names, resolved environment
//! (compose-go's `Normalize`).

use super::{canonical::workloads, volume::clean};
use crate::{
    Error,
    tree::{Map, Node, Value},
};
use std::collections::BTreeMap;

type Environment = BTreeMap<String, String>;

/// Gives list items of `environment` without a value the one from the surroundings they are read in.
pub(super) fn resolve_lists(tree: &mut Node, environment: &Environment) {
    for (_, service) in workloads(tree) {
        let list = service.map_mut().and_then(|m| m.get_mut("environment"));
        for item in list.map(Node::items_mut).into_iter().flatten() {
            if let Some(key) = item.str()
                && let Some(value) = environment.get(key)
            {
                item.value = Value::Text(format!("{key}={value}"));
            }
        }
    }
    for (kind, target) in [("secrets", "x-#value"), ("configs", "content")] {
        let all = tree.map_mut().and_then(|m| m.get_mut(kind));
        for (_, object) in all.and_then(Node::map_mut).into_iter().flatten() {
            let value = object
                .text_of("environment")
                .and_then(|name| environment.get(&name));
            let (value, mark) = (value.cloned(), object.mark.clone());
            if let (Some(value), Some(map)) = (value, object.map_mut()) {
                map.insert(target.into(), mark.node(Value::Text(value)));
            }
        }
    }
}

pub(super) fn normalize(
    tree: &mut Node,
    name: &str,
    environment: &Environment,
) -> Result<(), Error> {
    let mark = tree.mark.clone();
    let mut default_used = false;
    for (_, service) in workloads(tree) {
        let mark = service.mark.clone();
        let Some(map) = service.map_mut() else {
            continue;
        };
        default_used |= networks(map, &mark);
        for key in ["command", "entrypoint"] {
            words(map, key)?;
        }
        for hooks in ["pre_start", "post_start", "pre_stop"] {
            for hook in map
                .get_mut(hooks)
                .map(Node::items_mut)
                .into_iter()
                .flatten()
            {
                for key in ["command", "entrypoint"] {
                    hook.map_mut().map_or(Ok(()), |h| words(h, key))?;
                }
            }
        }
        let watch = map.get_mut("develop").and_then(Node::map_mut);
        for rule in watch
            .and_then(|w| w.get_mut("watch"))
            .map(Node::items_mut)
            .into_iter()
            .flatten()
        {
            let exec = rule.map_mut().and_then(|r| r.get_mut("exec"));
            if let Some(exec) = exec.and_then(Node::map_mut) {
                words(exec, "command")?;
            }
        }
        if let Some(check) = map.get_mut("healthcheck").and_then(Node::map_mut)
            && let Some(test) = check.get_mut("test")
            && test.str().is_some()
        {
            let line = test.clone();
            let shell = line.mark.node(Value::text("CMD-SHELL"));
            test.value = Value::List(vec![shell, line]);
        }
        if let Some(policy) = map.get_mut("pull_policy")
            && policy.str() == Some("if_not_present")
        {
            policy.value = Value::text("missing");
        }
        if let Some(build) = map.get_mut("build").and_then(Node::map_mut) {
            for key in ["args", "labels"] {
                if let Some(pairs) = build.get_mut(key) {
                    dictionary(pairs, (key == "args").then_some((environment, false)));
                }
            }
            if !build.contains_key("dockerfile") && !build.contains_key("dockerfile_inline") {
                build.insert("dockerfile".into(), mark.node(Value::text("Dockerfile")));
            }
        }
        for key in ["labels", "annotations", "sysctls"] {
            if let Some(pairs) = map.get_mut(key) {
                dictionary(pairs, None);
            }
        }
        if let Some(labels) = map
            .get_mut("deploy")
            .and_then(Node::map_mut)
            .and_then(|d| d.get_mut("labels"))
        {
            dictionary(labels, None);
        }
        if let Some(pairs) = map.get_mut("environment") {
            dictionary(pairs, Some((environment, true)));
        }
        for hooks in ["pre_start", "post_start", "pre_stop"] {
            for hook in map
                .get_mut(hooks)
                .map(Node::items_mut)
                .into_iter()
                .flatten()
            {
                if let Some(pairs) = hook.map_mut().and_then(|h| h.get_mut("environment")) {
                    dictionary(pairs, Some((environment, true)));
                }
            }
        }
        for volume in map
            .get_mut("volumes")
            .map(Node::items_mut)
            .into_iter()
            .flatten()
        {
            if let Some(target) = volume.map_mut().and_then(|v| v.get_mut("target"))
                && let Value::Text(path) = &target.value
            {
                target.value = Value::Text(clean(path));
            }
        }
        implied_dependencies(map, &mark);
    }
    let Some(map) = tree.map_mut() else {
        return Ok(());
    };
    map.insert("name".into(), mark.node(Value::text(name)));
    if default_used {
        let networks = map
            .entry("networks".into())
            .or_insert_with(|| mark.node(Value::Map(Map::new())));
        if let Some(networks) = networks.map_mut() {
            networks
                .entry("default".into())
                .or_insert_with(|| mark.node(Value::Null));
        }
    }
    for kind in ["networks", "volumes", "configs", "secrets"] {
        for (key, resource) in map
            .get_mut(kind)
            .and_then(Node::map_mut)
            .into_iter()
            .flatten()
        {
            if resource.is_null() {
                resource.value = Value::Map(Map::new());
            }
            let (external, mark) = (resource.bool_of("external"), resource.mark.clone());
            if let Some(r) = resource.map_mut() {
                if let Some(labels) = r.get_mut("labels") {
                    dictionary(labels, None);
                }
                r.entry("name".into()).or_insert_with(|| {
                    mark.node(Value::Text(match external {
                        true => key.clone(),
                        false => format!("{name}_{key}"),
                    }))
                });
            }
        }
    }
    Ok(())
}

/// A command in one text, as the words a shell splits it into.
fn words(map: &mut Map, key: &str) -> Result<(), Error> {
    if let Some(node) = map.get_mut(key)
        && let Value::Text(text) = &node.value
    {
        let words = split_words(text).ok_or_else(|| {
            node.error(format!(
                "{key}: invalid command line string: unbalanced quotes or brackets"
            ))
        })?;
        let mark = node.mark.clone();
        node.value = Value::List(
            words
                .into_iter()
                .map(|w| mark.node(Value::Text(w)))
                .collect(),
        );
    }
    Ok(())
}

/// Puts a service that names none into the default network; true when it is in that one.
fn networks(service: &mut Map, mark: &crate::tree::Mark) -> bool {
    if service.contains_key("provider") || service.contains_key("network_mode") {
        return false;
    }
    let networks = service
        .entry("networks".into())
        .or_insert_with(|| mark.node(Value::Map(Map::new())));
    if networks.is_null() {
        networks.value = Value::Map(Map::new());
    }
    let Some(networks) = networks.map_mut() else {
        return false;
    };
    if networks.is_empty() {
        networks.insert("default".into(), mark.node(Value::Null));
    }
    networks.contains_key("default")
}

/// `KEY=value` items as a mapping of texts. With an environment, keys without a value take it from there; those it
/// doesn't have are kept as null or left out.
fn dictionary(node: &mut Node, environment: Option<(&Environment, bool)>) {
    let resolve = |key: &str| match environment {
        None => Some(Value::text("")),
        Some((known, keep)) => match known.get(key) {
            Some(value) => Some(Value::text(value)),
            None => keep.then_some(Value::Null),
        },
    };
    let mut made = Map::new();
    match &node.value {
        Value::List(items) => {
            for item in items {
                let text = item.scalar().unwrap_or_default();
                let (key, value) = match text.split_once('=') {
                    Some((key, value)) => (key, Some(Value::text(value))),
                    None => (text.as_str(), resolve(&text)),
                };
                if let Some(value) = value {
                    made.insert(key.to_string(), item.mark.node(value));
                }
            }
        }
        Value::Map(map) => {
            for (key, value) in map {
                let new = match &value.value {
                    Value::Null => resolve(key),
                    v => Some(Value::Text(v.to_string())),
                };
                if let Some(new) = new {
                    made.insert(key.clone(), value.mark.node(new));
                }
            }
        }
        _ => return,
    }
    node.value = Value::Map(made);
}

/// What is linked to, or shared with, is depended on.
pub(crate) fn implied_dependencies(service: &mut Map, mark: &crate::tree::Mark) {
    let mut found: Vec<(String, bool)> = Vec::new();
    for link in service.get("links").map(Node::texts).into_iter().flatten() {
        found.push((link.split(':').next().unwrap_or_default().into(), true));
    }
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        let text = service.get(key).and_then(Node::str);
        if let Some(name) = text.and_then(|t| t.strip_prefix("service:")) {
            found.push((name.into(), true));
        }
    }
    for from in service
        .get("volumes_from")
        .map(Node::texts)
        .into_iter()
        .flatten()
    {
        if !from.starts_with("container:") {
            found.push((from.split(':').next().unwrap_or_default().into(), false));
        }
    }
    if found.is_empty() {
        return;
    }
    let all = service
        .entry("depends_on".into())
        .or_insert_with(|| mark.node(Value::Map(Map::new())));
    for (name, restart) in found {
        if let Some(all) = all.map_mut() {
            all.entry(name).or_insert_with(|| {
                mark.node(Value::Map(Map::from([
                    (
                        "condition".into(),
                        mark.node(Value::text("service_started")),
                    ),
                    ("required".into(), mark.node(Value::Bool(true))),
                    ("restart".into(), mark.node(Value::Bool(restart))),
                ])))
            });
        }
    }
}

/// The words of a command line: quotes and backslashes, no expansion; `;`, `&`, `|`, `<` and `>` end it where they are
/// not quoted (what a shell makes of them needs a shell). None: unbalanced.
/// SOURCE: mattn/go-shellwords, which compose-go reads them with.
fn split_words(text: &str) -> Option<Vec<String>> {
    #[derive(PartialEq, Clone, Copy)]
    enum Inside {
        Nothing,
        Single,
        Double,
        Backticks,
        /// `$( )`
        Dollar,
    }
    let (mut words, mut word, mut open, mut inside) =
        (vec![], String::new(), false, Inside::Nothing);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, inside) {
            ('\\', i) if i != Inside::Single => {
                word.push(chars.next()?);
                open = true;
                continue;
            }
            (' ' | '\t' | '\r' | '\n', Inside::Nothing) => {
                if open {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
                continue;
            }
            (' ' | '\t' | '\r' | '\n', _) => {
                word.push(c);
                continue;
            }
            ('"', Inside::Double) | ('\'', Inside::Single) => {
                inside = Inside::Nothing;
                open = true;
                continue;
            }
            ('"', Inside::Nothing) => {
                inside = Inside::Double;
                continue;
            }
            ('\'', Inside::Nothing) => {
                inside = Inside::Single;
                continue;
            }
            ('`', Inside::Nothing) => inside = Inside::Backticks,
            ('`', Inside::Backticks) | (')', Inside::Dollar) => inside = Inside::Nothing,
            ('(', Inside::Nothing) if word.ends_with('$') => inside = Inside::Dollar,
            ('(', Inside::Nothing | Inside::Dollar) | (')', Inside::Nothing) => return None,
            (';' | '&' | '|' | '<' | '>', Inside::Nothing) => {
                // `2>`: the number is the redirection's.
                open &= !(c == '>' && word.starts_with(|c: char| c.is_ascii_digit()));
                break;
            }
            _ => {}
        }
        open = true;
        word.push(c);
    }
    if inside != Inside::Nothing {
        return None;
    }
    if open {
        words.push(word);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_split_as_in_a_shell() {
        for (text, want) in [
            ("a b", Some(vec!["a", "b"])),
            ("sh -c 'a \"b\" c'", Some(vec!["sh", "-c", "a \"b\" c"])),
            ("a\\ b \"\" c\"d\"e", Some(vec!["a b", "", "cde"])),
            ("'open", None),
            ("a && b", Some(vec!["a"])),
            ("sh -c 'a; b | c';", Some(vec!["sh", "-c", "a; b | c"])),
            ("a 2>&1 b", Some(vec!["a"])),
            ("a x2>y", Some(vec!["a", "x2"])),
            ("a \"b;c\" d\\;e", Some(vec!["a", "b;c", "d;e"])),
            ("a $(b c; d) e", Some(vec!["a", "$(b c; d)", "e"])),
            ("a `b c` d", Some(vec!["a", "`b c`", "d"])),
            ("a (b)", None),
            ("a b)", None),
            ("a\\", None),
            ("\"a\\nb\" 'a\\nb'", Some(vec!["anb", "a\\nb"])),
        ] {
            assert_eq!(
                split_words(text),
                want.map(|w| w.into_iter().map(String::from).collect()),
                "{text}"
            );
        }
    }
}
