//! What a build begins with or copies from that is not of its Dockerfile: images and named contexts, each fetched once.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use knarr_dockerfile::{Ignore, Platform, Scope};
use knarr_image::Image;

use super::{Graph, Made};
use crate::{
    cache::Key,
    copy::Tree,
    doc::{Doc, History},
    error::{Error, blocking},
    request::NamedContext,
    state::{Link, LinkOf, State},
};

/// What is not of the Dockerfile.
pub(crate) enum Outer {
    State(Box<State>),
    Folder(Tree),
}

impl Graph<'_> {
    /// `--build-context` of a name: as it is written, or as the image that it names.
    pub(crate) fn context_named(&self, name: &str) -> Option<&NamedContext> {
        if name.is_empty() {
            return None;
        }
        let contexts = &self.request.contexts;
        if let Some(found) = contexts.get(name) {
            return Some(found);
        }
        let full = knarr_image::normalize(name).ok()?;
        let same = |known: &&String| knarr_image::normalize(known).is_ok_and(|k| k == full);
        contexts.keys().find(same).and_then(|k| contexts.get(k))
    }

    /// An image or a named context, fetched once.
    pub(crate) async fn outer(&self, name: &str, platform: &Platform) -> Result<Arc<Outer>, Error> {
        if let Some(named) = self.context_named(name) {
            return self.named(name, named, platform).await;
        }
        let key = (name.to_owned(), platform.to_string());
        let cell = self.cell(key);
        let make = || async {
            let state = self.image(name, platform).await;
            state
                .map(|s| Arc::new(Outer::State(Box::new(s))))
                .map_err(Arc::new)
        };
        cell.get_or_init(make).await.clone().map_err(Error::Shared)
    }

    /// The environment of an image or context that was found.
    pub(crate) fn known_env(&self, name: &str) -> Option<Vec<String>> {
        let all = self.outer.lock().unwrap_or_else(PoisonError::into_inner);
        let named = format!("context {name}");
        let mut same = all
            .iter()
            .filter(|((key, _), _)| key == name || *key == named);
        same.find_map(|(_, cell)| match &**cell.get()?.as_ref().ok()? {
            Outer::State(state) => Some(state.scope.image_env()),
            Outer::Folder(_) => None,
        })
    }

    /// Names and digests of the images that the build began with or copied from, each once.
    pub(crate) fn images_used(&self) -> BTreeSet<(String, String)> {
        let all = self.outer.lock().unwrap_or_else(PoisonError::into_inner);
        let made = all.values().filter_map(|cell| cell.get()?.as_ref().ok());
        let bases = made.filter_map(|outer| match &**outer {
            Outer::State(state) => Some(state.bases.clone()),
            Outer::Folder(_) => None,
        });
        bases.flatten().collect()
    }

    fn cell(&self, key: (String, String)) -> Arc<Made<Outer>> {
        let mut all = self.outer.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(key).or_default().clone()
    }

    pub(super) async fn named(
        &self,
        name: &str,
        named: &NamedContext,
        platform: &Platform,
    ) -> Result<Arc<Outer>, Error> {
        let key = (format!("context {name}"), platform.to_string());
        let cell = self.cell(key);
        let make = || async {
            let made = self.make_named(name, named, platform).await;
            made.map(Arc::new).map_err(Arc::new)
        };
        cell.get_or_init(make).await.clone().map_err(Error::Shared)
    }

    async fn make_named(
        &self,
        name: &str,
        named: &NamedContext,
        platform: &Platform,
    ) -> Result<Outer, Error> {
        match named {
            NamedContext::Folder(folder) => {
                let telling = self
                    .told
                    .begin(&format!("[context {name}] load from client"));
                let (name, folder) = (name.to_owned(), folder.clone());
                telling.result(blocking(move || open_folder(&name, &folder)).await)
            }
            NamedContext::Image(image) => {
                Ok(Outer::State(Box::new(self.image(image, platform).await?)))
            }
            NamedContext::Layout { folder, reference } => {
                let telling = self.told.begin(&format!(
                    "[context {name}] OCI load from client {}",
                    folder.display()
                ));
                let (images, folder) = (self.images.clone(), folder.clone());
                let wanted = reference.clone();
                let found =
                    blocking(move || Ok(images.read_layout(&folder, wanted.as_deref())?)).await;
                let image = telling.result(found)?;
                Ok(Outer::State(Box::new(
                    self.image_state(image, platform).await?,
                )))
            }
            NamedContext::Url(url) => {
                let telling = self.told.begin(&format!("[context {name}] load {url}"));
                let made = crate::fetched::context(&self.cache, self.request, url).await;
                let folder = telling.result(made)?;
                let name = name.to_owned();
                blocking(move || open_folder(&name, &folder)).await
            }
            NamedContext::Stage(stage) => {
                let at = self.file.target(Some(stage)).map_err(Error::Request)?;
                Ok(Outer::State(Box::new((*self.stage(at).await?).clone())))
            }
        }
    }

    /// An image of the store, or pulled.
    async fn image(&self, name: &str, platform: &Platform) -> Result<State, Error> {
        let full = knarr_image::normalize(name).map_err(|e| {
            let why = knarr_dockerfile::bad_reference(name, |_| false);
            Error::Request(why.unwrap_or_else(|| e.to_string()))
        })?;
        let telling = self
            .told
            .begin(&format!("[internal] load metadata for {full}"));
        let found = self.find_image(&full, platform, &telling).await;
        let image = telling.result(found)?;
        self.image_state(image, platform).await
    }

    async fn find_image(
        &self,
        full: &str,
        platform: &Platform,
        telling: &crate::told::Telling<'_>,
    ) -> Result<Image, Error> {
        let here = {
            let (images, full) = (self.images.clone(), full.to_owned());
            let wanted = platform.to_string();
            blocking(move || Ok(images.resolve_platform(&full, &wanted)?)).await?
        };
        let here = here.filter(|i| self.fits(i, platform));
        let resolver = self.engine.options.resolver.as_ref();
        match (here, resolver) {
            (Some(image), _) if !self.request.pull => Ok(image),
            (Some(image), None) => Ok(image),
            (here, Some(resolver)) => {
                let told = |what: &str, done, total| telling.transfer(what, done, total);
                match (resolver.pull(full, platform, &told).await, here) {
                    (Ok(image), _) => {
                        // of an index the store may have had another platform's
                        let (images, wanted) = (self.images.clone(), platform.to_string());
                        let full = full.to_owned();
                        let own = blocking(move || Ok(images.resolve_platform(&full, &wanted)?));
                        Ok(own.await?.unwrap_or(image))
                    }
                    (Err(why), Some(image)) => {
                        self.told
                            .warn(format!("{full}: {why}; the one on this machine is used"));
                        Ok(image)
                    }
                    (Err(why), None) => Err(Error::Request(format!(
                        "failed to resolve source metadata for {full}: {why}"
                    ))),
                }
            }
            (None, None) => Err(knarr_image::Error::NotFound(full.to_owned()).into()),
        }
    }

    fn fits(&self, image: &Image, platform: &Platform) -> bool {
        let config = self.images.raw_config(image).unwrap_or_default();
        config["architecture"] == platform.architecture.as_str()
            || config["architecture"].as_str().is_none_or(str::is_empty)
    }

    async fn image_state(&self, image: Image, platform: &Platform) -> Result<State, Error> {
        let (images, of) = (self.images.clone(), image.clone());
        let (doc, infos) = blocking(move || {
            images.hold(&of.digest)?;
            Ok((images.raw_config(&of)?, images.layer_infos(&of)?))
        })
        .await?;
        let mut doc: Doc = serde_json::from_value(doc).map_err(|e| {
            Error::Request(format!("failed to parse image config: {}: {e}", image.name))
        })?;
        let found = Platform {
            os: doc.os.clone(),
            architecture: doc.architecture.clone(),
            variant: doc.variant.clone(),
        };
        if (&found.os, &found.architecture) != (&platform.os, &platform.architecture) {
            self.told.warn(format!(
                "InvalidBaseImagePlatform: Base image {} was pulled with platform \"{found}\", expected \"{platform}\" for current build",
                image.name
            ));
        }
        let created = doc
            .created
            .take()
            .unwrap_or_else(|| "1970-01-01T00:00:00Z".into());
        // an image need not tell its history; others read ours only if each layer has an entry
        let known = doc.history.iter().filter(|h| !h.empty_layer).count();
        for _ in known..infos.len() {
            doc.history.push(History {
                created: Some(created.clone()),
                created_by: format!("layer of {}", image.name),
                ..History::default()
            });
        }
        let dated: Vec<Option<String>> = doc
            .history
            .iter()
            .filter(|h| !h.empty_layer)
            .map(|h| h.created.clone())
            .collect();
        let chain = infos
            .into_iter()
            .enumerate()
            .map(|(i, info)| Link {
                dir: self.images.layer(&info.diff_id),
                empty: false,
                created: dated
                    .get(i)
                    .cloned()
                    .flatten()
                    .unwrap_or_else(|| created.clone()),
                of: LinkOf::Base(info),
            })
            .collect();
        let scope = Scope::of_image(&doc.config.env);
        Ok(State {
            key: Key::new("image", doc.rootfs.diff_ids.iter().map(String::as_str)),
            base_entries: doc.history.len(),
            bases: vec![(image.name, image.digest)],
            scope,
            doc,
            args: vec![],
            chain,
            platform: platform.clone(),
            triggers: vec![],
        })
    }
}

fn open_folder(name: &str, folder: &std::path::Path) -> Result<Outer, Error> {
    let path: PathBuf = folder.join(".dockerignore");
    let ignore = match std::fs::read_to_string(&path) {
        Ok(text) => {
            Ignore::parse(&text).map_err(|e| Error::Request(format!("{}: {e}", path.display())))?
        }
        Err(_) => Ignore::default(),
    };
    Ok(Outer::Folder(Tree::context(name, folder, ignore)?))
}
