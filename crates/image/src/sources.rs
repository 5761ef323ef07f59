//! Where blobs are known to be: `<store>/sources/<hex>` lists `REGISTRY/REPOSITORY` lines. A registry may take a blob from
//! another of its repositories instead of receiving it again.

use crate::{Error, Image, ImageStore, LayerInfo, io, store::hex_part};
use std::{fs, path::PathBuf};

/// How many places are remembered of a blob: the latest.
const PLACES_MAX: usize = 8;

impl ImageStore {
    fn sources_path(&self, digest: &str) -> PathBuf {
        self.dir().join("sources").join(hex_part(digest))
    }

    /// Repositories that have or had the blob, latest first.
    pub(crate) fn sources(&self, digest: &str) -> Vec<String> {
        let text = fs::read_to_string(self.sources_path(digest)).unwrap_or_default();
        text.lines().map(str::to_string).take(PLACES_MAX).collect()
    }

    pub(crate) fn add_source(&self, digest: &str, place: &str) -> Result<(), Error> {
        let mut all = self.sources(digest);
        if all.first().is_some_and(|p| p == place) {
            return Ok(());
        }
        all.retain(|p| p != place);
        all.insert(0, place.to_string());
        all.truncate(PLACES_MAX);
        let path = self.sources_path(digest);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(io(dir))?;
        }
        self.note(&path, all.join("\n").as_bytes())
    }

    /// Where downloads gather.
    pub(crate) fn partial_dir(&self) -> PathBuf {
        self.dir().join("partial")
    }

    /// Config and layers of a manifest.
    pub(crate) fn parts(&self, digest: &str) -> Result<(LayerInfo, Vec<LayerInfo>), Error> {
        let (manifest, config) = self.read_manifest(digest)?;
        let id = manifest.config;
        let info = |d: crate::manifest::Descriptor, diff_id: String| LayerInfo {
            diff_id,
            digest: d.digest,
            size_bytes: d.size,
            media_type: d.media_type,
        };
        let layers = manifest.layers.into_iter().zip(config.rootfs.diff_ids);
        Ok((
            info(id, String::new()),
            layers
                .map(|(layer, diff_id)| info(layer, diff_id))
                .collect(),
        ))
    }

    /// An image for whichever platform there is of it, as far as it can be described.
    pub(crate) fn image_of_any(&self, name: &str, digest: &str) -> Result<Image, Error> {
        let mut digest_now = digest.to_string();
        while let Ok(index) =
            serde_json::from_slice::<crate::manifest::Index>(&self.read_blob(&digest_now)?)
        {
            let here = |m: &&crate::manifest::Descriptor| {
                crate::reference::is_digest(&m.digest) && self.blob(&m.digest).exists()
            };
            digest_now = match index.manifests.iter().find(here) {
                Some(found) => found.digest.clone(),
                None => {
                    return Err(Error::Corrupt {
                        digest: digest.into(),
                        why: "none of its images is here".into(),
                    });
                }
            };
        }
        let mut image = self.image(name, &digest_now)?;
        image.digest = digest.to_string();
        Ok(image)
    }
}
