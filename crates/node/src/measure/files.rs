//! What is kept on file systems: how much room one has, and what a folder takes of it.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// A file system's room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub free_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

impl Room {
    /// Of the file system that holds `path`. Blocking, one call.
    pub(crate) fn of(path: &Path) -> Option<Room> {
        let s = rustix::fs::statvfs(path).ok()?;
        Some(Room {
            capacity_bytes: s.f_blocks * s.f_frsize,
            available_bytes: s.f_bavail * s.f_frsize,
            free_bytes: s.f_bfree * s.f_frsize,
            inodes: s.f_files,
            inodes_free: s.f_ffree,
        })
    }
    pub(crate) fn used_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.free_bytes)
    }
    pub(crate) fn inodes_used(&self) -> u64 {
        self.inodes.saturating_sub(self.inodes_free)
    }
}

/// What files take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub bytes: u64,
    pub inodes: u64,
}

impl std::ops::AddAssign for Taken {
    fn add_assign(&mut self, more: Taken) {
        self.bytes += more.bytes;
        self.inodes += more.inodes;
    }
}

/// Files looked at in one folder; a folder with more is told as far as that.
const FILES_MAX: u64 = 200_000;
/// Folders are counted again after this (the kubelet's `volumeStatsAggPeriod`).
const FRESH: Duration = Duration::from_secs(60);

/// What folders take, counted when it's asked for and not lately known.
#[derive(Default)]
pub(crate) struct Folders(Mutex<HashMap<PathBuf, (Instant, Taken)>>);

impl Folders {
    /// What a folder and all below it on the same file system takes; None when it isn't there. Blocking.
    pub(crate) fn taken(&self, path: &Path) -> Option<Taken> {
        let now = Instant::now();
        {
            let mut known = self.0.lock();
            known.retain(|_, (at, _)| now.duration_since(*at) < FRESH);
            if let Some((_, taken)) = known.get(path) {
                return Some(*taken);
            }
        }
        let taken = count(path)?;
        self.0.lock().insert(path.to_owned(), (now, taken));
        Some(taken)
    }
}

/// What a folder and all below it on the same file system takes now, hard links once, symlinks not followed; None when it isn't
/// there. Blocking.
pub(crate) fn count(path: &Path) -> Option<Taken> {
    let top = fs::symlink_metadata(path).ok()?;
    let device = top.dev();
    let mut taken = Taken::default();
    let mut links = HashSet::new();
    let mut add = |meta: &fs::Metadata| {
        if meta.nlink() > 1 && !meta.is_dir() && !links.insert(meta.ino()) {
            return;
        }
        taken.bytes += meta.blocks() * 512;
        taken.inodes += 1;
    };
    add(&top);
    let mut left = FILES_MAX;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Some(fewer) = left.checked_sub(1) else {
                return Some(taken);
            };
            left = fewer;
            // gone meanwhile, or another file system is mounted there
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != device {
                continue;
            }
            add(&meta);
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Some(taken)
}

/// Whether a file system is mounted at `path`.
pub(crate) fn is_mount(path: &Path) -> bool {
    let device = |p: &Path| fs::metadata(p).ok().map(|m| m.dev());
    match path.parent() {
        Some(parent) => device(path) != device(parent),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_counted_whole_and_links_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("big"), vec![0; 1 << 20]).unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/f"), vec![1; 64 << 10]).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("a/away")).unwrap();
        let got = count(dir.path()).unwrap();
        assert_eq!(got.inodes, 5);
        assert!((64 << 10..1 << 20).contains(&got.bytes), "{got:?}");
        assert_eq!(count(&dir.path().join("absent")), None);
    }

    #[test]
    fn folders_are_counted_as_du_does() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("one"), vec![1; 10_000]).unwrap();
        fs::hard_link(below.join("one"), below.join("again")).unwrap();
        std::os::unix::fs::symlink("/", below.join("elsewhere")).unwrap();
        let taken = count(dir.path()).unwrap();
        assert_eq!(taken.inodes, 5, "three folders, a file, a link");
        assert!((10_000..60_000).contains(&taken.bytes), "{}", taken.bytes);
        assert_eq!(count(&dir.path().join("none")), None);
        let folders = Folders::default();
        assert_eq!(folders.taken(dir.path()), Some(taken));
        fs::write(below.join("two"), vec![1; 10_000]).unwrap();
        assert_eq!(folders.taken(dir.path()), Some(taken), "known for a while");
    }

    #[test]
    fn a_file_system_has_room() {
        let room = Room::of(Path::new("/")).unwrap();
        assert!(room.capacity_bytes >= room.used_bytes());
        assert!(is_mount(Path::new("/proc")) && !is_mount(Path::new("/proc/self")));
    }
}
