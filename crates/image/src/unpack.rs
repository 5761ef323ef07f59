//! A layer's tar becomes a folder: nothing of it lands outside, files that other layers have are shared with them, and the
//! recipe to write the tar again is kept.
//!
//! Names are resolved by the kernel as if the folder were the root of everything (`openat2` with `RESOLVE_IN_ROOT`), so links
//! in the layer lead nowhere else. What is there is replaced, never written to: its file may be another layer's.
//!
//! Source: OCI image-spec `layer.md`, moby `pkg/archive/diff.go`, overlayfs(5) (whiteouts, opaque folders).

use crate::{
    Error,
    commit::travels,
    files::Files,
    io, recipe,
    tarfile::{
        Kind, Member,
        read::{Found, Reader, Tap},
    },
};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
    },
    io::Errno,
};
use sha2::{Digest, Sha256};
use std::{
    ffi::OsStr,
    fs,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// The most members of one layer.
const MEMBERS_MAX: u64 = 1 << 20;
/// The longest path, as the kernel has it.
const PATH_BYTES_MAX: usize = 4096;
/// Files up to this size are hashed before they are written: often they needn't be.
const SMALL_BYTES: u64 = 512 << 10;

/// A layer that was unpacked.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// Its folder and the recipe give the tar again.
    pub has_recipe: bool,
}

struct Recorder(Option<recipe::Writer>);

impl Tap for Recorder {
    fn own(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.0 {
            Some(recipe) => recipe.own(bytes).map_err(std::io::Error::other),
            None => Ok(()),
        }
    }
}

struct Unpacker<'a, R> {
    reader: Reader<R, Recorder>,
    root: OwnedFd,
    root_path: &'a Path,
    files: &'a Files,
    scratch: PathBuf,
    /// The folder that the last member was in.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Folders' times are set when nothing changes them any more.
    times: Vec<(Vec<u8>, Timestamps)>,
    owners: bool,
    buf: Vec<u8>,
}

/// Unpacks the stream into the empty folder `root`, and writes the recipe to the new file `recipe`. `scratch` is a free name
/// on the same file system.
pub(crate) fn unpack(
    from: impl Read,
    root: &Path,
    recipe: &Path,
    files: &Files,
    scratch: &Path,
) -> Result<Unpacked, Error> {
    let fd = rustix::fs::open(
        root,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| io(root)(e.into()))?;
    let mut unpacker = Unpacker {
        reader: Reader::new(from, Recorder(Some(recipe::Writer::create(recipe)?))),
        root: fd,
        root_path: root,
        files,
        scratch: scratch.to_path_buf(),
        last: None,
        times: Vec::new(),
        owners: rustix::process::geteuid().is_root(),
        buf: vec![0u8; 1 << 18],
    };
    let mut members = 0;
    while let Some(found) = unpacker.reader.next().map_err(io(root))? {
        members += 1;
        if members > MEMBERS_MAX {
            return Err(unpacker.bad(
                &found.member,
                "it is one of more files than a layer may have",
            ));
        }
        unpacker.one(found)?;
    }
    unpacker.reader.rest().map_err(io(root))?;
    unpacker.set_times()?;
    let has_recipe = match unpacker.reader.tap.0.take() {
        Some(writer) => writer.finish().map(|_| true)?,
        None => {
            fs::remove_file(recipe).map_err(io(recipe))?;
            false
        }
    };
    Ok(Unpacked { has_recipe })
}

/// The path's parts below the root: `.` and slashes mean nothing, `..` must stay inside.
fn clean(path: &[u8]) -> Option<Vec<&[u8]>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (path.len() < PATH_BYTES_MAX && !path.contains(&0)).then_some(parts)
}

fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

