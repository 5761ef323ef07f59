//! Writing what a walk finds (`fsutil/copy`): which folders come to be, whose metadata counts, what replaces what.

use super::{
    Mode,
    batch::{self, BATCH_MAX, Job},
    error::{Error, io},
    root::{Root, is_dir, kind, open_regular},
    select::Start,
    tree::Tree,
    walk::{Filters, Found, Visitor, walk},
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, FileType, Mode as Bits, OFlags, Stat, Timespec, Timestamps},
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::{CString, OsStr},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

/// The mode of folders that nobody speaks of.
const FOLDER_MODE: u32 = 0o755;

/// Writes into one destination.
pub(crate) struct Writer {
    pub root: Root,
    /// Absolute, clean; a slash at its end makes it a folder.
    pub destination: String,
    pub owner: Option<(u32, u32)>,
    pub mode: Option<Mode>,
    pub times: Option<i64>,
}

/// Extended attributes of a file.
pub(crate) type Xattrs = Vec<(CString, Vec<u8>)>;

impl Writer {
    pub fn new(
        into: &Path,
        destination: &str,
        owner: Option<(u32, u32)>,
        mode: Option<Mode>,
        times: Option<i64>,
    ) -> Result<Writer, Error> {
        Ok(Writer {
            root: Root::open(into).map_err(io("failed to open the destination", into))?,
            destination: destination.into(),
            owner,
            mode,
            times,
        })
    }

    /// Follows the destination's links inside the root.
    pub fn follow(&self, path: &str) -> Result<PathBuf, Error> {
        let found = self.root.resolve(Path::new(path), true, &|_, _| true);
        Ok(found.map_err(io("failed to follow", path))?.path)
    }

    /// Copies one file or folder. `contents`: of a folder, what is in it.
    pub fn copy(
        &self,
        tree: &Tree,
        start: &Start,
        filters: &Filters,
        contents: bool,
    ) -> Result<(), Error> {
        let folder = match self.destination.rsplit_once('/') {
            Some(("", _)) | None => "/",
            Some((folder, _)) => folder,
        };
        let folder = match self.destination.ends_with('/') {
            true => self.destination.trim_end_matches('/'),
            false => folder,
        };
        let made = self.folders(&self.follow(folder)?, self.folder_mode())?;
        let mut target = self.follow(&self.destination)?;
        let source = tree.handle().stat(&start.path);
        let source = source
            .map_err(io("failed to stat", &start.path))?
            .ok_or_else(|| Error::NotFound {
                tree: tree.name().into(),
                path: format!("/{}", start.path.display()),
            })?;
        let there = self
            .root
            .stat(&target)
            .map_err(io("failed to stat", &target))?;
        let into_folder = match is_dir(&source) {
            true => !contents && there.is_some(),
            false => there.as_ref().is_some_and(is_dir),
        };
        if into_folder {
            target.push(&start.name);
        }
        let parents = match contents && is_dir(&source) && there.is_none() {
            true => target.as_path(),
            false => target.parent().unwrap_or(Path::new("")),
        };
        let more = self.folders(parents, self.folder_mode())?;
        let mut copier = Copier {
            to: self,
            target,
            links: HashMap::new(),
            stack: vec![],
            parent: None,
            jobs: vec![],
            late: vec![],
        };
        walk(tree, &start.path, filters, &mut copier)?;
        copier.finish(tree)?;
        if let Some(seconds) = self.times {
            for path in made.iter().chain(&more).rev() {
                self.set_times(path, at(seconds), at(seconds))?;
            }
        }
        Ok(())
    }

    fn folder_mode(&self) -> u32 {
        match &self.mode {
            Some(Mode::Octal(mode)) => mode & 0o777,
            _ => FOLDER_MODE,
        }
    }

