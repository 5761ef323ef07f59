//! The store's folder.
//!
//! ```text
//! <dir>/blobs/sha256/<hex>      manifests, configs, layers as they came (plain tars are written anew when asked for)
//! <dir>/layers/<diff id hex>/   layers unpacked, one folder each, shared by all images
//! <dir>/recipes/<diff id hex>   how to write a layer's tar from its folder (see recipe.rs)
//! <dir>/files/<2>/<62 hex>      the files of the layers' folders, stored once (see files.rs)
//! <dir>/leases/, <dir>/keep/    what is in use or kept without a name (see lease.rs)
//! <dir>/names/<hex of name>     {"name": …, "digest": …}, one file a name, replaced by rename
//! <dir>/pack/<key>              layer digest of a packed file set (see pack.rs)
//! <dir>/tmp/                    half-written things; emptied when nobody holds the lock
//! <dir>/tmp.lock                flock: shared by leases, exclusive to empty tmp
//! <dir>/lock                    flock: shared to add, exclusive to remove
//! ```

use crate::{
    Error, Image, PackSpec, archive, io, layer,
    lease::Lease,
    manifest::{ConfigFile, INDEX_DEPTH_MAX, Index, Manifest, Platform},
    normalize, pack,
    reference::is_digest,
    unpack,
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
    pub(crate) dir: PathBuf,
    pub(crate) lease: Option<std::sync::Arc<Lease>>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct NameFile {
    pub name: String,
    pub digest: String,
    /// A registry gave it under this name.
    #[serde(default)]
    pub pulled: bool,
}

pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

pub(crate) fn hex_part(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

impl ImageStore {
    /// Opens or makes the store.
    pub fn open(dir: &Path) -> Result<ImageStore, Error> {
        for sub in [
            "blobs/sha256",
            "layers",
            "recipes",
            "files",
            "leases",
            "keep",
            "names",
            "pack",
            "tmp",
        ] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(io(path))?;
        }
        let store = ImageStore {
            dir: dir.to_path_buf(),
            lease: None,
        };
        use rustix::fs::{FlockOperation::NonBlockingLockExclusive, flock};
        let (file, tmp) = (store.lock_file()?, store.tmp_lock()?);
        let free = |file: &fs::File| flock(file, NonBlockingLockExclusive).is_ok();
        if free(&tmp) && free(&file) {
            for left in fs::read_dir(dir.join("tmp")).map_err(io(dir))?.flatten() {
                let _ = fs::remove_dir_all(left.path()).or_else(|_| fs::remove_file(left.path()));
            }
            store.check_after_boot()?;
        }
        Ok(store)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
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

    /// Held while something is added (shared) or removed (exclusive): what no name leads to yet is not taken for garbage.
    ///
    /// # Errors
    /// When the lock's file can't be opened.
    pub fn lock(&self, exclusive: bool) -> Result<fs::File, Error> {
        use rustix::fs::FlockOperation::{LockExclusive, LockShared};
        let file = self.lock_file()?;
        rustix::fs::flock(&file, if exclusive { LockExclusive } else { LockShared })
            .map_err(|e| io(&self.dir)(e.into()))?;
        Ok(file)
    }

    /// Where the blob of this digest is, or would be.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs/sha256").join(hex_part(digest))
    }

    pub(crate) fn recipe(&self, diff_id: &str) -> PathBuf {
        self.dir.join("recipes").join(hex_part(diff_id))
    }

    /// Where the layer of this diff id is unpacked, or would be.
    pub fn layer(&self, diff_id: &str) -> PathBuf {
        self.dir.join("layers").join(hex_part(diff_id))
    }

    pub(crate) fn pack_key(&self, key: &str) -> PathBuf {
        self.dir.join("pack").join(key)
    }

    /// A folder for half-written things, on the store's file system.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn temp(&self) -> Result<tempfile::TempDir, Error> {
        let path = self.dir.join("tmp");
        tempfile::tempdir_in(&path).map_err(io(path))
    }

    /// Writes what may be lost by a power cut: whole or not there, but nobody waits for the disk.
    pub(crate) fn note(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let mut file =
            tempfile::NamedTempFile::new_in(self.dir.join("tmp")).map_err(io(&self.dir))?;
        file.write_all(bytes).map_err(io(path))?;
        file.persist(path).map_err(|e| io(path)(e.error))?;
        Ok(())
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

    /// Writes a blob durably and gives its digest.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<String, Error> {
        let digest = digest_of(bytes);
        self.hold(&digest)?;
        let path = self.blob(&digest);
        if !path.exists() {
            self.replace(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Copies a stream into a blob, durably; gives its digest and its size in bytes.
    ///
    /// # Errors
    /// `Corrupt` when `want` is given and is not its digest: nothing is kept then.
    pub fn put_stream(&self, from: impl Read, want: Option<&str>) -> Result<(String, u64), Error> {
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
        self.hold(&digest)?;
        let path = self.blob(&digest);
        file.persist(&path).map_err(|e| io(&path)(e.error))?;
        Ok((digest, size))
    }

    /// A whole blob; for manifests and configs, which are small.
    ///
    /// # Errors
    /// When it isn't there.
    pub fn read_blob(&self, digest: &str) -> Result<Vec<u8>, Error> {
        let path = self.blob(digest);
        fs::read(&path).map_err(io(path))
    }

    /// The manifest for this machine that a digest stands for: itself, or of an index the first that fits and is here.
    pub(crate) fn choose(&self, digest: &str) -> Result<String, Error> {
        let here = Platform::here();
        let mut digest = digest.to_string();
        for _ in 0..INDEX_DEPTH_MAX {
            let bytes = self.read_blob(&digest)?;
            let Ok(index) = serde_json::from_slice::<Index>(&bytes) else {
                return Ok(digest);
            };
            let found = index.manifests.into_iter().find(|m| {
                m.platform.as_ref().is_none_or(|p| p.fits(&here))
                    && is_digest(&m.digest)
                    && self.blob(&m.digest).exists()
            });
            digest = match found {
                Some(found) => found.digest,
                None => {
                    return Err(Error::Corrupt {
                        digest,
                        why: format!("it has no image for linux/{}", here.architecture),
                    });
                }
            };
        }
        Err(Error::Corrupt {
            digest,
            why: "indexes nest too deep".into(),
        })
    }

    pub(crate) fn read_manifest(&self, digest: &str) -> Result<(Manifest, ConfigFile), Error> {
        let corrupt = |e: serde_json::Error| Error::Corrupt {
            digest: digest.to_string(),
            why: e.to_string(),
        };
        let digest = &self.choose(digest)?;
        let manifest: Manifest =
            serde_json::from_slice(&self.read_blob(digest)?).map_err(corrupt)?;
        if !is_digest(&manifest.config.digest) {
            return Err(Error::Corrupt {
                digest: digest.into(),
                why: "its config has no sha256 digest".into(),
            });
        }
        let config: ConfigFile =
            serde_json::from_slice(&self.read_blob(&manifest.config.digest)?).map_err(corrupt)?;
        let all = manifest.layers.iter().map(|l| &l.digest);
        let mut all = all.chain(&config.rootfs.diff_ids);
        // they become paths
        if let Some(odd) = all.find(|d| !is_digest(d)) {
            return Err(Error::Corrupt {
                digest: digest.into(),
                why: format!("{odd:?} in it is no sha256 digest"),
            });
        }
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
            self.unpack_layer(&layer_blob.digest, diff_id)?;
        }
        Ok(())
    }

    /// Unpacks one layer's blob, unless that was done before.
    pub(crate) fn unpack_layer(&self, digest: &str, diff_id: &str) -> Result<(), Error> {
        self.hold(diff_id)?;
        if self.layer(diff_id).exists() {
            return Ok(());
        }
        // while it is held nobody empties the folder of half-written things
        let tmp = self.tmp_lock()?;
        rustix::fs::flock(&tmp, rustix::fs::FlockOperation::LockShared)
            .map_err(|e| io(&self.dir)(e.into()))?;
        let temp = self.temp()?;
        let root = temp.path().join("root");
        fs::create_dir(&root).map_err(io(&root))?;
        let corrupt = |why: String| Error::Corrupt {
            digest: digest.into(),
            why,
        };
        let (recipe, scratch) = (temp.path().join("recipe"), temp.path().join("scratch"));
        let blob = match layer::open(&self.blob(digest)) {
            // another has unpacked it since we looked, and has dropped what the store can give without
            Err(_) if self.layer(diff_id).exists() => return Ok(()),
            opened => opened?,
        };
        let mut tar = layer::Hashing::new(blob);
        let done = unpack::unpack(&mut tar, &root, &recipe, &self.files(), &scratch);
        let done = done.map_err(|e| corrupt(e.to_string()))?;
        let got = tar.digest();
        if got != *diff_id {
            return Err(corrupt(format!(
                "it unpacks to {got}, the config says {diff_id}"
            )));
        }
        let recipe = done.has_recipe.then_some(recipe.as_path());
        self.publish_layer(diff_id, &root, recipe)?;
        if recipe.is_some() {
            self.drop_blob(digest, diff_id)?;
        }
        Ok(())
    }

    fn name_path(&self, name: &str) -> PathBuf {
        self.names_dir().join(hex::encode(Sha256::digest(name)))
    }

    /// Points `name` (normalised here) at a manifest whose blobs are all present.
    ///
    /// # Errors
    /// When the name is none, or can't be written.
    pub fn tag(&self, name: &str, digest: &str) -> Result<(), Error> {
        self.tag_as(name, digest, false)
    }

    pub(crate) fn tag_as(&self, name: &str, digest: &str, pulled: bool) -> Result<(), Error> {
        let name = normalize(name)?;
        let file = NameFile {
            name: name.clone(),
            digest: digest.to_string(),
            pulled,
        };
        let bytes = serde_json::to_vec(&file).map_err(|e| Error::Corrupt {
            digest: digest.to_string(),
            why: e.to_string(),
        })?;
        self.replace(&self.name_path(&name), &bytes)
    }

    /// When the name was last given to what it leads to, by a pull or otherwise; None: there is no such name.
    ///
    /// # Errors
    /// When it is no name.
    pub fn named_at(&self, name: &str) -> Result<Option<std::time::SystemTime>, Error> {
        let file = fs::metadata(self.name_path(&normalize(name)?));
        Ok(file.and_then(|f| f.modified()).ok())
    }

    pub(crate) fn names(&self) -> Result<Vec<NameFile>, Error> {
        let dir = self.names_dir();
        let mut names: Vec<NameFile> = fs::read_dir(&dir)
            .map_err(io(&dir))?
            .flatten()
            .filter_map(|e| serde_json::from_slice(&fs::read(e.path()).ok()?).ok())
            .collect();
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    fn named_image(&self, known: &NameFile) -> Result<Image, Error> {
        // pulled for another platform, it is still there to be pushed and saved
        let mut image = match self.image(&known.name, &known.digest) {
            Ok(image) => image,
            Err(error) => self
                .image_of_any(&known.name, &known.digest)
                .map_err(|_| error)?,
        };
        image.pulled = known.pulled;
        Ok(image)
    }

    pub(crate) fn image(&self, name: &str, digest: &str) -> Result<Image, Error> {
        let chosen = self.choose(digest)?;
        let (manifest, config) = self.read_manifest(&chosen)?;
        let layers: Vec<PathBuf> = config
            .rootfs
            .diff_ids
            .iter()
            .rev()
            .map(|d| self.layer(d))
            .collect();
        if !layers.iter().all(|l| l.exists()) {
            self.unpack(&chosen)?;
        }
        let mut seen = HashSet::new();
        let layers = layers.into_iter().filter(|l| seen.insert(l.clone()));
        let layers = layers.collect();
        Ok(Image {
            name: name.to_string(),
            digest: digest.to_string(),
            manifest: chosen,
            id: manifest.config.digest,
            config: config.config.unwrap_or_default().into(),
            layers,
            size_bytes: manifest.layers.iter().map(|l| l.size).sum(),
            created: config.created,
            pulled: false,
        })
    }

    /// Finds an image by name (`redis:7` → `docker.io/library/redis:7`), manifest digest, or id (config digest,
    /// also a prefix of 12 or more hex digits). Blocking; quick unless a layer must be unpacked first.
    pub fn resolve(&self, name: &str) -> Result<Option<Image>, Error> {
        let bare = hex_part(name);
        if is_digest(name) || (bare.len() >= 12 && bare.bytes().all(|b| b.is_ascii_hexdigit())) {
            for known in self.names()? {
                let own = hex_part(&known.digest).starts_with(bare);
                // another's, be it damaged or removed since the names were listed, is nothing to this one
                let same = || {
                    let read = self.read_manifest(&known.digest);
                    read.is_ok_and(|(m, _)| hex_part(&m.config.digest).starts_with(bare))
                };
                if own || same() {
                    return self.named_image(&known).map(Some);
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
        self.named_image(&known).map(Some)
    }

    /// All named images, by name. One that is damaged or lies about itself, as what is pushed to a registry may, is not
    /// among them: the others' users must not suffer for it.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        let mut all = Vec::new();
        for known in self.names()? {
            match self.named_image(&known) {
                Ok(image) => all.push(image),
                Err(error) => {
                    tracing::debug!(image = known.name, %error, "an image is passed over");
                }
            }
        }
        Ok(all)
    }

    /// Takes a name away; what only it led to goes with the next collection.
    ///
    /// # Errors
    /// When it is no name, or can't be removed. One that isn't there is no error.
    pub fn untag(&self, name: &str) -> Result<(), Error> {
        let path = self.name_path(&normalize(name)?);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(path)(e)),
            _ => Ok(()),
        }
    }

    /// Untags; drops blobs and layers that no name refers to any more. The caller makes sure that no container uses it.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        self.remove_keeping(name, &[])
    }

    /// As [`ImageStore::remove`], but leaves the layers in `used`: a container may run on one whose name was given to
    /// a newer image since.
    pub fn remove_keeping(&self, name: &str, used: &[PathBuf]) -> Result<(), Error> {
        let lock = self.lock(true)?;
        // without a lease: adding to one waits for the lock
        let this = ImageStore {
            dir: self.dir.clone(),
            lease: None,
        };
        let path = match this.resolve(name) {
            Ok(Some(image)) => self.name_path(&image.name),
            Ok(None) => return Err(Error::NotFound(name.to_string())),
            // a damaged one goes by its name
            Err(error) => {
                let path = self.name_path(&normalize(name)?);
                if !path.exists() {
                    return Err(error);
                }
                path
            }
        };
        fs::remove_file(&path).map_err(io(path))?;
        self.collect_locked(used, &lock)?;
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
}
