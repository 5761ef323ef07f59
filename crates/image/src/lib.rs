//! OCI images on this machine: the content store, the packer, archives.
//!
//! It is: content by digest, names to manifests, layers unpacked once for overlay mounts.
//! It is not: a builder or a container runtime.
//! It must never know: Kubernetes.
#![forbid(unsafe_code)]

mod archive;
mod elf;
mod layer;
mod manifest;
mod pack;
mod reference;
mod store;

pub use reference::normalize;
pub use store::ImageStore;

use std::{collections::BTreeMap, path::PathBuf};

/// What a runtime needs of an image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Full name, e.g. `docker.io/library/redis:7`.
    pub name: String,
    /// Manifest digest, `sha256:…`.
    pub digest: String,
    /// Config digest, `sha256:…` (what Docker calls the image id).
    pub id: String,
    pub config: ImageConfig,
    /// Unpacked directories, topmost first (overlay `lowerdir` order).
    pub layers: Vec<PathBuf>,
    /// Sum of the layer blobs.
    pub size_bytes: u64,
    /// RFC 3339, when the config records it.
    pub created: Option<String>,
}

/// The OCI image configuration's `config` object (image-spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub user: String,
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    pub exposed_ports: Vec<String>,
    pub volumes: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
}

/// What `pack` makes an image of.
#[derive(Debug, Clone, Default)]
pub struct PackSpec {
    /// Executables; the first is the entrypoint unless `config` names one. Each lands at its own path.
    pub executables: Vec<PathBuf>,
    /// Extra (source, destination) files or folders.
    pub add: Vec<(PathBuf, PathBuf)>,
    pub config: ImageConfig,
    /// Tag to set.
    pub name: String,
    /// Leave out CA certificates, time zones and account files.
    pub bare: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("invalid reference format: {0:?}: use NAME[:TAG], e.g. docker.io/library/redis:7")]
    Reference(String),
    #[error(
        "image {0} is not on this machine: load it with `knarr image load`, or make it with `knarr image pack`"
    )]
    NotFound(String),
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: not an image archive: {why}")]
    Archive { path: PathBuf, why: String },
    #[error("blob {digest} is damaged: {why}; remove the image and load it again")]
    Corrupt { digest: String, why: String },
    #[error("cannot pack {path}: {why}")]
    Pack { path: PathBuf, why: String },
}

pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { path, source }
}
