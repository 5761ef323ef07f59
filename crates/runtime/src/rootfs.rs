//! The container's file tree, built in its own mount namespace: nothing of it is ever visible on, or left behind on, the host.
//!
//! Every destination is resolved inside the root by the kernel (`openat2` with RESOLVE_IN_ROOT) and mounted on by descriptor, so that symlinks in an image lead nowhere outside.

use std::{
    collections::VecDeque,
    ffi::{CStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags},
    mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags},
};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup::Group,
    privileges::os_text,
    spec::{ContainerSpec, Mount},
    sys::{self, MOUNT_ATTR_RDONLY},
};

/// SOURCE: containerd oci/spec.go defaultMaskedPaths / defaultReadonlyPaths, which kubelet uses too.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// What of the sandbox a container's tree needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tree {
    /// the container's state folder, with `rootfs`, `upper` and `work` in it
    pub(crate) dir: PathBuf,
    pub(crate) shm: PathBuf,
    /// the container has the host's network namespace, hence no right to mount a sysfs of its own
    pub(crate) host_network: bool,
    pub(crate) host_ipc: bool,
}

trait Told<T> {
    fn told(self, what: impl FnOnce() -> String) -> Result<T, String>;
}
impl<T, E: Into<io::Error>> Told<T> for Result<T, E> {
    fn told(self, what: impl FnOnce() -> String) -> Result<T, String> {
        self.map_err(|e| format!("{}: {}", what(), os_text(&e.into())))
    }
}

