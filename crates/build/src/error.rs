//! What can go wrong in a build, told with the place in the Dockerfile.

use std::{fmt::Write, path::PathBuf};

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Dockerfile can't be read as one.
    #[error("{}: {why}", excerpt.place())]
    Dockerfile { excerpt: Box<Excerpt>, why: String },
    /// A step failed; `log` holds the last lines of its output.
    #[error("{}: {step}: {why}", excerpt.place())]
    Step {
        excerpt: Box<Excerpt>,
        step: String,
        why: String,
        log: Vec<String>,
    },
    /// What was asked for can't be: no such target, no such file, an option that makes no sense.
    #[error("{0}")]
    Request(String),
    /// A registry didn't take what was sent.
    #[error("{0}")]
    Registry(String),
    #[error(transparent)]
    Image(#[from] knarr_image::Error),
    #[error(transparent)]
    Runtime(#[from] knarr_runtime::Error),
    #[error(transparent)]
    Copy(#[from] crate::copy::Error),
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The caller went away, or its deadline passed.
    #[error("the build was canceled")]
    Canceled,
    /// Several waited for the same stage; the first tells why.
    #[error("{0}")]
    Shared(std::sync::Arc<Error>),
    #[error("a bug in the builder: {0}")]
    Bug(String),
}

impl Error {
    /// The failure itself, where several waited for it.
    pub fn root(&self) -> &Error {
        match self {
            Error::Shared(inner) => inner.root(),
            other => other,
        }
    }
    /// As a person wants it: the end of the step's log, the lines of the Dockerfile, the reason, as BuildKit prints it.
    pub fn report(&self) -> String {
        match self.root() {
            Error::Dockerfile { excerpt, why } => format!("{excerpt}ERROR: {why}"),
            Error::Step {
                excerpt,
                step,
                why,
                log,
            } => {
                let mut text = String::new();
                if !log.is_empty() {
                    let _ = writeln!(text, "------\n > {step}:");
                    for line in log {
                        let _ = writeln!(text, "{line}");
                    }
                    let _ = writeln!(text, "------");
                }
                format!("{text}{excerpt}ERROR: failed to build: {why}")
            }
            other => format!("ERROR: {other}"),
        }
    }
    /// The request or the Dockerfile is wrong; nothing was tried.
    pub fn is_input(&self) -> bool {
        matches!(self.root(), Error::Dockerfile { .. } | Error::Request(_))
    }
}

/// Some lines of a Dockerfile.
#[derive(Debug, Clone, Default)]
pub struct Excerpt {
    /// The Dockerfile's name.
    pub file: String,
    /// First line meant, from 1; 0 for none.
    pub first: usize,
    /// Last line meant.
    pub last: usize,
    /// (number, text) of the lines to show.
    pub lines: Vec<(usize, String)>,
}

impl Excerpt {
    /// Of these lines of a text.
    pub fn new(file: &str, text: &str, first: usize, last: usize) -> Excerpt {
        Excerpt {
            file: file.to_owned(),
            first,
            last,
            lines: knarr_dockerfile::excerpt(text, first, last),
        }
    }
    /// `Dockerfile:3`
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.first)
    }
}

impl std::fmt::Display for Excerpt {
    // SOURCE: buildkit solver/errdefs/source.go (Source.Print)
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.lines.is_empty() {
            return Ok(());
        }
        let bar = "-".repeat(20);
        writeln!(f, "{}\n{bar}", self.place())?;
        for (number, text) in &self.lines {
            let marked = (self.first..=self.last).contains(number);
            let mark = if marked { ">>>" } else { "   " };
            writeln!(f, "{number:4} | {mark} {text}")?;
        }
        writeln!(f, "{bar}")
    }
}

pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { path, source }
}

/// Runs what touches files (copying, hashing, packing) off the async threads, at a low priority.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let low = || {
        let _low = knarr_image::Low::new();
        work()
    };
    match tokio::task::spawn_blocking(low).await {
        Ok(result) => result,
        Err(e) => Err(Error::Bug(e.to_string())),
    }
}
