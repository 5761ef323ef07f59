//! The response body: whole bytes, a list's items, or a stream; never a queue of its own.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, stream::BoxStream};
use http_body::{Frame, SizeHint};

/// Size of the chunks in which a list's items are written, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Body of every answer of the API server.
pub enum Body {
    /// All at once.
    Whole(Bytes),
    /// Shared pieces, joined into chunks as the connection takes them: a long list costs a chunk, not a copy.
    Items(Items),
    /// Chunks that are there already, one after the other; with their total length.
    Chunks(VecDeque<Bytes>, u64),
    /// Bytes as they come (watch, log).
    Stream(BoxStream<'static, std::io::Result<Bytes>>),
}

/// A list of stored objects as JSON.
pub struct Items {
    /// e.g. `PodList`
    pub kind: String,
    /// e.g. `v1`
    pub api_version: String,
    /// `metav1.ListMeta` as JSON.
    pub metadata: String,
    /// The objects, as they are stored.
    items: VecDeque<Bytes>,
    /// what the objects of built-in kinds begin with, which lists leave out
    prefix: Option<String>,
    started: bool,
    comma: bool,
    ended: bool,
    remaining: u64,
}

impl Items {
    /// A list (of kind `PodList`) of objects of one kind (`Pod`). Items of built-in kinds don't repeat what they are: `plain`.
    pub fn new(
        kind: &str,
        list_kind: String,
        api_version: &str,
        plain: bool,
        metadata: String,
        items: VecDeque<Bytes>,
    ) -> Items {
        let prefix =
            plain.then(|| format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\","));
        let mut out = Items {
            kind: list_kind,
            api_version: api_version.to_string(),
            metadata,
            items,
            prefix,
            started: false,
            comma: false,
            ended: false,
            remaining: 0,
        };
        let sizes = out.items.iter().map(|i| out.size(i));
        let commas = out.items.len().saturating_sub(1);
        out.remaining = (sizes.sum::<usize>() + commas + out.head().len() + END.len()) as u64;
        out
    }
    /// The objects.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.items.iter()
    }
    /// The list's JSON in shared pieces; what was sent already is not in it.
    pub fn pieces(&self) -> Vec<Bytes> {
        let mut out = vec![Bytes::from(self.head())];
        for (i, item) in self.items.iter().enumerate() {
            if i > 0 {
                out.push(Bytes::from_static(b","));
            }
            out.push(item.clone());
        }
        out.push(Bytes::from_static(END));
        out
    }
    fn head(&self) -> String {
        format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
            self.kind, self.api_version, self.metadata
        )
    }
    /// Bytes of an item to be left out.
    fn skip(&self, item: &[u8]) -> usize {
        match &self.prefix {
            Some(p) if item.starts_with(p.as_bytes()) => p.len(),
            _ => 0,
        }
    }
    fn size(&self, item: &[u8]) -> usize {
        match self.skip(item) {
            0 => item.len(),
            skip => item.len() - skip + 1,
        }
    }
    fn next_chunk(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let room = (self.remaining as usize).min(CHUNK_BYTES + 4096);
        let mut chunk = BytesMut::with_capacity(room);
        if !self.started {
            self.started = true;
            chunk.extend_from_slice(self.head().as_bytes());
        }
        while let Some(item) = self.items.front() {
            if !chunk.is_empty() && chunk.len() + item.len() > CHUNK_BYTES {
                break;
            }
            if std::mem::replace(&mut self.comma, true) {
                chunk.extend_from_slice(b",");
            }
            match self.skip(item) {
                0 => chunk.extend_from_slice(item),
                skip => {
                    chunk.extend_from_slice(b"{");
                    chunk.extend_from_slice(&item[skip..]);
                }
            }
            self.items.pop_front();
        }
        if self.items.is_empty() {
            chunk.extend_from_slice(END);
            self.ended = true;
        }
        self.remaining -= chunk.len() as u64;
        Some(chunk.freeze())
    }
}

const END: &[u8] = b"]}\n";

impl Body {
    /// The same body; a stream keeps something until it ends.
    pub fn holding<T: Send + 'static>(self, held: T) -> Body {
        use futures::StreamExt;
        match self {
            Body::Stream(stream) => Body::Stream(Box::pin(stream.map(move |chunk| {
                let _held = &held;
                chunk
            }))),
            known => known,
        }
    }
    /// No bytes.
    pub fn empty() -> Body {
        Body::Whole(Bytes::new())
    }
    /// Chunks to be sent one after the other.
    pub fn chunks(chunks: VecDeque<Bytes>) -> Body {
        let length = chunks.iter().map(|c| c.len() as u64).sum();
        Body::Chunks(chunks, length)
    }
    /// Length in bytes when it is known.
    pub fn len(&self) -> Option<u64> {
        match self {
            Body::Whole(b) => Some(b.len() as u64),
            Body::Items(i) => Some(i.remaining),
            Body::Chunks(_, remaining) => Some(*remaining),
            Body::Stream(_) => None,
        }
    }
    /// Takes the next chunk of a body whose length is known.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        match self {
            Body::Whole(b) if b.is_empty() => None,
            Body::Whole(b) => Some(std::mem::take(b)),
            Body::Items(items) => items.next_chunk(),
            Body::Chunks(chunks, remaining) => {
                let chunk = chunks.pop_front()?;
                *remaining -= chunk.len() as u64;
                Some(chunk)
            }
            Body::Stream(_) => None,
        }
    }
    /// All bytes of a body whose length is known; none of a stream's.
    pub fn whole(mut self) -> Bytes {
        if let Body::Whole(b) = self {
            return b;
        }
        let mut out = BytesMut::with_capacity(self.len().unwrap_or(0) as usize);
        while let Some(chunk) = self.next_chunk() {
            out.extend_from_slice(&chunk);
        }
        out.freeze()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_as_long_as_they_say() {
        let pod = |n: usize| {
            Bytes::from(format!(
                "{{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{{\"name\":\"{}\"}}}}",
                "x".repeat(n)
            ))
        };
        for sizes in [
            vec![],
            vec![1],
            vec![1, 2],
            vec![70_000],
            vec![70_000, 3, 60_000, 9, 40_000],
        ] {
            for plain in [true, false] {
                let items: VecDeque<Bytes> = sizes.iter().map(|n| pod(*n)).collect();
                let body = Body::Items(Items::new(
                    "Pod",
                    "PodList".into(),
                    "v1",
                    plain,
                    "{}".into(),
                    items,
                ));
                let length = body.len();
                let bytes = body.whole();
                assert_eq!(length, Some(bytes.len() as u64), "{sizes:?}");
                let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                let got = value["items"].as_array().unwrap();
                assert_eq!(got.len(), sizes.len());
                assert!(got.iter().all(|i| i.get("kind").is_none() == plain));
            }
        }
    }
}
