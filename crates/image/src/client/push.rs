//! Images sent to a registry.

use super::{
    ClientConfig, Credential, Error, Event, Progress, Reference, Step,
    download::blocking,
    session::{Call, Place, Session, Tries},
    upload::{self, Growing, Outgoing},
};
pub use crate::compress::Compression;
use crate::{
    ImageStore, LayerInfo,
    block::Way,
    compress::Made,
    manifest::{Index, MANIFEST},
    store::digest_of,
};
use ::http::{HeaderValue, Method, header};
use futures::{FutureExt, StreamExt, TryStreamExt};
use std::sync::{Arc, OnceLock, atomic::AtomicU64};

/// How to push.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    pub config: ClientConfig,
    /// Of layers that are plain tars here. What came compressed goes as it came.
    pub compression: Compression,
    /// All images of an index, which must be here, and the index itself; else this machine's alone.
    pub all_platforms: bool,
    /// Blobs go in pieces of so many bytes; none: each in one request.
    pub chunk_bytes: Option<u64>,
    /// Tried one after the other; with none, what the files of logins say, or no login at all.
    pub credentials: Vec<Credential>,
}

/// What was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Of the manifest or index as the registry has it: with layers compressed on the way it isn't the local one.
    pub digest: String,
    /// Bytes of the manifest or index.
    pub size: u64,
    /// Where it went, with its tag.
    pub reference: String,
}

impl ImageStore {
    /// Sends the local image `name` to the registry, as `to`. Blobs that the registry has aren't sent; those it has in
    /// another repository are taken from there.
    ///
    /// # Errors
    /// When the image isn't here, or the registry doesn't take it. What was sent before that stays there unnamed.
    pub async fn push(
        &self,
        name: &str,
        to: &str,
        options: &PushOptions,
        progress: &dyn Progress,
    ) -> Result<Pushed, Error> {
        let reference = Reference::parse(to)?;
        let (store, image) = {
            let (store, name) = (self.clone(), name.to_string());
            blocking(move || {
                let store = store.leased()?;
                let found = store.resolve(&name)?.ok_or(crate::Error::NotFound(name))?;
                store.hold(&found.digest)?;
                Ok::<_, crate::Error>((store, found))
            })
            .await??
        };
        let session = Session::new(&options.config, &reference, options.credentials.clone())?;
        let place = session
            .places
            .iter()
            .position(|p| p.host.push && !p.host.mirror);
        let place = place.or(session.places.iter().position(|p| p.host.push));
        let place = place.ok_or_else(|| Error::Config {
            path: reference.registry.clone(),
            why: "no host of it is set up to be pushed to".into(),
        })?;
        let push = Push {
            store,
            session,
            place,
            options,
            progress,
        };
        progress.event(Event::Resolved {
            reference: reference.to_string(),
            digest: image.digest.clone(),
        });
        let tag = reference.tag.clone();
        let tag = tag
            .as_deref()
            .or(reference.digest.as_deref())
            .unwrap_or("latest");
        let (digest, size) = match options.all_platforms && image.digest != image.manifest {
            true => push.index(&image.digest, tag).await?,
            false => push.image(&image.manifest, Some(tag)).await?,
        };
        Ok(Pushed {
            digest,
            size,
            reference: reference.to_string(),
        })
    }
}

struct Push<'a> {
    store: ImageStore,
    session: Session,
    place: usize,
    options: &'a PushOptions,
    progress: &'a dyn Progress,
}

