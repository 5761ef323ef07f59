//! Server side of the Kubernetes streaming protocols: SPDY/3.1 and WebSocket framings of exec, attach and port-forward.
//!
//! It is: framing of byte streams over one upgraded HTTP/1.1 connection.
//! It is not: a client, or anything that runs processes.
//! It must never know: Pods, containers, the API server.
//!
//! Both framings end in the same place (`mux.rs`): a *session* of numbered byte streams. Each stream is an in-memory
//! pipe of bounded size with a pump that turns what is written into frames; the session's reader puts what arrives
//! into the pipes, and stops reading the connection while a pipe is full. `exec.rs` and `forward.rs` give the streams
//! their meaning.
#![forbid(unsafe_code)]

mod error;
mod exec;
mod forward;
mod mux;
mod negotiate;
mod out;
mod resize;
mod spdy;
mod websocket;

pub use error::Error;
pub use exec::{Opening, ServerStreams, StreamOptions, TerminalSize, accept_exec};
pub use forward::{ForwardStream, accept_port_forward};
pub use out::{Messages, accept_out, is_websocket};
