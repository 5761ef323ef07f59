//! Local PersistentVolumes: a folder, or a block device with or without a file system. Blocking.
//!
//! Source: kubernetes `pkg/volume/local/local.go`, `k8s.io/mount-utils`.

use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use k8s_openapi::api::core::v1::LocalVolumeSource;
use parking_lot::Mutex;

use super::{Source, mounts, ownership::Group};

/// Where the file systems of devices are mounted, for all their Pods.
fn mounted_at(kubelet_dir: &Path, volume: &str) -> PathBuf {
    kubelet_dir
        .join("plugins/kubernetes.io/local-volume/mounts")
        .join(volume)
}

/// One at a time: a device must not be unmounted while the next Pod comes for it.
static DEVICES: Mutex<()> = Mutex::new(());

/// A file per Pod that has the device's file system.
fn users(kubelet_dir: &Path, volume: &str) -> PathBuf {
    kubelet_dir
        .join("plugins/kubernetes.io/local-volume/users")
        .join(volume)
}

/// A local volume's use by a Pod.
pub(crate) struct Wanted<'a> {
    pub kubelet_dir: &'a Path,
    pub uid: &'a str,
    /// the PersistentVolume's name
    pub volume: &'a str,
    pub source: &'a LocalVolumeSource,
    pub block: bool,
    pub read_only: bool,
    pub options: &'a [String],
    pub group: Option<Group>,
}

/// Finds the folder or device; a device's file system is made, if there's none, and mounted.
///
/// # Errors
/// In upstream's words.
pub(crate) fn set_up(wanted: &Wanted<'_>) -> Result<Source, String> {
    let Wanted {
        source,
        block,
        read_only,
        ..
    } = *wanted;
    let path = PathBuf::from(&source.path);
    if path
        .components()
        .any(|c| c == std::path::Component::ParentDir)
    {
        return Err(format!(
            "invalid path: {} must not contain '..'",
            source.path
        ));
    }
    let meta = fs::metadata(&path).map_err(|_| format!("path {:?} does not exist", source.path))?;
    let device = meta.file_type().is_block_device();
    if block {
        if !device {
            return Err(format!(
                "blkUtil.AttachFileDevice failed. globalMapPath: {} is no block device",
                source.path
            ));
        }
        return Ok(Source {
            path,
            read_only,
            device: true,
        });
    }
    let path = match (device, meta.is_dir()) {
        (true, _) => {
            let dir = mounted_at(wanted.kubelet_dir, wanted.volume);
            let users = users(wanted.kubelet_dir, wanted.volume);
            let kind = file_system(source);
            let _one = DEVICES.lock();
            fs::create_dir_all(&users)
                .and_then(|()| fs::write(users.join(wanted.uid), ""))
                .map_err(|e| format!("{}: {e}", users.display()))?;
            mount_device(&path, &dir, kind, read_only, wanted.options)?;
            dir
        }
        // the folder itself, not a link to it, is what gets the group
        (_, true) => fs::canonicalize(&path).map_err(|e| format!("{}: {e}", path.display()))?,
        _ => return Err("only directory and block device are supported".into()),
    };
    if let Some(group) = wanted.group.filter(|_| !read_only) {
        group.own(&path, false).map_err(|e| e.to_string())?;
    }
    Ok(Source {
        path,
        read_only,
        device: false,
    })
}

/// What a blank device gets; an empty name is none.
fn file_system(source: &LocalVolumeSource) -> &str {
    match source.fs_type.as_deref() {
        None | Some("") => "ext4",
        Some(kind) => kind,
    }
}

/// Grows the file system of a device to the device's size; a folder has none.
///
/// # Errors
/// What the tool said.
pub(crate) fn grow(
    kubelet_dir: &Path,
    volume: &str,
    source: &LocalVolumeSource,
) -> Result<(), String> {
    let device = Path::new(&source.path);
    let meta = fs::metadata(device).map_err(|e| format!("{}: {e}", device.display()))?;
    if !meta.file_type().is_block_device() {
        return Ok(());
    }
    match file_system(source) {
        kind if kind.starts_with("ext") => run(Command::new("resize2fs").arg(device)),
        "xfs" => run(Command::new("xfs_growfs").arg(mounted_at(kubelet_dir, volume))),
        "btrfs" => {
            let dir = mounted_at(kubelet_dir, volume);
            run(Command::new("btrfs")
                .args(["filesystem", "resize", "max"])
                .arg(dir))
        }
        other => Err(format!("resize of format {other} is not supported")),
    }
}

