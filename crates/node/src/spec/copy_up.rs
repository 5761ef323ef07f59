//! What the image has at a volume's place, copied into the volume while that is empty, as Docker does.
//!
//! Source: moby `daemon/create.go` (populateVolumes), `container.copyImagePathContent`.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, fchown, lchown, symlink},
    path::{Component, Path, PathBuf},
};

/// Half a copy; removed when it is found.
const HALF: &str = ".knarr-copying";
/// A whole copy, whose entries are still to be moved up.
const WHOLE: &str = ".knarr-copied";
/// Most entries of one copy.
const ENTRIES_MAX: usize = 1_000_000;

/// Fills `volume` with what `layers` (topmost first) have at `target`; blocking. A volume that has anything stays as it is.
pub fn copy_up(layers: &[PathBuf], target: &Path, volume: &Path) -> io::Result<()> {
    if !volume.is_dir() {
        return Ok(());
    }
    let whole = volume.join(WHOLE);
    if !whole.is_dir() {
        let half = volume.join(HALF);
        if half.exists() {
            fs::remove_dir_all(&half)?;
        }
        let mut there = fs::read_dir(volume)?.flatten();
        if there.any(|e| e.file_name() != OsStr::new("lost+found")) {
            return Ok(());
        }
        let sources = sources(layers, target);
        let Some(top) = sources.first() else {
            return Ok(());
        };
        let meta = fs::symlink_metadata(top)?;
        fs::create_dir(&half)?;
        let mut budget = ENTRIES_MAX;
        // From the lowest up: what comes later goes over what was there.
        for source in sources.iter().rev() {
            copy_folder(source, &half, &mut budget)?;
        }
        own(volume, &meta)?;
        rustix::fs::syncfs(fs::File::open(&half)?)?;
        fs::rename(&half, &whole)?;
    }
    for entry in fs::read_dir(&whole)? {
        let entry = entry?;
        fs::rename(entry.path(), volume.join(entry.file_name()))?;
    }
    fs::remove_dir(&whole)
}

/// The folders of the layers that together are `target`, topmost first.
fn sources(layers: &[PathBuf], target: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    'layers: for layer in layers {
        let mut at = layer.clone();
        let mut ends = false;
        for part in target.components() {
            let Component::Normal(name) = part else {
                continue;
            };
            at.push(name);
            match fs::symlink_metadata(&at) {
                Ok(meta) if is_whiteout(&meta) => break 'layers,
                Ok(meta) if meta.is_dir() => ends |= is_opaque(&at),
                // A link or a file in the way: what is there is not of this volume.
                Ok(_) => break 'layers,
                Err(_) if ends => break 'layers,
                Err(_) => continue 'layers,
            }
        }
        found.push(at);
        if ends {
            break;
        }
    }
    found
}

fn is_whiteout(meta: &fs::Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

/// Hides what the layers below have in it.
fn is_opaque(folder: &Path) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .any(|name| {
            let mut value = [0u8; 1];
            rustix::fs::lgetxattr(folder, *name, &mut value)
                .is_ok_and(|n| n == 1 && value[0] == b'y')
        })
}

fn copy_folder(from: &Path, to: &Path, budget: &mut usize) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        *budget = budget
            .checked_sub(1)
            .ok_or_else(|| io::Error::other("the image has too many files for a volume"))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let meta = fs::symlink_metadata(&source)?;
        let there = fs::symlink_metadata(&target).ok();
        let kept = meta.is_dir()
            && there.as_ref().is_some_and(fs::Metadata::is_dir)
            && !is_opaque(&source);
        if let Some(there) = there.filter(|_| !kept) {
            match there.is_dir() {
                true => fs::remove_dir_all(&target)?,
                false => fs::remove_file(&target)?,
            }
        }
        let kind = meta.file_type();
        if is_whiteout(&meta) {
            continue;
        } else if kind.is_dir() {
            if !kept {
                fs::create_dir(&target)?;
            }
            copy_folder(&source, &target, budget)?;
            own(&target, &meta)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            lchown(&target, Some(meta.uid()), Some(meta.gid()))?;
        } else if kind.is_file() {
            let mut out = fs::File::create_new(&target)?;
            io::copy(&mut fs::File::open(&source)?, &mut out)?;
            fchown(&out, Some(meta.uid()), Some(meta.gid()))?;
            out.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o7777))?;
            out.set_modified(meta.modified()?)?;
        }
    }
    Ok(())
}

/// The owner and the permission bits of what it is copied from.
fn own(path: &Path, meta: &fs::Metadata) -> io::Result<()> {
    lchown(path, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_fresh_volume_gets_what_the_layers_have() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("low/data/a", "low");
        write("low/data/sub/b", "low");
        write("low/elsewhere", "x");
        write("top/data/a", "top");
        fs::set_permissions(
            dir.path().join("top/data"),
            fs::Permissions::from_mode(0o750),
        )
        .unwrap();
        symlink("a", dir.path().join("top/data/link")).unwrap();
        let layers = [dir.path().join("top"), dir.path().join("low")];
        let volume = dir.path().join("volume");
        fs::create_dir(&volume).unwrap();
        // A copy that was cut short is begun again.
        write("volume/.knarr-copying/half", "x");
        copy_up(&layers, Path::new("/data"), &volume).unwrap();
        assert_eq!(names(&volume), ["a", "link", "sub"]);
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "top");
        assert_eq!(fs::metadata(&volume).unwrap().mode() & 0o777, 0o750);
        // What has something stays as it is.
        fs::remove_file(volume.join("a")).unwrap();
        copy_up(&layers, Path::new("/data"), &volume).unwrap();
        assert_eq!(names(&volume), ["link", "sub"]);
        // A copy that was whole is moved up to its end.
        write("volume/.knarr-copied/late", "x");
        copy_up(&layers, Path::new("/data"), &volume).unwrap();
        assert_eq!(names(&volume), ["late", "link", "sub"]);
    }

    #[test]
    fn places_that_the_image_does_not_have_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir_all(&volume).unwrap();
        fs::create_dir_all(dir.path().join("layer/etc")).unwrap();
        symlink("/etc", dir.path().join("layer/linked")).unwrap();
        let layers = [dir.path().join("layer")];
        for target in ["/none", "/linked/x", "/etc/../../x"] {
            copy_up(&layers, Path::new(target), &volume).unwrap();
            assert_eq!(names(&volume), [""; 0], "{target}");
        }
    }
}
