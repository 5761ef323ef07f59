//! A folder that an overlay wrote into becomes a layer: its tar is hashed and remembered as a recipe, not written, and the
//! folder itself becomes the unpacked layer.
//!
//! Source: OCI image-spec `layer.md` (change sets, whiteouts), moby `pkg/archive`, containerd `pkg/archive`.

use crate::{
    Error,
    files::Files,
    io, recipe,
    tarfile::{Kind, Member, Xattrs, padding, write},
};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Timespec, Timestamps, Uid, XattrFlags};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs,
    io::Read,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// How deep a layer's folders may nest.
const DEPTH_MAX: u32 = 512;

/// What is changed on the way into a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerOptions {
    /// Later times become this one, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub clamp_mtime: Option<i64>,
    /// Everything belongs to this user and group.
    pub rewrite_owner: Option<(u32, u32)>,
}

/// A layer in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Digest of the uncompressed tar.
    pub diff_id: String,
    /// Digest of the blob; the same as `diff_id` where it is the tar itself.
    pub digest: String,
    /// Bytes of the blob.
    pub size_bytes: u64,
    pub media_type: String,
}

pub(crate) struct Committed {
    pub diff_id: String,
    pub tar_bytes: u64,
}

struct Walk<'a> {
    root: &'a Path,
    options: &'a LayerOptions,
    hash: Sha256,
    recipe: recipe::Writer,
    files: &'a Files,
    scratch: PathBuf,
    /// Files with several names: inode to the first of them.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// Hashes the folder's tar, writes its recipe to `recipe` and shares its files. `scratch` is a free name on the same file
/// system. What a layer can't have (sockets, overlayfs' own marks) is taken out of the folder.
pub(crate) fn commit(
    root: &Path,
    options: &LayerOptions,
    recipe: &Path,
    files: &Files,
    scratch: &Path,
) -> Result<Committed, Error> {
    let mut walk = Walk {
        root,
        options,
        hash: Sha256::new(),
        recipe: recipe::Writer::create(recipe)?,
        files,
        scratch: scratch.to_path_buf(),
        links: HashMap::new(),
    };
    walk.folder(root, &[], 0)?;
    walk.own(&write::END)?;
    clean_marks(root, true)?;
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).map_err(io(root))?;
    Ok(Committed {
        diff_id: format!("sha256:{}", hex::encode(walk.hash.finalize())),
        tar_bytes: walk.recipe.finish()?,
    })
}

fn bad(path: &Path, why: &str) -> Error {
    Error::Layer {
        path: path.to_path_buf(),
        why: why.into(),
    }
}

