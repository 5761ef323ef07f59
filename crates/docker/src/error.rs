//! What a client is told when it doesn't get what it asked for: a status and `{"message": …}`.

use http::StatusCode;

/// Docker's errors are a status and a sentence; clients look at both.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub status: StatusCode,
    pub message: String,
}

pub type Result<T, E = Fault> = std::result::Result<T, E>;

impl Fault {
    fn new(status: StatusCode, message: impl Into<String>) -> Fault {
        Fault {
            status,
            message: message.into(),
        }
    }
    pub fn bad(message: impl Into<String>) -> Fault {
        Fault::new(StatusCode::BAD_REQUEST, message)
    }
    pub fn not_found(message: impl Into<String>) -> Fault {
        Fault::new(StatusCode::NOT_FOUND, message)
    }
    pub fn conflict(message: impl Into<String>) -> Fault {
        Fault::new(StatusCode::CONFLICT, message)
    }
    pub fn server(message: impl std::fmt::Display) -> Fault {
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, message.to_string())
    }
    pub fn forbidden(message: impl Into<String>) -> Fault {
        Fault::new(StatusCode::FORBIDDEN, message)
    }
    pub fn unauthorized(message: impl Into<String>) -> Fault {
        Fault::new(StatusCode::UNAUTHORIZED, message)
    }
    pub fn unavailable(message: impl Into<String>) -> Fault {
        Fault::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }
    /// Docker can do it, we can't.
    pub fn unsupported(what: impl std::fmt::Display) -> Fault {
        Fault::new(
            StatusCode::NOT_IMPLEMENTED,
            format!("{what} is not supported by knarr"),
        )
    }
    /// Nothing to do: the state asked for is there already. Has no body.
    pub fn not_modified() -> Fault {
        Fault::new(StatusCode::NOT_MODIFIED, "")
    }
}

impl From<kube::Error> for Fault {
    fn from(e: kube::Error) -> Fault {
        match e {
            kube::Error::Api(status) => Fault::server(status.message.clone()),
            e => Fault::server(e),
        }
    }
}

impl From<knarr_image::Error> for Fault {
    fn from(e: knarr_image::Error) -> Fault {
        use knarr_image::Error;
        match &e {
            Error::Reference(_) => Fault::bad("invalid reference format"),
            Error::NotFound(name) => Fault::not_found(format!("No such image: {name}")),
            _ => Fault::server(e),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(e: std::io::Error) -> Fault {
        Fault::server(e)
    }
}

impl From<serde_json::Error> for Fault {
    fn from(e: serde_json::Error) -> Fault {
        Fault::server(e)
    }
}

/// A task off the event loop, whole.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Fault::server)?
}
