//! OCI images on this machine: the content store, the packer, archives.
//!
//! It is: content by digest, names to manifests, layers unpacked once for overlay mounts.
//! It is not: a builder or a container runtime.
//! It must never know: Kubernetes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What a runtime needs of an image. `layers`: unpacked directories, topmost first (overlay `lowerdir` order).
#[derive(Debug, Clone)]
pub struct Image {
    pub name: String,
    /** manifest digest `sha256:…` */
    pub digest: String,
    /** config digest */
    pub id: String,
    pub config: ImageConfig,
    pub layers: Vec<PathBuf>,
    pub size_bytes: u64,
    pub created: Option<String>,
}
/// The OCI image config's `config` object.
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

#[derive(Debug, Clone, Default)]
pub struct PackSpec {
    /** executables; the first is the default entrypoint */
    pub executables: Vec<PathBuf>,
    /** extra (source, destination) files or folders */
    pub add: Vec<(PathBuf, PathBuf)>,
    pub config: ImageConfig,
    /** tag to set */
    pub name: String,
    /** CA certificates and time zones, default true */
    pub bare: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Other(String), /* NotFound { name, .. } etc. */
}

/// Shared handle on one directory; several processes may use it at once (file locks, atomic renames).
#[derive(Clone)]
pub struct ImageStore {
    _p: (),
}
impl ImageStore {
    pub fn open(dir: &Path) -> Result<ImageStore, Error> {
        let _ = dir;
        todo!()
    }
    /// `redis:7` → `docker.io/library/redis:7`; also by digest and id. Blocking, quick (no unpacking when already unpacked).
    pub fn resolve(&self, name: &str) -> Result<Option<Image>, Error> {
        let _ = name;
        todo!()
    }
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        todo!()
    }
    /// Untags; drops what nothing refers to any more.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let _ = name;
        todo!()
    }
    /// OCI layout archive or docker-save archive (tar, tar.gz) or OCI layout folder; returns the names.
    pub fn load(&self, path: &Path, name: Option<&str>) -> Result<Vec<Image>, Error> {
        let _ = (path, name);
        todo!()
    }
    /// Minimal reproducible image: executables, their ELF closure, CA certificates, time zones.
    pub fn pack(&self, spec: &PackSpec) -> Result<Image, Error> {
        let _ = spec;
        todo!()
    }
    /// OCI layout archive.
    pub fn save(&self, name: &str, to: &Path) -> Result<(), Error> {
        let _ = (name, to);
        todo!()
    }
}
/// Normalises a reference as Docker does. Errors on bad grammar (`invalid reference format`).
pub fn normalize(name: &str) -> Result<String, Error> {
    let _ = name;
    todo!()
}
