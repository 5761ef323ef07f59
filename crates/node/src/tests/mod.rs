//! The node against a real API server and a fake runtime.

mod fake;
mod kinds;
mod lifecycle;
