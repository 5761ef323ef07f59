//! Digests of files by what `stat` says of them, kept on disk: a context that hasn't changed isn't read again.

use rustix::fs::Stat;
use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{SystemTime, UNIX_EPOCH},
};

/// The file's first bytes; another version is another word.
const MAGIC: &[u8; 8] = b"knarrst1";
/// Bytes a record: seven numbers and a digest.
const RECORD: usize = 6 * 8 + 32;
/// So many files are remembered, of 80 bytes each.
const FILES_MAX: usize = 200_000;
/// A file that was changed less than so long ago may be changed again without its times telling.
const YOUNG_NS: i128 = 1_000_000_000;

#[derive(Clone, Copy, PartialEq)]
struct Known {
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    digest: [u8; 32],
    /// In this run
    used: bool,
}

/// One context's digests. Safe to share between steps; [`StatCache::save`] makes them last.
#[derive(Debug)]
pub struct StatCache {
    path: PathBuf,
    known: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: HashMap<(u64, u64), Known>,
    changed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} files", self.files.len())
    }
}

fn nanoseconds(seconds: i64, rest: u64) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::try_from(rest).unwrap_or(0))
}

#[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
fn read_stat(stat: &Stat) -> ((u64, u64), Known) {
    let known = Known {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec as u64),
        ctime_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec as u64),
        digest: [0; 32],
        used: true,
    };
    ((stat.st_dev, stat.st_ino), known)
}

impl StatCache {
    /// The digests of the context at `context`, kept in the folder `dir`. A damaged or missing file is an empty cache.
    pub fn open(dir: &Path, context: &Path) -> StatCache {
        use sha2::{Digest, Sha256};
        use std::os::unix::ffi::OsStrExt;
        let context = context.canonicalize().unwrap_or_else(|_| context.into());
        let key = hex::encode(&Sha256::digest(context.as_os_str().as_bytes())[..16]);
        let path = dir.join(key);
        let files = std::fs::read(&path).ok().and_then(|b| parse(&b));
        let state = State {
            files: files.unwrap_or_default(),
            changed: false,
        };
        StatCache {
            path,
            known: Mutex::new(state),
        }
    }

    /// What is known of files as they are now.
    pub(crate) fn known<'a>(&self, files: impl Iterator<Item = &'a Stat>) -> Vec<Option<[u8; 32]>> {
        let Ok(mut state) = self.known.lock() else {
            return files.map(|_| None).collect();
        };
        let look = |stat: &Stat| {
            let (id, now) = read_stat(stat);
            let known = state.files.get_mut(&id)?;
            let same = (known.size, known.mtime_ns, known.ctime_ns)
                == (now.size, now.mtime_ns, now.ctime_ns);
            same.then(|| {
                known.used = true;
                known.digest
            })
        };
        files.map(look).collect()
    }

    pub(crate) fn learn(&self, stat: &Stat, digest: [u8; 32]) {
        let (id, known) = read_stat(stat);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos());
        let age = i128::try_from(now).unwrap_or(0) - i128::from(known.ctime_ns);
        if let Ok(mut state) = self.known.lock() {
            state.changed = true;
            match age > YOUNG_NS {
                true => state.files.insert(id, Known { digest, ..known }),
                false => state.files.remove(&id),
            };
        }
    }

    /// Writes what was learnt, by rename. Nothing is written when nothing was.
    ///
    /// # Errors
    /// When the folder can't be written to: the cache is only a help.
    pub fn save(&self) -> std::io::Result<()> {
        let bytes = {
            let Ok(mut state) = self.known.lock() else {
                return Ok(());
            };
            if !std::mem::take(&mut state.changed) {
                return Ok(());
            }
            if state.files.len() > FILES_MAX {
                state.files.retain(|_, known| known.used);
            }
            format(&state.files)
        };
        let dir = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&bytes)?;
        file.persist(&self.path)?;
        Ok(())
    }
}

/// Magic, records, the CRC of both.
fn format(files: &HashMap<(u64, u64), Known>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + files.len() * RECORD + 4);
    bytes.extend_from_slice(MAGIC);
    for ((dev, ino), known) in files.iter().take(FILES_MAX) {
        for number in [
            *dev,
            *ino,
            known.size,
            known.mtime_ns as u64,
            known.ctime_ns as u64,
            0,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&known.digest);
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Option<HashMap<(u64, u64), Known>> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    let records = body.strip_prefix(MAGIC)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) || records.len() % RECORD != 0 {
        return None;
    }
    let mut files = HashMap::with_capacity(records.len() / RECORD);
    for record in records.chunks_exact(RECORD) {
        let number = |i: usize| {
            let bytes = record[i * 8..][..8].try_into();
            bytes.map(u64::from_le_bytes).unwrap_or(0)
        };
        let known = Known {
            size: number(2),
            mtime_ns: number(3) as i64,
            ctime_ns: number(4) as i64,
            digest: record[48..].try_into().ok()?,
            used: false,
        };
        files.insert((number(0), number(1)), known);
    }
    Some(files)
}
