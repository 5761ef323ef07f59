//! The one schema engine: what the fields of each kind are, and everything that follows from it.
//!
//! It is: defaulting, pruning, strict field validation, strategic-merge patch, server-side apply, OpenAPI v2 and v3, protobuf decoding and encoding, over one type table for built-in kinds (those of CRDs are `knarr-structural`'s).
//! It is not: an HTTP server or a store.
//! It must never know: requests, controllers, containers.
#![forbid(unsafe_code)]

mod custom;
mod decode;
mod encode;
mod go;
pub mod managed;
mod merge;
pub mod openapi;
mod protobuf;
mod scalar;
mod table;
mod types;
mod unstructured;

pub use custom::{CustomField, CustomList, CustomType};
pub use decode::{DecodeError, Decoded, conform, decode, syntax_error};
pub use encode::{
    ENVELOPE_TAIL, encode_protobuf, protobuf_envelope, protobuf_list_item, protobuf_list_meta,
    protobuf_message, protobuf_watch_frame,
};
pub use go::{go_type, go_value};
pub use merge::strategic_merge;
pub use protobuf::decode_protobuf;
pub use scalar::duration;
pub use types::{Shape, TypeRef, kind, named};
pub use unstructured::{go_merged, unstructured_error};
