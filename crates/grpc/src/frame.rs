//! Messages in a stream of bytes: a flag, a length, the message.

use crate::{
    proto::Message,
    status::{Status, code},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// The longest message that is taken; grpc-go's own limit is 4 MiB, BuildKit's 16 MiB.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What comes through a channel, until it closes.
pub(crate) fn received<T: Send + 'static>(
    channel: tokio::sync::mpsc::Receiver<T>,
) -> impl futures::Stream<Item = T> + Send + 'static {
    futures::stream::unfold(channel, |mut channel| async move {
        channel.recv().await.map(|item| (item, channel))
    })
}

pub(crate) fn framed(message: &Message) -> Bytes {
    let bytes = message.as_bytes();
    let mut frame = BytesMut::with_capacity(bytes.len() + 5);
    frame.put_u8(0);
    frame.put_u32(bytes.len() as u32);
    frame.put_slice(bytes);
    frame.freeze()
}

/// The messages of the other side, one after the other.
pub struct Messages {
    body: Incoming,
    held: BytesMut,
    /// what the headers said, which only an answer without messages does there
    status: Option<Status>,
    /// of an answer: without a status it isn't whole
    answer: bool,
}

impl Messages {
    pub(crate) fn asked(body: Incoming) -> Messages {
        Messages {
            body,
            held: BytesMut::new(),
            status: None,
            answer: false,
        }
    }

    pub(crate) fn answered(response: http::Response<Incoming>) -> Messages {
        let status = match response.status().is_success() {
            true => Status::read(response.headers()),
            false => Some(Status::unknown(format!(
                "unexpected HTTP status code received from server: {}",
                response.status().as_u16()
            ))),
        };
        Messages {
            body: response.into_body(),
            held: BytesMut::new(),
            status,
            answer: true,
        }
    }

    fn whole(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(head) = self.held.first_chunk::<5>() else {
            return Ok(None);
        };
        let (compressed, length) = (
            head[0] != 0,
            u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize,
        );
        if compressed {
            return Err(Status::new(
                code::UNIMPLEMENTED,
                "compressed messages are not understood",
            ));
        }
        if length > MESSAGE_BYTES_MAX {
            return Err(Status::new(
                code::RESOURCE_EXHAUSTED,
                format!("a message of {length} bytes is too long"),
            ));
        }
        if self.held.len() < length + 5 {
            return Ok(None);
        }
        self.held.advance(5);
        Ok(Some(self.held.split_to(length).freeze()))
    }

    /// None: there are no more.
    ///
    /// # Errors
    /// The other side's status, or that the connection broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else {
                return match self.status.take() {
                    Some(status) if status.code != code::OK => Err(status),
                    None if self.answer => {
                        Err(Status::unavailable("the call ended without a status"))
                    }
                    _ if self.held.is_empty() => Ok(None),
                    _ => Err(Status::unavailable("the call ended in a message")),
                };
            };
            let frame = frame.map_err(Status::unavailable)?;
            if let Some(trailers) = frame.trailers_ref() {
                self.status = Status::read(trailers).or(self.status.take());
            }
            if let Ok(data) = frame.into_data() {
                self.held.extend_from_slice(&data);
            }
        }
    }
}
