//! What a call ended with.

use http::HeaderMap;

/// The codes that decide what happens next.
pub mod code {
    pub const OK: u32 = 0;
    pub const CANCELLED: u32 = 1;
    pub const UNKNOWN: u32 = 2;
    pub const INVALID_ARGUMENT: u32 = 3;
    pub const NOT_FOUND: u32 = 5;
    pub const ALREADY_EXISTS: u32 = 6;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const UNIMPLEMENTED: u32 = 12;
    pub const INTERNAL: u32 = 13;
    pub const UNAVAILABLE: u32 = 14;
}

/// An end that is no success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    pub code: u32,
    pub message: String,
}

impl Status {
    pub fn new(code: u32, message: impl Into<String>) -> Status {
        Status {
            code,
            message: message.into(),
        }
    }

    pub fn unknown(message: impl std::fmt::Display) -> Status {
        Status::new(code::UNKNOWN, message.to_string())
    }

    pub fn unavailable(message: impl std::fmt::Display) -> Status {
        Status::new(code::UNAVAILABLE, message.to_string())
    }

    /// From the headers or trailers of an answer; None: they don't say.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Status> {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let code = text("grpc-status")?.parse().unwrap_or(code::UNKNOWN);
        let message = text("grpc-message").unwrap_or_default();
        let message = percent_encoding::percent_decode_str(message).decode_utf8_lossy();
        Some(Status::new(code, message.into_owned()))
    }

    /// As trailers.
    pub(crate) fn write(&self) -> HeaderMap {
        /// Printable ASCII but the percent sign stays.
        const SET: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", self.code.into());
        let message = percent_encoding::utf8_percent_encode(&self.message, SET).to_string();
        if let Ok(message) = message.parse() {
            trailers.insert("grpc-message", message);
        }
        trailers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for message in ["", "not found", "50% of\nit", "für"] {
            let status = Status::new(code::NOT_FOUND, message);
            assert_eq!(Status::read(&status.write()), Some(status));
        }
        assert_eq!(Status::read(&HeaderMap::new()), None);
    }
}
