//! tmpfs mounts, bind mounts of sub-paths, and taking them all down again. Blocking.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Component, Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// Mount points at or below `dir`, deepest first.
pub(crate) fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> = table
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(unescaped)
        .filter(|path| path.starts_with(dir))
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    Ok(found)
}

/// mountinfo writes space, tab, newline and backslash as `\ooo`.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut i = 0;
    while i < field.len() {
        let octal = (field[i] == b'\\')
            .then(|| field.get(i + 1..i + 4))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                i += 4;
            }
            None => {
                out.push(field[i]);
                i += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from(
        String::from_utf8_lossy(&out).into_owned(),
    ))
}

/// A tmpfs of its own at `dir`, unless one is there already.
pub(crate) fn tmpfs(dir: &Path, size_bytes: Option<i64>) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    if is_mount_point(dir) {
        return Ok(());
    }
    let size = size_bytes.filter(|s| *s > 0).map(|s| format!("size={s}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let attempt = |noswap: bool| {
        let options: Vec<&str> = [noswap.then_some("noswap"), size.as_deref()]
            .into_iter()
            .flatten()
            .collect();
        nix::mount::mount(
            Some("tmpfs"),
            dir,
            Some("tmpfs"),
            flags,
            Some(options.join(",").as_str()),
        )
    };
    // `noswap` needs Linux 6.4; without it the content could reach a swap device, as with every older kubelet.
    attempt(true)
        .or_else(|_| attempt(false))
        .map_err(|e| format!("cannot mount a tmpfs on {}: {e}", dir.display()))
}

fn is_mount_point(dir: &Path) -> bool {
    let dev = |p: &Path| fs::metadata(p).map(|m| m.dev()).ok();
    match dir.parent() {
        Some(parent) => dev(dir).is_some() && dev(dir) != dev(parent),
        None => true,
    }
}

/// Unmounts everything below `dir` and removes it. Refuses to remove while anything is still mounted there: it could be someone's data.
pub(crate) fn remove_tree(dir: &Path) -> Result<(), String> {
    for mount in below(dir).map_err(|e| e.to_string())? {
        if let Err(error) =
            nix::mount::umount2(&mount, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            && error != nix::Error::EINVAL
        {
            return Err(format!("cannot unmount {}: {error}", mount.display()));
        }
    }
    if let Some(left) = below(dir).map_err(|e| e.to_string())?.first() {
        return Err(format!("{} is still mounted", left.display()));
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Binds `sub_path` of the volume at `volume` on `target` (made here), so that no symbolic link inside the volume can lead out of it. Missing folders are made.
///
/// Source: kubernetes `pkg/volume/util/subpath/subpath_linux.go`; openat2's RESOLVE_IN_ROOT does here what that does by hand.
pub(crate) fn bind_sub_path(volume: &Path, sub_path: &str, target: &Path) -> Result<(), String> {
    let plain = Path::new(sub_path)
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(format!(
            "subPath {sub_path:?} must be relative and must not contain '..'"
        ));
    }
    let failed = |what: &str, e: &dyn std::fmt::Display| {
        format!("failed to prepare subPath {sub_path:?}: {what}: {e}")
    };
    let fd = open_sub_path(volume, sub_path).map_err(|e| failed("open", &e))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| failed("stat", &e))?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|e| failed("create", &e))?;
    }
    let _ = nix::mount::umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    let made = if is_dir {
        let _ = fs::remove_file(target);
        fs::create_dir_all(target)
    } else {
        let _ = fs::remove_dir(target);
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(target)
            .map(drop)
    };
    made.map_err(|e| failed("create", &e))?;
    let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
    nix::mount::mount(
        Some(source.as_str()),
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(|e| failed("bind mount", &e))
}

fn open_sub_path(volume: &Path, sub_path: &str) -> rustix::io::Result<OwnedFd> {
    let path_flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, volume, path_flags | OFlags::DIRECTORY, Mode::empty())?;
    let open = |path: &str| {
        rustix::fs::openat2(
            &root,
            path,
            path_flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    };
    match open(sub_path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&root)?.st_mode & 0o777);
    let mut done = String::new();
    let mut at = open(".")?;
    for part in sub_path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if !done.is_empty() {
            done.push('/');
        }
        done.push_str(part);
        at = match open(&done) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&at, part, mode) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                let made = open(&done)?;
                // mkdir is subject to the umask.
                let _ = rustix::fs::chmodat(&at, part, mode, rustix::fs::AtFlags::empty());
                made
            }
            Err(error) => return Err(error),
        };
    }
    Ok(at)
}

