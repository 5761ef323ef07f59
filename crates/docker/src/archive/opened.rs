//! What an open descriptor leads to, as an archive: each step down is by descriptor and follows no link, so that who
//! changes the files meanwhile can't lead it elsewhere.

use super::out::named;
use rustix::fs::{Mode, OFlags};
use std::{
    ffi::{OsStr, OsString},
    fs, io,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
};

/// The way back from a descriptor that was opened as a path alone.
pub fn by_descriptor(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Writes an archive of what is behind a descriptor (`O_PATH`), under a name; a folder without a name gives what is in it.
/// Blocking.
///
/// # Errors
/// What the disk or the writer says.
pub fn pack(from: OwnedFd, name: &Path, to: &mut dyn Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(to);
    let file = fs::File::from(from);
    let meta = file.metadata()?;
    append(&mut tar, &file.into(), &meta, name)?;
    tar.finish()
}

/// One file, link, device, or folder with all that is in it; sockets are passed over.
pub fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    fd: &OwnedFd,
    meta: &fs::Metadata,
    name: &Path,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_metadata(meta);
    let kind = meta.file_type();
    if kind.is_socket() {
        return Ok(());
    }
    if meta.is_dir() {
        if !name.as_os_str().is_empty() {
            named(tar, &mut header, &name.join(""), None, io::empty())?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(fd, ".", flags, Mode::empty())?;
        return contents(tar, &dir, name);
    }
    if meta.is_file() {
        let file = fs::File::open(by_descriptor(fd))?;
        // as long as it was, whatever is written to it meanwhile
        let padded = file.take(meta.len()).chain(io::repeat(0)).take(meta.len());
        return named(tar, &mut header, name, None, padded);
    }
    header.set_size(0);
    if kind.is_symlink() {
        let target = rustix::fs::readlinkat(fd, "", Vec::new())?;
        let target = Path::new(OsStr::from_bytes(target.to_bytes()));
        return named(tar, &mut header, name, Some(target), io::empty());
    }
    if kind.is_char_device() || kind.is_block_device() {
        header.set_device_major(rustix::fs::major(meta.rdev()))?;
        header.set_device_minor(rustix::fs::minor(meta.rdev()))?;
    }
    named(tar, &mut header, name, None, io::empty())
}

fn contents<W: Write>(tar: &mut tar::Builder<W>, dir: &OwnedFd, name: &Path) -> io::Result<()> {
    let mut names: Vec<OsString> = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes != b"." && bytes != b".." {
            names.push(OsStr::from_bytes(bytes).to_os_string());
        }
    }
    names.sort();
    for child in names {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(dir, &child, flags, Mode::empty()) {
            Ok(fd) => fs::File::from(fd),
            // gone while we looked
            Err(rustix::io::Errno::NOENT) => continue,
            Err(e) => return Err(e.into()),
        };
        let meta = file.metadata()?;
        append(tar, &file.into(), &meta, &name.join(&child))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/f"), "text").unwrap();
        fs::write(dir.path().join(OsStr::from_bytes(b"d/\xff")), "").unwrap();
        std::os::unix::fs::symlink("/etc", at("d/l")).unwrap();
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, at("d/p"), pipe, Mode::RWXU, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("d/s")).unwrap();
        let check = |path: &str, name: &str, wanted: &[(&[u8], tar::EntryType)]| {
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let fd = rustix::fs::open(at(path), flags, Mode::empty()).unwrap();
            let mut bytes = Vec::new();
            pack(fd, Path::new(name), &mut bytes).unwrap();
            let mut archive = tar::Archive::new(&bytes[..]);
            let entries = archive.entries().unwrap().map(|e| {
                let e = e.unwrap();
                (e.path_bytes().into_owned(), e.header().entry_type())
            });
            let entries: Vec<_> = entries.collect();
            let wanted: Vec<_> = wanted.iter().map(|(n, k)| (n.to_vec(), *k)).collect();
            assert_eq!(entries, wanted, "{path} {name}");
        };
        use tar::EntryType::{Directory, Fifo, Regular, Symlink};
        let inside: [(&[u8], _); 4] = [
            (b"x/f", Regular),
            (b"x/l", Symlink),
            (b"x/p", Fifo),
            (b"x/\xff", Regular),
        ];
        check(
            "d",
            "x",
            &[&[(&b"x/"[..], Directory)], &inside[..]].concat(),
        );
        let bare: Vec<_> = inside.iter().map(|(n, k)| (&n[2..], *k)).collect();
        check("d", "", &bare);
        check("d/f", "new", &[(b"new", Regular)]);
        check("d/l", "l", &[(b"l", Symlink)]);
        check("d/p", "p", &[(b"p", Fifo)]);
    }
}
