//! Calls over a connection.

use crate::{
    frame::{Messages, framed, received},
    proto::Message,
    status::Status,
};
use bytes::Bytes;
use futures::StreamExt;
use http::HeaderMap;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Frame, client::conn::http2::SendRequest, rt};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, watch},
};

type Body = UnsyncBoxBody<Bytes, Infallible>;
/// Messages on their way out.
const WAITING: usize = 16;

/// A connection on which calls are made, any number at a time.
#[derive(Clone)]
pub struct Channel {
    sender: SendRequest<Body>,
    /// true once the connection is over
    over: watch::Receiver<bool>,
}

/// Messages to the other side; dropped, they end.
pub struct Outgoing(mpsc::Sender<Bytes>);

impl Outgoing {
    /// # Errors
    /// When the call has ended.
    pub async fn send(&self, message: &Message) -> Result<(), Status> {
        let sent = self.0.send(framed(message)).await;
        sent.map_err(|_| Status::unavailable("the call has ended"))
    }
}

impl Channel {
    /// The connection's own work is done by a task that ends with it.
    ///
    /// # Errors
    /// When the other side speaks no HTTP/2.
    pub async fn open<T>(stream: T) -> Result<Channel, Status>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        let (sender, connection) = Self::shaken(io).await?;
        let (end, over) = watch::channel(false);
        tokio::spawn(async move {
            // why it ended is told to the calls
            let _ = connection.await;
            let _ = end.send(true);
        });
        Ok(Channel { sender, over })
    }

    async fn shaken<T>(
        io: T,
    ) -> Result<
        (
            SendRequest<Body>,
            hyper::client::conn::http2::Connection<T, Body, TokioExecutor>,
        ),
        Status,
    >
    where
        T: rt::Read + rt::Write + Unpin + Send + 'static,
    {
        hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .handshake(io)
            .await
            .map_err(Status::unavailable)
    }

    /// Until the connection is over.
    pub async fn closed(&self) {
        let mut over = self.over.clone();
        // who would say so is gone with it
        let _ = over.wait_for(|over| *over).await;
    }

    /// `method` is `/package.Service/Method`; one message each way.
    ///
    /// # Errors
    /// The other side's status.
    pub async fn call(&self, method: &str, message: &Message) -> Result<Bytes, Status> {
        let (outgoing, mut answer) = self.stream(method, HeaderMap::new()).await?;
        outgoing.send(message).await?;
        drop(outgoing);
        let first = answer.next().await?;
        let first = first.ok_or_else(|| Status::unavailable("the call ended without an answer"))?;
        // its status counts, too
        answer.next().await.map(|_| first)
    }

    /// Messages both ways.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn stream(
        &self,
        method: &str,
        metadata: HeaderMap,
    ) -> Result<(Outgoing, Incoming), Status> {
        let (send, receive) = mpsc::channel(WAITING);
        let frames = received(receive).map(|bytes| Ok(Frame::data(bytes)));
        let mut request = http::Request::post(format!("http://localhost{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "knarr")
            .body(StreamBody::new(frames).boxed_unsync())
            .map_err(Status::unknown)?;
        request.headers_mut().extend(metadata);
        let mut sender = self.sender.clone();
        sender.ready().await.map_err(Status::unavailable)?;
        // a server may answer its first headers only when it has heard something
        let answer = tokio::spawn(sender.send_request(request));
        Ok((Outgoing(send), Incoming::Awaited(answer)))
    }
}

/// What the other side answers.
pub enum Incoming {
    Awaited(tokio::task::JoinHandle<hyper::Result<http::Response<hyper::body::Incoming>>>),
    Here(Messages),
}

impl Incoming {
    /// As [`Messages::next`].
    ///
    /// # Errors
    /// As there.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if let Incoming::Awaited(answer) = self {
            let answer = answer.await.map_err(Status::unavailable)?;
            let answer = answer.map_err(Status::unavailable)?;
            *self = Incoming::Here(Messages::answered(answer));
        }
        match self {
            Incoming::Here(messages) => messages.next().await,
            Incoming::Awaited(_) => Ok(None),
        }
    }
}
