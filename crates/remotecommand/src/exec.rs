//! Exec and attach: stdin, stdout, stderr, terminal sizes, and how it ended.

use crate::error::Error;
use crate::mux::{Out, Session, Stream};
use crate::negotiate::{Framing, Offer, negotiate};
use crate::{resize, spdy, websocket};
use bytes::Bytes;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use websocket::Codec;

/// How long a client may take to open its streams (kubelet's `streamCreationTimeout`).
const OPENING_MAX: Duration = Duration::from_secs(30);

const OFFER: Offer = Offer {
    spdy: &[
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
        "channel.k8s.io",
    ],
    websocket: &[
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
    ],
};

/// Channel numbers of the WebSocket protocols.
const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: u32 = 4;

/// What the client asked for in the query string (`stdin`, `stdout`, `stderr`, `tty`).
#[derive(Debug, Clone, Copy, Default)]
pub struct StreamOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// The terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// The server's end of one exec/attach session. Dropping `stdout`/`stderr` closes that stream; `stdin` ends (None) at
/// the client's half-close. When the client hangs up, `stdin` ends, writes fail, `resize` has no sender any more, and
/// `status.closed()` resolves.
pub struct ServerStreams {
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// None with a terminal, which has one output only.
    pub stderr: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// terminal sizes as they arrive (tty only); bounded, latest wins
    pub resize: watch::Receiver<Option<TerminalSize>>,
    /// send exactly once, after all output has been written: the `metav1.Status` JSON for the error stream (v4+;
    /// Success or Failure with reason NonZeroExitCode and details.causes[ExitCode]). Output streams needn't be dropped
    /// before. Dropped unsent, the client gets an internal error.
    pub status: oneshot::Sender<Bytes>,
}

/// Resolves to the streams once the client has opened all of them.
pub type Opening = BoxFuture<'static, Result<ServerStreams, Error>>;

/// Answers an exec/attach upgrade request (SPDY `Upgrade: SPDY/3.1` with `X-Stream-Protocol-Version`, or WebSocket
/// `v5.channel.k8s.io`, `v4.channel.k8s.io`, `channel.k8s.io`, base64 variants).
/// Returns the 101 response to send at once and a future that resolves to the streams when the client has opened all
/// of them (deadline 30 s), or a 4xx with upstream's message. A background task pumps the frames until both sides end.
pub fn accept_exec<B>(
    request: &mut http::Request<B>,
    mut options: StreamOptions,
) -> Result<(http::Response<()>, Opening), Error> {
    if !(options.stdin || options.stdout || options.stderr) {
        let message = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(Error::BadRequest(message.to_owned()));
    }
    // a terminal has one output only; clients ask for stderr all the same
    options.stderr &= !options.tty;
    let (response, framing, protocol) = negotiate(request.headers(), &OFFER)?;
    let upgrade = hyper::upgrade::on(request);
    let opening = async move {
        let upgraded = tokio::time::timeout(OPENING_MAX, upgrade)
            .await
            .map_err(|_| Error::Io("timed out waiting for the connection's upgrade".to_owned()))?
            .map_err(|error| Error::Io(format!("the connection was not upgraded: {error}")))?;
        let io = TokioIo::new(upgraded);
        match framing {
            Framing::Spdy => over_spdy(io, options, protocol).await,
            Framing::WebSocket => Ok(over_websocket(io, options, protocol).await),
        }
    };
    Ok((response, Box::pin(opening)))
}

/// The streams of a session, by what they are for.
#[derive(Default)]
struct Roles {
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    error: Option<Stream>,
    resize: Option<Stream>,
}

/// How the end is told on the error stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// v4 and later: always a `metav1.Status`.
    Status,
    /// Before: the message of a failure, nothing of a success.
    Text,
}

impl Ending {
    fn of(protocol: &str) -> Ending {
        match protocol {
            "v5.channel.k8s.io" | "v4.channel.k8s.io" | "v4.base64.channel.k8s.io" => {
                Ending::Status
            }
            _ => Ending::Text,
        }
    }
}

async fn over_spdy<IO>(
    io: IO,
    options: StreamOptions,
    protocol: &str,
) -> Result<ServerStreams, Error>
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let (session, mut opened) = spdy::serve(io);
    let can_resize = matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
    match tokio::time::timeout(OPENING_MAX, collect(&mut opened, options, can_resize)).await {
        Ok(Some(roles)) => Ok(assemble(session, roles, Ending::of(protocol), true)),
        Ok(None) => {
            session.closed.cancel();
            Err(Error::Io(
                "the client hung up before it had opened its streams".to_owned(),
            ))
        }
        Err(_) => {
            session.close().await;
            Err(Error::Io(
                "timed out waiting for client to create streams".to_owned(),
            ))
        }
    }
}

