//! Contexts that aren't folders yet: archives, URLs, git repositories; and the ignore file of one that is.

use super::{
    GitRef, SourceError,
    compression::{Compression, decompress},
    git::Git,
    http::Http,
    io,
};
use crate::copy;
use knarr_dockerfile::Ignore;
use std::{
    io::Read,
    path::{Path, PathBuf},
};

/// No ignore file is longer, in bytes.
const IGNORE_MAX: u64 = 8 << 20;
/// Nor a Dockerfile.
const DOCKERFILE_MAX: u64 = 8 << 20;

/// What a context turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// A folder with files.
    Folder(PathBuf),
    /// Nothing but a Dockerfile's text.
    Dockerfile(String),
}

/// Unpacks an archive, plain or compressed, below the empty folder `into`; a stream that is none is a Dockerfile
/// (`docker build -`). Blocking.
///
/// # Errors
/// An archive that is damaged, or unpacks to too much.
pub fn from_stream(mut stream: impl Read, into: &Path) -> Result<Opened, SourceError> {
    let broken =
        |e: std::io::Error| SourceError::Refused(format!("failed to unpack the context: {e}"));
    let mut start = vec![];
    stream
        .by_ref()
        .take(1024)
        .read_to_end(&mut start)
        .map_err(broken)?;
    let archive = is_archive(&start);
    let whole = std::io::Cursor::new(start).chain(stream);
    if archive {
        std::fs::create_dir_all(into).map_err(io(into))?;
        copy::unpack_plain(decompress(whole).map_err(broken)?, into).map_err(broken)?;
        return Ok(Opened::Folder(into.into()));
    }
    let mut text = vec![];
    whole
        .take(DOCKERFILE_MAX + 1)
        .read_to_end(&mut text)
        .map_err(broken)?;
    let refused = |why: &str| {
        SourceError::Refused(format!(
            "the context is no archive, and no Dockerfile: {why}"
        ))
    };
    if text.len() as u64 > DOCKERFILE_MAX {
        return Err(refused("it is too long"));
    }
    let text = String::from_utf8(text).map_err(|_| refused("it isn't text"))?;
    Ok(Opened::Dockerfile(text))
}

/// By the first KiB: compressed, or a tar's first header.
fn is_archive(start: &[u8]) -> bool {
    if Compression::of(start) != Compression::None {
        return true;
    }
    start.first_chunk::<512>().is_some_and(is_header)
}

/// A tar's header: its checksum is right, and it isn't all zeros.
fn is_header(bytes: &[u8; 512]) -> bool {
    let header = tar::Header::from_byte_slice(bytes);
    let byte = |(i, b): (usize, &u8)| match i {
        148..156 => 32,
        _ => u32::from(*b),
    };
    let sum: u32 = bytes.iter().enumerate().map(byte).sum();
    bytes.iter().any(|b| *b != 0) && header.cksum().is_ok_and(|c| c == sum)
}

/// Brings a URL's files below the empty folder `into`: a git repository, an archive, or a Dockerfile alone.
///
/// # Errors
/// What the server, git or the archive says.
pub async fn from_url(
    url: &str,
    git: &Git,
    http: &Http,
    into: &Path,
) -> Result<Opened, SourceError> {
    if let Some(reference) = GitRef::parse(url) {
        let reference = reference?;
        let commit = git.resolve(&reference).await?;
        let keep = reference.keep_git_dir.unwrap_or(false);
        git.check_out(&reference, &commit, keep, into).await?;
        return Ok(Opened::Folder(into.into()));
    }
    let fetched = http.fetch(url, None).await?;
    let (path, into) = (fetched.folder.join(&fetched.name), into.to_owned());
    let work = tokio::task::spawn_blocking(move || {
        let file = std::fs::File::open(&path).map_err(io(&path))?;
        from_stream(file, &into)
    });
    work.await
        .map_err(|e| SourceError::Refused(e.to_string()))?
}

/// The ignore file of a build: `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` in the context.
///
/// # Errors
/// When one is there but can't be read, or isn't right.
pub fn ignore(context: &Path, dockerfile: Option<&Path>) -> Result<Ignore, SourceError> {
    let beside = dockerfile.map(|path| {
        let mut path = path.as_os_str().to_owned();
        path.push(".dockerignore");
        PathBuf::from(path)
    });
    let own = context.join(".dockerignore");
    for path in beside.into_iter().chain([own]) {
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(io(path)(e)),
        };
        let mut text = vec![];
        file.take(IGNORE_MAX)
            .read_to_end(&mut text)
            .map_err(io(&path))?;
        let parsed = Ignore::parse(&String::from_utf8_lossy(&text));
        return parsed.map_err(|e| SourceError::Refused(format!("{}: {e}", path.display())));
    }
    Ok(Ignore::default())
}
