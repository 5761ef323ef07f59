//! Finding places inside a container's root that was not entered yet, without ever being led outside.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

use crate::privileges::os_text;

/// The new root, seen from outside.
pub(crate) struct Root {
    pub(crate) fd: OwnedFd,
    /// the host's id of who owns what is made here; None: root
    pub(crate) owner: Option<u32>,
}

impl Root {
    fn give(&self, parent: &OwnedFd, name: &OsString) -> io::Result<()> {
        let Some(id) = self.owner else {
            return Ok(());
        };
        let (uid, gid) = (rustix::fs::Uid::from_raw(id), rustix::fs::Gid::from_raw(id));
        rustix::fs::chownat(
            parent,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(Into::into)
    }

    pub(crate) fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let inside = path.strip_prefix("/").unwrap_or(path);
        let inside = if inside.as_os_str().is_empty() {
            Path::new(".")
        } else {
            inside
        };
        // the kernel gives EAGAIN when anything on the machine is mounted or renamed while it walks over `..`
        let mut left = 10_000;
        loop {
            let opened = rustix::fs::openat2(
                &self.fd,
                inside,
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            );
            match opened {
                Err(rustix::io::Errno::AGAIN) if left > 0 => left -= 1,
                other => return other.map_err(Into::into),
            }
        }
    }

    /// Opens a path, making what is missing of it: folders, and at the end a folder or an empty file. Symlinks are followed as inside the container, dangling ones to where they would lead.
    pub(crate) fn make(&self, path: &Path, folder: bool) -> Result<OwnedFd, String> {
        let told = |e: io::Error| {
            format!(
                "making {} in the container: {}",
                path.display(),
                os_text(&e)
            )
        };
        match self.open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let made = self.make_missing(path, folder).map_err(told)?;
                self.open(&made).map_err(told)
            }
            other => other.map_err(told),
        }
    }

    /// The path without symlinks, all of it there.
    fn make_missing(&self, path: &Path, folder: bool) -> io::Result<PathBuf> {
        const SYMLINKS_MAX: u32 = 40;
        let mut left: VecDeque<OsString> = parts(path).collect();
        let mut at = PathBuf::from("/");
        let mut symlinks = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let parent = self.open(&at)?;
            let child = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW);
            match child.map(|s| FileType::from_raw_mode(s.st_mode)) {
                Ok(FileType::Symlink) => {
                    symlinks += 1;
                    if symlinks > SYMLINKS_MAX {
                        return Err(rustix::io::Errno::LOOP.into());
                    }
                    let target = rustix::fs::readlinkat(&parent, &name, Vec::new())?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                        left.push_front(part);
                    }
                    continue;
                }
                Ok(_) => {}
                Err(rustix::io::Errno::NOENT) if left.is_empty() && !folder => {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    rustix::fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o644))?;
                    self.give(&parent, &name)?;
                }
                Err(rustix::io::Errno::NOENT) => {
                    rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755))?;
                    self.give(&parent, &name)?;
                }
                Err(e) => return Err(e.into()),
            }
            at.push(name);
        }
        Ok(at)
    }
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}
