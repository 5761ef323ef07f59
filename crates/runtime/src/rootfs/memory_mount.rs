//! File systems in memory that are a container's own.

use std::{io, os::fd::AsRawFd};

use rustix::mount::MountFlags;

use super::{Told, not_over_proc};
use crate::{inside::Root, spec::MemoryMount, userns::Mapping};

/// Flags are the kernel's, the rest is the file system's own to read.
///
/// SOURCE: moby/sys `mount/flags_linux.go`; moby `daemon/oci_linux.go` WithMounts: noexec, nosuid and nodev unless told otherwise
fn read(options: &[String]) -> (MountFlags, Vec<&str>) {
    let mut flags = MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
    let mut data = Vec::new();
    for option in options {
        let (flag, on) = match option.as_str() {
            "exec" => (MountFlags::NOEXEC, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "suid" => (MountFlags::NOSUID, false),
            "nosuid" => (MountFlags::NOSUID, true),
            "dev" => (MountFlags::NODEV, false),
            "nodev" => (MountFlags::NODEV, true),
            "rw" => (MountFlags::RDONLY, false),
            "ro" => (MountFlags::RDONLY, true),
            "atime" => (MountFlags::NOATIME, false),
            "noatime" => (MountFlags::NOATIME, true),
            "diratime" => (MountFlags::NODIRATIME, false),
            "nodiratime" => (MountFlags::NODIRATIME, true),
            "async" => (MountFlags::SYNCHRONOUS, false),
            "sync" => (MountFlags::SYNCHRONOUS, true),
            "norelatime" => (MountFlags::RELATIME, false),
            "relatime" => (MountFlags::RELATIME, true),
            "nostrictatime" => (MountFlags::STRICTATIME, false),
            "strictatime" => (MountFlags::STRICTATIME, true),
            "defaults" => continue,
            other => {
                data.push(other);
                continue;
            }
        };
        flags.set(flag, on);
    }
    (flags, data)
}

/// A folder of the image at its place gives it its mode, unless one is asked for; else it's open to all. SOURCE: runc
/// `rootfs_linux.go`, tmpfs
pub(super) fn place(
    root: &Root,
    mount: &MemoryMount,
    mapping: Option<&Mapping>,
) -> Result<(), String> {
    let at = &mount.destination;
    let told = || format!("mounting tmpfs to {}", at.display());
    let before = root.open(at).ok();
    let target = root.make(at, true)?;
    not_over_proc(root, &target, at)?;
    let (flags, mut data) = read(&mount.options);
    let own = match before {
        Some(folder) if !data.iter().any(|o| o.starts_with("mode=")) => {
            let mode = rustix::fs::fstat(&folder).told(told)?.st_mode & 0o7777;
            format!("mode={mode:o}")
        }
        _ => String::new(),
    };
    data.extend((!own.is_empty()).then_some(own.as_str()));
    let owner = match mapping {
        // its root's, not the machine's
        Some(mapping) if !data.iter().any(|o| o.starts_with("uid=")) => {
            format!("uid={0},gid={0}", mapping.ids.first)
        }
        _ => String::new(),
    };
    data.extend((!owner.is_empty()).then_some(owner.as_str()));
    let data = std::ffi::CString::new(data.join(",")).map_err(io::Error::from);
    let data = data.told(told)?;
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, data.as_c_str()).told(|| {
        format!(
            "mounting tmpfs to {} with {:?}",
            at.display(),
            mount.options.join(",")
        )
    })?;
    Ok(())
}
