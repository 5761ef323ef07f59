//! Connections to one host: TLS with its own authorities, timeouts, redirects that leave secrets behind.

use super::{
    Error,
    body::{self, Body},
    connect::Connector,
    hosts::Host,
    proxy::{Kind, Proxies},
};
use ::http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use std::{sync::Arc, time::Duration};

/// How many redirects are followed.
const REDIRECTS_MAX: u32 = 10;
/// The most bytes of an error's body that are read; what is shown of them is less.
const ERROR_BYTES_MAX: usize = 64 << 10;

#[derive(Clone)]
pub(super) struct Http {
    client: Client<HttpsConnector<Connector>, Body>,
    proxies: Arc<Proxies>,
    stall: Duration,
}

/// A request that can be sent again.
pub(super) struct Ask<'a> {
    pub method: Method,
    pub url: String,
    pub headers: HeaderMap,
    pub body: &'a (dyn Fn() -> Body + Send + Sync),
    /// What a redirect to another host must not see.
    pub authorization: Option<::http::HeaderValue>,
}

impl Http {
    pub fn new(
        host: &Host,
        proxies: &Proxies,
        connect: Duration,
        stall: Duration,
    ) -> Result<Http, Error> {
        let proxies = Arc::new(proxies.clone());
        let plain = Connector::new(proxies.clone(), connect)?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(host)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(plain);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Ok(Http {
            client,
            proxies,
            stall,
        })
    }

    /// Sends it; follows redirects of reads. The answer's body is the caller's to read, piece by piece with
    /// [`Http::piece`].
    pub async fn send(&self, ask: &Ask<'_>) -> Result<Response<Incoming>, Error> {
        let mut url = ask.url.clone();
        let first: Uri = parse(&url)?;
        for _ in 0..=REDIRECTS_MAX {
            let uri = parse(&url)?;
            let home = uri.authority() == first.authority() && uri.scheme() == first.scheme();
            let mut request = Request::new((ask.body)());
            *request.method_mut() = ask.method.clone();
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = ask.headers.clone();
            let agent = concat!("knarr/", env!("CARGO_PKG_VERSION"));
            let agent = ::http::HeaderValue::from_static(agent);
            request.headers_mut().insert(header::USER_AGENT, agent);
            if home && let Some(secret) = &ask.authorization {
                let secret = secret.clone();
                request.headers_mut().insert(header::AUTHORIZATION, secret);
            }
            // through a tunnel the proxy doesn't see it: it was told when the tunnel was made
            if uri.scheme_str() == Some("http")
                && let Some(proxy) = self.proxies.of(&uri)?.filter(|p| p.kind == Kind::Http)
                && let Some(login) = proxy.authorization()
            {
                request
                    .headers_mut()
                    .insert(header::PROXY_AUTHORIZATION, login);
            }
            let answer = self.answer(
                &url,
                request,
                ask.method == Method::GET || ask.method == Method::HEAD,
            );
            let answer = answer.await?;
            let read = matches!(ask.method, Method::GET | Method::HEAD);
            if !(read
                && answer.status().is_redirection()
                && answer.status() != StatusCode::NOT_MODIFIED)
            {
                return Ok(answer);
            }
            let to = answer.headers().get(header::LOCATION);
            let to = to.and_then(|v| v.to_str().ok());
            let to = to.ok_or_else(|| Error::wrong(&url, "a redirect without a Location"))?;
            url = join(&uri, to)
                .ok_or_else(|| Error::wrong(&url, format!("a redirect to {to:?}")))?;
            if first.scheme_str() == Some("https") && !url.starts_with("https://") {
                return Err(Error::wrong(
                    &first,
                    format!("a redirect from HTTPS to {url}"),
                ));
            }
        }
        Err(Error::wrong(&url, "too many redirects"))
    }

    /// The answer's head. A body that is sent may take as long as it moves; a read must be answered in time.
    async fn answer(
        &self,
        url: &str,
        request: Request<Body>,
        read: bool,
    ) -> Result<Response<Incoming>, Error> {
        let sent = self.client.request(request);
        let got = match read {
            true => tokio::time::timeout(self.stall, sent).await.map_err(|_| {
                Error::network(url, format!("no answer within {} s", self.stall.as_secs()))
            })?,
            false => sent.await,
        };
        got.map_err(|e| Error::network(url, causes(&e)))
    }

