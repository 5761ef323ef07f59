//! `include:` (Compose specification, 14-include.md).

use super::{INCLUDES_MAX, Reader, Scope, find, merge, merge::Cleared, paths, volume::clean};
use crate::{
    Error,
    interpolate::Variables,
    tree::{Map, Node, Value},
};
use std::path::{Path, PathBuf};

impl Reader<'_> {
    /// Reads what the document includes, and puts its resources beside the document's own.
    pub(super) fn include(
        &self,
        document: &mut Node,
        cleared: &Cleared,
        scope: &mut Scope,
    ) -> Result<(), Error> {
        let Some(list) = document.map_mut().and_then(|m| m.remove("include")) else {
            return Ok(());
        };
        if !matches!(list.value, Value::List(_) | Value::Null) {
            return Err(list.error(format!("`include` must be a list, got {}", list.value)));
        }
        for one in list.items() {
            let imported = self.included(one, scope)?;
            import(document, imported, cleared)?;
        }
        Ok(())
    }

    fn included(&self, one: &Node, scope: &mut Scope) -> Result<Node, Error> {
        let mut given = match one.str() {
            Some(path) => vec![path.to_string()],
            None => one.texts_of("path"),
        };
        for (key, _) in one.entries() {
            if !matches!(key.as_str(), "path" | "env_file" | "project_directory") {
                return Err(one.error(format!("include additional properties '{key}' not allowed")));
            }
        }
        if given.is_empty() {
            return Err(one.error("include: missing property 'path'"));
        }
        for path in &mut given {
            let remote = path.contains("://") || path.starts_with("git@") || path.ends_with(".git");
            if remote {
                return Err(one.error(format!(
                    "include: {path} is a remote file, which knarr does not fetch: check it out and include the copy"
                )));
            }
            *path = paths::absolute(path, &scope.folder);
        }
        let files: Vec<PathBuf> = given.iter().map(PathBuf::from).collect();
        if scope.included.contains(&files[0]) || scope.included.len() >= INCLUDES_MAX {
            let mut names: Vec<String> = scope.included.iter().map(|f| super::shown(f)).collect();
            names.push(super::shown(&files[0]));
            return Err(one.error(format!(
                "include cycle detected:\n{}",
                names.join("\n include ")
            )));
        }
        let folder = match one.text_of("project_directory").filter(|d| !d.is_empty()) {
            Some(d) => PathBuf::from(paths::absolute(&d, &scope.folder)),
            None => files[0].parent().unwrap_or(Path::new("/")).to_path_buf(),
        };
        let env_files: Vec<PathBuf> = match one.get("env_file") {
            None => {
                let file = folder.join(".env");
                file.is_file().then_some(file).into_iter().collect()
            }
            Some(_) => one
                .texts_of("env_file")
                .iter()
                .filter(|f| *f != "/dev/null")
                .map(|f| match f.starts_with('/') {
                    true => PathBuf::from(f),
                    false => PathBuf::from(clean(&format!("{}/{f}", scope.folder.display()))),
                })
                .collect(),
        };
        let mut environment = scope.variables.known.clone();
        let more = find::env_files(&environment, &env_files).map_err(|e| one.error(e))?;
        for (key, value) in more {
            environment.entry(key).or_insert(value);
        }
        let mut inner = Scope {
            folder,
            variables: Variables::new(environment),
            included: scope.included.clone(),
        };
        let tree = self.files(&files, &mut inner).map_err(|e| match e.line {
            None => one.error(format!("{}: {}", e.file, e.message)),
            Some(_) => e,
        })?;
        scope
            .variables
            .missing
            .borrow_mut()
            .append(&mut inner.variables.missing.borrow_mut());
        Ok(tree)
    }
}

/// The resources of `from` beside those of `document`, which is in the right where both name the same.
fn import(document: &mut Node, mut from: Node, cleared: &Cleared) -> Result<(), Error> {
    let mark = document.mark.clone();
    for kind in [
        "services", "jobs", "volumes", "networks", "secrets", "configs", "models",
    ] {
        let Some(Value::Map(entries)) =
            from.map_mut().and_then(|m| m.remove(kind)).map(|n| n.value)
        else {
            continue;
        };
        let Some(all) = document.map_mut() else {
            return Ok(());
        };
        let section = all
            .entry(kind.into())
            .or_insert_with(|| mark.node(Value::Map(Map::new())));
        if section.is_null() {
            section.value = Value::Map(Map::new());
        }
        let Some(section) = section.map_mut() else {
            return Err(mark.error(format!("{kind} must be a mapping")));
        };
        for (name, mut imported) in entries {
            match section.remove(&name) {
                Some(own) if own != imported => {
                    let mut path = vec![kind.to_string(), name.clone()];
                    cleared.apply(&mut imported, &mut path);
                    let merged = merge::merge(imported, own, &mut path)?;
                    section.insert(name, merged);
                }
                _ => {
                    section.insert(name, imported);
                }
            }
        }
    }
    Ok(())
}
