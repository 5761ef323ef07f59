//! Layers and images that are made here: by builds, by commits of containers.

use crate::{
    Error, Image, ImageStore, LayerInfo, LayerOptions, archive, commit, io,
    manifest::{CONFIG, Descriptor, LAYER_TAR},
    normalize,
};
use std::{collections::BTreeMap, fs, path::Path};

impl ImageStore {
    /// Makes a layer of the folder that an overlay wrote into: 0:0 devices are whiteouts, `trusted.overlay.opaque` marks
    /// opaque folders. The same content with the same metadata gives the same digest; times are cut to whole seconds. The
    /// folder is used up: it becomes the unpacked layer, and its files are shared with other layers, so nothing may write
    /// to them later, and none may be a hard link of a file outside the folder. A folder on another file system is copied
    /// and stays. Blocking.
    ///
    /// # Errors
    /// `Layer` when something in it can't be in a layer.
    pub fn commit_layer(&self, upper: &Path, options: LayerOptions) -> Result<LayerInfo, Error> {
        let _lock = self.lock(false)?;
        let temp = self.temp()?;
        let root = temp.path().join("root");
        match fs::rename(upper, &root) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::CrossesDevices => {
                commit::copy_tree(upper, &root)?;
            }
            Err(e) => return Err(io(upper)(e)),
        }
        let recipe = temp.path().join("recipe");
        let scratch = temp.path().join("scratch");
        let done = commit::commit(&root, &options, &recipe, &self.files(), &scratch)?;
        self.publish_layer(&done.diff_id, &root, Some(&recipe))?;
        Ok(LayerInfo {
            digest: done.diff_id.clone(),
            diff_id: done.diff_id,
            size_bytes: done.tar_bytes,
            media_type: LAYER_TAR.into(),
        })
    }

    /// Puts an unpacked layer, and how to write its tar, where they belong. Another's that came first stays.
    pub(crate) fn publish_layer(
        &self,
        diff_id: &str,
        root: &Path,
        recipe: Option<&Path>,
    ) -> Result<(), Error> {
        self.hold(diff_id)?;
        let target = self.layer(diff_id);
        if let Some(recipe) = recipe {
            let place = self.recipe(diff_id);
            // of a layer that is there, another recipe may speak of other files
            if !(target.exists() && place.exists()) {
                fs::rename(recipe, &place).map_err(io(place))?;
            }
        }
        match fs::rename(root, &target) {
            Err(e) if !target.exists() => Err(io(target)(e)),
            _ => Ok(()),
        }
    }

    /// Stores an image of layers that are in the store and, with a name, tags it. `config` is the whole OCI image
    /// configuration; its `rootfs` is set here.
    ///
    /// # Errors
    /// When a layer isn't there, the config is none, or the name is none.
    pub fn put_image(
        &self,
        config: &serde_json::Value,
        layers: &[LayerInfo],
        annotations: &BTreeMap<String, String>,
        name: Option<&str>,
    ) -> Result<Image, Error> {
        let name = name.map(normalize).transpose()?;
        let _lock = self.lock(false)?;
        let corrupt = |why: String| Error::Corrupt {
            digest: "config".into(),
            why,
        };
        let mut config = config.clone();
        let object = config
            .as_object_mut()
            .ok_or_else(|| corrupt("it is no JSON object".into()))?;
        let ids: Vec<&str> = layers.iter().map(|l| l.diff_id.as_str()).collect();
        object.insert(
            "rootfs".into(),
            serde_json::json!({ "type": "layers", "diff_ids": ids }),
        );
        if let Some(missing) = layers.iter().find(|l| !self.layer(&l.diff_id).exists()) {
            return Err(Error::Corrupt {
                digest: missing.diff_id.clone(),
                why: "the layer is not in the store".into(),
            });
        }
        let bytes = serde_json::to_vec(&config).map_err(|e| corrupt(e.to_string()))?;
        let config = Descriptor {
            size: bytes.len() as u64,
            ..Descriptor::new(CONFIG, self.put_bytes(&bytes)?)
        };
        let layers = layers
            .iter()
            .map(|l| Descriptor {
                size: l.size_bytes,
                ..Descriptor::new(&l.media_type, l.digest.clone())
            })
            .collect();
        let digest = archive::put_manifest(self, config, layers, annotations)?;
        self.hold(&digest)?;
        match name {
            Some(name) => {
                self.tag(&name, &digest)?;
                self.image(&name, &digest)
            }
            None => self.image(&digest, &digest),
        }
    }

    /// The image's whole configuration as it is stored: with its history, and what this crate doesn't know.
    ///
    /// # Errors
    /// When it is gone or damaged.
    pub fn raw_config(&self, image: &Image) -> Result<serde_json::Value, Error> {
        serde_json::from_slice(&self.read_blob(&image.id)?).map_err(|e| Error::Corrupt {
            digest: image.id.clone(),
            why: e.to_string(),
        })
    }

    /// The image's manifest as it is stored.
    ///
    /// # Errors
    /// When it is gone or damaged.
    pub fn raw_manifest(&self, image: &Image) -> Result<serde_json::Value, Error> {
        serde_json::from_slice(&self.read_blob(&image.manifest)?).map_err(|e| Error::Corrupt {
            digest: image.manifest.clone(),
            why: e.to_string(),
        })
    }

    /// The image's layers from the lowest up, as [`ImageStore::put_image`] takes them: what a new image on top begins with.
    ///
    /// # Errors
    /// When the image is gone or damaged.
    pub fn layer_infos(&self, image: &Image) -> Result<Vec<LayerInfo>, Error> {
        let (manifest, config) = self.read_manifest(&image.manifest)?;
        let both = manifest.layers.into_iter().zip(config.rootfs.diff_ids);
        Ok(both
            .map(|(layer, diff_id)| LayerInfo {
                diff_id,
                digest: layer.digest,
                size_bytes: layer.size,
                media_type: layer.media_type,
            })
            .collect())
    }
}
