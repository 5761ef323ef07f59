//! The files of an image, or of a container that doesn't run, as its layers make them: read without a mount.

use crate::error::{Fault, Result};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Timespec, Timestamps, Uid};
use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

/// Links followed on one way.
const LINKS_MAX: u32 = 40;
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is at a path.
#[derive(Debug, Clone)]
pub enum Node {
    /// The folders it's made of, topmost first.
    Folder(Vec<PathBuf>),
    /// A file, a link or a device, where it really is.
    Other(PathBuf),
}

impl Node {
    /// The file or folder that its owner, mode and times are taken of.
    pub fn place(&self) -> &Path {
        match self {
            // never empty
            Node::Folder(all) => all
                .first()
                .map_or(Path::new("/nonexistent"), PathBuf::as_path),
            Node::Other(path) => path,
        }
    }
}

fn is_whiteout(meta: &fs::Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

fn is_opaque(folder: &Path) -> bool {
    let mut value = [0u8; 1];
    let got = rustix::fs::lgetxattr(folder, "trusted.overlay.opaque", &mut value[..]);
    matches!(got, Ok(1)) && value[0] == b'y'
}

/// What is called so in a folder made of these.
fn at(folders: &[PathBuf], name: &std::ffi::OsStr) -> Option<Node> {
    let mut found = Vec::new();
    for folder in folders {
        let path = folder.join(name);
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if is_whiteout(&meta) {
            break;
        }
        if !meta.is_dir() {
            match found.is_empty() {
                true => return Some(Node::Other(path)),
                false => break,
            }
        }
        let opaque = is_opaque(&path);
        found.push(path);
        if opaque {
            break;
        }
    }
    (!found.is_empty()).then_some(Node::Folder(found))
}

/// Taken away, or made something else, since its folder was listed.
pub fn has_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let gone = [Errno::NOENT, Errno::NOTDIR, Errno::ISDIR, Errno::LOOP].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|e| gone.contains(&e))
}

/// Opens a file that was one when it was looked at. If what runs has put something else there since, it has gone; a link leads
/// nowhere on the machine.
pub fn open(path: &Path) -> io::Result<fs::File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(rustix::io::Errno::NOENT.into()),
    }
}

/// Where a link leads that was one when it was looked at.
pub fn read_link(path: &Path) -> io::Result<PathBuf> {
    match fs::read_link(path) {
        // it is none any more
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Err(rustix::io::Errno::NOENT.into()),
        read => read,
    }
}

/// All that is in a folder made of these, by name.
pub fn children(folders: &[PathBuf]) -> io::Result<BTreeMap<OsString, Node>> {
    let mut names = BTreeMap::new();
    for folder in folders {
        let entries = match fs::read_dir(folder) {
            Err(e) if has_gone(&e) => continue,
            entries => entries?,
        };
        for entry in entries {
            names.entry(entry?.file_name()).or_insert(());
        }
    }
    let found = names
        .into_keys()
        .filter_map(|name| Some((name.clone(), at(folders, &name)?)));
    Ok(found.collect())
}

/// Layers, topmost first.
pub struct Tree<'a>(pub &'a [PathBuf]);

impl Tree<'_> {
    /// What is at `path`, below the root whatever links say; a link at its end is followed if so wanted. With the path
    /// it really has.
    pub fn find(&self, path: &str, follow: bool) -> Option<(Node, PathBuf)> {
        let mut left: VecDeque<OsString> = parts(Path::new(path));
        let mut way: Vec<(OsString, Node)> = Vec::new();
        let (root, mut links) = (Node::Folder(self.0.to_vec()), 0);
        while let Some(part) = left.pop_front() {
            if part == ".." {
                way.pop();
                continue;
            }
            let here = way.last().map_or(&root, |(_, node)| node);
            let Node::Folder(folders) = here else {
                return None;
            };
            let node = at(folders, &part)?;
            if let Node::Other(path) = &node
                && fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_symlink())
                && (follow || !left.is_empty())
            {
                links += 1;
                if links > LINKS_MAX {
                    return None;
                }
                let target = fs::read_link(path).ok()?;
                if target.has_root() {
                    way.clear();
                }
                for part in parts(&target).into_iter().rev() {
                    left.push_front(part);
                }
                continue;
            }
            way.push((part, node));
        }
        let path = way
            .iter()
            .fold(PathBuf::from("/"), |path, (part, _)| path.join(part));
        let node = way.pop().map_or(root, |(_, node)| node);
        Some((node, path))
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let parts = path.as_os_str().as_bytes().split(|b| *b == b'/');
    let parts = parts.filter(|p| !p.is_empty() && *p != b".");
    parts
        .map(|p| std::ffi::OsStr::from_bytes(p).to_os_string())
        .collect()
}

