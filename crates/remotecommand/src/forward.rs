//! Port-forward: any number of connections through one, each a data stream and an error stream.

use crate::error::Error;
use crate::mux::{Out, Session, Stream};
use crate::negotiate::{Framing, Offer, negotiate};
use crate::spdy::Opened;
use crate::{spdy, websocket};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use websocket::Codec;

/// How long the second stream of a pair may be missing (kubelet's `streamCreationTimeout`).
const PAIRING_MAX: Duration = Duration::from_secs(30);
/// Pairs of which one stream is missing: as many as there may be connections. A client that makes many at once opens all
/// their error streams first; of one that was refused the data would come nevertheless, and hold up all others' for want
/// of somebody who reads it.
const HALF_PAIRS_MAX: usize = spdy::STREAMS_MAX / 2;
/// Connections the caller hasn't taken yet.
const UNTAKEN_MAX: usize = 4;
/// Ports in one request of the channel protocols, which number channels in a byte.
const PORTS_MAX: usize = 128;
/// The base64 protocol writes a channel as one digit.
const PORTS_BASE64_MAX: usize = 5;

const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
const OFFER: Offer = Offer {
    spdy: &["portforward.k8s.io"],
    websocket: &[TUNNELLED, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"],
};

/// One port-forward connection: a data stream pair and a way to report an error. It ends when `data` is dropped or
/// shut down, and `error` was sent or dropped.
#[derive(Debug)]
pub struct ForwardStream {
    pub port: u16,
    pub data: DuplexStream,
    pub error: oneshot::Sender<String>,
}

/// Same as [`crate::accept_exec`] for port-forward (`portforward.k8s.io` over SPDY; WebSocket tunnelled SPDY
/// `SPDY/3.1+portforward.k8s.io`, and `v4.channel.k8s.io` with ports from the query).
///
/// The receiver gives connections as the client makes them, and ends when it hangs up. Must be called in a tokio
/// runtime.
pub fn accept_port_forward<B>(
    request: &mut http::Request<B>,
    ports: &[u16],
) -> Result<(http::Response<()>, mpsc::Receiver<ForwardStream>), Error> {
    let (response, framing, protocol) = negotiate(request.headers(), &OFFER)?;
    let channels = framing == Framing::WebSocket && protocol != TUNNELLED;
    let codec = match protocol {
        "v4.base64.channel.k8s.io" => Codec::Base64,
        _ => Codec::Binary,
    };
    let ports_max = if codec == Codec::Base64 {
        PORTS_BASE64_MAX
    } else {
        PORTS_MAX
    };
    if channels && (ports.is_empty() || ports.contains(&0) || ports.len() > ports_max) {
        let message = format!(
            "query parameter \"ports\" is required: 1 to {ports_max} ports from 1 to 65535"
        );
        return Err(Error::BadRequest(message));
    }
    let ports = ports.to_vec();
    let upgrade = hyper::upgrade::on(request);
    let (sender, receiver) = mpsc::channel(UNTAKEN_MAX);
    tokio::spawn(async move {
        let upgraded = match tokio::time::timeout(PAIRING_MAX, upgrade).await {
            Ok(Ok(upgraded)) => TokioIo::new(upgraded),
            Ok(Err(error)) => {
                return tracing::debug!(%error, "port-forward connection not upgraded");
            }
            Err(_) => return tracing::debug!("port-forward connection not upgraded in time"),
        };
        match framing {
            Framing::Spdy => over_spdy(upgraded, sender).await,
            Framing::WebSocket if channels => over_channels(upgraded, codec, ports, sender).await,
            Framing::WebSocket => over_spdy(websocket::tunnel(upgraded).await, sender).await,
        }
    });
    Ok((response, receiver))
}

/// A pair of which one stream is still missing.
#[derive(Default)]
struct Half {
    data: Option<Stream>,
    error: Option<Stream>,
    deadline: Option<Instant>,
}

async fn over_spdy<IO>(io: IO, sender: mpsc::Sender<ForwardStream>)
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let (session, mut opened) = spdy::serve(io);
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut pairs = JoinSet::new();
    loop {
        let next_deadline = halves.values().filter_map(|half| half.deadline).min();
        let expiry = async {
            match next_deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stream = opened.recv() => {
                let Some(stream) = stream else { break };
                match place(&stream, &halves) {
                    Ok(place) => take(stream, place, &mut halves, &mut pairs, &sender).await,
                    Err(why) => {
                        tracing::debug!(%why, "port-forward stream refused");
                        stream.refuse(&session).await;
                    }
                }
            }
            () = expiry => expire(&mut halves, &mut pairs),
            // finished pairs needn't be kept
            Some(_) = pairs.join_next() => {}
            () = sender.closed() => {
                session.close().await;
                break;
            }
        }
    }
    session.closed.cancel();
}

