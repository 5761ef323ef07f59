//! Devices of ResourceClaims on this node: made ready by their drivers before a Pod's containers start, put into the
//! containers that name them, and given back after.
//!
//! Drivers come by `plugins_registry` as CSI's do, are kept in [`plugins`] and asked in [`claims`]; what was asked of them
//! is written down first ([`record`]). What they answer names edits of the container, which are in files ([`cdi`]). How the
//! devices are is said by their drivers, too ([`health`]).
//!
//! Source: kubernetes `pkg/kubelet/cm/dra`.

mod cdi;
mod claims;
mod health;
pub(crate) mod plugins;
mod record;
mod slices;

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Weak},
};

use k8s_openapi::api::core::v1::{Container, Pod};
use knarr_runtime::ContainerSpec;
use parking_lot::Mutex;

use self::{health::Health, plugins::Plugins, record::Folder};

pub(crate) use cdi::FOLDERS;
pub(crate) use health::Listener;
pub(crate) use slices::Wiper;

/// What a Pod's event says before the reason ([`Devices::prepare`]).
pub(crate) const NOT_PREPARED: &str = "Failed to prepare dynamic resources: ";

/// What the node knows of devices, shared by all Pods.
pub(crate) struct Devices {
    pub plugins: Arc<Plugins>,
    folder: Folder,
    health: Health,
    /// where the files of [`cdi`] are; what is in the later folder counts more
    edits: Vec<PathBuf>,
    /// one at a time for one claim, by its uid
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Devices {
    /// Reads what is known in the folder. Blocking.
    pub(crate) fn new(dir: PathBuf, edits: Vec<PathBuf>) -> Devices {
        Devices {
            plugins: Arc::default(),
            folder: Folder::open(dir),
            health: Health::default(),
            edits,
            locks: Mutex::default(),
        }
    }

    fn lock(&self, claim: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock();
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(claim).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(claim.to_owned(), Arc::downgrade(&lock));
        lock
    }

    /// Puts the edits that a container's claims name into it. Blocking.
    ///
    /// # Errors
    /// When one of the claims or edits isn't known; nothing is to be started then.
    pub(crate) fn inject(
        &self,
        pod: &Pod,
        container: &Container,
        spec: &mut ContainerSpec,
    ) -> Result<(), String> {
        let names = self.edits_of(pod, container)?;
        cdi::inject(&self.edits, spec, &names)
    }

    /// Uids of all Pods that have something of a driver.
    pub(crate) fn pods(&self) -> BTreeSet<String> {
        let records = self.folder.all().into_iter();
        records.flat_map(|record| record.pods).collect()
    }

    /// Uids of the Pods that have one of these devices of the driver, by pool and name.
    fn users(&self, driver: &str, devices: &BTreeSet<(String, String)>) -> BTreeSet<String> {
        let has = |record: &record::Record| {
            let mut of = record.drivers.get(driver).into_iter().flatten();
            of.any(|d| devices.contains(&(d.pool.clone(), d.device.clone())))
        };
        let records = self.folder.all().into_iter();
        records.filter(has).flat_map(|r| r.pods).collect()
    }
}
