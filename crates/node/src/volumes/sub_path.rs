//! Sub-paths of volumes: bound to a place of the node's, so that nothing inside the volume can lead out of it. Blocking.
//!
//! Source: kubernetes `pkg/volume/util/subpath/subpath_linux.go`; openat2's RESOLVE_IN_ROOT does here what that does by hand.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::{Component, Path},
};

use nix::mount::{MntFlags, MsFlags};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// What keeps a sub-path from being mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("error SubPath `{0}` must not be an absolute path")]
    Absolute(String),
    #[error("unable to provision SubPath `{0}`: must not contain '..'")]
    Backsteps(String),
    /// The cause is for the node's log alone: it could tell what is on the machine.
    #[error("failed to create subPath directory")]
    Create(#[source] std::io::Error),
    #[error("failed to prepare subPath")]
    Prepare(#[source] std::io::Error),
}

/// Binds `sub_path` of the volume at `volume` on `target` (made here). Missing folders are made, with the volume's own mode.
///
/// # Errors
/// As `Error` says; nothing is mounted then.
pub(crate) fn bind(volume: &Path, sub_path: &str, target: &Path) -> Result<(), Error> {
    if sub_path.starts_with('/') {
        return Err(Error::Absolute(sub_path.into()));
    }
    if Path::new(sub_path)
        .components()
        .any(|c| c == Component::ParentDir)
    {
        return Err(Error::Backsteps(sub_path.into()));
    }
    let found = open(volume, sub_path)?;
    place(&found, target).map_err(Error::Prepare)
}

fn place(found: &OwnedFd, target: &Path) -> std::io::Result<()> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(found)?.st_mode);
    if kind == FileType::Symlink {
        return Err(std::io::Error::other("it is a symbolic link"));
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let _ = nix::mount::umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    if kind == FileType::Directory {
        let _ = fs::remove_file(target);
        fs::create_dir_all(target)?;
    } else {
        let _ = fs::remove_dir(target);
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(target)?;
    }
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    nix::mount::mount(
        Some(source.as_str()),
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )?;
    Ok(())
}

fn open(volume: &Path, sub_path: &str) -> Result<OwnedFd, Error> {
    let prepare = |e: Errno| Error::Prepare(e.into());
    let path_flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, volume, path_flags | OFlags::DIRECTORY, Mode::empty())
        .map_err(prepare)?;
    let find = |path: &str| {
        rustix::fs::openat2(
            &root,
            path,
            path_flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    };
    match find(sub_path) {
        Err(Errno::NOENT) => {}
        other => return other.map_err(prepare),
    }
    make(&root, sub_path, find).map_err(|e| Error::Create(e.into()))
}

fn make(
    root: &OwnedFd,
    sub_path: &str,
    find: impl Fn(&str) -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<OwnedFd> {
    let mode = Mode::from_raw_mode(rustix::fs::fstat(root)?.st_mode & 0o7777);
    let mut done = String::new();
    let mut at = find(".")?;
    for part in sub_path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if !done.is_empty() {
            done.push('/');
        }
        done.push_str(part);
        at = match find(&done) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                // By descriptor: the name may be another thing's by now. mkdir is subject to the umask, and keeps setgid.
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(&at, part, flags, Mode::empty())?;
                rustix::fs::fchmod(&made, mode)?;
                find(&done)?
            }
            Err(error) => return Err(error),
        };
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn never_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir_all(volume.join("in")).unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2770)).unwrap();
        symlink("../../etc", volume.join("up")).unwrap();
        symlink("/", volume.join("abs")).unwrap();
        symlink("/proc/self/root", volume.join("magic")).unwrap();
        let ino = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        let inside = |p: &str| fs::metadata(volume.join(p)).unwrap().ino();
        assert_eq!(ino(&open(&volume, "in").unwrap()), inside("in"));
        assert_eq!(
            ino(&open(&volume, "abs/in").unwrap()),
            inside("in"),
            "/ is the volume"
        );
        assert_eq!(ino(&open(&volume, "new/deep").unwrap()), inside("new/deep"));
        assert_eq!(
            fs::metadata(volume.join("new")).unwrap().mode() & 0o7777,
            0o2770
        );
        // `up` would be the neighbour `etc`: in here it's a name that isn't there, so nothing outside is opened or made.
        for path in ["up/x", "magic/etc", "in/../../etc"] {
            let target = dir.path().join("t");
            assert!(bind(&volume, path, &target).is_err(), "{path}");
        }
        assert!(!dir.path().join("etc/x").exists());
    }

    #[test]
    fn a_race_does_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("v"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("real/deep")).unwrap();
        fs::create_dir_all(outside.join("deep")).unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        let ino = |path: &Path| fs::metadata(path).unwrap().ino();
        let bad = [ino(&outside), ino(&outside.join("deep"))];
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // what is asked for is now a folder, now a way out
            scope.spawn(|| {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let (a, b) = (volume.join("real"), volume.join("link"));
                    let _ = rustix::fs::renameat_with(CWD, &a, CWD, &b, flags);
                }
            });
            for n in 0..2000 {
                for path in ["real", "real/deep", &format!("real/new{n}/x")] {
                    if let Ok(fd) = open(&volume, path) {
                        let found = rustix::fs::fstat(&fd).unwrap().st_ino;
                        assert!(!bad.contains(&found), "{path}");
                    }
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let left: Vec<_> = fs::read_dir(&outside).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "nothing was made outside: {left:?}");
    }

    #[test]
    fn errors_tell_nothing_of_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let target = dir.path().join("t");
        let check = |path: &str, want: &str| {
            let got = bind(dir.path(), path, &target).unwrap_err().to_string();
            assert_eq!(got, want, "{path}");
        };
        check("/etc", "error SubPath `/etc` must not be an absolute path");
        check(
            "a/../b",
            "unable to provision SubPath `a/../b`: must not contain '..'",
        );
        check("file/x", "failed to prepare subPath");
    }
}