/// Takes streams as the client opens them, until all that belong to the options are there. `None`: it hung up.
async fn collect(
    opened: &mut mpsc::Receiver<spdy::Opened>,
    options: StreamOptions,
    can_resize: bool,
) -> Option<Roles> {
    let mut roles = Roles::default();
    loop {
        let complete = roles.error.is_some()
            && roles.stdin.is_some() == options.stdin
            && roles.stdout.is_some() == options.stdout
            && roles.stderr.is_some() == options.stderr
            && roles.resize.is_some() == (options.tty && can_resize);
        if complete {
            return Some(roles);
        }
        let opened = opened.recv().await?;
        let slot = match opened.header("streamtype") {
            Some("stdin") if options.stdin => &mut roles.stdin,
            Some("stdout") if options.stdout => &mut roles.stdout,
            Some("stderr") if options.stderr => &mut roles.stderr,
            Some("error") => &mut roles.error,
            Some("resize") if options.tty && can_resize => &mut roles.resize,
            // dropping it ends it
            other => {
                tracing::debug!(kind = ?other, "unexpected stream in an exec session");
                continue;
            }
        };
        *slot = Some(opened.stream);
    }
}

async fn over_websocket<IO>(io: IO, options: StreamOptions, protocol: &str) -> ServerStreams
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let codec = match protocol {
        "v4.base64.channel.k8s.io" | "base64.channel.k8s.io" => Codec::Base64,
        _ => Codec::Binary,
    };
    let channels = async |session: &Session| {
        // tells the client that the session stands, on the lowest channel it will hear from
        let lowest = match options {
            StreamOptions { stdout: true, .. } => STDOUT,
            StreamOptions { stderr: true, .. } => STDERR,
            _ => ERROR,
        };
        let greeting = Out::Data {
            stream: lowest,
            bytes: Bytes::new(),
            end: false,
        };
        // the first of the session: there is room, and nobody who could have gone
        let _ = session.out.send(greeting).await;
        let mut inbound: Vec<_> = (0..=RESIZE).map(|_| None).collect();
        let mut incoming = |id: u32| {
            let (stream, pipe) = session.stream(id);
            // nothing is ever said back on these
            stream.drain.cancel();
            inbound[id as usize] = Some(pipe);
            stream
        };
        let roles = Roles {
            stdin: options.stdin.then(|| incoming(STDIN)),
            resize: options.tty.then(|| incoming(RESIZE)),
            stdout: options.stdout.then(|| session.outgoing(STDOUT)),
            stderr: options.stderr.then(|| session.outgoing(STDERR)),
            error: Some(session.outgoing(ERROR)),
        };
        (roles, inbound)
    };
    let (session, roles) = websocket::serve(io, codec, channels).await;
    assemble(session, roles, Ending::of(protocol), false)
}

/// Hands the streams out, and waits in the background for the end. `hangs_up`: the client does when it has heard the
/// ends of all streams (the channel protocols know no end but ours).
fn assemble(session: Session, roles: Roles, ending: Ending, hangs_up: bool) -> ServerStreams {
    let (status, ended) = oneshot::channel();
    let (sizes, resize) = watch::channel(None);
    match roles.resize {
        Some(stream) => drop(tokio::spawn(resize::follow(stream.io, sizes))),
        // a sender that lives as long as the session: its end tells that the client has gone
        None => {
            let closed = session.closed.clone();
            tokio::spawn(async move {
                closed.cancelled().await;
                drop(sizes);
            });
        }
    }
    let mut outputs = Vec::new();
    let mut output = |stream: Stream| -> Box<dyn AsyncWrite + Send + Unpin> {
        outputs.push((stream.drain, stream.pump));
        Box::new(stream.io)
    };
    let stdout = roles.stdout.map(&mut output);
    let stderr = roles.stderr.map(&mut output);
    let error = roles.error;
    tokio::spawn(async move {
        let status = tokio::select! {
            status = ended => status.ok(),
            () = session.closed.cancelled() => return,
        };
        for (drain, pump) in outputs {
            drain.cancel();
            // it ends with the connection at the latest; a panic in it would end it, too
            let _ = pump.await;
        }
        if let Some(mut error) = error {
            // an error means that the client has gone
            let _ = error.io.write_all(&last_words(ending, status)).await;
            drop(error.io);
            let _ = error.pump.await;
        }
        if hangs_up {
            session.linger().await;
        }
        session.close().await;
    });
    ServerStreams {
        stdin: roles.stdin.map(|stream| Box::new(stream.io) as _),
        stdout,
        stderr,
        resize,
        status,
    }
}

