//! The store's folder.
//!
//! ```text
//! <dir>/blobs/sha256/<hex>      manifests, configs, layers as they came
//! <dir>/layers/<diff id hex>/   layers unpacked, one folder each, shared by all images
//! <dir>/names/<hex of name>     {"name": …, "digest": …}, one file a name, replaced by rename
//! <dir>/pack/<key>              layer digest of a packed file set (see pack.rs)
//! <dir>/tmp/                    half-written things; emptied when nobody holds the lock
//! <dir>/lock                    flock: shared to add, exclusive to remove
//! ```

use crate::{
    Error, Image, PackSpec, archive, io, layer,
    manifest::{ConfigFile, Manifest},
    normalize, pack,
    reference::is_digest,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::HashSet,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

/// Shared handle on one directory; several processes may use it at once (file locks, atomic renames).
#[derive(Clone)]
pub struct ImageStore {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct NameFile {
    name: String,
    digest: String,
}

pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn hex_part(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

impl ImageStore {
    /// Opens or makes the store.
    pub fn open(dir: &Path) -> Result<ImageStore, Error> {
        for sub in ["blobs/sha256", "layers", "names", "pack", "tmp"] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(io(path))?;
        }
        let store = ImageStore {
            dir: dir.to_path_buf(),
        };
        let file = store.lock_file()?;
        if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
            for left in fs::read_dir(dir.join("tmp")).map_err(io(dir))?.flatten() {
                let _ = fs::remove_dir_all(left.path()).or_else(|_| fs::remove_file(left.path()));
            }
        }
        Ok(store)
    }

    /// The folder whose change tells that a name was added, moved or removed (for inotify).
    pub fn names_dir(&self) -> PathBuf {
        self.dir.join("names")
    }

    fn lock_file(&self) -> Result<fs::File, Error> {
        let path = self.dir.join("lock");
        fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io(path))
    }

    /// Held while something is added (shared) or removed (exclusive).
    pub(crate) fn lock(&self, exclusive: bool) -> Result<fs::File, Error> {
        use rustix::fs::FlockOperation::{LockExclusive, LockShared};
        let file = self.lock_file()?;
        rustix::fs::flock(&file, if exclusive { LockExclusive } else { LockShared })
            .map_err(|e| io(&self.dir)(e.into()))?;
        Ok(file)
    }

    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs/sha256").join(hex_part(digest))
    }

    fn layer(&self, diff_id: &str) -> PathBuf {
        self.dir.join("layers").join(hex_part(diff_id))
    }

    pub(crate) fn pack_key(&self, key: &str) -> PathBuf {
        self.dir.join("pack").join(key)
    }

    pub(crate) fn temp(&self) -> Result<tempfile::TempDir, Error> {
        let path = self.dir.join("tmp");
        tempfile::tempdir_in(&path).map_err(io(path))
    }

    /// Writes `bytes` durably at `path` by rename.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let mut file =
            tempfile::NamedTempFile::new_in(self.dir.join("tmp")).map_err(io(&self.dir))?;
        file.write_all(bytes).map_err(io(path))?;
        file.as_file().sync_all().map_err(io(path))?;
        file.persist(path).map_err(|e| io(path)(e.error))?;
        Ok(())
    }

    pub(crate) fn put_bytes(&self, bytes: &[u8]) -> Result<String, Error> {
        let digest = digest_of(bytes);
        let path = self.blob(&digest);
        if !path.exists() {
            self.replace(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Copies a stream into a blob; fails when `want` is given and is not its digest.
    pub(crate) fn put_stream(
        &self,
        from: impl Read,
        want: Option<&str>,
    ) -> Result<(String, u64), Error> {
        let mut file =
            tempfile::NamedTempFile::new_in(self.dir.join("tmp")).map_err(io(&self.dir))?;
        let mut reader = layer::Hashing::new(from);
        std::io::copy(&mut reader, &mut file).map_err(io(&self.dir))?;
        let size = reader.count;
        let digest = reader.digest();
        if let Some(want) = want
            && want != digest
        {
            return Err(Error::Corrupt {
                digest: want.to_string(),
                why: format!("its content is {digest}"),
            });
        }
        file.as_file().sync_all().map_err(io(&self.dir))?;
        let path = self.blob(&digest);
        file.persist(&path).map_err(|e| io(&path)(e.error))?;
        Ok((digest, size))
    }

    pub(crate) fn read_blob(&self, digest: &str) -> Result<Vec<u8>, Error> {
        let path = self.blob(digest);
        fs::read(&path).map_err(io(path))
    }

    pub(crate) fn read_manifest(&self, digest: &str) -> Result<(Manifest, ConfigFile), Error> {
        let corrupt = |e: serde_json::Error| Error::Corrupt {
            digest: digest.to_string(),
            why: e.to_string(),
        };
        let manifest: Manifest =
            serde_json::from_slice(&self.read_blob(digest)?).map_err(corrupt)?;
        let config: ConfigFile =
            serde_json::from_slice(&self.read_blob(&manifest.config.digest)?).map_err(corrupt)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(Error::Corrupt {
                digest: digest.into(),
                why: "layers and diff_ids differ in number".into(),
            });
        }
        Ok((manifest, config))
    }

    /// Makes sure that each layer of the manifest is unpacked.
    pub(crate) fn unpack(&self, digest: &str) -> Result<(), Error> {
        let (manifest, config) = self.read_manifest(digest)?;
        for (layer_blob, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            let target = self.layer(diff_id);
            if target.exists() {
                continue;
            }
            let temp = self.temp()?;
            let root = temp.path().join("root");
            fs::create_dir(&root).map_err(io(&root))?;
            let got = layer::unpack(&self.blob(&layer_blob.digest), &root)?;
            if got != *diff_id {
                return Err(Error::Corrupt {
                    digest: layer_blob.digest.clone(),
                    why: format!("it unpacks to {got}, the config says {diff_id}"),
                });
            }
            match fs::rename(&root, &target) {
                Ok(()) => {}
                Err(_) if target.exists() => {} // another process unpacked the same layer first
                Err(e) => return Err(io(target)(e)),
            }
        }
        Ok(())
    }

    fn name_path(&self, name: &str) -> PathBuf {
        self.names_dir().join(hex::encode(Sha256::digest(name)))
    }

    /// Points `name` (normalised here) at a manifest whose blobs are all present.
    pub(crate) fn tag(&self, name: &str, digest: &str) -> Result<(), Error> {
        let name = normalize(name)?;
        let file = NameFile {
            name: name.clone(),
            digest: digest.to_string(),
        };
        let bytes = serde_json::to_vec(&file).map_err(|e| Error::Corrupt {
            digest: digest.to_string(),
            why: e.to_string(),
        })?;
        self.replace(&self.name_path(&name), &bytes)
    }

    fn names(&self) -> Result<Vec<NameFile>, Error> {
        let dir = self.names_dir();
        let mut names: Vec<NameFile> = fs::read_dir(&dir)
            .map_err(io(&dir))?
            .flatten()
            .filter_map(|e| serde_json::from_slice(&fs::read(e.path()).ok()?).ok())
            .collect();
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    fn image(&self, name: &str, digest: &str) -> Result<Image, Error> {
        let (manifest, config) = self.read_manifest(digest)?;
        let layers: Vec<PathBuf> = config
            .rootfs
            .diff_ids
            .iter()
            .rev()
            .map(|d| self.layer(d))
            .collect();
        if !layers.iter().all(|l| l.exists()) {
            self.unpack(digest)?;
        }
        Ok(Image {
            name: name.to_string(),
            digest: digest.to_string(),
            id: manifest.config.digest,
            config: config.config.unwrap_or_default().into(),
            layers,
            size_bytes: manifest.layers.iter().map(|l| l.size).sum(),
            created: config.created,
        })
    }

    /// Finds an image by name (`redis:7` → `docker.io/library/redis:7`), manifest digest, or id (config digest,
    /// also a prefix of 12 or more hex digits). Blocking; quick unless a layer must be unpacked first.
    pub fn resolve(&self, name: &str) -> Result<Option<Image>, Error> {
        let bare = hex_part(name);
        if is_digest(name) || (bare.len() >= 12 && bare.bytes().all(|b| b.is_ascii_hexdigit())) {
            for known in self.names()? {
                let (manifest, _) = self.read_manifest(&known.digest)?;
                if hex_part(&known.digest).starts_with(bare)
                    || hex_part(&manifest.config.digest).starts_with(bare)
                {
                    return self.image(&known.name, &known.digest).map(Some);
                }
            }
            if is_digest(name) {
                return Ok(None);
            }
        }
        let full = normalize(name)?;
        // `name:tag@digest`: the digest decides.
        if let Some((_, digest)) = full.split_once('@') {
            return match self.blob(digest).exists() {
                true => self.image(&full, digest).map(Some),
                false => Ok(None),
            };
        }
        let path = self.name_path(&full);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(path)(e)),
        };
        let known: NameFile = serde_json::from_slice(&bytes).map_err(|e| Error::Corrupt {
            digest: full.clone(),
            why: e.to_string(),
        })?;
        self.image(&known.name, &known.digest).map(Some)
    }

    /// All named images, by name.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        self.names()?
            .iter()
            .map(|n| self.image(&n.name, &n.digest))
            .collect()
    }

    /// Untags; drops blobs and layers that no name refers to any more. The caller makes sure that no container uses it.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        self.remove_keeping(name, &[])
    }

    /// As [`ImageStore::remove`], but leaves the layers in `used`: a container may run on one whose name was given to
    /// a newer image since.
    pub fn remove_keeping(&self, name: &str, used: &[PathBuf]) -> Result<(), Error> {
        let _lock = self.lock(true)?;
        let image = self
            .resolve(name)?
            .ok_or_else(|| Error::NotFound(name.to_string()))?;
        let path = self.name_path(&image.name);
        fs::remove_file(&path).map_err(io(path))?;
        let (mut blobs, mut layers) = (HashSet::new(), HashSet::new());
        for known in self.names()? {
            let (manifest, config) = self.read_manifest(&known.digest)?;
            blobs.insert(hex_part(&known.digest).to_string());
            blobs.insert(hex_part(&manifest.config.digest).to_string());
            blobs.extend(
                manifest
                    .layers
                    .iter()
                    .map(|l| hex_part(&l.digest).to_string()),
            );
            layers.extend(
                config
                    .rootfs
                    .diff_ids
                    .iter()
                    .map(|d| hex_part(d).to_string()),
            );
        }
        let used = used.iter().filter_map(|layer| layer.file_name()?.to_str());
        layers.extend(used.map(str::to_string));
        for (sub, keep) in [("blobs/sha256", &blobs), ("layers", &layers)] {
            let dir = self.dir.join(sub);
            for entry in fs::read_dir(&dir).map_err(io(&dir))?.flatten() {
                if !entry.file_name().to_str().is_some_and(|n| keep.contains(n)) {
                    let path = entry.path();
                    let gone = if path.is_dir() {
                        fs::remove_dir_all(&path)
                    } else {
                        fs::remove_file(&path)
                    };
                    gone.map_err(io(path))?;
                }
            }
        }
        Ok(())
    }

    /// Loads an OCI layout archive or folder, or a `docker save` archive (tar, gzip, zstd). `name` tags a single image.
    pub fn load(&self, path: &Path, name: Option<&str>) -> Result<Vec<Image>, Error> {
        let _lock = self.lock(false)?;
        archive::load(self, path, name)
    }

    /// Minimal reproducible image: executables, their ELF closure, CA certificates, time zones.
    pub fn pack(&self, spec: &PackSpec) -> Result<Image, Error> {
        let _lock = self.lock(false)?;
        let digest = pack::pack(self, spec)?;
        self.unpack(&digest)?;
        self.tag(&spec.name, &digest)?;
        self.image(&normalize(&spec.name)?, &digest)
    }

    /// Writes an OCI layout archive.
    pub fn save(&self, name: &str, to: &Path) -> Result<(), Error> {
        let image = self
            .resolve(name)?
            .ok_or_else(|| Error::NotFound(name.to_string()))?;
        archive::save(self, &image, to)
    }
}
