//! Image volumes: an image's files, read-only and not to be executed, at a place of the Pod's. Blocking.
//!
//! Source: KEP-4639; containerd `internal/cri/server/container_image_mount.go`.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use rustix::{
    fs::{Mode, OFlags},
    mount::MountFlags,
};

use super::{Source, mounts};

/// Two containers of a Pod may ask for the same volume at the same moment.
static ONE: Mutex<()> = Mutex::new(());

/// Mounts the layers (topmost first) on `dir`, unless that's done already.
///
/// # Errors
/// A text that says what the kernel refused.
pub(super) fn mount(dir: &Path, layers: &[PathBuf]) -> Result<Source, String> {
    let _one = ONE.lock();
    let source = Source {
        path: dir.to_owned(),
        read_only: true,
        device: false,
    };
    fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    if layers.is_empty() || mounts::is_mount_point(dir) {
        return Ok(source);
    }
    // An overlay without an upper layer needs two lower ones. No volume's name begins with a dot.
    let empty = dir.with_file_name(".empty");
    fs::create_dir_all(&empty).map_err(|e| format!("{}: {e}", empty.display()))?;
    // By descriptor: any number that fits in a page, and no character in a path can be mistaken for a separator.
    let open = |path: &PathBuf| -> Result<OwnedFd, String> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| format!("the layer {}: {e}", path.display()))
    };
    let held: Vec<OwnedFd> = layers
        .iter()
        .chain([&empty])
        .map(open)
        .collect::<Result<_, _>>()?;
    let lower: Vec<String> = held
        .iter()
        .map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .collect();
    let data = std::ffi::CString::new(format!("lowerdir={}", lower.join(":")))
        .map_err(|e| e.to_string())?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("overlay", dir, "overlay", flags, &*data)
        .map_err(|e| format!("mounting {} layers: {e}", layers.len()))?;
    Ok(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_show_together_and_take_no_writes() {
        assert!(
            rustix::process::geteuid().is_root(),
            "mounting needs root: run this test as root"
        );
        let dir = tempfile::tempdir().unwrap();
        let (top, bottom) = (dir.path().join("t:op"), dir.path().join("bottom"));
        for (layer, text) in [(&top, "top"), (&bottom, "bottom")] {
            fs::create_dir(layer).unwrap();
            fs::write(layer.join("both"), text).unwrap();
            fs::write(layer.join(text), text).unwrap();
        }
        let at = dir.path().join("volumes/v");
        for layers in [vec![top.clone(), bottom], vec![top]] {
            let source = mount(&at, &layers).unwrap();
            assert!(source.read_only);
            assert_eq!(fs::read_to_string(at.join("both")).unwrap(), "top");
            assert_eq!(at.join("bottom").exists(), layers.len() == 2);
            assert!(fs::write(at.join("new"), "x").is_err());
            assert_eq!(mount(&at, &layers).unwrap(), source);
            let table = mounts::below(dir.path()).unwrap();
            assert_eq!(table.as_slice(), std::slice::from_ref(&at), "mounted once");
            mounts::remove_tree(&at).unwrap();
        }
    }
}
