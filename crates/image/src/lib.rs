//! OCI images on this machine: the content store, the packer, archives, the way to and from registries.
//!
//! It is: content by digest, names to manifests, layers unpacked once for overlay mounts.
//! It is not: a builder or a container runtime.
//! It must never know: Kubernetes.
#![forbid(unsafe_code)]

mod archive;
mod blobs;
mod block;
mod builds;
pub mod client;
mod collect;
mod commit;
mod compress;
mod elf;
mod export;
mod files;
mod lane;
mod layer;
mod lease;
mod links;
mod manifest;
mod pack;
mod power;
mod priority;
mod put;
mod recipe;
mod reference;
mod save;
mod sources;
mod store;
mod tarfile;
mod unpack;
mod whole;

pub use blobs::{Blob, ReadSeek};
pub use collect::Collected;
pub use commit::{LayerInfo, LayerOptions};
pub use export::export_tree;
pub use lane::Lane;
pub use priority::{Low, gently};
pub use reference::normalize;
pub use store::ImageStore;
pub use whole::write_whole;

use std::{collections::BTreeMap, path::PathBuf};

/// What a runtime needs of an image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Full name, e.g. `docker.io/library/redis:7`.
    pub name: String,
    /// Digest of what the name stands for, `sha256:…`: a manifest, or an index of several platforms.
    pub digest: String,
    /// Digest of this machine's manifest; the same as `digest` where there is no index.
    pub manifest: String,
    /// Config digest, `sha256:…` (what Docker calls the image id).
    pub id: String,
    pub config: ImageConfig,
    /// Unpacked directories, topmost first (overlay `lowerdir` order). A layer that the image has several times (the empty
    /// one, say) stands once, where it's topmost: what lies below has no effect, and overlayfs refuses it.
    pub layers: Vec<PathBuf>,
    /// Sum of the layer blobs.
    pub size_bytes: u64,
    /// RFC 3339, when the config records it.
    pub created: Option<String>,
    /// It came from a registry under this name; false: it was made or loaded here.
    pub pulled: bool,
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
    /// Seconds to wait for the end after the stop signal (Docker's addition).
    pub stop_timeout_s: Option<i64>,
    /// Docker's addition; Kubernetes doesn't look at it.
    pub healthcheck: Option<Healthcheck>,
    /// What the shell forms of a Dockerfile's instructions run in (Docker's addition).
    pub shell: Vec<String>,
    /// Instructions for the builds on top of this image (Docker's addition).
    pub on_build: Vec<String>,
}

/// Docker's `Healthcheck` (moby `api/types/container`, docker image spec): zero inherits what is below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// Empty inherits; `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    pub test: Vec<String>,
    pub interval_ns: i64,
    pub timeout_ns: i64,
    pub start_period_ns: i64,
    pub start_interval_ns: i64,
    pub retries: i64,
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
        "No such image: {0} is not on this machine: `knarr image ls` lists those that are; `knarr pull`, `knarr build` and `knarr image load` bring one"
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
    #[error("{path} can't become part of a layer: {why}")]
    Layer { path: PathBuf, why: String },
    #[error("cannot pack {path}: {why}")]
    Pack { path: PathBuf, why: String },
}

pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { path, source }
}
