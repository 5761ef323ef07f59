//! What a build is asked for, and what it gives: plain data.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use futures::future::BoxFuture;
use knarr_dockerfile::{Check, Network, Platform};
use knarr_image::Image;

use crate::{
    error::{Error, blocking, io},
    shared_cache::{CacheFrom, CacheTo},
};

/// SOURCE: buildkit session/secrets MaxSecretSize
const SECRET_BYTES_MAX: u64 = 500 * 1024;

/// Where the files of `COPY` and `ADD` come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Context {
    /// No files at all.
    #[default]
    Empty,
    Folder(PathBuf),
    /// A git repository, or an archive behind HTTP(S).
    Url(String),
    /// A tar archive, perhaps compressed.
    Archive(PathBuf),
}

/// Which Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerfileFrom {
    /// A path in the context.
    Context(PathBuf),
    /// A file of the machine's, in the context or not.
    File(PathBuf),
    /// The text itself, e.g. from standard input.
    Text(String),
}

impl Default for DockerfileFrom {
    fn default() -> DockerfileFrom {
        DockerfileFrom::Context("Dockerfile".into())
    }
}

/// `--build-context NAME=…`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    Folder(PathBuf),
    /// `docker-image://NAME`
    Image(String),
    /// `oci-layout://FOLDER[:TAG][@DIGEST]`
    Layout {
        folder: PathBuf,
        reference: Option<String>,
    },
    /// A git repository, or an archive behind HTTP(S).
    Url(String),
    /// Another stage of the same Dockerfile, by its name (`target:NAME`).
    Stage(String),
}

/// `--secret`
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Secret::File(path) => f.debug_tuple("File").field(path).finish(),
            Secret::Bytes(_) => f.write_str("Bytes(…)"),
        }
    }
}

type Lending = dyn Fn(String) -> BoxFuture<'static, Result<Option<Vec<u8>>, String>> + Send + Sync;

/// Asked for secrets that the request doesn't have, by their ids; None: there is none.
#[derive(Clone)]
pub struct Lender(pub Arc<Lending>);

impl std::fmt::Debug for Lender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lender")
    }
}

/// `--no-cache`, `--no-cache-filter`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NoCache {
    #[default]
    Never,
    Always,
    /// The stages of these names.
    Stages(Vec<String>),
}

/// `--allow`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entitlement {
    /// `RUN --network=host`
    NetworkHost,
    /// `RUN --security=insecure`
    SecurityInsecure,
}

impl Entitlement {
    /// `network.host`, `security.insecure`
    pub fn parse(text: &str) -> Option<Entitlement> {
        match text {
            "network.host" => Some(Entitlement::NetworkHost),
            "security.insecure" => Some(Entitlement::SecurityInsecure),
            _ => None,
        }
    }
}

/// `--output type=…`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    pub kind: OutputKind,
    /// File or folder; `-` is standard output; empty for the store.
    pub destination: PathBuf,
    /// Names for the image, beside the build's.
    pub names: Vec<String>,
    /// Sent to the registries of its names.
    pub push: bool,
    /// Sent without its tag.
    pub push_by_digest: bool,
    /// A folder instead of an archive of it.
    pub unpacked: bool,
    pub compression: Option<Packing>,
    /// Layers of bases, too, are compressed so.
    pub force_compression: bool,
    /// Local and tar: no folder for each of several platforms (`platform-split=false`).
    pub merged: bool,
    pub annotations: Annotations,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputKind {
    /// An OCI layout, as archive.
    Oci,
    /// What `docker load` takes.
    Docker,
    /// The image's files, as archive.
    Tar,
    /// The image's files, in a folder.
    Local,
    /// An image in the store.
    #[default]
    Image,
    /// Nothing but what the cache keeps.
    CacheOnly,
}

impl OutputKind {
    /// It needs an image.
    pub(crate) fn is_image(self) -> bool {
        matches!(
            self,
            OutputKind::Oci | OutputKind::Docker | OutputKind::Image
        )
    }
}

/// How layers that a build makes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// By the part of the image that they are of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Annotations {
    pub manifest: BTreeMap<String, String>,
    /// Of the manifest's entry in the index.
    pub descriptor: BTreeMap<String, String>,
    pub index: BTreeMap<String, String>,
}

