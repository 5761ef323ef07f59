//! What may go wrong between a controller and the API server.

use serde::Deserialize;

/// Failure of one step of a controller. All of them are retried with back-off, so each says what to look at if it stays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused: a `metav1.Status`.
    #[error("the API server answered {} {}: {}", .0.code, .0.reason, .0.message)]
    Api(Box<Status>),
    /// No answer: the server is away.
    #[error("the API server can't be reached, is it running? ({0})")]
    Transport(#[source] Box<kube::Error>),
    /// The answer was cut short.
    #[error("the connection to the API server broke while reading ({0}); trying again")]
    Broken(String),
    /// Not the JSON we expect.
    #[error(
        "the API server's answer to {what} can't be read: {source}; is it a Kubernetes API server?"
    )]
    Decode {
        /// the request
        what: String,
        /// what serde says
        source: serde_json::Error,
    },
    /// No answer in time.
    #[error("the API server gave no answer to {what} in {seconds} s; trying again")]
    Timeout {
        /// the request
        what: String,
        /// the deadline, s
        seconds: u64,
    },
    /// The request couldn't be built, from a name that no server would have let in.
    #[error("{0} can't be put into a request")]
    Request(String),
    /// Something that an object names isn't there, or not heard of so far.
    #[error("{0}")]
    Absent(String),
    /// Something outside the API, e.g. a directory, with what to do.
    #[error("{0}")]
    Other(String),
}

/// The parts of `metav1.Status` that decisions need.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// HTTP status code
    pub code: u16,
    /// e.g. `AlreadyExists`
    pub reason: String,
    /// for people
    pub message: String,
    /// causes
    pub details: Option<Details>,
}

/// `metav1.StatusDetails`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Details {
    /// causes
    pub causes: Vec<Cause>,
}

/// `metav1.StatusCause`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// e.g. `NamespaceTerminating`
    pub reason: String,
}

impl Error {
    fn status(&self) -> Option<&Status> {
        match self {
            Error::Api(s) => Some(s),
            _ => None,
        }
    }
    fn is(&self, code: u16, reason: &str) -> bool {
        self.status()
            .is_some_and(|s| s.code == code && (s.reason == reason || s.reason.is_empty()))
    }
    /// The object isn't there.
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(|s| s.code == 404)
    }
    /// Someone else wrote first, or a precondition fails.
    pub fn is_conflict(&self) -> bool {
        self.is(409, "Conflict")
    }
    /// An object of that name is there.
    pub fn is_already_exists(&self) -> bool {
        self.is(409, "AlreadyExists")
    }
    /// The revision asked for has been compacted.
    pub fn is_gone(&self) -> bool {
        self.status()
            .is_some_and(|s| s.code == 410 || s.reason == "Expired" || s.reason == "Gone")
    }
    /// The object was refused for what it says: trying again the same won't help.
    pub fn is_invalid(&self) -> bool {
        self.status().is_some_and(|s| s.code == 422)
    }
    /// Nothing can be created because the namespace goes away.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status().is_some_and(|s| {
            s.details
                .as_ref()
                .is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
                || (s.code == 403 && s.message.contains("because it is being terminated"))
        })
    }
}

/// Result of a controller's step.
pub type Result<T, E = Error> = std::result::Result<T, E>;
