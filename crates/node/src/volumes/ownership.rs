//! Giving a volume to the Pod's `fsGroup`. Blocking.
//!
//! Source: kubernetes `pkg/volume/volume_linux.go`.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

/// The group a volume is to have, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub gid: u32,
    /// `fsGroupChangePolicy: OnRootMismatch`
    pub only_on_root_mismatch: bool,
}

impl Group {
    /// Everything in `dir` becomes the group's: readable (and writable, unless `read_only`), folders setgid. Symbolic
    /// links are not followed.
    pub(crate) fn own(self, dir: &Path, read_only: bool) -> io::Result<()> {
        if self.only_on_root_mismatch && self.has(dir, read_only) {
            return Ok(());
        }
        self.walk(dir, read_only)
    }

    fn has(self, dir: &Path, read_only: bool) -> bool {
        let want = 0o2110 | if read_only { 0o440 } else { 0o660 };
        fs::metadata(dir)
            .is_ok_and(|m| m.is_dir() && m.gid() == self.gid && m.mode() & want == want)
    }

    fn walk(self, path: &Path, read_only: bool) -> io::Result<()> {
        let meta = fs::symlink_metadata(path)?;
        if meta.is_dir() {
            for entry in fs::read_dir(path)? {
                match self.walk(&entry?.path(), read_only) {
                    // someone else may be removing files
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
        }
        // What can't be changed (a read-only mount, a foreign file system) doesn't keep the Pod from starting.
        if let Err(error) = std::os::unix::fs::lchown(path, None, Some(self.gid)) {
            tracing::debug!(path = %path.display(), %error, "the group of a volume's file was not changed");
        }
        if meta.file_type().is_symlink() {
            return Ok(());
        }
        let mut add = if read_only { 0o440 } else { 0o660 };
        if meta.is_dir() {
            add |= 0o2110;
        }
        let mode = fs::Permissions::from_mode(meta.mode() & 0o7777 | add);
        if let Err(error) = fs::set_permissions(path, mode) {
            tracing::debug!(path = %path.display(), %error, "the mode of a volume's file was not changed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_own_volumes() {
        assert!(
            rustix::process::getuid().is_root(),
            "this test needs root: it changes file groups"
        );
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::create_dir(at.join("d")).unwrap();
        fs::write(at.join("d/f"), "").unwrap();
        fs::set_permissions(at.join("d/f"), fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(outside.path(), at.join("l")).unwrap();
        let mut group = Group {
            gid: 4711,
            only_on_root_mismatch: false,
        };
        group.own(at, false).unwrap();
        let see = |p: &str| {
            let m = fs::symlink_metadata(at.join(p)).unwrap();
            (m.gid(), m.mode() & 0o7777)
        };
        assert_eq!(see("d/f"), (4711, 0o660));
        assert_eq!(see("d").1 & 0o2770, 0o2770);
        assert_eq!(see("l").0, 4711);
        let out = fs::metadata(outside.path()).unwrap();
        assert_eq!(
            (out.gid(), out.mode() & 0o777),
            (0, 0o600),
            "links are not followed"
        );
        // the root fits: what is below stays as it is
        fs::write(at.join("new"), "").unwrap();
        std::os::unix::fs::chown(at.join("new"), None, Some(0)).unwrap();
        group.only_on_root_mismatch = true;
        group.own(at, false).unwrap();
        assert_eq!(see("new").0, 0);
        group.gid = 4712;
        group.own(at, false).unwrap();
        assert_eq!(see("new").0, 4712);
    }
}
