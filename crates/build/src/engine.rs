//! What builds share: the store, the cache's folder, and a runtime of their own, opened when the first `RUN` needs it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::future::BoxFuture;
use knarr_dockerfile::Platform;
use knarr_image::{Image, ImageStore};
use knarr_runtime::HostNamespaces;

use crate::{
    cache::{Cache, Prune, Pruned, Usage},
    error::{Error, io},
    export::KEEPER,
    network::Networks,
    session::Session,
};

/// Gets images that are not in the store, and sends what was built.
pub trait Resolver: Send + Sync {
    /// Pulls an image for a platform; `told` hears (what, bytes done, bytes in all).
    fn pull<'a>(
        &'a self,
        name: &'a str,
        platform: &'a Platform,
        told: &'a (dyn Fn(&str, u64, u64) + Send + Sync),
    ) -> BoxFuture<'a, Result<Image, String>>;
    /// As [`Resolver::pull`] for this machine, always from the registry, and the image gets no name here.
    fn fetch<'a>(
        &'a self,
        name: &'a str,
        _told: &'a (dyn Fn(&str, u64, u64) + Send + Sync),
    ) -> BoxFuture<'a, Result<Image, String>> {
        Box::pin(async move { Err(format!("{name}: no registry can be reached from here")) })
    }
    /// Sends an image of the store, with all its platforms, to the registry of its name `to`.
    fn push<'a>(
        &'a self,
        _image: &'a str,
        to: &'a str,
        _told: &'a (dyn Fn(&str, u64, u64) + Send + Sync),
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move { Err(format!("{to}: no registry can be reached from here")) })
    }
}

/// What builds may use of the machine.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Steps that run at once.
    pub parallel: usize,
    /// Against 1024 for what else runs: when all want the processor, builds get this share of it.
    pub cpu_shares: u64,
    /// All containers of a build together; seven eighths of the machine's by default, so that a build that eats all is ended
    /// before the kernel ends somebody else.
    pub memory_max_bytes: Option<i64>,
    pub pids_max: Option<i64>,
    /// The cache is cut down to this after a build, longest unused first.
    pub cache_max_bytes: u64,
    /// What was not used for so long goes, in seconds.
    pub cache_max_age_s: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Limits {
            parallel: cores.max(2),
            cpu_shares: 256,
            memory_max_bytes: most_memory(),
            pids_max: Some(32_768),
            cache_max_bytes: 20 << 30,
            cache_max_age_s: 30 * 24 * 3600,
        }
    }
}

fn most_memory() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024 / 8 * 7)
}

/// How an engine is opened.
#[derive(Clone)]
pub struct Options {
    pub images: ImageStore,
    /// Cache and leftovers are below it. On the same file system as the store, or layers are copied.
    pub dir: PathBuf,
    /// The program to start as shim; must call [`knarr_runtime::dispatch_role`] first.
    pub exe: PathBuf,
    /// Where cgroups are made, e.g. `/knarr-build`; each engine adds a part of its own.
    pub cgroup_parent: String,
    /// The host's namespaces, when the caller is not in them.
    pub host: HostNamespaces,
    pub limits: Limits,
    /// None: only images of the store can be bases.
    pub resolver: Option<Arc<dyn Resolver>>,
    /// Of `RUN`s. None: they have the machine's own.
    pub networks: Option<Arc<dyn Networks>>,
}

/// Builds. Clones share everything; several engines (processes) may share one folder.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) session: Session,
    /// Bounds what runs at once.
    pub(crate) turns: tokio::sync::Semaphore,
}