/// Builds the tree and makes it `/`. Runs in a mount namespace of its own that is still a copy of the host's.
pub(crate) fn enter(tree: &Tree, spec: &ContainerSpec, cgroups: &Group) -> Result<(), String> {
    // taken before propagation is cut, so that rslave and rshared keep their link to the host
    let volumes = spec
        .mounts
        .iter()
        .map(|m| clone_source(m).map(|fd| (m, fd)))
        .collect::<Result<Vec<_>, String>>()?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .told(|| "making mounts private".into())?;

    mount_overlay(tree, spec)?;
    let root_path = tree.dir.join("rootfs");
    let root = rustix::fs::open(
        &root_path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .told(|| "opening the root".into())?;
    let root = Root { fd: root };

    usual_mounts(&root, tree, spec, cgroups)?;
    devices(&root, spec)?;
    let mut volumes = volumes;
    // SOURCE: containerd internal/cri/opts orderedMounts: parents before children
    volumes.sort_by_key(|(m, _)| m.destination.components().count());
    for (mount, source) in &volumes {
        let is_dir =
            file_type(source).told(|| "reading a mount source".into())? == FileType::Directory;
        let target = root.make(&mount.destination, is_dir)?;
        move_onto(source, &target).told(|| {
            format!(
                "mounting {} to {}",
                mount.source.display(),
                mount.destination.display()
            )
        })?;
    }
    if spec.cwd.is_absolute() {
        // SOURCE: runc prepareRootfs makes the working directory
        root.make(&spec.cwd, true)?;
    }
    let console = spec
        .tty
        .then(|| root.make(Path::new("/dev/console"), false))
        .transpose()?;
    drop(console);

    pivot(&root)?;
    restrict(spec)?;
    if spec.read_only_rootfs {
        let slash = open_path(Path::new("/")).told(|| "opening /".into())?;
        sys::mount_setattr(&slash, MOUNT_ATTR_RDONLY, 0, false)
            .told(|| "making the root read-only".into())?;
    }
    Ok(())
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(Into::into)
}

fn file_type(fd: &OwnedFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

fn clone_source(mount: &Mount) -> Result<OwnedFd, String> {
    let fd = rustix::mount::open_tree(
        CWD,
        &mount.source,
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE,
    )
    .told(|| format!("the mount source {}", mount.source.display()))?;
    let propagation = match mount.propagation.as_str() {
        "rshared" => 0,
        "rslave" => libc::MS_SLAVE,
        _ => libc::MS_PRIVATE,
    };
    if propagation != 0 {
        sys::mount_setattr(&fd, 0, propagation, true)
            .told(|| format!("setting the propagation of {}", mount.source.display()))?;
    }
    if mount.read_only {
        sys::mount_setattr(&fd, MOUNT_ATTR_RDONLY, 0, mount.recursive_read_only)
            .told(|| format!("making {} read-only", mount.source.display()))?;
    }
    Ok(fd)
}

/// The layers are named by descriptor: any number that fits in a page (more than 150), and no character in a path can be mistaken for a separator.
fn mount_overlay(tree: &Tree, spec: &ContainerSpec) -> Result<(), String> {
    if spec.lower.is_empty() {
        return Err("the container has no image layers: give at least one lower folder".into());
    }
    let mut held = Vec::with_capacity(spec.lower.len() + 2);
    let mut name = |path: &Path| -> Result<String, String> {
        let fd = rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .told(|| format!("the layer {}", path.display()))?;
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        held.push(fd);
        Ok(name)
    };
    let lower = spec
        .lower
        .iter()
        .map(|p| name(p))
        .collect::<Result<Vec<_>, _>>()?
        .join(":");
    let upper = name(&tree.dir.join("upper"))?;
    let work = name(&tree.dir.join("work"))?;
    let target = tree.dir.join("rootfs");
    let base = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let mount = |data: String| -> io::Result<()> {
        let data = std::ffi::CString::new(data)?;
        rustix::mount::mount("overlay", &target, "overlay", MountFlags::NODEV, &*data)?;
        Ok(())
    };
    // volatile: nothing of the upper layer outlives a power cut anyway, so sync may be skipped
    match mount(format!("{base},volatile")) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => mount(base.clone()),
        other => other,
    }
    .map_err(|e| {
        let hint = if e.raw_os_error() == Some(libc::EINVAL) {
            format!(
                " (the file system of {} may not be fit for overlay upper layers: put the data directory on ext4, xfs, btrfs or tmpfs)",
                tree.dir.display()
            )
        } else {
            String::new()
        };
        format!("mounting the root from {} layers: {}{hint}", spec.lower.len(), os_text(&e))
    })
}

/// The new root, seen from outside.
struct Root {
    fd: OwnedFd,
}

impl Root {
    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let inside = path.strip_prefix("/").unwrap_or(path);
        let inside = if inside.as_os_str().is_empty() {
            Path::new(".")
        } else {
            inside
        };
        // the kernel gives EAGAIN when anything on the machine is mounted or renamed while it walks over `..`
        let mut left = 10_000;
        loop {
            let opened = rustix::fs::openat2(
                &self.fd,
                inside,
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            );
            match opened {
                Err(rustix::io::Errno::AGAIN) if left > 0 => left -= 1,
                other => return other.map_err(Into::into),
            }
        }
    }

    /// Opens a path, making what is missing of it: folders, and at the end a folder or an empty file. Symlinks are followed as inside the container, dangling ones to where they would lead.
    fn make(&self, path: &Path, folder: bool) -> Result<OwnedFd, String> {
        let told = |e: io::Error| {
            format!(
                "making {} in the container: {}",
                path.display(),
                os_text(&e)
            )
        };
        match self.open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let made = self.make_missing(path, folder).map_err(told)?;
                self.open(&made).map_err(told)
            }
            other => other.map_err(told),
        }
    }

    /// The path without symlinks, all of it there.
    fn make_missing(&self, path: &Path, folder: bool) -> io::Result<PathBuf> {
        const SYMLINKS_MAX: u32 = 40;
        let mut left: VecDeque<OsString> = parts(path).collect();
        let mut at = PathBuf::from("/");
        let mut symlinks = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let parent = self.open(&at)?;
            let child = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW);
            match child.map(|s| FileType::from_raw_mode(s.st_mode)) {
                Ok(FileType::Symlink) => {
                    symlinks += 1;
                    if symlinks > SYMLINKS_MAX {
                        return Err(rustix::io::Errno::LOOP.into());
                    }
                    let target = rustix::fs::readlinkat(&parent, &name, Vec::new())?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                        left.push_front(part);
                    }
                    continue;
                }
                Ok(_) => {}
                Err(rustix::io::Errno::NOENT) if left.is_empty() && !folder => {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    rustix::fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o644))?;
                }
                Err(rustix::io::Errno::NOENT) => {
                    rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755))?;
                }
                Err(e) => return Err(e.into()),
            }
            at.push(name);
        }
        Ok(at)
    }
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