impl Annotations {
    /// `[TYPE[,TYPE…][PLATFORM]:]KEY=VALUE`. SOURCE: buildx util/buildflags ParseAnnotations
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let (head, value) = text
            .split_once('=')
            .ok_or_else(|| format!("invalid annotation {text:?}, expected key=value"))?;
        let (kinds, key) = match head.split_once(':') {
            Some((kinds, key)) => (kinds, key),
            None => ("manifest", head),
        };
        for kind in kinds.split(',') {
            // `manifest[linux/amd64]`: a build's platforms have the same annotations here
            let name = kind.split('[').next().unwrap_or(kind);
            let into = match name {
                "manifest" => &mut self.manifest,
                "manifest-descriptor" => &mut self.descriptor,
                "index" => &mut self.index,
                other => return Err(format!("unrecognized annotation type {other:?}")),
            };
            into.insert(key.to_owned(), value.to_owned());
        }
        Ok(())
    }
    pub(crate) fn extend(&mut self, more: &Annotations) {
        let pairs = [
            (&mut self.manifest, &more.manifest),
            (&mut self.descriptor, &more.descriptor),
            (&mut self.index, &more.index),
        ];
        for (into, from) in pairs {
            into.extend(from.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
    }
}

/// A build.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    pub context: Context,
    pub dockerfile: DockerfileFrom,
    /// The stage to build; None: the last.
    pub target: Option<String>,
    /// `--build-arg`
    pub args: BTreeMap<String, String>,
    /// Labels of the image, beside the Dockerfile's.
    pub labels: BTreeMap<String, String>,
    pub annotations: Annotations,
    pub contexts: BTreeMap<String, NamedContext>,
    /// By id.
    pub secrets: BTreeMap<String, Secret>,
    /// Who has more of them.
    pub lender: Option<Lender>,
    /// Agents' sockets, by id (`default`).
    pub ssh: BTreeMap<String, PathBuf>,
    pub no_cache: NoCache,
    /// Ask the registry for a newer base even when there is one here.
    pub pull: bool,
    /// None: this machine's. With several the image is an index.
    pub platforms: Vec<Platform>,
    /// Names for the image.
    pub tags: Vec<String>,
    /// Of `RUN`s that don't say.
    pub network: Network,
    /// (name, address) for `/etc/hosts`.
    pub add_hosts: Vec<(String, String)>,
    pub allow: BTreeSet<Entitlement>,
    /// Seconds since 1970 for all times in the image: the same input gives the same digest. The build argument
    /// `SOURCE_DATE_EPOCH` means the same.
    pub source_date_epoch: Option<i64>,
    /// Beside the store.
    pub outputs: Vec<Output>,
    /// No image in the store: only `outputs`.
    pub not_stored: bool,
    pub cache_from: Vec<CacheFrom>,
    pub cache_to: Vec<CacheTo>,
    /// What is said of the image beside it.
    pub attestations: crate::attest::Attestations,
    /// Size in bytes of `/dev/shm` in `RUN`; 0 for the usual.
    pub shm_size: u64,
    /// Of the processes of `RUN`.
    pub ulimits: Vec<knarr_runtime::Rlimit>,
}

impl BuildRequest {
    /// The secret of an id, whoever has it.
    pub(crate) async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, Error> {
        match (self.secrets.get(id).cloned(), &self.lender) {
            (None, None) => Ok(None),
            (None, Some(Lender(ask))) => ask(id.to_owned()).await.map_err(Error::Request),
            (Some(Secret::Bytes(bytes)), _) => Ok(Some(bytes)),
            (Some(Secret::File(path)), _) => {
                blocking(move || {
                    let size = std::fs::metadata(&path).map_err(io(&path))?.len();
                    if size > SECRET_BYTES_MAX {
                        return Err(Error::Request(format!(
                            "secret {} is {size} bytes; the most is {SECRET_BYTES_MAX}",
                            path.display()
                        )));
                    }
                    std::fs::read(&path).map(Some).map_err(io(&path))
                })
                .await
            }
        }
    }
}

/// What a build made.
#[derive(Debug, Clone)]
pub struct Built {
    /// None when only outputs were asked for that are no images.
    pub image: Option<Image>,
    /// It is an index of several platforms' images.
    pub several: bool,
    /// What the build checks found.
    pub checks: Vec<Check>,
    /// Steps that ran, and those whose results were there.
    pub steps_run: usize,
    pub steps_cached: usize,
    /// As `--metadata-file` gets it.
    pub metadata: serde_json::Value,
}
