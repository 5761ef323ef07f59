//! What steps made, by keys of all that went into them.
//!
//! ```text
//! <dir>/lock                 flock: shared while a build runs, exclusive to prune
//! <dir>/steps/<key>          a record (JSON), replaced by rename; its time of change is that of its last use
//! <dir>/snapshots/<id>/fs/   what a step changed: an overlay's upper layer
//! <dir>/mounts/<id>/fs/      RUN --mount=type=cache, with a lock beside it
//! <dir>/sources/             what ADD fetched
//! <dir>/sums/<key>           digests of files of steps' results
//! <dir>/boot                 the start of the machine in which it was used last
//! ```
//!
//! A snapshot is moved to its name before a record names it; what no record names is removed by the next prune. So a build
//! may be killed at any moment: the next one finds each finished step whole, and nothing of the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, io};

/// Of everything that a step's result depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Key(String);

impl Key {
    /// Of parts, each told apart from the next.
    pub(crate) fn new<'a>(kind: &'a str, parts: impl IntoIterator<Item = &'a str>) -> Key {
        let mut hash = Sha256::new();
        for part in std::iter::once(kind).chain(parts) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Key(hex::encode(hash.finalize()))
    }
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
    /// It is what [`Key::new`] makes: one from elsewhere need not be.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.len() == 64 && self.0.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

/// A layer as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub diff_id: String,
    pub digest: String,
    pub size: u64,
    pub media_type: String,
}

/// A finished step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// What the steps after it depend on: two runs of one command need not give the same.
    pub result: Key,
    /// Name of the snapshot.
    pub snapshot: String,
    /// Nothing was changed.
    pub empty: bool,
    /// RFC 3339
    pub created: String,
    /// As in the history.
    pub description: String,
    /// Sum of the snapshot's files.
    #[serde(default)]
    pub bytes: u64,
    /// The start of the machine since which it is known that all of it is there.
    #[serde(default)]
    pub boot: String,
}

pub(crate) struct Cache {
    dir: PathBuf,
    /// Of the machine's start.
    boot: String,
}

/// Changes with each start of the machine; empty without `/proc`, where there are no containers either.
fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// Held while a build uses the cache.
pub(crate) struct InUse {
    _lock: fs::File,
}

