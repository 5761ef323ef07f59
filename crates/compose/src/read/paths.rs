//! Relative paths made absolute (compose-go's `paths` package).

use super::volume::clean;
use crate::{
    Error,
    tree::{Node, Value},
};
use std::path::Path;

/// Makes the paths of a tree absolute; relative ones start at `base`.
pub(super) fn resolve(file: &mut Node, base: &Path) -> Result<(), Error> {
    for (_, service) in super::canonical::workloads(file) {
        container(service, base)?;
        let Some(map) = service.map_mut() else {
            continue;
        };
        if let Some(build) = map.get_mut("build").and_then(Node::map_mut) {
            if let Some(context) = build.get_mut("context") {
                make(context, |p| context_path(p, base));
            }
            let more = build.get_mut("additional_contexts").and_then(Node::map_mut);
            for (_, context) in more.into_iter().flatten() {
                make(context, |p| context_path(p, base));
            }
            let keys = build.get_mut("ssh").and_then(Node::map_mut);
            for (_, key) in keys.into_iter().flatten() {
                make(key, |p| absolute(p, base));
            }
        }
        for hook in map
            .get_mut("pre_start")
            .map(Node::items_mut)
            .into_iter()
            .flatten()
        {
            container(hook, base)?;
        }
        let extends = map.get_mut("extends").and_then(Node::map_mut);
        if let Some(file) = extends.and_then(|e| e.get_mut("file")) {
            make(file, |p| absolute(p, base));
        }
        let develop = map.get_mut("develop").and_then(Node::map_mut);
        let watch = develop.and_then(|d| d.get_mut("watch"));
        for rule in watch.map(Node::items_mut).into_iter().flatten() {
            if let Some(path) = rule.map_mut().and_then(|r| r.get_mut("path")) {
                make(path, |p| absolute(p, base));
            }
        }
    }
    let Some(map) = file.map_mut() else {
        return Ok(());
    };
    for kind in ["configs", "secrets"] {
        for (_, object) in map
            .get_mut(kind)
            .and_then(Node::map_mut)
            .into_iter()
            .flatten()
        {
            if let Some(file) = object.map_mut().and_then(|o| o.get_mut("file")) {
                make(file, |p| absolute(p, base));
            }
        }
    }
    for (_, volume) in map
        .get_mut("volumes")
        .and_then(Node::map_mut)
        .into_iter()
        .flatten()
    {
        if volume.text_of("driver").as_deref() != Some("local") {
            continue;
        }
        let options = volume.map_mut().and_then(|v| v.get_mut("driver_opts"));
        if let Some(options) = options
            && options.text_of("o").as_deref() == Some("bind")
            && let Some(device) = options.map_mut().and_then(|o| o.get_mut("device"))
        {
            // Nothing is a folder, too: the one that paths start from.
            if device.str() == Some("") {
                device.value = Value::text(base.display().to_string());
            }
            make(device, |p| absolute(p, base));
        }
    }
    Ok(())
}

fn container(node: &mut Node, base: &Path) -> Result<(), Error> {
    let Some(map) = node.map_mut() else {
        return Ok(());
    };
    for file in map
        .get_mut("env_file")
        .map(Node::items_mut)
        .into_iter()
        .flatten()
    {
        if let Some(path) = file.map_mut().and_then(|f| f.get_mut("path")) {
            make(path, |p| absolute(p, base));
        }
    }
    for file in map
        .get_mut("label_file")
        .map(Node::items_mut)
        .into_iter()
        .flatten()
    {
        make(file, |p| absolute(p, base));
    }
    for volume in map
        .get_mut("volumes")
        .map(Node::items_mut)
        .into_iter()
        .flatten()
    {
        if volume.text_of("type").as_deref() != Some("bind") {
            continue;
        }
        if volume.get("source").is_none() {
            return Err(volume
                .error("invalid mount config for type \"bind\": field Source must not be empty"));
        }
        if let Some(source) = volume.map_mut().and_then(|v| v.get_mut("source")) {
            make(source, |p| absolute(p, base));
        }
    }
    Ok(())
}

fn make(node: &mut Node, change: impl Fn(&str) -> String) {
    if let Value::Text(path) = &mut node.value
        && !path.is_empty()
    {
        *path = change(path);
    }
}

/// `~`, then relative to `base`.
pub(super) fn absolute(path: &str, base: &Path) -> String {
    let home = path
        .strip_prefix('~')
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        .zip(std::env::var("HOME").ok());
    let path = match home {
        Some((rest, home)) => clean(&format!("{home}{rest}")),
        None => path.to_string(),
    };
    if path.starts_with('/') {
        // compose-go leaves absolute paths as they are written.
        return path;
    }
    clean(&format!("{}/{path}", base.display()))
}

/// A build context: a folder, or something that is fetched.
fn context_path(path: &str, base: &Path) -> String {
    const REMOTE: [&str; 10] = [
        "https://",
        "http://",
        "git://",
        "ssh://",
        "github.com/",
        "git@",
        "docker-image://",
        "oci-layout://",
        "service:",
        "target:",
    ];
    if REMOTE.iter().any(|r| path.starts_with(r)) {
        return path.to_string();
    }
    absolute(path, base)
}