impl Engine {
    /// Opens or makes the folder and removes what killed builds left there. Blocking, quick.
    ///
    /// # Errors
    /// When the folder can't be used.
    pub fn open(options: Options) -> Result<Engine, Error> {
        let session = Session::open(&options)?;
        let turns = tokio::sync::Semaphore::new(options.limits.parallel.max(1));
        Ok(Engine {
            inner: Arc::new(Inner {
                options,
                session,
                turns,
            }),
        })
    }
    /// The store.
    pub fn images(&self) -> &ImageStore {
        &self.inner.options.images
    }
    /// The cache's folder.
    pub fn dir(&self) -> &Path {
        &self.inner.options.dir
    }
    /// Sum of the cache's results, in bytes. Blocking, a small file each.
    ///
    /// # Errors
    /// When the cache can't be read.
    pub fn cache_bytes(&self) -> Result<u64, Error> {
        Cache::open(self.dir())?.bytes()
    }
    /// Removes a part of the cache. None when a build runs. Blocking.
    ///
    /// # Errors
    /// When the cache can't be read.
    pub fn prune(&self, wanted: &Prune) -> Result<Option<Pruned>, Error> {
        prune(&Cache::open(self.dir())?, self.images(), wanted)
    }
    /// How much of the cache a prune with these bounds leaves, in bytes; None without any. Blocking, a small file each.
    ///
    /// # Errors
    /// When the cache can't be read.
    pub fn kept(&self, space: &Space) -> Result<Option<u64>, Error> {
        let free = rustix::fs::statvfs(self.dir()).map_err(|e| io(self.dir())(e.into()))?;
        Ok(space.kept(self.cache_bytes()?, free.f_bavail * free.f_frsize))
    }
    /// What is in the cache. Blocking, a small file each.
    ///
    /// # Errors
    /// When the cache can't be read.
    pub fn usage(&self) -> Result<Vec<Usage>, Error> {
        Cache::open(self.dir())?.usage()
    }
    /// Ends what still runs and removes what is not cache. The engine can't build afterwards.
    ///
    /// # Errors
    /// When a container can't be ended.
    pub async fn close(&self) -> Result<(), Error> {
        self.inner.session.close().await
    }
}

/// Bounds of the cache; 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// So much may always stay.
    pub reserved_bytes: u64,
    /// Of the cache.
    pub used_max_bytes: u64,
    /// Of the disk.
    pub free_min_bytes: u64,
}

impl Space {
    /// SOURCE: buildkit cache/manager.go calculateKeepBytes
    fn kept(&self, total: u64, free: u64) -> Option<u64> {
        if *self == Space::default() {
            return None;
        }
        let mut kept = self.used_max_bytes;
        if self.free_min_bytes > free {
            let less = total.saturating_sub(self.free_min_bytes - free);
            kept = if kept == 0 { less } else { kept.min(less) };
        } else if self.free_min_bytes != 0 && kept == 0 {
            kept = total;
        }
        Some(kept.max(self.reserved_bytes))
    }
}

/// What the cache lets go of, the store need not keep.
pub(crate) fn prune(
    cache: &Cache,
    images: &ImageStore,
    wanted: &Prune,
) -> Result<Option<Pruned>, Error> {
    let mut named = std::collections::BTreeSet::new();
    if wanted.spare_shared {
        for image in images.list()? {
            named.extend(images.layer_infos(&image)?.into_iter().map(|l| l.diff_id));
        }
    }
    let forget = |layer: &str| {
        if let Err(e) = images.unkeep(KEEPER, layer) {
            tracing::warn!("the layer of {layer} stays in the store: {e}");
        }
    };
    cache.prune(wanted, &forget, &|layer| named.contains(layer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_the_cache() {
        // reserved, most used, least free; of the cache, free on the disk; what is left
        for (space, total, free, want) in [
            ((0, 0, 0), 100, 10, None),
            ((0, 50, 0), 100, 10, Some(50)),
            ((70, 50, 0), 100, 10, Some(70)),
            ((30, 0, 0), 100, 10, Some(30)),
            ((0, 0, 40), 100, 10, Some(70)),
            ((0, 50, 40), 100, 10, Some(50)),
            ((0, 50, 90), 100, 10, Some(20)),
            ((30, 50, 90), 100, 10, Some(30)),
            ((0, 0, 5), 100, 10, Some(100)),
            ((0, 0, 500), 100, 10, Some(0)),
        ] {
            let (reserved_bytes, used_max_bytes, free_min_bytes) = space;
            let bounds = Space {
                reserved_bytes,
                used_max_bytes,
                free_min_bytes,
            };
            assert_eq!(bounds.kept(total, free), want, "{space:?}");
        }
    }
}
