//! The checksum of what would be copied: names, modes, owners, link targets, attributes, content; no times. As BuildKit's
//! `contenthash` in what counts, not in its bytes.

use super::{
    CopyRequest, Source, StatCache, destination,
    error::{Error, io},
    root::{Root, is_dir, kind},
    select::select,
    tree::Tree,
    walk::{Found, Visitor, walk},
    write::xattrs,
};
use rustix::fs::{FileType, Stat};
use sha2::{Digest, Sha256};
use std::{
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// More threads than this bring nothing: the disk is what is waited for.
const THREADS_MAX: usize = 4;

/// The digest of a request's sources and options, for the cache's key: `sha256:…`. Two requests with the same digest put the
/// same files at the same places of the same root. What is in `into` isn't looked at.
///
/// With `cache` only files that have changed since are read.
///
/// # Errors
/// As [`super::copy`]: sources that aren't there, files that can't be read.
pub fn checksum(request: &CopyRequest<'_>, cache: Option<&StatCache>) -> Result<String, Error> {
    let mut hash = Sha256::new();
    field(&mut hash, b"knarr copy 1");
    field(
        &mut hash,
        destination(&request.workdir, &request.destination).as_bytes(),
    );
    for option in [&request.chown, &request.chmod] {
        field(&mut hash, option.as_deref().unwrap_or("-").as_bytes());
    }
    let flags = [request.link, request.unpack, request.times.is_some()];
    field(&mut hash, &flags.map(u8::from));
    field(&mut hash, &request.times.unwrap_or(0).to_le_bytes());
    for source in &request.sources {
        if let Source::Inline { name, content } = source {
            field(&mut hash, b"inline");
            field(&mut hash, name.as_bytes());
            field(&mut hash, content);
            continue;
        }
        let selected = select(request, source)?;
        field(&mut hash, b"source");
        field(
            &mut hash,
            &[u8::from(selected.contents), u8::from(selected.unpack)],
        );
        let mut collector = Collector::default();
        for start in &selected.starts {
            collector.name = start.name.clone();
            walk(
                selected.tree(),
                &start.path,
                &selected.filters,
                &mut collector,
            )?;
        }
        let digests = digests(selected.tree(), &collector.files, cache)?;
        for record in &collector.records {
            field(&mut hash, &record.head);
            if let Some(file) = record.file {
                hash.update(digests[file]);
            }
        }
    }
    Ok(format!("sha256:{}", hex::encode(hash.finalize())))
}

fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

struct Record {
    head: Vec<u8>,
    /// Which of the files has its content.
    file: Option<usize>,
}

#[derive(Default)]
struct Collector {
    /// What the source is called, for a file.
    name: String,
    records: Vec<Record>,
    files: Vec<(PathBuf, Stat)>,
    /// Folders that the walk is in and that aren't in the records yet.
    open: Vec<Option<Vec<u8>>>,
}

impl Collector {
    fn folders(&mut self) {
        for folder in &mut self.open {
            if let Some(head) = folder.take() {
                self.records.push(Record { head, file: None });
            }
        }
    }
}

/// All of a file but its content.
fn head(found: &Found<'_>, name: &[u8]) -> Result<Vec<u8>, Error> {
    let stat = &found.stat;
    let (uid, gid) = found.tree.owner(stat);
    let kind = kind(stat);
    let mut head = vec![];
    let mut add = |bytes: &[u8]| {
        head.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        head.extend_from_slice(bytes);
    };
    add(name);
    let mode = match kind {
        FileType::Symlink => kind.as_raw_mode() | 0o777,
        _ => stat.st_mode,
    };
    for number in [mode, uid, gid] {
        add(&number.to_le_bytes());
    }
    match kind {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(found.dir, found.name, vec![])
                .map_err(|e| io("failed to read link", found.path)(e.into()))?;
            add(target.as_bytes());
        }
        FileType::CharacterDevice | FileType::BlockDevice => add(&stat.st_rdev.to_le_bytes()),
        _ => {}
    }
    for (key, value) in xattrs(found.dir, found.name) {
        add(key.as_bytes());
        add(&value);
    }
    Ok(head)
}