impl Push<'_> {
    fn place(&self) -> &Place {
        &self.session.places[self.place]
    }

    fn tell(&self, digest: &str, step: Step) {
        self.progress.event(Event::Blob {
            digest: digest.to_string(),
            step,
        });
    }

    async fn read(&self, digest: &str) -> Result<Vec<u8>, Error> {
        let (store, digest) = (self.store.clone(), digest.to_string());
        Ok(blocking(move || store.read_blob(&digest)).await??)
    }

    /// All images of an index, then the index.
    async fn index(&self, digest: &str, tag: &str) -> Result<(String, u64), Error> {
        let broken = |why: String| crate::Error::Corrupt {
            digest: digest.into(),
            why,
        };
        let bytes = self.read(digest).await?;
        let index: Index = serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
        let mut value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
        let mut changed = false;
        for (at, one) in index.manifests.iter().enumerate() {
            let (got, size) = Box::pin(self.image(&one.digest, None)).await?;
            if got != one.digest {
                value["manifests"][at]["digest"] = got.into();
                value["manifests"][at]["size"] = size.into();
                changed = true;
            }
        }
        let bytes = match changed {
            true => serde_json::to_vec(&value).map_err(|e| broken(e.to_string()))?,
            false => bytes,
        };
        self.manifest(bytes, Some(tag)).await
    }

    /// An image: its layers and config, then its manifest by `tag`, or by its digest.
    async fn image(&self, digest: &str, tag: Option<&str>) -> Result<(String, u64), Error> {
        let bytes = self.read(digest).await?;
        let broken = |why: String| crate::Error::Corrupt {
            digest: digest.into(),
            why,
        };
        let mut value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
        let (config, layers) = {
            let (store, digest) = (self.store.clone(), digest.to_string());
            blocking(move || store.parts(&digest)).await??
        };
        for layer in &layers {
            self.tell(&layer.digest, Step::Waiting);
        }
        let one = async |at: usize, layer: LayerInfo| {
            let sent = self.layer(&layer).await?;
            Ok::<_, Error>((at, sent))
        };
        let all = layers.iter().cloned().enumerate();
        let work: Vec<_> = all.map(|(at, layer)| one(at, layer).boxed()).collect();
        let sent: Vec<(usize, LayerInfo)> = futures::stream::iter(work)
            .buffer_unordered(self.options.config.parallel.max(1))
            .try_collect()
            .await?;
        let mut changed = false;
        for (at, layer) in sent {
            if layer.digest != layers[at].digest {
                let entry = &mut value["layers"][at];
                entry["digest"] = layer.digest.into();
                entry["size"] = layer.size_bytes.into();
                entry["mediaType"] = layer.media_type.into();
                changed = true;
            }
        }
        self.blob(&config).await?;
        let bytes = match changed {
            true => serde_json::to_vec(&value).map_err(|e| broken(e.to_string()))?,
            false => bytes,
        };
        if changed {
            // the same image under the digest that the registry knows: so that it is found by it, too
            let (store, bytes) = (self.store.clone(), bytes.clone());
            blocking(move || store.put_bytes(&bytes)).await??;
        }
        self.manifest(bytes, tag).await
    }

    async fn manifest(&self, bytes: Vec<u8>, tag: Option<&str>) -> Result<(String, u64), Error> {
        let digest = digest_of(&bytes);
        let parsed: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let kind = parsed["mediaType"]
            .as_str()
            .unwrap_or(match parsed["manifests"].is_array() {
                true => crate::manifest::INDEX,
                false => MANIFEST,
            });
        let kind = HeaderValue::from_str(kind).unwrap_or(HeaderValue::from_static(MANIFEST));
        let scopes = self.session.scope("pull,push");
        let selector = tag.unwrap_or(&digest);
        let path = format!("/{}/manifests/{selector}", self.session.repository);
        let size = bytes.len() as u64;
        let body = bytes::Bytes::from(bytes);
        let make = move || super::body::bytes(body.clone());
        let mut call = Call::new(Method::PUT, path, &scopes);
        call.headers.insert(header::CONTENT_TYPE, kind);
        call.body = &make;
        let mut tries = Tries::new(self.session.config.attempts);
        let limit = self.session.config.stall_timeout;
        loop {
            let asked = self.session.ask(self.place(), &call);
            let late = || Error::network(&self.session.registry, "no answer to the manifest");
            let asked = tokio::time::timeout(limit, asked).await;
            let error = match asked.unwrap_or_else(|_| Err(late())) {
                Ok(answer) if answer.status().is_success() => break,
                Ok(answer) => answer.refused().await,
                Err(error) => error,
            };
            tries.after(error).await?;
        }
        Ok((digest, size))
    }

    /// Sends a layer, compressed if it isn't yet; gives what it became.
    async fn layer(&self, layer: &LayerInfo) -> Result<LayerInfo, Error> {
        let kind = self.options.compression;
        // what is said about an image, and other artifacts, are no layers: they go as they are
        if !layer.media_type.contains(".tar") {
            self.blob(layer).await?;
            return Ok(layer.clone());
        }
        let plain = layer.media_type.ends_with(".tar") || layer.digest == layer.diff_id;
        let have = {
            let (store, digest) = (self.store.clone(), layer.digest.clone());
            blocking(move || store.has_blob(&digest)).await?
        };
        if !plain && (have || upload::exists(&self.session, self.place(), &layer.digest).await?) {
            self.blob(layer).await?;
            return Ok(layer.clone());
        }
        let known = {
            let (store, id) = (self.store.clone(), layer.diff_id.clone());
            blocking(move || store.made_of(&id, kind)).await?
        };
        let info = |made: &crate::compress::Made| LayerInfo {
            diff_id: layer.diff_id.clone(),
            digest: made.digest.clone(),
            size_bytes: made.size,
            media_type: match layer.media_type.contains("docker") && kind == Compression::Gzip {
                true => "application/vnd.docker.image.rootfs.diff.tar.gzip".into(),
                false => kind.media_type().into(),
            },
        };
        if let Some(made) = &known
            && self.elsewhere(&layer.digest, &made.digest).await?
        {
            return Ok(info(made));
        }
        self.tell(&layer.digest, Step::Working);
        // as it was made before, if it was
        let way = known.as_ref().and_then(Made::way);
        let way = way.unwrap_or(Way::now(kind));
        // what it will be is known, or it goes out while that is found
        let (made, begun) = match known {
            Some(made) => (made, None),
            None if self.options.chunk_bytes.is_none() => match self.grow(layer, way).await? {
                (Some(made), _) => return Ok(info(&made)),
                (None, begun) => (self.make(&layer.diff_id, way).await?, begun),
            },
            None => (self.make(&layer.diff_id, way).await?, None),
        };
        if begun.is_none() && self.elsewhere(&layer.digest, &made.digest).await? {
            return Ok(info(&made));
        }
        let blob = Outgoing {
            digest: made.digest.clone(),
            size: made.size,
            open: self.growing(&layer.diff_id, way, Arc::default(), Arc::default()),
        };
        self.send(&layer.digest, &blob, begun).await?;
        Ok(info(&made))
    }

    /// Compresses a layer to know what it becomes.
    async fn make(&self, diff_id: &str, way: Way) -> Result<Made, Error> {
        let (store, id) = (self.store.clone(), diff_id.to_owned());
        Ok(blocking(move || store.make(&id, way)).await??.0)
    }

    /// A layer's compressed blob, made anew each time that it is read.
    fn growing(
        &self,
        diff_id: &str,
        way: Way,
        made: Arc<OnceLock<Made>>,
        read: Arc<AtomicU64>,
    ) -> upload::Opener {
        let (store, id) = (self.store.clone(), diff_id.to_owned());
        Arc::new(move || {
            let blob = store.grow(&id, way, made.clone(), read.clone())?;
            Ok(Box::new(blob))
        })
    }

    /// Sends a layer while it is compressed; gives what it became. When that breaks off: none, and where it may go on.
    async fn grow(
        &self,
        layer: &LayerInfo,
        way: Way,
    ) -> Result<(Option<Made>, Option<String>), Error> {
        let made: Arc<OnceLock<Made>> = Arc::default();
        let read: Arc<AtomicU64> = Arc::default();
        let blob = Growing {
            open: self.growing(&layer.diff_id, way, made.clone(), read.clone()),
            made: Arc::new(move || made.get().cloned()),
            read,
            of: layer.size_bytes,
        };
        let tell = |step| self.tell(&layer.digest, step);
        let digest = |made: &Made| made.digest.clone();
        let sent = upload::grow(&self.session, self.place(), &blob, digest, &tell).await;
        let (error, begun) = match sent {
            Ok(made) => {
                self.know(&made.digest).await?;
                self.tell(&layer.digest, Step::Done);
                return Ok((Some(made), None));
            }
            Err(failed) => failed,
        };
        match &error {
            // a registry that takes no streams refuses this and takes it otherwise
            Error::Status { status, .. } if (400..500).contains(status) => Ok((None, None)),
            error if error.is_transient() => {
                tracing::debug!(%error, "a layer that was sent while it was compressed");
                Ok((None, begun))
            }
            _ => Err(error),
        }
    }

    /// Sends a blob as it is.
    async fn blob(&self, layer: &LayerInfo) -> Result<(), Error> {
        if self.elsewhere(&layer.digest, &layer.digest).await? {
            return Ok(());
        }
        let (store, digest) = (self.store.clone(), layer.digest.clone());
        let blob = Outgoing {
            digest: layer.digest.clone(),
            size: layer.size_bytes,
            open: Arc::new(move || {
                let blob = store.need_blob(&digest).map_err(std::io::Error::other)?;
                Ok(Box::new(blob.content))
            }),
        };
        self.send(&layer.digest, &blob, None).await
    }

    async fn send(&self, shown: &str, blob: &Outgoing, begun: Option<String>) -> Result<(), Error> {
        let renamed = |event: Event| match event {
            Event::Blob { step, .. } => self.tell(shown, step),
            other => self.progress.event(other),
        };
        let (session, place) = (&self.session, self.place());
        upload::send(
            session,
            place,
            blob,
            begun,
            self.options.chunk_bytes,
            &renamed,
        )
        .await?;
        self.tell(shown, Step::Done);
        self.know(&blob.digest).await
    }

    /// Whether the registry has the blob, or takes it from another of its repositories.
    async fn elsewhere(&self, shown: &str, digest: &str) -> Result<bool, Error> {
        if upload::exists(&self.session, self.place(), digest).await? {
            self.tell(shown, Step::Exists);
            return Ok(true);
        }
        let (store, wanted) = (self.store.clone(), digest.to_string());
        let sources = blocking(move || store.sources(&wanted)).await?;
        let here = &self.session.registry;
        for source in sources {
            let Some((registry, repository)) = source.split_once('/') else {
                continue;
            };
            if registry != here || repository == self.session.repository {
                continue;
            }
            if upload::mount(&self.session, self.place(), digest, repository)
                .await
                .unwrap_or(false)
            {
                self.tell(shown, Step::Mounted);
                self.know(digest).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn know(&self, digest: &str) -> Result<(), Error> {
        let (store, digest) = (self.store.clone(), digest.to_string());
        let source = format!("{}/{}", self.session.registry, self.session.repository);
        Ok(blocking(move || store.add_source(&digest, &source)).await??)
    }
}
