//! Images brought here.

use super::{
    ClientConfig, Credential, Error, Event, Progress, Reference, Step,
    download::{self, blocking},
    policy,
    session::{Call, Session},
    signatures::{self, Signature},
};
use crate::{
    Image, ImageStore,
    collect::MANIFEST_BYTES_MAX,
    manifest::{ConfigFile, Descriptor, INDEX_DEPTH_MAX, Index, Manifest, Platform},
    store::digest_of,
};
use ::http::{HeaderValue, Method, StatusCode, header};
use futures::{FutureExt, StreamExt, TryStreamExt};

/// What we take for a manifest.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// The most bytes of an image's configuration.
const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// The most layers of an image, and manifests of an index.
const LAYERS_MAX: usize = 1024;

/// Which of an index's images are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Platforms {
    /// This machine's.
    #[default]
    Here,
    /// `OS/ARCHITECTURE[/VARIANT]`.
    One(String),
    All,
}

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    pub config: ClientConfig,
    pub platforms: Platforms,
    /// Tried one after the other; with none, what the files of logins say, or no login at all.
    pub credentials: Vec<Credential>,
    /// The image gets no name: [`ImageStore::by_digest`] finds it as long as a lease holds it.
    pub unnamed: bool,
}

impl ImageStore {
    /// Brings an image here and gives it its name. What is here already isn't brought again; what an earlier pull brought
    /// a part of goes on there. Nothing gets a name before all of it is here and its digests are right.
    ///
    /// # Errors
    /// When the registry doesn't give it, gives something else, or the disk fails.
    pub async fn pull(
        &self,
        name: &str,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<Image, Error> {
        let reference = Reference::parse(name)?;
        let store = {
            let store = self.clone();
            blocking(move || store.leased()).await??
        };
        let session = Session::new(&options.config, &reference, options.credentials.clone())?;
        let pull = Pull {
            store,
            session,
            reference,
            options,
            progress,
        };
        pull.run().await
    }
}

struct Pull<'a> {
    store: ImageStore,
    session: Session,
    reference: Reference,
    options: &'a PullOptions,
    progress: &'a dyn Progress,
}

/// `OS/ARCHITECTURE[/VARIANT]` in its parts.
pub(super) fn platform(text: &str) -> Result<Platform, Error> {
    let parts: Vec<&str> = text.split('/').collect();
    let bad = || Error::Config {
        path: format!("platform {text:?}"),
        why: "expected OS/ARCHITECTURE[/VARIANT], e.g. linux/arm64".into(),
    };
    let (os, architecture, variant) = match parts.as_slice() {
        [os, architecture] => (*os, *architecture, None),
        [os, architecture, variant] => (*os, *architecture, Some(variant.to_string())),
        _ => return Err(bad()),
    };
    let architecture = match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    if os.is_empty() || architecture.is_empty() {
        return Err(bad());
    }
    Ok(Platform {
        architecture: architecture.into(),
        os: os.into(),
        // arm64 without a variant is v8
        variant: variant.filter(|v| !(architecture == "arm64" && v == "v8")),
        os_version: None,
    })
}

fn shown(p: &Platform) -> String {
    let variant = p.variant.as_ref().map(|v| format!("/{v}"));
    format!("{}/{}{}", p.os, p.architecture, variant.unwrap_or_default())
}

