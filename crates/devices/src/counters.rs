//! Counters that a pool's devices take of together: parts of one physical device.

use std::collections::HashMap;

use knarr_quantity::Quantity;

use crate::{
    model::{CounterSet, Device},
    pools::Pool,
    taken::{DeviceId, Taken},
};

/// Of each counter of each set: what is left.
type Left<'a> = HashMap<(&'a str, &'a str), Quantity>;

fn each(taken: &[CounterSet]) -> impl Iterator<Item = ((&str, &str), &Quantity)> {
    taken.iter().flat_map(|set| {
        let counters = set.counters.iter();
        counters.filter_map(|(name, c)| Some(((&*set.counter_set, &**name), c.value.as_ref()?)))
    })
}

/// What is left of the pools' counters, worked out when first asked for.
#[derive(Default)]
pub(crate) struct Counters<'a> {
    pools: HashMap<usize, Left<'a>>,
}

impl<'a> Counters<'a> {
    fn left(&mut self, index: usize, pool: &Pool<'a>, taken: &Taken) -> &mut Left<'a> {
        self.pools.entry(index).or_insert_with(|| {
            let mut left = Left::new();
            for (set, counters) in &pool.counters {
                for (name, counter) in &counters.counters {
                    let value = counter.value.clone().unwrap_or(Quantity::ZERO);
                    left.insert((*set, &**name), value);
                }
            }
            for slice in pool.slices.iter().chain(&pool.others) {
                for device in &slice.spec.devices {
                    if device.consumes_counters.is_empty() {
                        continue;
                    }
                    let id = DeviceId {
                        driver: slice.spec.driver.clone(),
                        pool: slice.spec.pool.name.clone(),
                        device: device.name.clone(),
                    };
                    if taken.whole.contains(&id) {
                        for (key, amount) in each(&device.consumes_counters) {
                            if let Some(value) = left.get_mut(&key) {
                                value.sub(amount);
                            }
                        }
                    }
                }
            }
            left
        })
    }

    /// Takes what the device takes; false: there isn't enough, and nothing is taken.
    pub fn take(
        &mut self,
        index: usize,
        pool: &Pool<'a>,
        taken: &Taken,
        device: &'a Device,
    ) -> bool {
        let left = self.left(index, pool, taken);
        for (key, amount) in each(&device.consumes_counters) {
            if let Some(value) = left.get_mut(&key) {
                value.sub(amount);
            }
        }
        // as upstream: nothing of the pool may be overdrawn, by whom ever
        let enough = left.values().all(|v| v.sign() >= 0);
        if !enough {
            self.give_back(index, device);
        }
        enough
    }

    /// The reverse of [`Counters::take`].
    pub fn give_back(&mut self, index: usize, device: &'a Device) {
        let Some(left) = self.pools.get_mut(&index) else {
            return;
        };
        for (key, amount) in each(&device.consumes_counters) {
            if let Some(value) = left.get_mut(&key) {
                value.add(amount);
            }
        }
    }
}
