//! Images listed, inspected, and where they came from.

use super::{Known, familiar, find};
use crate::{
    daemon::Daemon,
    error::{Result, blocking},
    filters::Filters,
    http::{Answer, Ask, json},
};
use jiff::Timestamp;
use serde_json::{Value, json as value};
use std::{collections::BTreeMap, sync::Arc};

fn moment(created: Option<&str>) -> Timestamp {
    let at = created.and_then(|c| c.parse::<Timestamp>().ok());
    at.unwrap_or_default()
}

fn seconds(created: Option<&str>) -> i64 {
    moment(created).as_second()
}

pub(super) fn repository(name: &str) -> String {
    let bare = name.split('@').next().unwrap_or_default();
    let slash = bare.rfind('/').map_or(0, |i| i + 1);
    let end = bare[slash..].find(':').map_or(bare.len(), |i| slash + i);
    familiar(&bare[..end])
}

/// Images by id, with all their names. Blocking.
fn grouped(daemon: &Daemon) -> Result<Vec<(Known, Vec<String>)>> {
    let mut by_id: BTreeMap<String, (Known, Vec<String>)> = BTreeMap::new();
    for image in daemon.images.list()? {
        let name = image.name.clone();
        match by_id.get_mut(&image.id) {
            Some((_, names)) => names.push(name),
            None => {
                let known = Known::read(daemon, image)?;
                by_id.insert(known.id.clone(), (known, vec![name]));
            }
        }
    }
    let mut all: Vec<_> = by_id.into_values().collect();
    all.sort_by_key(|(known, _)| std::cmp::Reverse(moment(known.created.as_deref())));
    Ok(all)
}

fn tags(names: &[String]) -> Vec<String> {
    let tagged = names.iter().filter(|n| !n.contains('@'));
    tagged.map(|n| familiar(n)).collect()
}

fn digests(known: &Known, names: &[String]) -> Vec<String> {
    let mut all: Vec<String> = names
        .iter()
        .filter(|n| !super::is_nameless(n))
        .map(|n| format!("{}@{}", repository(n), known.digest))
        .collect();
    all.dedup();
    all
}

fn users(daemon: &Daemon, id: &str) -> usize {
    let all = daemon.containers.all();
    all.iter().filter(|e| e.record.image_id == id).count()
}

/// As a list shows them. Blocking.
pub fn summaries(daemon: &Daemon, filters: &Filters) -> Result<Vec<Value>> {
    let all = grouped(daemon)?;
    let made_of = |reference: &str| find(daemon, reference).map(|k| moment(k.created.as_deref()));
    let before = filters
        .get("before")
        .first()
        .map(|r| made_of(r))
        .transpose()?;
    let since = filters
        .get("since")
        .first()
        .map(|r| made_of(r))
        .transpose()?;
    let dangling = filters.flag("dangling")?;
    let until = crate::networks::until(filters)?;
    let mut shown = Vec::new();
    for (known, mut names) in all {
        let created = moment(known.created.as_deref());
        let mut tags = tags(&names);
        let dangles = tags.is_empty();
        // SOURCE: moby `daemon/images/images.go`: of an image that fits only the names that fit are shown
        if filters.has("reference") {
            let fits = |t: &String| filters.any("reference", |pattern| matches(pattern, t));
            tags.retain(fits);
            names.retain(|n| fits(&familiar(n)));
        }
        let labels = &known.config.labels;
        let fits = before.is_none_or(|b| created < b)
            && since.is_none_or(|s| created > s)
            && until.is_none_or(|u| created < u)
            && dangling.is_none_or(|d| d == dangles)
            && filters.labels("label", labels)
            && (!filters.has("reference") || !tags.is_empty());
        if !fits {
            continue;
        }
        shown.push(value!({
            "Id": known.id,
            "ParentId": "",
            "RepoTags": tags,
            "RepoDigests": digests(&known, &names),
            "Created": created.as_second(),
            "Size": known.size,
            "VirtualSize": known.size,
            "SharedSize": -1,
            "Labels": labels,
            "Containers": users(daemon, &known.id),
        }));
    }
    Ok(shown)
}

/// `red*`, `redis`, `redis:7`, `*/*:x`
///
/// SOURCE: `distribution/reference` FamiliarMatch
fn matches(pattern: &str, tag: &str) -> bool {
    glob(pattern, tag) || glob(pattern, &repository(tag))
}

/// `*` is anything but a slash, `?` any one character but that.
fn glob(pattern: &str, text: &str) -> bool {
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // ok[j]: the pattern up to here fits the text's first j
    let mut ok = vec![false; t.len() + 1];
    ok[0] = true;
    for c in p {
        let mut next = vec![false; t.len() + 1];
        for j in 0..=t.len() {
            next[j] = match c {
                '*' => ok[j] || (j > 0 && next[j - 1] && t[j - 1] != '/'),
                '?' => j > 0 && ok[j - 1] && t[j - 1] != '/',
                c => j > 0 && ok[j - 1] && t[j - 1] == c,
            };
        }
        ok = next;
    }
    ok[t.len()]
}

