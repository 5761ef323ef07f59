//! Bodies of requests: none, bytes, or what a thread reads.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use std::io::Read;

pub(super) type Body = BoxBody<Bytes, std::io::Error>;

/// Bytes in one piece of a body that is read from a file, and how many pieces may wait.
const PIECE_BYTES: usize = 256 << 10;
const PIECES_WAITING: usize = 4;

pub(super) fn none() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub(super) fn bytes(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// What `open` gives, read in a thread that blocks; `seen` is told of each piece's bytes, and of none at
/// the end.
pub(super) fn reader<R: Read + Send + 'static>(
    open: impl FnOnce() -> std::io::Result<R> + Send + 'static,
    seen: impl Fn(usize) + Send + 'static,
) -> Body {
    let (send, receive) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(PIECES_WAITING);
    crate::priority::spawn_blocking(move || {
        let mut from = match open() {
            Ok(from) => from,
            Err(e) => {
                let _ = send.blocking_send(Err(e));
                return;
            }
        };
        loop {
            let mut piece = vec![0u8; PIECE_BYTES];
            let mut filled = 0;
            while filled < PIECE_BYTES {
                match from.read(&mut piece[filled..]) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => {
                        let _ = send.blocking_send(Err(e));
                        return;
                    }
                }
            }
            piece.truncate(filled);
            // when nobody receives any more the request is over
            if filled > 0 && send.blocking_send(Ok(piece.into())).is_err() {
                return;
            }
            seen(filled);
            if filled == 0 {
                return;
            }
        }
    });
    let mut receive = receive;
    let pieces = futures::stream::poll_fn(move |cx| receive.poll_recv(cx));
    let frames = futures::StreamExt::map(pieces, |piece| piece.map(hyper::body::Frame::data));
    BodyExt::boxed(StreamBody::new(frames))
}