/// Where a new stream belongs.
struct Place {
    port: u16,
    is_error: bool,
    request: String,
}

fn place(opened: &Opened, halves: &HashMap<String, Half>) -> Result<Place, String> {
    let port = opened.header("port").ok_or("\"port\" header is required")?;
    let port = match port.parse::<u16>() {
        Ok(0) => return Err(format!("port \"{port}\" must be > 0")),
        Ok(port) => port,
        Err(error) => return Err(format!("unable to parse \"{port}\" as a port: {error}")),
    };
    let is_error = match opened.header("streamtype") {
        Some("error") => true,
        Some("data") => false,
        Some(other) => return Err(format!("invalid stream type \"{other}\"")),
        None => return Err("\"streamType\" header is required".to_owned()),
    };
    let request = match opened.header("requestid") {
        Some(request) if !request.is_empty() => request.to_owned(),
        // clients from before request ids open the error stream, then the data stream
        _ if is_error => opened.id.to_string(),
        _ => opened.id.saturating_sub(2).to_string(),
    };
    match halves.get(&request) {
        None if halves.len() >= HALF_PAIRS_MAX => Err(format!(
            "{HALF_PAIRS_MAX} connections wait for their other stream"
        )),
        Some(half) if (if is_error { &half.error } else { &half.data }).is_some() => {
            Err(format!("stream for request {request} already assigned"))
        }
        _ => Ok(Place {
            port,
            is_error,
            request,
        }),
    }
}

/// Sorts a new stream in, and hands its pair out when it is complete.
async fn take(
    opened: Opened,
    Place {
        port,
        is_error,
        request,
    }: Place,
    halves: &mut HashMap<String, Half>,
    pairs: &mut JoinSet<()>,
    sender: &mpsc::Sender<ForwardStream>,
) {
    let mut half = halves.remove(&request).unwrap_or_default();
    let slot = if is_error {
        &mut half.error
    } else {
        &mut half.data
    };
    *slot = Some(opened.stream);
    let (data, error) = match half {
        Half {
            data: Some(data),
            error: Some(error),
            ..
        } => (data, error),
        mut half => {
            half.deadline = Some(Instant::now() + PAIRING_MAX);
            halves.insert(request, half);
            return;
        }
    };
    let (report, reported) = oneshot::channel();
    pairs.spawn(report_error(error, reported));
    let forward = ForwardStream {
        port,
        data: data.io,
        error: report,
    };
    // nobody takes it: dropping it ends it, and the session ends anyway
    let _ = sender.send(forward).await;
}

fn expire(halves: &mut HashMap<String, Half>, pairs: &mut JoinSet<()>) {
    let now = Instant::now();
    let late = halves.extract_if(|_, half| half.deadline.is_some_and(|deadline| deadline <= now));
    for (request, half) in late {
        if let Some(error) = half.error {
            let (report, reported) = oneshot::channel();
            pairs.spawn(report_error(error, reported));
            // its receiver has just been made
            let _ = report.send(format!("(request={request}) timed out waiting for streams"));
        }
    }
}

/// Writes the error when there is one, and ends the stream.
async fn report_error(mut stream: Stream, reported: oneshot::Receiver<String>) {
    if let Ok(message) = reported.await {
        // an error means that the client has gone
        let _ = stream.io.write_all(message.as_bytes()).await;
    }
    drop(stream.io);
    let _ = stream.pump.await;
}

/// Waits until the Pod's side of a connection has ended: channels can't be closed one by one, so that the client learns of
/// it by the end of them all, and has no way to say that it has ended itself.
async fn end_of_channels(
    mut data: JoinHandle<()>,
    mut error: Stream,
    mut reported: oneshot::Receiver<String>,
) {
    let message = tokio::select! {
        biased;
        message = &mut reported => message.ok(),
        // an error is told before the data ends
        _ = &mut data => reported.try_recv().ok(),
    };
    if let Some(message) = message {
        // an error means that the client has gone
        let _ = error.io.write_all(message.as_bytes()).await;
    }
    drop(error.io);
    let _ = error.pump.await;
    if !data.is_finished() {
        let _ = data.await;
    }
}

