//! What a client is told when a request fails (distribution-spec, "Error Codes").

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};

/// A refusal: a status, one of the specification's codes, and what to do.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    detail: Option<Box<serde_json::Value>>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

macro_rules! codes {
    ($($name:ident $code:literal $status:ident;)*) => {
        $(pub fn $name(message: impl Into<String>) -> Refusal {
            Refusal::new(StatusCode::$status, $code, message)
        })*
    };
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal {
            status,
            code,
            message: message.into(),
            detail: None,
            headers: Vec::new(),
        }
    }

    codes! {
        blob_unknown "BLOB_UNKNOWN" NOT_FOUND;
        upload_invalid "BLOB_UPLOAD_INVALID" BAD_REQUEST;
        upload_unknown "BLOB_UPLOAD_UNKNOWN" NOT_FOUND;
        out_of_order "BLOB_UPLOAD_INVALID" RANGE_NOT_SATISFIABLE;
        upload_busy "BLOB_UPLOAD_INVALID" CONFLICT;
        digest_invalid "DIGEST_INVALID" BAD_REQUEST;
        size_invalid "SIZE_INVALID" BAD_REQUEST;
        too_large "SIZE_INVALID" PAYLOAD_TOO_LARGE;
        manifest_blob_unknown "MANIFEST_BLOB_UNKNOWN" BAD_REQUEST;
        manifest_invalid "MANIFEST_INVALID" BAD_REQUEST;
        manifest_unknown "MANIFEST_UNKNOWN" NOT_FOUND;
        name_invalid "NAME_INVALID" BAD_REQUEST;
        name_unknown "NAME_UNKNOWN" NOT_FOUND;
        unauthorized "UNAUTHORIZED" UNAUTHORIZED;
        denied "DENIED" FORBIDDEN;
        method "UNSUPPORTED" METHOD_NOT_ALLOWED;
        unsupported "UNSUPPORTED" BAD_REQUEST;
        unsatisfiable "UNSUPPORTED" RANGE_NOT_SATISFIABLE;
        not_here "UNSUPPORTED" NOT_FOUND;
        too_many "TOOMANYREQUESTS" TOO_MANY_REQUESTS;
    }

    /// The machine failed, not the client; the log says more.
    pub fn internal(error: impl std::fmt::Display) -> Refusal {
        tracing::error!(%error, "the registry could not answer");
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "UNKNOWN",
            format!(
                "the registry failed: {error}: see the platform's log and the disk's free space"
            ),
        )
    }

    pub fn detail(mut self, detail: serde_json::Value) -> Refusal {
        self.detail = Some(Box::new(detail));
        self
    }

    pub fn header(mut self, name: HeaderName, value: &str) -> Refusal {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }
}

impl From<knarr_image::Error> for Refusal {
    fn from(error: knarr_image::Error) -> Refusal {
        Refusal::internal(error)
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Refusal {
        Refusal::internal(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut one = serde_json::json!({ "code": self.code, "message": self.message });
        if let Some(detail) = self.detail {
            one["detail"] = *detail;
        }
        let body = serde_json::json!({ "errors": [one] }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        let json = HeaderValue::from_static("application/json");
        response
            .headers_mut()
            .insert(axum::http::header::CONTENT_TYPE, json);
        response
    }
}
