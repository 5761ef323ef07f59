//! Image archives: OCI image layout (image-spec, image-layout.md) and what `docker save` writes.

use crate::{
    Error, Image, ImageStore,
    collect::MANIFEST_BYTES_MAX,
    io, layer,
    manifest::{
        CONFIG, ConfigFile, Descriptor, INDEX_DEPTH_MAX, Index, LAYER_TAR, MANIFEST, Manifest,
        Platform,
    },
    reference::is_digest,
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
};

pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(crate) fn load(
    store: &ImageStore,
    path: &Path,
    name: Option<&str>,
) -> Result<Vec<Image>, Error> {
    let (_temp, root) = crate::builds::unpacked(store, path)?;
    let root = root.as_path();
    let layout = Layout {
        store,
        root,
        archive: path,
    };
    let found = if root.join("oci-layout").exists() || root.join("index.json").exists() {
        layout.oci(name)?
    } else if root.join("manifest.json").exists() {
        layout.docker(name)?
    } else {
        return Err(bad(path, "it has neither index.json nor manifest.json"));
    };
    let mut images = Vec::new();
    for (name, digest) in found {
        // an image for another machine is kept as it came
        if store.choose(&digest).is_ok() {
            store.unpack(&digest)?;
        }
        store.tag(&name, &digest)?;
        images.extend(store.resolve(&name)?);
    }
    Ok(images)
}

/// Imports one image of a layout; gives its digest.
pub(crate) fn one_of(
    store: &ImageStore,
    path: &Path,
    wanted: Option<&str>,
) -> Result<String, Error> {
    let (_temp, root) = crate::builds::unpacked(store, path)?;
    let layout = Layout {
        store,
        root: &root,
        archive: path,
    };
    let index: Index = layout.json("index.json")?;
    let named = |d: &Descriptor, name: &str| {
        let is = |key: &str, fits: &dyn Fn(&str) -> bool| {
            d.annotations.get(key).is_some_and(|value| fits(value))
        };
        d.digest == name
            || is(REF_NAME, &|v| v == name || v.ends_with(&format!(":{name}")))
            || is(CONTAINERD_NAME, &|v| v.ends_with(&format!(":{name}")))
    };
    let found = match (wanted, index.manifests.as_slice()) {
        (Some(name), all) => all.iter().find(|d| named(d, name)),
        (None, [only]) => Some(only),
        (None, all) => all.iter().find(|d| named(d, "latest")),
    };
    let found = found.ok_or_else(|| {
        let name = wanted.unwrap_or("latest");
        bad(path, &format!("it holds no image {name:?}"))
    })?;
    layout.take(found, 0)?;
    Ok(found.digest.clone())
}

pub(crate) fn bad(path: &Path, why: &str) -> Error {
    Error::Archive {
        path: path.to_path_buf(),
        why: why.to_string(),
    }
}

struct Layout<'a> {
    store: &'a ImageStore,
    root: &'a Path,
    archive: &'a Path,
}

