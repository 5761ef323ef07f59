//! Where a build's files come from: folders, archives, URLs, git repositories.

pub mod compression;
pub mod context;
pub mod git;
mod git_ref;
pub mod http;

pub use git_ref::{GitRef, GitRefError};

use std::path::PathBuf;

/// Why a source could not be had. BuildKit's words where it has some.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Reference(#[from] GitRefError),
    /// Git said no; its last lines.
    #[error("{what}: {why}")]
    Git { what: String, why: String },
    #[error(
        "git is needed for {0} and is not on this machine: install it (e.g. `apt-get install git`)"
    )]
    NoGit(String),
    #[error("{url}: {why}")]
    Http { url: String, why: String },
    #[error("digest mismatch for {url}: {found} (expected: {wanted})")]
    Digest {
        url: String,
        found: String,
        wanted: String,
    },
    #[error("{path}: {source}", path = path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    Refused(String),
}

pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> SourceError {
    let path = path.into();
    move |source| SourceError::Io { path, source }
}

/// A URL without its password, for people to read.
pub fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:xxxxx@{host}{path}")
        }
        _ => url.to_owned(),
    }
}