impl Pull<'_> {
    async fn run(&self) -> Result<Image, Error> {
        let selector = self.reference.selector().to_string();
        let (digest, bytes) = self.manifest(&selector, None).await?;
        self.progress.event(Event::Resolved {
            reference: self.reference.to_string(),
            digest: digest.clone(),
        });
        self.allowed(&digest, &bytes).await?;
        self.put(bytes.clone()).await?;
        self.below(&digest, &bytes).await?;
        let (store, name) = (self.store.clone(), self.reference.to_string());
        let other = self.options.platforms != Platforms::Here;
        let unnamed = self.options.unnamed;
        blocking(move || {
            // this machine's image must be whole before the name is set; another's can't be looked at as ours
            let image = match (store.image(&name, &digest), other) {
                (Ok(image), _) => Some(image),
                (Err(error), false) => return Err(error.into()),
                (Err(_), true) => None,
            };
            if !unnamed {
                store.tag_as(&name, &digest, true)?;
            }
            match image {
                Some(image) => Ok(image),
                None => Ok(store.image_of_any(&name, &digest)?),
            }
        })
        .await?
    }

    /// Holds the image against the policy: it, or all that is wanted of an index, must be signed as that says.
    async fn allowed(&self, digest: &str, bytes: &[u8]) -> Result<(), Error> {
        let (config, reference) = (self.session.config.clone(), self.reference.clone());
        let found = blocking(move || policy::of(&config, &reference)).await??;
        let Some((path, policy::Wanted::Signatures(wanted))) = found else {
            return Ok(());
        };
        let Err(mut why) = self.signed(digest, &wanted).await? else {
            return Ok(());
        };
        if let Ok(index) = serde_json::from_slice::<Index>(bytes) {
            let mut all = true;
            for one in self.wanted(&index)? {
                if let Err(other) = self.signed(&one.digest, &wanted).await? {
                    (why, all) = (other, false);
                    break;
                }
            }
            if all {
                return Ok(());
            }
        }
        Err(Error::Policy {
            path: path.display().to_string(),
            image: self.reference.to_string(),
            why,
        })
    }

    /// Whether the manifest `digest` has all the signatures that are wanted; if not, why.
    async fn signed(
        &self,
        digest: &str,
        wanted: &[policy::Signed],
    ) -> Result<Result<(), String>, Error> {
        let found = self.signatures(digest).await?;
        let each = |one| signatures::satisfies(one, &self.reference, digest, &found);
        Ok(wanted.iter().try_for_each(each))
    }

    /// The signatures that lie beside a manifest.
    async fn signatures(&self, digest: &str) -> Result<Vec<Signature>, Error> {
        let bytes = match self.manifest(&signatures::tag(digest), None).await {
            Ok((_, bytes)) => bytes,
            Err(Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| {
            Error::wrong(
                self.reference.name(),
                format!("signatures of {digest}: {e}"),
            )
        })?;
        let scopes = self.session.scope("pull");
        let mut found = Vec::new();
        for (layer, signature) in signatures::statements(&manifest) {
            let path = format!("/{}/blobs/{}", self.session.repository, layer.digest);
            let call = Call::new(Method::GET, path, &scopes);
            let good = |s| s == StatusCode::OK;
            let (_, answer) = self.session.ask_any(|h| h.pull, &call, good).await?;
            let url = answer.url.clone();
            let statement = answer.whole(signatures::STATEMENT_BYTES_MAX).await?;
            if digest_of(&statement) != layer.digest {
                return Err(Error::wrong(
                    &url,
                    format!("{} has other content", layer.digest),
                ));
            }
            found.push(Signature {
                statement,
                signature,
            });
        }
        Ok(found)
    }

    async fn put(&self, bytes: Vec<u8>) -> Result<String, Error> {
        let store = self.store.clone();
        Ok(blocking(move || store.put_bytes(&bytes)).await??)
    }

    /// A manifest or index by tag or digest, checked against the digest and the size that are known.
    async fn manifest(
        &self,
        selector: &str,
        size: Option<u64>,
    ) -> Result<(String, Vec<u8>), Error> {
        let known = selector
            .starts_with("sha256:")
            .then(|| selector.to_string());
        if let Some(digest) = &known {
            let (store, digest) = (self.store.clone(), digest.clone());
            let here = move || {
                store.hold(&digest)?;
                let there = store.blob(&digest).exists();
                let read = there.then(|| store.read_blob(&digest));
                Ok::<_, crate::Error>(read.transpose()?.map(|bytes| (digest, bytes)))
            };
            if let Some((digest, bytes)) = blocking(here).await?? {
                return self.checked(digest, bytes, size);
            }
        }
        let scopes = self.session.scope("pull");
        let path = format!("/{}/manifests/{selector}", self.session.repository);
        let mut call = Call::new(Method::GET, path, &scopes);
        call.headers
            .insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
        let fits = |h: &super::hosts::Host| h.resolve || (h.pull && known.is_some());
        let asked = self
            .session
            .ask_any(fits, &call, |s| s == StatusCode::OK)
            .await;
        let (_, answer) = asked.map_err(|error| match error {
            Error::Status {
                status: 404, body, ..
            } => Error::NotFound {
                reference: self.reference.to_string(),
                why: if body.is_empty() {
                    "not found".into()
                } else {
                    body
                },
            },
            other => other,
        })?;
        let url = answer.url.clone();
        let said = answer.header("docker-content-digest").map(str::to_string);
        let bytes = answer.whole(MANIFEST_BYTES_MAX as usize).await?;
        let digest = digest_of(&bytes);
        let said = said.filter(|d| d.starts_with("sha256:"));
        if let Some(want) = known.or(said)
            && want != digest
        {
            return Err(Error::wrong(
                &url,
                format!("the manifest {want} has content with digest {digest}"),
            ));
        }
        self.checked(digest, bytes, size)
    }

    fn checked(
        &self,
        digest: String,
        bytes: Vec<u8>,
        size: Option<u64>,
    ) -> Result<(String, Vec<u8>), Error> {
        match size {
            Some(size) if size != bytes.len() as u64 => Err(Error::wrong(
                self.reference.name(),
                format!(
                    "the index says {size} bytes of {digest}, which has {}",
                    bytes.len()
                ),
            )),
            _ => Ok((digest, bytes)),
        }
    }

    /// Brings what a manifest or index leads to.
    async fn below(&self, digest: &str, bytes: &[u8]) -> Result<(), Error> {
        let mut left = vec![(digest.to_string(), bytes.to_vec(), 0)];
        while let Some((digest, bytes, depth)) = left.pop() {
            let Ok(index) = serde_json::from_slice::<Index>(&bytes) else {
                self.image(&digest, &bytes).await?;
                continue;
            };
            if depth >= INDEX_DEPTH_MAX || index.manifests.len() > LAYERS_MAX {
                return Err(Error::wrong(
                    self.reference.name(),
                    "indexes nest too deep or are too long",
                ));
            }
            for wanted in self.wanted(&index)? {
                let got = self.manifest(&wanted.digest, Some(wanted.size)).await?;
                self.put(got.1.clone()).await?;
                left.push((got.0, got.1, depth + 1));
            }
        }
        Ok(())
    }

    /// The manifests of an index that are to be brought.
    fn wanted(&self, index: &Index) -> Result<Vec<Descriptor>, Error> {
        // attestations say that they run nowhere
        let images = index
            .manifests
            .iter()
            .filter(|m| m.platform.as_ref().is_none_or(|p| p.os != "unknown"));
        let want = match &self.options.platforms {
            Platforms::All => return Ok(index.manifests.clone()),
            Platforms::Here => Platform::here(),
            Platforms::One(text) => platform(text)?,
        };
        let found = images
            .clone()
            .find(|m| m.platform.as_ref().is_none_or(|p| p.fits(&want)));
        match found {
            Some(found) => Ok(vec![found.clone()]),
            None => {
                let has: Vec<String> = images
                    .filter_map(|m| m.platform.as_ref().map(shown))
                    .collect();
                Err(Error::Platform {
                    reference: self.reference.to_string(),
                    platform: shown(&want),
                    has: match has.is_empty() {
                        true => "none".into(),
                        false => has.join(", "),
                    },
                })
            }
        }
    }

    /// Brings the config and the layers of one image, and unpacks them.
    async fn image(&self, digest: &str, bytes: &[u8]) -> Result<(), Error> {
        let wrong = |why: String| Error::wrong(self.reference.name(), why);
        let manifest: Manifest = serde_json::from_slice(bytes)
            .map_err(|e| wrong(format!("{digest} is no manifest of an image: {e}")))?;
        let layers = manifest.layers.clone();
        if layers.len() > LAYERS_MAX || manifest.config.size > CONFIG_BYTES_MAX {
            return Err(wrong(format!("the manifest {digest} is out of bounds")));
        }
        let all = layers.iter().chain([&manifest.config]);
        if let Some(odd) = all
            .clone()
            .find(|d| !crate::reference::is_digest(&d.digest))
        {
            return Err(wrong(format!("{:?} is no sha256 digest", odd.digest)));
        }
        for one in all {
            self.tell(&one.digest, Step::Waiting);
        }
        self.blob(&manifest.config).await?;
        self.tell(&manifest.config.digest, Step::Done);
        let config: Option<ConfigFile> = {
            let (store, id) = (self.store.clone(), manifest.config.digest.clone());
            let bytes = blocking(move || store.read_blob(&id)).await??;
            serde_json::from_slice(&bytes).ok()
        };
        let ids = match config {
            Some(config) if config.rootfs.diff_ids.len() == layers.len() => config.rootfs.diff_ids,
            // attestations come along with all platforms; nothing of them is unpacked
            _ if self.options.platforms == Platforms::All => vec![String::new(); layers.len()],
            Some(_) => {
                return Err(wrong(format!(
                    "{digest}: layers and diff_ids differ in number"
                )));
            }
            None => {
                let kind = manifest.config.media_type;
                return Err(Error::Artifact(self.reference.to_string(), kind));
            }
        };
        let pairs = layers.into_iter().zip(ids);
        let work: Vec<_> = pairs
            .map(|(layer, diff_id)| self.layer(layer, diff_id).boxed())
            .collect();
        futures::stream::iter(work)
            .buffer_unordered(self.options.config.parallel.max(1))
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }

    async fn layer(&self, layer: Descriptor, diff_id: String) -> Result<(), Error> {
        let unpacked = {
            let (store, diff_id) = (self.store.clone(), diff_id.clone());
            let held = move || {
                store.hold(&diff_id)?;
                Ok::<_, crate::Error>(
                    !diff_id.is_empty()
                        && store.layer(&diff_id).exists()
                        && store.has_blob(&diff_id),
                )
            };
            blocking(held).await??
        };
        if unpacked {
            self.tell(&layer.digest, Step::Exists);
            return Ok(());
        }
        self.blob(&layer).await?;
        if !diff_id.is_empty() {
            self.tell(&layer.digest, Step::Working);
            let (store, digest) = (self.store.clone(), layer.digest.clone());
            blocking(move || store.unpack_layer(&digest, &diff_id)).await??;
        }
        self.tell(&layer.digest, Step::Done);
        Ok(())
    }

    /// Brings a blob, and remembers where it is.
    async fn blob(&self, wanted: &Descriptor) -> Result<(), Error> {
        download::blob(&self.session, &self.store, wanted, self.progress).await?;
        let (store, digest) = (self.store.clone(), wanted.digest.clone());
        let source = self.reference.name();
        Ok(blocking(move || store.add_source(&digest, &source)).await??)
    }

    fn tell(&self, digest: &str, step: Step) {
        self.progress.event(Event::Blob {
            digest: digest.to_string(),
            step,
        });
    }
}