/// Two channels a port: data and error, both beginning with the port's number.
async fn over_channels<IO>(
    io: IO,
    codec: Codec,
    ports: Vec<u16>,
    sender: mpsc::Sender<ForwardStream>,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let channels = async |session: &Session| {
        let (mut streams, mut inbound) = (Vec::new(), Vec::new());
        for (i, &port) in ports.iter().enumerate() {
            let data = 2 * i as u32;
            let (stream, pipe) = session.stream(data);
            streams.push((port, stream, session.outgoing(data + 1)));
            inbound.extend([Some(pipe), None]);
        }
        (streams, inbound)
    };
    let (session, streams) = websocket::serve(io, codec, channels).await;
    let mut ends = JoinSet::new();
    for (i, (port, data, error)) in streams.into_iter().enumerate() {
        for channel in [2 * i as u32, 2 * i as u32 + 1] {
            let number = Out::Data {
                stream: channel,
                bytes: port.to_le_bytes().to_vec().into(),
                end: false,
            };
            // an error means that the client has gone
            let _ = session.out.send(number).await;
        }
        let (report, reported) = oneshot::channel();
        ends.spawn(end_of_channels(data.pump, error, reported));
        let forward = ForwardStream {
            port,
            data: data.io,
            error: report,
        };
        if sender.send(forward).await.is_err() {
            break;
        }
    }
    // when all have ended, or the client has hung up (which ends them)
    while ends.join_next().await.is_some() {}
    // not before: whoever takes the connections ends them with the last of the channel
    drop(sender);
    session.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spdy::frame;
    use crate::spdy::tests::{Client, Got};
    use tokio::io::AsyncReadExt;

    fn connect() -> (Client, mpsc::Receiver<ForwardStream>) {
        let (near, far) = tokio::io::duplex(16 << 10);
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(over_spdy(far, sender));
        (Client::new(near), receiver)
    }

    #[tokio::test(start_paused = true)]
    async fn channels_last_as_long_as_the_client_stays() {
        use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};
        let (near, far) = tokio::io::duplex(16 << 10);
        let (sender, mut connections) = mpsc::channel(1);
        tokio::spawn(over_channels(far, Codec::Binary, vec![80], sender));
        let client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        let connection = connections.recv().await.unwrap();
        assert_eq!(connection.port, 80);
        let more = tokio::time::timeout(Duration::from_secs(5), connections.recv()).await;
        assert!(more.is_err(), "the client is still there");
        drop((client, connection));
        assert!(connections.recv().await.is_none());
    }

    #[tokio::test]
    async fn channels_end_when_the_pods_side_of_all_has() {
        use futures::{SinkExt, StreamExt};
        use tokio_tungstenite::{
            WebSocketStream,
            tungstenite::{Message, protocol::Role},
        };
        let (near, far) = tokio::io::duplex(16 << 10);
        let (sender, mut connections) = mpsc::channel(2);
        tokio::spawn(over_channels(far, Codec::Binary, vec![80, 81], sender));
        let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        let mut first = connections.recv().await.unwrap();
        let second = connections.recv().await.unwrap();
        client.send(Message::binary(&b"\0ping"[..])).await.unwrap();
        let mut ping = [0; 4];
        first.data.read_exact(&mut ping).await.unwrap();
        assert_eq!(&ping, b"ping");
        first.data.write_all(b"pong").await.unwrap();
        // the server's copying still waits for the client
        first.data.shutdown().await.unwrap();
        second.error.send("refused".to_owned()).unwrap();
        drop(second.data);
        let mut got: Vec<Vec<u8>> = Vec::new();
        while let Some(Ok(message)) = client.next().await {
            if let Message::Binary(bytes) = message {
                got.push(bytes.to_vec());
            }
        }
        got.retain(|m| m.len() > 3);
        got.sort();
        assert_eq!(got, [&b"\0pong"[..], &b"\x03refused"[..]]);
        assert!(connections.recv().await.is_none());
    }

    #[tokio::test]
    async fn pairs_in_any_order_with_and_without_request_ids() {
        let (mut client, mut connections) = connect();
        let streams: &[(u32, &str, &str, &str)] = &[
            (1, "data", "80", "b"),
            (3, "error", "81", "a"),
            (5, "error", "80", "b"),
            (7, "data", "81", "a"),
            // an old client: error, then data
            (9, "error", "82", ""),
            (11, "data", "82", ""),
        ];
        let mut ports = Vec::new();
        let mut kept = Vec::new();
        for &(id, kind, port, request) in streams {
            client
                .open(
                    id,
                    0,
                    &[("streamType", kind), ("port", port), ("requestID", request)],
                )
                .await;
            client.expect(frame::SYN_REPLY, &[id]).await;
            if matches!(id, 5 | 7 | 11) {
                let connection = connections.recv().await.unwrap();
                ports.push(connection.port);
                kept.push(connection);
            }
        }
        assert_eq!(ports, [80, 81, 82]);
        let ForwardStream {
            mut data, error, ..
        } = kept.remove(0);
        client.data(1, frame::FLAG_FIN, b"ping").await;
        let mut ping = String::new();
        data.read_to_string(&mut ping).await.unwrap();
        assert_eq!(ping, "ping");
        data.write_all(b"pong").await.unwrap();
        client.expect_data(1, false, b"pong").await;
        drop(data);
        client.expect_data(1, true, b"").await;
        error.send("broken".to_owned()).unwrap();
        client.expect_data(5, false, b"broken").await;
        client.expect_data(5, true, b"").await;
        drop(client);
        assert!(connections.recv().await.is_none(), "ends with the client");
    }

    #[tokio::test]
    async fn senseless_streams_are_reset() {
        let (mut client, _connections) = connect();
        let check = async |client: &mut Client, id: u32, headers: &[(&str, &str)]| {
            client.open(id, 0, headers).await;
            client.expect(frame::SYN_REPLY, &[id]).await;
            loop {
                match client.next().await {
                    // the end of the stream that was dropped may come first
                    Got::Data { .. } => {}
                    Got::Control { kind, payload } => {
                        assert_eq!(
                            (kind, &payload[..4]),
                            (frame::RST_STREAM, &id.to_be_bytes()[..]),
                            "{headers:?}"
                        );
                        return;
                    }
                    Got::End => panic!("{headers:?}"),
                }
            }
        };
        check(&mut client, 1, &[("streamtype", "data")]).await;
        check(&mut client, 3, &[("streamtype", "data"), ("port", "0")]).await;
        check(&mut client, 5, &[("streamtype", "data"), ("port", "65536")]).await;
        check(&mut client, 7, &[("streamtype", "stdin"), ("port", "80")]).await;
        check(&mut client, 9, &[("port", "80")]).await;
        let twice = [("streamtype", "data"), ("port", "80"), ("requestid", "1")];
        client.open(11, 0, &twice).await;
        client.expect(frame::SYN_REPLY, &[11]).await;
        check(&mut client, 13, &twice).await;
    }

    /// As a browser's burst through `kubectl port-forward`: error streams of all first, data of each longer than a pipe.
    #[tokio::test(start_paused = true)]
    async fn many_connections_begin_at_once() {
        const CONNECTIONS: u32 = 200;
        let (mut client, mut connections) = connect();
        let taken = tokio::spawn(async move {
            let mut echoes = JoinSet::new();
            for _ in 0..CONNECTIONS {
                let connection = connections.recv().await.unwrap();
                echoes.spawn(async move {
                    let (mut read, mut write) = tokio::io::split(connection.data);
                    tokio::io::copy(&mut read, &mut write).await.unwrap();
                    write.shutdown().await.unwrap();
                    drop(connection.error);
                });
            }
            echoes.join_all().await;
        });
        for kind in ["error", "data"] {
            for n in 0..CONNECTIONS {
                let id = 1 + 2 * n + if kind == "data" { 2 * CONNECTIONS } else { 0 };
                let request = n.to_string();
                let headers = [
                    ("streamType", kind),
                    ("port", "80"),
                    ("requestID", &request),
                ];
                client.open(id, 0, &headers).await;
                client.expect(frame::SYN_REPLY, &[id]).await;
            }
        }
        let mut ended = 0;
        for n in 0..CONNECTIONS {
            let id = 1 + 2 * n + 2 * CONNECTIONS;
            for _ in 0..5 {
                client.data(id, 0, &[7; 8 << 10]).await;
            }
            client.data(id, frame::FLAG_FIN, &[]).await;
            // what comes back of this one, and the end of its error stream
            let mut back = 0;
            let mut ends = 0;
            while back < 5 * (8 << 10) || ends < 2 {
                if let Got::Data { bytes, fin, .. } = client.next().await {
                    back += bytes.len();
                    ends += usize::from(fin);
                }
            }
            ended += 1;
        }
        assert_eq!(ended, CONNECTIONS);
        taken.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_pair_expires_with_a_reason() {
        let (mut client, _connections) = connect();
        client
            .open(
                1,
                0,
                &[("streamtype", "error"), ("port", "80"), ("requestid", "x")],
            )
            .await;
        client.expect(frame::SYN_REPLY, &[1]).await;
        client
            .expect_data(1, false, b"(request=x) timed out waiting for streams")
            .await;
        client.expect_data(1, true, b"").await;
    }

    #[tokio::test]
    async fn channel_protocols_need_ports() {
        let check = async |ports: &[u16], protocol: &str, fine: bool| {
            let mut request = http::Request::builder()
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
                .header("sec-websocket-protocol", protocol)
                .body(())
                .unwrap();
            let accepted = accept_port_forward(&mut request, ports);
            assert_eq!(accepted.is_ok(), fine, "{protocol} {ports:?}");
        };
        check(&[], "v4.channel.k8s.io", false).await;
        check(&[0], "v4.channel.k8s.io", false).await;
        check(&[80; 129], "v4.channel.k8s.io", false).await;
        check(&[80; 128], "v4.channel.k8s.io", true).await;
        check(&[80; 6], "v4.base64.channel.k8s.io", false).await;
        check(&[], TUNNELLED, true).await;
    }
}