impl Cache {
    pub(crate) fn open(dir: &Path) -> Result<Cache, Error> {
        for sub in [
            "steps",
            "snapshots",
            "layers",
            "mounts",
            "sources",
            "stats",
            "sums",
            "tmp",
        ] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(io(path))?;
        }
        let cache = Cache {
            dir: dir.into(),
            boot: boot(),
        };
        cache.after_boot()?;
        Ok(cache)
    }

    /// Nothing here is flushed to the disk when it is made, which would make each step wait for whatever else is being
    /// written. So after the machine was started anew (it may have lost its power) what was fetched is fetched again, and
    /// steps are looked at before they are used, see [`Cache::find`].
    fn after_boot(&self) -> Result<(), Error> {
        let note = self.dir.join("boot");
        if self.boot.is_empty() || fs::read_to_string(&note).is_ok_and(|known| known == self.boot) {
            return Ok(());
        }
        let Some(_alone) = self.flock(rustix::fs::FlockOperation::NonBlockingLockExclusive)? else {
            // who builds now has seen to it
            return Ok(());
        };
        for path in entries(&self.sources())? {
            // git's own objects have digests
            if path.file_name().is_none_or(|name| name != "git") {
                discard(&path);
            }
        }
        for path in entries(&self.dir.join("sums"))? {
            discard(&path);
        }
        let mut file = tempfile::NamedTempFile::new_in(self.dir.join("tmp")).map_err(io(&note))?;
        file.write_all(self.boot.as_bytes()).map_err(io(&note))?;
        file.persist(&note).map_err(|e| io(&note)(e.error))?;
        Ok(())
    }
    fn flock(&self, how: rustix::fs::FlockOperation) -> Result<Option<InUse>, Error> {
        let path = self.dir.join("lock");
        let mut open = fs::OpenOptions::new();
        let file = open.create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(io(&path))?;
        match rustix::fs::flock(&file, how) {
            Ok(()) => Ok(Some(InUse { _lock: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(io(path)(e.into())),
        }
    }
    /// Nothing is pruned while this is held.
    pub(crate) fn in_use(&self) -> Result<Option<InUse>, Error> {
        self.flock(rustix::fs::FlockOperation::LockShared)
    }
    pub(crate) fn sources(&self) -> PathBuf {
        self.dir.join("sources")
    }
    /// What is known of contexts' files.
    pub(crate) fn stats(&self) -> PathBuf {
        self.dir.join("stats")
    }
    /// For half-made things; what a killed build left goes with the next prune.
    pub(crate) fn temp(&self) -> Result<tempfile::TempDir, Error> {
        let path = self.dir.join("tmp");
        tempfile::tempdir_in(&path).map_err(io(path))
    }
    pub(crate) fn mounts(&self) -> PathBuf {
        self.dir.join("mounts")
    }
    fn step(&self, key: &Key) -> PathBuf {
        self.dir.join("steps").join(&key.0)
    }
    /// Where a record's files are.
    pub(crate) fn files(&self, record: &Record) -> PathBuf {
        self.dir.join("snapshots").join(&record.snapshot).join("fs")
    }

    /// The record of a step whose files are still there. Marks it as used.
    pub(crate) fn find(&self, key: &Key) -> Option<Record> {
        let path = self.step(key);
        let record: Record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        let files = self.files(&record);
        if !files.is_dir() {
            return None;
        }
        if record.boot != self.boot && !self.boot.is_empty() {
            // a file whose content had not arrived is shorter; what is in the store, the store looks after
            let link = files.is_symlink();
            if !link && size(&files) != record.bytes {
                return None;
            }
            let _ = self.note(key, &record);
        }
        touch(&path);
        Some(record)
    }

    /// Keeps a step's files, the folder `fs` in `made`, which is on the same file system.
    pub(crate) fn keep(
        &self,
        key: &Key,
        made: tempfile::TempDir,
        record: &Record,
    ) -> Result<(), Error> {
        let target = self.dir.join("snapshots").join(&record.snapshot);
        let made = made.keep();
        fs::rename(&made, &target).map_err(io(&target))?;
        self.note(key, record)
    }

    /// A further key of the same result.
    pub(crate) fn note(&self, key: &Key, record: &Record) -> Result<(), Error> {
        let record = Record {
            boot: self.boot.clone(),
            ..record.clone()
        };
        self.write(&self.step(key), &record)
    }

    /// What was found out about something that never changes.
    pub(crate) fn sum(&self, of: &Key) -> Option<String> {
        let path = self.dir.join("sums").join(&of.0);
        let found = fs::read_to_string(&path).ok().filter(|t| !t.is_empty())?;
        touch(&path);
        Some(found)
    }
    pub(crate) fn set_sum(&self, of: &Key, sum: &str) -> Result<(), Error> {
        let path = self.dir.join("sums").join(&of.0);
        let mut file = tempfile::NamedTempFile::new_in(self.dir.join("tmp")).map_err(io(&path))?;
        file.write_all(sum.as_bytes()).map_err(io(&path))?;
        file.persist(&path).map_err(|e| io(&path)(e.error))?;
        Ok(())
    }

    /// What the store calls a snapshot's layer, made with these options.
    pub(crate) fn stored(&self, snapshot: &str, how: &str) -> Option<Stored> {
        let path = self.dir.join("layers").join(format!("{snapshot}{how}"));
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
    pub(crate) fn set_stored(
        &self,
        snapshot: &str,
        how: &str,
        stored: &Stored,
    ) -> Result<(), Error> {
        self.write(
            &self.dir.join("layers").join(format!("{snapshot}{how}")),
            stored,
        )
    }

    fn write(&self, path: &Path, value: &impl Serialize) -> Result<(), Error> {
        let bytes = serde_json::to_vec(value).map_err(|e| Error::Bug(e.to_string()))?;
        let mut file = tempfile::NamedTempFile::new_in(self.dir.join("tmp")).map_err(io(path))?;
        file.write_all(&bytes).map_err(io(path))?;
        file.persist(path).map_err(|e| io(path)(e.error))?;
        Ok(())
    }

    /// Removes what the request says, and what no record names. None when a build is running. `forget` hears of each layer
    /// that the store need not keep any more; `shared` knows whether a named image has a layer.
    pub(crate) fn prune(
        &self,
        wanted: &Prune,
        forget: &dyn Fn(&str),
        shared: &dyn Fn(&str) -> bool,
    ) -> Result<Option<Pruned>, Error> {
        let Some(_lock) = self.flock(rustix::fs::FlockOperation::NonBlockingLockExclusive)? else {
            return Ok(None);
        };
        let now = SystemTime::now();
        let mut records = vec![];
        for path in entries(&self.dir.join("steps"))? {
            let used = fs::metadata(&path).and_then(|m| m.modified());
            match (read_record(&path), used) {
                (Some(record), Ok(used)) => records.push((used, path, record)),
                _ => discard(&path),
            }
        }
        records.sort_by_key(|r| std::cmp::Reverse(r.0));
        let mut sizes = BTreeMap::new();
        let mut kept = BTreeSet::new();
        let (mut sum, mut pruned) = (0_u64, Pruned::default());
        let in_image = |snapshot: &str| {
            let stored = self.stored(snapshot, "");
            stored.is_some_and(|layer| shared(&layer.diff_id))
        };
        for (used, path, record) in records {
            let age = now.duration_since(used).unwrap_or_default().as_secs();
            let new = if kept.contains(&record.snapshot) {
                0
            } else {
                record.bytes
            };
            sizes.insert(record.snapshot.clone(), record.bytes);
            let (old, much) = (
                age >= wanted.unused_s,
                sum.saturating_add(new) > wanted.keep_bytes,
            );
            let old = if wanted.both {
                old && much
            } else {
                old || much
            };
            if old && !(wanted.spare_shared && in_image(&record.snapshot)) {
                discard(&path);
                continue;
            }
            sum += new;
            kept.insert(record.snapshot);
        }
        for path in entries(&self.dir.join("snapshots"))? {
            let name = name_of(&path);
            if !kept.contains(&name) {
                discard(&path);
                pruned.bytes_freed += sizes.get(&name).copied().unwrap_or(0);
                pruned.snapshots.push(name);
            }
        }
        for path in entries(&self.dir.join("layers"))? {
            let name = name_of(&path);
            if !kept.contains(name.split('@').next().unwrap_or_default()) {
                forget(&name);
                discard(&path);
            }
        }
        // the oldest of what has no size in the records goes by its age, or with everything
        for folder in [self.mounts(), self.sources(), self.dir.join("sums")] {
            for path in entries(&folder)? {
                let used = fs::metadata(&path)
                    .and_then(|m| m.modified())
                    .unwrap_or(now);
                let age = now.duration_since(used).unwrap_or_default().as_secs();
                if age >= wanted.unused_s && !wanted.both || wanted.keep_bytes == 0 {
                    pruned.bytes_freed += size(&path);
                    discard(&path);
                }
            }
        }
        for path in entries(&self.dir.join("tmp"))? {
            discard(&path);
        }
        pruned.bytes_left = sum;
        Ok(Some(pruned))
    }

    /// All results, the one used last first.
    pub(crate) fn usage(&self) -> Result<Vec<Usage>, Error> {
        let mut all = BTreeMap::<String, Usage>::new();
        for path in entries(&self.dir.join("steps"))? {
            let used = fs::metadata(&path).and_then(|m| m.modified());
            let (Some(record), Ok(used)) = (read_record(&path), used) else {
                continue;
            };
            let last_used = all
                .get(&record.snapshot)
                .map_or(used, |known| known.last_used.max(used));
            let layer = self.stored(&record.snapshot, "").map(|l| l.diff_id);
            all.insert(
                record.snapshot.clone(),
                Usage {
                    id: record.snapshot,
                    kind: "regular".into(),
                    description: record.description,
                    bytes: record.bytes,
                    created: record.created,
                    last_used,
                    layer,
                },
            );
        }
        for path in entries(&self.mounts())? {
            let Ok(used) = fs::metadata(&path).and_then(|m| m.modified()) else {
                continue;
            };
            let id: String = name_of(&path).chars().take(24).collect();
            all.insert(
                id.clone(),
                Usage {
                    id,
                    kind: "exec.cachemount".into(),
                    description: "cached mount of RUN".into(),
                    bytes: size(&path),
                    created: jiff::Timestamp::try_from(used)
                        .unwrap_or_default()
                        .to_string(),
                    last_used: used,
                    layer: None,
                },
            );
        }
        let mut all: Vec<Usage> = all.into_values().collect();
        all.sort_by_key(|u| std::cmp::Reverse(u.last_used));
        Ok(all)
    }

    /// Sum of all, in bytes, as the records have it.
    pub(crate) fn bytes(&self) -> Result<u64, Error> {
        let mut seen = BTreeMap::new();
        for path in entries(&self.dir.join("steps"))? {
            if let Some(r) = read_record(&path) {
                seen.insert(r.snapshot, r.bytes);
            }
        }
        Ok(seen.values().sum())
    }
}

/// What is to go of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prune {
    /// What was not used for so long, in seconds.
    pub unused_s: u64,
    /// Of the rest the longest unused, until this is left, in bytes.
    pub keep_bytes: u64,
    /// Only what is as old goes, and only until this is left.
    pub both: bool,
    /// Results that are layers of named images stay.
    pub spare_shared: bool,
}

impl Prune {
    /// As somebody asks for it: what was not used for so long, in seconds, as far as more than so many bytes are kept; all that is
    /// there without either.
    ///
    /// SOURCE: buildkit cache/manager.go pruneOnce
    pub fn asked(unused_s: Option<u64>, keep_bytes: Option<u64>, all: bool) -> Prune {
        let nothing_said = if unused_s.is_none() && keep_bytes.is_none() {
            0
        } else {
            u64::MAX
        };
        Prune {
            unused_s: unused_s.unwrap_or(nothing_said),
            keep_bytes: keep_bytes.unwrap_or(nothing_said),
            both: unused_s.is_some() && keep_bytes.is_some(),
            spare_shared: !all,
        }
    }
}

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Results removed.
    pub snapshots: Vec<String>,
    /// Of all that was removed; a result that is a layer of the store takes none beside it.
    pub bytes_freed: u64,
    /// What is left, in bytes.
    pub bytes_left: u64,
}

/// Something in the cache.
#[derive(Debug, Clone)]
pub struct Usage {
    pub id: String,
    /// `regular`, `exec.cachemount`
    pub kind: String,
    pub description: String,
    pub bytes: u64,
    /// RFC 3339
    pub created: String,
    pub last_used: SystemTime,
    /// Digest of the layer in the store that it is.
    pub layer: Option<String>,
}

fn read_record(path: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let all = fs::read_dir(dir).map_err(io(dir))?;
    Ok(all.flatten().map(|e| e.path()).collect())
}

fn discard(path: &Path) {
    let gone = match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
    if let Err(e) = gone {
        tracing::warn!(path = %path.display(), "cannot be removed from the build cache: {e}");
    }
}

pub(crate) fn touch(path: &Path) {
    let now = fs::FileTimes::new().set_modified(SystemTime::now());
    if let Ok(file) = fs::File::open(path) {
        let _ = file.set_times(now);
    }
}

/// A name that no other has.
pub(crate) fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default()
        .as_nanos();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{now:x}-{:x}-{next:x}", std::process::id())
}

/// It is what [`unique`] makes.
pub(crate) fn is_snapshot(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
        && !name.starts_with('-')
}

/// Sum of the files' sizes in bytes; links and what can't be read count nothing.
pub(crate) fn size(dir: &Path) -> u64 {
    let mut sum = 0;
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(m) if m.is_dir() => open.push(entry.path()),
                Ok(m) if m.is_file() => sum += m.len(),
                _ => {}
            }
        }
    }
    sum
}
