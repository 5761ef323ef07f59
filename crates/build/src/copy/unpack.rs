//! Archives unpacked into a folder that nothing in them leads out of, as BuildKit does it in a chroot
//! (`moby/go-archive/chrootarchive`): names and links are followed as if the folder were `/`.

use super::{
    error::{Error, io},
    guard::Guard,
    root::{Root, is_dir},
    select::Start,
    tree::Tree,
    write::{Writer, chmod, chown, set_times, set_xattrs},
};
use crate::source::compression::decompress;
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, FileType, Mode as Bits, OFlags, Timespec},
    io::Errno,
};
use std::{
    ffi::{CString, OsStr},
    io::{Read, Seek},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// The mode of folders that an archive's names speak of without an entry of their own.
const IMPLIED_MODE: u32 = 0o755;

/// Is it an archive that `ADD` unpacks: a tar, plain or compressed?
pub fn is_archive(file: &mut std::fs::File) -> bool {
    let is = decompress(&*file).is_ok_and(|plain| {
        let mut archive = tar::Archive::new(Guard::new(plain));
        // what has no first entry is no archive
        archive
            .entries()
            .ok()
            .and_then(|mut e| e.next())
            .is_some_and(|e| e.is_ok())
    });
    is && file.rewind().is_ok()
}

/// Unpacks a source if it is an archive. Gives whether it was.
pub(crate) fn unpack(writer: &Writer, tree: &Tree, start: &Start) -> Result<bool, Error> {
    let fail = |e| io("failed to open source", &start.path)(e);
    let stat = tree.handle().stat(&start.path).map_err(fail)?;
    if stat.is_none_or(|s| super::root::kind(&s) != FileType::RegularFile) {
        return Ok(false);
    }
    let mut file = tree.handle().file(&start.path).map_err(fail)?;
    if !is_archive(&mut file) {
        return Ok(false);
    }
    file.rewind().map_err(fail)?;
    let folder = writer.follow(&writer.destination)?;
    writer.folders(&folder, IMPLIED_MODE)?;
    let fd = writer
        .root
        .dir(&folder)
        .map_err(io("failed to open", &folder))?;
    let broken = |e: std::io::Error| {
        let path = Path::new("/").join(&start.path);
        Error::Refused(format!("failed to unpack {}: {e}", path.display()))
    };
    unpack_into(
        decompress(file).map_err(broken)?,
        Root::from(fd),
        writer.owner,
    )
    .map_err(broken)?;
    Ok(true)
}

/// Unpacks a plain tar stream below `root`. All belongs to `owner`, or to whom the archive says.
pub(crate) fn unpack_into(
    stream: impl Read,
    root: Root,
    owner: Option<(u32, u32)>,
) -> std::io::Result<()> {
    let mut archive = tar::Archive::new(Guard::new(stream));
    let mut unpacker = Unpacker {
        root,
        owner,
        folders: vec![],
    };
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        unpacker
            .entry(&mut entry)
            .map_err(|e| std::io::Error::new(e.kind(), format!("{}: {e}", name.display())))?;
    }
    unpacker.finish()
}

struct Unpacker {
    root: Root,
    owner: Option<(u32, u32)>,
    /// Folders get their times when all is in them.
    folders: Vec<(PathBuf, Timespec)>,
}

/// What an entry's extended header says besides its name.
#[derive(Default)]
struct Extended {
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<Timespec>,
    xattrs: Vec<(CString, Vec<u8>)>,
}

fn extended<R: Read>(entry: &mut tar::Entry<'_, R>) -> std::io::Result<Extended> {
    let mut found = Extended::default();
    let Some(records) = entry.pax_extensions()? else {
        return Ok(found);
    };
    for record in records {
        let record = record?;
        let text = || std::str::from_utf8(record.value_bytes()).unwrap_or_default();
        match record.key_bytes() {
            b"uid" => found.uid = text().parse().ok(),
            b"gid" => found.gid = text().parse().ok(),
            b"mtime" => found.modified = seconds(text()),
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                    && let Ok(name) = CString::new(name)
                {
                    found.xattrs.push((name, record.value_bytes().to_vec()));
                }
            }
        }
    }
    Ok(found)
}

/// `1234.5678` as a time.
fn seconds(text: &str) -> Option<Timespec> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let rest: String = rest.chars().chain("000000000".chars()).take(9).collect();
    let (tv_sec, nanoseconds) = (whole.parse::<i64>().ok()?, rest.parse::<i64>().ok()?);
    // before 1970 the fraction counts backwards; whole seconds are near enough
    let tv_nsec = if tv_sec < 0 { 0 } else { nanoseconds };
    Some(Timespec { tv_sec, tv_nsec })
}

/// A name as if the folder were the root: `..` never leads above it.
fn inside(name: &[u8]) -> PathBuf {
    let mut path = PathBuf::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                path.pop();
            }
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    path
}

