//! `/logs/`: the machine's own logs, as the kubelet shows `/var/log`.
//!
//! Source: kubernetes `pkg/kubelet/server/server.go` (InstallSystemLogHandler). Unlike it, links are not followed: a Pod that
//! may write there would show the machine's other files by them.

use std::{fs::File, io, path::Path};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use tokio::io::AsyncReadExt;

const FOLDER: &str = "/var/log";
const CHUNK_BYTES: usize = 64 << 10;
/// Names shown of one folder.
const NAMES_MAX: usize = 10_000;

pub(crate) enum Found {
    /// as a page of links
    Folder(String),
    File(File),
}

/// What is at a path below the folder of logs. Blocking.
///
/// # Errors
/// When nothing is there, or what is there is neither file nor folder, or beyond a link.
pub(crate) fn find(parts: &[&str]) -> io::Result<Found> {
    below(Path::new(FOLDER), parts)
}

fn below(root: &Path, parts: &[&str]) -> io::Result<Found> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
    let path = match parts.join("/") {
        path if path.is_empty() => ".".to_owned(),
        path => path,
    };
    // a pipe must not hold up who opens it
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(openat2(&root, path, flags, Mode::empty(), within)?);
    let meta = file.metadata()?;
    if meta.is_file() {
        return Ok(Found::File(file));
    }
    if !meta.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&file)?.take(NAMES_MAX) {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if matches!(name.as_str(), "." | "..") {
            continue;
        }
        match entry.file_type() {
            rustix::fs::FileType::Directory => names.push(name + "/"),
            _ => names.push(name),
        }
    }
    names.sort();
    let links = names.iter().map(|name| {
        let shown = escaped(name);
        format!("<a href=\"{shown}\">{shown}</a>\n")
    });
    let links: String = links.collect();
    Ok(Found::Folder(format!("<pre>\n{links}</pre>\n")))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
}

/// The file's bytes as they are read.
pub(crate) fn bytes(file: File) -> BoxStream<'static, io::Result<Bytes>> {
    let file = tokio::fs::File::from_std(file);
    stream::try_unfold(file, |mut file| async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        let n = file.read(&mut chunk).await?;
        chunk.truncate(n);
        Ok((n > 0).then(|| (Bytes::from(chunk), file)))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_and_folders_are_shown_and_links_are_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/a<b"), "text").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("out")).unwrap();
        let at = |parts: &[&str]| below(dir.path(), parts);
        let page = |found: io::Result<Found>| match found.unwrap() {
            Found::Folder(page) => page,
            Found::File(_) => panic!("a file"),
        };
        assert_eq!(
            page(at(&[])),
            "<pre>\n<a href=\"out\">out</a>\n<a href=\"sub/\">sub/</a>\n</pre>\n"
        );
        assert!(page(at(&["sub"])).contains("a&lt;b"));
        let Found::File(file) = at(&["sub", "a<b"]).unwrap() else {
            panic!("a folder");
        };
        let all: Vec<Bytes> = bytes(file).map(Result::unwrap).collect().await;
        assert_eq!(all.concat(), b"text");
        for bad in [
            &["out"][..],
            &["none"],
            &["..", "etc"],
            &["sub", "..", ".."],
        ] {
            assert!(at(bad).is_err(), "{bad:?}");
        }
    }
}
