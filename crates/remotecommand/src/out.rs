//! A stream of bytes or messages to a WebSocket client that only listens: logs and watches (apimachinery's `wsstream`
//! reader, apiserver's watch handler).

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use http::{HeaderMap, Request, Response, header};
use hyper_util::rt::TokioIo;
use std::{io, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    Error,
    negotiate::{Offer, negotiate, tokens},
    websocket::upgraded,
};

/// How long the client may take to complete its upgrade, and to take one message.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Messages {
    /// Pieces of bytes as they come, binary or base64 as the client's protocol says (`binary.k8s.io`,
    /// `base64.binary.k8s.io`).
    Bytes,
    /// One text message for each line of the stream, without its end.
    Lines,
}

const BASE64: &str = "base64.binary.k8s.io";
const BYTES: Offer = Offer {
    spdy: &[],
    websocket: &["", "binary.k8s.io", BASE64],
};
const LINES: Offer = Offer {
    spdy: &[],
    websocket: &[""],
};

/// Whether a request asks to be upgraded to a WebSocket.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    let any = |name, token: &str| {
        tokens(headers, name)
            .iter()
            .any(|t| t.eq_ignore_ascii_case(token))
    };
    any(header::CONNECTION, "upgrade") && any(header::UPGRADE, "websocket")
}

/// The 101 response to send at once; a background task sends the stream until it, or the client, ends.
///
/// # Errors
/// [`Error::BadRequest`] and the like when the request can't be upgraded, with upstream's message.
pub fn accept_out<B>(
    request: &mut Request<B>,
    messages: Messages,
    stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Result<Response<()>, Error> {
    let offer = match messages {
        Messages::Bytes => &BYTES,
        Messages::Lines => &LINES,
    };
    let (response, _, protocol) = negotiate(request.headers(), offer)?;
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match tokio::time::timeout(PATIENCE, upgrade).await {
            Ok(Ok(connection)) => send(TokioIo::new(connection), messages, protocol, stream).await,
            Ok(Err(error)) => tracing::debug!("the connection was not upgraded: {error}"),
            Err(_) => tracing::debug!("timed out waiting for the connection's upgrade"),
        }
    });
    Ok(response)
}

async fn send<IO>(
    io: IO,
    messages: Messages,
    protocol: &str,
    stream: impl Stream<Item = io::Result<Bytes>>,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, mut client) = upgraded(io).await.split();
    // what it says means nothing; that it goes does
    let gone = async { while let Some(Ok(_)) = client.next().await {} };
    let write = async {
        let mut stream = std::pin::pin!(stream);
        let mut rest = Vec::new();
        while let Some(Ok(piece)) = stream.next().await {
            for message in cut(messages, protocol, &mut rest, piece) {
                let sent = tokio::time::timeout(PATIENCE, sink.send(message)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
        }
        let _ = tokio::time::timeout(PATIENCE, sink.close()).await;
    };
    tokio::select! {
        () = gone => {}
        () = write => {}
    }
}

/// The messages that a piece of the stream makes; `rest` is a line's beginning.
fn cut(messages: Messages, protocol: &str, rest: &mut Vec<u8>, piece: Bytes) -> Vec<Message> {
    if messages == Messages::Bytes {
        return vec![match protocol {
            BASE64 => Message::Text(STANDARD.encode(&piece).into()),
            _ => Message::Binary(piece),
        }];
    }
    let mut out = Vec::new();
    for part in piece.split_inclusive(|b| *b == b'\n') {
        rest.extend_from_slice(part);
        if rest.last() == Some(&b'\n') {
            rest.pop();
            // the API server's own JSON is UTF-8
            if let Ok(text) = String::from_utf8(std::mem::take(rest)) {
                out.push(Message::Text(text.into()));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_become_messages() {
        let mut rest = Vec::new();
        let mut check = |messages, protocol, piece: &'static str, wanted: &[Message]| {
            let made = cut(
                messages,
                protocol,
                &mut rest,
                Bytes::from_static(piece.as_bytes()),
            );
            assert_eq!(made, wanted, "{messages:?} {protocol} {piece:?}");
        };
        let text = |t: &str| Message::Text(t.into());
        check(
            Messages::Bytes,
            "",
            "a\nb",
            &[Message::Binary("a\nb".into())],
        );
        check(Messages::Bytes, BASE64, "ab", &[text("YWI=")]);
        check(Messages::Lines, "", "{}\n{\"a\"", &[text("{}")]);
        check(Messages::Lines, "", ":1}\n", &[text("{\"a\":1}")]);
    }
}
