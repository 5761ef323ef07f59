//! What builders need beside: images of other platforms, layers compressed before they go anywhere, layouts read without a
//! name, archives of several names.

use crate::{
    Error, Image, ImageStore, LayerInfo, archive,
    client::Compression,
    io,
    manifest::{Index, LAYER_TAR, Platform},
};
use std::path::Path;

impl ImageStore {
    /// As [`ImageStore::resolve`], of an index the image for this platform (`OS/ARCHITECTURE[/VARIANT]`). None when the name
    /// or that image isn't here.
    ///
    /// # Errors
    /// When the store is damaged, or the platform is none.
    pub fn resolve_platform(&self, name: &str, platform: &str) -> Result<Option<Image>, Error> {
        let Some(image) = self.resolve(name)? else {
            return Ok(None);
        };
        let parts: Vec<&str> = platform.split('/').collect();
        let [os, architecture, variant @ ..] = parts.as_slice() else {
            return Ok(None);
        };
        let wanted = Platform {
            architecture: (*architecture).into(),
            os: (*os).into(),
            variant: variant.first().map(|v| (*v).to_string()),
            os_version: None,
        };
        let bytes = self.read_blob(&image.digest)?;
        let Ok(index) = serde_json::from_slice::<Index>(&bytes) else {
            return Ok(Some(image));
        };
        let here = |digest: &str| crate::reference::is_digest(digest) && self.has_blob(digest);
        let found = index
            .manifests
            .iter()
            .find(|m| m.platform.as_ref().is_some_and(|p| p.fits(&wanted)) && here(&m.digest));
        match found {
            None => Ok(None),
            Some(found) => Ok(Some(Image {
                digest: image.digest,
                pulled: image.pulled,
                ..self.image(&image.name, &found.digest)?
            })),
        }
    }

    /// The layer as it is compressed for a registry, the same bytes on every machine. One that came compressed stays as it
    /// is when it is of this kind. Blocking; costs a compression the first time.
    ///
    /// # Errors
    /// When the layer isn't here, or can't be read.
    pub fn compressed(&self, layer: &LayerInfo, kind: Compression) -> Result<LayerInfo, Error> {
        if layer.media_type == kind.media_type() && layer.digest != layer.diff_id {
            return Ok(layer.clone());
        }
        let made = match self.made_of(&layer.diff_id, kind) {
            Some(made) => made,
            None => self.make(&layer.diff_id, crate::block::Way::now(kind))?.0,
        };
        Ok(LayerInfo {
            diff_id: layer.diff_id.clone(),
            digest: made.digest,
            size_bytes: made.size,
            media_type: kind.media_type().into(),
        })
    }

    /// The layer as a plain tar.
    ///
    /// # Errors
    /// When the store can't give it.
    pub fn plain(&self, layer: &LayerInfo) -> Result<LayerInfo, Error> {
        let size = self.blob_size(&layer.diff_id).ok_or(Error::Corrupt {
            digest: layer.diff_id.clone(),
            why: "the layer's tar is not in the store".into(),
        })?;
        Ok(LayerInfo {
            diff_id: layer.diff_id.clone(),
            digest: layer.diff_id.clone(),
            size_bytes: size,
            media_type: LAYER_TAR.into(),
        })
    }

    /// Writes an image under each of these names (the same image, or several) to an archive file.
    ///
    /// # Errors
    /// As [`ImageStore::save_all`]; the file is whole or not there.
    pub fn save_images(&self, images: &[Image], to: &Path) -> Result<(), Error> {
        self.save_found(images, to)
    }

    /// Brings an image of an OCI layout (a folder or an archive) here without giving it a name: the one of this tag or
    /// digest, or the only one. Hold it by a lease.
    ///
    /// # Errors
    /// When it is no layout, has no such image, or lies about it.
    pub fn read_layout(&self, path: &Path, wanted: Option<&str>) -> Result<Image, Error> {
        let digest = archive::one_of(self, path, wanted)?;
        self.hold(&digest)?;
        match self.image(&digest, &digest) {
            Ok(image) => Ok(image),
            Err(error) => self.image_of_any(&digest, &digest).map_err(|_| error),
        }
    }

    /// The image of a manifest or index that is here, whatever it's called.
    ///
    /// # Errors
    /// When it isn't here whole.
    pub fn by_digest(&self, digest: &str) -> Result<Image, Error> {
        if !crate::reference::is_digest(digest) || !self.has_blob(digest) {
            return Err(Error::NotFound(digest.into()));
        }
        self.hold(digest)?;
        self.image(digest, digest)
    }
}

/// Unpacks an archive into a folder; a folder is taken as it is.
pub(crate) fn unpacked(
    store: &ImageStore,
    path: &Path,
) -> Result<(Option<tempfile::TempDir>, std::path::PathBuf), Error> {
    if path.is_dir() {
        return Ok((None, path.to_owned()));
    }
    let temp = store.temp()?;
    let mut archive = tar::Archive::new(crate::layer::open(path)?);
    for entry in archive.entries().map_err(io(path))? {
        let mut entry = entry.map_err(|e| archive::bad(path, &e.to_string()))?;
        entry.unpack_in(temp.path()).map_err(io(path))?;
    }
    let root = temp.path().to_owned();
    Ok((Some(temp), root))
}
