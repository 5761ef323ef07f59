//! Steps of others, brought here and found by their keys.

use std::collections::HashMap;

use knarr_image::{Image, ImageStore, LayerInfo};

use super::{CacheStore, FIELD, STEPS_MAX, Shared, Steps};
use crate::{
    cache::{Key, Record, Stored, is_snapshot},
    engine::Inner,
    error::{Error, blocking, io},
    export::KEEPER,
    graph::Graph,
    request::BuildRequest,
    step::Kept,
    told::Told,
};

/// By key: the step and its layer, which is in the store.
pub(crate) type Imported = HashMap<Key, (Record, LayerInfo)>;

/// Reads all that was named. What can't be had is told, and the build goes on without it.
pub(crate) async fn import(
    engine: &Inner,
    request: &BuildRequest,
    images: &ImageStore,
    told: &Told<'_>,
) -> Imported {
    let one = async |from: &CacheStore| {
        let name = match from {
            CacheStore::Local { folder, .. } => folder.display().to_string(),
            CacheStore::Registry(name) => {
                knarr_image::normalize(name).unwrap_or_else(|_| name.clone())
            }
            CacheStore::Inline => return vec![],
        };
        let telling = told.begin(&format!("importing cache manifest from {name}"));
        let found = match from {
            CacheStore::Local { folder, tag } => {
                let (images, folder, tag) = (images.clone(), folder.clone(), tag.clone());
                blocking(move || Ok(images.read_layout(&folder, Some(&tag))?)).await
            }
            _ => {
                let heard = |what: &str, done, total| telling.transfer(what, done, total);
                match &engine.options.resolver {
                    Some(resolver) => {
                        let fetched = resolver.fetch(&name, &heard).await;
                        fetched.map_err(Error::Request)
                    }
                    None => Err(Error::Request(format!("{name}: not here"))),
                }
            }
        };
        let steps = match found {
            Ok(image) => {
                let images = images.clone();
                blocking(move || steps(&images, &image)).await
            }
            Err(e) => Err(e),
        };
        telling.result(steps).unwrap_or_default()
    };
    let all = request.cache_from.iter().map(|from| one(&from.0));
    let all = futures::future::join_all(all).await;
    let pairs = all.into_iter().flatten();
    pairs
        .map(|(step, layer)| (step.key, (step.record, layer)))
        .collect()
}

/// An image's steps whose layers are here.
fn steps(images: &ImageStore, image: &Image) -> Result<Vec<(Shared, LayerInfo)>, Error> {
    images.hold(&image.digest)?;
    let config = images.raw_config(image)?;
    // an image that was not made for this holds none: BuildKit says nothing either
    let Some(field) = config.get(FIELD) else {
        return Ok(vec![]);
    };
    let steps: Steps = serde_json::from_value(field.clone())
        .map_err(|e| Error::Request(format!("the cache in {}: {e}", image.name)))?;
    let layers = images.layer_infos(image)?;
    let mut found = vec![];
    for step in steps.steps.into_iter().take(STEPS_MAX) {
        let layer = layers.iter().find(|l| l.diff_id == step.diff_id);
        // they become names of files
        let good = is_snapshot(&step.record.snapshot)
            && step.key.is_whole()
            && step.record.result.is_whole();
        if let (Some(layer), true) = (layer, good)
            && images.layer(&layer.diff_id).is_dir()
        {
            images.hold(&layer.diff_id)?;
            found.push((step, layer.clone()));
        }
    }
    Ok(found)
}

impl Graph<'_> {
    /// Takes over a step that another machine made.
    pub(crate) async fn import_step(&self, key: &Key) -> Result<Option<Kept>, Error> {
        let Some((record, layer)) = self.shared.imported.get(key).cloned() else {
            return Ok(None);
        };
        let (cache, images, key) = (self.cache.clone(), self.images.clone(), key.clone());
        blocking(move || {
            let files = cache.files(&record);
            if files.is_dir() {
                cache.note(&key, &record)?;
                return Ok(Some((record, files)));
            }
            images.keep(
                KEEPER,
                &record.snapshot,
                std::slice::from_ref(&layer.diff_id),
            )?;
            let stored = Stored {
                diff_id: layer.diff_id.clone(),
                digest: layer.digest,
                size: layer.size_bytes,
                media_type: layer.media_type,
            };
            cache.set_stored(&record.snapshot, "", &stored)?;
            let temp = cache.temp()?;
            let link = temp.path().join("fs");
            std::os::unix::fs::symlink(images.layer(&layer.diff_id), &link).map_err(io(&link))?;
            cache.keep(&key, temp, &record)?;
            Ok(Some((record, files)))
        })
        .await
    }
}
