//! Image archives: OCI image layout (image-spec, image-layout.md) and what `docker save` writes.

use crate::{
    Error, Image, ImageStore, io,
    layer::{self, Hashing},
    manifest::{
        CONFIG, ConfigFile, Descriptor, INDEX, Index, LAYER_TAR, MANIFEST, Manifest, Platform,
        architecture,
    },
    reference::is_digest,
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// How deep an index may nest in an index.
const INDEX_DEPTH_MAX: u32 = 4;

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
    let temp;
    let root = if path.is_dir() {
        path
    } else {
        temp = store.temp()?;
        let mut archive = tar::Archive::new(layer::open(path)?);
        let entries = archive.entries().map_err(io(path))?;
        for entry in entries {
            let mut entry = entry.map_err(|e| bad(path, &e.to_string()))?;
            entry.unpack_in(temp.path()).map_err(io(path))?;
        }
        temp.path()
    };
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
        store.unpack(&digest)?;
        store.tag(&name, &digest)?;
        images.extend(store.resolve(&name)?);
    }
    Ok(images)
}

fn bad(path: &Path, why: &str) -> Error {
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
        if self.store.blob(&d.digest).exists() {
            return Ok(());
        }
        let path = self.file(&self.blob_name(&d.digest)?)?;
        let file = fs::File::open(&path).map_err(io(&path))?;
        let (_, size) = self.store.put_stream(file, Some(&d.digest))?;
        if size != d.size {
            let why = format!("it has {size} bytes, the manifest says {}", d.size);
            return Err(Error::Corrupt {
                digest: d.digest.clone(),
                why,
            });
        }
        Ok(())
    }

    fn oci(&self, name: Option<&str>) -> Result<Vec<(String, String)>, Error> {
        let index: Index = self.json("index.json")?;
        let mut found = Vec::new();
        for entry in &index.manifests {
            let manifest = self.choose(entry, 0)?;
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
            self.import(&manifest)?;
            let (m, c): (Manifest, ()) = (self.json(&self.blob_name(&manifest.digest)?)?, ());
            let () = c;
            self.import(&m.config)?;
            for l in &m.layers {
                self.import(l)?;
            }
            found.push((tagged.to_string(), manifest.digest));
        }
        Ok(found)
    }

    /// The manifest for this machine below a descriptor that may be an index.
    fn choose(&self, d: &Descriptor, depth: u32) -> Result<Descriptor, Error> {
        if !d.media_type.contains("index") && !d.media_type.contains("manifest.list") {
            return Ok(d.clone());
        }
        if depth >= INDEX_DEPTH_MAX {
            return Err(bad(self.archive, "indexes nest too deep"));
        }
        let index: Index = self.json(&self.blob_name(&d.digest)?)?;
        let here = Platform {
            architecture: architecture().into(),
            os: "linux".into(),
        };
        let fits = |m: &&Descriptor| m.platform.as_ref().is_none_or(|p| *p == here);
        match index.manifests.iter().find(fits) {
            Some(m) => self.choose(m, depth + 1),
            None => Err(bad(
                self.archive,
                &format!("it has no image for linux/{}", here.architecture),
            )),
        }
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
            let digest = put_manifest(self.store, config, layers)?;
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
) -> Result<String, Error> {
    let manifest = Manifest {
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

pub(crate) fn save(store: &ImageStore, image: &Image, to: &Path) -> Result<(), Error> {
    let (manifest, _) = store.read_manifest(&image.digest)?;
    let json_error = |e: serde_json::Error| bad(to, &e.to_string());
    let dir = to
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let temp = tempfile::NamedTempFile::new_in(dir).map_err(io(to))?;
    let mut tar = tar::Builder::new(std::io::BufWriter::new(temp));
    let mut add = |name: &str, size: u64, data: &mut dyn std::io::Read| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, data).map_err(io(to))
    };
    add(
        "oci-layout",
        30,
        &mut &br#"{"imageLayoutVersion":"1.0.0"}"#[..],
    )?;
    let mut entry = Descriptor {
        media_type: MANIFEST.into(),
        digest: image.digest.clone(),
        size: store.read_blob(&image.digest)?.len() as u64,
        platform: Some(Platform {
            architecture: architecture().into(),
            os: "linux".into(),
        }),
        annotations: BTreeMap::from([(CONTAINERD_NAME.to_string(), image.name.clone())]),
    };
    let tag = image.name.rsplit_once(':').map_or("latest", |(_, t)| t);
    entry.annotations.insert(REF_NAME.into(), tag.to_string());
    let index = Index {
        schema_version: 2,
        media_type: Some(INDEX.into()),
        manifests: vec![entry],
    };
    let index = serde_json::to_vec(&index).map_err(json_error)?;
    add("index.json", index.len() as u64, &mut &index[..])?;
    let mut seen = std::collections::HashSet::new();
    let rest = [&image.digest, &manifest.config.digest]
        .into_iter()
        .chain(manifest.layers.iter().map(|l| &l.digest));
    for digest in rest.filter(|d| seen.insert(d.to_string())) {
        let path = store.blob(digest);
        let file = fs::File::open(&path).map_err(io(&path))?;
        let size = file.metadata().map_err(io(&path))?.len();
        add(
            &format!("blobs/sha256/{}", &digest["sha256:".len()..]),
            size,
            &mut Hashing::new(file),
        )?;
    }
    let temp = tar
        .into_inner()
        .map_err(io(to))?
        .into_inner()
        .map_err(|e| io(to)(e.into_error()))?;
    temp.as_file().sync_all().map_err(io(to))?;
    temp.persist(to).map_err(|e| io(to)(e.error))?;
    Ok(())
}
