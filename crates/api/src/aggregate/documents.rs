//! Discovery and the OpenAPI index, with what others serve.

use serde_json::{Map, Value, json};

use super::{Remote, Remotes};

/// The others' groups: by priority, then by name; versions likewise.
fn by_group(remotes: &Remotes) -> Vec<(&str, Vec<&Remote>)> {
    let mut all: Vec<(&str, Vec<&Remote>)> = Vec::new();
    for r in remotes.iter() {
        match all.iter_mut().find(|(g, _)| *g == r.group) {
            Some((_, list)) => list.push(r),
            None => all.push((&r.group, vec![r])),
        }
    }
    for (_, list) in &mut all {
        list.sort_by_key(|r| (-r.version_priority, r.version.clone()));
    }
    let priority = |list: &[&Remote]| list.iter().map(|r| r.group_priority).max();
    all.sort_by(|(a, x), (b, y)| priority(y).cmp(&priority(x)).then(a.cmp(b)));
    all
}

fn version_of(r: &Remote) -> Value {
    json!({"groupVersion": format!("{}/{}", r.group, r.version), "version": r.version})
}

/// Adds the others' versions to an APIGroup.
fn extend(group: &mut Value, list: &[&Remote]) {
    let versions = group["versions"].as_array_mut();
    if let Some(versions) = versions {
        for r in list {
            if !versions.iter().any(|v| v["version"] == r.version) {
                versions.push(version_of(r));
            }
        }
    }
}

fn new_group(name: &str, list: &[&Remote]) -> Value {
    let versions: Vec<Value> = list.iter().map(|r| version_of(r)).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

/// An APIGroupList with the others' groups.
pub fn groups(document: &mut Value, remotes: &Remotes) {
    let Some(all) = document["groups"].as_array_mut() else {
        return;
    };
    for (name, list) in by_group(remotes) {
        match all.iter_mut().find(|g| g["name"] == name) {
            Some(group) => extend(group, &list),
            None => all.push(new_group(name, &list)),
        }
    }
}

/// The APIGroup of this name with the others' versions; None when nobody serves it.
pub fn group(local: Option<Value>, name: &str, remotes: &Remotes) -> Option<Value> {
    let found = by_group(remotes).into_iter().find(|(g, _)| *g == name);
    match (local, found) {
        (Some(mut local), Some((_, list))) => {
            extend(&mut local, &list);
            Some(local)
        }
        (local @ Some(_), None) => local,
        (None, Some((_, list))) => Some(new_group(name, &list)),
        (None, None) => None,
    }
}

/// An APIGroupDiscoveryList with the others' groups. What a server that can't be reached said last is marked as stale.
pub fn aggregated(document: &mut Value, remotes: &Remotes) {
    let Some(all) = document["items"].as_array_mut() else {
        return;
    };
    for (name, list) in by_group(remotes) {
        let versions: Vec<Value> = list.iter().map(|r| discovered(r)).collect();
        match all.iter_mut().find(|g| g["metadata"]["name"] == name) {
            Some(group) => {
                if let Some(known) = group["versions"].as_array_mut() {
                    known.retain(|k| !versions.iter().any(|v| v["version"] == k["version"]));
                    known.extend(versions);
                }
            }
            None => all.push(json!({
                "metadata": {"name": name, "creationTimestamp": null}, "versions": versions,
            })),
        }
    }
}

fn discovered(r: &Remote) -> Value {
    let fresh = r.is_available() && r.resources().is_some();
    let mut version = json!({
        "version": r.version, "freshness": if fresh { "Current" } else { "Stale" },
    });
    if let Some(list) = r.resources() {
        version["resources"] = converted(&list, &r.group, &r.version).into();
    }
    version
}

/// The resources of an APIResourceList in the aggregated form.
fn converted(list: &Value, group: &str, version: &str) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    let all = || list["resources"].as_array().into_iter().flatten();
    let kind_of = |r: &Value| {
        let or = |k: &str, own: &str| match r[k].as_str() {
            Some(given) if !given.is_empty() => given.to_string(),
            _ => own.to_string(),
        };
        json!({"group": or("group", group), "version": or("version", version), "kind": r["kind"]})
    };
    let name = |r: &Value| r["name"].as_str().unwrap_or("").to_string();
    for r in all().filter(|r| !name(r).contains('/')) {
        let scope = if r["namespaced"] == true {
            "Namespaced"
        } else {
            "Cluster"
        };
        let mut v = json!({"resource": r["name"], "responseKind": kind_of(r), "scope": scope,
            "singularResource": r["singularName"], "verbs": r["verbs"]});
        for key in ["shortNames", "categories"] {
            if r[key].is_array() {
                v[key] = r[key].clone();
            }
        }
        let prefix = format!("{}/", name(r));
        let subs: Vec<Value> = all()
            .filter_map(|s| {
                let sub = name(s).strip_prefix(&prefix)?.to_string();
                Some(json!({"subresource": sub, "responseKind": kind_of(s), "verbs": s["verbs"]}))
            })
            .collect();
        if !subs.is_empty() {
            v["subresources"] = subs.into();
        }
        out.push(v);
    }
    out
}

/// Adds the others' documents to the OpenAPI v3 index.
pub fn openapi(paths: &mut Map<String, Value>, remotes: &Remotes) {
    for r in remotes.iter() {
        if let Some(tag) = r.openapi() {
            let path = format!("apis/{}/{}", r.group, r.version);
            let url = format!("/openapi/v3/{path}?hash={tag}");
            paths.insert(path, json!({ "serverRelativeURL": url }));
        }
    }
}