impl Layout<'_> {
    /// A file of the archive; links and names that leave it are refused.
    fn file(&self, name: &str) -> Result<PathBuf, Error> {
        let relative = Path::new(name);
        if !relative
            .components()
            .all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
        {
            return Err(bad(
                self.archive,
                &format!("it names {name:?}, which leaves the archive"),
            ));
        }
        let path = self.root.join(relative);
        let real = path
            .canonicalize()
            .map_err(|e| bad(self.archive, &format!("{name}: {e}")))?;
        let root = self.root.canonicalize().map_err(io(self.root))?;
        match real.starts_with(root) {
            true => Ok(real),
            false => Err(bad(
                self.archive,
                &format!("{name} is a link out of the archive"),
            )),
        }
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        let path = self.file(name)?;
        let bytes = fs::read(&path).map_err(io(&path))?;
        serde_json::from_slice(&bytes).map_err(|e| bad(self.archive, &format!("{name}: {e}")))
    }

    fn blob_name(&self, digest: &str) -> Result<String, Error> {
        match is_digest(digest) {
            true => Ok(format!("blobs/sha256/{}", &digest["sha256:".len()..])),
            false => Err(bad(
                self.archive,
                &format!("digest {digest:?} is not sha256"),
            )),
        }
    }

    fn import(&self, d: &Descriptor) -> Result<(), Error> {
        let name = self.blob_name(&d.digest)?;
        if let Some(size) = self.store.blob_size(&d.digest) {
            return self.right_size(d, size);
        }
        let path = self.file(&name)?;
        let file = fs::File::open(&path).map_err(io(&path))?;
        let (_, size) = self.store.put_stream(file, Some(&d.digest))?;
        self.right_size(d, size)
    }

    fn right_size(&self, d: &Descriptor, size: u64) -> Result<(), Error> {
        match size == d.size {
            true => Ok(()),
            false => Err(Error::Corrupt {
                digest: d.digest.clone(),
                why: format!("it has {size} bytes, the manifest says {}", d.size),
            }),
        }
    }

    fn oci(&self, name: Option<&str>) -> Result<Vec<(String, String)>, Error> {
        let index: Index = self.json("index.json")?;
        let mut found = Vec::new();
        for entry in &index.manifests {
            let annotation = |key: &str| entry.annotations.get(key).map(String::as_str);
            let tagged = match (name, annotation(CONTAINERD_NAME), annotation(REF_NAME)) {
                (Some(n), ..) if index.manifests.len() == 1 => n,
                (_, Some(n), _) | (_, None, Some(n)) => n,
                _ => {
                    return Err(bad(
                        self.archive,
                        "the image in it has no name: give one with --name",
                    ));
                }
            };
            if self.take(entry, 0)? == 0 {
                let here = Platform::here().architecture;
                let why = format!(
                    "it has none of the images that {tagged} is made of, e.g. for linux/{here}"
                );
                return Err(bad(self.archive, &why));
            }
            found.push((tagged.to_string(), entry.digest.clone()));
        }
        Ok(found)
    }

    /// Imports a manifest with what it leads to, or an index with those of its images that are in the archive; gives how many
    /// images that were.
    fn take(&self, d: &Descriptor, depth: u32) -> Result<usize, Error> {
        if depth >= INDEX_DEPTH_MAX {
            return Err(bad(self.archive, "indexes nest too deep"));
        }
        let name = self.blob_name(&d.digest)?;
        if depth > 0 && !self.root.join(&name).exists() {
            return Ok(0);
        }
        let size = fs::metadata(self.file(&name)?).map_or(0, |m| m.len());
        if size > MANIFEST_BYTES_MAX {
            return Err(bad(
                self.archive,
                &format!("{name} is too large for a manifest"),
            ));
        }
        if let Ok(index) = self.json::<Index>(&name) {
            let mut count = 0;
            for one in &index.manifests {
                count += self.take(one, depth + 1)?;
            }
            self.import(d)?;
            return Ok(count);
        }
        let manifest: Manifest = self.json(&name)?;
        for one in manifest.layers.iter().chain([&manifest.config]) {
            self.import(one)?;
        }
        self.import(d)?;
        Ok(1)
    }

    fn docker(&self, name: Option<&str>) -> Result<Vec<(String, String)>, Error> {
        let manifests: Vec<DockerManifest> = self.json("manifest.json")?;
        let single = manifests.len() == 1;
        let mut found = Vec::new();
        for docker in manifests {
            let path = self.file(&docker.config)?;
            let bytes = fs::read(&path).map_err(io(&path))?;
            let config: ConfigFile = serde_json::from_slice(&bytes)
                .map_err(|e| bad(self.archive, &format!("{}: {e}", docker.config)))?;
            if config.rootfs.diff_ids.len() != docker.layers.len() {
                return Err(bad(self.archive, "layers and diff_ids differ in number"));
            }
            let descriptor = |media_type: &str, digest: String, size: u64| Descriptor {
                media_type: media_type.into(),
                digest,
                size,
                platform: None,
                annotations: BTreeMap::new(),
            };
            let mut layers = Vec::new();
            for (layer, diff_id) in docker.layers.iter().zip(&config.rootfs.diff_ids) {
                let (digest, size) = self
                    .store
                    .put_stream(layer::open(&self.file(layer)?)?, Some(diff_id))?;
                layers.push(descriptor(LAYER_TAR, digest, size));
            }
            let digest = self.store.put_bytes(&bytes)?;
            let config = descriptor(CONFIG, digest, bytes.len() as u64);
            let digest = put_manifest(self.store, config, layers, &BTreeMap::new())?;
            let tags = docker.repo_tags.unwrap_or_default();
            match (name, tags.is_empty()) {
                (Some(n), _) if single => found.push((n.to_string(), digest)),
                (_, true) => {
                    return Err(bad(
                        self.archive,
                        "the image in it has no name: give one with --name",
                    ));
                }
                _ => found.extend(tags.into_iter().map(|t| (t, digest.clone()))),
            }
        }
        Ok(found)
    }
}

/// Stores a manifest and returns its digest.
pub(crate) fn put_manifest(
    store: &ImageStore,
    config: Descriptor,
    layers: Vec<Descriptor>,
    annotations: &BTreeMap<String, String>,
) -> Result<String, Error> {
    let manifest = Manifest {
        annotations: annotations.clone(),
        schema_version: 2,
        media_type: Some(MANIFEST.into()),
        config,
        layers,
    };
    let bytes = serde_json::to_vec(&manifest).map_err(|e| Error::Corrupt {
        digest: "manifest".into(),
        why: e.to_string(),
    })?;
    store.put_bytes(&bytes)
}
