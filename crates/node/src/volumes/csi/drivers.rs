//! The CSI drivers of this machine: who has registered, and what each can do.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::service::{Abilities, Service};

/// A registered driver.
#[derive(Debug, Clone)]
pub(crate) struct Driver {
    pub service: Service,
    /// the registration socket it came by
    pub by: PathBuf,
    /// highest version of CSI that it speaks, e.g. (1, 12, 0)
    pub version: (u32, u32, u32),
    pub abilities: Abilities,
    /// told when the attacher has found the node full
    pub full: Arc<Notify>,
}

/// By name; shared by all Pods.
#[derive(Debug, Default)]
pub(crate) struct Drivers {
    all: Mutex<BTreeMap<Box<str>, Driver>>,
    changed: watch::Sender<()>,
}

impl Drivers {
    pub(crate) fn get(&self, name: &str) -> Option<Driver> {
        self.all.lock().get(name).cloned()
    }

    /// The driver; waits up to `patience` for it to register.
    ///
    /// # Errors
    /// In upstream's words, when it has not.
    pub(crate) async fn find(&self, name: &str, patience: Duration) -> Result<Driver, String> {
        let mut changes = self.changed.subscribe();
        let come = async {
            loop {
                if let Some(driver) = self.get(name) {
                    return driver;
                }
                // the sender lives in self
                let _ = changes.changed().await;
            }
        };
        tokio::time::timeout(patience, come).await.map_err(|_| {
            format!("driver name {name} not found in the list of registered CSI drivers")
        })
    }

    pub(crate) fn insert(&self, name: &str, driver: Driver) {
        self.all.lock().insert(name.into(), driver);
        self.changed.send_replace(());
    }

    /// Takes out the driver that came by `socket`; its name.
    pub(crate) fn remove_by(&self, socket: &std::path::Path) -> Option<Box<str>> {
        let mut all = self.all.lock();
        let name = all
            .iter()
            .find(|(_, d)| d.by == socket)
            .map(|(name, _)| name.clone())?;
        all.remove(&name);
        drop(all);
        self.changed.send_replace(());
        Some(name)
    }
}
