//! One request, forwarded over a connection of its own: streamed both ways, upgrades included.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header, request::Parts,
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
};

use super::rewrite::Links;
use crate::{body::Body, server::Inner, status::Failure};

/// Time to reach the backend.
const CONNECT: Duration = Duration::from_secs(30);
/// Longest page whose links are rewritten, in bytes; longer ones go as they are.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Upgraded connections at a time.
const UPGRADED_MAX: usize = 256;
static UPGRADED: Semaphore = Semaphore::const_new(UPGRADED_MAX);

/// The client's body, whatever it comes from.
pub type RequestBody =
    http_body_util::combinators::UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// How the backend is spoken to.
pub enum Tls {
    /// In the clear.
    No,
    /// TLS, with any certificate.
    Anyone,
    /// TLS, with a certificate for this name that this configuration takes.
    Verified(
        Arc<rustls::ClientConfig>,
        rustls_pki_types::ServerName<'static>,
    ),
}

/// Where a request goes.
pub struct Backend {
    pub tls: Tls,
    pub ip: IpAddr,
    pub port: u16,
    /// `Host` of the request: the address as the URL had it.
    pub authority: String,
    /// Encoded path with a leading slash.
    pub path: String,
    /// The proxy's own path, without the backend's; None: the path is the same, and answers go as they are.
    pub prefix: Option<String>,
}

/// Concerns one connection only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Upstream's words for a backend that can't be reached.
fn unreachable(backend: &Backend, why: impl std::fmt::Display) -> Failure {
    Failure::new(
        503,
        "ServiceUnavailable",
        format!(
            "error trying to reach service: dial tcp {}: {why}",
            SocketAddr::new(backend.ip, backend.port)
        ),
    )
}

fn broken(why: impl std::fmt::Display) -> Failure {
    Failure::new(
        503,
        "ServiceUnavailable",
        format!("error trying to reach service: {why}"),
    )
}

/// Forwards the request and answers with what comes back.
pub async fn forward(
    inner: &Arc<Inner>,
    backend: Backend,
    mut parts: Parts,
    body: RequestBody,
) -> Result<Response<Body>, Failure> {
    let at = SocketAddr::new(backend.ip, backend.port);
    let stream = match tokio::time::timeout(CONNECT, TcpStream::connect(at)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => {
            let told = match e.kind() {
                io::ErrorKind::ConnectionRefused => "connect: connection refused".to_string(),
                _ => format!("connect: {e}"),
            };
            return Err(unreachable(&backend, told));
        }
        Err(_) => return Err(unreachable(&backend, "i/o timeout")),
    };
    let _ = stream.set_nodelay(true);

    let upgrade = parts.headers.get(header::UPGRADE).cloned();
    let client = upgrade
        .as_ref()
        .and_then(|_| parts.extensions.remove::<hyper::upgrade::OnUpgrade>());
    let host = parts
        .headers
        .get(header::HOST)
        .and_then(|v| v.to_str().ok())
        .or_else(|| parts.uri.authority().map(|a| a.as_str()))
        .unwrap_or("")
        .to_string();
    let request = outgoing(&backend, &parts, client.as_ref().and(upgrade), &host, body)?;

    let tls = match &backend.tls {
        Tls::No => None,
        Tls::Anyone => Some((
            super::unverified::config()?,
            rustls_pki_types::ServerName::from(backend.ip),
        )),
        Tls::Verified(config, name) => Some((config.clone(), name.clone())),
    };
    let mut response = match tls {
        None => send(stream, request).await?,
        Some((config, name)) => {
            let connector = tokio_rustls::TlsConnector::from(config);
            match tokio::time::timeout(CONNECT, connector.connect(name, stream)).await {
                Ok(Ok(tls)) => send(tls, request).await?,
                Ok(Err(e)) => return Err(broken(crate::webhook::told(&e))),
                Err(_) => return Err(broken("TLS handshake timeout")),
            }
        }
    };

    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let client =
            client.ok_or_else(|| broken("the backend switched protocols without being asked"))?;
        let server = hyper::upgrade::on(&mut response);
        let permit = UPGRADED.try_acquire().map_err(|_| {
            Failure::new(
                429,
                "TooManyRequests",
                "too many upgraded connections through the proxy; try again later",
            )
            .retry_after(1)
        })?;
        let stopping = inner.stopping.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let both = async {
                let (client, server) = tokio::try_join!(client, server)?;
                let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                Ok::<_, hyper::Error>(())
            };
            tokio::select! {
                _ = both => {}
                () = stopping.cancelled() => {}
            }
        });
        return Ok(response.map(|_| Body::empty()));
    }
    returned(&backend, &host, response).await
}

