//! A folder that no path below it leads out of.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

/// As the kernel's own limit is 40 and continuity's 255: a path with more links than this is a loop.
const LINKS_MAX: usize = 255;

/// A folder's handle. Paths are relative to it, in its own terms: `/` and `..` never leave it.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
}

/// Where a path leads once its links are followed.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// Below the root, without links, `.` or `..`; empty for the root itself.
    pub path: PathBuf,
    /// What is there, if anything.
    pub stat: Option<Stat>,
}

pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(crate) fn is_dir(stat: &Stat) -> bool {
    kind(stat) == FileType::Directory
}

impl Root {
    /// # Errors
    /// When it is no folder that can be opened. `path` itself may be a link: it is the caller's choice.
    pub fn open(path: &Path) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Root { fd })
    }

    fn open_below(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        loop {
            match rustix::fs::openat2(
                &self.fd,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            ) {
                // a rename somewhere on the machine came in between
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// A folder's handle for `…at` calls; a path without links.
    pub fn dir(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_below(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// A folder opened to be listed.
    pub fn listed(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_below(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// A regular file opened to be read.
    pub fn file(&self, path: &Path) -> io::Result<std::fs::File> {
        open_regular(&self.fd, path).or_else(|_| {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
            regular(self.open_below(path, flags)?)
        })
    }

    /// What is at a path without links; `None` when nothing is.
    pub fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        match self.open_below(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => Ok(Some(rustix::fs::fstat(fd)?)),
            Err(e) if missing(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Follows a path's links inside the root; the last one only with `follow_last`. From the first thing that isn't there
    /// on, the rest is taken as it is. `seen` says of each thing on the way whether it counts as being there.
    ///
    /// # Errors
    /// A loop of links (`ELOOP`), what the kernel refuses.
    pub fn resolve(
        &self,
        path: &Path,
        follow_last: bool,
        seen: &dyn Fn(&Path, &Stat) -> bool,
    ) -> io::Result<Resolved> {
        let mut rest: VecDeque<OsString> = parts(path);
        let mut at = PathBuf::new();
        let mut links = 0;
        let mut stat = Some(rustix::fs::fstat(&self.fd)?);
        while let Some(part) = rest.pop_front() {
            if part == ".." {
                at.pop();
                stat = self.stat(&at)?;
                continue;
            }
            let next = at.join(&part);
            stat = match &stat {
                Some(folder) if is_dir(folder) => self.stat(&next)?.filter(|s| seen(&next, s)),
                _ => None,
            };
            let is_link = stat.as_ref().is_some_and(|s| kind(s) == FileType::Symlink);
            if !is_link || (rest.is_empty() && !follow_last) {
                at = next;
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP.into());
            }
            let target = self.read_link(&next)?;
            if target.as_bytes().first() == Some(&b'/') {
                at = PathBuf::new();
            }
            stat = self.stat(&at)?;
            for part in parts(Path::new(&target)).into_iter().rev() {
                rest.push_front(part);
            }
        }
        Ok(Resolved { path: at, stat })
    }

    pub fn read_link(&self, path: &Path) -> io::Result<OsString> {
        let fd = self.open_below(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let target = rustix::fs::readlinkat(fd, "", vec![])?;
        Ok(OsStr::from_bytes(target.as_bytes()).to_owned())
    }
}

impl From<OwnedFd> for Root {
    /// A folder's handle.
    fn from(fd: OwnedFd) -> Root {
        Root { fd }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn regular(fd: OwnedFd) -> io::Result<std::fs::File> {
    if kind(&rustix::fs::fstat(&fd)?) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(std::fs::File::from(fd))
}

/// Opens a name in a folder without following a link and without waiting for a FIFO's other end.
pub(crate) fn open_regular(dir: impl AsFd, name: &Path) -> io::Result<std::fs::File> {
    if name.components().count() != 1 {
        return Err(Errno::INVAL.into());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    regular(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

fn missing(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |c: Component<'_>| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}
