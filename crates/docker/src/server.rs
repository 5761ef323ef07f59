//! Connections on the socket, and what every answer has.

use crate::{
    API_VERSION, API_VERSION_MIN,
    daemon::Daemon,
    error::{Fault, Result},
    http::{self, Answer, Ask, Query},
    route,
};
use ::http::{HeaderValue, Request, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{net::UnixListener, sync::Semaphore};

/// Connections at once; more wait.
const CONNECTIONS_MAX: usize = 512;
/// How long a client may take for a request's head.
const HEAD: Duration = Duration::from_secs(60);
/// Without more descriptors, nobody is let in for so long.
const BREATH: Duration = Duration::from_millis(100);

/// Until dropped.
pub async fn serve(listener: UnixListener, daemon: Arc<Daemon>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "a client could not be let in");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let daemon = daemon.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| handle(daemon.clone(), request));
            let served = hyper::server::conn::http1::Builder::new()
                .timer(hyper_util::rt::TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            if let Err(e) = served {
                tracing::debug!(error = %e, "a client's connection broke");
            }
            drop(place);
        });
    }
}

fn text((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

async fn handle(
    daemon: Arc<Daemon>,
    request: Request<Incoming>,
) -> std::result::Result<Answer, Infallible> {
    let what = format!("{} {}", request.method(), request.uri().path());
    let answered = match ask(request) {
        Ok(ask) => route::route(&daemon, ask).await,
        Err(fault) => Err(fault),
    };
    let mut answer = answered.unwrap_or_else(|fault| {
        if fault.status.is_server_error() {
            tracing::info!(request = what, error = fault.message, "refused");
        }
        http::fault(&fault)
    });
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let headers = answer.headers_mut();
        let mut set = |name: &'static str, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        };
        set("api-version", text(API_VERSION));
        set("docker-experimental", "false".into());
        set("ostype", "linux".into());
        set("server", format!("knarr/{} (linux)", daemon.version));
    }
    Ok(answer)
}

/// Takes a request apart: `/v1.43/containers/web/json`.
fn ask(mut request: Request<Incoming>) -> Result<Ask> {
    let upgrade = request
        .headers()
        .contains_key(::http::header::UPGRADE)
        .then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let mut segments = parts.uri.path().split('/').filter(|s| !s.is_empty());
    let mut path: Vec<String> = Vec::new();
    let mut version = API_VERSION;
    if let Some(first) = segments.next() {
        match parse_version(first) {
            Some(asked) => version = checked(asked)?,
            None => path.push(decode(first)),
        }
    }
    path.extend(segments.map(decode));
    Ok(Ask {
        method: parts.method,
        path,
        query: Query::parse(parts.uri.query().unwrap_or_default()),
        version,
        headers: parts.headers,
        body: http::Upload::new(body),
        upgrade,
    })
}

fn decode(segment: &str) -> String {
    percent_encoding::percent_decode_str(segment)
        .decode_utf8_lossy()
        .into_owned()
}

fn parse_version(segment: &str) -> Option<(u32, u32)> {
    let (major, minor) = segment.strip_prefix('v')?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// SOURCE: moby `api/server/middleware/version.go`
fn checked(asked: (u32, u32)) -> Result<(u32, u32)> {
    if asked < API_VERSION_MIN {
        return Err(Fault::bad(format!(
            "client version {} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
            text(asked),
            text(API_VERSION_MIN)
        )));
    }
    if asked > API_VERSION {
        return Err(Fault::bad(format!(
            "client version {} is too new. Maximum supported API version is {}",
            text(asked),
            text(API_VERSION)
        )));
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_negotiated() {
        let check = |segment: &str, wanted: Option<Result<(u32, u32), &str>>| {
            let got = parse_version(segment).map(|v| checked(v).map_err(|f| f.message));
            assert_eq!(got, wanted.map(|w| w.map_err(str::to_string)), "{segment}");
        };
        check("v1.43", Some(Ok((1, 43))));
        check("containers", None);
        check("volumes", None);
        check(
            "v1.23",
            Some(Err(
                "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
            )),
        );
        check(
            "v1.99",
            Some(Err(
                "client version 1.99 is too new. Maximum supported API version is 1.51",
            )),
        );
    }

    #[test]
    fn segments_are_decoded() {
        for (segment, wanted) in [
            ("a%2Fb", "a/b"),
            ("a+b", "a+b"),
            ("x%3Ay", "x:y"),
            ("a=b&c", "a=b&c"),
        ] {
            assert_eq!(decode(segment), wanted);
        }
    }
}