/// The request as the backend gets it.
fn outgoing(
    backend: &Backend,
    parts: &Parts,
    upgrade: Option<HeaderValue>,
    host: &str,
    body: RequestBody,
) -> Result<Request<RequestBody>, Failure> {
    let target = match parts.uri.query() {
        Some(query) => format!("{}?{query}", backend.path),
        None => backend.path.clone(),
    };
    let uri: Uri = target
        .parse()
        .map_err(|e| Failure::bad_request(format!("the proxied path can't be sent: {e}")))?;
    let mut headers = parts.headers.clone();
    strip(&mut headers);
    // the client's credentials are for this server alone
    headers.remove(header::AUTHORIZATION);
    // and so is the wish to be somebody else, which has been granted already
    let wishes: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in wishes {
        headers.remove(name);
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("host", &backend.authority);
    set("x-forwarded-uri", parts.uri.path());
    set("x-forwarded-host", host);
    set("x-forwarded-proto", "https");
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, Failure> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // it ends with the answer's body: nobody else sends on it
    tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    sender.send_request(request).await.map_err(broken)
}

/// The answer as the client gets it: redirects and a page's links lead back through the proxy.
async fn returned(
    backend: &Backend,
    host: &str,
    response: Response<Incoming>,
) -> Result<Response<Body>, Failure> {
    let (mut parts, body) = response.into_parts();
    strip(&mut parts.headers);
    let Some(prefix) = &backend.prefix else {
        return Ok(Response::from_parts(parts, stream(body)));
    };
    let links = Links {
        authority: &backend.authority,
        host,
        prefix,
    };
    let location = parts.headers.get(header::LOCATION);
    if let Some(location) = location.and_then(|v| v.to_str().ok()) {
        if let Ok(new) = HeaderValue::from_str(&links.link(location)) {
            parts.headers.insert(header::LOCATION, new);
        }
        return Ok(Response::from_parts(parts, stream(body)));
    }
    let text = |name: HeaderName| {
        let value = parts.headers.get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or("").to_string()
    };
    let kind = text(header::CONTENT_TYPE);
    let kind = kind.split(';').next().unwrap_or("").trim();
    let encoding = text(header::CONTENT_ENCODING);
    if kind != "text/html" || !matches!(encoding.as_str(), "" | "gzip") {
        return Ok(Response::from_parts(parts, stream(body)));
    }
    let mut body = body.into_data_stream();
    let mut page = Vec::new();
    while let Some(piece) = body.next().await {
        page.extend_from_slice(&piece.map_err(broken)?);
        if page.len() > PAGE_BYTES_MAX {
            let first = futures::stream::iter([Ok(Bytes::from(page))]);
            let rest = body.map_err(io::Error::other);
            return Ok(Response::from_parts(
                parts,
                Body::Stream(first.chain(rest).boxed()),
            ));
        }
    }
    let Some(html) = unpacked(&page, &encoding) else {
        return Ok(Response::from_parts(parts, Body::from(page)));
    };
    let html = links.page(&html);
    parts.headers.remove(header::CONTENT_ENCODING);
    parts
        .headers
        .insert(header::CONTENT_LENGTH, html.len().into());
    Ok(Response::from_parts(parts, Body::from(html)))
}

/// A page's text; None when it isn't UTF-8 or too long.
fn unpacked(page: &[u8], encoding: &str) -> Option<String> {
    use std::io::Read;
    if encoding.is_empty() {
        return String::from_utf8(page.to_vec()).ok();
    }
    let mut text = String::new();
    let limit = PAGE_BYTES_MAX as u64 + 1;
    let mut decoder = flate2::read::GzDecoder::new(page).take(limit);
    decoder.read_to_string(&mut text).ok()?;
    (text.len() <= PAGE_BYTES_MAX).then_some(text)
}

fn stream(body: Incoming) -> Body {
    Body::Stream(body.into_data_stream().map_err(io::Error::other).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::service::service_fn;

    /// A backend that says what it got, and what its path asks for.
    async fn backend() -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service_fn(|request: Request<Incoming>| async move {
                    let (parts, body) = request.into_parts();
                    let length = body.collect().await?.to_bytes().len();
                    let got = format!(
                        "{} {} {:?} {length}",
                        parts.method,
                        parts.uri,
                        [
                            "host",
                            "authorization",
                            "impersonate-user",
                            "x-hop",
                            "x-forwarded-uri",
                            "x-own"
                        ]
                        .map(|name| parts.headers.get(name).map(|v| v.to_str().unwrap()))
                    );
                    let mut response = match parts.uri.path() {
                        "/page" => Response::new("<a href=\"/next\">x</a>".to_string()),
                        _ => Response::new(got),
                    };
                    let headers = response.headers_mut();
                    match parts.uri.path() {
                        "/page" => {
                            let html = HeaderValue::from_static("text/html; charset=utf-8");
                            headers.insert(header::CONTENT_TYPE, html);
                        }
                        "/moved" => {
                            headers.insert(header::LOCATION, HeaderValue::from_static("/here/"));
                            *response.status_mut() = StatusCode::FOUND;
                        }
                        _ => {}
                    }
                    Ok::<_, hyper::Error>(response)
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        at
    }

    async fn ask(at: SocketAddr, method: &str, path: &str, length: usize) -> Response<Body> {
        let dir = tempfile::tempdir().unwrap();
        let api = crate::ApiServer::for_tests(dir.path());
        let request = Request::builder()
            .method(method)
            .uri(format!("/p/proxy{path}?q=1"))
            .header("host", "api")
            .header("authorization", "Bearer secret")
            .header("impersonate-user", "jane")
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("x-own", "2")
            .body(())
            .unwrap();
        let body = http_body_util::Full::new(Bytes::from(vec![b'x'; length]));
        let to = Backend {
            tls: Tls::No,
            ip: at.ip(),
            port: at.port(),
            authority: "backend".into(),
            path: path.into(),
            prefix: Some("/p/proxy".into()),
        };
        let body = body.map_err(Into::into).boxed_unsync();
        forward(&api.inner, to, request.into_parts().0, body)
            .await
            .unwrap_or_else(|f| crate::server::failure_response(&f))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn requests_go_there_and_answers_come_back() {
        let at = backend().await;
        for (method, path, length, code, location, text) in [
            (
                "GET",
                "/a%2Fb",
                0,
                200,
                "",
                "GET /a%2Fb?q=1 [Some(\"backend\"), None, None, None, Some(\"/p/proxy/a%2Fb\"), Some(\"2\")] 0",
            ),
            (
                "POST",
                "/",
                5 << 20,
                200,
                "",
                "POST /?q=1 [Some(\"backend\"), None, None, None, Some(\"/p/proxy/\"), Some(\"2\")] 5242880",
            ),
            (
                "GET",
                "/page",
                0,
                200,
                "",
                "<a href=\"/p/proxy/next\">x</a>",
            ),
            (
                "GET",
                "/moved",
                0,
                302,
                "/p/proxy/here/",
                "GET /moved?q=1 [Some(\"backend\"), None, None, None, Some(\"/p/proxy/moved\"), Some(\"2\")] 0",
            ),
        ] {
            let response = ask(at, method, path, length).await;
            let (parts, body) = response.into_parts();
            let location_got = parts.headers.get(header::LOCATION);
            let location_got = location_got.map_or("", |v| v.to_str().unwrap());
            let body = body.collect().await.unwrap().to_bytes();
            let body = String::from_utf8_lossy(&body);
            assert_eq!(
                (parts.status.as_u16(), location_got, &*body),
                (code, location, text),
                "{method} {path}"
            );
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_there_is_said() {
        // a port that is taken, so that nobody else gets it, and not listened to
        let taken = tokio::net::TcpSocket::new_v4().unwrap();
        taken.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let at = taken.local_addr().unwrap();
        let response = ask(at, "GET", "/", 0).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let wanted =
            format!("error trying to reach service: dial tcp {at}: connect: connection refused");
        assert!(String::from_utf8_lossy(&body).contains(&wanted), "{body:?}");
    }
}
