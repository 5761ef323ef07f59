//! Which ids of the host a Pod with a user namespace of its own has: 65,536 that no other Pod has.
//!
//! What is taken is written down with each sandbox by the runtime, so nothing is forgotten over a restart; files keep the ids of the inside (mounts are mapped), so a Pod may get others later.
//!
//! Source: KEP-127, kubernetes `pkg/kubelet/userns` (length, alignment). Upstream takes the first free range, here it's any, so that several platforms on a machine seldom meet.

use std::collections::{HashMap, HashSet};

use knarr_runtime::{IdRange, Sandbox};
use parking_lot::Mutex;

const LENGTH: u32 = 65_536;
/// Ranges 1 to this: ids below 2^31, the largest that Pods may name.
const RANGES: u32 = (1 << 15) - 1;
const TRIES: u32 = 64;

/// Ranges that were given to sandboxes which aren't made yet.
#[derive(Default)]
pub(crate) struct IdRanges(Mutex<HashMap<Box<str>, u32>>);

/// Its range is free again when this goes, unless a sandbox has it by then.
pub(crate) struct Held<'a> {
    ranges: &'a IdRanges,
    uid: Box<str>,
    pub range: IdRange,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.ranges.0.lock().remove(&self.uid);
    }
}

impl IdRanges {
    /// A range for this Pod that none of these sandboxes, and no Pod whose sandbox is being made, has.
    pub(crate) fn hold(
        &self,
        uid: &str,
        sandboxes: impl FnOnce() -> Vec<Sandbox>,
    ) -> Result<Held<'_>, String> {
        let mut held = self.0.lock();
        // asked under the lock: what was held a moment ago is made by now
        let mut taken: HashSet<u32> = sandboxes()
            .iter()
            .filter_map(|s| s.spec.user_namespace)
            .map(|ids| ids.first / LENGTH)
            .collect();
        taken.extend(held.values());
        let random = || 1 + rand::random::<u32>() % RANGES;
        let number = (0..TRIES)
            .map(|_| random())
            .find(|n| !taken.contains(n))
            .or_else(|| (1..=RANGES).find(|n| !taken.contains(n)))
            .ok_or("no range of user ids is free for the pod's user namespace")?;
        held.insert(uid.into(), number);
        Ok(Held {
            ranges: self,
            uid: uid.into(),
            range: IdRange {
                first: number * LENGTH,
                length: LENGTH,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_the_same() {
        let ranges = IdRanges::default();
        let made = |number: u32| Sandbox {
            spec: knarr_runtime::SandboxSpec {
                user_namespace: Some(IdRange {
                    first: number * LENGTH,
                    length: LENGTH,
                }),
                ..Default::default()
            },
            netns: None,
        };
        // all but two are taken
        let all_but = || {
            let taken = (1..=RANGES).filter(|n| ![7, 9].contains(n));
            taken.map(made).collect::<Vec<_>>()
        };
        let a = ranges.hold("a", all_but).unwrap();
        let b = ranges.hold("b", all_but).unwrap();
        let mut got = [a.range.first / LENGTH, b.range.first / LENGTH];
        got.sort_unstable();
        assert_eq!(got, [7, 9]);
        assert!(ranges.hold("c", all_but).is_err());
        drop(a);
        assert!(ranges.hold("c", all_but).is_ok());
        let last = (RANGES * LENGTH).checked_add(LENGTH).unwrap();
        assert!(last <= 1 << 31);
    }
}
