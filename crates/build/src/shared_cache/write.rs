//! This build's steps for others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use knarr_image::LayerInfo;
use serde_json::{Value, json};

use super::{CacheStore, CacheTo, FIELD, STEPS_MAX, Shared, Steps};
use crate::{
    cache::{Key, Record},
    error::{Error, blocking},
    export::{commit, packed},
    graph::Graph,
    state::{Link, LinkOf, State},
};

/// Steps whose result is files of the context, which nobody is given for the asking.
pub(crate) const OWN: &str = "mount of ";

fn snapshots(chain: &[Link]) -> BTreeSet<&str> {
    let own = chain.iter().filter_map(|link| match &link.of {
        LinkOf::Step(snapshot) => Some(snapshot.as_str()),
        LinkOf::Base(_) => None,
    });
    own.collect()
}

/// Adds a list of an image's own steps to its configuration.
pub(crate) fn put_inline(
    config: &mut Value,
    steps: &[(Key, Record)],
    chain: &[Link],
    layers: &[LayerInfo],
) {
    let mut all = Steps::default();
    for (link, layer) in chain.iter().zip(layers) {
        let LinkOf::Step(snapshot) = &link.of else {
            continue;
        };
        for (key, record) in steps.iter().filter(|(_, r)| r.snapshot == *snapshot) {
            all.steps.push(Shared {
                key: key.clone(),
                record: record.clone(),
                diff_id: layer.diff_id.clone(),
            });
        }
    }
    all.steps.truncate(STEPS_MAX);
    config[FIELD] = json!(all);
}

impl Graph<'_> {
    /// The steps that this build went through whose results are layers of this chain.
    pub(crate) fn steps_of(&self, state: &State) -> Vec<(Key, Record)> {
        let own = snapshots(&state.chain);
        let used = &self.shared.used;
        let used = used.lock().unwrap_or_else(PoisonError::into_inner);
        let of_chain = used.iter().filter(|(_, r)| own.contains(&*r.snapshot));
        of_chain.map(|(k, r)| (k.clone(), r.clone())).collect()
    }

    /// Writes the caches that were asked for.
    pub(crate) async fn export_cache(&self, targets: &[&State]) -> Result<(), Error> {
        for to in &self.request.cache_to {
            let name = match &to.store {
                CacheStore::Local { .. } => "exporting cache to client directory",
                CacheStore::Registry(_) => "exporting cache to registry",
                CacheStore::Inline => continue,
            };
            let telling = self.told.begin(name);
            let written = self.write_cache(to, targets, &telling).await;
            match telling.result(written) {
                Err(e) if to.ignore_error => self.told.warn(format!("{name}: {e}")),
                other => other?,
            }
        }
        Ok(())
    }

    async fn write_cache(
        &self,
        to: &CacheTo,
        targets: &[&State],
        telling: &crate::told::Telling<'_>,
    ) -> Result<(), Error> {
        let all: Vec<(Key, Record)> = match to.max {
            false => targets.iter().flat_map(|t| self.steps_of(t)).collect(),
            true => {
                let used = &self.shared.used;
                let used = used.lock().unwrap_or_else(PoisonError::into_inner);
                let others = used.iter().filter(|(_, r)| !r.description.starts_with(OWN));
                others.map(|(k, r)| (k.clone(), r.clone())).collect()
            }
        };
        let (images, cache) = (self.images.clone(), self.cache.clone());
        let (epoch, packing) = (self.epoch, to.packing);
        let made = blocking(move || {
            let mut layers: Vec<LayerInfo> = vec![];
            let mut known = BTreeMap::new();
            let mut steps = Steps::default();
            for (key, record) in all.into_iter().take(STEPS_MAX) {
                let diff_id = match known.get(&record.snapshot) {
                    Some(id) => String::clone(id),
                    None => {
                        let files = cache.files(&record);
                        let info = commit(&images, &cache, &record.snapshot, &files, epoch)?;
                        let of = LinkOf::Step(record.snapshot.clone());
                        let info = packed(&images, info, (packing, false), &of)?;
                        let id = info.diff_id.clone();
                        if layers.iter().all(|l| l.diff_id != id) {
                            layers.push(info);
                        }
                        known.insert(record.snapshot.clone(), id.clone());
                        id
                    }
                };
                steps.steps.push(Shared {
                    key,
                    record,
                    diff_id,
                });
            }
            let here = knarr_dockerfile::Platform::host();
            let mut config = json!({
                "architecture": here.architecture, "os": here.os, "config": {},
            });
            config[FIELD] = json!(steps);
            Ok(images.put_image(&config, &layers, &BTreeMap::new(), None)?)
        })
        .await?;
        match &to.store {
            CacheStore::Inline => Ok(()),
            CacheStore::Local { folder, tag } => {
                let images = self.images.clone();
                // a layout's names are tags alone
                let (folder, mut image) = (folder.clone(), made);
                image.name = format!("cache:{tag}");
                blocking(move || {
                    let dir = images.temp()?;
                    let path = dir.path().join("cache.tar");
                    images.save_images(std::slice::from_ref(&image), &path)?;
                    crate::output::layout(&path, &folder)
                })
                .await
            }
            CacheStore::Registry(name) => {
                let full = knarr_image::normalize(name)?;
                let resolver = self.engine.options.resolver.as_ref();
                let resolver = resolver.ok_or_else(|| {
                    Error::Request("this builder can't speak to registries".into())
                })?;
                let told = |what: &str, done, total| telling.transfer(what, done, total);
                let local = format!("{full}@{}", made.digest);
                let pushed = resolver.push(&local, &full, &told).await;
                pushed.map_err(Error::Registry)
            }
        }
    }
}
