//! Plain bytes in binary messages: `SPDY/3.1+…` protocols run SPDY through this (KEP-4006).

use super::upgraded;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::Message;

/// Bytes held in each direction.
const PIPE_BYTES: usize = 32 << 10;
const CHUNK_BYTES: usize = 16 << 10;

/// The bytes inside the messages of an upgraded connection.
pub(crate) async fn tunnel<IO>(io: IO) -> DuplexStream
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, mut messages) = upgraded(io).await.split();
    let (far, near) = tokio::io::duplex(PIPE_BYTES);
    let (mut read, mut write) = tokio::io::split(near);
    let inward = async move {
        while let Some(message) = messages.next().await {
            let bytes = match message {
                Ok(Message::Binary(bytes)) => bytes,
                Ok(Message::Text(text)) => text.into(),
                // pings are answered below us; a close is followed by the end
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(%error, "tunnelled connection lost");
                    break;
                }
            };
            if write.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // an error means that the session has ended already
        let _ = write.shutdown().await;
    };
    let outward = async move {
        let mut buffer = bytes::BytesMut::new();
        loop {
            buffer.reserve(CHUNK_BYTES);
            let mut chunk = (&mut read).take(CHUNK_BYTES as u64);
            if chunk.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                let _ = sink.send(Message::Close(None)).await;
                return;
            }
            let message = Message::Binary(buffer.split().freeze());
            if sink.send(message).await.is_err() {
                return;
            }
        }
    };
    // the SPDY session on the far end decides when it is over: both directions end with it
    tokio::spawn(async move { tokio::join!(inward, outward) });
    far
}
