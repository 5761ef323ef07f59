//! Streams for a client that did not ask for an upgrade: the answer's body is the output, what is left of the request's
//! is the input. dockerode asks so unless it is told `hijack`.
//!
//! SOURCE: moby `api/server/httputils` HijackConnection, which takes any connection and answers 200 then

use super::PIECE;
use crate::http::{Answer, Ask, Upload, streamed};
use bytes::Bytes;
use futures::stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

/// The output, and with it the task that brings the input: a client that leaves ends both.
struct Output {
    from: OwnedReadHalf,
    input: JoinHandle<()>,
}

impl Drop for Output {
    fn drop(&mut self) {
        self.input.abort();
    }
}

/// A body that was read with the request has no more; its end is no end of the input then.
async fn type_in(mut body: Upload, mut to: OwnedWriteHalf) {
    let mut any = false;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(bytes) = frame.data_ref().filter(|b| !b.is_empty()) else {
            continue;
        };
        any = true;
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
    match any {
        true => drop(to.shutdown().await),
        false => std::future::pending().await,
    }
}

/// The answer, and the container's side of the connection.
pub fn joined(ask: &mut Ask) -> std::io::Result<(Answer, UnixStream)> {
    let (near, far) = UnixStream::pair()?;
    let (from, to) = near.into_split();
    let input = tokio::spawn(type_in(ask.body.rest(), to));
    let output = Output { from, input };
    let pieces = stream::unfold(output, |mut output| async move {
        let mut piece = vec![0; PIECE];
        match output.from.read(&mut piece).await {
            Ok(0) | Err(_) => None,
            Ok(got) => {
                piece.truncate(got);
                Some((Ok(Bytes::from(piece)), output))
            }
        }
    });
    Ok((streamed("application/vnd.docker.raw-stream", pieces), far))
}