    /// Makes folders that aren't there; a path without links. Gives those it made.
    pub fn folders(&self, path: &Path, mode: u32) -> Result<Vec<PathBuf>, Error> {
        let fail = |p: &Path| io("mkdir", p.to_owned());
        let mut made = vec![];
        let mut at = PathBuf::new();
        if let Ok(Some(stat)) = self.root.stat(path)
            && is_dir(&stat)
        {
            return Ok(made);
        }
        for part in path {
            let parent = at.clone();
            at.push(part);
            match self.root.stat(&at).map_err(fail(&at))? {
                Some(stat) if is_dir(&stat) => continue,
                Some(_) => return Err(fail(&at)(Errno::NOTDIR.into())),
                None => {}
            }
            let dir = self.root.dir(&parent).map_err(fail(&at))?;
            rustix::fs::mkdirat(&dir, part, Bits::from_raw_mode(mode))
                .map_err(|e| fail(&at)(e.into()))?;
            chmod(&dir, part, mode).map_err(|e| fail(&at)(e.into()))?;
            if let Some((uid, gid)) = self.owner {
                chown(&dir, part, uid, gid).map_err(|e| fail(&at)(e.into()))?;
            }
            made.push(at.clone());
        }
        Ok(made)
    }

    fn set_times(&self, path: &Path, access: Timespec, modified: Timespec) -> Result<(), Error> {
        let fail = |e: std::io::Error| io("failed to utime", path)(e);
        let Some(name) = path.file_name() else {
            return Ok(());
        };
        let dir = self.root.dir(path.parent().unwrap_or(Path::new("")));
        set_times(&dir.map_err(fail)?, name, access, modified).map_err(|e| fail(e.into()))
    }
}

fn at(seconds: i64) -> Timespec {
    Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    }
}

pub(crate) fn chmod(dir: impl AsFd, name: &OsStr, mode: u32) -> rustix::io::Result<()> {
    rustix::fs::chmodat(dir, name, Bits::from_raw_mode(mode), AtFlags::empty())
}

pub(crate) fn chown(dir: impl AsFd, name: &OsStr, uid: u32, gid: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(uid),
        rustix::fs::Gid::from_raw(gid),
    );
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

pub(crate) fn set_times(
    dir: impl AsFd,
    name: &OsStr,
    access: Timespec,
    modified: Timespec,
) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: access,
        last_modification: modified,
    };
    rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// A path to a name in an opened folder for calls that know no `…at` form; the last part isn't followed by `l…` calls.
fn by_handle(dir: impl AsFd, name: &OsStr) -> PathBuf {
    let folder = PathBuf::from(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()));
    folder.join(name)
}

/// The kernel's bound for all names of a file's attributes, in bytes.
const NAMES_MAX: usize = 64 << 10;

/// All names as the kernel gives them, each with a zero behind it. Mostly there are none, or few.
pub(crate) fn names(list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> Vec<u8> {
    let mut few = [0; 512];
    match list(&mut few) {
        Ok(size) => few[..size].to_vec(),
        Err(Errno::RANGE) => {
            let mut all = vec![0; NAMES_MAX];
            let size = list(&mut all).unwrap_or(0);
            all.truncate(size);
            all
        }
        Err(_) => vec![],
    }
}

/// The names one by one, but for an overlay's own bookkeeping.
pub(crate) fn keys(names: &[u8]) -> impl Iterator<Item = &[u8]> {
    let own =
        |key: &[u8]| key.starts_with(b"trusted.overlay.") || key.starts_with(b"user.overlay.");
    let names = names.split(|b| *b == 0);
    names.filter(move |key| !key.is_empty() && !own(key))
}

/// All that a file has but what belongs to an overlay's own bookkeeping. Where there are none, or they can't be read: none.
pub(crate) fn xattrs(dir: impl AsFd, name: &OsStr) -> Xattrs {
    let path = by_handle(dir, name);
    let names = names(|buffer| rustix::fs::llistxattr(&path, buffer));
    let mut found = vec![];
    for key in keys(&names) {
        let Ok(key) = CString::new(key) else { continue };
        let mut value = vec![0u8; 64 << 10];
        if let Ok(size) = rustix::fs::lgetxattr(&path, &*key, &mut value[..]) {
            value.truncate(size);
            found.push((key, value));
        }
    }
    found.sort();
    found
}

/// As BuildKit: what a file system doesn't take is left out.
pub(crate) fn set_xattrs(dir: impl AsFd, name: &OsStr, xattrs: &Xattrs) {
    if xattrs.is_empty() {
        return;
    }
    let path = by_handle(dir, name);
    for (key, value) in xattrs {
        let flags = rustix::fs::XattrFlags::empty();
        let _ = rustix::fs::lsetxattr(&path, &**key, value, flags);
    }
}

/// A folder that the walk is in.
struct Open {
    target: PathBuf,
    below: PathBuf,
    stat: Stat,
    xattrs: Xattrs,
    /// It is there: meant itself, or something in it was.
    copied: bool,
    /// It wasn't there before.
    created: bool,
}

struct Copier<'a> {
    to: &'a Writer,
    target: PathBuf,
    /// The first target of each file that has several names.
    links: HashMap<(u64, u64), PathBuf>,
    stack: Vec<Open>,
    /// The folder that was written to last.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Plain files still to be copied; their places are free.
    jobs: Vec<Job>,
    /// Folders that are complete but for what is still to be copied into them.
    late: Vec<Late>,
}

