//! The container's file tree, built in its own mount namespace: nothing of it is ever visible on, or left behind on, the host.
//!
//! Every destination is resolved inside the root by the kernel (`openat2` with RESOLVE_IN_ROOT) and mounted on by descriptor, so that symlinks in an image lead nowhere outside.

mod memory_mount;
mod overlay;
mod usual;

use overlay::mount_overlay;
use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags},
    mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags},
};
use serde::{Deserialize, Serialize};
use usual::usual_mounts;

use crate::{
    cgroup::Group,
    devices,
    inside::Root,
    lean,
    privileges::os_text,
    spec::{ContainerSpec, MemoryMount, Mount},
    sys::{self, MOUNT_ATTR_RDONLY},
    userns::Mapping,
};

/// SOURCE: containerd oci/spec.go defaultMaskedPaths / defaultReadonlyPaths, which kubelet uses too.
const MASKED: [&str; 12] = [
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
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
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
    /// nothing else keeps it from the devices that its files may hold: see `Inner::no_device_lists`
    pub(crate) no_devices: bool,
}

trait Told<T> {
    fn told(self, what: impl FnOnce() -> String) -> Result<T, String>;
}
impl<T, E: Into<io::Error>> Told<T> for Result<T, E> {
    fn told(self, what: impl FnOnce() -> String) -> Result<T, String> {
        self.map_err(|e| format!("{}: {}", what(), os_text(&e.into())))
    }
}

/// Builds the tree in a mount namespace of its own and makes it `/`. Runs with the host's mounts in sight.
pub(crate) fn enter(
    tree: &Tree,
    spec: &ContainerSpec,
    cgroups: &Group,
    lean: Option<&OwnedFd>,
) -> Result<(), String> {
    let root = build(tree, spec, cgroups, None, lean)?;
    rustix::process::fchdir(&root.fd).told(|| "entering the root".into())?;
    pivot()?;
    settle(spec)
}

/// The same for a container with a user namespace of its own, up to the point where that must be entered. The tree is then the working directory, without /proc.
pub(crate) fn build_mapped(
    tree: &Tree,
    spec: &ContainerSpec,
    cgroups: &Group,
    mapping: &Mapping,
    lean: Option<&OwnedFd>,
) -> Result<(), String> {
    let root = build(tree, spec, cgroups, Some(mapping), lean)?;
    rustix::process::fchdir(&root.fd).told(|| "entering the root".into())
}

/// The rest of it, inside the user namespace and a mount namespace that belongs to it: all mounts found there are locked, so the tree is copied, which makes the copy's root a mount of our own.
pub(crate) fn enter_mapped(spec: &ContainerSpec) -> Result<(), String> {
    let told = || "copying the root".to_owned();
    let copy = rustix::mount::open_tree(
        CWD,
        ".",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE,
    )
    .told(told)?;
    let here = open_path(Path::new(".")).told(told)?;
    move_onto(&copy, &here).told(told)?;
    rustix::process::fchdir(&copy).told(told)?;
    // while the host's is still in sight: the kernel gives a new one only to who could see one anyway
    let proc = proc_mount().told(|| "mounting proc to /proc".into())?;
    let root = Root {
        fd: copy,
        owner: None,
    };
    let target = root
        .open(Path::new("/proc"))
        .told(|| "opening /proc".into())?;
    move_onto(&proc, &target).told(|| "mounting proc to /proc".into())?;
    pivot()?;
    settle(spec)
}

/// A proc of our PID namespace that hangs nowhere yet.
fn proc_mount() -> io::Result<OwnedFd> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let context = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    Ok(rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?)
}

