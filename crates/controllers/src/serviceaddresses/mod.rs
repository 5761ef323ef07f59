//! The addresses of Services: the ranges that they are given of, and IPAddresses that belong to no Service or that a Service
//! misses.

mod ranges;
mod repair;

pub use ranges::start as ranges;
pub use repair::start as repair;
