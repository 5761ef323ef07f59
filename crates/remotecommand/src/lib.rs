//! Server side of the Kubernetes streaming protocols: SPDY/3.1 and WebSocket framings of exec, attach and port-forward.
//!
//! It is: framing of byte streams over one upgraded HTTP/1.1 connection.
//! It is not: a client, or anything that runs processes.
//! It must never know: Pods, containers, the API server.
#![forbid(unsafe_code)]

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

/// What the client asked for in the query string (`stdin`, `stdout`, `stderr`, `tty`).
#[derive(Debug, Clone, Copy, Default)]
pub struct StreamOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// The terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// The server's end of one exec/attach session. Dropping `stdout`/`stderr` closes that stream; `stdin` ends (None) at the client's half-close.
pub struct ServerStreams {
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stderr: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// terminal sizes as they arrive (tty only); bounded, latest wins
    pub resize: tokio::sync::watch::Receiver<Option<TerminalSize>>,
    /// send exactly once, after all output has been written: the `metav1.Status` JSON for the error stream (v4+; Success or Failure with reason NonZeroExitCode and details.causes[ExitCode]).
    pub status: tokio::sync::oneshot::Sender<Bytes>,
}

/// Answers an exec/attach upgrade request (SPDY `Upgrade: SPDY/3.1` with `X-Stream-Protocol-Version`, or WebSocket `v5.channel.k8s.io`, `v4.channel.k8s.io`, `channel.k8s.io`, base64 variants).
/// Returns the 101 response to send at once and a future that resolves to the streams when the client has opened all of them (deadline 30 s), or a 4xx with upstream's message. A background task pumps the frames until both sides end.
pub fn accept_exec<B>(
    request: &mut http::Request<B>,
    options: StreamOptions,
) -> Result<
    (
        http::Response<()>,
        futures::future::BoxFuture<'static, Result<ServerStreams, Error>>,
    ),
    Error,
> {
    let _ = (request, options);
    todo!()
}

/// One port-forward connection: a data stream pair and a way to report an error.
pub struct ForwardStream {
    pub port: u16,
    pub data: tokio::io::DuplexStream,
    pub error: tokio::sync::oneshot::Sender<String>,
}
/// Same for port-forward (`portforward.k8s.io` over SPDY; WebSocket tunnelled SPDY `SPDY/3.1+portforward.k8s.io`, and `v4.channel.k8s.io` with ports from the query).
pub fn accept_port_forward<B>(
    request: &mut http::Request<B>,
    ports: &[u16],
) -> Result<
    (
        http::Response<()>,
        tokio::sync::mpsc::Receiver<ForwardStream>,
    ),
    Error,
> {
    let _ = (request, ports);
    todo!()
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Io(String),
}
