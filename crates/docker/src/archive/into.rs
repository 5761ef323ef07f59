//! An archive's entries written below an open folder.
//!
//! Each parent is opened by the kernel within that folder (`openat2`, RESOLVE_IN_ROOT), so that neither `..` nor a link,
//! from the archive or from the container, leads out of it.

use crate::error::{Fault, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use std::{
    ffi::OsStr,
    fs, io,
    io::Read,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Component, Path, PathBuf},
};
use tar::EntryType;

/// Entries of one archive.
const ENTRIES_MAX: usize = 10_000_000;

fn open_in(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(
        root,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    )?)
}

/// The path with nothing but names in it; None when it says `..`.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut all = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => all.push(name),
            Component::CurDir | Component::RootDir => {}
            _ => return None,
        }
    }
    Some(all)
}

/// The folder that an entry goes into, made where it's missing.
fn parent(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    match open_in(root, path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let (above, name) = (path.parent().unwrap_or(Path::new("")), path.file_name());
            let above = parent(root, above)?;
            match rustix::fs::mkdirat(&above, name.unwrap_or_default(), Mode::from_raw_mode(0o755))
            {
                Ok(()) | Err(rustix::io::Errno::EXIST) => open_in(root, path),
                Err(e) => Err(e.into()),
            }
        }
        other => other,
    }
}

fn kind_at(dir: &OwnedFd, name: &OsStr) -> Option<FileType> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

/// What holds for all entries.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// A folder doesn't take the place of something else, nor that of a folder.
    pub no_overwrite: bool,
    /// Whose all of them become; none: whose the archive says they are.
    pub owner: Option<(u32, u32)>,
}

/// Blocking.
///
/// # Errors
/// 400 when a folder would take the place of a file or the other way round, and that isn't wanted, or for a broken archive.
pub fn unpack_into(archive: impl Read, root: &OwnedFd, rules: &Rules) -> Result<()> {
    let broken = |e: io::Error| Fault::bad(format!("Error processing tar file: {e}"));
    let mut tar = tar::Archive::new(archive);
    let mut folders: Vec<(PathBuf, i64)> = Vec::new();
    for (count, entry) in tar.entries().map_err(broken)?.enumerate() {
        let mut entry = entry.map_err(broken)?;
        if count > ENTRIES_MAX {
            return Err(Fault::bad("Error processing tar file: too many entries"));
        }
        let path = entry.path().map_err(broken)?.into_owned();
        let Some(path) = plain(&path) else {
            return Err(Fault::bad(format!(
                "Error processing tar file: invalid path {}",
                path.display()
            )));
        };
        one(&mut entry, root, &path, rules, &mut folders)?;
    }
    // Their times change with what comes into them.
    for (path, at) in folders.into_iter().rev() {
        if let Ok(dir) = open_in(root, &path) {
            let _ = rustix::fs::utimensat(&dir, ".", &times(at), AtFlags::empty());
        }
    }
    Ok(())
}

