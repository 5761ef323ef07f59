//! The devices that a container finds in /dev.

use std::{os::fd::OwnedFd, path::Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::{inside::Root, privileges::os_text, spec::ContainerSpec};

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
        .map_err(|e| format!("making the device {name}: {}", os_text(&e.into())))?;
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
