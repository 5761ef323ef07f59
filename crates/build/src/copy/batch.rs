//! Contents of plain files, copied by several threads: making a file is waiting for the kernel most of the time.

use super::{
    error::{Error, io},
    root::open_regular,
    tree::Tree,
    write::{Writer, keys, names, times, transfer},
};
use rustix::{
    fd::OwnedFd,
    fs::{Gid, Mode as Bits, OFlags, Stat, Timestamps, Uid, XattrFlags},
};
use std::{
    ffi::CString,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// So many files are collected before they are copied.
pub(crate) const BATCH_MAX: usize = 4096;
/// A thread takes so many at once, mostly of one folder.
const CHUNK: usize = 16;
const THREADS_MAX: usize = 4;

/// A file whose target's place is free.
pub(crate) struct Job {
    /// From the tree's root.
    pub from: PathBuf,
    /// From the destination's root.
    pub target: PathBuf,
    pub stat: Stat,
    pub owner: (u32, u32),
}

/// Copies all of them.
///
/// # Errors
/// The first failure; others may have been copied.
pub(crate) fn run(writer: &Writer, tree: &Tree, jobs: &[Job]) -> Result<(), Error> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let work = || {
        let mut folders = Folders::default();
        loop {
            let at = next.fetch_add(CHUNK, Ordering::Relaxed);
            let Some(rest) = jobs.get(at..).filter(|r| !r.is_empty()) else {
                return;
            };
            for job in rest.iter().take(CHUNK) {
                if let Err(e) = one(writer, tree, job, &mut folders) {
                    // the others need not go on
                    next.store(jobs.len(), Ordering::Relaxed);
                    if let Ok(mut failed) = failed.lock() {
                        failed.get_or_insert(e);
                    }
                    return;
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    match cores.min(THREADS_MAX).min(jobs.len() / CHUNK) {
        0 | 1 => work(),
        n => std::thread::scope(|scope| {
            for _ in 0..n {
                scope.spawn(work);
            }
        }),
    }
    match failed.into_inner() {
        Ok(Some(e)) => Err(e),
        Ok(None) => Ok(()),
        Err(_) => Err(Error::Refused("a thread that copied files broke".into())),
    }
}

/// The folders that were used last.
#[derive(Default)]
struct Folders {
    from: Option<(PathBuf, OwnedFd)>,
    to: Option<(PathBuf, OwnedFd)>,
}

fn folder<'a>(
    kept: &'a mut Option<(PathBuf, OwnedFd)>,
    path: &Path,
    open: impl FnOnce(&Path) -> std::io::Result<OwnedFd>,
) -> std::io::Result<&'a OwnedFd> {
    let stale = kept.as_ref().is_none_or(|(at, _)| at != path);
    let fresh = match (stale, kept.take()) {
        (false, Some(there)) => there,
        _ => (path.to_owned(), open(path)?),
    };
    Ok(&kept.insert(fresh).1)
}

fn one(writer: &Writer, tree: &Tree, job: &Job, folders: &mut Folders) -> Result<(), Error> {
    let parts = |path: &'_ Path| {
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        (parent, path.file_name().unwrap_or_default().to_owned())
    };
    let (from_parent, from_name) = parts(&job.from);
    let (to_parent, to_name) = parts(&job.target);
    let fail = |what: &'static str| move |e: rustix::io::Errno| io(what, &job.target)(e.into());
    let dir = folder(&mut folders.from, &from_parent, |p| tree.handle().dir(p));
    let dir = dir.map_err(io("failed to open", &from_parent))?;
    let from =
        open_regular(dir, Path::new(&from_name)).map_err(io("failed to open source", &job.from))?;
    let dir = folder(&mut folders.to, &to_parent, |p| writer.root.dir(p));
    let dir = dir.map_err(io("failed to open", &to_parent))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = rustix::fs::openat(dir, &to_name, flags, Bits::from_raw_mode(0o600))
        .map_err(fail("failed to open target"))?;
    let to = std::fs::File::from(to);
    transfer(&from, &to, &job.stat).map_err(io("failed to copy", &job.from))?;
    let (uid, gid) = writer.owner.unwrap_or(job.owner);
    rustix::fs::fchown(&to, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(fail("failed to chown"))?;
    let mode = match &writer.mode {
        Some(mode) => mode.apply(job.stat.st_mode, false),
        None => job.stat.st_mode & 0o7777,
    };
    rustix::fs::fchmod(&to, Bits::from_raw_mode(mode)).map_err(fail("failed to chmod"))?;
    attributes(&from, &to);
    let (last_access, last_modification) = times(&job.stat, writer.times);
    let times = Timestamps {
        last_access,
        last_modification,
    };
    rustix::fs::futimens(&to, &times).map_err(fail("failed to utime"))
}

/// As BuildKit: what can't be read or isn't taken is left out.
fn attributes(from: &std::fs::File, to: &std::fs::File) {
    let names = names(|buffer| rustix::fs::flistxattr(from, buffer));
    for key in keys(&names) {
        let Ok(key) = CString::new(key) else { continue };
        let mut value = vec![0u8; 64 << 10];
        if let Ok(size) = rustix::fs::fgetxattr(from, &*key, &mut value[..]) {
            let _ = rustix::fs::fsetxattr(to, &*key, &value[..size], XattrFlags::empty());
        }
    }
}
