//! The devices that a container finds in /dev.

use std::{os::fd::OwnedFd, path::Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::{
    inside::Root,
    privileges::os_text,
    spec::{ContainerSpec, Device},
};

const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// The usual nodes and links in /dev; all of the host's for a privileged container.
pub(crate) fn make(root: &Root, spec: &ContainerSpec) -> Result<(), String> {
    let dev = root
        .open(Path::new("/dev"))
        .map_err(|e| format!("opening /dev: {}", os_text(&e)))?;
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
        .and_then(|()| give(&dev, name, root.owner))
        .map_err(|e| format!("making the device {name}: {}", os_text(&e.into())))?;
    }
    for device in &spec.devices {
        extra(root, device)?;
    }
    for (target, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("/proc/kcore", "core"),
        ("pts/ptmx", "ptmx"),
    ] {
        rustix::fs::symlinkat(target, &dev, name)
            .map_err(|e| format!("making /dev/{name}: {}", os_text(&e.into())))?;
    }
    if spec.privileged {
        host_devices(Path::new("/dev"), &dev, 0);
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

fn give(dir: &OwnedFd, name: &str, owner: Option<u32>) -> rustix::io::Result<()> {
    let Some(id) = owner else { return Ok(()) };
    rustix::fs::chownat(
        dir,
        name,
        Some(rustix::fs::Uid::from_raw(id)),
        Some(rustix::fs::Gid::from_raw(id)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

/// One more node; what is in its place already goes.
fn extra(root: &Root, device: &Device) -> Result<(), String> {
    let told = |e: std::io::Error| {
        format!(
            "making the device {}: {}",
            device.path.display(),
            os_text(&e)
        )
    };
    let (Some(parent), Some(name)) = (
        device.path.parent(),
        device.path.file_name().and_then(|n| n.to_str()),
    ) else {
        return Err(told(std::io::ErrorKind::InvalidInput.into()));
    };
    let dir = root.make(parent, true)?;
    let kind = if device.block {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    let _ = rustix::fs::unlinkat(&dir, name, AtFlags::empty());
    rustix::fs::mknodat(
        &dir,
        name,
        kind,
        Mode::from_raw_mode(device.mode),
        rustix::fs::makedev(device.major, device.minor),
    )
    .and_then(|()| give(&dir, name, root.owner))
    .map_err(|e| told(e.into()))
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
