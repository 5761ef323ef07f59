//! Errors as HTTP answers.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::StatusCode;

/// An answer other than success: a status and a sentence for the caller.
#[derive(Debug, thiserror::Error)]
#[error("{status}: {message}")]
pub struct Failure {
    pub status: StatusCode,
    pub message: String,
}

impl Failure {
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    #[must_use]
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (
            self.status,
            Json(serde_json::json!({ "error": self.message })),
        )
            .into_response()
    }
}

impl From<crate::db::Error> for Failure {
    fn from(error: crate::db::Error) -> Self {
        tracing::error!(%error, "database");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the database did not answer: try again",
        )
    }
}

impl From<crate::redis::Error> for Failure {
    fn from(error: crate::redis::Error) -> Self {
        tracing::warn!(%error, "redis");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Redis did not answer: try again",
        )
    }
}

impl From<crate::client::Error> for Failure {
    fn from(error: crate::client::Error) -> Self {
        tracing::warn!(%error, "call");
        Self::new(StatusCode::BAD_GATEWAY, error.to_string())
    }
}