/// A small text file. Blocking.
pub fn read(layers: &[PathBuf], path: &str) -> Option<String> {
    let (Node::Other(place), _) = Tree(layers).find(path, true)? else {
        return None;
    };
    let meta = fs::symlink_metadata(&place).ok()?;
    if !meta.is_file() || meta.len() > FILE_BYTES_MAX {
        return None;
    }
    String::from_utf8(fs::read(place).ok()?).ok()
}

/// Copies what the layers have in the folder `target` into the folder `to`, with owners, modes and times; nothing when
/// there is no such folder. Blocking.
pub fn copy_out(layers: &[PathBuf], target: &str, to: &Path) -> Result<()> {
    let Some((Node::Folder(folders), _)) = Tree(layers).find(target, true) else {
        return Ok(());
    };
    let failed =
        |e: io::Error| Fault::server(format!("copying the image's {target} into a volume: {e}"));
    copy_folder(&folders, to).map_err(failed)?;
    if let Some(first) = folders.first() {
        like(first, to).map_err(failed)?;
    }
    Ok(())
}

fn copy_folder(folders: &[PathBuf], to: &Path) -> io::Result<()> {
    for (name, node) in children(folders)? {
        let target = to.join(&name);
        match &node {
            Node::Folder(inner) => {
                fs::create_dir(&target)?;
                copy_folder(inner, &target)?;
            }
            Node::Other(path) => copy_one(path, &target)?,
        }
        like(node.place(), &target)?;
    }
    Ok(())
}

fn copy_one(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    let kind = FileType::from_raw_mode(meta.mode());
    match kind {
        FileType::RegularFile => {
            // never through a link that was made of the same name
            io::copy(&mut open(from)?, &mut fs::File::create_new(to)?)?;
        }
        FileType::Symlink => std::os::unix::fs::symlink(read_link(from)?, to)?,
        FileType::Socket => {}
        // what runs has made one of it since its folder was listed
        FileType::Directory => return Err(rustix::io::Errno::ISDIR.into()),
        kind => rustix::fs::mknodat(CWD, to, kind, meta.mode().into(), meta.rdev())?,
    }
    Ok(())
}

/// Gives `to` the owner, mode and time of `from`.
fn like(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    match rustix::fs::chownat(CWD, to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        // a socket, which isn't copied
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        other => other?,
    }
    // one that was a link when it was copied leads elsewhere
    if !meta.file_type().is_symlink() && !fs::symlink_metadata(to)?.is_symlink() {
        fs::set_permissions(to, meta.permissions())?;
    }
    let time = Timespec {
        tv_sec: meta.mtime(),
        tv_nsec: meta.mtime_nsec(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// Copies a layer as it is: what it takes away is taken away in the copy, too. Nothing when it isn't there.
pub fn copy_raw(from: &Path, to: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let copied = match entry.file_type()?.is_dir() {
            true => copy_raw_folder(&path, &target),
            false => copy_one(&path, &target),
        };
        match copied.and_then(|()| like(&path, &target)) {
            // what runs took it away since the folder was listed
            Err(e) if has_gone(&e) => {}
            // or made it anew: some file systems tell of it twice then
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            done => done?,
        }
    }
    Ok(())
}

fn copy_raw_folder(path: &Path, target: &Path) -> io::Result<()> {
    fs::create_dir(target)?;
    copy_raw(path, target)?;
    if is_opaque(path) {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(target, "trusted.overlay.opaque", b"y", flags)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_one_tree_and_links_stay_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let (top, low) = (dir.path().join("top"), dir.path().join("low"));
        for (path, text) in [
            (low.join("etc/passwd"), "low"),
            (low.join("etc/only"), "low"),
            (top.join("etc/passwd"), "top"),
            (top.join("real/file"), "real"),
        ] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        std::os::unix::fs::symlink("/real", top.join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../../etc", top.join("up")).unwrap();
        std::os::unix::fs::symlink("round", top.join("round")).unwrap();
        let layers = [top, low];
        let check = |path: &str, wanted: Option<&str>| {
            assert_eq!(read(&layers, path).as_deref(), wanted, "{path}");
        };
        check("/etc/passwd", Some("top"));
        check("etc/only", Some("low"));
        check("/link/file", Some("real"));
        check("/link/../etc/only", Some("low"));
        check("/up/passwd", Some("top"));
        check("/../../etc/passwd", Some("top"));
        check("/round", None);
        check("/etc", None);
        check("/none", None);
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        copy_out(&layers, "/etc", &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("passwd")).unwrap(), "top");
        assert_eq!(fs::read_to_string(to.join("only")).unwrap(), "low");
    }
}
