//! What others than names keep: links below [`ImageStore::links_dir`].

use crate::{Error, ImageStore, io, reference::is_digest};
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

/// How deep folders of links may nest.
const LINKS_DEPTH_MAX: u32 = 300;

impl ImageStore {
    /// Below it others (the registry) keep links: a file in a folder named `sha256` keeps the blob whose digest's hex
    /// part is the file's name; a file in a folder named `sha512` keeps the blob whose `sha256:` digest is its first
    /// line. Links are made while [`ImageStore::lock`] is held shared.
    pub fn links_dir(&self) -> PathBuf {
        self.dir().join("links")
    }

    /// The hex parts of the digests that links keep.
    pub(crate) fn linked(&self) -> Result<HashSet<String>, Error> {
        let mut found = HashSet::new();
        linked_below(&self.links_dir(), 0, &mut found)?;
        Ok(found)
    }

    /// Takes a file that has been written and flushed to disk on the store's file system as the blob of `digest`, which
    /// the caller has computed of it. The file is gone afterwards.
    ///
    /// # Errors
    /// When it can't be moved.
    pub fn adopt_blob(&self, file: &Path, digest: &str) -> Result<(), Error> {
        self.hold(digest)?;
        let path = self.blob(digest);
        if path.exists() {
            return fs::remove_file(file).map_err(io(file));
        }
        fs::rename(file, &path).map_err(io(&path))?;
        let dir = path.parent().unwrap_or(&path);
        let sync = fs::File::open(dir).and_then(|dir| dir.sync_all());
        sync.map_err(io(dir))
    }

    /// Every name with the digest that it stands for, sorted; nothing is unpacked. Blocking.
    ///
    /// # Errors
    /// When the names can't be listed.
    pub fn named(&self) -> Result<Vec<(String, String)>, Error> {
        let names = self.names()?.into_iter();
        Ok(names.map(|n| (n.name, n.digest)).collect())
    }

    /// Drops the blobs that nothing leads to; unpacked layers stay. Gives how many bytes that freed.
    /// Blocking: waits until nothing is being added.
    ///
    /// # Errors
    /// When the store can't be listed or a blob not removed.
    pub fn sweep_blobs(&self) -> Result<u64, Error> {
        let lock = self.lock(true)?;
        let keep = self.reachable(&lock)?;
        let (mut count, mut bytes) = (0, 0);
        crate::collect::sweep(&self.blob(""), &keep.blobs, &mut count, &mut bytes)?;
        Ok(bytes)
    }
}

fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

fn linked_below(dir: &Path, depth: u32, found: &mut HashSet<String>) -> Result<(), Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io(dir)(e)),
    };
    let folder = dir.file_name().and_then(|n| n.to_str()).unwrap_or("");
    for entry in entries {
        let entry = entry.map_err(io(dir))?;
        let path = entry.path();
        if entry.file_type().map_err(io(&path))?.is_dir() {
            if depth < LINKS_DEPTH_MAX {
                linked_below(&path, depth + 1, found)?;
            }
        } else if folder == "sha256" {
            found.extend(entry.file_name().to_str().map(str::to_string));
        } else if folder == "sha512" {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let digest = text.lines().next().unwrap_or("");
            found.extend(is_digest(digest).then(|| hex_of(digest).to_string()));
        }
    }
    Ok(())
}