impl Unpacker {
    /// The folder that a name is in, made if need be, and the name itself.
    fn place(&self, path: &Path) -> std::io::Result<(OwnedFd, PathBuf)> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let found = self.root.resolve(parent, true, &|_, _| true)?;
        match found.stat {
            Some(stat) if is_dir(&stat) => {}
            Some(_) => return Err(Errno::NOTDIR.into()),
            None => self.folders(&found.path)?,
        }
        Ok((self.root.dir(&found.path)?, found.path))
    }

    fn folders(&self, path: &Path) -> std::io::Result<()> {
        let mut at = PathBuf::new();
        for part in path {
            let dir = self.root.dir(&at)?;
            at.push(part);
            match rustix::fs::mkdirat(&dir, part, Bits::from_raw_mode(IMPLIED_MODE)) {
                Ok(()) => {
                    chmod(&dir, part, IMPLIED_MODE)?;
                    let (uid, gid) = self.owner.unwrap_or((0, 0));
                    chown(&dir, part, uid, gid)?;
                }
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> std::io::Result<()> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let path = inside(&entry.path_bytes());
        let Some(name) = path.file_name() else {
            // the folder itself keeps what it is
            return Ok(());
        };
        let extended = extended(entry)?;
        let (dir, parent) = self.place(&path)?;
        self.make_room(&dir, &parent, name, kind.is_dir())?;
        let header = entry.header();
        let old = header.as_old();
        let mode = filled(&old.mode, || header.mode().map(u64::from))?;
        let (mode, rdev) = (mode as u32 & 0o7777, device(header)?);
        let number = |id: u64| u32::try_from(id).map_err(|_| std::io::Error::other("a bad owner"));
        let uid = || number(filled(&old.uid, || header.uid())?);
        let gid = || number(filled(&old.gid, || header.gid())?);
        let own = (
            extended.uid.map_or_else(uid, Ok)?,
            extended.gid.map_or_else(gid, Ok)?,
        );
        let mtime = filled(&old.mtime, || header.mtime())?;
        let modified = extended.modified.unwrap_or(Timespec {
            tv_sec: i64::try_from(mtime).unwrap_or(i64::MAX >> 30),
            tv_nsec: 0,
        });
        let node = |kind| rustix::fs::mknodat(&dir, name, kind, Bits::from_raw_mode(0o600), rdev);
        match kind {
            tar::EntryType::Directory => {
                match rustix::fs::mkdirat(&dir, name, Bits::from_raw_mode(mode)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                self.folders.push((parent.join(name), modified));
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                rustix::fs::symlinkat(&*target, &dir, name)?;
            }
            tar::EntryType::Link => {
                let target = inside(&entry.link_name_bytes().unwrap_or_default());
                let Some(first) = target.file_name() else {
                    return Err(std::io::Error::other("a hard link to the archive's root"));
                };
                let (from, _) = self.place(&target)?;
                rustix::fs::linkat(from, first, &dir, name, AtFlags::empty())?;
                let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if super::root::kind(&stat) == FileType::Symlink {
                    return Ok(());
                }
            }
            tar::EntryType::Char => node(FileType::CharacterDevice)?,
            tar::EntryType::Block => node(FileType::BlockDevice)?,
            tar::EntryType::Fifo => node(FileType::Fifo)?,
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let out = rustix::fs::openat(&dir, name, flags, Bits::from_raw_mode(0o600))?;
                let announced = entry.size();
                let copied = std::io::copy(entry, &mut std::fs::File::from(out))?;
                if copied != announced {
                    return Err(std::io::Error::new(
                        std::io::ErrorKind::UnexpectedEof,
                        format!("{announced} bytes are announced, {copied} are there"),
                    ));
                }
            }
            other => {
                let byte = other.as_byte();
                return Err(std::io::Error::other(format!(
                    "unhandled tar header type {byte}"
                )));
            }
        }
        let (uid, gid) = self.owner.unwrap_or(own);
        chown(&dir, name, uid, gid)?;
        if kind != tar::EntryType::Symlink {
            chmod(&dir, name, mode)?;
        }
        set_xattrs(&dir, name, &extended.xattrs);
        set_times(&dir, name, modified, modified)?;
        Ok(())
    }

    /// What is in an entry's way goes, but for a folder where a folder comes.
    fn make_room(
        &mut self,
        dir: &OwnedFd,
        parent: &Path,
        name: &OsStr,
        folder: bool,
    ) -> std::io::Result<()> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(_) => Ok(()),
            Ok(there) if is_dir(&there) && folder => Ok(()),
            Ok(there) if is_dir(&there) => {
                let path = parent.join(name);
                self.folders.retain(|(f, _)| !f.starts_with(&path));
                remove_all(&self.root, &path)
            }
            Ok(_) => Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?),
        }
    }

    fn finish(self) -> std::io::Result<()> {
        for (path, modified) in self.folders.iter().rev() {
            let parent = path.parent().unwrap_or(Path::new(""));
            let name = path.file_name().unwrap_or_default();
            set_times(self.root.dir(parent)?, name, *modified, *modified)?;
        }
        Ok(())
    }
}

/// A number of a header; an empty field is a zero.
fn filled(field: &[u8], number: impl FnOnce() -> std::io::Result<u64>) -> std::io::Result<u64> {
    match field.iter().all(|b| matches!(b, 0 | b' ')) {
        true => Ok(0),
        false => number(),
    }
}

/// Other kinds have nothing, or anything, in these fields.
fn device(header: &tar::Header) -> std::io::Result<u64> {
    let kind = header.entry_type();
    if !kind.is_character_special() && !kind.is_block_special() {
        return Ok(0);
    }
    let (major, minor) = (header.device_major()?, header.device_minor()?);
    Ok(match (major, minor) {
        (Some(major), Some(minor)) => rustix::fs::makedev(major, minor),
        _ => 0,
    })
}

/// Removes a folder and all below it, following nothing.
pub(crate) fn remove_all(root: &Root, path: &Path) -> std::io::Result<()> {
    let (dir, names) = super::walk::list(root, path)?;
    let mut folders = vec![];
    for name in names {
        let stat = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        match is_dir(&stat) {
            true => folders.push(path.join(name)),
            false => rustix::fs::unlinkat(&dir, &name, AtFlags::empty())?,
        }
    }
    drop(dir);
    for folder in folders {
        remove_all(root, &folder)?;
    }
    let parent = root.dir(path.parent().unwrap_or(Path::new("")))?;
    let name = path.file_name().unwrap_or_default();
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
