//! What to attach and detach: pure.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::objects::meta::Key;

/// A volume that a Pod of the node needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// name of the PersistentVolume
    pub volume: Box<str>,
    /// driver
    pub driver: Box<str>,
    /// the driver's name of the volume
    pub handle: Box<str>,
    /// on one node only
    pub exclusive: bool,
    /// who needs it
    pub pod: Key,
}

impl Wanted {
    /// Name of its VolumeAttachment to a node.
    pub fn attachment(&self, node: &str) -> Box<str> {
        let mut hash = Sha256::new();
        for part in [&*self.handle, &*self.driver, node] {
            hash.update(part.as_bytes());
        }
        let mut name = String::from("csi-");
        for byte in hash.finalize() {
            name.push_str(&format!("{byte:02x}"));
        }
        name.into()
    }
    /// As nodes name it.
    pub fn unique(&self) -> Box<str> {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.handle).into()
    }
}

/// A VolumeAttachment of ours.
#[derive(Debug, Clone)]
pub struct Attached {
    /// its name
    pub name: Box<str>,
    /// the volume, as nodes name it
    pub unique: Box<str>,
    /// name of the PersistentVolume
    pub volume: Box<str>,
    /// to the node that is looked at
    pub here: bool,
    /// the driver has done it
    pub attached: bool,
    /// being detached
    pub leaving: bool,
}

/// What to do, by the attachment's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// make it
    Attach(Box<str>),
    /// the volume is on another node, and may be on one only
    Elsewhere(Box<str>),
    /// it is needed no more, but still mounted
    Wait(Box<str>),
    /// delete it
    Detach(Box<str>),
}

/// `in_use`: volumes that the node has mounted; `forced`: whatever it says, it is gone.
pub fn plan(
    wanted: &BTreeMap<Box<str>, Wanted>,
    present: &[Attached],
    in_use: &[Box<str>],
    forced: bool,
) -> Vec<Step> {
    let mut steps = vec![];
    for a in present.iter().filter(|a| a.here && !a.leaving) {
        if wanted.contains_key(&a.name) && !forced {
            continue;
        }
        steps.push(if in_use.contains(&a.unique) && !forced {
            Step::Wait(a.name.clone())
        } else {
            Step::Detach(a.name.clone())
        });
    }
    if forced {
        return steps;
    }
    for (name, w) in wanted {
        // one that is on its way out is made again when it's gone
        if present.iter().any(|a| a.here && a.name == *name) {
            continue;
        }
        let elsewhere = present.iter().any(|a| !a.here && a.volume == w.volume);
        steps.push(if w.exclusive && elsewhere {
            Step::Elsewhere(name.clone())
        } else {
            Step::Attach(name.clone())
        });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(volume: &str, exclusive: bool) -> (Box<str>, Wanted) {
        let w = Wanted {
            volume: volume.into(),
            driver: "d".into(),
            handle: format!("h-{volume}").into(),
            exclusive,
            pod: Key::new("n", "p"),
        };
        (w.attachment("here"), w)
    }
    fn attached(volume: &str, here: bool, leaving: bool) -> Attached {
        let (_, w) = wanted(volume, true);
        Attached {
            name: w.attachment(if here { "here" } else { "there" }),
            unique: w.unique(),
            volume: w.volume,
            here,
            attached: true,
            leaving,
        }
    }

    #[test]
    fn names_are_upstreams() {
        let w = Wanted {
            volume: "v".into(),
            driver: "b".into(),
            handle: "a".into(),
            exclusive: true,
            pod: Key::new("", ""),
        };
        assert_eq!(
            &*w.attachment("c"),
            "csi-ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(&*w.unique(), "kubernetes.io/csi/b^a");
    }

    #[test]
    fn steps() {
        let name = |v: &str| wanted(v, true).0;
        let mounted: Vec<Box<str>> = vec![attached("a", true, false).unique];
        let one = |v: &str, exclusive| BTreeMap::from([wanted(v, exclusive)]);
        for (case, want, present, in_use, forced, steps) in [
            (
                "new",
                one("a", true),
                vec![],
                vec![],
                false,
                vec![Step::Attach(name("a"))],
            ),
            (
                "there",
                one("a", true),
                vec![attached("a", true, false)],
                vec![],
                false,
                vec![],
            ),
            (
                "on another node",
                one("a", true),
                vec![attached("a", false, false)],
                vec![],
                false,
                vec![Step::Elsewhere(name("a"))],
            ),
            (
                "on another node, and may be",
                one("a", false),
                vec![attached("a", false, false)],
                vec![],
                false,
                vec![Step::Attach(name("a"))],
            ),
            (
                "no longer needed",
                BTreeMap::new(),
                vec![attached("a", true, false)],
                vec![],
                false,
                vec![Step::Detach(name("a"))],
            ),
            (
                "still mounted",
                BTreeMap::new(),
                vec![attached("a", true, false)],
                mounted.clone(),
                false,
                vec![Step::Wait(name("a"))],
            ),
            (
                "the node is gone",
                one("a", true),
                vec![attached("a", true, false)],
                mounted.clone(),
                true,
                vec![Step::Detach(name("a"))],
            ),
            (
                "on its way out",
                one("a", true),
                vec![attached("a", true, true)],
                vec![],
                false,
                vec![],
            ),
        ] {
            assert_eq!(plan(&want, &present, &in_use, forced), steps, "{case}");
        }
    }
}
