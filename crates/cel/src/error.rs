//! What can go wrong when evaluating.

/// Why an evaluation gave no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The expression's own error: a missing key, a division by zero. `||` and `&&` absorb it.
    Value,
    /// This one evaluation cost more than [`crate::limits::PER_CALL`].
    CallLimit,
    /// The budget shared by several evaluations is used up.
    Budget,
}

/// An evaluation's error; the text is cel-go's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    pub kind: ErrorKind,
    pub message: String,
}

impl EvalError {
    pub(crate) fn new(message: impl Into<String>) -> EvalError {
        EvalError {
            kind: ErrorKind::Value,
            message: message.into(),
        }
    }
    pub(crate) fn no_overload() -> EvalError {
        EvalError::new("no such overload")
    }
    pub(crate) fn no_key(key: impl std::fmt::Display) -> EvalError {
        EvalError::new(format!("no such key: {key}"))
    }
    pub(crate) fn call_limit() -> EvalError {
        EvalError {
            kind: ErrorKind::CallLimit,
            message: "operation cancelled: actual cost limit exceeded".into(),
        }
    }
    pub(crate) fn budget() -> EvalError {
        let message = "validation failed due to running out of cost budget, no further validation rules will be run";
        EvalError {
            kind: ErrorKind::Budget,
            message: message.into(),
        }
    }
    pub(crate) fn is_no_overload(&self) -> bool {
        self.kind == ErrorKind::Value && self.message == "no such overload"
    }
    /// Whether `||` and `&&` may absorb it.
    pub(crate) fn absorbable(&self) -> bool {
        self.kind == ErrorKind::Value
    }
}
