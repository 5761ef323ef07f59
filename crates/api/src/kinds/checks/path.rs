//! Places in an object, and the errors found there (apimachinery `pkg/util/validation/field`).

use crate::registry::FieldError;
use serde_json::Value;
use std::fmt;

/// A place in an object: `spec.containers[0].resources.limits[cpu]`. Written out only when something is wrong there.
#[derive(Clone, Copy)]
pub(crate) enum Path<'a> {
    /// Where it starts.
    Root(&'a str),
    /// A field; several at once when the text has dots.
    Child(&'a Path<'a>, &'a str),
    /// An item of a list.
    Index(&'a Path<'a>, usize),
    /// A key of a mapping.
    Key(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    /// The field `name` below.
    pub(crate) fn child(&'a self, name: &'a str) -> Path<'a> {
        Path::Child(self, name)
    }
    /// The item `i` below.
    pub(crate) fn index(&'a self, i: usize) -> Path<'a> {
        Path::Index(self, i)
    }
    /// The key `key` below.
    pub(crate) fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root(name) => f.write_str(name),
            Path::Child(Path::Root(""), name) => f.write_str(name),
            Path::Child(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, i) => write!(f, "{parent}[{i}]"),
            Path::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

/// How Go's JSON writes one of upstream's own types: all fields, in order, by their Go names.
pub(crate) enum Go {
    /// A pointer, a number, a list: as it is; null when absent.
    Plain,
    /// A text; empty when absent.
    Text,
    /// A pointer to a struct: JSON name and Go name of each field.
    Struct(&'static [(&'static str, &'static str, Go)]),
    /// A struct of the API itself, which leaves out what isn't there, but for texts.
    Api(&'static [(&'static str, Go)]),
    /// A list of these.
    List(&'static Go),
    /// A type of the table of upstream's own.
    Internal(&'static str),
}
impl Go {
    /// The value in JSON, as Go writes it.
    pub(crate) fn write(&self, value: &Value) -> String {
        match (self, value) {
            (Go::Internal(ty), value) => super::internal::write(ty, value),
            (Go::Text, Value::Null) => "\"\"".into(),
            (Go::Struct(fields), Value::Object(map)) => {
                let all: Vec<String> = fields
                    .iter()
                    .map(|(json, go, of)| {
                        let value = map.get(*json).unwrap_or(&Value::Null);
                        format!("{go:?}:{}", of.write(value))
                    })
                    .collect();
                format!("{{{}}}", all.join(","))
            }
            (Go::Api(fields), Value::Object(map)) => {
                let all: Vec<String> = fields
                    .iter()
                    .filter_map(|(name, of)| match (map.get(*name), of) {
                        (None, Go::Text) => Some((name, of.write(&Value::Null))),
                        (value, of) => Some((name, of.write(value?))),
                    })
                    .map(|(name, value)| format!("{name:?}:{value}"))
                    .collect();
                format!("{{{}}}", all.join(","))
            }
            (Go::List(of), Value::Array(all)) => {
                let all: Vec<String> = all.iter().map(|v| of.write(v)).collect();
                format!("[{}]", all.join(","))
            }
            (_, value) => value.to_string(),
        }
    }
}

/// LabelSelector
pub(crate) const SELECTOR: Go = Go::Api(&[
    ("matchLabels", Go::Plain),
    (
        "matchExpressions",
        Go::List(&Go::Api(&[
            ("key", Go::Text),
            ("operator", Go::Text),
            ("values", Go::Plain),
        ])),
    ),
]);

/// What a check found, in the order it was found.
#[derive(Default)]
pub(crate) struct Errors(pub(crate) Vec<FieldError>);

impl Errors {
    pub(crate) fn required(&mut self, at: &Path<'_>, detail: &str) {
        self.0.push(FieldError::Required {
            field: at.to_string(),
            detail: detail.into(),
        });
    }
    pub(crate) fn invalid(
        &mut self,
        at: &Path<'_>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        self.0.push(FieldError::Invalid {
            field: at.to_string(),
            value: value.into(),
            detail: detail.into(),
        });
    }
    /// What was wrong, without places and values.
    pub(crate) fn details(self) -> Vec<String> {
        self.0
            .into_iter()
            .filter_map(|e| match e {
                FieldError::Invalid { detail, .. } => Some(detail),
                _ => None,
            })
            .collect()
    }
    /// One `Invalid` for each message of a rule.
    pub(crate) fn broken(
        &mut self,
        at: &Path<'_>,
        value: impl Into<Value> + Clone,
        messages: Vec<String>,
    ) {
        for message in messages {
            self.invalid(at, value.clone(), message);
        }
    }
    pub(crate) fn forbidden(&mut self, at: &Path<'_>, detail: impl Into<String>) {
        self.0.push(FieldError::Forbidden {
            field: at.to_string(),
            detail: detail.into(),
        });
    }
    pub(crate) fn not_supported(
        &mut self,
        at: &Path<'_>,
        value: impl Into<Value>,
        supported: &[&str],
    ) {
        self.0.push(FieldError::NotSupported {
            field: at.to_string(),
            value: value.into(),
            supported: supported.iter().map(|s| (*s).to_string()).collect(),
        });
    }
    pub(crate) fn duplicate(&mut self, at: &Path<'_>, value: impl Into<Value>) {
        self.0.push(FieldError::Duplicate {
            field: at.to_string(),
            value: value.into(),
        });
    }
    /// A `Duplicate` that shows the value as upstream's own type is written.
    pub(crate) fn duplicate_shown(&mut self, at: &Path<'_>, shown: String) {
        self.0.push(FieldError::DuplicateShown {
            field: at.to_string(),
            shown,
            detail: String::new(),
        });
    }
    /// [`Errors::duplicate_shown`] with what must be one of a kind.
    pub(crate) fn duplicate_because(&mut self, at: &Path<'_>, shown: String, detail: &str) {
        self.0.push(FieldError::DuplicateShown {
            field: at.to_string(),
            shown,
            detail: detail.into(),
        });
    }
    pub(crate) fn not_found(&mut self, at: &Path<'_>, value: impl Into<Value>) {
        self.0.push(FieldError::NotFound {
            field: at.to_string(),
            value: value.into(),
        });
    }
    /// An `Invalid` that doesn't show the value.
    pub(crate) fn invalid_plain(&mut self, at: &Path<'_>, detail: &str) {
        self.0.push(FieldError::InvalidShown {
            field: at.to_string(),
            shown: None,
            detail: detail.into(),
        });
    }
    /// An `Invalid` that shows the value as upstream's own type with these fields (JSON names, in order) is written.
    pub(crate) fn invalid_go(&mut self, at: &Path<'_>, value: &Value, go: &Go, detail: &str) {
        self.0.push(FieldError::InvalidShown {
            field: at.to_string(),
            shown: Some(go.write(value)),
            detail: detail.into(),
        });
    }
    /// [`Errors::not_found`] with what would have been found.
    pub(crate) fn not_found_because(
        &mut self,
        at: &Path<'_>,
        value: impl Into<Value>,
        detail: String,
    ) {
        self.0.push(FieldError::NotFoundBecause {
            field: at.to_string(),
            value: value.into(),
            detail,
        });
    }
    pub(crate) fn too_long(&mut self, at: &Path<'_>, max: usize) {
        self.0.push(FieldError::TooLong {
            field: at.to_string(),
            value: Value::Null,
            max,
        });
    }
    pub(crate) fn too_many(&mut self, at: &Path<'_>, actual: usize, max: usize) {
        self.0.push(FieldError::TooMany {
            field: at.to_string(),
            actual,
            max,
        });
    }

    /// `must be greater than or equal to 0` for a number that isn't; `value` may be absent.
    pub(crate) fn nonnegative(&mut self, at: &Path<'_>, value: &Value) {
        if let Some(n) = value.as_i64().filter(|n| *n < 0) {
            self.invalid(at, n, "must be greater than or equal to 0");
        }
    }
    /// `must be greater than 0` for a number that isn't; `value` may be absent.
    pub(crate) fn positive(&mut self, at: &Path<'_>, value: &Value) {
        if let Some(n) = value.as_i64().filter(|n| *n <= 0) {
            self.invalid(at, n, "must be greater than 0");
        }
    }
    /// A text that is none of a few, shown as Go writes its struct.
    pub(crate) fn not_supported_go(
        &mut self,
        at: &Path<'_>,
        value: &Value,
        go: &Go,
        supported: &[&str],
    ) {
        self.0.push(FieldError::NotSupportedShown {
            field: at.to_string(),
            shown: go.write(value),
            supported: supported.iter().map(|s| (*s).to_string()).collect(),
        });
    }
    /// `field is immutable` when two values differ.
    pub(crate) fn immutable(&mut self, at: &Path<'_>, new: &Value, old: &Value) {
        if new != old {
            self.invalid(at, new.clone(), "field is immutable");
        }
    }
    /// [`Errors::immutable`] that shows the value as Go writes its struct.
    pub(crate) fn immutable_go(&mut self, at: &Path<'_>, new: &Value, old: &Value, go: &Go) {
        if new != old {
            self.invalid_go(at, new, go, "field is immutable");
        }
    }
    /// A text that must be one of a few when it is there.
    pub(crate) fn supported(&mut self, at: &Path<'_>, value: &Value, supported: &[&str]) {
        if let Some(v) = value.as_str().filter(|v| !supported.contains(v)) {
            self.not_supported(at, v, supported);
        }
    }
    /// A text that must be one of a few: missing is `Required`, another `Unsupported`.
    pub(crate) fn one_of(&mut self, at: &Path<'_>, value: &Value, supported: &[&str]) {
        match value.as_str().unwrap_or_default() {
            "" => self.required(at, ""),
            v if !supported.contains(&v) => self.not_supported(at, v, supported),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_as_upstreams() {
        let spec = Path::Root("spec");
        let containers = spec.child("containers");
        let limits = containers.index(2);
        let limits = limits.child("resources.limits");
        assert_eq!(
            limits.key("cpu").to_string(),
            "spec.containers[2].resources.limits[cpu]"
        );
        assert_eq!(Path::Root("").child("ports").to_string(), "ports");
    }
}
