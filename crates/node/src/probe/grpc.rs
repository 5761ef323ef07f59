//! gRPC health checks (`grpc.health.v1.Health/Check`), by hand over HTTP/2: one request, two small messages.
//!
//! Source: grpc `doc/health-checking.md`, kubernetes `pkg/probe/grpc`.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{Outcome, http::authority};

const ANSWER_BYTES_MAX: usize = 4096;

pub(crate) async fn probe(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let target = authority(host, port);
    match tokio::time::timeout(timeout, check(host, port, &target, service)).await {
        Err(_) => Outcome::Failure(format!(
            "timeout: health rpc to {target:?} did not complete within {}s",
            timeout.as_secs()
        )),
        Ok(Err(text)) => Outcome::Failure(text),
        Ok(Ok(1)) => Outcome::Success,
        Ok(Ok(status)) => Outcome::Failure(format!(
            "service unhealthy (responded with {:?})",
            match status {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "?",
            }
        )),
    }
}

/// `HealthCheckRequest { service = 1 }` in a length-prefixed gRPC frame.
fn request_frame(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// `HealthCheckResponse.status` (field 1); 0 when it's left out.
fn status_of(frame: &[u8]) -> Option<u64> {
    let (head, message) = frame.split_at_checked(5)?;
    if head[0] != 0 {
        return None;
    }
    let mut rest = message;
    let mut status = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match key & 7 {
            0 => {
                let value = varint(&mut rest)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            _ => return None,
        }
    }
    Some(status)
}

async fn check(host: &str, port: u16, target: &str, service: &str) -> Result<u64, String> {
    let refused = |e: std::io::Error| format!("timeout: failed to connect service {target:?}: {e}");
    let stream = TcpStream::connect((host, port)).await.map_err(refused)?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(
        TokioExecutor::new(),
        TokioIo::new(stream),
    )
    .await
    .map_err(|e| e.to_string())?;
    let request = http::Request::post(format!("http://{target}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(request_frame(service)))
        .map_err(|e| e.to_string())?;
    let work = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let grpc = |headers: &http::HeaderMap| {
            headers
                .get("grpc-status")
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned)
        };
        if !response.status().is_success() {
            return Err(format!(
                "health rpc failed with HTTP status {}",
                response.status().as_u16()
            ));
        }
        let mut code = grpc(response.headers());
        let mut body = response.into_body();
        let mut answer = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| e.to_string())?;
            if let Some(data) = frame.data_ref() {
                if answer.len() + data.len() > ANSWER_BYTES_MAX {
                    return Err("health rpc answered with too long a message".into());
                }
                answer.extend_from_slice(data);
            }
            if let Some(trailers) = frame.trailers_ref() {
                code = grpc(trailers).or(code);
            }
        }
        match code.as_deref() {
            Some("0") => {
                status_of(&answer).ok_or_else(|| "health rpc answered with a broken message".into())
            }
            Some("12") => Err(
                "this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                    .into(),
            ),
            Some("5") => Err(format!("health rpc failed: unknown service {service:?}")),
            Some(code) => Err(format!("health rpc failed with code {code}")),
            None => Err("health rpc ended without a status".into()),
        }
    };
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => done,
        _ = connection => work.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::service::service_fn;

    #[test]
    fn frames() {
        assert_eq!(&request_frame("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(
            &request_frame("ab")[..],
            [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']
        );
        assert_eq!(status_of(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status_of(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status_of(&[1, 0, 0, 0, 2, 8, 1]), None);
        assert_eq!(status_of(&[0, 0]), None);
    }

    async fn answer_with(frame: &'static [u8], code: &'static str) -> Outcome {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(
                move |request: http::Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", code.parse().unwrap());
                    let body = Full::new(Bytes::from_static(frame))
                        .with_trailers(async { Some(Ok(trailers)) });
                    Ok::<_, std::convert::Infallible>(http::Response::new(body))
                },
            );
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        probe("127.0.0.1", port, "svc", Duration::from_secs(60)).await
    }

    #[tokio::test]
    async fn a_real_exchange() {
        assert_eq!(
            answer_with(&[0, 0, 0, 0, 2, 8, 1], "0").await,
            Outcome::Success
        );
        let Outcome::Failure(text) = answer_with(&[0, 0, 0, 0, 2, 8, 2], "0").await else {
            panic!()
        };
        assert_eq!(text, "service unhealthy (responded with \"NOT_SERVING\")");
        let Outcome::Failure(text) = answer_with(&[], "12").await else {
            panic!()
        };
        assert!(
            text.contains("does not implement the grpc health protocol"),
            "{text}"
        );
    }
}
