//! Files that layers have in common, stored once: `<store>/files/<2 hex>/<62 hex>`, hard links of the files in the layers'
//! folders.
//!
//! The key is everything that a container can see of the file: content, path in the layer, mode, owner, time, extended
//! attributes. The path belongs to it since two names of one inode are "the same file" to `cp` and `mv`: names that were
//! apart in the image must stay apart. Files are never written through their links: layers are lower folders of overlays,
//! mounted with `index=off`, and the kernel copies up before it writes.

use crate::{Error, io, tarfile::Member};
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Part of every key: what is linked under another rule is not found.
const VERSION: u32 = 1;

/// Shared files of one store.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    dir: PathBuf,
}

impl Files {
    pub fn new(dir: PathBuf) -> Files {
        Files { dir }
    }

    /// Where the file with this content (SHA-256) and this metadata is, or would be.
    pub fn place(&self, member: &Member, content: &[u8]) -> PathBuf {
        let mut hash = Sha256::new();
        let mut put = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        put(&VERSION.to_le_bytes());
        put(&member.path);
        put(content);
        for number in [
            u64::from(member.mode),
            u64::from(member.uid),
            u64::from(member.gid),
            member.mtime as u64,
            u64::from(member.mtime_nanos),
            member.size,
        ] {
            put(&number.to_le_bytes());
        }
        for (name, value) in &member.xattrs {
            put(name);
            put(value);
        }
        let key = hex::encode(hash.finalize());
        self.dir.join(&key[..2]).join(&key[2..])
    }

    /// Makes `path` the shared file of `place`, if there is one of this size. A link count that is used up starts a new file.
    pub fn link(&self, place: &Path, size: u64, path: &Path) -> bool {
        let fits = fs::symlink_metadata(place).is_ok_and(|m| m.is_file() && m.size() == size);
        fits && fs::hard_link(place, path).is_ok()
    }

    /// Gives the finished file at `path` to the others, or takes theirs instead. `scratch` is a free name on the same file
    /// system.
    pub fn share(&self, place: &Path, size: u64, path: &Path, scratch: &Path) -> Result<(), Error> {
        if self.link(place, size, scratch) {
            return fs::rename(scratch, path).map_err(io(path));
        }
        self.give(place, path, scratch)
    }

    /// Gives the finished file at `path` to the others; takes the place of one whose links are used up.
    pub fn give(&self, place: &Path, path: &Path, scratch: &Path) -> Result<(), Error> {
        if let Some(folder) = place.parent()
            && !folder.exists()
        {
            fs::create_dir_all(folder).map_err(io(folder))?;
        }
        match fs::hard_link(path, place) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                fs::hard_link(path, scratch).map_err(io(scratch))?;
                fs::rename(scratch, place).map_err(io(place))?;
                // renaming one link of a file onto another leaves both
                let _ = fs::remove_file(scratch);
                Ok(())
            }
            // a file system without hard links shares nothing
            Err(e) if matches!(e.raw_os_error(), Some(1 | 31 | 95)) => Ok(()),
            Err(e) => Err(io(place)(e)),
        }
    }

    /// Removes files without content: none is shared, so their data never reached the disk.
    pub fn drop_empty(&self) -> Result<(), Error> {
        for folder in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                if file.metadata().is_ok_and(|m| m.size() == 0) {
                    let path = file.path();
                    fs::remove_file(&path).map_err(io(path))?;
                }
            }
        }
        Ok(())
    }

    /// Removes files that no layer has any more; gives the bytes that this freed. The caller holds the exclusive lock.
    pub fn sweep(&self) -> Result<u64, Error> {
        let mut freed = 0;
        let Ok(folders) = fs::read_dir(&self.dir) else {
            return Ok(0);
        };
        for folder in folders.flatten() {
            for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                let Ok(meta) = file.metadata() else { continue };
                if meta.nlink() == 1 {
                    let path = file.path();
                    fs::remove_file(&path).map_err(io(path))?;
                    freed += meta.blocks() * 512;
                }
            }
        }
        Ok(freed)
    }
}