fn last_words(ending: Ending, status: Option<Bytes>) -> Bytes {
    #[derive(Deserialize)]
    struct Status {
        status: Option<String>,
        message: Option<String>,
    }
    const LOST: &str = "the session ended without an exit status";
    match (ending, status) {
        (Ending::Status, Some(status)) => status,
        (Ending::Status, None) => Bytes::from(format!(
            r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"{LOST}","reason":"InternalError","code":500}}"#
        )),
        (Ending::Text, None) => Bytes::from(LOST),
        (Ending::Text, Some(status)) => match serde_json::from_slice(&status) {
            Ok(Status {
                status: Some(status),
                ..
            }) if status == "Success" => Bytes::new(),
            Ok(Status {
                message: Some(message),
                ..
            }) => Bytes::from(message),
            _ => status,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spdy::frame;
    use crate::spdy::tests::{Client, Got};
    use futures::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, DuplexStream};
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    const CAT: StreamOptions = StreamOptions {
        stdin: true,
        stdout: true,
        stderr: false,
        tty: false,
    };

    #[tokio::test]
    async fn spdy_ends_in_order() {
        let (near, far) = tokio::io::duplex(16 << 10);
        let opening = tokio::spawn(over_spdy(far, CAT, "v4.channel.k8s.io"));
        let mut client = Client::new(near);
        for (stream, kind) in [(1, "error"), (3, "nonsense"), (5, "stdin"), (7, "stdout")] {
            client.open(stream, 0, &[("streamType", kind)]).await;
            client.expect(frame::SYN_REPLY, &[stream]).await;
            if kind == "nonsense" {
                client.expect_data(3, true, b"").await;
            }
        }
        let mut streams = opening.await.unwrap().unwrap();
        assert!(streams.stderr.is_none());
        let mut stdout = streams.stdout.take().unwrap();
        stdout.write_all(b"last words").await.unwrap();
        // with the output still open
        streams.status.send("status".into()).unwrap();
        client.expect_data(7, false, b"last words").await;
        client.expect_data(7, true, b"").await;
        client.expect_data(1, false, b"status").await;
        client.expect_data(1, true, b"").await;
        drop(client);
        while stdout.write_all(b"more").await.is_ok() {
            tokio::task::yield_now().await;
        }
        let mut rest = Vec::new();
        streams.stdin.unwrap().read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        streams.resize.changed().await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_opens_nothing() {
        let (near, far) = tokio::io::duplex(1024);
        let opening = tokio::spawn(over_spdy(far, CAT, "v4.channel.k8s.io"));
        let mut client = Client::new(near);
        client.expect(frame::GOAWAY, &[0, 0]).await;
        assert_eq!(client.next().await, Got::End);
        let error = opening.await.unwrap().err().unwrap().to_string();
        assert!(
            error.contains("timed out waiting for client to create streams"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_client_that_leaves() {
        let (near, far) = tokio::io::duplex(1024);
        drop(near);
        let error = over_spdy(far, CAT, "v4.channel.k8s.io")
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("hung up"), "{error}");
    }

    #[tokio::test]
    async fn a_client_that_leaves_later_is_noticed() {
        let (near, far) = tokio::io::duplex(16 << 10);
        let opening = tokio::spawn(over_spdy(far, CAT, "v4.channel.k8s.io"));
        let mut client = Client::new(near);
        for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            client.open(stream, 0, &[("streamType", kind)]).await;
        }
        let mut streams = opening.await.unwrap().unwrap();
        drop(client);
        streams.status.closed().await;
        streams.resize.changed().await.unwrap_err();
    }

    async fn websocket(
        options: StreamOptions,
        protocol: &str,
    ) -> (WebSocketStream<DuplexStream>, ServerStreams) {
        let (near, far) = tokio::io::duplex(16 << 10);
        let streams = over_websocket(far, options, protocol).await;
        let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        let greeting = next(&mut client).await;
        assert!(matches!(greeting[..], [1] | [b'1']), "{greeting:?}");
        (client, streams)
    }

    async fn next(client: &mut WebSocketStream<DuplexStream>) -> Bytes {
        let message = tokio::time::timeout(Duration::from_secs(60), client.next()).await;
        message.expect("nothing came").unwrap().unwrap().into_data()
    }

    #[tokio::test]
    async fn channels_both_ways() {
        for protocol in [
            "v5.channel.k8s.io",
            "v4.channel.k8s.io",
            "channel.k8s.io",
            "",
        ] {
            let (mut client, mut streams) = websocket(CAT, protocol).await;
            for message in [
                &b"\0hel"[..],
                b"",
                b"\x09ignored",
                b"\x01ignored",
                b"\0lo",
                b"\xff\0",
            ] {
                client
                    .send(Message::Binary(message.to_vec().into()))
                    .await
                    .unwrap();
            }
            let mut text = String::new();
            streams
                .stdin
                .take()
                .unwrap()
                .read_to_string(&mut text)
                .await
                .unwrap();
            assert_eq!(text, "hello", "{protocol}");
            let mut stdout = streams.stdout.take().unwrap();
            stdout.write_all(b"out").await.unwrap();
            streams
                .status
                .send(r#"{"status":"Failure","message":"why"}"#.into())
                .unwrap();
            assert_eq!(&next(&mut client).await[..], b"\x01out", "{protocol}");
            let status = next(&mut client).await;
            match protocol {
                "v5.channel.k8s.io" | "v4.channel.k8s.io" => {
                    assert!(status.starts_with(b"\x03{"), "{status:?}")
                }
                _ => assert_eq!(&status[..], b"\x03why"),
            }
            assert!(
                matches!(client.next().await, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1000)
            );
            assert!(client.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn base64_channels() {
        let (mut client, mut streams) = websocket(CAT, "base64.channel.k8s.io").await;
        client
            .send(Message::Text("0aGVsbG8=".into()))
            .await
            .unwrap();
        let mut hello = [0; 5];
        streams
            .stdin
            .as_mut()
            .unwrap()
            .read_exact(&mut hello)
            .await
            .unwrap();
        assert_eq!(&hello, b"hello");
        streams
            .stdout
            .as_mut()
            .unwrap()
            .write_all(b"hi")
            .await
            .unwrap();
        assert_eq!(&next(&mut client).await[..], b"1aGk=");
    }

    #[tokio::test]
    async fn bad_messages_end_in_a_close() {
        let check = async |name: &str, protocol: &str, message: Message| {
            let (mut client, mut streams) = websocket(CAT, protocol).await;
            // the server may hang up before it has read all of it
            let _ = client.send(message).await;
            let mut rest = Vec::new();
            let ended = streams.stdin.as_mut().unwrap().read_to_end(&mut rest);
            tokio::time::timeout(Duration::from_secs(60), ended)
                .await
                .expect(name)
                .unwrap();
            assert!(rest.is_empty(), "{name}");
            streams.status.closed().await;
        };
        check(
            "not base64",
            "base64.channel.k8s.io",
            Message::Text("0***".into()),
        )
        .await;
        check(
            "a close of nothing",
            "v5.channel.k8s.io",
            Message::Binary(vec![255].into()),
        )
        .await;
        check(
            "too large",
            "v5.channel.k8s.io",
            Message::Binary(vec![0; 5 << 20].into()),
        )
        .await;
    }

    #[test]
    fn nothing_asked_for() {
        let mut request = http::Request::new(());
        let error = accept_exec(&mut request, StreamOptions::default())
            .err()
            .unwrap();
        assert!(
            error
                .to_string()
                .contains("at least 1 of stdin, stdout, stderr")
        );
        assert_eq!(error.status_code(), 400);
    }

    #[test]
    fn older_protocols_get_the_message_alone() {
        let check = |ending, status: Option<&'static str>, expected: &str| {
            let words = last_words(ending, status.map(Bytes::from));
            let words = String::from_utf8(words.to_vec()).unwrap();
            assert!(
                words.contains(expected) && words.is_empty() == expected.is_empty(),
                "{words}"
            );
        };
        let failure = r#"{"status":"Failure","message":"exit 3"}"#;
        check(Ending::Status, Some(failure), failure);
        check(Ending::Status, None, r#""reason":"InternalError""#);
        check(Ending::Text, Some(failure), "exit 3");
        check(Ending::Text, Some(r#"{"status":"Success"}"#), "");
        check(Ending::Text, None, "without an exit status");
        check(Ending::Text, Some("not JSON"), "not JSON");
        assert_eq!(
            &last_words(Ending::Text, Some(failure.into()))[..],
            b"exit 3"
        );
    }
}
