//! Garbage: blobs, layers and shared files that nothing leads to.

use crate::{
    Error, ImageStore, io,
    manifest::{Index, Manifest},
    store::hex_part,
};
use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The most bytes of a manifest or index: what is greater is content.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// How long a download that broke off waits to be gone on with.
const PARTIAL_AGE_MAX: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// What a collection has freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    pub blobs: u64,
    pub layers: u64,
    /// Bytes on the disk.
    pub bytes: u64,
}

/// Hex parts of digests.
#[derive(Default)]
pub(crate) struct Reachable {
    pub blobs: HashSet<String>,
    pub layers: HashSet<String>,
}

impl ImageStore {
    /// Removes what no name, lease or keeper leads to, but for the layers (folders) in `used`.
    ///
    /// # Errors
    /// When something can't be read: nothing is removed then; or can't be removed.
    pub fn collect(&self, used: &[PathBuf]) -> Result<Collected, Error> {
        let lock = self.lock(true)?;
        self.collect_locked(used, &lock)
    }

    pub(crate) fn collect_locked(
        &self,
        used: &[PathBuf],
        lock: &fs::File,
    ) -> Result<Collected, Error> {
        let mut found = self.reachable(lock)?;
        let used = used.iter().filter_map(|layer| layer.file_name()?.to_str());
        found.layers.extend(used.map(str::to_string));

        let mut out = Collected::default();
        sweep(
            &self.dir.join("blobs/sha256"),
            &found.blobs,
            &mut out.blobs,
            &mut out.bytes,
        )?;
        sweep(
            &self.dir.join("layers"),
            &found.layers,
            &mut out.layers,
            &mut out.bytes,
        )?;
        sweep(
            &self.dir.join("recipes"),
            &found.layers,
            &mut 0,
            &mut out.bytes,
        )?;
        out.bytes += self.files().sweep()?;
        self.forget(&found)?;
        Ok(out)
    }

    /// All that something leads to, while the exclusive lock is held.
    pub(crate) fn reachable(&self, _lock: &fs::File) -> Result<Reachable, Error> {
        let mut found = Reachable::default();
        // Leases before names: who has added something names it, and then lets go of its lease, without the lock.
        for digest in self.held()? {
            self.reach(&digest, &mut found)?;
        }
        for name in self.names()? {
            self.reach(&name.digest, &mut found)?;
        }
        for digest in self.linked()? {
            // a tar that is written anew from its layer
            if self.layer(&digest).exists() {
                found.layers.insert(digest.clone());
            }
            found.blobs.insert(digest);
        }
        Ok(found)
    }

    /// What is known of blobs and layers that are gone goes too, and downloads that nobody went on with.
    fn forget(&self, found: &Reachable) -> Result<(), Error> {
        let gone = |path: &Path| match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(path)(e)),
            _ => Ok(()),
        };
        let entries = |sub: &str| {
            let dir = self.dir.join(sub);
            fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
        };
        for path in entries("sources") {
            let name = path.file_name().and_then(|n| n.to_str());
            if !name.is_some_and(|n| found.blobs.contains(n)) {
                gone(&path)?;
            }
        }
        for path in entries("made") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            let layer = match name.split_once('.') {
                Some((layer, _)) => layer.to_string(),
                None => {
                    let made: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                    hex_part(made["diff_id"].as_str().unwrap_or("")).to_string()
                }
            };
            if !found.layers.contains(&layer) {
                gone(&path)?;
            }
        }
        for path in entries("partial") {
            let old = fs::metadata(&path)
                .and_then(|m| m.modified())
                .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > PARTIAL_AGE_MAX));
            let free = || {
                let file = fs::File::open(&path)?;
                let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
                rustix::fs::flock(&file, lock).map_err(std::io::Error::from)
            };
            if old && free().is_ok() {
                gone(&path)?;
            }
        }
        Ok(())
    }

    /// Adds what a digest leads to: of a manifest its config and layers, of an index its manifests.
    fn reach(&self, digest: &str, found: &mut Reachable) -> Result<(), Error> {
        let key = hex_part(digest).to_string();
        if self.layer(digest).exists() {
            found.layers.insert(key.clone());
        }
        let path = self.blob(digest);
        if !found.blobs.insert(key) {
            return Ok(());
        }
        let size = match fs::metadata(&path) {
            Ok(meta) => meta.len(),
            // of an index not all manifests need be here
            Err(_) => return Ok(()),
        };
        if size > MANIFEST_BYTES_MAX {
            return Ok(());
        }
        let bytes = fs::read(&path).map_err(io(&path))?;
        if bytes.first() != Some(&b'{') {
            return Ok(());
        }
        if let Ok(index) = serde_json::from_slice::<Index>(&bytes) {
            for manifest in &index.manifests {
                self.reach(&manifest.digest, found)?;
            }
        } else if let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) {
            for layer in &manifest.layers {
                self.reach(&layer.digest, found)?;
            }
            found
                .blobs
                .insert(hex_part(&manifest.config.digest).to_string());
            // artifacts have configs of other kinds
            if let Ok((_, config)) = self.read_manifest(digest) {
                let ids = config.rootfs.diff_ids.iter();
                found.layers.extend(ids.map(|d| hex_part(d).to_string()));
            }
        }
        Ok(())
    }

    pub(crate) fn files(&self) -> crate::files::Files {
        crate::files::Files::new(self.dir.join("files"))
    }
}

pub(crate) fn sweep(
    dir: &Path,
    keep: &HashSet<String>,
    count: &mut u64,
    bytes: &mut u64,
) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(io(dir))?.flatten() {
        if entry.file_name().to_str().is_some_and(|n| keep.contains(n)) {
            continue;
        }
        let path = entry.path();
        *bytes += size_on_disk(&path);
        let gone = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        gone.map_err(io(path))?;
        *count += 1;
    }
    Ok(())
}

/// Bytes on the disk that go with this path: files with other names elsewhere stay.
fn size_on_disk(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return 0;
    };
    let own = if meta.is_dir() || meta.nlink() == 1 {
        meta.blocks() * 512
    } else {
        0
    };
    let inside = match meta.is_dir() {
        true => fs::read_dir(path).into_iter().flatten().flatten(),
        false => return own,
    };
    own + inside.map(|e| size_on_disk(&e.path())).sum::<u64>()
}
