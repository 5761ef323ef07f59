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
};

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

#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub dir: PathBuf,
}

impl Folder {
    fn file(&self, uid: &str) -> PathBuf {
        self.dir.join(format!("{uid}.json"))
    }

    /// None: there is none, or none that can be read. Blocking, as all here.
    pub fn read(&self, uid: &str) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.file(uid)).ok()?).ok()
    }

    pub fn all(&self) -> Vec<Record> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().into_string().ok());
        names
            .filter_map(|name| self.read(name.strip_suffix(".json")?))
            .collect()
    }

    /// Whole or not at all.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let new = self.dir.join(format!(".{}.new", record.uid));
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        fs::rename(new, self.file(&record.uid))
    }

    pub fn remove(&self, uid: &str) -> io::Result<()> {
        match fs::remove_file(self.file(uid)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder {
            dir: dir.path().join("devices"),
        };
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
        assert_eq!(folder.all(), [record]);
        folder.remove("u").unwrap();
        folder.remove("u").unwrap();
        assert_eq!(folder.all(), []);
    }
}