/// Lets go of the devices that a Pod has; the last one's file system is unmounted.
///
/// # Errors
/// When something still uses it.
pub(crate) fn tear_down(kubelet_dir: &Path, uid: &str) -> Result<(), String> {
    let _one = DEVICES.lock();
    for entry in fs::read_dir(users(kubelet_dir, ""))
        .into_iter()
        .flatten()
        .flatten()
    {
        let mark = entry.path().join(uid);
        if !mark.exists() {
            continue;
        }
        let Ok(volume) = entry.file_name().into_string() else {
            continue;
        };
        let failed =
            |e: &dyn std::fmt::Display| format!("UnmountDevice failed for volume {volume:?} : {e}");
        let others = fs::read_dir(entry.path()).map_err(|e| failed(&e))?.count() > 1;
        if !others {
            let dir = mounted_at(kubelet_dir, &volume);
            if mounts::is_mount_point(&dir) {
                nix::mount::umount2(&dir, nix::mount::MntFlags::UMOUNT_NOFOLLOW)
                    .map_err(|e| failed(&e))?;
            }
            let _ = fs::remove_dir(&dir);
        }
        fs::remove_file(&mark).map_err(|e| failed(&e))?;
        let _ = fs::remove_dir(entry.path());
    }
    Ok(())
}

/// Mounts the device's file system on `dir`; one without any content gets a new one first.
fn mount_device(
    device: &Path,
    dir: &Path,
    kind: &str,
    read_only: bool,
    options: &[String],
) -> Result<(), String> {
    let failed = |e: String| {
        format!(
            "local: failed to mount device {} at {} (fstype: {kind}), error {e}",
            device.display(),
            dir.display()
        )
    };
    if mounts::is_mount_point(dir) {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(|e| failed(e.to_string()))?;
    if !read_only && is_blank(device).map_err(failed)? {
        let mut make = Command::new(format!("mkfs.{kind}"));
        if kind.starts_with("ext") {
            make.args(["-F", "-m0"]);
        }
        run(make.arg(device)).map_err(failed)?;
    }
    let mut all: Vec<&str> = options.iter().map(String::as_str).collect();
    all.extend(read_only.then_some("ro"));
    all.push("defaults");
    let mut mount = Command::new("mount");
    mount.args(["-t", kind, "-o", &all.join(",")]);
    run(mount.arg(device).arg(dir)).map_err(|e| {
        let _ = fs::remove_dir(dir);
        failed(e)
    })
}

/// No file system, no partition table: `blkid` answers 2.
fn is_blank(device: &Path) -> Result<bool, String> {
    let mut probe = Command::new("blkid");
    probe.args(["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export"]);
    let output = probe
        .arg(device)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("blkid does not start: {e}"))?;
    Ok(output.status.code() == Some(2))
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{name} does not start: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}: {}", output.status, said.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_of_blank_devices() {
        for (said, want) in [(None, "ext4"), (Some(""), "ext4"), (Some("xfs"), "xfs")] {
            let source = LocalVolumeSource {
                path: "/dev/x".into(),
                fs_type: said.map(Into::into),
            };
            assert_eq!(file_system(&source), want, "{said:?}");
        }
    }

    #[test]
    fn what_can_be_local() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let check = |path: &str, block: bool, want: Result<(), &str>| {
            let source = LocalVolumeSource {
                path: dir.path().join(path).to_string_lossy().into_owned(),
                fs_type: None,
            };
            let got = set_up(&Wanted {
                kubelet_dir: dir.path(),
                uid: "u",
                volume: "v",
                source: &source,
                block,
                read_only: false,
                options: &[],
                group: None,
            });
            match want {
                Ok(()) => {
                    let real = fs::canonicalize(&source.path).unwrap();
                    assert_eq!(got.unwrap().path, real);
                }
                Err(text) => assert!(got.unwrap_err().contains(text), "{path}"),
            }
        };
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        check(".", false, Ok(()));
        check("link", false, Ok(()));
        check("none", false, Err("does not exist"));
        check(
            "file",
            false,
            Err("only directory and block device are supported"),
        );
        check(".", true, Err("is no block device"));
        check("../x", false, Err("must not contain '..'"));
    }
}