    /// The next piece of a body; none at its end.
    pub async fn piece(&self, url: &str, body: &mut Incoming) -> Result<Option<Bytes>, Error> {
        loop {
            let next = tokio::time::timeout(self.stall, body.frame()).await;
            let next = next.map_err(|_| {
                Error::network(
                    url,
                    format!("it sent nothing for {} s", self.stall.as_secs()),
                )
            })?;
            match next {
                None => return Ok(None),
                Some(Err(e)) => return Err(Error::network(url, causes(&e))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A whole body of at most so many bytes.
    pub async fn whole(&self, url: &str, mut body: Incoming, max: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece(url, &mut body).await? {
            if bytes.len() + piece.len() > max {
                return Err(Error::wrong(url, format!("more than {max} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// The error that an answer stands for.
    pub async fn refused(&self, url: &str, answer: Response<Incoming>) -> Error {
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get(header::RETRY_AFTER);
        let retry_after_s = retry_after.and_then(|v| v.to_str().ok()?.parse().ok());
        let bytes = self.whole(url, answer.into_body(), ERROR_BYTES_MAX).await;
        Error::Status {
            url: url.into(),
            status,
            body: told(&bytes.unwrap_or_default()),
            retry_after_s,
        }
    }
}

/// What a registry says went wrong: its `errors`, or the text's beginning.
fn told(bytes: &[u8]) -> String {
    let parsed: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let errors = parsed["errors"].as_array().map(|errors| {
        let one = |e: &serde_json::Value| {
            let (code, message) = (e["code"].as_str(), e["message"].as_str());
            let parts: Vec<&str> = code
                .into_iter()
                .chain(message)
                .filter(|t| !t.is_empty())
                .collect();
            parts.join(": ").to_string()
        };
        errors.iter().map(one).collect::<Vec<_>>().join("; ")
    });
    let text = errors.filter(|e| !e.is_empty());
    let text = text.or_else(|| parsed["details"].as_str().map(str::to_string));
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(bytes).trim().to_string());
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(300).collect()
}

fn parse(url: &str) -> Result<Uri, Error> {
    url.parse()
        .map_err(|_| Error::wrong(url, "this is no address"))
}

/// A `Location` beside the address that sent it.
pub(super) fn join(base: &Uri, to: &str) -> Option<String> {
    if to.starts_with("http://") || to.starts_with("https://") {
        return Some(to.into());
    }
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    if to.starts_with("//") {
        return Some(format!("{scheme}:{to}"));
    }
    if to.starts_with('/') {
        return Some(format!("{scheme}://{authority}{to}"));
    }
    let folder = base
        .path()
        .rsplit_once('/')
        .map_or("", |(folder, _)| folder);
    Some(format!("{scheme}://{authority}{folder}/{to}"))
}

/// An error with what is behind it.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

/// TLS with the system's authorities.
pub(super) fn system_tls() -> Result<rustls::ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let broken = |e: rustls::Error| Error::Config {
        path: "the system's authorities".into(),
        why: e.to_string(),
    };
    let verifier = rustls_platform_verifier::Verifier::new(provider.clone()).map_err(broken)?;
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(broken)?;
    let builder = builder.dangerous();
    Ok(builder
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

fn tls(host: &Host) -> Result<rustls::ClientConfig, Error> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let broken = |e: rustls::Error| Error::Config {
        path: host.authority.clone(),
        why: e.to_string(),
    };
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(broken)?;
    let mut extra = Vec::new();
    for path in &host.authorities {
        let told = |why: String| Error::Config {
            path: path.display().to_string(),
            why,
        };
        for found in CertificateDer::pem_file_iter(path).map_err(|e| told(e.to_string()))? {
            extra.push(found.map_err(|e| told(e.to_string()))?);
        }
    }
    let plain = host.scheme == Some("http");
    let builder = builder.dangerous();
    let config = if plain || host.skip_verify || (host.scheme.is_none() && extra.is_empty()) {
        builder.with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
    } else {
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider);
        builder.with_custom_certificate_verifier(Arc::new(verifier.map_err(broken)?))
    };
    Ok(config.with_no_client_auth())
}

/// Takes any certificate: for loopback, and for hosts that the settings say so of.
#[derive(Debug)]
struct Unchecked(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A body for requests without one.
pub(super) fn empty() -> Body {
    body::none()
}
