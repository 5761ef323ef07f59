use std::{io, path::PathBuf};

/// Why nothing, or not all, was copied. Where BuildKit has words for it, they are its own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A source that isn't there, or that the ignore file leaves out.
    #[error(
        "failed to compute cache key: failed to calculate checksum of ref {tree}: {path:?}: not found"
    )]
    NotFound {
        /// [`super::Tree::name`]
        tree: String,
        /// From the tree's root, with `/`.
        path: String,
    },
    /// The kernel refused something.
    #[error("{what} {path}: {why}", path = path.display(), why = as_go_says(source))]
    Io {
        /// E.g. `failed to open source`.
        what: &'static str,
        /// From the root that it is in, with `/`.
        path: PathBuf,
        source: io::Error,
    },
    /// The request can't be fulfilled as it is.
    #[error("{0}")]
    Refused(String),
    /// `--chmod` is no mode.
    #[error(transparent)]
    Mode(#[from] super::ModeError),
}

/// For `map_err`: `what` was done with `path`, which is below a root.
pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path: PathBuf = path.into();
    let path = if path.is_absolute() {
        path
    } else {
        PathBuf::from("/").join(path)
    };
    move |source| Error::Io { what, path, source }
}

/// The kernel's word for a failure, as Go writes it.
fn as_go_says(e: &io::Error) -> String {
    let text = e.to_string();
    let text = text.split(" (os error ").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}
