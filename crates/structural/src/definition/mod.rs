//! The checks of the schemas themselves.
