//! What goes wrong between here and a registry.

/// Pull and push fail by these; each says what to do next where something can be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] crate::Error),
    #[error(
        "{registry} denies access to {repository}: {why}; the repository may not exist, or may need a login: `knarr login {registry}`"
    )]
    Denied {
        registry: String,
        repository: String,
        why: String,
    },
    #[error("{reference} was not found: {why}")]
    NotFound { reference: String, why: String },
    #[error("{url}: {why}")]
    Network { url: String, why: String },
    #[error("{url} answered {status}{}{body}", if body.is_empty() { "" } else { ": " })]
    Status {
        url: String,
        status: u16,
        body: String,
        /// What the answer's `Retry-After` asks for.
        retry_after_s: Option<u64>,
    },
    /// The registry sent something else than what was asked for.
    #[error("{url} sent something else than it should: {why}")]
    Wrong { url: String, why: String },
    #[error("{reference} has no image for {platform}; it has {has}")]
    Platform {
        reference: String,
        platform: String,
        has: String,
    },
    #[error("{path}: {why}")]
    Config { path: String, why: String },
    #[error("credentials for {registry}: {why}")]
    Credentials { registry: String, why: String },
    #[error("{0} is an artifact, no image: its config is of type {1}")]
    Artifact(String, String),
    #[error("the policy in {path} doesn't allow {image}: {why}")]
    Policy {
        path: String,
        image: String,
        why: String,
    },
}

impl Error {
    /// Whether another try may go better: broken connections, timeouts, 408, 429 and 5xx.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Network { .. } => true,
            Error::Status { status, .. } => *status >= 500 || matches!(status, 408 | 429),
            _ => false,
        }
    }

    pub(super) fn network(url: impl ToString, why: impl ToString) -> Error {
        Error::Network {
            url: url.to_string(),
            why: why.to_string(),
        }
    }

    pub(super) fn wrong(url: impl ToString, why: impl ToString) -> Error {
        Error::Wrong {
            url: url.to_string(),
            why: why.to_string(),
        }
    }
}
