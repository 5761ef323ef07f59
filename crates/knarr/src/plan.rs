//! What `up` and `down` were pointed at: a compose file or Kubernetes manifests, read and checked, nothing touched.

use crate::{
    error::{Error, io},
    project::ProjectArguments,
};
use knarr_compose::Project;
use serde_json::Value;
use std::path::{Path, PathBuf};

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

pub fn read(path: &Path, asked: &ProjectArguments) -> Result<Source, Error> {
    let compose = |folder: &Path, file: Option<PathBuf>| {
        let mut options = asked.options(folder.to_path_buf())?;
        options.files.extend(file);
        Ok(Source::Compose(Box::new(knarr_compose::load(&options)?)))
    };
    if !asked.files.is_empty() {
        return compose(Path::new("."), None);
    }
    let meta =
        std::fs::metadata(path).map_err(|e| Error::Input(format!("{}: {e}", path.display())))?;
    if meta.is_dir() {
        if has_compose(path) {
            return compose(path, None);
        }
        let documents = manifests(path)?;
        let elsewhere = std::env::var_os("COMPOSE_FILE").is_some()
            || path
                .canonicalize()
                .is_ok_and(|p| p.ancestors().any(has_compose));
        if documents.is_empty() && elsewhere {
            return compose(path, None);
        }
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
        let file = std::path::absolute(path).unwrap_or(path.to_path_buf());
        return compose(Path::new("."), Some(file));
    }
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
        .to_path_buf();
    Ok(Source::Manifests {
        folder,
        documents: documents(path, None)?,
    })
}

fn has_compose(folder: &Path) -> bool {
    let mut names = knarr_compose::FILE_NAMES.iter();
    names.any(|n| folder.join(n).is_file())
}

/// The names that a kustomization may have.
const KUSTOMIZATIONS: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
/// How deep kustomizations may name others.
const KUSTOMIZATIONS_DEEP: usize = 16;

fn manifests(folder: &Path) -> Result<Vec<Document>, Error> {
    if let Some(file) = kustomization(folder) {
        return kustomized(&file, 0);
    }
    if folder.join("Chart.yaml").is_file() {
        let folder = folder.display();
        return Err(Error::Input(format!(
            "{folder} is a Helm chart: `helm template {folder} > all.yaml`, then `knarr up all.yaml`; or `helm install` with `knarr kubeconfig`"
        )));
    }
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
    let (mut all, mut others) = (Vec::new(), Vec::new());
    for file in files {
        all.extend(documents(&file, Some(&mut others))?);
    }
    // Where nothing is Kubernetes', the folder is none of manifests.
    if !all.is_empty() {
        for place in others {
            eprintln!("warning: {place}: no Kubernetes object, left out");
        }
    }
    Ok(all)
}

fn kustomization(folder: &Path) -> Option<PathBuf> {
    let mut files = KUSTOMIZATIONS.iter().map(|n| folder.join(n));
    files.find(|f| f.is_file())
}

/// What a kustomization names that does no more than name files and folders; one that changes them is refused.
fn kustomized(file: &Path, depth: usize) -> Result<Vec<Document>, Error> {
    let name = file.display();
    let folder = file.parent().unwrap_or(Path::new("."));
    let refuse = |why: String| {
        let folder = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        Err(Error::Input(format!(
            "{name}: {why}: `kubectl kustomize {} > all.yaml`, then `knarr up all.yaml`",
            folder.display()
        )))
    };
    let text = std::fs::read_to_string(file).map_err(io(name.to_string()))?;
    let read: Value = serde_saphyr::from_str(&knarr_compose::forgiving(&text))
        .map_err(|e| Error::Input(format!("{name}: not valid YAML: {e}")))?;
    let mut keys = read.as_object().into_iter().flatten();
    const PLAIN: [&str; 4] = ["apiVersion", "kind", "metadata", "resources"];
    if let Some((key, _)) = keys.find(|(k, v)| !PLAIN.contains(&k.as_str()) && !v.is_null()) {
        return refuse(format!("knarr knows no `{key}` of kustomizations"));
    }
    if depth == KUSTOMIZATIONS_DEEP {
        return refuse("kustomizations name each other too deeply".into());
    }
    let mut all = Vec::new();
    for resource in read["resources"].as_array().into_iter().flatten() {
        let resource = resource.as_str().unwrap_or_default();
        let path = folder.join(resource);
        if path.is_file() {
            all.extend(documents(&path, None)?);
        } else if let Some(inner) = kustomization(&path) {
            all.extend(kustomized(&inner, depth + 1)?);
        } else {
            return refuse(format!("{resource:?} is no file and no kustomization here"));
        }
        if all.len() > MANIFESTS_MAX {
            return refuse(format!("more than {MANIFESTS_MAX} objects"));
        }
    }
    Ok(all)
}

