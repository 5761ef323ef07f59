//! What is being added, and what is kept without a name: roots of the collection of garbage beside the names.

use crate::{Error, ImageStore, io, store::digest_of};
use rustix::fs::FlockOperation::{LockShared, NonBlockingLockExclusive, NonBlockingLockShared};
use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A file that lists digests, and whose lock says that its writer lives.
pub(crate) struct Lease {
    file: fs::File,
    path: PathBuf,
    /// While it is held nobody empties the folder of half-written things.
    _tmp: fs::File,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Lease {
    fn add(&self, digest: &str) -> Result<(), Error> {
        // one write, appended: whole lines
        (&self.file)
            .write_all(format!("{digest}\n").as_bytes())
            .map_err(io(&self.path))
    }
}

impl ImageStore {
    /// A handle for longer work (a pull, a build): whatever it adds, and what [`ImageStore::hold`] is told, is not taken
    /// for garbage until the last clone of the handle is dropped or the process ends.
    ///
    /// # Errors
    /// When the lease's file can't be made.
    pub fn leased(&self) -> Result<ImageStore, Error> {
        let _lock = self.lock(false)?;
        let tmp = self.tmp_lock()?;
        rustix::fs::flock(&tmp, LockShared).map_err(|e| io(&self.dir)(e.into()))?;
        let dir = self.dir.join("leases");
        let named = tempfile::Builder::new()
            .append(true)
            .make_in(&dir, |path| {
                fs::OpenOptions::new()
                    .append(true)
                    .create_new(true)
                    .open(path)
            })
            .map_err(io(&dir))?;
        let (file, path) = named.keep().map_err(|e| io(&dir)(e.error))?;
        rustix::fs::flock(&file, NonBlockingLockShared).map_err(|e| io(&path)(e.into()))?;
        Ok(ImageStore {
            dir: self.dir.clone(),
            lease: Some(Arc::new(Lease {
                file,
                path,
                _tmp: tmp,
            })),
        })
    }

    pub(crate) fn tmp_lock(&self) -> Result<fs::File, Error> {
        let path = self.dir.join("tmp.lock");
        fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io(path))
    }

    /// Adds a blob, a manifest (with all it leads to) or a layer's diff id to this handle's lease; nothing without one.
    /// What is found in the store afterwards stays there. Blocking: waits for the end of a collection, which has read the
    /// leases by now and may be about to remove this.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn hold(&self, digest: &str) -> Result<(), Error> {
        let Some(lease) = &self.lease else {
            return Ok(());
        };
        let _lock = self.lock(false)?;
        lease.add(digest)
    }

    /// Keeps blobs, manifests (with all they lead to) and layers (by diff id) without a name, under the owner's key: for a
    /// build's cache or a registry's content. Replaces what that key kept before.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn keep(&self, owner: &str, key: &str, digests: &[String]) -> Result<(), Error> {
        let path = self.keep_path(owner, key);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(io(dir))?;
        }
        let _lock = self.lock(false)?;
        self.replace(&path, digests.join("\n").as_bytes())
    }

    /// Takes back [`ImageStore::keep`]; what only that kept goes with the next collection.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn unkeep(&self, owner: &str, key: &str) -> Result<(), Error> {
        let path = self.keep_path(owner, key);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(path)(e)),
            _ => Ok(()),
        }
    }

    fn keep_path(&self, owner: &str, key: &str) -> PathBuf {
        let name = digest_of(key.as_bytes());
        self.dir
            .join("keep")
            .join(&digest_of(owner.as_bytes())[7..23])
            .join(&name[7..])
    }

    /// All that leases and keepers list; leases whose writers have died are removed. The caller holds the exclusive lock.
    pub(crate) fn held(&self) -> Result<Vec<String>, Error> {
        let mut all = Vec::new();
        let mut add = |mut file: fs::File, path: &Path| -> Result<(), Error> {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(io(path))?;
            // a line without its end was cut off by a crash, of a writer that is dead
            all.extend(text.lines().filter(|l| !l.is_empty()).map(str::to_string));
            Ok(())
        };
        // leases end, and what is kept is taken back, without the lock: what has gone since its folder was listed keeps nothing
        let open = |path: &Path| match fs::File::open(path) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io(path)(e)),
        };
        for lease in fs::read_dir(self.dir.join("leases"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = lease.path();
            let Some(file) = open(&path)? else { continue };
            if rustix::fs::flock(&file, NonBlockingLockExclusive).is_ok() {
                let _ = fs::remove_file(&path);
            } else {
                add(file, &path)?;
            }
        }
        for owner in fs::read_dir(self.dir.join("keep"))
            .into_iter()
            .flatten()
            .flatten()
        {
            for key in fs::read_dir(owner.path()).into_iter().flatten().flatten() {
                if let Some(file) = open(&key.path())? {
                    add(file, &key.path())?;
                }
            }
        }
        Ok(all)
    }
}