impl<R: Read> Unpacker<'_, R> {
    fn bad(&self, member: &Member, why: &str) -> Error {
        Error::Layer {
            path: PathBuf::from(name(&member.path)),
            why: why.into(),
        }
    }

    fn told(&self, member: &Member) -> impl Fn(Errno) -> Error + use<R> {
        let path = PathBuf::from(name(&member.path));
        move |e| Error::Layer {
            path: path.clone(),
            why: std::io::Error::from(e).to_string(),
        }
    }

    /// What stands in the way of the recipe: the tar has content that no file of the folder has.
    fn no_recipe(&mut self) {
        self.reader.tap.0 = None;
    }

    fn one(&mut self, found: Found) -> Result<(), Error> {
        let Found {
            mut member,
            stored,
            sparse,
        } = found;
        let path = member.path.clone();
        let Some(parts) = clean(&path) else {
            return Err(self.bad(&member, "the name leaves the image"));
        };
        member.xattrs.retain(|(name, _)| travels(name));
        let Some((last, parents)) = parts.split_last() else {
            // the root itself: its mode and owner are the lowest layer's matter
            return Ok(());
        };
        member.path = parts.join(&b'/');
        if member.path.len() + 1 >= PATH_BYTES_MAX {
            return Err(self.bad(&member, "the name is too long"));
        }
        let parent_path = parents.join(&b'/');
        let parent = self.parent(&member, &parent_path)?;
        let parent = parent.as_fd();
        if let Some(hidden) = last.strip_prefix(b".wh.") {
            return self.whiteout(&member, parent, hidden);
        }
        let told = self.told(&member);
        let place = name(last);
        let hides = self.clear(&member, parent, place)?;
        let mode = Mode::from_raw_mode(member.mode);
        match member.kind {
            Kind::Folder => {
                match rustix::fs::mkdirat(parent, place, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(told(e)),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let folder =
                    rustix::fs::openat(parent, place, flags, Mode::empty()).map_err(&told)?;
                if hides {
                    opaque(&folder).map_err(&told)?;
                }
                self.dress(&member, &folder)?;
                let times = times(&member);
                self.times.push((member.path, times));
                return Ok(());
            }
            Kind::File => return self.file(&member, parent, place, stored, sparse),
            Kind::HardLink => {
                let Some(target) = clean(&member.target) else {
                    return Err(self.bad(&member, "it is a hard link that leaves the image"));
                };
                let (target, folders) = match target.split_last() {
                    Some((target, folders)) => (*target, folders.join(&b'/')),
                    None => return Err(self.bad(&member, "it is a hard link to the root")),
                };
                let from = self.open_folder(&folders).map_err(&told)?;
                rustix::fs::linkat(&from, name(target), parent, place, AtFlags::empty())
                    .map_err(&told)?;
                // its metadata are those of what it links to
                return Ok(());
            }
            Kind::SymLink => {
                rustix::fs::symlinkat(name(&member.target), parent, place).map_err(&told)?;
                self.last = None;
            }
            Kind::Fifo => {
                rustix::fs::mknodat(parent, place, FileType::Fifo, mode, 0).map_err(&told)?;
            }
            Kind::CharDevice | Kind::BlockDevice => {
                let kind = match member.kind {
                    Kind::CharDevice => FileType::CharacterDevice,
                    _ => FileType::BlockDevice,
                };
                let device = rustix::fs::makedev(member.device.0, member.device.1);
                rustix::fs::mknodat(parent, place, kind, mode, device).map_err(&told)?;
            }
        }
        let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
        if self.owners {
            rustix::fs::chownat(
                parent,
                place,
                Some(uid),
                Some(gid),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(&told)?;
        }
        if member.kind != Kind::SymLink {
            // the umask was applied before, and the owner's change takes setuid away
            rustix::fs::chmodat(parent, place, mode, AtFlags::empty()).map_err(&told)?;
        }
        rustix::fs::utimensat(parent, place, &times(&member), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(&told)
    }

    /// The member's folder, made where it is missing.
    fn parent(&mut self, member: &Member, path: &[u8]) -> Result<OwnedFd, Error> {
        let told = self.told(member);
        let copy = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 0);
        if let Some((known, fd)) = &self.last
            && known == path
        {
            return copy(fd).map_err(told);
        }
        let opened = match self.open_folder(path) {
            Err(Errno::NOENT) => {
                let cut = path.iter().rposition(|b| *b == b'/');
                let (above, own) = match cut {
                    Some(at) => (&path[..at], &path[at + 1..]),
                    None => (&path[..0], path),
                };
                let above = self.parent(member, above)?;
                match rustix::fs::mkdirat(&above, name(own), Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(told(e)),
                }
                self.open_folder(path)
            }
            other => other,
        };
        let opened = opened.map_err(|e| match e {
            Errno::NOTDIR | Errno::LOOP | Errno::NOENT => {
                self.bad(member, "what it lies in is no folder")
            }
            other => told(other),
        })?;
        self.last = Some((path.to_vec(), copy(&opened).map_err(told)?));
        Ok(opened)
    }

    fn open_folder(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        inside(&self.root, name(path), flags)
    }

    /// Takes away what has the name, unless it is a folder that the member only changes. True: it hid what lower layers have.
    fn clear(
        &mut self,
        member: &Member,
        parent: BorrowedFd<'_>,
        place: &OsStr,
    ) -> Result<bool, Error> {
        let told = self.told(member);
        let stat = match rustix::fs::statat(parent, place, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(told(e)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            if member.kind == Kind::Folder {
                return Ok(false);
            }
            self.no_recipe();
            self.last = None;
            let path = self.path_of(parent, place);
            fs::remove_dir_all(&path).map_err(io(&member_path(member)))?;
            return Ok(false);
        }
        let hid = kind == FileType::CharacterDevice && stat.st_rdev == 0;
        if !hid {
            self.no_recipe();
            self.last = None;
        }
        rustix::fs::unlinkat(parent, place, AtFlags::empty()).map_err(told)?;
        Ok(hid)
    }

    /// A path that leads through the open folder: links on the way to it don't matter.
    fn path_of(&self, parent: BorrowedFd<'_>, place: &OsStr) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", parent.as_raw_fd())).join(place)
    }

    /// `.wh.NAME` and `.wh..wh..opq`. They hide what lower layers have, not what is in this one.
    fn whiteout(
        &mut self,
        member: &Member,
        parent: BorrowedFd<'_>,
        hidden: &[u8],
    ) -> Result<(), Error> {
        let told = self.told(member);
        match hidden {
            b".wh..opq" => return opaque(&parent).map_err(told),
            // AUFS's own
            other if other.starts_with(b".wh.") => return Ok(()),
            b"" | b"." | b".." => return Err(self.bad(member, "it is a whiteout of nothing")),
            _ => {}
        }
        let kind = FileType::CharacterDevice;
        match rustix::fs::mknodat(parent, name(hidden), kind, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(parent, name(hidden), flags, Mode::empty()) {
                    Ok(folder) => opaque(&folder).map_err(told),
                    Err(_) => Ok(()),
                }
            }
            Err(e) => Err(told(e)),
        }
    }

    fn file(
        &mut self,
        member: &Member,
        parent: BorrowedFd<'_>,
        place: &OsStr,
        stored: u64,
        sparse: Option<Vec<(u64, u64)>>,
    ) -> Result<(), Error> {
        let told = self.told(member);
        let path = self.path_of(parent, place);
        let create = || {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, place, flags, Mode::from_raw_mode(0o600)).map(fs::File::from)
        };
        if let Some(parts) = sparse {
            self.no_recipe();
            let mut file = create().map_err(&told)?;
            for (at, mut left) in parts {
                file.seek(SeekFrom::Start(at))
                    .map_err(io(member_path(member)))?;
                while left > 0 {
                    let n = self.piece(member, left)?;
                    file.write_all(&self.buf[..n])
                        .map_err(io(member_path(member)))?;
                    left -= n as u64;
                }
            }
            file.set_len(member.size).map_err(io(member_path(member)))?;
            return self.finish(member, &file);
        }
        if let Some(recipe) = &mut self.reader.tap.0
            && stored > 0
        {
            recipe.file(&member.path, stored)?;
        }
        let mut hash = Sha256::new();
        let mut left = stored;
        if stored <= SMALL_BYTES {
            let mut content = Vec::with_capacity(stored as usize);
            while left > 0 {
                let n = self.piece(member, left)?;
                content.extend_from_slice(&self.buf[..n]);
                left -= n as u64;
            }
            hash.update(&content);
            let shared = self.files.place(member, &hash.finalize());
            if stored > 0 && self.files.link(&shared, stored, &path) {
                return Ok(());
            }
            let mut file = create().map_err(&told)?;
            file.write_all(&content).map_err(io(member_path(member)))?;
            self.finish(member, &file)?;
            if stored > 0 {
                self.files.give(&shared, &path, &self.scratch)?;
            }
            return Ok(());
        }
        let mut file = create().map_err(&told)?;
        while left > 0 {
            let n = self.piece(member, left)?;
            hash.update(&self.buf[..n]);
            file.write_all(&self.buf[..n])
                .map_err(io(member_path(member)))?;
            left -= n as u64;
        }
        self.finish(member, &file)?;
        let shared = self.files.place(member, &hash.finalize());
        self.files.share(&shared, stored, &path, &self.scratch)
    }

    /// The next piece of content, into `buf`.
    fn piece(&mut self, member: &Member, left: u64) -> Result<usize, Error> {
        let room = self
            .buf
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = self
            .reader
            .read(&mut self.buf[..room])
            .map_err(io(member_path(member)))?;
        match n {
            0 => Err(self.bad(member, "its content is cut off")),
            n => Ok(n),
        }
    }

    /// Owner, mode, attributes and times of a file.
    fn finish(&self, member: &Member, file: &fs::File) -> Result<(), Error> {
        self.dress(member, file)?;
        rustix::fs::futimens(file, &times(member)).map_err(self.told(member))
    }

    /// Owner, mode and attributes: in this order, since the kernel takes setuid and capabilities away with the owner.
    fn dress(&self, member: &Member, file: impl AsFd) -> Result<(), Error> {
        let told = self.told(member);
        if self.owners {
            let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
            rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(&told)?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(member.mode)).map_err(&told)?;
        for (key, value) in &member.xattrs {
            match rustix::fs::fsetxattr(&file, name(key), value, XattrFlags::empty()) {
                // a file system without attributes of users
                Err(Errno::NOTSUP) if key.starts_with(b"user.") => {}
                other => other.map_err(&told)?,
            }
        }
        Ok(())
    }

    fn set_times(&mut self) -> Result<(), Error> {
        for (path, times) in std::mem::take(&mut self.times).into_iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            // one that was replaced later has other times
            if let Ok(folder) = inside(&self.root, name(&path), flags) {
                rustix::fs::futimens(&folder, &times).map_err(|e| io(self.root_path)(e.into()))?;
            }
        }
        Ok(())
    }
}

/// Opens a path as if `root` were the root of everything.
pub(crate) fn inside(root: &OwnedFd, path: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

fn member_path(member: &Member) -> PathBuf {
    PathBuf::from(name(&member.path))
}

fn opaque(folder: &impl AsFd) -> Result<(), Errno> {
    rustix::fs::fsetxattr(folder, "trusted.overlay.opaque", b"y", XattrFlags::empty())
}

fn times(member: &Member) -> Timestamps {
    let time = Timespec {
        tv_sec: member.mtime,
        tv_nsec: member.mtime_nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
