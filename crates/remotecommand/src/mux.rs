//! A session of numbered byte streams over one connection, whatever the framing.

use bytes::{Bytes, BytesMut};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Bytes a stream holds in each direction before its writer has to wait.
const PIPE_BYTES: usize = 32 << 10;
/// Largest chunk of a stream in one frame.
const CHUNK_BYTES: usize = 16 << 10;
/// Frames on their way to the connection before pumps have to wait.
const OUT_FRAMES_MAX: usize = 8;
/// How long a goodbye may take to be written.
const GOODBYE_MAX: Duration = Duration::from_secs(5);
/// How long a client may take to hang up after everything has been said.
const LINGER_MAX: Duration = Duration::from_secs(10);

/// Something for the connection's writer to frame and send.
#[derive(Debug)]
pub(crate) enum Out {
    /// The client's stream is accepted.
    Accept { stream: u32 },
    Data {
        stream: u32,
        bytes: Bytes,
        /// nothing follows on this stream
        end: bool,
    },
    /// The stream is broken off, with the protocol's own code.
    Reset { stream: u32, code: u32 },
    /// The answer to a ping.
    Pong(u32),
    /// That much more may be sent on the stream (0: on the connection).
    Window { stream: u32, bytes: u32 },
    /// The session is over; nothing is sent after it.
    Goodbye { violation: bool },
}

/// The session's handle: cheap to clone.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) out: mpsc::Sender<Out>,
    /// The connection is gone: pumps end, pipes break.
    pub(crate) closed: CancellationToken,
}

/// One stream, seen from the server's side.
pub(crate) struct Stream {
    /// The server's end of the pipe.
    pub(crate) io: DuplexStream,
    /// Ends the outgoing direction once all that has been written is sent, even if `io` is kept.
    pub(crate) drain: CancellationToken,
    /// Ends when the outgoing direction has: all is with the connection's writer, or lost with the connection.
    pub(crate) pump: JoinHandle<()>,
}

/// One stream, seen from the connection's reader: what arrives goes in here.
pub(crate) struct Inbound {
    pipe: WriteHalf<DuplexStream>,
    /// Breaks off the outgoing direction.
    pub(crate) reset: CancellationToken,
}

impl Session {
    pub(crate) fn new() -> (Session, mpsc::Receiver<Out>) {
        let (out, frames) = mpsc::channel(OUT_FRAMES_MAX);
        let closed = CancellationToken::new();
        (Session { out, closed }, frames)
    }

    /// Makes the pipe and the pump of a stream.
    pub(crate) fn stream(&self, id: u32) -> (Stream, Inbound) {
        let (io, near) = tokio::io::duplex(PIPE_BYTES);
        let (read, pipe) = tokio::io::split(near);
        let drain = CancellationToken::new();
        let reset = self.closed.child_token();
        let pump = tokio::spawn(pump(
            id,
            read,
            self.out.clone(),
            drain.clone(),
            reset.clone(),
        ));
        (Stream { io, drain, pump }, Inbound { pipe, reset })
    }

    /// A server-to-client stream that nothing is expected from.
    pub(crate) fn outgoing(&self, id: u32) -> Stream {
        self.stream(id).0
    }

    /// Runs the connection's two directions until the session is over. `read` ends with the connection (`Ok`) or
    /// with a violation of the protocol, which the client is told; `write` ends after the goodbye, or with an error.
    pub(crate) fn run(
        &self,
        read: impl Future<Output = Result<(), String>> + Send + 'static,
        write: impl Future<Output = std::io::Result<()>> + Send + 'static,
    ) {
        let session = self.clone();
        let closed = self.closed.clone();
        let writer = tokio::spawn(async move {
            let written = tokio::select! {
                written = write => written,
                () = closed.cancelled() => return,
            };
            if let Err(error) = written {
                tracing::debug!(%error, "streaming connection lost");
                closed.cancel();
            }
        });
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = read => ended,
                () = session.closed.cancelled() => return,
            };
            if let Err(violation) = ended {
                tracing::debug!(%violation, "streaming client broke the protocol");
                let goodbye = async {
                    // an error means that the writer has ended
                    let _ = session.out.send(Out::Goodbye { violation: true }).await;
                    let _ = writer.await;
                };
                let _ = tokio::time::timeout(GOODBYE_MAX, goodbye).await;
            }
            session.closed.cancel();
        });
    }

    /// Waits for the client to hang up, for a while.
    pub(crate) async fn linger(&self) {
        let _ = tokio::time::timeout(LINGER_MAX, self.closed.cancelled()).await;
    }

    /// Says goodbye, gives the client some time to hang up, and ends the session.
    pub(crate) async fn close(&self) {
        let goodbye = self.out.send(Out::Goodbye { violation: false });
        if let Ok(Ok(())) = tokio::time::timeout(GOODBYE_MAX, goodbye).await {
            self.linger().await;
        }
        self.closed.cancel();
    }
}

impl Inbound {
    /// False when the server's end is gone: the client's data is of no use then, and dropped.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        self.pipe.write_all(bytes).await.is_ok()
    }

    /// The client has nothing more to say.
    pub(crate) async fn end(mut self) {
        // a pipe that is gone has ended as well
        let _ = self.pipe.shutdown().await;
    }
}

/// Turns what the server writes into frames. Ends with the stream's end, a drain, or the connection.
async fn pump(
    stream: u32,
    mut pipe: ReadHalf<DuplexStream>,
    out: mpsc::Sender<Out>,
    drain: CancellationToken,
    reset: CancellationToken,
) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        let mut chunk = (&mut pipe).take(CHUNK_BYTES as u64);
        let read = tokio::select! {
            biased;
            () = reset.cancelled() => return,
            // before the drain: what has been written is sent
            read = chunk.read_buf(&mut buffer) => read.unwrap_or(0),
            () = drain.cancelled() => 0,
        };
        let frame = Out::Data {
            stream,
            bytes: buffer.split().freeze(),
            end: read == 0,
        };
        tokio::select! {
            () = reset.cancelled() => return,
            sent = out.send(frame) => if sent.is_err() || read == 0 { return },
        }
    }
}
