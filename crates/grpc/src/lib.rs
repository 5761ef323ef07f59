//! gRPC and its messages, by hand: a few dozen messages don't pay for a code generator and its runtime.
//!
//! It is: protobuf's wire format, gRPC's framing over HTTP/2, calls of a connection that there is already, both sides.
//! It is not: a connection pool, a code generator, a resolver of names.
//! It must never know: whose messages they are.
//!
//! Source: grpc `doc/PROTOCOL-HTTP2.md`, protobuf.dev "Encoding".
#![forbid(unsafe_code)]

mod client;
mod frame;
pub mod proto;
mod server;
mod status;

pub use client::{Channel, Incoming, Outgoing};
pub use frame::{MESSAGE_BYTES_MAX, Messages};
pub use server::{Answer, Call, Reply, serve};
pub use status::{Status, code};