impl Walk<'_> {
    fn own(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hash.update(bytes);
        self.recipe.own(bytes)
    }

    fn folder(&mut self, dir: &Path, inside: &[u8], depth: u32) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(bad(dir, "folders nest too deep for a layer"));
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(io(dir))? {
            names.push(entry.map_err(io(dir))?.file_name());
        }
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        for name in names {
            let path = dir.join(&name);
            if name.as_bytes().starts_with(b".wh.") {
                return Err(bad(
                    &path,
                    "a name that begins with .wh. can't be in a layer: it would remove another",
                ));
            }
            let mut at = inside.to_vec();
            if !at.is_empty() {
                at.push(b'/');
            }
            at.extend_from_slice(name.as_bytes());
            self.one(&path, at, depth)?;
        }
        Ok(())
    }

    fn one(&mut self, path: &Path, inside: Vec<u8>, depth: u32) -> Result<(), Error> {
        let meta = fs::symlink_metadata(path).map_err(io(path))?;
        let kind = meta.file_type();
        if kind.is_char_device() && meta.rdev() == 0 {
            return self.own(&write::header(&whiteout(&inside)));
        }
        if kind.is_socket() {
            return fs::remove_file(path).map_err(io(path));
        }
        let (mut uid, mut gid) = (meta.uid(), meta.gid());
        if let Some((to_uid, to_gid)) = self.options.rewrite_owner
            && (uid, gid) != (to_uid, to_gid)
        {
            (uid, gid) = (to_uid, to_gid);
            let (u, g) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(CWD, path, Some(u), Some(g), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| io(path)(e.into()))?;
        }
        let mtime = match self.options.clamp_mtime {
            Some(latest) => meta.mtime().min(latest),
            None => meta.mtime(),
        };
        let mut member = Member {
            mode: meta.mode() & 0o7777,
            uid,
            gid,
            mtime,
            xattrs: xattrs(path)?,
            ..Member::new(inside, Kind::File)
        };
        let device = || {
            (
                rustix::fs::major(meta.rdev()),
                rustix::fs::minor(meta.rdev()),
            )
        };
        if kind.is_dir() {
            member.kind = Kind::Folder;
            let opaque = clean_marks(path, false)?;
            self.own(&write::header(&member))?;
            if opaque {
                let mut mark = member.path.clone();
                mark.extend_from_slice(b"/.wh..wh..opq");
                self.own(&write::header(&Member::new(mark, Kind::File)))?;
            }
            self.folder(path, &member.path, depth + 1)?;
            // last: what was done inside has changed it
            return write_mtime(path, mtime);
        }
        // its times are set before it is shared: they belong to the key
        set_mtime(path, &meta, mtime)?;
        // also when it is the last name: sharing takes the others away from the inode
        if let Some(first) = self.links.get(&(meta.dev(), meta.ino())) {
            member.kind = Kind::HardLink;
            member.target = first.clone();
            // the first of its names has these
            member.xattrs.clear();
            // sharing may have put another inode under the first name
            let first = self.root.join(std::ffi::OsStr::from_bytes(first));
            fs::hard_link(&first, &self.scratch).map_err(io(&first))?;
            fs::rename(&self.scratch, path).map_err(io(path))?;
            let _ = fs::remove_file(&self.scratch);
            return self.own(&write::header(&member));
        }
        if meta.nlink() > 1 {
            self.links
                .insert((meta.dev(), meta.ino()), member.path.clone());
        }
        if kind.is_file() {
            clean_marks(path, false)?;
            member.size = meta.size();
            return self.content(path, member);
        }
        if kind.is_symlink() {
            member.kind = Kind::SymLink;
            member.mode = 0o777;
            let target = fs::read_link(path).map_err(io(path))?;
            member.target = target.as_os_str().as_bytes().to_vec();
        } else if kind.is_fifo() {
            member.kind = Kind::Fifo;
        } else {
            member.kind = match kind.is_char_device() {
                true => Kind::CharDevice,
                false => Kind::BlockDevice,
            };
            member.device = device();
        }
        self.own(&write::header(&member))
    }

    fn content(&mut self, path: &Path, member: Member) -> Result<(), Error> {
        self.own(&write::header(&member))?;
        let mut file = fs::File::open(path).map_err(io(path))?;
        let mut content = Sha256::new();
        let mut buf = vec![0u8; (1 << 18).min(member.size as usize + 1)];
        let mut left = member.size;
        loop {
            let n = file.read(&mut buf).map_err(io(path))?;
            if n == 0 {
                break;
            }
            left = left
                .checked_sub(n as u64)
                .ok_or_else(|| bad(path, "the file grew while it was read"))?;
            self.hash.update(&buf[..n]);
            content.update(&buf[..n]);
        }
        if left > 0 {
            return Err(bad(path, "the file shrank while it was read"));
        }
        if member.size > 0 {
            self.recipe.file(&member.path, member.size)?;
            self.own(&[0u8; 512][..padding(member.size)])?;
            let place = self.files.place(&member, &content.finalize());
            self.files.share(&place, member.size, path, &self.scratch)?;
        }
        Ok(())
    }
}

fn whiteout(inside: &[u8]) -> Member {
    let cut = inside
        .iter()
        .rposition(|b| *b == b'/')
        .map_or(0, |at| at + 1);
    let name = [&inside[..cut], b".wh.", &inside[cut..]].concat();
    Member::new(name, Kind::File)
}

/// Times of layers are whole seconds, as in their tar.
fn set_mtime(path: &Path, meta: &fs::Metadata, mtime: i64) -> Result<(), Error> {
    if meta.mtime() == mtime && meta.mtime_nsec() == 0 {
        return Ok(());
    }
    write_mtime(path, mtime)
}

fn write_mtime(path: &Path, mtime: i64) -> Result<(), Error> {
    let time = Timespec {
        tv_sec: mtime,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| io(path)(e.into()))
}

/// The extended attributes' names, NUL after each.
fn names(path: &Path) -> Result<Vec<u8>, Error> {
    // the kernel's own bound is 64 KiB
    for room in [1 << 10, 1 << 16] {
        let mut list = vec![0u8; room];
        match rustix::fs::llistxattr(path, &mut list[..]) {
            Ok(n) => {
                list.truncate(n);
                return Ok(list);
            }
            Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
            Err(rustix::io::Errno::RANGE) => {}
            Err(e) => return Err(io(path)(e.into())),
        }
    }
    Err(bad(path, "it has too many extended attributes"))
}

