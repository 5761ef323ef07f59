//! WebSocket (RFC 6455): as *channels*, each message beginning with the number of a stream, or as a *tunnel* of plain
//! bytes that SPDY runs through.

mod channels;
mod tunnel;

pub(crate) use channels::{Codec, serve};
pub(crate) use tunnel::tunnel;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Largest message taken. Clients send stdin in pieces of 32 KiB or so, some whole files in one message.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// The server's side of a connection that has been upgraded.
pub(crate) async fn upgraded<IO: AsyncRead + AsyncWrite + Unpin>(io: IO) -> WebSocketStream<IO> {
    let config = WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(1 << 20)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}
