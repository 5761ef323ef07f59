//! One gRPC call over a unix socket: HTTP/2, one request message, one answer.
//!
//! Source: grpc `doc/PROTOCOL-HTTP2.md`.

use std::{
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::fs::{Mode, OFlags};
use tokio::net::UnixStream;

use super::proto::Message;

/// A driver's answers are small; one that is not is no answer.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// `sun_path` takes 107 bytes and a zero.
const PATH_BYTES_MAX: usize = 107;

/// Codes of gRPC that decide what happens next.
pub(crate) mod code {
    pub(crate) const CANCELLED: u32 = 1;
    pub(crate) const UNKNOWN: u32 = 2;
    pub(crate) const DEADLINE_EXCEEDED: u32 = 4;
    pub(crate) const NOT_FOUND: u32 = 5;
    pub(crate) const RESOURCE_EXHAUSTED: u32 = 8;
    pub(crate) const FAILED_PRECONDITION: u32 = 9;
    pub(crate) const ABORTED: u32 = 10;
    pub(crate) const OUT_OF_RANGE: u32 = 11;
    pub(crate) const UNIMPLEMENTED: u32 = 12;
    pub(crate) const UNAVAILABLE: u32 = 14;
}

const NAMES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// What a call ended with instead of an answer; worded as grpc-go words it, for it goes into events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", NAMES.get(*.code as usize).unwrap_or(&"Unknown"))]
pub(crate) struct Status {
    pub code: u32,
    pub message: String,
}

impl Status {
    pub(crate) fn new(code: u32, message: impl Into<String>) -> Status {
        Status {
            code,
            message: message.into(),
        }
    }

    /// The driver may still be at work on it (`volumetypes.IsOperationFinishedError`, turned round).
    pub(crate) fn unfinished(&self) -> bool {
        matches!(
            self.code,
            code::CANCELLED
                | code::DEADLINE_EXCEEDED
                | code::UNAVAILABLE
                | code::RESOURCE_EXHAUSTED
                | code::ABORTED
        )
    }
}

/// Calls `method` (`/package.Service/Method`) at the socket; a connection of its own for each call, as drivers come and go.
///
/// # Errors
/// The driver's status; UNAVAILABLE when nobody listens, DEADLINE_EXCEEDED after `deadline`.
pub(crate) async fn call(
    socket: &Path,
    method: &str,
    request: &Message,
    deadline: Duration,
) -> Result<Bytes, Status> {
    match tokio::time::timeout(deadline, exchange(socket, method, request, deadline)).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::new(
            code::DEADLINE_EXCEEDED,
            "context deadline exceeded",
        )),
    }
}

/// Connects, however long the path is: by the folder's descriptor when it's too long for a socket's name.
pub(crate) async fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    if socket.as_os_str().len() <= PATH_BYTES_MAX {
        return UnixStream::connect(socket).await;
    }
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    UnixStream::connect(short).await
}

async fn exchange(
    socket: &Path,
    method: &str,
    request: &Message,
    deadline: Duration,
) -> Result<Bytes, Status> {
    let unavailable = |e: &dyn std::fmt::Display| {
        Status::new(
            code::UNAVAILABLE,
            format!("connection error: {}: {e}", socket.display()),
        )
    };
    let stream = connect(socket).await.map_err(|e| unavailable(&e))?;
    let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(
        TokioExecutor::new(),
        TokioIo::new(stream),
    )
    .await
    .map_err(|e| unavailable(&e))?;
    let message = request.as_bytes();
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    let request = http::Request::post(format!("http://localhost{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", format!("{}m", deadline.as_millis()))
        .header("user-agent", "knarr")
        .body(Full::new(frame.freeze()))
        .map_err(|e| Status::new(code::UNKNOWN, e.to_string()))?;
    let work = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| unavailable(&e))?;
        if !response.status().is_success() {
            let text = format!(
                "unexpected HTTP status code received from server: {}",
                response.status().as_u16()
            );
            return Err(Status::new(code::UNKNOWN, text));
        }
        let mut status = status(response.headers());
        let mut body = response.into_body();
        let mut answer = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| unavailable(&e))?;
            if let Some(data) = frame.data_ref() {
                if answer.len() + data.len() > ANSWER_BYTES_MAX {
                    let text = format!("the answer is longer than {ANSWER_BYTES_MAX} bytes");
                    return Err(Status::new(code::RESOURCE_EXHAUSTED, text));
                }
                answer.extend_from_slice(data);
            }
            if let Some(trailers) = frame.trailers_ref() {
                status = self::status(trailers).or(status);
            }
        }
        match status {
            Some(Status { code: 0, .. }) => unframe(answer.freeze()),
            Some(status) => Err(status),
            None => Err(Status::new(
                code::UNKNOWN,
                "the call ended without a status",
            )),
        }
    };
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => done,
        _ = connection => work.await,
    }
}

fn unframe(mut answer: Bytes) -> Result<Bytes, Status> {
    let whole = answer.len() >= 5
        && answer[0] == 0
        && u32::from_be_bytes([answer[1], answer[2], answer[3], answer[4]]) as usize
            == answer.len() - 5;
    if !whole {
        return Err(Status::new(code::UNKNOWN, "the answer is no message"));
    }
    Ok(answer.split_off(5))
}

fn status(headers: &http::HeaderMap) -> Option<Status> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let code = text("grpc-status")?.parse().unwrap_or(code::UNKNOWN);
    let message = text("grpc-message").unwrap_or_default();
    Some(Status::new(code, percent_decoded(message)))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}
