//! What every container has: `/proc`, `/sys`, `/dev`, and its cgroups.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::CWD,
    mount::{MountFlags, OpenTreeFlags},
};

use super::{Told, mount_at, move_onto, plain};
use crate::{
    cgroup::Group,
    inside::Root,
    spec::ContainerSpec,
    sys::{self, MOUNT_ATTR_RDONLY},
    userns::Mapping,
};

/// The host's, for who has no right to mount one.
fn bind_sys(root: &Root) -> Result<(), String> {
    let told = || "mounting /sys to /sys".to_owned();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, "/sys", flags).told(told)?;
    let target = root.make(Path::new("/sys"), true)?;
    move_onto(&tree, &target).told(told)
}

pub(super) fn usual_mounts(
    root: &Root,
    shm: &OwnedFd,
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
    if !spec.no_shm {
        let place = root.make(Path::new("/dev/shm"), true)?;
        move_onto(shm, &place).told(|| "mounting /dev/shm".into())?;
    }
    if mount_at(root, "/sys", "sysfs", "sysfs", strict | read_only, None).is_err() {
        bind_sys(root)?;
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
    // the v2 tree of a hybrid machine stays outside, as with runc
    for leaf in cgroups.leaves.iter().filter(|l| !l.v2) {
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
