//! A container's files, whether it runs or not.

use super::{
    into::{Rules, unpack_into},
    opened,
    out::{self, Tar},
};
use crate::{
    containers::Entry,
    daemon::Daemon,
    error::{Fault, Result},
    images::files::{Node, Tree},
    lifecycle,
};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use std::{
    fs, io,
    io::Read,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// The most that is read of a container's list of users.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// Where a container's files are found.
pub enum Place {
    /// The root of a process in it.
    Running(OwnedFd),
    /// Its layers, topmost first; the first is its own. With what is mounted in it.
    Stopped {
        layers: Vec<PathBuf>,
        mounts: Vec<(String, PathBuf)>,
    },
}

/// A path that is there.
pub struct Found {
    pub meta: fs::Metadata,
    pub link: String,
    what: What,
}

enum What {
    Open(OwnedFd),
    Node(Node, PathBuf),
}

/// What is at a path below an open folder, whatever links say.
fn open_in(root: &OwnedFd, path: &str, follow: bool) -> Option<Found> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    let path = path.trim_end_matches('/');
    let path = if path.is_empty() { "." } else { path };
    let fd = rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
    found(fd)
}

fn found(fd: OwnedFd) -> Option<Found> {
    let file = fs::File::from(fd);
    let meta = file.metadata().ok()?;
    let fd = OwnedFd::from(file);
    let link = match meta.file_type().is_symlink() {
        true => rustix::fs::readlinkat(&fd, "", Vec::new())
            .ok()?
            .to_string_lossy()
            .into_owned(),
        false => String::new(),
    };
    Some(Found {
        meta,
        link,
        what: What::Open(fd),
    })
}

impl Place {
    pub fn of(daemon: &Arc<Daemon>, entry: &Entry) -> Result<Place> {
        let pid = match lifecycle::active(entry.state().status) {
            true => daemon.machine.pid(&daemon.pod_name(entry)),
            false => None,
        };
        if let Some(pid) = pid {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty());
            if let Ok(root) = root {
                return Ok(Place::Running(root));
            }
        }
        let image = daemon.images.resolve(&entry.record.image_name)?;
        let image = image
            .ok_or_else(|| Fault::not_found(format!("No such image: {}", entry.record.image)))?;
        let upper = daemon.machine.layer(crate::NAMESPACE, &entry.record.id);
        // Not started yet: what is copied in is its first.
        fs::create_dir_all(&upper)?;
        let mut layers = vec![upper];
        layers.extend(image.layers);
        let mounts = entry.record.mounts.iter().filter(|m| !m.source.is_empty());
        let mounts = mounts
            .map(|m| (m.target.clone(), PathBuf::from(&m.source)))
            .collect();
        Ok(Place::Stopped { layers, mounts })
    }

    /// What is at a path; a link at its end is followed if so wanted.
    pub fn find(&self, path: &str, follow: bool) -> Option<Found> {
        match self {
            Place::Running(root) => open_in(root, path, follow),
            Place::Stopped { layers, mounts } => {
                let clean = crate::create::mounts::clean(path);
                let mounted = mounts.iter().filter_map(|(target, source)| {
                    let rest = clean.strip_prefix(target.as_str())?;
                    (rest.is_empty() || rest.starts_with('/'))
                        .then(|| (target.len(), source, rest.to_string()))
                });
                if let Some((_, source, rest)) = mounted.max_by_key(|(length, ..)| *length) {
                    return in_mount(source, &rest, follow);
                }
                let (node, real) = Tree(layers).find(&clean, follow)?;
                let meta = fs::symlink_metadata(node.place()).ok()?;
                let link = match meta.file_type().is_symlink() {
                    true => fs::read_link(node.place())
                        .ok()?
                        .to_string_lossy()
                        .into_owned(),
                    false => String::new(),
                };
                Some(Found {
                    meta,
                    link,
                    what: What::Node(node, real),
                })
            }
        }
    }

    /// A small text file; none where there is none.
    pub fn read(&self, path: &str) -> Option<String> {
        let found = self.find(path, true).filter(|f| f.meta.is_file())?;
        let file = match &found.what {
            What::Open(fd) => fs::File::open(opened::by_descriptor(fd)),
            What::Node(node, _) => fs::File::open(node.place()),
        };
        let mut text = String::new();
        let read = file.ok()?.take(TEXT_BYTES_MAX).read_to_string(&mut text);
        read.ok().map(|_| text)
    }

    pub fn write(&self, tar: &mut Tar<'_>, found: &Found, name: &str) -> io::Result<()> {
        let name = Path::new(name);
        match &found.what {
            What::Open(fd) => opened::append(tar, fd, &found.meta, name),
            What::Node(node, _) => out::append_node(tar, node, name),
        }
    }

    /// Writes an archive's entries below a folder of the container.
    pub fn unpack(&self, archive: impl Read, found: &Found, rules: &Rules) -> Result<()> {
        match (&found.what, self) {
            (What::Open(fd), _) => unpack_into(archive, fd, rules),
            (What::Node(_, real), Place::Stopped { layers, .. }) => {
                let Some((upper, lower)) = layers.split_first() else {
                    return Err(Fault::server("the container has no layer of its own"));
                };
                let folder = lift(upper, lower, real)?;
                let fd = rustix::fs::open(
                    folder,
                    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                    Mode::empty(),
                );
                unpack_into(archive, &fd.map_err(io::Error::from)?, rules)
            }
            _ => Err(Fault::server(
                "the container has changed its state meanwhile",
            )),
        }
    }
}

/// A path in a volume, below its root whatever links say.
fn in_mount(source: &Path, rest: &str, follow: bool) -> Option<Found> {
    let rest = rest.trim_matches('/');
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(source, flags, Mode::empty()).ok()?;
    match rest {
        "" => found(root),
        _ => open_in(&root, rest, follow),
    }
}

/// Makes a folder of the layers below one of the container's own layer, as the kernel does on the first write.
fn lift(upper: &Path, lower: &[PathBuf], real: &Path) -> Result<PathBuf> {
    let mut at = upper.to_path_buf();
    let mut inside = PathBuf::from("/");
    for part in real.components() {
        let Component::Normal(part) = part else {
            continue;
        };
        at.push(part);
        inside.push(part);
        if at.is_dir() {
            continue;
        }
        fs::create_dir(&at)?;
        if let Some((node, _)) = Tree(lower).find(&inside.to_string_lossy(), false) {
            let meta = fs::symlink_metadata(node.place())?;
            rustix::fs::chownat(
                CWD,
                &at,
                Some(Uid::from_raw(meta.uid())),
                Some(Gid::from_raw(meta.gid())),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(io::Error::from)?;
            fs::set_permissions(&at, meta.permissions())?;
        }
    }
    Ok(at)
}
