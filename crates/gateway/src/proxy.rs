//! One HTTP request: to an endpoint, again to another one where that is safe, and its answer back.

use std::{net::IpAddr, sync::Arc, time::Duration};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    body::{Body as _, Incoming},
    header::{self, HeaderValue},
    http::uri::{Authority, PathAndQuery, Scheme},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until};

use crate::{
    body::{Body, Upload},
    headers,
    pool::{Group, InFlight, Sender1},
};

/// How long a request waits for an endpoint, all attempts to connect together.
const ENDPOINT: Duration = Duration::from_secs(5);
/// How long a client may rest within its body, and then the endpoint before its answer begins (nginx'
/// `client_body_timeout` and `proxy_read_timeout`).
const ANSWER: Duration = Duration::from_secs(60);
const ATTEMPTS_MAX: usize = 32;
/// How often a request goes out again that an endpoint may have seen: one that ends its servers must not end them all.
const RESENT_MAX: usize = 2;
/// Pause before an endpoint that refused is tried again, doubled up to the second figure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(400));

/// What a request came over.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    pub(crate) ip: IpAddr,
    pub(crate) tls: bool,
}

/// An answer of our own.
pub(crate) fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::text(text + "\n"));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// What is wrong with the request itself.
pub(crate) fn unfit(request: &Request<Incoming>) -> Option<Response<Body>> {
    let refuse = |text: &str| Some(plain(StatusCode::BAD_REQUEST, text.into()));
    if request.method() == Method::CONNECT {
        return Some(plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "CONNECT is not served here".into(),
        ));
    }
    if headers::host(request).is_none() && request.version() != Version::HTTP_10 {
        return refuse("the request names no host, or more than one");
    }
    // RFC 9110, section 4.2.4: it could make the host look like another one.
    if request
        .uri()
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return refuse("the request's target has user information");
    }
    None
}

enum Sender {
    One(Sender1),
    Two(crate::pool::Sender2),
}

/// The head as an endpoint gets it.
struct Head {
    method: Method,
    path: PathAndQuery,
    authority: Option<Authority>,
    headers: HeaderMap,
}

impl Head {
    fn request(&self, body: Body, two: bool) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        let mut uri = hyper::http::uri::Parts::default();
        uri.path_and_query = Some(self.path.clone());
        if two && let Some(authority) = &self.authority {
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = Some(authority.clone());
            request.headers_mut().remove(header::HOST);
        }
        // A path alone, or all three parts, are always a URI.
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.version_mut() = if two {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
        request
    }
}

/// Asks the endpoints of `group`; `h2c` when they speak HTTP/2 without TLS.
pub(crate) async fn forward(
    group: &Group,
    mut request: Request<Incoming>,
    client: Client,
    h2c: bool,
) -> Response<Body> {
    let upgrade = match request.version() {
        Version::HTTP_11 => headers::upgrade(request.headers()),
        _ => None,
    };
    let switch = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut parts, incoming) = request.into_parts();
    let grpc = parts.version == Version::HTTP_2
        && parts
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    let two = h2c || grpc;
    if let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(header::HOST, host);
    }
    headers::strip(&mut parts.headers, upgrade.as_ref());
    headers::forwarded(&mut parts.headers, client.ip, client.tls);
    let head = Head {
        authority: parts
            .headers
            .get(header::HOST)
            .and_then(|h| Authority::try_from(h.as_bytes()).ok()),
        method: parts.method,
        path: parts
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/")),
        headers: parts.headers,
    };
    let bare = incoming.is_end_stream();
    let upload = (!bare).then(Upload::new);
    let body = match &upload {
        None => Body::Empty,
        Some(upload) => Body::Upload(incoming, upload.clone()),
    };
    // RFC 9110, section 9.2.2: only these may be sent twice without asking.
    let replayable = bare && (head.method.is_idempotent() && switch.is_none());
    let mut call = Call {
        group,
        client: client.ip,
        head: &head,
        upload,
        replayable,
        two,
        fresh: switch.is_some(),
    };
    match call.attempt(body).await {
        Ok((response, in_flight, sender)) => answer(response, in_flight, sender, switch),
        Err(refusal) => refusal,
    }
}

type Asked = (Response<Incoming>, InFlight, Option<Sender1>);

/// One request until its answer begins.
struct Call<'a> {
    group: &'a Group,
    client: IpAddr,
    head: &'a Head,
    /// None without a body.
    upload: Option<Arc<Upload>>,
    replayable: bool,
    two: bool,
    /// Only on a connection of its own.
    fresh: bool,
}

