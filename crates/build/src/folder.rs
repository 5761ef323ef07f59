//! Paths inside a root that is not ours: resolved by the kernel so that no link leads out of it.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};

use crate::{
    accounts,
    error::{Error, io},
};

/// No account file that is longer than this many bytes is read on.
const ACCOUNTS_MAX: u64 = 16 << 20;

/// A handle on what is at `path` in `root`, links followed inside it.
pub(crate) fn open(root: &Path, path: &str, flags: OFlags) -> std::io::Result<OwnedFd> {
    let at = rustix::fs::open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let path = match path.trim_start_matches('/') {
        "" => ".",
        path => path,
    };
    let flags = flags | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(
        &at,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    )?)
}

/// Where it is on this machine.
pub(crate) fn real(root: &Path, path: &str) -> std::io::Result<PathBuf> {
    let fd = open(root, path, OFlags::PATH)?;
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// A small file's text; None when it isn't there.
pub(crate) fn text(root: &Path, path: &str) -> Option<String> {
    let fd = open(root, path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
    let file = File::from(fd);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = vec![];
    file.take(ACCOUNTS_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes a folder and those above it, mode 0755; the new ones belong to `user` (as `USER` has it, "" is root).
pub(crate) fn make(root: &Path, dir: &str, user: &str, time: Option<i64>) -> Result<(), Error> {
    let told = |e: rustix::io::Errno| io(dir)(e.into());
    let mut at = open(root, "/", OFlags::PATH | OFlags::DIRECTORY).map_err(io(dir))?;
    let mut path = String::new();
    let mut owner = None;
    for part in dir.split('/').filter(|p| !p.is_empty()) {
        path = format!("{path}/{part}");
        match open(root, &path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(found) => at = found,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755)).map_err(told)?;
                let made =
                    open(root, &path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(io(dir))?;
                // whatever the umask
                rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(told)?;
                let (uid, gid) = *owner.get_or_insert_with(|| accounts::owner(root, user));
                if (uid, gid) != (0, 0) {
                    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                    rustix::fs::fchown(&made, uid, gid).map_err(told)?;
                }
                if let Some(time) = time {
                    let one = rustix::fs::Timespec {
                        tv_sec: time,
                        tv_nsec: 0,
                    };
                    let times = rustix::fs::Timestamps {
                        last_access: one,
                        last_modification: one,
                    };
                    rustix::fs::futimens(&made, &times).map_err(told)?;
                }
                at = made;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
                return Err(Error::Request(format!("mkdir {path}: not a directory")));
            }
            Err(e) => return Err(io(dir)(e)),
        }
    }
    Ok(())
}

/// What a container's mounts leave in its upper layer when their places were not there: empty files and folders.
/// SOURCE: buildkit executor/stubs.go MountStubsCleaner
pub(crate) struct Stubs(Vec<String>);

impl Stubs {
    /// Of mounts at these absolute paths; `root` is what was there before.
    pub(crate) fn new(root: &Path, places: impl IntoIterator<Item = String>) -> Stubs {
        let mut all = vec![];
        for place in places {
            let mut path = crate::state::clean(&place);
            while path != "/" && open(root, &path, OFlags::PATH | OFlags::NOFOLLOW).is_err() {
                all.push(path.clone());
                let end = path.rfind('/').unwrap_or(0);
                path.truncate(end.max(1));
            }
            // a folder above that was there is copied up for it, unchanged
            while path != "/" {
                all.push(path.clone());
                let end = path.rfind('/').unwrap_or(0);
                path.truncate(end.max(1));
            }
        }
        // the deepest first
        all.sort_by_key(|p| std::cmp::Reverse(p.matches('/').count()));
        all.dedup();
        Stubs(all)
    }

    /// Takes them out of the upper layer; `root` is what was there before.
    pub(crate) fn clean(&self, root: &Path, upper: &Path) {
        for path in &self.0 {
            let _ = self.one(root, upper, path);
        }
    }

    fn one(&self, root: &Path, upper: &Path, path: &str) -> std::io::Result<()> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = open(upper, parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let here = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let before = open(root, path, OFlags::PATH | OFlags::NOFOLLOW);
        let kind = FileType::from_raw_mode(here.st_mode);
        match (kind, before) {
            (FileType::RegularFile, Err(_)) if here.st_size == 0 => {
                self.keeping_time(&dir, root, parent, || {
                    Ok(rustix::fs::unlinkat(&dir, name, AtFlags::empty())?)
                })
            }
            // not empty: the removal fails, and that is right
            (FileType::Directory, Err(_)) => self.keeping_time(&dir, root, parent, || {
                Ok(rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)?)
            }),
            (FileType::Directory, Ok(before)) => {
                let was = rustix::fs::fstat(&before)?;
                let same = (
                    was.st_mode,
                    was.st_uid,
                    was.st_gid,
                    was.st_mtime,
                    was.st_mtime_nsec,
                ) == (
                    here.st_mode,
                    here.st_uid,
                    here.st_gid,
                    here.st_mtime,
                    here.st_mtime_nsec,
                );
                let opaque = || {
                    let own = upper.join(path.trim_start_matches('/'));
                    rustix::fs::getxattr(own, "trusted.overlay.opaque", &mut [0_u8; 4]).is_ok()
                };
                if same && !opaque() {
                    self.keeping_time(&dir, root, parent, || {
                        Ok(rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)?)
                    })?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A folder's time is what it was, when only a stub was put there; else what it is.
    fn keeping_time(
        &self,
        dir: &OwnedFd,
        root: &Path,
        path: &str,
        remove: impl FnOnce() -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let now = rustix::fs::fstat(dir)?;
        remove()?;
        let empty = rustix::fs::Dir::read_from(dir)?
            .flatten()
            .all(|e| matches!(e.file_name().to_bytes(), b"." | b".."));
        let before = open(root, path, OFlags::PATH).ok();
        let time = match before.and_then(|fd| rustix::fs::fstat(fd).ok()) {
            Some(was) if empty => was,
            _ => now,
        };
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec {
                tv_sec: time.st_atime as _,
                tv_nsec: time.st_atime_nsec as _,
            },
            last_modification: rustix::fs::Timespec {
                tv_sec: time.st_mtime as _,
                tv_nsec: time.st_mtime_nsec as _,
            },
        };
        Ok(rustix::fs::futimens(dir, &times)?)
    }
}
