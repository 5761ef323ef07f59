//! `configs:` and `secrets:`.

use super::{Service, section};
use crate::{Error, tree::Node};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

/// The most that a config or secret may hold to become an object of the API (core/v1's limit).
const OBJECT_BYTES_MAX: u64 = 1 << 20;

/// A config or a secret.
#[derive(Debug, Clone)]
pub struct FileObject {
    pub source: FileSource,
    /// Permission bits where a service asks for none.
    pub mode: u32,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone)]
pub enum FileSource {
    Content(Vec<u8>),
    /// A folder, or a file too large for an object: bound from the host as Compose does.
    Path(PathBuf),
    /// Made elsewhere, under this name.
    External(String),
}

/// Contents stay out of logs.
impl std::fmt::Debug for FileSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FileSource::Content(bytes) => write!(f, "Content({} bytes)", bytes.len()),
            FileSource::Path(path) => write!(f, "Path({path:?})"),
            FileSource::External(name) => write!(f, "External({name:?})"),
        }
    }
}

type Objects = BTreeMap<String, FileObject>;

/// The configs and secrets that are used.
pub(super) fn objects(
    tree: &Node,
    services: &BTreeMap<String, Service>,
) -> Result<(Objects, Objects), Error> {
    let of_builds = services
        .values()
        .filter_map(|s| s.build.as_ref())
        .flat_map(|b| b.secrets.iter().map(|s| s.secret.clone()));
    let secrets: BTreeSet<String> = services
        .values()
        .flat_map(|s| s.secrets.iter().map(|f| f.source.clone()))
        .chain(of_builds)
        .collect();
    let configs: BTreeSet<String> = services
        .values()
        .flat_map(|s| s.configs.iter().map(|f| f.source.clone()))
        .collect();
    Ok((
        of_kind(tree, "configs", &configs)?,
        of_kind(tree, "secrets", &secrets)?,
    ))
}

fn of_kind(tree: &Node, kind: &str, used: &BTreeSet<String>) -> Result<Objects, Error> {
    let mut all = Objects::new();
    for (name, node) in section(tree, kind).filter(|(n, _)| used.contains(*n)) {
        for key in ["driver", "template_driver"] {
            if let Some(at) = node.get(key) {
                return Err(at.error(format!(
                    "{kind}.{name}.{key}: knarr has no such drivers: use file, environment or content"
                )));
            }
        }
        let content = node
            .map()
            .and_then(|m| m.get("x-#value").or(m.get("content")))
            .and_then(Node::scalar);
        let mut mode = 0o444;
        let source = if node.bool_of("external") {
            FileSource::External(node.text_of("name").unwrap_or(name.clone()))
        } else if let Some(text) = content {
            FileSource::Content(text.into_bytes())
        } else if let Some(file) = node.get("file") {
            let path = PathBuf::from(file.scalar().unwrap_or_default());
            let said = |e: std::io::Error| {
                file.error(format!("{kind}.{name}.file: {}: {e}", path.display()))
            };
            let meta = fs::metadata(&path).map_err(said)?;
            // What root owns others must be able to read.
            mode |= meta.permissions().mode() & 0o111;
            match meta.is_file() && meta.len() < OBJECT_BYTES_MAX {
                true => FileSource::Content(fs::read(&path).map_err(said)?),
                false => FileSource::Path(path),
            }
        } else {
            let variable = node.text_of("environment").unwrap_or_default();
            return Err(node.error(format!(
                "{kind}.{name}: environment variable {variable:?} required by {} {name:?} is not set",
                kind.trim_end_matches('s')
            )));
        };
        let labels = super::values::pairs(node, "labels").into_iter().collect();
        all.insert(
            name.clone(),
            FileObject {
                source,
                mode,
                labels,
            },
        );
    }
    Ok(all)
}