fn times(at: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: at,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn one(
    entry: &mut tar::Entry<'_, impl Read>,
    root: &OwnedFd,
    path: &Path,
    rules: &Rules,
    folders: &mut Vec<(PathBuf, i64)>,
) -> Result<()> {
    let broken = |e: io::Error| Fault::bad(format!("Error processing tar file: {e}"));
    let header = entry.header().clone();
    let kind = header.entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(());
    }
    let (mode, at) = (
        header.mode().map_err(broken)?,
        header.mtime().map_err(broken)?,
    );
    let at = i64::try_from(at).unwrap_or(0);
    let Some(name) = path.file_name() else {
        // the folder itself
        return Ok(());
    };
    let dir = parent(root, path.parent().unwrap_or(Path::new("")))?;
    let there = kind_at(&dir, name);
    match (there, kind) {
        (Some(FileType::Directory), EntryType::Directory) | (None, _) => {}
        // a link to a folder is as good as one
        (Some(FileType::Symlink), EntryType::Directory) if open_in(root, path).is_ok() => {
            return Ok(());
        }
        (Some(FileType::Directory), _) if rules.no_overwrite => {
            return Err(Fault::bad(format!(
                "cannot overwrite directory {} with non-directory",
                path.display()
            )));
        }
        (Some(_), EntryType::Directory) if rules.no_overwrite => {
            return Err(Fault::bad(format!(
                "cannot overwrite non-directory {} with directory",
                path.display()
            )));
        }
        (Some(FileType::Directory), _) => {
            rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR).map_err(io::Error::from)?;
        }
        (Some(_), _) => {
            rustix::fs::unlinkat(&dir, name, AtFlags::empty()).map_err(io::Error::from)?
        }
    }
    let permissions = Mode::from_raw_mode(mode & 0o7777);
    let made = match kind {
        EntryType::Directory => match rustix::fs::mkdirat(&dir, name, permissions) {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            other => other,
        },
        EntryType::Symlink => {
            let target = entry.link_name_bytes().unwrap_or_default();
            rustix::fs::symlinkat(OsStr::from_bytes(&target), &dir, name)
        }
        EntryType::Link => {
            let target = entry.link_name().map_err(broken)?.and_then(|l| plain(&l));
            let Some(target) = target else {
                return Err(Fault::bad(
                    "Error processing tar file: a hard link to nowhere",
                ));
            };
            let from = open_in(root, target.parent().unwrap_or(Path::new("")))?;
            rustix::fs::linkat(
                &from,
                target.file_name().unwrap_or_default(),
                &dir,
                name,
                AtFlags::empty(),
            )
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            let kind = match kind {
                EntryType::Char => FileType::CharacterDevice,
                EntryType::Block => FileType::BlockDevice,
                _ => FileType::Fifo,
            };
            let (major, minor) = (
                header.device_major().ok().flatten(),
                header.device_minor().ok().flatten(),
            );
            let device = rustix::fs::makedev(major.unwrap_or(0), minor.unwrap_or(0));
            rustix::fs::mknodat(&dir, name, kind, permissions, device)
        }
        _ => {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file =
                rustix::fs::openat(&dir, name, flags, permissions).map_err(io::Error::from)?;
            let mut file = fs::File::from(file);
            io::copy(entry, &mut file).map_err(broken)?;
            Ok(())
        }
    };
    made.map_err(io::Error::from)?;
    if kind == EntryType::Link {
        return Ok(());
    }
    let id = |number: io::Result<u64>| number.ok().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let theirs = || (id(header.uid()), id(header.gid()));
    let (uid, gid) = rules.owner.unwrap_or_else(theirs);
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(&dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(io::Error::from)?;
    if kind != EntryType::Symlink {
        rustix::fs::chmodat(&dir, name, permissions, AtFlags::empty()).map_err(io::Error::from)?;
    }
    rustix::fs::utimensat(&dir, name, &times(at), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(io::Error::from)?;
    if kind == EntryType::Directory {
        folders.push((path.to_path_buf(), at));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, kind, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            let link = matches!(kind, EntryType::Symlink | EntryType::Link);
            header.set_size(if link { 0 } else { text.len() as u64 });
            // written as they are: a builder would refuse some
            let bytes = header.as_mut_bytes();
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            if link {
                bytes[157..157 + text.len()].copy_from_slice(text.as_bytes());
            }
            header.set_cksum();
            tar.append(&header, if link { &b""[..] } else { text.as_bytes() })
                .unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn nothing_leaves_the_folder() {
        let check = |what: &str, entries: &[(&str, EntryType, &str)], wanted: Option<&str>| {
            let outer = tempfile::tempdir().unwrap();
            let inner = outer.path().join("in");
            fs::create_dir(&inner).unwrap();
            fs::create_dir(outer.path().join("secret")).unwrap();
            let root =
                rustix::fs::open(&inner, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
            let done = unpack_into(&archive(entries)[..], &root, &Rules::default());
            let names: Vec<_> = fs::read_dir(outer.path())
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            assert_eq!(names.len(), 2, "{what}: {names:?}");
            assert_eq!(
                fs::read_dir(outer.path().join("secret")).unwrap().count(),
                0,
                "{what}"
            );
            assert_eq!(done.is_ok(), wanted.is_some(), "{what}: {done:?}");
            if let Some(wanted) = wanted {
                assert!(fs::symlink_metadata(inner.join(wanted)).is_ok(), "{what}");
            }
        };
        let (file, link) = (EntryType::Regular, EntryType::Symlink);
        check("a file", &[("a/b", file, "x")], Some("a/b"));
        check("backwards", &[("../evil", file, "x")], None);
        check("absolute", &[("/abs", file, "x")], Some("abs"));
        check(
            "through a link",
            &[("l", link, "../secret"), ("l/evil", file, "x")],
            None,
        );
        check(
            "through an absolute link",
            &[("l", link, "/secret"), ("l/evil", file, "x")],
            None,
        );
        check(
            "onto a link",
            &[("l", link, "../secret/evil"), ("l", file, "x")],
            Some("l"),
        );
        check(
            "a hard link out",
            &[("h", EntryType::Link, "../secret")],
            None,
        );
    }
}
