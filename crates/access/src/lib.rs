//! Who may do what, as pure rules: users, RBAC, the node authorizer's graph, tokens.
//!
//! It is: the matching of a request's attributes with rules, the covering of rules by rules, the index of roles and
//! bindings, the graph of what a node's Pods refer to, the signing and checking of service-account tokens, and the
//! table of roles every cluster is born with.
//! It is not: a place where anything is read, stored, served, or where time is told.
//! It must never know: HTTP, the store, files.
#![forbid(unsafe_code)]

pub mod attributes;
pub mod cover;
pub mod jwt;

pub mod node;
pub mod policy;
pub mod rbac;
pub mod rule;
pub mod user;

pub use attributes::{Attributes, Decision};
pub use rule::Rule;
pub use user::User;
