//! Volumes of CSI drivers: staged on the machine, published into Pods, and taken back.
//!
//! Drivers come by `plugins_registry` ([`registration`]), are listed in the CSINode ([`node_info`]) and asked over
//! their socket ([`service`] over [`rpc`] over [`knarr_grpc::proto`]). What is mounted is written down first ([`record`]).

use knarr_grpc::proto;

pub(crate) mod drivers;
pub(crate) mod expand;
mod in_use;
mod limits;
pub(crate) mod mount;
pub(crate) mod node_info;
mod objects;
pub(crate) mod record;
pub(crate) mod registration;
pub(crate) mod rpc;
pub(crate) mod service;
mod teardown;

#[cfg(test)]
pub(crate) use knarr_grpc::proto::{Fields, Message};

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use self::{
    drivers::Drivers,
    record::{Layout, Place},
};

/// What the node knows of CSI, shared by all Pods.
pub(crate) struct Csi {
    pub drivers: Arc<Drivers>,
    pub layout: Layout,
    /// staged by this process: a stage that nobody remembers is asked for again, which changes nothing
    staged: Mutex<BTreeSet<PathBuf>>,
    /// Pods' uses that this process has published, and the size in bytes that was asked of the driver last
    published: Mutex<BTreeMap<(String, String), i64>>,
    /// what the Node's `volumesInUse` says
    reported: tokio::sync::Mutex<Option<BTreeSet<String>>>,
    /// volumes that one Pod alone may have → its uid
    alone: Mutex<HashMap<String, String>>,
    /// one at a time for one volume of one driver
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Csi {
    pub(crate) fn new(kubelet_dir: PathBuf) -> Csi {
        Csi {
            drivers: Arc::default(),
            layout: Layout { kubelet_dir },
            staged: Mutex::default(),
            published: Mutex::default(),
            reported: Default::default(),
            alone: Mutex::default(),
            locks: Mutex::default(),
        }
    }

    fn lock(&self, driver: &str, handle: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock();
        locks.retain(|_, lock| lock.strong_count() > 0);
        let key = format!("{driver}^{handle}");
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }

    /// Takes a volume of access mode ReadWriteOncePod, of whatever kind, for a Pod; it has it until it's torn down.
    ///
    /// # Errors
    /// In upstream's words, when another Pod has it: one that was put here past the scheduler.
    pub(crate) fn claim_alone(&self, volume: &str, uid: &str) -> Result<(), String> {
        let mut alone = self.alone.lock();
        let owner = alone
            .entry(volume.to_owned())
            .or_insert_with(|| uid.to_owned());
        if owner == uid {
            return Ok(());
        }
        Err(
            "volume uses the ReadWriteOncePod access mode and is already in use by another pod"
                .into(),
        )
    }

    /// Folders that drivers and their registrars put sockets in; they must be there before any of them is.
    ///
    /// # Errors
    /// When they can't be made.
    pub(crate) fn prepare(&self) -> std::io::Result<()> {
        for folder in ["plugins_registry", "plugins", "pods"] {
            record::make(&self.layout.kubelet_dir.join(folder))?;
        }
        Ok(())
    }

    fn key(place: &Place) -> (String, String) {
        (place.uid.clone(), place.volume.clone())
    }
}
