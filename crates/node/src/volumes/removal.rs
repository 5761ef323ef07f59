//! Removing a folder with all that is in it and mounted in it, without ever looking into what is mounted. Blocking.
//!
//! The table of mounts is as long as the machine has Pods, and reading it keeps others from mounting: nothing here reads it. The kernel itself tells of a mount, by refusing to walk over it (`RESOLVE_NO_XDEV`) or to remove what is under it.

use std::{
    ffi::{CStr, CString, OsStr},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::mount::MntFlags;
use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// Folders deeper than this are moved up before they are emptied: each level holds a descriptor.
const DEPTH_MAX: u32 = 64;
/// Mounts on top of each other, and times that something new shows up in a folder that was emptied.
const TRIES_MAX: u32 = 256;

/// Removes `dir`. Absent is done.
///
/// # Errors
/// With the reason, when something can't be unmounted or removed.
pub(crate) fn remove_tree(dir: &Path) -> Result<(), String> {
    let told = |e: io::Error| format!("cannot remove {}: {e}", dir.display());
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(told(io::ErrorKind::InvalidInput.into()));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::open(parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(|e| told(e.into()))?,
    };
    let name = CString::new(name.as_bytes()).map_err(|e| told(e.into()))?;
    Removal::default()
        .remove(parent.as_fd(), &name, 0)
        .map_err(told)
}

#[derive(Default)]
struct Removal {
    /// the outermost folder, to which others are moved that are too deep
    top: Option<OwnedFd>,
    moved: u32,
}

impl Removal {
    /// Removes one entry of a folder.
    fn remove(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: u32) -> io::Result<()> {
        for _ in 0..TRIES_MAX {
            match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::BUSY) => {
                    unmount(parent, name)?;
                    continue;
                }
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(error.into()),
            }
            let opened = rustix::fs::openat2(
                parent,
                name,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH,
            );
            let folder = match opened {
                Ok(folder) => folder,
                Err(Errno::XDEV) => {
                    unmount(parent, name)?;
                    continue;
                }
                // replaced meanwhile, or something was mounted or renamed while the kernel walked
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::AGAIN) => continue,
                Err(error) => return Err(error.into()),
            };
            self.empty(&folder, depth)?;
            match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::BUSY) => unmount(parent, name)?,
                Err(Errno::NOTEMPTY | Errno::NOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other("something new is in it again and again"))
    }

    fn empty(&mut self, folder: &OwnedFd, depth: u32) -> io::Result<()> {
        if depth == 0 {
            self.top = Some(folder.try_clone()?);
        }
        let names = Dir::read_from(folder)?
            .map(|entry| Ok(entry?.file_name().to_owned()))
            .filter(|name: &io::Result<CString>| {
                !name
                    .as_ref()
                    .is_ok_and(|n| [c".", c".."].contains(&n.as_c_str()))
            })
            .collect::<io::Result<Vec<CString>>>()?;
        for name in names {
            if depth < DEPTH_MAX || !self.move_up(folder, &name) {
                self.remove(folder.as_fd(), &name, depth + 1)?;
            }
        }
        Ok(())
    }

    /// To the outermost folder, which is looked through again. False: it isn't a folder of this file system.
    fn move_up(&mut self, folder: &OwnedFd, name: &CStr) -> bool {
        let Some(top) = &self.top else { return false };
        self.moved += 1;
        let new = format!(".deep-{}-{}", std::process::id(), self.moved);
        rustix::fs::renameat(folder, name, top, new).is_ok()
    }
}

/// Takes off what is mounted on an entry.
fn unmount(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let name = Path::new(OsStr::from_bytes(name.to_bytes()));
    let path = Path::new("/proc/self/fd")
        .join(parent.as_raw_fd().to_string())
        .join(name);
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    match nix::mount::umount2(&path, flags) {
        // somebody else did
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(io::Error::other(format!(
            "{} can't be unmounted: {error}",
            name.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, process::Command};

    use super::*;

    fn mount(arguments: &[&str], at: &Path) {
        let done = Command::new("mount").args(arguments).arg(at).status();
        assert!(
            done.unwrap().success(),
            "these tests mount: run them as root"
        );
    }

    #[test]
    fn what_is_mounted_is_taken_off_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in [
            "data/deep",
            "gone/volume",
            "gone/twice",
            "gone/a/b/c",
            "link-target",
        ] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for file in [
            "data/deep/file",
            "gone/a/b/file",
            "gone/bound",
            "link-target/file",
        ] {
            fs::write(at(file), file).unwrap();
        }
        std::os::unix::fs::symlink(at("link-target"), at("gone/a/link")).unwrap();
        let data = at("data");
        let bind = ["--bind", data.to_str().unwrap()];
        mount(&bind, &at("gone/volume"));
        mount(&["-t", "tmpfs", "inner"], &at("gone/volume/deep"));
        mount(&["-t", "tmpfs", "one"], &at("gone/twice"));
        fs::write(at("gone/twice/in-memory"), "x").unwrap();
        mount(&["-t", "tmpfs", "two"], &at("gone/twice"));
        let file = at("data/deep/file");
        mount(&["--bind", file.to_str().unwrap()], &at("gone/bound"));

        remove_tree(&at("gone")).unwrap();
        assert!(!at("gone").exists());
        for kept in ["data/deep/file", "link-target/file"] {
            assert_eq!(fs::read_to_string(at(kept)).unwrap(), kept);
        }
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(dir.path().to_str().unwrap()), "{table}");
        remove_tree(&at("gone")).unwrap();
        remove_tree(&at("never/was")).unwrap();
    }

    #[test]
    fn the_folder_itself_may_be_a_mount() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("m");
        fs::create_dir(&at).unwrap();
        mount(&["-t", "tmpfs", "m"], &at);
        fs::write(at.join("file"), "x").unwrap();
        remove_tree(&at).unwrap();
        assert!(!at.exists());
    }

    #[test]
    fn a_tree_deeper_than_a_process_has_descriptors_goes_too() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("deep");
        fs::create_dir(&top).unwrap();
        let mut at = rustix::fs::open(&top, OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..2000 {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            rustix::fs::mkdirat(&at, "e", Mode::from_raw_mode(0o700)).unwrap();
            at = rustix::fs::openat(&at, "d", OFlags::PATH, Mode::empty()).unwrap();
        }
        drop(at);
        remove_tree(&top).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(!PathBuf::from(&top).exists());
    }
}