/// Attributes that go into layers: capabilities and users'; labels of this machine and overlayfs' marks stay out.
pub(crate) fn travels(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.")
}

pub(crate) fn xattrs(path: &Path) -> Result<Xattrs, Error> {
    let list = names(path)?;
    let mut found = Vec::new();
    for name in list.split(|b| *b == 0).filter(|n| travels(n)) {
        let mut value = vec![0u8; 1 << 16];
        let name_text = std::ffi::OsStr::from_bytes(name);
        let n = rustix::fs::lgetxattr(path, name_text, &mut value[..])
            .map_err(|e| io(path)(e.into()))?;
        value.truncate(n);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

/// Takes off what overlayfs has written for itself; tells whether the folder is opaque (that mark stays).
fn clean_marks(path: &Path, root: bool) -> Result<bool, Error> {
    let list = names(path)?;
    let mut opaque = false;
    for name in list.split(|b| *b == 0) {
        let Some(mark) = name.strip_prefix(b"trusted.overlay.") else {
            continue;
        };
        match mark {
            b"opaque" if !root => {
                let mut value = [0u8; 4];
                let n = rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value[..])
                    .map_err(|e| io(path)(e.into()))?;
                opaque = &value[..n] == b"y";
            }
            b"redirect" | b"metacopy" => {
                return Err(bad(
                    path,
                    "it is only a pointer to a lower layer: mount the overlay with redirect_dir=off,metacopy=off",
                ));
            }
            _ => rustix::fs::lremovexattr(path, std::ffi::OsStr::from_bytes(name))
                .map_err(|e| io(path)(e.into()))?,
        }
    }
    Ok(opaque)
}

/// For a folder on another file system: the same tree under `to`, by `cp -a` of the kernel's own kinds.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    let mut links = HashMap::new();
    copy_into(from, to, &mut links, 0)
}

fn copy_into(
    from: &Path,
    to: &Path,
    links: &mut HashMap<(u64, u64), PathBuf>,
    depth: u32,
) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(bad(from, "folders nest too deep for a layer"));
    }
    let meta = fs::symlink_metadata(from).map_err(io(from))?;
    let kind = meta.file_type();
    if kind.is_socket() {
        return Ok(());
    }
    if !kind.is_dir()
        && meta.nlink() > 1
        && let Some(first) = links.get(&(meta.dev(), meta.ino()))
    {
        return fs::hard_link(first, to).map_err(io(to));
    }
    if kind.is_dir() {
        fs::create_dir(to).map_err(io(to))?;
        for entry in fs::read_dir(from).map_err(io(from))? {
            let entry = entry.map_err(io(from))?;
            copy_into(&entry.path(), &to.join(entry.file_name()), links, depth + 1)?;
        }
    } else if kind.is_file() {
        fs::copy(from, to).map_err(io(from))?;
        links.insert((meta.dev(), meta.ino()), to.to_path_buf());
    } else if kind.is_symlink() {
        let target = fs::read_link(from).map_err(io(from))?;
        std::os::unix::fs::symlink(target, to).map_err(io(to))?;
    } else {
        let file_type = FileType::from_raw_mode(meta.mode());
        rustix::fs::mknodat(CWD, to, file_type, rustix::fs::Mode::empty(), meta.rdev())
            .map_err(|e| io(to)(e.into()))?;
        links.insert((meta.dev(), meta.ino()), to.to_path_buf());
    }
    let (u, g) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    rustix::fs::chownat(CWD, to, Some(u), Some(g), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| io(to)(e.into()))?;
    if !kind.is_symlink() {
        // after the owner: changing that clears setuid
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))
            .map_err(io(to))?;
    }
    for name in names(from)?.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let name = std::ffi::OsStr::from_bytes(name);
        let mut value = vec![0u8; 1 << 16];
        let n =
            rustix::fs::lgetxattr(from, name, &mut value[..]).map_err(|e| io(from)(e.into()))?;
        // labels of the other file system may not be wanted here
        let _ = rustix::fs::lsetxattr(to, name, &value[..n], XattrFlags::empty());
    }
    let time = Timespec {
        tv_sec: meta.mtime(),
        tv_nsec: meta.mtime_nsec(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| io(to)(e.into()))
}
