//! Files that change all at once: kubelet's atomic writer.
//!
//! ```text
//! <volume>/..2026_11_21.12345   one version, never changed after it's shown
//! <volume>/..data            -> ..2026_11_21.12345   swapped by rename(2)
//! <volume>/key               -> ..data/key
//! ```
//! Source: kubernetes `pkg/volume/util/atomic_writer.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

/// One file of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub bytes: Vec<u8>,
    /// permission bits, e.g. 0o644
    pub mode: u32,
    /// whose it is; root's when None
    pub user: Option<u32>,
}

/// Relative path → file.
pub(crate) type Payload = BTreeMap<String, File>;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes `dir` show exactly `payload`; false when it already did. Blocking.
pub(crate) fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    for path in payload.keys() {
        if !plain(path) {
            return Err(io::Error::other(format!(
                "{path:?} is not a path inside the volume"
            )));
        }
    }
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && same(&dir.join(old), payload)
    {
        return Ok(false);
    }
    let version = format!(
        "..{}.{:08x}",
        jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S"),
        rand::random::<u32>()
    );
    let new = dir.join(&version);
    fs::DirBuilder::new().mode(0o755).create(&new)?;
    for (path, file) in payload {
        let at = new.join(path);
        if let Some(parent) = at.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)?;
        }
        let mode = if group.is_some() {
            file.mode | 0o440
        } else {
            file.mode
        };
        let mut out = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&at)?;
        io::Write::write_all(&mut out, &file.bytes)?;
        out.set_permissions(fs::Permissions::from_mode(mode))?;
        if group.is_some() || file.user.is_some() {
            std::os::unix::fs::fchown(&out, file.user, group)?;
        }
    }
    let pointer = dir.join(DATA_NEW);
    let _ = fs::remove_file(&pointer);
    symlink(&version, &pointer)?;
    fs::rename(&pointer, dir.join(DATA))?;

    let tops: BTreeSet<&str> = payload.keys().filter_map(|p| p.split('/').next()).collect();
    for top in &tops {
        let at = dir.join(top);
        if fs::symlink_metadata(&at).is_err() {
            symlink(Path::new(DATA).join(top), &at)?;
        }
    }
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name == DATA || name == version || tops.contains(name) {
            continue;
        }
        if name.starts_with("..") && entry.file_type().is_ok_and(|t| t.is_dir()) {
            let _ = fs::remove_dir_all(entry.path());
        } else if entry.file_type().is_ok_and(|t| t.is_symlink()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(true)
}

/// Relative, without `..`, and not named like one of ours.
fn plain(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path)
            .components()
            .all(|c| matches!(c, Component::Normal(_)))
}

fn same(version: &Path, payload: &Payload) -> bool {
    fn count(dir: &Path) -> usize {
        let Ok(entries) = fs::read_dir(dir) else {
            return 0;
        };
        let one = |e: fs::DirEntry| match e.file_type() {
            Ok(t) if t.is_dir() => count(&e.path()),
            _ => 1,
        };
        entries.flatten().map(one).sum()
    }
    count(version) == payload.len()
        && payload
            .iter()
            .all(|(path, file)| fs::read(version.join(path)).is_ok_and(|b| b == file.bytes))
}

/// The file that is shown now.
pub(crate) fn read(dir: &Path, path: &str) -> Option<Vec<u8>> {
    let at: PathBuf = dir.join(DATA).join(path);
    fs::read(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File {
            bytes: text.as_bytes().to_vec(),
            mode: 0o640,
            user: None,
        };
        files
            .iter()
            .map(|(p, t)| (p.to_string(), file(t)))
            .collect()
    }

    #[test]
    fn a_change_shows_all_at_once_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        assert!(write(at, &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(at.join("d/b")).unwrap(), "2");
        assert_eq!(
            fs::metadata(at.join("a")).unwrap().permissions().mode() & 0o777,
            0o640
        );
        let before = fs::read_link(at.join(DATA)).unwrap();
        assert!(!write(at, &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert_eq!(fs::read_link(at.join(DATA)).unwrap(), before);
        // A reader that holds the old version keeps a whole old version's file.
        let held = fs::File::open(at.join("a")).unwrap();
        assert!(write(at, &payload(&[("a", "3"), ("c", "4")]), None).unwrap());
        assert_eq!(io::read_to_string(held).unwrap(), "1");
        assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "3");
        assert!(fs::symlink_metadata(at.join("d")).is_err());
        let mut names: Vec<_> = fs::read_dir(at)
            .unwrap()
            .flatten()
            .map(|e| e.file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 4, "{names:?}");
    }

    #[test]
    fn paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["../x", "/etc/x", "a/../../x", "..data", "", "..x"] {
            assert!(
                write(dir.path(), &payload(&[(bad, "x")]), None).is_err(),
                "{bad}"
            );
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
