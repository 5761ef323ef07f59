//! A root file system as a tar, as `docker export` writes it: one archive of what there is, without layers.

use crate::{
    Error,
    commit::xattrs,
    io,
    tarfile::{
        Kind, Member, padding,
        write::{END, header},
    },
};
use rustix::fs::{FileType, major, minor};
use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

/// Writes all below `root`, in the order of the names. Sockets are left out, hard links stay links. The tree may be one that
/// changes: a file that grows meanwhile is cut at the size that it had, one that shrinks is an error. Blocking.
///
/// # Errors
/// When something can't be read, or `to` not be written to.
pub fn export_tree(root: &Path, mut to: impl Write) -> Result<(), Error> {
    let mut links = HashMap::new();
    folder(root, Path::new(""), &mut links, &mut to)?;
    to.write_all(&END)
        .and_then(|()| to.flush())
        .map_err(io("the archive"))
}

/// Files with several names: the first of them.
type Links = HashMap<(u64, u64), Vec<u8>>;

fn folder(root: &Path, below: &Path, links: &mut Links, to: &mut impl Write) -> Result<(), Error> {
    let path = root.join(below);
    let entries = fs::read_dir(&path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut names: Vec<_> = entries
        .map_err(io(&path))?
        .into_iter()
        .map(|e| e.file_name())
        .collect();
    names.sort();
    for name in names {
        let below = below.join(name);
        let path = root.join(&below);
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            // it went meanwhile
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(io(path)(e)),
        };
        one(&path, &below, &meta, links, to)?;
        if meta.is_dir() {
            folder(root, &below, links, to)?;
        }
    }
    Ok(())
}

fn one(
    path: &Path,
    below: &Path,
    meta: &fs::Metadata,
    links: &mut Links,
    to: &mut impl Write,
) -> Result<(), Error> {
    let kind = match FileType::from_raw_mode(meta.mode()) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::SymLink,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        _ => return Ok(()),
    };
    let name = below.as_os_str().as_bytes().to_vec();
    let mut member = Member {
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: meta.mtime(),
        ..Member::new(name.clone(), kind)
    };
    if kind != Kind::Folder && meta.nlink() > 1 {
        match links.get(&(meta.dev(), meta.ino())) {
            Some(first) => {
                member.kind = Kind::HardLink;
                member.target = first.clone();
                return to.write_all(&header(&member)).map_err(io("the archive"));
            }
            None => {
                links.insert((meta.dev(), meta.ino()), name);
            }
        }
    }
    member.xattrs = xattrs(path)?;
    match kind {
        Kind::SymLink => {
            let target = fs::read_link(path).map_err(io(path))?;
            member.target = target.into_os_string().into_encoded_bytes();
        }
        Kind::CharDevice | Kind::BlockDevice => {
            member.device = (major(meta.rdev()), minor(meta.rdev()));
        }
        Kind::File => {
            let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
            let file = fs::OpenOptions::new()
                .read(true)
                .custom_flags(no_follow)
                .open(path)
                .map_err(io(path))?;
            member.size = file.metadata().map_err(io(path))?.len();
            to.write_all(&header(&member)).map_err(io("the archive"))?;
            let copied = std::io::copy(&mut file.take(member.size), to).map_err(io(path))?;
            if copied < member.size {
                let why = std::io::Error::other("it became shorter while it was read");
                return Err(io(path)(why));
            }
            let fill = [0; crate::tarfile::BLOCK];
            return to
                .write_all(&fill[..padding(member.size)])
                .map_err(io("the archive"));
        }
        _ => {}
    }
    to.write_all(&header(&member)).map_err(io("the archive"))
}
