//! The connection's reader: opens streams and fills them. While a stream's pipe is full nothing is read.

use super::frame::{self, Head};
use super::headers::Decoder;
use super::{INVALID_STREAM, Opened, PROTOCOL_ERROR, REFUSED_STREAM, STREAMS_MAX};
use crate::mux::{Inbound, Out, Session};
use std::collections::HashMap;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Largest control frame: a header block, compressed.
const CONTROL_BYTES_MAX: u32 = 16 << 10;
const CHUNK_BYTES: usize = 8 << 10;
/// Received bytes after which the client's window is opened again; half of the initial 64 KiB.
const WINDOW_STEP_BYTES: u32 = 32 << 10;

pub(crate) struct Reader<R> {
    io: BufReader<R>,
    session: Session,
    opened: mpsc::Sender<Opened>,
    headers: Decoder,
    streams: HashMap<u32, Known>,
    last_stream: u32,
    unacknowledged_bytes: u32,
}

struct Known {
    /// `None`: the client has ended its direction, or nobody listens.
    inbound: Option<Inbound>,
    /// Breaks off the outgoing direction.
    reset: CancellationToken,
    /// Tells whether the outgoing direction has ended.
    outgoing: tokio::task::AbortHandle,
    unacknowledged_bytes: u32,
}

impl<R: AsyncRead + Unpin + Send> Reader<R> {
    pub(crate) fn new(io: R, session: Session, opened: mpsc::Sender<Opened>) -> Reader<R> {
        Reader {
            io: BufReader::with_capacity(CHUNK_BYTES, io),
            session,
            opened,
            headers: Decoder::new(),
            streams: HashMap::new(),
            last_stream: 0,
            unacknowledged_bytes: 0,
        }
    }

    /// Until the connection ends (`Ok`), or the client breaks the protocol.
    pub(crate) async fn run(mut self) -> Result<(), String> {
        loop {
            let mut head = [0; 8];
            match self.io.read_exact(&mut head).await {
                Ok(_) => {}
                // between frames or within one: the client is gone either way
                Err(error) => return ended(&error),
            }
            match Head::decode(head) {
                Head::Data {
                    stream,
                    flags,
                    bytes,
                } => self.data(stream, flags, bytes).await?,
                Head::Control {
                    version,
                    kind,
                    flags,
                    bytes,
                } => {
                    if version != frame::VERSION {
                        return Err(format!(
                            "frame of SPDY version {version}, not {}",
                            frame::VERSION
                        ));
                    }
                    if bytes > CONTROL_BYTES_MAX {
                        return Err(format!(
                            "control frame of {bytes} bytes, at most {CONTROL_BYTES_MAX} are allowed"
                        ));
                    }
                    let mut payload = vec![0; bytes as usize];
                    if let Err(error) = self.io.read_exact(&mut payload).await {
                        return ended(&error);
                    }
                    self.control(kind, flags, &payload).await?;
                }
            }
        }
    }

    async fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<(), String> {
        match kind {
            frame::SYN_STREAM => self.syn_stream(flags, payload).await,
            frame::RST_STREAM => {
                let stream = number(payload, 0)? & 0x7fff_ffff;
                if let Some(known) = self.streams.remove(&stream) {
                    known.reset.cancel();
                }
                Ok(())
            }
            frame::PING => {
                let id = number(payload, 0)?;
                // even ones would be answers to pings of ours, and we send none
                if id % 2 == 1 {
                    self.send(Out::Pong(id)).await;
                }
                Ok(())
            }
            frame::HEADERS | frame::SYN_REPLY => {
                // nothing we need, but the compression state is one for all blocks
                let block = payload.get(4..).ok_or("a header frame is too short")?;
                self.headers.decode(block).map(drop)
            }
            // the client goes when its streams are done; its windows and settings see `writer.rs`
            frame::GOAWAY | frame::SETTINGS | frame::WINDOW_UPDATE => Ok(()),
            // "MUST ignore", says the draft
            _ => Ok(()),
        }
    }

