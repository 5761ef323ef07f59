//! Errors of the schema engine as the API tells them.

use knarr_structural::{Error, Kind};

use crate::registry::FieldError;

/// The same error.
pub fn told(e: Error) -> FieldError {
    let Error {
        field,
        kind,
        detail,
    } = e;
    match kind {
        Kind::Required => FieldError::Required { field, detail },
        Kind::Invalid(value) => FieldError::Invalid {
            field,
            value,
            detail,
        },
        Kind::TypeInvalid(value) => FieldError::TypeInvalid {
            field,
            value,
            detail,
        },
        Kind::NotSupported(value, supported) => FieldError::NotSupported {
            field,
            value,
            supported,
        },
        Kind::Duplicate(value) => FieldError::Duplicate { field, value },
        Kind::Forbidden => FieldError::Forbidden { field, detail },
        Kind::TooLong(max) => FieldError::TooLong {
            field,
            value: "".into(),
            max: usize::try_from(max).unwrap_or(0),
        },
        Kind::TooMany(actual, max) => FieldError::TooMany {
            field,
            actual: usize::try_from(actual).unwrap_or(0),
            max: usize::try_from(max).unwrap_or(0),
        },
        Kind::Internal => FieldError::Forbidden { field, detail },
    }
}