fn build(
    tree: &Tree,
    spec: &ContainerSpec,
    cgroups: &Group,
    mapping: Option<&Mapping>,
    lean: Option<&OwnedFd>,
) -> Result<Root, String> {
    // taken with the host's mounts in sight, and before propagation is cut, so that rslave and rshared keep their link to
    // the host
    let volumes = spec
        .mounts
        .iter()
        .map(|m| clone_source(m, mapping).map(|fd| (m, fd)))
        .collect::<Result<Vec<_>, String>>()?;
    let shm = clone_shm(tree, mapping)?;
    let own = [tree.dir.as_path(), spec.writable(&tree.dir)];
    let needed: Vec<&Path> = own
        .into_iter()
        .chain(spec.lower.iter().map(PathBuf::as_path))
        .collect();
    lean::enter(lean, &needed)?;

    mount_overlay(tree, spec, mapping)?;
    let root_path = tree.dir.join("rootfs");
    let root = rustix::fs::open(
        &root_path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .told(|| "opening the root".into())?;
    let root = Root {
        fd: root,
        owner: mapping.map(|m| m.ids.first),
    };

    usual_mounts(&root, &shm, spec, cgroups, mapping)?;
    devices::make(&root, spec)?;
    let mut volumes: Vec<_> = volumes
        .into_iter()
        .map(|(m, fd)| (&m.destination, What::Bound(m, fd)))
        .collect();
    let memory = spec.memory_mounts.iter();
    volumes.extend(memory.map(|m| (&m.destination, What::Memory(m))));
    // SOURCE: containerd internal/cri/opts orderedMounts: parents before children
    volumes.sort_by_key(|(destination, _)| destination.components().count());
    for (_, what) in &volumes {
        match what {
            What::Bound(mount, source) => bound(&root, mount, source)?,
            What::Memory(mount) => memory_mount::place(&root, mount, mapping)?,
        }
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
    Ok(root)
}

/// What is mounted somewhere.
enum What<'a> {
    Bound(&'a Mount, OwnedFd),
    Memory(&'a MemoryMount),
}

fn bound(root: &Root, mount: &Mount, source: &OwnedFd) -> Result<(), String> {
    let is_dir = file_type(source).told(|| "reading a mount source".into())? == FileType::Directory;
    let target = root.make(&mount.destination, is_dir)?;
    not_over_proc(root, &target, &mount.destination)?;
    move_onto(source, &target).told(|| {
        format!(
            "mounting {} to {}",
            mount.source.display(),
            mount.destination.display()
        )
    })
}

/// Nothing is mounted into the container's /proc but the few files that only tell of usage; a process file system that was
/// bound elsewhere (`/:/host`) is like any other folder. SOURCE: runc checkProcMount.
fn not_over_proc(root: &Root, target: &OwnedFd, destination: &Path) -> Result<(), String> {
    const PROC_MAGIC: u64 = 0x9fa0;
    const HARMLESS: [&str; 8] = [
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
    ];
    let stat = rustix::fs::fstatfs(target).told(|| "reading a mount point".into())?;
    let harmless = HARMLESS.iter().any(|p| destination == Path::new(p));
    if stat.f_type as u64 != PROC_MAGIC || harmless {
        return Ok(());
    }
    let mount_of = |fd: &OwnedFd, path: &str| {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let told = rustix::fs::statx(fd, path, flags, StatxFlags::MNT_ID).ok()?;
        let known = told.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        known.then_some(told.stx_mnt_id)
    };
    // Links of the image may lead here by any name, so it is the mount that counts.
    let (own, there) = (mount_of(&root.fd, "proc"), mount_of(target, ""));
    if own.is_none() || own == there {
        return Err(format!(
            "{destination:?} cannot be mounted because it is inside /proc"
        ));
    }
    Ok(())
}

/// A place for a file system of the kernel's: a folder of the image itself, as what is mounted there is later found again by its name (CVE-2019-19921). SOURCE: runc mountToRootfs.
fn plain(root: &Root, name: &str) -> Result<(), String> {
    let link = rustix::fs::statat(
        &root.fd,
        name.trim_start_matches('/'),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Symlink);
    if link {
        return Err(format!(
            "{name} in the image is a symbolic link: it must be an ordinary directory"
        ));
    }
    Ok(())
}

/// What is done to the finished tree once it is `/`.
fn settle(spec: &ContainerSpec) -> Result<(), String> {
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

fn clone_source(mount: &Mount, mapping: Option<&Mapping>) -> Result<OwnedFd, String> {
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
    if let Some(mapping) = mapping {
        mapping.apply(&fd, &mount.source)?;
    }
    Ok(fd)
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

/// The sandbox's shared memory, or the host's, hanging nowhere yet.
fn clone_shm(tree: &Tree, mapping: Option<&Mapping>) -> Result<OwnedFd, String> {
    let source = match tree.host_ipc {
        true => Path::new("/dev/shm"),
        false => &tree.shm,
    };
    let told = || format!("mounting {} to /dev/shm", source.display());
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let shm = rustix::mount::open_tree(CWD, source, flags).told(told)?;
    sys::mount_setattr(&shm, 0, libc::MS_PRIVATE, false).told(told)?;
    if let Some(mapping) = mapping {
        mapping.apply(&shm, source)?;
    }
    Ok(shm)
}

/// Makes the working directory `/` and lets go of the host's tree.
fn pivot() -> Result<(), String> {
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
            (_, false) => null_device(flags).told(told)?,
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

/// The null device, and nothing that a volume over /dev may have in its place (CVE-2025-31133).
fn null_device(flags: OpenTreeFlags) -> io::Result<OwnedFd> {
    let tree =
        rustix::mount::open_tree(CWD, "/dev/null", flags | OpenTreeFlags::AT_SYMLINK_NOFOLLOW)?;
    let stat = rustix::fs::fstat(&tree)?;
    let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !device || stat.st_rdev != rustix::fs::makedev(1, 3) {
        return Err(io::Error::other("/dev/null is not the null device"));
    }
    Ok(tree)
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
