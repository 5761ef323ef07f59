//! What is wrong with a Dockerfile, and where.

use crate::words::WordsError;

/// The result of reading.
pub type Result<T> = std::result::Result<T, Error>;

/// A mistake in a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dockerfile parse error on line {line}: {why}")]
pub struct Error {
    /// First line of the instruction, from 1.
    pub line: usize,
    /// Last line of the instruction, from 1.
    pub last: usize,
    /// What is wrong, in BuildKit's words where it has some.
    pub why: String,
    /// An instruction is wrong by itself, not its place or what its variables are: BuildKit says so before the rest.
    pub of_instruction: bool,
}

impl Error {
    /// As BuildKit says it: the line is named only where an instruction is wrong by itself.
    pub fn said(&self) -> String {
        match self.of_instruction {
            true => self.to_string(),
            false => self.why.clone(),
        }
    }

    pub(crate) fn new(line: usize, last: usize, why: impl Into<String>) -> Error {
        Error {
            line,
            last: last.max(line),
            why: why.into(),
            of_instruction: false,
        }
    }

    /// Of a file without a byte, which is nobody's line.
    pub(crate) fn empty() -> Error {
        Error::new(0, 0, "the Dockerfile cannot be empty")
    }

    pub(crate) fn words(line: usize, last: usize, e: &WordsError) -> Error {
        Error::new(line, last, e.to_string())
    }
}
