//! What other claims have already (`allocateddevices.go`).

use std::collections::{HashMap, HashSet};

use knarr_quantity::Quantity;

use crate::model::{Allocation, Text};

/// Driver, pool and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    pub driver: Text,
    pub pool: Text,
    pub device: Text,
}

/// Names a device in upstream's messages.
impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// Of a device that many may share: how much of each capacity is given away.
pub(crate) type Consumed = HashMap<Text, Quantity>;

/// Devices, and parts of devices, that claims have.
#[derive(Debug, Default)]
pub struct Taken {
    pub(crate) whole: HashSet<DeviceId>,
    pub(crate) shared: HashMap<DeviceId, Consumed>,
}

impl Taken {
    /// Takes in a claim's allocation.
    pub fn add(&mut self, allocation: &Allocation) {
        for result in &allocation.devices.results {
            // for administration, nothing is used up
            if result.admin_access == Some(true) {
                continue;
            }
            let id = DeviceId {
                driver: result.driver.clone(),
                pool: result.pool.clone(),
                device: result.device.clone(),
            };
            if result.share_id.is_none() {
                self.whole.insert(id);
                continue;
            }
            let consumed = self.shared.entry(id).or_default();
            for (name, amount) in &result.consumed_capacity {
                let sum = consumed.entry(name.clone()).or_insert(Quantity::ZERO);
                sum.add(amount);
            }
        }
    }
}
