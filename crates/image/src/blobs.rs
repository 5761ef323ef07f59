//! Blobs as readers see them: files, or tars that are written anew from their layers.

use crate::{Error, ImageStore, io, recipe, reference::is_digest};
use std::{
    fs,
    io::{Read, Seek},
};

/// A blob's content, from its first byte.
pub struct Blob {
    pub content: Box<dyn ReadSeek>,
    /// In bytes.
    pub size: u64,
}

/// What a blob is read by. Seeking back in a tar that is written anew begins it again.
pub trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

impl ImageStore {
    /// Bytes of the blob with this digest; None when the store can't give it. Blobs that are layers' plain tars need no
    /// file of their own: ask here, not whether [`ImageStore::blob`] exists.
    pub fn blob_size(&self, digest: &str) -> Option<u64> {
        if !is_digest(digest) {
            return None;
        }
        match fs::metadata(self.blob(digest)) {
            Ok(meta) => Some(meta.len()),
            Err(_) => {
                let tar = |id: &str| {
                    let size = recipe::tar_bytes(&self.recipe(id))?;
                    self.layer(id).exists().then_some(size)
                };
                let made = || {
                    let made = self.made(digest)?;
                    tar(&made.diff_id).map(|_| made.size)
                };
                tar(digest).or_else(made)
            }
        }
    }

    /// Can the store give the blob of this `sha256:` digest?
    pub fn has_blob(&self, digest: &str) -> bool {
        self.blob_size(digest).is_some()
    }

    /// A blob's content, or none when it isn't here. Blocking.
    ///
    /// # Errors
    /// When it is here and can't be read; while reading, when a layer's files were damaged.
    pub fn open_blob(&self, digest: &str) -> Result<Option<Blob>, Error> {
        if !is_digest(digest) {
            return Ok(None);
        }
        let path = self.blob(digest);
        match fs::File::open(&path) {
            Ok(file) => Ok(Some(Blob {
                size: file.metadata().map_err(io(&path))?.len(),
                content: Box::new(file),
            })),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if !self.has_blob(digest) {
                    return Ok(None);
                }
                if let Some((made, way)) =
                    self.made(digest).and_then(|m| Some((m.clone(), m.way()?)))
                {
                    let (again, file) = self.make(&made.diff_id, way)?;
                    if again.digest != digest {
                        return Err(Error::Corrupt {
                            digest: digest.into(),
                            why: format!("it was made anew as {}", again.digest),
                        });
                    }
                    return Ok(Some(Blob {
                        size: again.size,
                        content: Box::new(file),
                    }));
                }
                let tar = recipe::Rebuilt::open(&self.recipe(digest), &self.layer(digest))?;
                Ok(Some(Blob {
                    size: tar.tar_bytes(),
                    content: Box::new(tar),
                }))
            }
            Err(e) => Err(io(path)(e)),
        }
    }

    /// As [`ImageStore::open_blob`], of a blob that must be here.
    pub(crate) fn need_blob(&self, digest: &str) -> Result<Blob, Error> {
        self.open_blob(digest)?.ok_or_else(|| Error::Corrupt {
            digest: digest.into(),
            why: "it is not in the store".into(),
        })
    }
}
