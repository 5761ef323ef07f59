//! What can go wrong before there are streams.

/// Why a streaming request could not be answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request isn't an upgrade we can make (HTTP 400). The message is upstream's.
    #[error("{0}")]
    BadRequest(String),
    /// Client and server have no streaming protocol in common (HTTP 403, as upstream answers).
    #[error(
        "unable to upgrade: unable to negotiate protocol: client supports {client:?}, server accepts {server:?}"
    )]
    NoCommonProtocol {
        client: Vec<String>,
        server: &'static [&'static str],
    },
    /// The connection failed, or the client did not open its streams in time.
    #[error("{0}")]
    Io(String),
}

impl Error {
    /// The HTTP status to answer with.
    pub fn status_code(&self) -> http::StatusCode {
        match self {
            Error::BadRequest(_) => http::StatusCode::BAD_REQUEST,
            Error::NoCommonProtocol { .. } => http::StatusCode::FORBIDDEN,
            Error::Io(_) => http::StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
