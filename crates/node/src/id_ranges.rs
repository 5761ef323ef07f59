//! Which ids of the host a Pod with a user namespace of its own has: 65,536, or as many as the settings say, that no other
//! Pod has.
//!
//! What is taken is written down with each sandbox by the runtime, so nothing is forgotten over a restart; files keep the ids of the inside (mounts are mapped), so a Pod may get others later.
//!
//! Source: KEP-127, kubernetes `pkg/kubelet/userns` (length, alignment). Upstream takes the first free range, here it's any, so that several platforms on a machine seldom meet.

use std::collections::{HashMap, HashSet};

use knarr_runtime::{IdRange, Sandbox};
use parking_lot::Mutex;

/// What ranges are made of, and begin at a multiple of.
pub(crate) const BLOCK: u32 = 65_536;
/// Blocks 1 to this: ids below 2^31, the largest that Pods may name.
pub(crate) const BLOCKS: u32 = (1 << 15) - 1;
const TRIES: u32 = 64;

pub(crate) struct IdRanges {
    /// in each range
    blocks: u32,
    /// first blocks of those that were given to sandboxes which aren't made yet
    held: Mutex<HashMap<Box<str>, u32>>,
}

/// Its range is free again when this goes, unless a sandbox has it by then.
pub(crate) struct Held<'a> {
    ranges: &'a IdRanges,
    uid: Box<str>,
    pub range: IdRange,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.ranges.held.lock().remove(&self.uid);
    }
}

impl IdRanges {
    /// For Pods with so many ids each, a multiple of 65,536.
    pub(crate) fn new(ids_per_pod: u32) -> IdRanges {
        IdRanges {
            blocks: (ids_per_pod / BLOCK).clamp(1, BLOCKS),
            held: Mutex::default(),
        }
    }

    /// A range for this Pod that none of these sandboxes, and no Pod whose sandbox is being made, has.
    pub(crate) fn hold(
        &self,
        uid: &str,
        sandboxes: impl FnOnce() -> Vec<Sandbox>,
    ) -> Result<Held<'_>, String> {
        let mut held = self.held.lock();
        // asked under the lock: what was held a moment ago is made by now
        let mut taken: HashSet<u32> = sandboxes()
            .iter()
            .filter_map(|s| s.spec.user_namespace)
            .flat_map(|ids| {
                let first = ids.first / BLOCK;
                first..first + ids.length.div_ceil(BLOCK)
            })
            .collect();
        taken.extend(held.values().flat_map(|first| *first..first + self.blocks));
        let last = BLOCKS - self.blocks + 1;
        let random = || 1 + rand::random::<u32>() % last;
        let free = |first: &u32| (*first..first + self.blocks).all(|n| !taken.contains(&n));
        let number = (0..TRIES)
            .map(|_| random())
            .find(free)
            .or_else(|| (1..=last).find(free))
            .ok_or("no range of user ids is free for the pod's user namespace")?;
        held.insert(uid.into(), number);
        Ok(Held {
            ranges: self,
            uid: uid.into(),
            range: IdRange {
                first: number * BLOCK,
                length: self.blocks * BLOCK,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_the_same() {
        let ranges = IdRanges::new(BLOCK);
        let made = |number: u32| Sandbox {
            spec: knarr_runtime::SandboxSpec {
                user_namespace: Some(IdRange {
                    first: number * BLOCK,
                    length: BLOCK,
                }),
                ..Default::default()
            },
            netns: None,
        };
        // all but two are taken
        let all_but = || {
            let taken = (1..=BLOCKS).filter(|n| ![7, 9].contains(n));
            taken.map(made).collect::<Vec<_>>()
        };
        let a = ranges.hold("a", all_but).unwrap();
        let b = ranges.hold("b", all_but).unwrap();
        let mut got = [a.range.first / BLOCK, b.range.first / BLOCK];
        got.sort_unstable();
        assert_eq!(got, [7, 9]);
        assert!(ranges.hold("c", all_but).is_err());
        drop(a);
        assert!(ranges.hold("c", all_but).is_ok());
        let last = (BLOCKS * BLOCK).checked_add(BLOCK).unwrap();
        assert!(last <= 1 << 31);
    }

    #[test]
    fn longer_ones_do_not_overlap() {
        let ranges = IdRanges::new(4 * BLOCK);
        let made = |range: IdRange| Sandbox {
            spec: knarr_runtime::SandboxSpec {
                user_namespace: Some(range),
                ..Default::default()
            },
            netns: None,
        };
        // of another length, from before the settings were changed; room for one is left, and only there
        let all_but = || {
            vec![
                made(IdRange {
                    first: BLOCK,
                    length: 99 * BLOCK,
                }),
                made(IdRange {
                    first: 104 * BLOCK,
                    length: (BLOCKS - 103) * BLOCK,
                }),
            ]
        };
        let a = ranges.hold("a", all_but).unwrap();
        assert_eq!((a.range.first, a.range.length), (100 * BLOCK, 4 * BLOCK));
        assert!(ranges.hold("b", all_but).is_err());
        let b = ranges.hold("b", Vec::new).unwrap();
        let apart = b.range.first + b.range.length <= a.range.first
            || a.range.first + a.range.length <= b.range.first;
        assert!(apart, "{:?} {:?}", a.range, b.range);
    }
}
