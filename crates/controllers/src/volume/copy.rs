//! A whole tree of files, again: contents (shared blocks where the file system can), owners, modes, times, attributes,
//! links. Blocking.

use std::{
    collections::HashMap,
    ffi::CString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps};

/// Deeper trees are refused rather than followed.
const DEPTH_MAX: u32 = 256;

/// Copies `from` to `to`, which must not be there. Sockets are left out: they belong to a process.
///
/// # Errors
/// At the first file that can't be copied.
pub fn tree(from: &Path, to: &Path) -> io::Result<()> {
    one(from, to, &mut HashMap::new(), 0)
}

/// `links`: where the files with several names have gone, by device and inode.
fn one(
    from: &Path,
    to: &Path,
    links: &mut HashMap<(u64, u64), PathBuf>,
    depth: u32,
) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other(format!(
            "{} is nested too deeply",
            from.display()
        )));
    }
    let meta = fs::symlink_metadata(from)?;
    let kind = meta.file_type();
    if kind.is_socket() {
        return Ok(());
    }
    if !kind.is_dir() && meta.nlink() > 1 {
        if let Some(first) = links.get(&(meta.dev(), meta.ino())) {
            return fs::hard_link(first, to);
        }
        links.insert((meta.dev(), meta.ino()), to.to_owned());
    }
    if kind.is_dir() {
        fs::DirBuilder::new().mode(0o700).create(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            one(&from.join(&name), &to.join(&name), links, depth + 1)?;
        }
    } else if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
    } else if kind.is_file() {
        content(from, to)?;
    } else {
        let kind = if kind.is_fifo() {
            FileType::Fifo
        } else if kind.is_block_device() {
            FileType::BlockDevice
        } else {
            FileType::CharacterDevice
        };
        rustix::fs::mknodat(CWD, to, kind, Mode::from_raw_mode(0o600), meta.rdev())?;
    }
    attributes(from, to)?;
    std::os::unix::fs::lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    if !meta.file_type().is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    let time = |s: i64, n: i64| Timespec {
        tv_sec: s,
        tv_nsec: n as _,
    };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(CWD, to, &times, flags)?;
    Ok(())
}

fn content(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    io::copy(&mut &source, &mut &target).map(drop)
}

fn attributes(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = vec![0u8; 64 << 10];
    let length = match rustix::fs::llistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let mut value = vec![0u8; 64 << 10];
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let Ok(name) = CString::new(name) else {
            continue;
        };
        let length = rustix::fs::lgetxattr(from, &*name, &mut value[..])?;
        match rustix::fs::lsetxattr(
            to,
            &*name,
            &value[..length],
            rustix::fs::XattrFlags::empty(),
        ) {
            // the kernel's own, such as security labels, may be fixed
            Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::NOTSUP) => {}
            Err(e) => {
                let name = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
                return Err(io::Error::other(format!("{}: {e}", name.display())));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_same_and_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(from.join("d")).unwrap();
        fs::write(from.join("d/f"), "text").unwrap();
        fs::set_permissions(from.join("d/f"), fs::Permissions::from_mode(0o4750)).unwrap();
        fs::set_permissions(from.join("d"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::hard_link(from.join("d/f"), from.join("same")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.join("s")).unwrap();
        tree(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("d/f")).unwrap(), "text");
        let see = |p: &str| fs::symlink_metadata(to.join(p)).unwrap();
        assert_eq!(see("d/f").mode() & 0o7777, 0o4750);
        assert_eq!(see("d").mode() & 0o7777, 0o1777);
        assert_eq!(see("d/f").ino(), see("same").ino());
        let old = fs::symlink_metadata(from.join("d/f")).unwrap();
        assert_eq!(see("d/f").modified().unwrap(), old.modified().unwrap());
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("/etc/passwd")
        );
        assert!(fs::symlink_metadata(to.join("s")).is_err());
        fs::write(from.join("d/f"), "new").unwrap();
        assert_eq!(fs::read_to_string(to.join("d/f")).unwrap(), "text");
        assert!(tree(&from, &to).is_err(), "nothing is written over");
    }
}
