//! The container's file tree, built in its own mount namespace: nothing of it is ever visible on, or left behind on, the host.
//!
//! Every destination is resolved inside the root by the kernel (`openat2` with RESOLVE_IN_ROOT) and mounted on by descriptor, so that symlinks in an image lead nowhere outside.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags},
};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup::Group,
    devices,
    inside::Root,
    privileges::os_text,
    spec::{ContainerSpec, Mount},
    sys::{self, MOUNT_ATTR_RDONLY},
    userns::Mapping,
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
    let root = build(tree, spec, cgroups, None)?;
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
) -> Result<(), String> {
    let root = build(tree, spec, cgroups, Some(mapping))?;
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
) -> Result<Root, String> {
    // taken before propagation is cut, so that rslave and rshared keep their link to the host
    let volumes = spec
        .mounts
        .iter()
        .map(|m| clone_source(m, mapping).map(|fd| (m, fd)))
        .collect::<Result<Vec<_>, String>>()?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .told(|| "making mounts private".into())?;

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

    usual_mounts(&root, tree, spec, cgroups, mapping)?;
    devices::make(&root, spec)?;
    let mut volumes = volumes;
    // SOURCE: containerd internal/cri/opts orderedMounts: parents before children
    volumes.sort_by_key(|(m, _)| m.destination.components().count());
    for (mount, source) in &volumes {
        let is_dir =
            file_type(source).told(|| "reading a mount source".into())? == FileType::Directory;
        let target = root.make(&mount.destination, is_dir)?;
        not_over_proc(&target, mount)?;
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
    Ok(root)
}

/// Nothing is mounted into /proc but the few files that only tell of usage. SOURCE: runc checkProcMount.
fn not_over_proc(target: &OwnedFd, mount: &Mount) -> Result<(), String> {
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
    let harmless = HARMLESS.iter().any(|p| mount.destination == Path::new(p));
    if stat.f_type as u64 == PROC_MAGIC && !harmless {
        return Err(format!(
            "{:?} cannot be mounted because it is inside /proc",
            mount.destination
        ));
    }
    Ok(())
}

/// A place for a file system of the kernel's: a folder of the image itself, as what is mounted there is later found again by its name (CVE-2019-19921). SOURCE: runc mountToRootfs.
fn plain(root: &Root, name: &str) -> Result<(), String> {
    let link = rustix::fs::statat(
        &root.fd,
        name.trim_start_matches('/'),
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
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

/// The layers with their ids mapped, on a file system that goes with the mount namespace: older kernels take only layers that hang somewhere.
fn mapped_layers(
    tree: &Tree,
    spec: &ContainerSpec,
    mapping: &Mapping,
) -> Result<Vec<PathBuf>, String> {
    let told = || "mapping the layers' ids".to_owned();
    let dir = tree.dir.join("lower");
    std::fs::create_dir(&dir).told(told)?;
    rustix::mount::mount("lower", &dir, "tmpfs", MountFlags::NODEV, None).told(told)?;
    let one = |(number, layer): (usize, &PathBuf)| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let told = || format!("the layer {}", layer.display());
        let fd = rustix::mount::open_tree(CWD, layer, flags).told(told)?;
        mapping.apply(&fd, layer)?;
        let at = dir.join(number.to_string());
        std::fs::create_dir(&at).told(told)?;
        let target = open_path(&at).told(told)?;
        move_onto(&fd, &target).told(told)?;
        Ok(at)
    };
    spec.lower.iter().enumerate().map(one).collect()
}

/// The layers are named by descriptor: any number that fits in a page (more than 150), and no character in a path can be mistaken for a separator.
fn mount_overlay(
    tree: &Tree,
    spec: &ContainerSpec,
    mapping: Option<&Mapping>,
) -> Result<(), String> {
    if spec.lower.is_empty() {
        return Err("the container has no image layers: give at least one lower folder".into());
    }
    let layers = match mapping {
        Some(mapping) => {
            let id = Some(mapping.ids.first);
            std::os::unix::fs::chown(tree.dir.join("upper"), id, id)
                .told(|| "giving the root to its owner".into())?;
            mapped_layers(tree, spec, mapping)?
        }
        None => spec.lower.clone(),
    };
    let mut held = Vec::with_capacity(layers.len() + 2);
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
    let lower = layers
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

fn bind_at(
    root: &Root,
    source: &Path,
    path: &Path,
    recursive: bool,
    mapping: Option<&Mapping>,
) -> Result<(), String> {
    let told = || format!("mounting {} to {}", source.display(), path.display());
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(CWD, source, flags).told(told)?;
    if let Some(mapping) = mapping {
        mapping.apply(&tree, source)?;
    }
    let is_dir = file_type(&tree).told(told)? == FileType::Directory;
    let target = root.make(path, is_dir)?;
    move_onto(&tree, &target).told(told)
}

fn usual_mounts(
    root: &Root,
    tree: &Tree,
    spec: &ContainerSpec,
    cgroups: &Group,
    mapping: Option<&Mapping>,
) -> Result<(), String> {
    for name in ["/proc", "/sys", "/dev"] {
        plain(root, name)?;
    }
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let read_only = if spec.privileged {
        MountFlags::empty()
    } else {
        MountFlags::RDONLY
    };
    if mapping.is_some() {
        // comes later: see `enter_mapped`
        root.make(Path::new("/proc"), true)?;
    } else {
        mount_at(root, "/proc", "proc", "proc", strict, None)?;
    }
    let first = mapping.map_or(0, |m| m.ids.first);
    let data = |text: String| std::ffi::CString::new(text).unwrap_or_default();
    mount_at(
        root,
        "/dev",
        "tmpfs",
        "tmpfs",
        MountFlags::NOSUID | MountFlags::STRICTATIME,
        Some(&data(format!(
            "mode=755,size=65536k,uid={first},gid={first}"
        ))),
    )?;
    let tty = first + 5;
    mount_at(
        root,
        "/dev/pts",
        "devpts",
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        Some(&data(format!(
            "newinstance,ptmxmode=0666,mode=0620,gid={tty}"
        ))),
    )?;
    // a kernel without message queues is no reason not to start
    let _ = mount_at(root, "/dev/mqueue", "mqueue", "mqueue", strict, None);
    let shm = if tree.host_ipc {
        Path::new("/dev/shm")
    } else {
        &tree.shm
    };
    bind_at(root, shm, Path::new("/dev/shm"), false, mapping)?;
    if mount_at(root, "/sys", "sysfs", "sysfs", strict | read_only, None).is_err() {
        bind_at(root, Path::new("/sys"), Path::new("/sys"), true, None)?;
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
