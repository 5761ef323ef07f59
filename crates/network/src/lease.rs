//! Pod addresses: one file a pod, named by the pod and holding its address, so that a lease outlives the process; the
//! lines after the first are notes for the next one.

use crate::{Error, error::io};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// Their folder in the state's.
pub(crate) const LEASES: &str = "pods";

pub(crate) struct Leases {
    dir: PathBuf,
    base: u32,
    /// Slots are 2..size: not the network's address, not the first.
    size: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    by_pod: BTreeMap<String, u32>,
    /// Where the search for a free slot goes on, so that an address is not given again at once.
    next: u32,
}

/// Gives back the address of a Pod that has nothing else, whose namespace is being taken down, without opening the network.
/// False: it has ports or the like, and the network has to do it ([`crate::Network::detach`]).
///
/// # Errors
/// [`Error::Io`].
pub fn give_back_alone(state_dir: &Path, pod: &str) -> Result<bool, Error> {
    let path = state_dir.join(LEASES).join(pod);
    let text = match fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        found => found.map_err(io(&path))?,
    };
    let alone = text.lines().count() <= 1;
    match alone.then(|| fs::remove_file(&path)) {
        Some(Err(e)) if e.kind() != std::io::ErrorKind::NotFound => Err(io(&path)(e)),
        _ => Ok(alone),
    }
}

impl Leases {
    pub fn open(dir: &Path, (base, bits): (Ipv4Addr, u8)) -> Result<Leases, Error> {
        fs::create_dir_all(dir).map_err(io(dir))?;
        let (base, size) = (u32::from(base), u32::MAX >> bits);
        let mut state = State {
            next: 2,
            ..State::default()
        };
        for entry in fs::read_dir(dir).map_err(io(dir))?.flatten() {
            let address = fs::read_to_string(entry.path())
                .ok()
                .and_then(|t| t.lines().next()?.trim().parse::<Ipv4Addr>().ok());
            let slot = address
                .map(|a| u32::from(a).wrapping_sub(base))
                .filter(|s| (2..size).contains(s));
            match (entry.file_name().into_string(), slot) {
                (Ok(pod), Some(slot)) if !pod.ends_with(".tmp") => {
                    state.next = state.next.max(slot + 1);
                    state.by_pod.insert(pod, slot);
                }
                // Half-written, or of another range: nobody has the address.
                _ => drop(fs::remove_file(entry.path())),
            }
        }
        Ok(Leases {
            dir: dir.to_path_buf(),
            base,
            size,
            state: Mutex::new(state),
        })
    }

    /// The pod's address and slot, leased now if it has none.
    pub fn take(&self, pod: &str) -> Result<(Ipv4Addr, u32), Error> {
        let mut state = self.state.lock();
        if let Some(slot) = state.by_pod.get(pod) {
            return Ok((Ipv4Addr::from(self.base + slot), *slot));
        }
        let taken: std::collections::BTreeSet<u32> = state.by_pod.values().copied().collect();
        let start = if (2..self.size).contains(&state.next) {
            state.next
        } else {
            2
        };
        let slot = (start..self.size)
            .chain(2..start)
            .find(|s| !taken.contains(s))
            .ok_or(Error::Full)?;
        let address = Ipv4Addr::from(self.base + slot);
        let (path, temp) = (self.dir.join(pod), self.dir.join(format!("{pod}.tmp")));
        fs::write(&temp, address.to_string())
            .and_then(|()| fs::rename(&temp, &path))
            .map_err(io(path))?;
        state.by_pod.insert(pod.to_string(), slot);
        state.next = slot + 1;
        Ok((address, slot))
    }

    /// The search for a free slot goes on at this one, counted around the range.
    pub fn go_on_at(&self, slot: u32) {
        self.state.lock().next = 2 + slot % self.size.saturating_sub(2).max(1);
    }

    /// Keeps notes with a pod's lease.
    pub fn note(&self, pod: &str, notes: &str) -> Result<(), Error> {
        let state = self.state.lock();
        let Some(slot) = state.by_pod.get(pod) else {
            return Ok(());
        };
        let address = Ipv4Addr::from(self.base + slot);
        let (path, temp) = (self.dir.join(pod), self.dir.join(format!("{pod}.tmp")));
        fs::write(&temp, format!("{address}\n{notes}"))
            .and_then(|()| fs::rename(&temp, &path))
            .map_err(io(path))
    }

    /// The notes of a pod's lease; none is nothing.
    pub fn notes(&self, pod: &str) -> String {
        let text = fs::read_to_string(self.dir.join(pod)).unwrap_or_default();
        let (_, notes) = text.split_once('\n').unwrap_or_default();
        notes.to_string()
    }

    /// Pods that have notes, with their addresses.
    pub fn all_notes(&self) -> Vec<(String, Ipv4Addr, String)> {
        let noted = self.all().into_iter().filter_map(|(pod, address)| {
            let text = fs::read_to_string(self.dir.join(&pod)).ok()?;
            let (_, notes) = text.split_once('\n')?;
            (!notes.is_empty()).then(|| (pod, address, notes.to_string()))
        });
        noted.collect()
    }

    pub fn address(&self, pod: &str) -> Option<Ipv4Addr> {
        self.slot(pod).map(|slot| Ipv4Addr::from(self.base + slot))
    }

    pub fn slot(&self, pod: &str) -> Option<u32> {
        self.state.lock().by_pod.get(pod).copied()
    }

    pub fn give_back(&self, pod: &str) -> Result<(), Error> {
        self.state.lock().by_pod.remove(pod);
        let path = self.dir.join(pod);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(path)(e)),
            _ => Ok(()),
        }
    }

    pub fn all(&self) -> Vec<(String, Ipv4Addr)> {
        self.state
            .lock()
            .by_pod
            .iter()
            .map(|(pod, slot)| (pod.clone(), Ipv4Addr::from(self.base + slot)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_last_and_addresses_are_not_reused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let range = (Ipv4Addr::new(10, 42, 0, 0), 29);
        let leases = Leases::open(dir.path(), range).unwrap();
        let a = leases.take("a").unwrap().0;
        assert_eq!(leases.take("a").unwrap().0, a);
        let b = leases.take("b").unwrap().0;
        leases.note("b", "some\nlines\n").unwrap();
        leases.give_back("a").unwrap();
        assert_ne!(leases.take("c").unwrap().0, a);
        let again = Leases::open(dir.path(), range).unwrap();
        assert_eq!(again.take("b").unwrap().0, b);
        let notes = [("b".to_string(), b, "some\nlines\n".to_string())];
        assert_eq!(again.all_notes(), notes);
        for pod in ["d", "e", "f"] {
            again.take(pod).unwrap();
        }
        assert!(matches!(again.take("g"), Err(Error::Full)));
    }

    #[test]
    fn what_has_only_an_address_gives_it_back_at_once() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join(LEASES);
        let leases = Leases::open(&dir, (Ipv4Addr::new(10, 42, 0, 0), 29)).unwrap();
        leases.take("plain").unwrap();
        leases.take("noted").unwrap();
        leases.note("noted", "6 0.0.0.0 80 80\n").unwrap();
        for (pod, want) in [("plain", true), ("noted", false), ("unknown", true)] {
            assert_eq!(give_back_alone(state.path(), pod).unwrap(), want, "{pod}");
        }
        let left = Leases::open(&dir, (Ipv4Addr::new(10, 42, 0, 0), 29)).unwrap();
        assert_eq!(left.all().len(), 1);
    }
}