impl Visitor for Collector {
    fn enter(&mut self, found: &Found<'_>, meant: bool) -> Result<(), Error> {
        let head = head(found, found.below.as_os_str().as_bytes())?;
        self.open.push(Some(head));
        if meant {
            self.folders();
        }
        Ok(())
    }
    fn leaf(&mut self, found: &Found<'_>) -> Result<(), Error> {
        self.folders();
        let name = match found.below.as_os_str().is_empty() {
            true => self.name.as_bytes(),
            false => found.below.as_os_str().as_bytes(),
        };
        let head = head(found, name)?;
        let file = match kind(&found.stat) {
            FileType::RegularFile => {
                self.files.push((found.path.to_owned(), found.stat));
                Some(self.files.len() - 1)
            }
            _ => None,
        };
        self.records.push(Record { head, file });
        Ok(())
    }
    fn leave(&mut self, _: &Tree, _: &Path, stat: &Stat, _: bool) -> Result<(), Error> {
        debug_assert!(is_dir(stat));
        self.open.pop();
        Ok(())
    }
}

/// The digests of files' contents, in their order.
fn digests(
    tree: &Tree,
    files: &[(PathBuf, Stat)],
    cache: Option<&StatCache>,
) -> Result<Vec<[u8; 32]>, Error> {
    let mut found: Vec<Option<[u8; 32]>> = match cache {
        Some(cache) => cache.known(files.iter().map(|(_, stat)| stat)),
        None => vec![None; files.len()],
    };
    let missing: Vec<usize> = (0..files.len()).filter(|i| found[*i].is_none()).collect();
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let threads = std::thread::available_parallelism()
        .map_or(1, |n| n.get())
        .min(THREADS_MAX)
        // a thread costs as much as some ten small files
        .min(missing.len().div_ceil(16));
    let work = || {
        let mut done = vec![];
        let mut buffer = vec![0u8; 128 << 10];
        while let Some(i) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (path, stat) = &files[*i];
            match content(tree.handle(), path, &mut buffer) {
                Ok((digest, at)) => {
                    if let Some(cache) = cache
                        && (at.st_dev, at.st_ino) == (stat.st_dev, stat.st_ino)
                    {
                        cache.learn(&at, digest);
                    }
                    done.push((*i, digest));
                }
                Err(e) => {
                    if let Ok(mut failed) = failed.lock() {
                        failed.get_or_insert(io("failed to read", path)(e));
                    }
                    // the others need not go on
                    next.store(missing.len(), Ordering::Relaxed);
                }
            }
        }
        done
    };
    let done: Vec<(usize, [u8; 32])> = match threads {
        0 | 1 => work(),
        n => std::thread::scope(|scope| {
            let all: Vec<_> = (0..n).map(|_| scope.spawn(work)).collect();
            all.into_iter()
                .flat_map(|t| t.join().unwrap_or_default())
                .collect()
        }),
    };
    if let Some(e) = failed.into_inner().unwrap_or_default() {
        return Err(e);
    }
    for (i, digest) in done {
        found[i] = Some(digest);
    }
    let gone = || Error::Refused("a file's checksum wasn't made".into());
    found.into_iter().map(|d| d.ok_or_else(gone)).collect()
}

/// A file's digest, and what it was when its reading began.
fn content(root: &Root, path: &Path, buffer: &mut [u8]) -> std::io::Result<([u8; 32], Stat)> {
    let mut file = root.file(path)?;
    let stat = rustix::fs::fstat(&file)?;
    let mut hash = Sha256::new();
    loop {
        match file.read(buffer)? {
            0 => return Ok((hash.finalize().into(), stat)),
            n => hash.update(&buffer[..n]),
        }
    }
}
