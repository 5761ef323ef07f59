//! Folders mounted over each other, for steps that see a whole root.

use std::{
    collections::HashSet,
    fs,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, UnmountFlags},
};

use crate::error::{Error, io};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A mounted root; taken off when dropped. What a killed process leaves is taken off by the next engine.
#[derive(Debug)]
pub(crate) struct Mounted {
    at: PathBuf,
    /// The folder that was made for it, with the upper layer's work folder.
    dir: PathBuf,
    mounted: bool,
}

impl Mounted {
    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// The layers, topmost first, to be read only. One layer needs no mount.
    pub(crate) fn read_only(mounts: &Path, lower: &[PathBuf]) -> Result<Mounted, Error> {
        let dir = fresh(mounts)?;
        match distinct(lower)?.as_slice() {
            [] => Ok(Mounted {
                at: dir.clone(),
                dir,
                mounted: false,
            }),
            [one] if one.is_dir() => Ok(Mounted {
                at: one.clone(),
                dir,
                mounted: false,
            }),
            many => {
                let at = dir.join("root");
                fs::create_dir(&at).map_err(io(&at))?;
                overlay(&at, many, None)?;
                Ok(Mounted {
                    at,
                    dir,
                    mounted: true,
                })
            }
        }
    }

    /// The layers with `upper` on top, which gets what is changed.
    pub(crate) fn writable(
        mounts: &Path,
        lower: &[PathBuf],
        upper: &Path,
    ) -> Result<Mounted, Error> {
        let dir = fresh(mounts)?;
        let (at, empty) = (dir.join("root"), dir.join("empty"));
        // on the upper layer's file system, beside it
        let work = upper.with_extension("work");
        for path in [&at, &empty, &work] {
            fs::create_dir_all(path).map_err(io(path))?;
        }
        let mut lower = distinct(lower)?;
        if lower.is_empty() {
            lower.push(empty);
        }
        overlay(&at, &lower, Some((upper, &work)))?;
        Ok(Mounted {
            at,
            dir,
            mounted: true,
        })
    }

    /// A memory file system of at most so many bytes (0: no limit but the kernel's).
    pub(crate) fn memory(mounts: &Path, bytes: u64) -> Result<Mounted, Error> {
        let dir = fresh(mounts)?;
        let at = dir.join("root");
        fs::create_dir(&at).map_err(io(&at))?;
        let size = match bytes {
            0 => String::new(),
            bytes => format!(",size={bytes}"),
        };
        let data = std::ffi::CString::new(format!("mode=1777{size}")).unwrap_or_default();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("tmpfs", &at, "tmpfs", flags, &*data)
            .map_err(|e| io(&at)(e.into()))?;
        Ok(Mounted {
            at,
            dir,
            mounted: true,
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.mounted {
            let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
        }
        // never into what is still mounted: each is empty by now, or stays for the next engine
        for sub in ["root", "empty", ""] {
            let _ = fs::remove_dir(self.dir.join(sub));
        }
    }
}

fn fresh(mounts: &Path) -> Result<PathBuf, Error> {
    let dir = mounts.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    fs::create_dir(&dir).map_err(io(&dir))?;
    Ok(dir)
}

/// The layers, each once: of one that is there several times (under whatever name: a step's folder may be a link to a layer)
/// only the topmost has an effect, and overlayfs refuses it twice.
fn distinct(lower: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut seen = HashSet::new();
    let mut kept = Vec::with_capacity(lower.len());
    for layer in lower {
        let meta = fs::metadata(layer).map_err(io(layer))?;
        if seen.insert((meta.dev(), meta.ino())) {
            kept.push(layer.clone());
        }
    }
    Ok(kept)
}

/// The layers are named by descriptor, so that any number fits and no character in a path is mistaken for a separator.
fn overlay(at: &Path, lower: &[PathBuf], upper: Option<(&Path, &Path)>) -> Result<(), Error> {
    let mut held = vec![];
    let mut name = |path: &Path| -> Result<String, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| io(path)(e.into()))?;
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        held.push(fd);
        Ok(name)
    };
    let lower = lower
        .iter()
        .map(|l| name(l))
        .collect::<Result<Vec<_>, _>>()?;
    let mut data = format!("lowerdir={}", lower.join(":"));
    if let Some((upper, work)) = upper {
        data += &format!(",upperdir={},workdir={}", name(upper)?, name(work)?);
    }
    let mount = |data: String| {
        let data = std::ffi::CString::new(data).unwrap_or_default();
        rustix::mount::mount("overlay", at, "overlay", MountFlags::empty(), &*data)
    };
    // volatile: what a power cut leaves of a half-made step is thrown away anyway
    let volatile = if upper.is_some() { ",volatile" } else { "" };
    match mount(format!("{data}{volatile}")) {
        Err(rustix::io::Errno::INVAL) if upper.is_some() => mount(data),
        other => other,
    }
    .map_err(|e| io(at)(e.into()))
}
