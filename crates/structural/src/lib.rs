//! Structural schemas: what a CustomResourceDefinition says of its objects, and everything that follows from it.
//!
//! It is: reading and checking of the schemas themselves, pruning, defaulting, value validation with upstream's messages, ratcheting, uniqueness in sets and maps, embedded metadata, simple JSONPath; all pure.
//! It is not: an HTTP server, a store, or the language of `x-kubernetes-validations` (that is `knarr-cel`).
//! It must never know: requests, watches, which resources are served.
#![forbid(unsafe_code)]

mod coerce;
mod correlate;
mod decode;
pub mod definition;
mod error;
mod formats;
mod jsonpath;
mod lists;
mod numbers;
mod path;
mod prune;
mod schema;
mod validate;

pub use coerce::{coerce, embedded};
pub use correlate::{Pair, same};
pub use decode::{Decoded, decode};
pub use error::{Error, Kind};
pub use jsonpath::JsonPath;
pub use lists::uniqueness;
pub use path::Path;
pub use prune::{default, drop_nulls, prune};
pub use schema::{Additional, Checks, ListType, Rule, Schema, Type};
pub use validate::{validate, validate_update};