fn move_onto(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    rustix::mount::move_mount(
        source,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
    .map_err(Into::into)
}

fn mount_at(
    root: &Root,
    path: &str,
    source: &str,
    kind: &str,
    flags: MountFlags,
    data: Option<&CStr>,
) -> Result<(), String> {
    let target = root.make(Path::new(path), true)?;
    rustix::mount::mount(
        source,
        format!("/proc/self/fd/{}", target.as_raw_fd()),
        kind,
        flags,
        data,
    )
    .told(|| format!("mounting {kind} to {path}"))
}

fn bind_at(root: &Root, source: &Path, path: &Path, recursive: bool) -> Result<(), String> {
    let told = || format!("mounting {} to {}", source.display(), path.display());
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(CWD, source, flags).told(told)?;
    let is_dir = file_type(&tree).told(told)? == FileType::Directory;
    let target = root.make(path, is_dir)?;
    move_onto(&tree, &target).told(told)
}

fn usual_mounts(
    root: &Root,
    tree: &Tree,
    spec: &ContainerSpec,
    cgroups: &Group,
) -> Result<(), String> {
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let read_only = if spec.privileged {
        MountFlags::empty()
    } else {
        MountFlags::RDONLY
    };
    mount_at(root, "/proc", "proc", "proc", strict, None)?;
    mount_at(
        root,
        "/dev",
        "tmpfs",
        "tmpfs",
        MountFlags::NOSUID | MountFlags::STRICTATIME,
        Some(c"mode=755,size=65536k"),
    )?;
    mount_at(
        root,
        "/dev/pts",
        "devpts",
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        Some(c"newinstance,ptmxmode=0666,mode=0620,gid=5"),
    )?;
    // a kernel without message queues is no reason not to start
    let _ = mount_at(root, "/dev/mqueue", "mqueue", "mqueue", strict, None);
    let shm = if tree.host_ipc {
        Path::new("/dev/shm")
    } else {
        &tree.shm
    };
    bind_at(root, shm, Path::new("/dev/shm"), false)?;
    if mount_at(root, "/sys", "sysfs", "sysfs", strict | read_only, None).is_err() {
        bind_at(root, Path::new("/sys"), Path::new("/sys"), true)?;
        let sys_fd = root
            .open(Path::new("/sys"))
            .told(|| "opening /sys".into())?;
        sys::mount_setattr(&sys_fd, MOUNT_ATTR_RDONLY, 0, true)
            .told(|| "making /sys read-only".into())?;
        return Ok(());
    }
    cgroup_mounts(root, cgroups, strict | read_only)
}

/// The container's own part of each hierarchy: it has a cgroup namespace.
fn cgroup_mounts(root: &Root, cgroups: &Group, flags: MountFlags) -> Result<(), String> {
    let base = "/sys/fs/cgroup";
    if cgroups.v2 {
        return mount_at(root, base, "cgroup", "cgroup2", flags, None);
    }
    mount_at(
        root,
        base,
        "tmpfs",
        "tmpfs",
        flags - MountFlags::RDONLY,
        Some(c"mode=755,size=64k"),
    )?;
    for leaf in &cgroups.leaves {
        let name = leaf.controllers.join(",");
        let data = std::ffi::CString::new(name.clone()).unwrap_or_default();
        mount_at(
            root,
            &format!("{base}/{name}"),
            "cgroup",
            "cgroup",
            flags,
            Some(&data),
        )?;
    }
    if flags.contains(MountFlags::RDONLY) {
        let fd = root
            .open(Path::new(base))
            .told(|| format!("opening {base}"))?;
        sys::mount_setattr(&fd, MOUNT_ATTR_RDONLY, 0, false)
            .told(|| format!("making {base} read-only"))?;
    }
    Ok(())
}

fn devices(root: &Root, spec: &ContainerSpec) -> Result<(), String> {
    let dev = root
        .open(Path::new("/dev"))
        .told(|| "opening /dev".into())?;
    // nodes get exactly the modes given
    rustix::process::umask(Mode::empty());
    for (name, major, minor) in DEVICES {
        rustix::fs::mknodat(
            &dev,
            name,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            rustix::fs::makedev(major, minor),
        )
        .told(|| format!("making the device {name}"))?;
    }
    for (target, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("/proc/kcore", "core"),
        ("pts/ptmx", "ptmx"),
    ] {
        rustix::fs::symlinkat(target, &dev, name).told(|| format!("making /dev/{name}"))?;
    }
    if spec.privileged {
        host_devices(Path::new("/dev"), &dev, 0);
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// A privileged container sees every device of the host. SOURCE: containerd oci.WithHostDevices.
fn host_devices(from: &Path, to: &OwnedFd, depth: u32) {
    const SKIP: [&str; 9] = [
        "pts",
        "shm",
        "fd",
        "mqueue",
        "console",
        "ptmx",
        ".lxc",
        ".lxd-mounts",
        ".udev",
    ];
    let Ok(entries) = std::fs::read_dir(from) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if depth > 4 || SKIP.iter().any(|s| name == *s) {
            continue;
        }
        let Ok(stat) = rustix::fs::lstat(entry.path()) else {
            continue;
        };
        // a node that can't be made (present already, vanished) is no reason not to start
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                if rustix::fs::mkdirat(to, &name, Mode::from_raw_mode(0o755)).is_ok()
                    && let Ok(child) = rustix::fs::openat(
                        to,
                        &name,
                        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                        Mode::empty(),
                    )
                {
                    host_devices(&entry.path(), &child, depth + 1);
                }
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                if rustix::fs::mknodat(to, &name, kind, mode, stat.st_rdev).is_ok() {
                    let _ = rustix::fs::chownat(
                        to,
                        &name,
                        Some(rustix::fs::Uid::from_raw(stat.st_uid)),
                        Some(rustix::fs::Gid::from_raw(stat.st_gid)),
                        AtFlags::SYMLINK_NOFOLLOW,
                    );
                }
            }
            _ => {}
        }
    }
}