/// What a folder gets when all is in it.
struct Late {
    target: PathBuf,
    stat: Stat,
    owner: (u32, u32),
    /// None: its times only.
    xattrs: Option<Xattrs>,
}

impl Copier<'_> {
    /// Copies what is left, then gives folders their metadata, the innermost first.
    fn finish(&mut self, tree: &Tree) -> Result<(), Error> {
        self.flush(tree)?;
        for late in std::mem::take(&mut self.late) {
            match late.xattrs {
                Some(xattrs) => self.metadata(&late.target, late.owner, &late.stat, &xattrs)?,
                None => {
                    let (access, modified) = times(&late.stat, self.to.times);
                    self.to.set_times(&late.target, access, modified)?;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self, tree: &Tree) -> Result<(), Error> {
        batch::run(self.to, tree, &std::mem::take(&mut self.jobs))
    }

    fn parent(&mut self, path: &Path) -> Result<&OwnedFd, Error> {
        if self.parent.as_ref().is_none_or(|(at, _)| at != path) {
            let fd = self.to.root.dir(path).map_err(io("failed to open", path))?;
            self.parent = Some((path.to_owned(), fd));
        }
        let parent = self.parent.as_ref().map(|(_, fd)| fd);
        parent.ok_or_else(|| Error::Refused(format!("{} is gone", path.display())))
    }

    /// The folder of a target, and its name in it.
    fn place<'p>(&mut self, target: &'p Path) -> Result<(&OwnedFd, &'p OsStr), Error> {
        let name = target.file_name().unwrap_or(OsStr::new("."));
        let parent = target.parent().unwrap_or(Path::new(""));
        Ok((self.parent(parent)?, name))
    }

    /// Owner, mode, attributes and times of what was written; the attributes after the owner, whose change clears them.
    fn metadata(
        &mut self,
        target: &Path,
        tree_owner: (u32, u32),
        stat: &Stat,
        xattrs: &Xattrs,
    ) -> Result<(), Error> {
        let fail = |what| move |e: Errno| io(what, target)(e.into());
        let (uid, gid) = self.to.owner.unwrap_or(tree_owner);
        let mode = match &self.to.mode {
            Some(mode) => mode.apply(stat.st_mode, is_dir(stat)),
            None => stat.st_mode & 0o7777,
        };
        let (access, modified) = times(stat, self.to.times);
        let (dir, name) = self.place(target)?;
        chown(dir, name, uid, gid).map_err(fail("failed to chown"))?;
        if kind(stat) != FileType::Symlink {
            chmod(dir, name, mode).map_err(fail("failed to chmod"))?;
        }
        set_xattrs(dir, name, xattrs);
        set_times(dir, name, access, modified).map_err(fail("failed to utime"))
    }

    /// Makes the folders that lead to something that is meant.
    fn folders(&mut self, tree: &Tree) -> Result<(), Error> {
        for i in 0..self.stack.len() {
            if self.stack[i].copied {
                continue;
            }
            let (target, stat) = (self.stack[i].target.clone(), self.stack[i].stat);
            let created = self.folder(&target, &stat, true)?;
            if created {
                let xattrs = std::mem::take(&mut self.stack[i].xattrs);
                self.metadata(&target, tree.owner(&stat), &stat, &xattrs)?;
            }
            (self.stack[i].copied, self.stack[i].created) = (true, created);
        }
        Ok(())
    }

    /// Makes a folder unless it is there. Gives whether it did.
    fn folder(&mut self, target: &Path, stat: &Stat, overwrite: bool) -> Result<bool, Error> {
        let there = self.to.root.stat(target);
        let mode = stat.st_mode & 0o7777;
        let (dir, name) = self.place(target)?;
        match there.map_err(io("failed to stat", target))? {
            None => {
                rustix::fs::mkdirat(dir, name, Bits::from_raw_mode(mode))
                    .map_err(|e| io("mkdir", target)(e.into()))?;
                Ok(true)
            }
            Some(there) if !is_dir(&there) => Err(Error::Refused(format!(
                "cannot copy to non-directory: /{}",
                target.display()
            ))),
            Some(_) if overwrite => {
                chmod(dir, name, mode).map_err(|e| io("failed to chmod", target)(e.into()))?;
                Ok(false)
            }
            Some(_) => Ok(false),
        }
    }

    fn make(&mut self, found: &Found<'_>, target: &Path) -> Result<(), Error> {
        let fail = |what| move |e: Errno| io(what, target)(e.into());
        match kind(&found.stat) {
            FileType::RegularFile => {
                let (dir, name) = self.place(target)?;
                let content = open_regular(found.dir, Path::new(found.name))
                    .map_err(io("failed to open source", found.path))?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let out = rustix::fs::openat(dir, name, flags, Bits::from_raw_mode(0o600))
                    .map_err(fail("failed to open target"))?;
                transfer(&content, &out.into(), &found.stat)
                    .map_err(io("failed to copy", found.path))
            }
            FileType::Symlink => {
                let to = rustix::fs::readlinkat(found.dir, found.name, vec![])
                    .map_err(|e| io("failed to read link", found.path)(e.into()))?;
                let (dir, name) = self.place(target)?;
                rustix::fs::symlinkat(&*to, dir, name).map_err(fail("failed to create symlink"))
            }
            kind => {
                // a socket without a server is no socket: it becomes an empty file, as in BuildKit
                let made = match kind {
                    FileType::Socket => FileType::RegularFile,
                    kind => kind,
                };
                let (dir, name) = self.place(target)?;
                rustix::fs::mknodat(
                    dir,
                    name,
                    made,
                    Bits::from_raw_mode(0o600),
                    found.stat.st_rdev,
                )
                .map_err(fail("failed to create device"))
            }
        }
    }
}

pub(crate) fn times(stat: &Stat, fixed: Option<i64>) -> (Timespec, Timespec) {
    match fixed {
        Some(seconds) => (at(seconds), at(seconds)),
        None => (
            Timespec {
                tv_sec: stat.st_atime,
                tv_nsec: stat.st_atime_nsec as _,
            },
            Timespec {
                tv_sec: stat.st_mtime,
                tv_nsec: stat.st_mtime_nsec as _,
            },
        ),
    }
}

impl Visitor for Copier<'_> {
    fn enter(&mut self, found: &Found<'_>, meant: bool) -> Result<(), Error> {
        let target = match found.below.as_os_str().is_empty() {
            true => self.target.clone(),
            false => self.target.join(found.below),
        };
        let mut created = false;
        if meant {
            self.folders(found.tree)?;
            let overwrite = !found.below.as_os_str().is_empty();
            created = self.folder(&target, &found.stat, overwrite)?;
        }
        self.stack.push(Open {
            target,
            below: found.below.to_owned(),
            stat: found.stat,
            xattrs: xattrs(found.dir, found.name),
            copied: meant,
            created,
        });
        Ok(())
    }

    fn leaf(&mut self, found: &Found<'_>) -> Result<(), Error> {
        self.folders(found.tree)?;
        let target = match found.below.as_os_str().is_empty() {
            true => self.target.clone(),
            false => self.target.join(found.below),
        };
        if target.as_os_str().is_empty() {
            return Err(Error::Refused("cannot copy a file over the root".into()));
        }
        let (dir, name) = self.place(&target)?;
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) if is_dir(&there) => {
                return Err(Error::Refused(format!(
                    "cannot replace to directory /{} with file",
                    target.display()
                )));
            }
            Ok(_) => rustix::fs::unlinkat(dir, name, AtFlags::empty())
                .map_err(|e| io("failed to remove", &target)(e.into()))?,
            Err(_) => {}
        }
        let plain = kind(&found.stat) == FileType::RegularFile;
        let several = found.stat.st_nlink > 1 && plain;
        if plain && !several {
            self.jobs.push(Job {
                from: found.path.to_owned(),
                target,
                stat: found.stat,
                owner: found.tree.owner(&found.stat),
            });
            return match self.jobs.len() < BATCH_MAX {
                true => Ok(()),
                false => self.flush(found.tree),
            };
        }
        let id = (found.stat.st_dev, found.stat.st_ino);
        if several && let Some(first) = self.links.get(&id).cloned() {
            let root = &self.to.root;
            let name = target.file_name().unwrap_or_default();
            let fail = |e: std::io::Error| io("failed to create hard link", &target)(e);
            let from = root.dir(first.parent().unwrap_or(Path::new("")));
            let to = root.dir(target.parent().unwrap_or(Path::new("")));
            let first = first.file_name().unwrap_or_default();
            let (from, to) = (from.map_err(fail)?, to.map_err(fail)?);
            rustix::fs::linkat(from, first, to, name, AtFlags::empty())
                .map_err(|e| fail(e.into()))?;
        } else {
            self.make(found, &target)?;
            if several {
                self.links.insert(id, target.clone());
            }
        }
        let xattrs = xattrs(found.dir, found.name);
        self.metadata(&target, found.tree.owner(&found.stat), &found.stat, &xattrs)
    }

    fn leave(&mut self, tree: &Tree, below: &Path, _: &Stat, meant: bool) -> Result<(), Error> {
        let Some(open) = self.stack.pop() else {
            return Ok(());
        };
        debug_assert_eq!(open.below, below);
        let top = open.below.as_os_str().is_empty();
        let whole = meant && (!top || open.created);
        if whole || ((meant || open.created) && !open.target.as_os_str().is_empty()) {
            self.late.push(Late {
                owner: tree.owner(&open.stat),
                target: open.target,
                stat: open.stat,
                xattrs: whole.then_some(open.xattrs),
            });
        }
        Ok(())
    }
}

/// Copies content; holes stay holes, so that a file that only announces a terabyte costs nothing.
pub(crate) fn transfer(
    from: &std::fs::File,
    to: &std::fs::File,
    stat: &Stat,
) -> std::io::Result<()> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let stored = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    if stored >= size {
        let (mut from, mut to) = (from, to);
        std::io::copy(&mut from, &mut to)?;
        return Ok(());
    }
    use rustix::fs::SeekFrom;
    use std::io::{Read, Seek};
    to.set_len(size)?;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // no data behind
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        let (mut reader, mut writer) = (from, to);
        reader.seek(std::io::SeekFrom::Start(start))?;
        writer.seek(std::io::SeekFrom::Start(start))?;
        std::io::copy(&mut reader.take(end - start), &mut writer)?;
        at = end.max(start + 1);
    }
    Ok(())
}
