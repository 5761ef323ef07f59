//! Where CSI volumes are on this machine, and what is written down about each so that it can be taken down by whoever
//! finds it. Blocking.
//!
//! ```text
//! <kubelet>/plugins/kubernetes.io/csi/<driver>/<sha256(handle)>/globalmount      staged, for all Pods
//! <kubelet>/pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount                  in one Pod
//! <kubelet>/plugins/kubernetes.io/csi/volumeDevices/staging/<volume>             the same of block devices
//! <kubelet>/plugins/kubernetes.io/csi/volumeDevices/publish/<volume>/<uid>
//! <kubelet>/pods/<uid>/volume{,Device}s/kubernetes.io~csi/<volume>/vol_data.json what it is
//! ```
//! Drivers are told the same paths below `/var/lib/kubelet`.
//! Source: kubernetes `pkg/volume/csi/{csi_attacher,csi_block,csi_mounter}.go`.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::volumes::host_path::KUBELET_ROOT;

const FILE: &str = "vol_data.json";
const PLUGIN: &str = "kubernetes.io~csi";

fn sha256(text: &str) -> String {
    hex::encode(digest(&SHA256, text.as_bytes()))
}

/// Name of the VolumeAttachment of a volume to a node.
pub(crate) fn attachment(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", sha256(&format!("{handle}{driver}{node}")))
}

/// How the Node's status names a volume.
pub(crate) fn unique(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// The handle of a volume that lives and dies with its Pod.
pub(crate) fn inline_handle(uid: &str, volume: &str) -> String {
    format!("csi-{}", sha256(&format!("{uid}{volume}")))
}

/// `vol_data.json`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Record {
    #[serde(rename = "specVolID")]
    pub volume: String,
    #[serde(rename = "volumeHandle")]
    pub handle: String,
    #[serde(rename = "driverName")]
    pub driver: String,
    pub node_name: String,
    #[serde(rename = "attachmentID")]
    pub attachment: String,
    /// `Persistent` or `Ephemeral`
    #[serde(rename = "volumeLifecycleMode")]
    pub lifecycle: String,
    /// the driver has done all; written after it
    #[serde(rename = "knarrPublished", skip_serializing_if = "std::ops::Not::not")]
    pub published: bool,
}

impl Record {
    pub(crate) fn ephemeral(&self) -> bool {
        self.lifecycle == "Ephemeral"
    }
}

/// One Pod's use of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub uid: String,
    /// name of the PersistentVolume, or of an inline volume
    pub volume: String,
    pub block: bool,
}

/// The folders below the kubelet's.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub kubelet_dir: PathBuf,
}

impl Layout {
    /// The path as drivers see it.
    pub(crate) fn shown(&self, path: &Path) -> String {
        let shown = match path.strip_prefix(&self.kubelet_dir) {
            Ok(rest) => Path::new(KUBELET_ROOT).join(rest),
            Err(_) => path.to_owned(),
        };
        shown.to_string_lossy().into_owned()
    }

    fn plugin(&self) -> PathBuf {
        self.kubelet_dir.join("plugins/kubernetes.io/csi")
    }

    /// What `NodeStageVolume` is told.
    pub(crate) fn staging(&self, driver: &str, handle: &str, volume: &str, block: bool) -> PathBuf {
        if block {
            return self.plugin().join("volumeDevices/staging").join(volume);
        }
        let folder = self.plugin().join(driver).join(sha256(handle));
        folder.join("globalmount")
    }

    fn record_dir(&self, place: &Place) -> PathBuf {
        let kind = if place.block {
            "volumeDevices"
        } else {
            "volumes"
        };
        let pod = self.kubelet_dir.join("pods").join(&place.uid);
        pod.join(kind).join(PLUGIN).join(&place.volume)
    }

    /// What `NodePublishVolume` is told.
    pub(crate) fn target(&self, place: &Place) -> PathBuf {
        if place.block {
            let all = self.plugin().join("volumeDevices/publish");
            return all.join(&place.volume).join(&place.uid);
        }
        self.record_dir(place).join("mount")
    }

