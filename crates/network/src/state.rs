//! What the node's set-up has to remember across processes, in `<state_dir>/node`, written whole
//! and atomically:
//!
//! ```text
//! sysctl <path> <former value>     to be restored by purge
//! digest <hex> <family>/<kind> <name>   how a chain or set of our table looked when we left it
//! ```

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use crate::{Error, error::io, nft::family::Family};

/// Held while an instance comes or goes in this network namespace: what all share (the gateway's address, forwarding) must
/// not be taken away under one that has just found it there. The namespace itself is what is locked. Waits for the others;
/// blocking, for some milliseconds each.
pub(crate) fn gate() -> Result<fs::File, Error> {
    let path = "/proc/self/ns/net";
    let file = fs::File::open(path).map_err(io(path))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| io(path)(e.into()))?;
    Ok(file)
}

/// What the names of a family's chains and sets begin with in the file.
fn prefix(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip/",
        Family::V6 => "ip6/",
    }
}

#[derive(Default, Clone)]
struct Facts {
    sysctls: BTreeMap<String, String>,
    digests: Option<BTreeMap<String, u64>>,
}

pub(crate) struct State {
    path: PathBuf,
    facts: Mutex<Facts>,
}

impl State {
    /// Reads the file, if there is one; lines that can't be read are left out.
    pub(crate) fn open(dir: &Path) -> Result<State, Error> {
        fs::create_dir_all(dir).map_err(io(dir))?;
        let path = dir.join("node");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io(&path)(error));
            }
            found => found.unwrap_or_default(),
        };
        let mut facts = Facts::default();
        for line in text.lines() {
            match line.splitn(3, ' ').collect::<Vec<_>>()[..] {
                ["sysctl", path, value] => drop(facts.sysctls.insert(path.into(), value.into())),
                ["digest", hex, name] => {
                    if let Ok(digest) = u64::from_str_radix(hex, 16) {
                        facts
                            .digests
                            .get_or_insert_default()
                            .insert(name.into(), digest);
                    }
                }
                _ => {}
            }
        }
        Ok(State {
            path,
            facts: Mutex::new(facts),
        })
    }

    /// Digests of the table of a family.
    pub(crate) fn digests(&self, family: Family) -> Option<BTreeMap<String, u64>> {
        let facts = self.facts.lock();
        let ours = facts.digests.as_ref()?.iter().filter_map(|(name, digest)| {
            Some((name.strip_prefix(prefix(family))?.to_string(), *digest))
        });
        Some(ours.collect())
    }

    pub(crate) fn set_digests(
        &self,
        family: Family,
        digests: BTreeMap<String, u64>,
    ) -> Result<(), Error> {
        let prefix = prefix(family);
        self.change(|facts| {
            let all = facts.digests.get_or_insert_default();
            all.retain(|name, _| !name.starts_with(prefix));
            all.extend(
                digests
                    .into_iter()
                    .map(|(name, digest)| (format!("{prefix}{name}"), digest)),
            );
        })
    }

    /// Sets a sysctl of the current network namespace, noting its former value the first time.
    pub(crate) fn set_sysctl(&self, path: &str, value: &str) -> Result<(), Error> {
        let before = fs::read_to_string(path).map_err(io(path))?;
        if before.trim() == value {
            return Ok(());
        }
        self.change(|facts| {
            facts
                .sysctls
                .entry(path.into())
                .or_insert_with(|| before.trim().into());
        })?;
        fs::write(path, value).map_err(io(path))
    }

    /// Puts the sysctls back as they were found.
    pub(crate) fn restore_sysctls(&self) -> Result<(), Error> {
        let sysctls = self.facts.lock().sysctls.clone();
        for (path, value) in &sysctls {
            match fs::write(path, value) {
                // a link that has gone since took its settings with it
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                done => done.map_err(io(path))?,
            }
        }
        Ok(())
    }

    /// Removes the file.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io(&self.path)(error))
            }
            _ => Ok(()),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) -> Result<(), Error> {
        let mut held = self.facts.lock();
        let mut facts = held.clone();
        change(&mut facts);
        let sysctls = facts
            .sysctls
            .iter()
            .map(|(path, value)| format!("sysctl {path} {value}\n"));
        let digests = facts
            .digests
            .iter()
            .flatten()
            .map(|(name, digest)| format!("digest {digest:x} {name}\n"));
        let temp = self.path.with_extension("tmp");
        fs::write(&temp, sysctls.chain(digests).collect::<String>())
            .and_then(|()| fs::rename(&temp, &self.path))
            .map_err(io(&self.path))?;
        *held = facts;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let knob = dir.path().join("knob");
        fs::write(&knob, "0\n").unwrap();
        let knob = knob.to_str().unwrap();
        let digests = BTreeMap::from([
            ("chain lb-3".to_string(), 7),
            ("set eps".to_string(), u64::MAX),
        ]);
        let state = State::open(dir.path()).unwrap();
        assert_eq!(state.digests(Family::V4), None);
        state.set_sysctl(knob, "1").unwrap();
        state.set_digests(Family::V4, digests.clone()).unwrap();
        state
            .set_digests(Family::V6, BTreeMap::from([("set eps".to_string(), 1)]))
            .unwrap();
        let again = State::open(dir.path()).unwrap();
        assert_eq!(again.digests(Family::V4), Some(digests));
        assert_eq!(again.digests(Family::V6).unwrap().len(), 1);
        again.set_sysctl(knob, "2").unwrap();
        again.restore_sysctls().unwrap();
        assert_eq!(
            fs::read_to_string(knob).unwrap(),
            "0",
            "the first former value counts"
        );
        fs::write(dir.path().join("node"), "digest zz x\nsysctl\nnonsense\n").unwrap();
        assert_eq!(State::open(dir.path()).unwrap().digests(Family::V4), None);
    }
}
