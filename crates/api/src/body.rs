//! The response body: whole bytes, a list's pieces, or a stream; never a queue of its own.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, stream::BoxStream};
use http_body::{Frame, SizeHint};

/// Size of the chunks in which a list's pieces are written, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Body of every answer of the API server.
pub enum Body {
    /// All at once.
    Whole(Bytes),
    /// Shared pieces, joined into chunks as the connection takes them: a long list costs a chunk, not a copy.
    Pieces {
        /// What is still to be sent.
        pieces: VecDeque<Bytes>,
        /// Their total length in bytes.
        remaining: u64,
    },
    /// Bytes as they come (watch, log).
    Stream(BoxStream<'static, std::io::Result<Bytes>>),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Body {
        Body::Whole(Bytes::new())
    }
    /// Pieces to be sent one after the other.
    pub fn pieces(pieces: VecDeque<Bytes>) -> Body {
        let remaining = pieces.iter().map(|p| p.len() as u64).sum();
        Body::Pieces { pieces, remaining }
    }
    /// Length in bytes when it is known.
    pub fn len(&self) -> Option<u64> {
        match self {
            Body::Whole(b) => Some(b.len() as u64),
            Body::Pieces { remaining, .. } => Some(*remaining),
            Body::Stream(_) => None,
        }
    }
    /// Takes the next chunk of a body whose length is known.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        match self {
            Body::Whole(b) if b.is_empty() => None,
            Body::Whole(b) => Some(std::mem::take(b)),
            Body::Pieces { pieces, remaining } => {
                let first = pieces.pop_front()?;
                if first.len() >= CHUNK_BYTES || pieces.is_empty() {
                    *remaining -= first.len() as u64;
                    return Some(first);
                }
                let mut chunk = BytesMut::with_capacity((*remaining as usize).min(CHUNK_BYTES));
                chunk.extend_from_slice(&first);
                while let Some(next) = pieces.front() {
                    if chunk.len() + next.len() > CHUNK_BYTES {
                        break;
                    }
                    chunk.extend_from_slice(next);
                    pieces.pop_front();
                }
                *remaining -= chunk.len() as u64;
                Some(chunk.freeze())
            }
            Body::Stream(_) => None,
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(v: Vec<u8>) -> Body {
        Body::Whole(v.into())
    }
}
impl From<String> for Body {
    fn from(v: String) -> Body {
        Body::Whole(v.into())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match &mut *self {
            Body::Stream(stream) => Pin::new(stream)
                .poll_next(cx)
                .map(|item| item.map(|r| r.map(Frame::data))),
            known => Poll::Ready(known.next_chunk().map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.len() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.len().map(SizeHint::with_exact).unwrap_or_default()
    }
}
