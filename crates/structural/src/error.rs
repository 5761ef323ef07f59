//! One failed field: apimachinery's `field.Error`, without its wording.

use serde_json::Value;

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Required,
    Invalid(Value),
    TypeInvalid(Value),
    /// The value, and what is supported.
    NotSupported(Value, Vec<String>),
    Duplicate(Value),
    Forbidden,
    /// The most bytes.
    TooLong(i64),
    /// How many there are, and the most there may be.
    TooMany(i64, i64),
    Internal,
}

/// One failed field.
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    /// Path as upstream prints it: `spec.list[0].name`.
    pub field: String,
    pub kind: Kind,
    pub detail: String,
}

impl Error {
    pub fn new(field: impl ToString, kind: Kind, detail: impl Into<String>) -> Error {
        Error {
            field: field.to_string(),
            kind,
            detail: detail.into(),
        }
    }
    pub fn required(field: impl ToString, detail: impl Into<String>) -> Error {
        Error::new(field, Kind::Required, detail)
    }
    pub fn invalid(
        field: impl ToString,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Error {
        Error::new(field, Kind::Invalid(value.into()), detail)
    }
    pub fn forbidden(field: impl ToString, detail: impl Into<String>) -> Error {
        Error::new(field, Kind::Forbidden, detail)
    }
    pub fn not_supported(
        field: impl ToString,
        value: impl Into<Value>,
        supported: &[&str],
    ) -> Error {
        let supported = supported.iter().map(|s| s.to_string()).collect();
        Error::new(field, Kind::NotSupported(value.into(), supported), "")
    }
    pub fn duplicate(field: impl ToString, value: impl Into<Value>) -> Error {
        Error::new(field, Kind::Duplicate(value.into()), "")
    }
}