    pub(crate) fn read(&self, place: &Place) -> Option<Record> {
        let text = fs::read(self.record_dir(place).join(FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Written whole or not at all, and before the driver is asked for anything.
    pub(crate) fn write(&self, place: &Place, record: &Record) -> io::Result<()> {
        let dir = self.record_dir(place);
        make(&dir)?;
        if let Some(parent) = self.target(place).parent() {
            make(parent)?;
        }
        let text = serde_json::to_vec(record)?;
        let new = dir.join(".vol_data.json.new");
        fs::write(&new, text)?;
        fs::rename(new, dir.join(FILE))
    }

    /// After the driver has let go: what is left of the target (drivers should remove it), the record and its folder.
    pub(crate) fn forget(&self, place: &Place) -> io::Result<()> {
        let target = self.target(place);
        remove_leaf(&target)?;
        let dir = self.record_dir(place);
        for file in [FILE, ".vol_data.json.new"] {
            match fs::remove_file(dir.join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let pod = self.kubelet_dir.join("pods").join(&place.uid);
        remove_empty(&dir, &pod);
        if place.block
            && let Some(parent) = target.parent()
        {
            remove_empty(parent, parent);
        }
        Ok(())
    }

    /// The volumes that are, or may be, in a Pod.
    pub(crate) fn of_pod(&self, uid: &str) -> Vec<Place> {
        let pod = self.kubelet_dir.join("pods").join(uid);
        let mut places = Vec::new();
        for (kind, block) in [("volumes", false), ("volumeDevices", true)] {
            let dir = pod.join(kind).join(PLUGIN);
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if let Ok(volume) = entry.file_name().into_string() {
                    places.push(Place {
                        uid: uid.to_owned(),
                        volume,
                        block,
                    });
                }
            }
        }
        places
    }

    /// Everything of every Pod.
    pub(crate) fn all(&self) -> Vec<(Place, Record)> {
        let pods = fs::read_dir(self.kubelet_dir.join("pods"));
        let uids = pods.into_iter().flatten().flatten();
        uids.filter_map(|e| e.file_name().into_string().ok())
            .flat_map(|uid| self.of_pod(&uid))
            .filter_map(|place| self.read(&place).map(|record| (place, record)))
            .collect()
    }

    /// After `NodeUnstageVolume`.
    pub(crate) fn forget_staging(&self, staging: &Path) -> io::Result<()> {
        remove_leaf(staging)?;
        if let Some(parent) = staging.parent() {
            remove_empty(parent, &self.plugin());
        }
        Ok(())
    }
}

pub(crate) fn make(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(dir)
}

/// An empty folder or a file; not what something is mounted on.
fn remove_leaf(path: &Path) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if meta.is_dir() {
        fs::remove_dir(path)
    } else {
        fs::remove_file(path)
    }
}

/// `dir` and those above it, up to and with `last`, as long as they are empty.
fn remove_empty(dir: &Path, last: &Path) {
    let mut at = Some(dir);
    while let Some(dir) = at {
        if !dir.starts_with(last) || fs::remove_dir(dir).is_err() {
            return;
        }
        at = dir.parent();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_again_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            kubelet_dir: dir.path().join("kubelet"),
        };
        for block in [false, true] {
            let place = Place {
                uid: "u".into(),
                volume: "pvc-1".into(),
                block,
            };
            let record = Record {
                volume: "pvc-1".into(),
                handle: "h".into(),
                driver: "d".into(),
                lifecycle: "Persistent".into(),
                ..Record::default()
            };
            layout.write(&place, &record).unwrap();
            assert_eq!(layout.all(), [(place.clone(), record)]);
            let target = layout.target(&place);
            if block {
                fs::write(&target, "").unwrap();
            } else {
                fs::create_dir(&target).unwrap();
            }
            layout.forget(&place).unwrap();
            assert_eq!(layout.of_pod("u"), []);
            assert!(!layout.kubelet_dir.join("pods/u").exists(), "{block}");
            assert!(!target.exists());
        }
    }

    #[test]
    fn data_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            kubelet_dir: dir.path().to_owned(),
        };
        let place = Place {
            uid: "u".into(),
            volume: "v".into(),
            block: false,
        };
        layout.write(&place, &Record::default()).unwrap();
        let file = layout.target(&place).join("data");
        fs::create_dir(layout.target(&place)).unwrap();
        fs::write(&file, "x").unwrap();
        assert!(layout.forget(&place).is_err());
        assert!(file.exists() && layout.read(&place).is_some());
    }

    #[test]
    fn names_are_upstreams() {
        // csi_attacher_test.go: sha256("volName" + "driver" + "node")
        assert_eq!(
            attachment("a", "b", "c"),
            "csi-ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let layout = Layout {
            kubelet_dir: "/data/kubelet".into(),
        };
        let place = Place {
            uid: "u".into(),
            volume: "v".into(),
            block: false,
        };
        assert_eq!(
            layout.shown(&layout.target(&place)),
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/v/mount"
        );
    }
}