impl Call<'_> {
    async fn attempt(&mut self, body: Body) -> Result<Asked, Response<Body>> {
        let (group, two) = (self.group, self.two);
        let end = Instant::now() + ENDPOINT;
        let mut tried = Vec::new();
        let mut message = Some(self.head.request(body, two));
        let mut last = String::new();
        let (mut pause, mut resent) = (PAUSE.0, 0);
        for _ in 0..ATTEMPTS_MAX {
            let mut chosen = group.choose(self.client, &tried, end).await;
            if chosen
                .as_ref()
                .is_some_and(|c| tried.contains(&c.0.address))
            {
                // All have refused: they may come back, or others come.
                drop(chosen);
                group.rest(pause).await;
                pause = (pause * 2).min(PAUSE.1);
                chosen = group.choose(self.client, &tried, end).await;
            }
            let Some(in_flight) = chosen else {
                let text = format!("Service {} has no ready endpoint", group.name);
                return Err(plain(StatusCode::SERVICE_UNAVAILABLE, text));
            };
            let backend = in_flight.0.clone();
            let reused = match two || self.fresh {
                false => backend.reuse().await,
                true => None,
            };
            let was_used = reused.is_some();
            let opened = match reused {
                Some(sender) => Ok(Sender::One(sender)),
                None if two => backend.open2().await.map(Sender::Two),
                None => backend.open1().await.map(Sender::One),
            };
            let sender = match opened {
                Ok(sender) => sender,
                Err(error) => {
                    last = format!("{}: {error}", backend.address);
                    if Instant::now() >= end {
                        break;
                    }
                    tried.push(backend.address);
                    continue;
                }
            };
            // It left while we connected: whatever is sent now may meet its end. Another has taken its place, or will.
            if backend.is_gone() && Instant::now() < end {
                continue;
            }
            let request = message
                .take()
                .unwrap_or_else(|| self.head.request(Body::Empty, two));
            let (sent, sender) = match sender {
                Sender::One(mut sender) => {
                    let answer = sender.try_send_request(request);
                    (
                        in_time(answer, self.upload.as_deref(), ANSWER).await,
                        Some(sender),
                    )
                }
                Sender::Two(mut sender) => {
                    let answer = sender.try_send_request(request);
                    (in_time(answer, self.upload.as_deref(), ANSWER).await, None)
                }
            };
            let mut error = match sent {
                Some(Ok(response)) => return Ok((response, in_flight, sender)),
                Some(Err(error)) => error,
                None => return Err(self.late(&backend.address.to_string())),
            };
            match was_used {
                // What else is kept of that endpoint is likely to be as dead.
                true => self.fresh = true,
                false => tried.push(backend.address),
            }
            last = format!("{}: {}", backend.address, error.error());
            message = error.take_message();
            if message.is_none() {
                // It may have been seen: again only where that is harmless.
                if !self.replayable || resent == RESENT_MAX {
                    break;
                }
                resent += 1;
            }
        }
        tracing::debug!(service = %group.name, error = %last, "a request failed");
        Err(plain(
            StatusCode::BAD_GATEWAY,
            format!("Service {}: {last}", group.name),
        ))
    }

    fn late(&self, endpoint: &str) -> Response<Body> {
        let name = &self.group.name;
        match &self.upload {
            Some(upload) if !upload.ended() => plain(
                StatusCode::REQUEST_TIMEOUT,
                format!("Service {name}: the request's body did not go on for {ANSWER:?}"),
            ),
            _ => plain(
                StatusCode::GATEWAY_TIMEOUT,
                format!("Service {name}: {endpoint} did not answer within {ANSWER:?}"),
            ),
        }
    }
}

/// None when neither the client's body nor the endpoint has moved for so long.
async fn in_time<T>(
    answer: impl Future<Output = T>,
    upload: Option<&Upload>,
    limit: Duration,
) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    let mut end = Instant::now() + limit;
    loop {
        tokio::select! {
            answer = answer.as_mut() => return Some(answer),
            () = sleep_until(end) => {}
        }
        match upload.map(|u| u.stalls_at(limit)) {
            Some(later) if later > end => end = later,
            _ => return None,
        }
    }
}

fn answer(
    mut response: Response<Incoming>,
    in_flight: InFlight,
    sender: Option<Sender1>,
    switch: Option<OnUpgrade>,
) -> Response<Body> {
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = response
        .headers()
        .get(header::UPGRADE)
        .filter(|_| switched)
        .cloned();
    if let (true, Some(ours)) = (switched, switch) {
        let theirs = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let _in_flight = in_flight;
            if let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) {
                let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
                let _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
            }
        });
        let (mut parts, _) = response.into_parts();
        headers::strip(&mut parts.headers, protocol.as_ref());
        return Response::from_parts(parts, Body::Empty);
    }
    let (mut parts, incoming) = response.into_parts();
    headers::strip(&mut parts.headers, None);
    // Each side has a version of its own.
    parts.version = Version::HTTP_11;
    Response::from_parts(parts, Body::answer(incoming, in_flight, sender))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_goes_on_is_no_delay() {
        let limit = ANSWER;
        let upload = Upload::new();
        let moving = upload.clone();
        let answer = async {
            for _ in 0..12 {
                tokio::time::sleep(limit / 8).await;
                moving.moved(false);
            }
            "answered"
        };
        assert_eq!(
            in_time(answer, Some(&upload), limit).await,
            Some("answered")
        );
        let never = pending::<()>();
        assert_eq!(in_time(never, Some(&upload), limit / 8).await, None);
        assert_eq!(in_time(pending::<()>(), None, limit / 8).await, None);
    }
}
