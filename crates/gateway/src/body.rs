//! Bodies that stream through, and what must happen when they end.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::pool::{InFlight, Sender1};

/// The body of a request or an answer.
pub(crate) enum Body {
    Empty,
    /// A short text of our own.
    Text(Full<Bytes>),
    /// A client's, passed on as it comes.
    Upload(Incoming, Arc<Upload>),
    /// An endpoint's answer: counts as in flight till its end, then gives its connection back.
    Answer(Answer),
}

/// How far a request's body has come.
pub(crate) struct Upload(Mutex<(Instant, bool)>);

impl Upload {
    pub(crate) fn new() -> Arc<Upload> {
        Arc::new(Upload(Mutex::new((Instant::now(), false))))
    }

    pub(crate) fn moved(&self, ended: bool) {
        *self.0.lock() = (Instant::now(), ended);
    }

    /// When nothing will have moved for so long.
    pub(crate) fn stalls_at(&self, after: Duration) -> Instant {
        self.0.lock().0 + after
    }

    /// The client has sent all.
    pub(crate) fn ended(&self) -> bool {
        self.0.lock().1
    }
}

pub(crate) struct Answer {
    incoming: Incoming,
    in_flight: Option<InFlight>,
    sender: Option<Sender1>,
}

impl Body {
    pub(crate) fn text(text: String) -> Body {
        Body::Text(Full::from(text))
    }

    pub(crate) fn answer(incoming: Incoming, in_flight: InFlight, sender: Option<Sender1>) -> Body {
        let mut answer = Answer {
            incoming,
            in_flight: Some(in_flight),
            sender,
        };
        if answer.incoming.is_end_stream() {
            answer.ended();
        }
        Body::Answer(answer)
    }
}

impl Answer {
    /// All was read: the connection is good for another request.
    fn ended(&mut self) {
        if let (Some(in_flight), Some(sender)) = (self.in_flight.take(), self.sender.take()) {
            in_flight.0.give_back(sender);
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Body::Empty => Poll::Ready(None),
            Body::Text(text) => Pin::new(text)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Body::Upload(incoming, upload) => {
                let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
                upload.moved(frame.is_none() || incoming.is_end_stream());
                Poll::Ready(frame)
            }
            Body::Answer(answer) => {
                let frame = ready!(Pin::new(&mut answer.incoming).poll_frame(cx));
                match &frame {
                    None => answer.ended(),
                    // The server may not ask again after the last byte.
                    Some(Ok(_)) if answer.incoming.is_end_stream() => answer.ended(),
                    Some(_) => {}
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Text(text) => text.is_end_stream(),
            Body::Upload(incoming, _) => incoming.is_end_stream(),
            Body::Answer(answer) => answer.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Text(text) => text.size_hint(),
            Body::Upload(incoming, _) => incoming.size_hint(),
            Body::Answer(answer) => answer.incoming.size_hint(),
        }
    }
}