/// Makes the tree `/` and lets go of the host's.
fn pivot(root: &Root) -> Result<(), String> {
    rustix::process::fchdir(&root.fd).told(|| "entering the root".into())?;
    rustix::process::pivot_root(".", ".").told(|| "changing the root".into())?;
    // the old root now lies over the new one: take it off
    rustix::mount::unmount(".", UnmountFlags::DETACH).told(|| "leaving the old root".into())?;
    rustix::process::chdir("/").told(|| "entering the new root".into())
}

/// Masked and read-only paths; runs inside.
fn restrict(spec: &ContainerSpec) -> Result<(), String> {
    let list = |given: &Option<Vec<PathBuf>>, usual: &[&str]| -> Vec<PathBuf> {
        match given {
            Some(paths) => paths.clone(),
            None if spec.privileged => Vec::new(),
            None => usual.iter().map(PathBuf::from).collect(),
        }
    };
    for path in list(&spec.readonly_paths, &READ_ONLY) {
        let told = || format!("making {} read-only", path.display());
        let tree = match rustix::mount::open_tree(
            CWD,
            &path,
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE,
        ) {
            Err(rustix::io::Errno::NOENT) => continue,
            other => other.told(told)?,
        };
        sys::mount_setattr(&tree, MOUNT_ATTR_RDONLY, 0, true).told(told)?;
        let target = open_path(&path).told(told)?;
        move_onto(&tree, &target).told(told)?;
    }
    // one empty folder covers all: mounted where the first is, cloned from there
    let mut cover: Option<PathBuf> = None;
    for path in list(&spec.masked_paths, &MASKED) {
        let told = || format!("masking {}", path.display());
        let target = match open_path(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.told(told)?,
        };
        let is_dir = file_type(&target).told(told)? == FileType::Directory;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = match (&cover, is_dir) {
            (_, false) => rustix::mount::open_tree(CWD, "/dev/null", flags).told(told)?,
            (Some(at), true) => rustix::mount::open_tree(CWD, at, flags).told(told)?,
            (None, true) => {
                cover = Some(path.clone());
                empty_folder().told(told)?
            }
        };
        move_onto(&tree, &target).told(told)?;
    }
    Ok(())
}

/// A read-only tmpfs that hangs nowhere yet.
fn empty_folder() -> io::Result<OwnedFd> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    Ok(rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV,
    )?)
}