/// The objects of one file; each must say what it is. `others`: the file was not named, it stands in a folder, where other
/// programs' files may be too (`package.json`, Helm's `values.yaml`): those are left out, and their places go there.
fn documents(file: &Path, mut others: Option<&mut Vec<String>>) -> Result<Vec<Document>, Error> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(io(name.to_string()))?;
    // As kubectl reads it: `defaultMode: 0400` is octal.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let parsed: Vec<Value> =
        serde_saphyr::from_multiple_with_options(&knarr_compose::forgiving(&text), options)
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
        if let Some(others) = &mut others
            && document["apiVersion"].is_null()
            && document["kind"].is_null()
        {
            others.push(place);
            continue;
        }
        if document["kind"] == "Kustomization" && several {
            return Err(Error::Input(format!(
                "{place}: a kustomization stands in a file of its own, kustomization.yaml"
            )));
        }
        if document["kind"] == "Kustomization" {
            return kustomized(file, 0);
        }
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
    fn folders_are_read_as_what_they_are() {
        let object =
            |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
        let (a, b) = (object("a"), object("b"));
        let names = "resources: [b.yaml, sub]";
        // (files, names of the objects or a part of the error)
        type Case<'a> = (&'a [(&'a str, &'a str)], Result<&'a [&'a str], &'a str>);
        let cases: [Case; 7] = [
            (&[("b.yaml", &b), ("a.yml", &a)], Ok(&["a", "b"])),
            (
                &[
                    ("package.json", "{}"),
                    ("values.yaml", "a: 1"),
                    ("a.yaml", &a),
                ],
                Ok(&["a"]),
            ),
            (&[("package.json", "{\"a\": 1}")], Ok(&[])),
            (
                &[("a.yaml", "apiVersion: v1\nmetadata: {name: a}")],
                Err("a.yaml: kind is missing"),
            ),
            (
                &[
                    ("kustomization.yaml", names),
                    ("b.yaml", &b),
                    ("other.yaml", "]"),
                    (
                        "sub/kustomization.yml",
                        "kind: Kustomization\nresources: [../a.yaml]",
                    ),
                    ("a.yaml", &a),
                ],
                Ok(&["b", "a"]),
            ),
            (
                &[
                    ("kustomization.yaml", "namePrefix: x-\nresources: [a.yaml]"),
                    ("a.yaml", &a),
                ],
                Err(
                    "kustomization.yaml: knarr knows no `namePrefix` of kustomizations: `kubectl kustomize",
                ),
            ),
            (
                &[("Chart.yaml", "apiVersion: v2\nname: a")],
                Err("is a Helm chart: `helm template"),
            ),
        ];
        for (i, (files, expected)) in cases.into_iter().enumerate() {
            let dir = std::env::temp_dir().join(format!("knarr-plan-{}-{i}", std::process::id()));
            for (name, text) in files {
                let path = dir.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            let found = manifests(&dir).map_err(|e| e.to_string());
            match expected {
                Ok(names) => {
                    let found = found.unwrap();
                    let found: Vec<&str> = found
                        .iter()
                        .map(|d| d.object["metadata"]["name"].as_str().unwrap())
                        .collect();
                    assert_eq!(found, names, "case {i}");
                }
                Err(part) => {
                    let error = found.err().unwrap();
                    assert!(error.contains(part), "case {i}: {error}");
                }
            }
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }

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
            ("'{\n}'", json!("{ }")),
            ("~", json!(null)),
        ];
        let dir = std::env::temp_dir().join(format!("knarr-plan-{}", std::process::id()));
        for (scalar, expected) in cases {
            let text = format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\nvalue: {scalar}\n"
            );
            std::fs::write(&dir, text).unwrap();
            let found = documents(&dir, None).unwrap();
            assert_eq!(found[0].object["value"], expected, "{scalar}");
        }
        std::fs::remove_file(&dir).unwrap();
    }
}
