//! What can go wrong, told so that the reader knows what to do next.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container's process could not be made; the text is the one kubelet users know, such as `exec: "foo": executable file not found in $PATH`.
    #[error("{0}")]
    Create(String),
    /// The extra process could not be started; same texts as `Create`.
    #[error("{0}")]
    Exec(String),
    #[error("container {0:?} is not known here: list containers to see which are")]
    NoContainer(String),
    #[error("sandbox {0:?} is not known here: create it before its containers")]
    NoSandbox(String),
    #[error("{0:?} exists already: delete it first or choose another id")]
    Exists(String),
    #[error("container {0:?} is not running")]
    NotRunning(String),
    #[error("{what} {value:?} is not valid: {rule}")]
    Invalid {
        what: &'static str,
        value: String,
        rule: &'static str,
    },
    #[error("sandbox {0:?} still has containers: delete them first")]
    InUse(String),
    #[error(
        "another runtime works in {0}: stop it first, or choose another root (one runtime per root)"
    )]
    Locked(PathBuf),
    #[error(
        "containers need root: run as root, or with CAP_SYS_ADMIN in the initial user namespace"
    )]
    NotRoot,
    #[error("{action}: {source}")]
    Io {
        action: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Other(String),
}

/// Says what was being done when a system call failed.
pub(crate) trait During<T> {
    fn during(self, action: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<std::io::Error>> During<T> for Result<T, E> {
    fn during(self, action: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|e| Error::Io {
            action: action(),
            source: e.into(),
        })
    }
}
