//! The channel protocols (apimachinery's `wsstream`): one byte of channel number, then data.

use super::upgraded;
use crate::mux::{Inbound, Out, Session};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// v5: a message on this channel ends the channel named in its second byte.
const CLOSE_CHANNEL: u8 = 255;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Channel number, then bytes.
    Binary,
    /// Channel number as an ASCII digit, then base64, in text messages.
    Base64,
}

impl Codec {
    fn encode(self, channel: u32, bytes: &[u8]) -> Message {
        // exec has five channels, port-forward at most 256 (the caller's bound)
        let channel = channel as u8;
        match self {
            Codec::Binary => {
                let mut message = BytesMut::with_capacity(1 + bytes.len());
                message.put_u8(channel);
                message.put_slice(bytes);
                Message::Binary(message.freeze())
            }
            Codec::Base64 => {
                let mut message = String::from(char::from(b'0' + channel));
                STANDARD.encode_string(bytes, &mut message);
                Message::Text(message.into())
            }
        }
    }

    /// Channel and data; `None` of an empty message, which means nothing.
    fn decode(self, message: &Bytes) -> Result<Option<(u8, Bytes)>, String> {
        let Some(&first) = message.first() else {
            return Ok(None);
        };
        let rest = message.slice(1..);
        match self {
            Codec::Binary => Ok(Some((first, rest))),
            Codec::Base64 => {
                let bytes = STANDARD
                    .decode(&rest)
                    .map_err(|error| format!("a message is not base64: {error}"))?;
                Ok(Some((first.wrapping_sub(b'0'), bytes.into())))
            }
        }
    }
}

/// Serves an upgraded connection. `channels` makes the streams (and greets the client) on the new session; what
/// arrives for channel *n* goes to the *n*-th of the pipes it returns. Other channels are ignored, as upstream does.
pub(crate) async fn serve<IO, T>(
    io: IO,
    codec: Codec,
    channels: impl AsyncFnOnce(&Session) -> (T, Vec<Option<Inbound>>),
) -> (Session, T)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, stream) = upgraded(io).await.split();
    let (session, frames) = Session::new();
    let (made, inbound) = channels(&session).await;
    session.run(read(stream, codec, inbound), write(sink, codec, frames));
    (session, made)
}

async fn read<IO>(
    mut messages: SplitStream<WebSocketStream<IO>>,
    codec: Codec,
    mut channels: Vec<Option<Inbound>>,
) -> Result<(), String>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = messages.next().await {
        let bytes = match message {
            Ok(Message::Binary(bytes)) => bytes,
            Ok(Message::Text(text)) => text.into(),
            // pings are answered below us; a close is followed by the end
            Ok(_) => continue,
            Err(error) => {
                use tokio_tungstenite::tungstenite::Error;
                return match error {
                    Error::Capacity(_) | Error::Protocol(_) | Error::Utf8(_) => {
                        Err(error.to_string())
                    }
                    _ => Ok(()),
                };
            }
        };
        let Some((channel, bytes)) = codec.decode(&bytes)? else {
            continue;
        };
        let ends = channel == CLOSE_CHANNEL && codec == Codec::Binary;
        let channel = match (ends, bytes.first()) {
            (false, _) => channel,
            (true, Some(&channel)) => channel,
            (true, None) => return Err("a close message names no channel".to_owned()),
        };
        let Some(slot) = channels.get_mut(usize::from(channel)) else {
            continue;
        };
        if ends {
            if let Some(inbound) = slot.take() {
                inbound.end().await;
            }
        } else if let Some(inbound) = slot
            && !inbound.write(&bytes).await
        {
            *slot = None;
        }
    }
    Ok(())
}

async fn write<IO>(
    mut sink: SplitSink<WebSocketStream<IO>, Message>,
    codec: Codec,
    mut frames: mpsc::Receiver<Out>,
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(out) = frames.recv().await {
        let message = match out {
            // no channel protocol can tell the client that one channel has ended
            Out::Data {
                bytes, end: true, ..
            } if bytes.is_empty() => continue,
            Out::Data { stream, bytes, .. } => codec.encode(stream, &bytes),
            Out::Goodbye { violation } => {
                frames.close();
                Message::Close(Some(CloseFrame {
                    code: if violation {
                        CloseCode::Protocol
                    } else {
                        CloseCode::Normal
                    },
                    reason: "".into(),
                }))
            }
            // SPDY's alone
            Out::Accept { .. } | Out::Reset { .. } | Out::Pong(_) | Out::Window { .. } => continue,
        };
        sink.send(message).await.map_err(io::Error::other)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_both_ways() {
        for codec in [Codec::Binary, Codec::Base64] {
            for (channel, bytes) in [(0, &b"hello"[..]), (4, b""), (1, &[0, 255, 10])] {
                let message = codec.encode(channel, bytes).into_data();
                let (back, data) = codec.decode(&message).unwrap().unwrap();
                assert_eq!((u32::from(back), &data[..]), (channel, bytes), "{codec:?}");
            }
            assert_eq!(codec.decode(&Bytes::new()).unwrap(), None, "{codec:?}");
        }
        assert_eq!(Codec::Base64.encode(1, b"hi").to_text().unwrap(), "1aGk=");
        assert!(Codec::Base64.decode(&"0***".into()).is_err());
    }
}
