//! `field.Error` in upstream's wording (apimachinery `pkg/util/validation/field`).

use std::fmt;

use serde_json::Value;

use crate::registry::FieldError;

impl FieldError {
    /// Path of the field, e.g. `spec.replicas`.
    pub fn field(&self) -> &str {
        match self {
            FieldError::Required { field, .. }
            | FieldError::Invalid { field, .. }
            | FieldError::NotSupported { field, .. }
            | FieldError::Duplicate { field, .. }
            | FieldError::Omitted { field, .. }
            | FieldError::Forbidden { field, .. }
            | FieldError::TooLong { field, .. }
            | FieldError::TooMany { field, .. }
            | FieldError::NotFound { field, .. }
            | FieldError::NotFoundBecause { field, .. }
            | FieldError::InvalidShown { field, .. }
            | FieldError::NotSupportedShown { field, .. }
            | FieldError::DuplicateShown { field, .. }
            | FieldError::TypeInvalid { field, .. }
            | FieldError::Internal { field, .. } => field,
        }
    }

    /// The same, to be changed.
    pub fn field_mut(&mut self) -> &mut String {
        match self {
            FieldError::Required { field, .. }
            | FieldError::Invalid { field, .. }
            | FieldError::NotSupported { field, .. }
            | FieldError::Duplicate { field, .. }
            | FieldError::DuplicateShown { field, .. }
            | FieldError::Omitted { field, .. }
            | FieldError::Forbidden { field, .. }
            | FieldError::TooLong { field, .. }
            | FieldError::TooMany { field, .. }
            | FieldError::NotFound { field, .. }
            | FieldError::NotFoundBecause { field, .. }
            | FieldError::InvalidShown { field, .. }
            | FieldError::NotSupportedShown { field, .. }
            | FieldError::TypeInvalid { field, .. }
            | FieldError::Internal { field, .. } => field,
        }
    }

    /// `details.causes[].reason`.
    pub fn cause_reason(&self) -> &'static str {
        match self {
            FieldError::Required { .. } => "FieldValueRequired",
            FieldError::Invalid { .. } | FieldError::InvalidShown { .. } => "FieldValueInvalid",
            FieldError::NotSupported { .. } | FieldError::NotSupportedShown { .. } => {
                "FieldValueNotSupported"
            }
            FieldError::Duplicate { .. }
            | FieldError::DuplicateShown { .. }
            | FieldError::Omitted {
                duplicate: true, ..
            } => "FieldValueDuplicate",
            FieldError::Omitted { .. } => "FieldValueInvalid",
            FieldError::Forbidden { .. } => "FieldValueForbidden",
            FieldError::TooLong { .. } => "FieldValueTooLong",
            FieldError::TooMany { .. } => "FieldValueTooMany",
            FieldError::NotFound { .. } | FieldError::NotFoundBecause { .. } => {
                "FieldValueNotFound"
            }
            FieldError::TypeInvalid { .. } => "FieldValueTypeInvalid",
            FieldError::Internal { .. } => "InternalError",
        }
    }

    /// The message without the field's path.
    pub fn body(&self) -> String {
        let (head, detail) = match self {
            FieldError::Required { detail, .. } => ("Required value".to_string(), detail.clone()),
            FieldError::Omitted {
                duplicate, detail, ..
            } => {
                let head = if *duplicate {
                    "Duplicate value"
                } else {
                    "Invalid value"
                };
                (head.to_string(), detail.clone())
            }
            FieldError::Forbidden { detail, .. } => ("Forbidden".to_string(), detail.clone()),
            FieldError::Internal { detail, .. } => ("Internal error".to_string(), detail.clone()),
            FieldError::Invalid { value, detail, .. }
            | FieldError::TypeInvalid { value, detail, .. } => {
                (format!("Invalid value: {}", show(value)), detail.clone())
            }
            FieldError::NotSupported {
                value, supported, ..
            } => (
                format!("Unsupported value: {}", show(value)),
                supported_values(supported),
            ),
            FieldError::NotSupportedShown {
                shown, supported, ..
            } => (
                format!("Unsupported value: {shown}"),
                supported_values(supported),
            ),
            FieldError::Duplicate { value, .. } => {
                (format!("Duplicate value: {}", show(value)), String::new())
            }
            FieldError::DuplicateShown { shown, detail, .. } => {
                (format!("Duplicate value: {shown}"), detail.clone())
            }
            FieldError::NotFound { value, .. } => {
                (format!("Not found: {}", show(value)), String::new())
            }
            FieldError::InvalidShown { shown, detail, .. } => (
                match shown {
                    Some(shown) => format!("Invalid value: {shown}"),
                    None => "Invalid value".into(),
                },
                detail.clone(),
            ),
            FieldError::NotFoundBecause { value, detail, .. } => {
                (format!("Not found: {}", show(value)), detail.clone())
            }
            FieldError::TooLong { max, .. } => (
                "Too long".to_string(),
                format!("may not be more than {max} bytes"),
            ),
            FieldError::TooMany { actual, max, .. } => (
                format!("Too many: {actual}"),
                format!("must have at most {max} items"),
            ),
        };
        if detail.is_empty() {
            head
        } else {
            format!("{head}: {detail}")
        }
    }
}

fn supported_values(supported: &[String]) -> String {
    let names: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
    if names.is_empty() {
        String::new()
    } else {
        format!("supported values: {}", names.join(", "))
    }
}

/// Go's `%q` for strings, plain for numbers and booleans, JSON for the rest.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        // Go's %q
        Value::String(text) if text.chars().any(char::is_control) => {
            let mut out = String::from("\"");
            for c in text.chars() {
                match c {
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    '"' => out.push_str("\\\""),
                    '\\' => out.push_str("\\\\"),
                    c if c.is_ascii_control() => {
                        out.push_str(&format!("\\x{:02x}", u32::from(c)));
                    }
                    c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                    c => out.push(c),
                }
            }
            out.push('"');
            out
        }
        other => other.to_string(),
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field().is_empty() {
            f.write_str(&self.body())
        } else {
            write!(f, "{}: {}", self.field(), self.body())
        }
    }
}
