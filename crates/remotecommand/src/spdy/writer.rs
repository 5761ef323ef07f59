//! The connection's writer: the only place that frames, so that frames never mix.

use super::frame;
use super::headers::Encoder;
use crate::mux::Out;
use bytes::{BufMut, BytesMut};
use std::io;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

const GOAWAY_OK: u32 = 0;
const GOAWAY_PROTOCOL_ERROR: u32 = 1;

/// Writes until the goodbye, or until nobody is left who could send.
///
/// The client's flow-control windows are not kept: the implementation behind every Kubernetes client (spdystream)
/// announces none and never sends a WINDOW_UPDATE, so a server that waited for one would stop after 64 KiB, for ever.
/// Back-pressure comes from the connection itself.
pub(crate) async fn run(
    mut io: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Out>,
) -> io::Result<()> {
    let mut headers = Encoder::new().map_err(io::Error::other)?;
    let mut last_stream = 0;
    let mut buffer = BytesMut::new();
    while let Some(out) = frames.recv().await {
        match out {
            Out::Accept { stream } => {
                last_stream = stream;
                let mut payload = stream.to_be_bytes().to_vec();
                payload.extend(headers.encode(&[]).map_err(io::Error::other)?);
                frame::control(&mut buffer, frame::SYN_REPLY, 0, &payload);
            }
            Out::Data { stream, bytes, end } => {
                let flags = if end { frame::FLAG_FIN } else { 0 };
                frame::data_head(&mut buffer, stream, flags, bytes.len());
                buffer.put_slice(&bytes);
            }
            Out::Reset { stream, code } => {
                frame::control(&mut buffer, frame::RST_STREAM, 0, &pair(stream, code));
            }
            Out::Pong(id) => frame::control(&mut buffer, frame::PING, 0, &id.to_be_bytes()),
            Out::Window { stream, bytes } => {
                frame::control(&mut buffer, frame::WINDOW_UPDATE, 0, &pair(stream, bytes));
            }
            Out::Goodbye { violation } => {
                let status = if violation {
                    GOAWAY_PROTOCOL_ERROR
                } else {
                    GOAWAY_OK
                };
                frame::control(&mut buffer, frame::GOAWAY, 0, &pair(last_stream, status));
                frames.close();
            }
        }
        io.write_all_buf(&mut buffer).await?;
        if frames.is_empty() {
            io.flush().await?;
        }
    }
    io.shutdown().await
}

fn pair(a: u32, b: u32) -> [u8; 8] {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&a.to_be_bytes());
    payload[4..].copy_from_slice(&b.to_be_bytes());
    payload
}
