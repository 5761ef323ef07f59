//! What was asked of drivers for a claim, as it is on disk.
//!
//! ```text
//! <data_dir>/devices/<claim's uid>.json
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// A device that a driver has made ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Device {
    /// requests of the claim that it is for; none: all
    pub requests: Vec<String>,
    pub pool: String,
    pub device: String,
    /// names of edits, `vendor/class=name`
    pub cdi: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// uids of those that use it here
    pub pods: BTreeSet<String>,
    /// all drivers have answered
    pub prepared: bool,
    pub drivers: BTreeMap<String, Vec<Device>>,
}

impl Record {
    /// The devices for a request of the claim, which may be named with its alternative (`resourceclaim.BaseRequestRef`);
    /// "": all. With their drivers.
    pub fn devices<'a>(&'a self, request: &str) -> impl Iterator<Item = (&'a str, &'a Device)> {
        let base = request.split('/').next().unwrap_or_default();
        let devices = self.drivers.iter();
        let devices = devices.flat_map(|(driver, all)| all.iter().map(move |d| (&**driver, d)));
        devices.filter(move |(_, device)| {
            base.is_empty()
                || device.requests.is_empty()
                || device.requests.iter().any(|r| r == base)
        })
    }
}

/// The records, on disk and in memory.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    dir: PathBuf,
    known: Arc<Mutex<BTreeMap<String, Record>>>,
}

impl Folder {
    fn file(&self, uid: &str) -> PathBuf {
        self.dir.join(format!("{uid}.json"))
    }

    /// With all that can be read there. Blocking.
    pub fn open(dir: PathBuf) -> Folder {
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().into_string().ok());
        let record = |name: String| {
            let uid = name.strip_suffix(".json")?.to_owned();
            let bytes = fs::read(dir.join(&name)).ok()?;
            Some((uid, serde_json::from_slice(&bytes).ok()?))
        };
        let known = names.filter_map(record).collect();
        Folder {
            known: Arc::new(Mutex::new(known)),
            dir,
        }
    }

    pub fn read(&self, uid: &str) -> Option<Record> {
        self.known.lock().get(uid).cloned()
    }

    pub fn all(&self) -> Vec<Record> {
        self.known.lock().values().cloned().collect()
    }

    /// The one that a Pod may use, by its claim's name.
    pub fn of(&self, namespace: &str, claim: &str, pod: &str) -> Option<Record> {
        let all = self.known.lock();
        let mut all = all.values();
        let wanted = all.find(|r| {
            r.name == claim && r.namespace == namespace && r.prepared && r.pods.contains(pod)
        });
        wanted.cloned()
    }

    /// Whole or not at all. Blocking.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let new = self.dir.join(format!(".{}.new", record.uid));
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        fs::rename(new, self.file(&record.uid))?;
        let mut known = self.known.lock();
        known.insert(record.uid.clone(), record.clone());
        Ok(())
    }

    /// Blocking.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        match fs::remove_file(self.file(uid)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        self.known.lock().remove(uid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path().join("devices"));
        assert_eq!(folder.read("u"), None);
        let device = Device {
            requests: vec!["r".into()],
            cdi: vec!["a/b=c".into()],
            ..Device::default()
        };
        let record = Record {
            uid: "u".into(),
            pods: ["p".to_owned()].into(),
            drivers: [("d".to_owned(), vec![device])].into(),
            ..Record::default()
        };
        folder.write(&record).unwrap();
        // one that was being written when the machine stopped
        fs::write(folder.dir.join(".v.new"), "{").unwrap();
        let again = Folder::open(folder.dir.clone());
        for folder in [&folder, &again] {
            assert_eq!(folder.all(), std::slice::from_ref(&record));
            folder.remove("u").unwrap();
            assert_eq!(folder.all(), []);
        }
        assert_eq!(Folder::open(folder.dir.clone()).all(), []);
    }

    #[test]
    fn devices_are_found_by_their_requests() {
        let device = |name: &str, requests: &[&str]| Device {
            device: name.into(),
            requests: requests.iter().map(|r| (*r).to_owned()).collect(),
            ..Device::default()
        };
        let all = [device("a", &["x"]), device("b", &["y"]), device("c", &[])];
        let record = Record {
            drivers: [("d".to_owned(), all.into())].into(),
            ..Record::default()
        };
        for (request, want) in [("", "a b c"), ("x", "a c"), ("x/small", "a c"), ("z", "c")] {
            let names: Vec<&str> = record.devices(request).map(|(_, d)| &*d.device).collect();
            assert_eq!(names.join(" "), want, "{request}");
        }
    }
}
