//! tmpfs mounts and the table of mounts. Blocking.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::mount::MsFlags;

pub(crate) use super::removal::remove_tree;

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

/// Whether another file system is mounted at `dir`.
pub(crate) fn is_mount_point(dir: &Path) -> bool {
    let dev = |p: &Path| fs::metadata(p).map(|m| m.dev()).ok();
    match dir.parent() {
        Some(parent) => dev(dir).is_some() && dev(dir) != dev(parent),
        None => true,
    }
}

/// Makes `dir` a mount of its own that passes on what is mounted below it: what a container mounts there is then seen
/// by the node, and the other way round.
pub(crate) fn share(dir: &Path) -> Result<(), String> {
    static ONE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _one = ONE.lock();
    let failed = |e: &dyn std::fmt::Display| format!("cannot share {}: {e}", dir.display());
    fs::create_dir_all(dir).map_err(|e| failed(&e))?;
    let real = fs::canonicalize(dir).map_err(|e| failed(&e))?;
    if below(&real).map_err(|e| failed(&e))?.contains(&real) {
        return Ok(());
    }
    let none = None::<&str>;
    nix::mount::mount(Some(dir), dir, none, MsFlags::MS_BIND, none).map_err(|e| failed(&e))?;
    nix::mount::mount(none, dir, none, MsFlags::MS_SHARED, none).map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        assert_eq!(unescaped(b"/a\\040b\\134c"), PathBuf::from("/a b\\c"));
    }
}
