//! The one schema engine: what the fields of each kind are, and everything that follows from it.
//!
//! It is: defaulting, pruning, strict field validation, strategic-merge patch, server-side apply, OpenAPI v2 and v3, protobuf decoding, over one type table for built-in kinds (and, later, CRDs).
//! It is not: an HTTP server or a store.
//! It must never know: requests, controllers, containers.
#![forbid(unsafe_code)]

mod decode;
mod scalar;
mod table;
mod types;

pub use decode::{DecodeError, Decoded, conform, decode};
pub use types::{TypeRef, kind, named};

use bytes::Bytes;
use serde_json::Value;

/// `k8s\0` envelope (application/vnd.kubernetes.protobuf) to JSON. Returns (apiVersion, kind, value).
pub fn decode_protobuf(bytes: &[u8]) -> Result<(String, String, Value), DecodeError> {
    let _ = bytes;
    todo!()
}

/// Strategic merge patch with every directive ($patch, $retainKeys, $deleteFromPrimitiveList, $setElementOrder).
pub fn strategic_merge(ty: TypeRef, original: &Value, patch: &Value) -> Result<Value, DecodeError> {
    let _ = (ty, original, patch);
    todo!()
}

/// Server-side apply and managedFields (structured-merge-diff).
pub mod managed {
    use super::*;
    pub struct Manager<'a> {
        pub name: &'a str,
        pub subresource: &'a str,
        /** e.g. "apps/v1" */
        pub api_version: &'a str,
        /** RFC 3339 seconds */
        pub time: &'a str,
    }
    #[derive(Debug)]
    pub struct Conflict {
        pub manager: String,
        /** rendered as upstream: `using apps/v1 at 2024-…` part, field path `.spec.replicas` */
        pub message: String,
        pub field: String,
    }
    #[derive(Debug)]
    pub enum ApplyError {
        /** 409 with causes FieldManagerConflict, upstream's wording */
        Conflicts {
            message: String,
            causes: Vec<Conflict>,
        },
        Invalid(String),
    }
    /// `live` None = create. Returns the merged object with metadata.managedFields updated; equal to `live` (incl. managedFields timestamps) when nothing changed.
    pub fn apply(
        ty: TypeRef,
        live: Option<&Value>,
        applied: &Value,
        manager: &Manager<'_>,
        force: bool,
    ) -> Result<Value, ApplyError> {
        let _ = (ty, live, applied, manager, force);
        todo!()
    }
    /// After create/update/patch by a non-apply manager: `new` gets its managedFields (from `live`'s, or the request's own if it set them validly; `[]` clears).
    pub fn update(ty: TypeRef, live: Option<&Value>, new: &mut Value, manager: &Manager<'_>) {
        let _ = (ty, live, new, manager);
        todo!()
    }
}

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