    async fn syn_stream(&mut self, flags: u8, payload: &[u8]) -> Result<(), String> {
        let id = number(payload, 0)? & 0x7fff_ffff;
        let block = payload.get(10..).ok_or("SYN_STREAM is too short")?;
        // also of a stream that is refused: the compression state is one for all
        let headers = self.headers.decode(block)?;
        if id % 2 == 0 || id <= self.last_stream {
            return Err(format!(
                "stream {id} opened after stream {}",
                self.last_stream
            ));
        }
        self.last_stream = id;
        self.streams
            .retain(|_, known| known.inbound.is_some() || !known.outgoing.is_finished());
        if self.streams.len() >= STREAMS_MAX || self.opened.is_closed() {
            self.send(Out::Reset {
                stream: id,
                code: REFUSED_STREAM,
            })
            .await;
            return Ok(());
        }
        // the reply before the pump can send anything
        self.send(Out::Accept { stream: id }).await;
        let (stream, inbound) = self.session.stream(id);
        if flags & frame::FLAG_UNIDIRECTIONAL != 0 {
            inbound.reset.cancel();
        }
        let mut known = Known {
            reset: inbound.reset.clone(),
            outgoing: stream.pump.abort_handle(),
            inbound: Some(inbound),
            unacknowledged_bytes: 0,
        };
        if flags & frame::FLAG_FIN != 0
            && let Some(inbound) = known.inbound.take()
        {
            inbound.end().await;
        }
        let opened = Opened {
            id,
            headers,
            stream,
            reset: known.reset.clone(),
        };
        self.streams.insert(id, known);
        if let Err(refused) = self.opened.send(opened).await {
            refused.0.reset.cancel();
            self.streams.remove(&id);
            self.send(Out::Reset {
                stream: id,
                code: REFUSED_STREAM,
            })
            .await;
        }
        Ok(())
    }

    async fn data(&mut self, stream: u32, flags: u8, bytes: u32) -> Result<(), String> {
        if stream == 0 || stream > self.last_stream {
            let code = if stream == 0 {
                PROTOCOL_ERROR
            } else {
                INVALID_STREAM
            };
            self.send(Out::Reset { stream, code }).await;
        }
        let mut left = bytes as usize;
        let mut chunk = [0; CHUNK_BYTES];
        while left > 0 {
            let part = &mut chunk[..left.min(CHUNK_BYTES)];
            if let Err(error) = self.io.read_exact(part).await {
                return ended(&error);
            }
            left -= part.len();
            // of a stream that has ended: late, and of no use
            if let Some(known) = self.streams.get_mut(&stream)
                && let Some(inbound) = &mut known.inbound
                && !inbound.write(part).await
            {
                known.inbound = None;
            }
        }
        self.acknowledge(stream, bytes).await;
        if flags & frame::FLAG_FIN != 0
            && let Some(known) = self.streams.get_mut(&stream)
            && let Some(inbound) = known.inbound.take()
        {
            inbound.end().await;
        }
        Ok(())
    }

    /// Opens the client's windows again, for clients that keep them.
    async fn acknowledge(&mut self, stream: u32, bytes: u32) {
        self.unacknowledged_bytes += bytes;
        if self.unacknowledged_bytes >= WINDOW_STEP_BYTES {
            let bytes = std::mem::take(&mut self.unacknowledged_bytes);
            self.send(Out::Window { stream: 0, bytes }).await;
        }
        let Some(known) = self.streams.get_mut(&stream) else {
            return;
        };
        known.unacknowledged_bytes += bytes;
        if known.unacknowledged_bytes >= WINDOW_STEP_BYTES {
            let bytes = std::mem::take(&mut known.unacknowledged_bytes);
            self.send(Out::Window { stream, bytes }).await;
        }
    }

    async fn send(&mut self, out: Out) {
        // an error means that the writer has ended: the session's end reaches us from there
        let _ = self.session.out.send(out).await;
    }
}

fn number(payload: &[u8], at: usize) -> Result<u32, String> {
    let bytes = payload
        .get(at..at + 4)
        .and_then(|bytes| bytes.first_chunk());
    bytes
        .map(|bytes| u32::from_be_bytes(*bytes))
        .ok_or_else(|| "a control frame is too short".to_owned())
}

/// The end of the connection, however it comes, is no violation.
fn ended(error: &io::Error) -> Result<(), String> {
    tracing::trace!(%error, "streaming connection ended");
    Ok(())
}
