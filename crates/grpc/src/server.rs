//! Calls answered on a connection.

use crate::{
    frame::{Messages, framed, received},
    proto::Message,
    status::{Status, code},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::HeaderMap;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{convert::Infallible, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A call that came.
pub struct Call {
    /// `/package.Service/Method`
    pub method: String,
    pub metadata: HeaderMap,
    pub messages: Messages,
}

impl Call {
    /// The one message of a call that has one.
    ///
    /// # Errors
    /// When there is none.
    pub async fn message(&mut self) -> Result<Bytes, Status> {
        let first = self.messages.next().await?;
        first.ok_or_else(|| Status::new(code::INVALID_ARGUMENT, "the call has no message"))
    }
}

/// What is answered.
pub enum Answer {
    One(Message),
    /// Until the channel closes, or says why it ends.
    Many(mpsc::Receiver<Result<Message, Status>>),
}

pub type Reply = Result<Answer, Status>;

/// Answers the calls of a connection until it ends. A call whose client is gone is dropped.
pub async fn serve<T, F, A>(stream: T, answer: F)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Call) -> A + Send + Sync + 'static,
    A: Future<Output = Reply> + Send + 'static,
{
    let answer = Arc::new(answer);
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let call = Call {
                method: parts.uri.path().to_string(),
                metadata: parts.headers,
                messages: Messages::asked(body),
            };
            Ok::<_, Infallible>(response(answer(call).await))
        }
    });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(4 << 20)
        .max_concurrent_streams(128)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // a client that leaves needs no answer
    drop(served);
}

fn response(reply: Reply) -> http::Response<Body> {
    let ok = || Status::new(code::OK, "").write();
    let body = match reply {
        Err(status) => {
            let frames = [Ok(Frame::trailers(status.write()))];
            StreamBody::new(stream::iter(frames)).boxed_unsync()
        }
        Ok(Answer::One(message)) => {
            let frames = [Ok(Frame::data(framed(&message))), Ok(Frame::trailers(ok()))];
            StreamBody::new(stream::iter(frames)).boxed_unsync()
        }
        Ok(Answer::Many(messages)) => {
            let messages = received(messages).map(|message| match message {
                Ok(message) => (Ok(Frame::data(framed(&message))), false),
                Err(status) => (Ok(Frame::trailers(status.write())), true),
            });
            // trailers end the stream: those of a success come when no others did
            let last = stream::iter([(Ok(Frame::trailers(ok())), true)]);
            let mut over = false;
            let frames = messages.chain(last).filter_map(move |(frame, end)| {
                let after = over;
                over |= end;
                std::future::ready((!after).then_some(frame))
            });
            StreamBody::new(frames).boxed_unsync()
        }
    };
    let mut response = http::Response::new(body);
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/grpc"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::Channel, proto::Fields};

    fn number(bytes: &[u8]) -> i64 {
        Fields(bytes).map(|(_, v)| v.number()).sum()
    }

    #[tokio::test]
    async fn calls_and_streams() {
        let (here, there) = tokio::io::duplex(1 << 16);
        tokio::spawn(serve(there, |mut call: Call| async move {
            match call.method.as_str() {
                "/s/Double" => {
                    let n = number(&call.message().await?);
                    Ok(Answer::One(Message::default().number(1, n * 2)))
                }
                "/s/Count" => {
                    let (send, receive) = mpsc::channel(1);
                    tokio::spawn(async move {
                        while let Ok(Some(bytes)) = call.messages.next().await {
                            let n = number(&bytes);
                            let _ = send.send(Ok(Message::default().number(1, n + 1))).await;
                        }
                        let end = Status::new(code::NOT_FOUND, "no more");
                        let _ = send.send(Err(end)).await;
                    });
                    Ok(Answer::Many(receive))
                }
                other => Err(Status::new(code::UNIMPLEMENTED, other)),
            }
        }));
        let channel = Channel::open(here).await.unwrap();
        let message = |n| Message::default().number(1, n);
        let answer = channel.call("/s/Double", &message(21)).await.unwrap();
        assert_eq!(number(&answer), 42);
        let refused = channel.call("/s/None", &message(1)).await.unwrap_err();
        assert_eq!(refused, Status::new(code::UNIMPLEMENTED, "/s/None"));
        let (out, mut answers) = channel.stream("/s/Count", HeaderMap::new()).await.unwrap();
        for n in [5, 300] {
            out.send(&message(n)).await.unwrap();
            assert_eq!(number(&answers.next().await.unwrap().unwrap()), n + 1);
        }
        drop(out);
        assert_eq!(answers.next().await.unwrap_err().message, "no more");
        // the connection is still good
        assert!(channel.call("/s/Double", &message(1)).await.is_ok());
    }
}
