//! What `up` and `down` were pointed at: a compose file or Kubernetes manifests, read and checked, nothing touched.

use crate::error::{Error, io};
use knarr_compose::Project;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Names Compose looks for, in its order.
const COMPOSE_NAMES: &[&str] = &[
    "compose.yaml",
    "compose.yml",
    "docker-compose.yaml",
    "docker-compose.yml",
];
/// Most files one folder of manifests may have.
const MANIFESTS_MAX: usize = 1000;

pub enum Source {
    Compose(Box<Project>),
    Manifests {
        folder: PathBuf,
        documents: Vec<Document>,
    },
}

/// One object of a manifest, and where it stands.
#[derive(Clone)]
pub struct Document {
    pub object: Value,
    /// The file, and which of its documents when it has several: `k8s/web.yaml, document 2`.
    pub place: String,
}

pub fn read(path: &Path, profiles: &[String], project: Option<String>) -> Result<Source, Error> {
    let meta =
        std::fs::metadata(path).map_err(|e| Error::Input(format!("{}: {e}", path.display())))?;
    let compose = |file: PathBuf| {
        let options = knarr_compose::Options {
            file,
            environment: std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
            profiles: profiles.to_vec(),
            project: project.clone(),
        };
        Ok(Source::Compose(Box::new(knarr_compose::load(&options)?)))
    };
    if meta.is_dir() {
        if let Some(file) = COMPOSE_NAMES
            .iter()
            .map(|n| path.join(n))
            .find(|f| f.is_file())
        {
            return compose(file);
        }
        let documents = manifests(path)?;
        if documents.is_empty() {
            return Err(Error::Input(format!(
                "{} holds neither a compose.yaml nor Kubernetes manifests: name another folder or file",
                path.display()
            )));
        }
        return Ok(Source::Manifests {
            folder: path.to_path_buf(),
            documents,
        });
    }
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::Input(format!("{}: {e}", path.display())))?;
    if text.lines().any(|l| l.starts_with("services:")) {
        return compose(path.to_path_buf());
    }
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
        .to_path_buf();
    Ok(Source::Manifests {
        folder,
        documents: documents(path)?,
    })
}

fn manifests(folder: &Path) -> Result<Vec<Document>, Error> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(io(folder.display().to_string()))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| {
            p.extension()
                .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
        })
        .collect();
    files.sort();
    if files.len() > MANIFESTS_MAX {
        return Err(Error::Input(format!(
            "{} holds more than {MANIFESTS_MAX} manifests",
            folder.display()
        )));
    }
    let mut all = Vec::new();
    for file in files {
        all.extend(documents(&file)?);
    }
    Ok(all)
}

/// The objects of one file; each must say what it is.
fn documents(file: &Path) -> Result<Vec<Document>, Error> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(io(name.to_string()))?;
    // As kubectl reads it: `defaultMode: 0400` is octal.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let parsed: Vec<Value> = serde_saphyr::from_multiple_with_options(&text, options)
        .map_err(|e| Error::Input(format!("{name}: not valid YAML: {e}")))?;
    let mut all = Vec::new();
    let several = parsed.iter().filter(|d| !d.is_null()).count() > 1;
    for (i, document) in parsed.into_iter().enumerate() {
        if document.is_null() {
            continue;
        }
        let place = match several {
            true => format!("{name}, document {}", i + 1),
            false => name.to_string(),
        };
        if !document.is_object() {
            return Err(Error::Input(format!(
                "{place}: expected an object with apiVersion, kind and metadata"
            )));
        }
        let list = document["kind"].as_str().is_some_and(|k| k == "List");
        let items = match document.get("items").and_then(Value::as_array) {
            Some(items) if list => items.clone(),
            _ => vec![document],
        };
        for object in items {
            let text = |pointer: &str| {
                object
                    .pointer(pointer)
                    .and_then(Value::as_str)
                    .filter(|s| !s.is_empty())
            };
            for pointer in ["/apiVersion", "/kind", "/metadata/name"] {
                if text(pointer).is_none() {
                    return Err(Error::Input(format!(
                        "{place}: {} is missing",
                        pointer[1..].replace('/', ".")
                    )));
                }
            }
            all.push(Document {
                object,
                place: place.clone(),
            });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scalars_are_what_kubectl_takes_them_for() {
        let cases = [
            ("0400", json!(256)),
            ("0o400", json!(256)),
            ("400", json!(400)),
            ("0", json!(0)),
            ("0.5", json!(0.5)),
            ("yes", json!(true)),
            ("\"0400\"", json!("0400")),
            ("08:00", json!("08:00")),
            ("~", json!(null)),
        ];
        let dir = std::env::temp_dir().join(format!("knarr-plan-{}", std::process::id()));
        for (scalar, expected) in cases {
            let text = format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\nvalue: {scalar}\n"
            );
            std::fs::write(&dir, text).unwrap();
            let found = documents(&dir).unwrap();
            assert_eq!(found[0].object["value"], expected, "{scalar}");
        }
        std::fs::remove_file(&dir).unwrap();
    }
}