/// `GET /images/json`
pub async fn list(daemon: &Arc<Daemon>, ask: Ask) -> Result<Answer> {
    let mut filters = Filters::read(&ask.query)?;
    filters.only(&["before", "dangling", "label", "reference", "since", "until"])?;
    if let Some(pattern) = ask.query.get("filter") {
        filters.add("reference", pattern);
    }
    let daemon = daemon.clone();
    let shown = blocking(move || summaries(&daemon, &filters)).await?;
    Ok(json(&Value::Array(shown)))
}

/// `GET /images/{name}/json`
pub async fn inspect(daemon: &Arc<Daemon>, name: &str) -> Result<Answer> {
    let (daemon, name) = (daemon.clone(), name.to_string());
    let shown = blocking(move || {
        let known = find(&daemon, &name)?;
        let all = daemon.images.list()?;
        let names: Vec<String> = all
            .into_iter()
            .filter(|i| i.id == known.id)
            .map(|i| i.name)
            .collect();
        let raw = |key: &str| known.raw.get(key).cloned().unwrap_or(value!(""));
        let mut config = raw("config");
        if !config.is_object() {
            config = value!({});
        }
        let steps = known.raw["history"].as_array();
        // SOURCE: moby `daemon/images/image_inspect.go`: without one of its own, what was said of its last step
        let comment = match known.raw["comment"].as_str() {
            Some(comment) if !comment.is_empty() => comment,
            _ => steps
                .and_then(|s| s.last()?["comment"].as_str())
                .unwrap_or_default(),
        };
        let mut shown = value!({
            "Id": known.id,
            "RepoTags": tags(&names),
            "RepoDigests": digests(&known, &names),
            "Parent": "",
            "Comment": comment,
            "Created": known.created.clone().unwrap_or_default(),
            "DockerVersion": "",
            "Author": raw("author"),
            "Config": config,
            "Architecture": raw("architecture"),
            "Os": raw("os"),
            "Size": known.size,
            "VirtualSize": known.size,
            "GraphDriver": { "Name": "overlay2", "Data": {} },
            "RootFS": { "Type": "layers", "Layers": known.raw["rootfs"]["diff_ids"] },
            "Metadata": { "LastTagTime": crate::state::NEVER },
        });
        if let Some(variant) = known.raw.get("variant") {
            shown["Variant"] = variant.clone();
        }
        Ok(shown)
    });
    Ok(json(&shown.await?))
}

/// `GET /images/{name}/history`
pub async fn history(daemon: &Arc<Daemon>, name: &str) -> Result<Answer> {
    let (daemon, name) = (daemon.clone(), name.to_string());
    let shown = blocking(move || {
        let known = find(&daemon, &name)?;
        let manifest: Value = serde_json::from_slice(&daemon.images.read_blob(&known.manifest)?)?;
        let mut sizes = manifest["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|l| l["size"].clone());
        let all = daemon.images.list()?;
        let names: Vec<String> = all
            .into_iter()
            .filter(|i| i.id == known.id)
            .map(|i| i.name)
            .collect();
        let mut steps: Vec<Value> = Vec::new();
        for step in known.raw["history"].as_array().into_iter().flatten() {
            let empty = step["empty_layer"].as_bool().unwrap_or(false);
            let size = if empty { None } else { sizes.next() };
            steps.push(value!({
                "Id": "<missing>",
                "Created": seconds(step["created"].as_str()),
                "CreatedBy": step["created_by"].as_str().unwrap_or_default(),
                "Tags": null,
                "Size": size.unwrap_or(value!(0)),
                "Comment": step["comment"].as_str().unwrap_or_default(),
            }));
        }
        // layers that no step tells of
        for size in sizes {
            steps.push(value!({ "Id": "<missing>", "Created": seconds(known.created.as_deref()), "CreatedBy": "", "Tags": null, "Size": size, "Comment": "" }));
        }
        steps.reverse();
        if let Some(top) = steps.first_mut() {
            top["Id"] = value!(known.id);
            top["Tags"] = value!(tags(&names));
        }
        Ok(steps)
    });
    Ok(json(&Value::Array(shown.await?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_matched_as_docker_does() {
        for (pattern, tag, wanted) in [
            ("busybox", "busybox:latest", true),
            ("busy*", "busybox:latest", true),
            ("busybox:latest", "busybox:latest", true),
            ("busybox:1", "busybox:latest", false),
            ("*", "a/b:c", false),
            ("*/*", "a/b:c", true),
            ("a/*", "a/b:c", true),
            ("a/*:d", "a/b:c", false),
            ("x", "a/x:c", false),
        ] {
            assert_eq!(matches(pattern, tag), wanted, "{pattern} {tag}");
        }
    }
}
