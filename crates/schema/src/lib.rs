//! The one schema engine: what the fields of each kind are, and everything that follows from it.
//!
//! It is: defaulting, pruning, strict field validation, strategic-merge patch, server-side apply, OpenAPI v2 and v3, protobuf decoding, over one type table for built-in kinds (and, later, CRDs).
//! It is not: an HTTP server or a store.
//! It must never know: requests, controllers, containers.
#![forbid(unsafe_code)]

mod decode;
mod go;
pub mod managed;
mod merge;
mod protobuf;
mod scalar;
mod table;
mod types;

pub use decode::{DecodeError, Decoded, conform, decode};
pub use merge::strategic_merge;
pub use protobuf::decode_protobuf;
pub use types::{TypeRef, kind, named};

use bytes::Bytes;

/// OpenAPI documents, made on demand from the table (not kept in memory).
pub mod openapi {
    use super::*;
    /// What the API serves: used for the paths section.
    pub struct Served<'a> {
        pub group: &'a str,
        pub version: &'a str,
        pub kind: &'a str,
        pub plural: &'a str,
        pub namespaced: bool,
        pub verbs: &'a [&'a str],
        pub subresources: &'a [&'a str],
    }
    /// `/openapi/v3/apis/apps/v1`
    pub fn v3(group: &str, version: &str, served: &[Served<'_>]) -> Bytes {
        let _ = (group, version, served);
        todo!()
    }
    /// `/openapi/v2` as JSON
    pub fn v2_json(served: &[Served<'_>]) -> Bytes {
        let _ = served;
        todo!()
    }
    /// `/openapi/v2` as gnostic protobuf (what kubectl 1.20 asks for)
    pub fn v2_protobuf(served: &[Served<'_>]) -> Bytes {
        let _ = served;
        todo!()
    }
}
