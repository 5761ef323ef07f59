//! Images, as Docker tells of them.

mod changes;
mod commit;
pub mod files;
mod import;
mod registry;
mod show;
mod transfer;

pub use changes::change;
pub use commit::Snapshot;
pub use registry::{create, credential, distribution, push};
pub use show::{history, inspect, list, summaries};
pub use transfer::{load, prune, remove, save, search, spool, tag, tell};

use crate::{
    create::{health::Health, wanted::Wanted},
    daemon::Daemon,
    error::{Fault, Result, blocking},
};
use knarr_image::{Image, ImageConfig, normalize};
use serde_json::Value;
use std::{path::PathBuf, sync::Arc};

/// An image with its configuration as it is.
#[derive(Debug, Clone)]
pub struct Known {
    pub name: String,
    pub id: String,
    pub digest: String,
    pub manifest: String,
    pub config: ImageConfig,
    pub layers: Vec<PathBuf>,
    pub size: u64,
    pub created: Option<String>,
    pub raw: Value,
}

impl Known {
    /// Blocking.
    pub fn read(daemon: &Daemon, image: Image) -> Result<Known> {
        let raw = daemon.images.read_blob(&image.id)?;
        Ok(Known {
            raw: serde_json::from_slice(&raw)?,
            name: image.name,
            id: image.id,
            digest: image.digest,
            manifest: image.manifest,
            config: image.config,
            layers: image.layers,
            size: image.size_bytes,
            created: image.created,
        })
    }

    /// A name that stays this image's, whatever is tagged later.
    pub fn pinned(&self) -> String {
        let name = self.name.split('@').next().unwrap_or_default();
        format!("{name}@{}", self.digest)
    }

    pub fn health(&self) -> Option<Health> {
        let map = self.raw.get("config")?.get("Healthcheck")?.as_object()?;
        crate::create::health::read(map.clone()).ok().flatten()
    }

    /// Neither asked for nor in the image.
    pub fn command_missing(&self, wanted: &Wanted) -> bool {
        let said = |list: &[String]| list.iter().any(|s| !s.is_empty());
        let asked = |list: &Option<Vec<String>>| list.as_deref().is_some_and(said);
        let image_entrypoint = wanted.entrypoint.is_none() && said(&self.config.entrypoint);
        let image_cmd = wanted.entrypoint.is_none() && said(&self.config.cmd);
        !(asked(&wanted.entrypoint) || asked(&wanted.cmd) || image_entrypoint || image_cmd)
    }
}

/// `linux/amd64`, `linux`, or JSON of it.
pub fn fits_machine(platform: &str) -> bool {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut parts = platform.split('/');
    let os = parts.next().unwrap_or_default();
    os == "linux"
        && parts
            .next()
            .is_none_or(|a| a == arch || a == std::env::consts::ARCH)
}

/// As people write it: `docker.io/library/redis:7` is `redis:7`.
pub fn familiar(name: &str) -> String {
    let bare = name.strip_prefix("docker.io/").unwrap_or(name);
    let bare = bare.strip_prefix("library/").unwrap_or(bare);
    bare.to_string()
}

/// With its tag, as Docker says it in errors.
pub fn tagged(name: &str) -> String {
    match normalize(name) {
        Ok(full) => familiar(&full),
        Err(_) => name.to_string(),
    }
}

/// Blocking.
pub fn find(daemon: &Daemon, name: &str) -> Result<Known> {
    let no_such = || Fault::not_found(format!("No such image: {}", tagged(name)));
    let bare = name.strip_prefix("sha256:").unwrap_or(name);
    let is_hex = !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_hexdigit());
    let found = match daemon.images.resolve(name) {
        Ok(found) => found,
        Err(e @ knarr_image::Error::Reference(_)) => return Err(e.into()),
        Err(e) => return Err(e.into()),
    };
    if let Some(image) = found {
        return Known::read(daemon, image);
    }
    // Shorter beginnings of an id than the store knows.
    if is_hex {
        let mut fits = daemon.images.list()?;
        fits.retain(|i| i.id.trim_start_matches("sha256:").starts_with(bare));
        fits.dedup_by(|a, b| a.id == b.id);
        if let (Some(image), true) = (fits.pop(), fits.is_empty()) {
            return Known::read(daemon, image);
        }
    }
    Err(no_such())
}

/// An image that a container is to be made of.
pub async fn need(daemon: &Arc<Daemon>, name: &str) -> Result<Known> {
    let (daemon, name) = (daemon.clone(), name.to_string());
    blocking(move || find(&daemon, &name)).await
}

/// Under which the store keeps an image without a name; shown as `<none>`, and gone with the first prune.
const NAMELESS: &str = "docker.io/library/none@";

pub fn is_nameless(name: &str) -> bool {
    name.starts_with(NAMELESS)
}

/// Keeps an image that got no name: people go on with its id.
pub fn keep_nameless(
    images: &knarr_image::ImageStore,
    digest: &str,
) -> Result<(), knarr_image::Error> {
    images.tag(&format!("{NAMELESS}{digest}"), digest)
}

/// It has a name now.
fn forget_nameless(daemon: &Daemon, digest: &str) {
    let name = format!("{NAMELESS}{digest}");
    let known = daemon.images.list().unwrap_or_default();
    if known.iter().any(|i| i.name == name)
        && let Err(e) = daemon.images.remove(&name)
    {
        tracing::warn!(error = %e, "an image is still listed without a name");
    }
}

impl Daemon {
    /// A small text file of an image. Blocking.
    pub fn image_file(&self, image: &str, path: &str) -> Option<String> {
        let image = self.images.resolve(image).ok().flatten()?;
        files::read(&image.layers, path)
    }
}