/// Gives a volume to a group, as `fsGroup` asks: group-owned, group-readable (and writable), folders setgid.
///
/// Source: kubernetes `pkg/volume/volume_linux.go`.
pub(crate) fn give_to_group(dir: &Path, group: u32, only_on_root_mismatch: bool) -> io::Result<()> {
    let fits = fs::metadata(dir).is_ok_and(|m| m.gid() == group && m.mode() & 0o2070 == 0o2070);
    if only_on_root_mismatch && fits {
        return Ok(());
    }
    walk_to_group(dir, group)
}

fn walk_to_group(path: &Path, group: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.file_type().is_symlink() {
        return std::os::unix::fs::lchown(path, None, Some(group));
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path)?.flatten() {
            walk_to_group(&entry.path(), group)?;
        }
    }
    std::os::unix::fs::lchown(path, None, Some(group))?;
    let add = if meta.is_dir() { 0o2770 } else { 0o660 };
    let mode = meta.mode() & 0o7777;
    fs::set_permissions(
        path,
        std::os::unix::fs::PermissionsExt::from_mode(mode | add),
    )
}

/// Checks (and for the `…OrCreate` types makes) what a hostPath volume names.
pub(crate) fn host_path(path: &Path, type_: &str) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt;
    let at = path.display();
    let found = fs::metadata(path);
    let make_dir = || {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(|e| format!("hostPath {at}: cannot create it: {e}"))
    };
    let is = |what: &str, fits: fn(&fs::Metadata) -> bool| match &found {
        Ok(meta) if fits(meta) => Ok(()),
        _ => Err(format!("hostPath type check failed: {at} is not {what}")),
    };
    match type_ {
        "" if found.is_err() => make_dir(),
        "" => Ok(()),
        "DirectoryOrCreate" if found.is_err() => make_dir(),
        "Directory" | "DirectoryOrCreate" => is("a directory", |m| m.is_dir()),
        "FileOrCreate" if found.is_err() => fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map(drop)
            .map_err(|e| format!("hostPath {at}: cannot create it: {e}")),
        "File" | "FileOrCreate" => is("a file", |m| m.is_file()),
        "Socket" => is("a socket file", |m| m.file_type().is_socket()),
        "CharDevice" => is("a character device", |m| m.file_type().is_char_device()),
        "BlockDevice" => is("a block device", |m| m.file_type().is_block_device()),
        other => Err(format!("hostPath {at}: unknown type {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_path_types() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "").unwrap();
        let new = |n: &str| dir.path().join(n);
        assert!(host_path(dir.path(), "Directory").is_ok());
        assert!(host_path(&file, "File").is_ok());
        assert!(
            host_path(&file, "Directory")
                .unwrap_err()
                .ends_with("is not a directory")
        );
        assert!(host_path(&new("no"), "Directory").is_err());
        assert!(host_path(&new("a/b"), "DirectoryOrCreate").is_ok() && new("a/b").is_dir());
        assert!(host_path(&new("g"), "FileOrCreate").is_ok() && new("g").is_file());
        assert!(host_path(&file, "Socket").is_err());
        assert!(host_path(Path::new("/dev/null"), "CharDevice").is_ok());
        assert!(host_path(&new("plain"), "").is_ok() && new("plain").is_dir());
    }

    #[test]
    fn sub_paths_never_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir_all(volume.join("in")).unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("../../etc", volume.join("up")).unwrap();
        std::os::unix::fs::symlink("/", volume.join("abs")).unwrap();
        let ino = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        let inside = |p: &str| fs::metadata(volume.join(p)).unwrap().ino();
        assert_eq!(ino(&open_sub_path(&volume, "in").unwrap()), inside("in"));
        assert_eq!(
            ino(&open_sub_path(&volume, "abs/in").unwrap()),
            inside("in"),
            "/ is the volume"
        );
        assert_eq!(
            ino(&open_sub_path(&volume, "new/deep").unwrap()),
            inside("new/deep")
        );
        // `up` would be the neighbour `etc`: in here it's a name that isn't there, so nothing outside is opened or made.
        assert!(open_sub_path(&volume, "up/x").is_err());
        assert!(!dir.path().join("etc/x").exists());
        assert!(bind_sub_path(&volume, "../x", &dir.path().join("t")).is_err());
        assert!(bind_sub_path(&volume, "/x", &dir.path().join("t")).is_err());
    }

    #[test]
    fn escapes() {
        assert_eq!(unescaped(b"/a\\040b\\134c"), PathBuf::from("/a b\\c"));
    }

    #[test]
    fn groups_own_volumes() {
        assert!(
            rustix::process::getuid().is_root(),
            "this test needs root: it changes file groups"
        );
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        give_to_group(dir.path(), 4711, false).unwrap();
        let meta = fs::metadata(dir.path().join("f")).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o060), (4711, 0o060));
        assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o2070, 0o2070);
    }
}
