//! SPDY/3.1, as far as Kubernetes clients use it (draft-mbelshe-httpbis-spdy-00 and the 3.1 flow control note): the
//! client opens streams, data flows both ways, either side ends its direction with a flag.

mod dictionary;
pub(crate) mod frame;
mod headers;
mod reader;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

use crate::mux::{Out, Session, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Status codes of RST_STREAM that we send.
const PROTOCOL_ERROR: u32 = 1;
const INVALID_STREAM: u32 = 2;
const REFUSED_STREAM: u32 = 3;

/// Most streams that haven't ended in both directions: 512 forwarded connections at a time.
pub(crate) const STREAMS_MAX: usize = 1024;
/// Streams that the client has opened and nobody has taken yet.
const UNTAKEN_MAX: usize = 4;

/// A stream the client has opened.
pub(crate) struct Opened {
    pub(crate) id: u32,
    headers: Vec<(String, String)>,
    pub(crate) stream: Stream,
    reset: CancellationToken,
}

impl Opened {
    /// The value of a header; names are lower-case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Breaks the stream off: the client did something senseless.
    pub(crate) async fn refuse(self, session: &Session) {
        // first: nothing may follow on a stream that was reset
        self.reset.cancel();
        let reset = Out::Reset {
            stream: self.id,
            code: PROTOCOL_ERROR,
        };
        // an error means that the connection has gone
        let _ = session.out.send(reset).await;
    }
}

/// Serves a connection; the streams the client opens come out of the channel. Once that is dropped, further ones are
/// refused.
pub(crate) fn serve<IO>(io: IO) -> (Session, mpsc::Receiver<Opened>)
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let (session, frames) = Session::new();
    let (opened, streams) = mpsc::channel(UNTAKEN_MAX);
    let (read, write) = tokio::io::split(io);
    let reader = reader::Reader::new(read, session.clone(), opened);
    session.run(reader.run(), writer::run(write, frames));
    (session, streams)
}
