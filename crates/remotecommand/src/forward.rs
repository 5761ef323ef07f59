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
use tokio::task::JoinSet;
use tokio::time::Instant;
use websocket::Codec;

/// How long the second stream of a pair may be missing (kubelet's `streamCreationTimeout`).
const PAIRING_MAX: Duration = Duration::from_secs(30);
/// Pairs of which one stream is missing.
const HALF_PAIRS_MAX: usize = 64;
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
                let id = stream.id;
                if let Err(why) = take(stream, &mut halves, &mut pairs, &sender).await {
                    tracing::debug!(%why, "port-forward stream refused");
                    // an error means that the connection has gone
                    let _ = session.out.send(Out::Reset { stream: id, code: spdy::PROTOCOL_ERROR }).await;
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

/// Sorts a new stream in, and hands its pair out when it is complete.
async fn take(
    opened: Opened,
    halves: &mut HashMap<String, Half>,
    pairs: &mut JoinSet<()>,
    sender: &mpsc::Sender<ForwardStream>,
) -> Result<(), String> {
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
    if !halves.contains_key(&request) && halves.len() >= HALF_PAIRS_MAX {
        return Err(format!(
            "{HALF_PAIRS_MAX} connections wait for their other stream"
        ));
    }
    let half = halves.entry(request.clone()).or_default();
    let slot = if is_error {
        &mut half.error
    } else {
        &mut half.data
    };
    if slot.is_some() {
        return Err(format!("stream for request {request} already assigned"));
    }
    *slot = Some(opened.stream);
    half.deadline
        .get_or_insert_with(|| Instant::now() + PAIRING_MAX);
    if half.data.is_none() || half.error.is_none() {
        return Ok(());
    }
    let Some(Half {
        data: Some(data),
        error: Some(error),
        ..
    }) = halves.remove(&request)
    else {
        return Ok(());
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
    Ok(())
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
        ends.spawn(report_error(error, reported));
        ends.spawn(async move {
            let _ = data.pump.await;
        });
        let forward = ForwardStream {
            port,
            data: data.io,
            error: report,
        };
        if sender.send(forward).await.is_err() {
            break;
        }
    }
    drop(sender);
    // when all have ended, or the client has hung up (which ends them)
    while ends.join_next().await.is_some() {}
    session.close().await;
}
