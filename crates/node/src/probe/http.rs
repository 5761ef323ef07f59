//! HTTP probes and hooks: one request on one connection.
//!
//! Source: kubernetes `pkg/probe/http`: 200–399 is success, certificates aren't verified, redirects to the same host (whatever its port) are followed, ten at most; one to elsewhere is a success with a warning.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{HttpGet, Outcome, redirect::Target};

const REDIRECTS_MAX: usize = 10;
const BODY_BYTES_MAX: usize = 10 * 1024;

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// An I/O error as Go words it.
pub(crate) fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".into(),
        io::ErrorKind::HostUnreachable => "no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        io::ErrorKind::TimedOut => "connection timed out".into(),
        _ => error.to_string(),
    }
}

pub(crate) async fn probe(get: &HttpGet, host: &str, timeout: Duration) -> Outcome {
    let first = target(get, host);
    match tokio::time::timeout(timeout, follow(get, first.clone())).await {
        Err(_) => Outcome::Failure(format!(
            "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            first.url()
        )),
        Ok(Err(error)) => Outcome::Failure(error.text),
        Ok(Ok(answer)) => match answer.status {
            200..300 => Outcome::Success,
            300..400 => Outcome::Warning(format!(
                "Probe terminated redirects, Response body: {}",
                answer.body
            )),
            status => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        },
    }
}

/// A hook's request: any answer is one. `Ok(true)`: by plain HTTP, though HTTPS was asked for. No deadline of its own.
pub(crate) async fn hook(get: &HttpGet, host: &str) -> Result<bool, String> {
    let first = target(get, host);
    let error = match follow(get, first.clone()).await {
        Ok(_) => return Ok(false),
        Err(error) => error,
    };
    if !error.plain_answer {
        return Err(error.text);
    }
    let plain = Target {
        https: false,
        ..first
    };
    follow(get, plain).await.map_err(|e| e.text)?;
    Ok(true)
}

fn target(get: &HttpGet, host: &str) -> Target {
    Target {
        https: get.https,
        host: host.to_owned(),
        port: get.port,
        path: get.path.to_string(),
    }
}

/// The last answer.
struct Answer {
    status: u16,
    location: Option<String>,
    body: String,
}

struct Failed {
    text: String,
    /// there's a server, and it doesn't speak TLS
    plain_answer: bool,
}

impl From<String> for Failed {
    fn from(text: String) -> Failed {
        Failed {
            text,
            plain_answer: false,
        }
    }
}

async fn follow(get: &HttpGet, first: Target) -> Result<Answer, Failed> {
    let mut at = first.clone();
    for _ in 0..=REDIRECTS_MAX {
        let answer = once(get, &at).await.map_err(|failed| Failed {
            text: format!("Get {:?}: {}", at.url(), failed.text),
            ..failed
        })?;
        if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
            return Ok(answer);
        }
        let next = answer.location.as_deref().and_then(|l| at.resolve(l));
        match next.filter(|next| next.host == first.host) {
            Some(next) => at = next,
            // Elsewhere, or nowhere.
            None => return Ok(answer),
        }
    }
    Err(format!("Get {:?}: stopped after 10 redirects", at.url()).into())
}

async fn once(get: &HttpGet, at: &Target) -> Result<Answer, Failed> {
    let target = authority(&at.host, at.port);
    let stream = TcpStream::connect((at.host.as_str(), at.port))
        .await
        .map_err(|e| format!("dial tcp {target}: connect: {}", plain(&e)))?;
    let _ = stream.set_nodelay(true);
    if !at.https {
        return Ok(exchange(get, &target, &at.path, stream).await?);
    }
    let name =
        rustls::pki_types::ServerName::try_from(at.host.clone()).map_err(|e| e.to_string())?;
    let connector = TlsConnector::from(trusting()?);
    let stream = connector.connect(name, stream).await.map_err(|error| {
        let inner = error.get_ref().and_then(|e| e.downcast_ref());
        // What begins a plain answer is no TLS record.
        match inner {
            Some(rustls::Error::InvalidMessage(_)) => Failed {
                text: "http: server gave HTTP response to HTTPS client".into(),
                plain_answer: true,
            },
            _ => error.to_string().into(),
        }
    })?;
    Ok(exchange(get, &target, &at.path, stream).await?)
}

async fn exchange<S>(get: &HttpGet, target: &str, path: &str, stream: S) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(16 * 1024)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let mut request = http::Request::get(path);
    let mut given_host = None;
    let (mut agent, mut accept) = (false, false);
    for (name, value) in &get.headers {
        if name.eq_ignore_ascii_case("host") {
            given_host = Some(value);
            continue;
        }
        agent |= name.eq_ignore_ascii_case("user-agent");
        accept |= name.eq_ignore_ascii_case("accept");
        request = request.header(&**name, &**value);
    }
    if !agent {
        request = request.header("user-agent", "kube-probe/1.36");
    }
    if !accept {
        request = request.header("accept", "*/*");
    }
    let request = request
        .header("host", given_host.map_or(target, |h| h))
        .header("connection", "close")
        .body(Empty::new())
        .map_err(|e| e.to_string())?;
    let work = async {
        let response = sender.send_request(request).await.map_err(|e| cause(&e))?;
        let status = response.status().as_u16();
        let location = response
            .headers()
            .get("location")
            .and_then(|l| l.to_str().ok())
            .map(str::to_owned);
        let mut rest = response.into_body();
        let mut body = Vec::new();
        while let Some(Ok(frame)) = rest.frame().await {
            body.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            if body.len() > BODY_BYTES_MAX {
                body.truncate(BODY_BYTES_MAX);
                break;
            }
        }
        Ok(Answer {
            status,
            location,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => done,
        _ = connection => work.await,
    }
}

/// hyper hides what happened one level down.
fn cause(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None if error.is_incomplete_message() => "EOF".into(),
        None => error.to_string(),
    }
}

fn trusting() -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Probes don't verify certificates (upstream: "skipping certificate verification").
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A server on loopback that answers each connection with the next text; gives its port and what it was sent.
    async fn server(answers: Vec<&'static str>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut seen = vec![];
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 4096];
                let n = stream.read(&mut buffer).await.unwrap();
                seen.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            seen
        });
        (port, task)
    }
    fn get_of(port: u16) -> HttpGet {
        HttpGet {
            https: false,
            host: None,
            port,
            path: "/healthz".into(),
            headers: vec![("X-A".into(), "1".into())],
        }
    }

    #[tokio::test]
    async fn statuses() {
        let timeout = Duration::from_secs(60);
        let check = async |answers: Vec<&'static str>, want: Outcome| {
            let (port, task) = server(answers).await;
            assert_eq!(probe(&get_of(port), "127.0.0.1", timeout).await, want);
            task.await.unwrap()
        };
        let seen = check(
            vec!["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"],
            Outcome::Success,
        )
        .await;
        assert!(
            seen[0].starts_with("GET /healthz HTTP/1.1\r\nx-a: 1\r\n"),
            "{}",
            seen[0]
        );
        let bad = Outcome::Failure("HTTP probe failed with statuscode: 503".into());
        check(vec!["HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"], bad).await;
        let redirect = "HTTP/1.1 302 Found\r\nlocation: /next\r\ncontent-length: 0\r\n\r\n";
        let seen = check(
            vec![redirect, "HTTP/1.1 204 No Content\r\n\r\n"],
            Outcome::Success,
        )
        .await;
        assert!(seen[1].starts_with("GET /next "));
        let away =
            "HTTP/1.1 302 Found\r\nlocation: http://other.example/\r\ncontent-length: 0\r\n\r\n";
        let warning = Outcome::Warning("Probe terminated redirects, Response body: ".into());
        check(vec![away], warning).await;
    }

    #[tokio::test]
    async fn a_hook_takes_any_answer_also_a_plain_one() {
        let answer = "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n";
        let (port, task) = server(vec![answer]).await;
        assert_eq!(hook(&get_of(port), "127.0.0.1").await, Ok(false));
        task.await.unwrap();
        let (port, task) = server(vec!["HTTP/1.1 400 Bad Request\r\n\r\n", answer]).await;
        let secure = HttpGet {
            https: true,
            ..get_of(port)
        };
        assert_eq!(hook(&secure, "127.0.0.1").await, Ok(true));
        assert!(task.await.unwrap()[1].starts_with("GET /healthz "));
    }

    #[tokio::test]
    async fn nobody_there() {
        // taken, so that it is nobody else's, and nobody listens
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let Outcome::Failure(text) =
            probe(&get_of(port), "127.0.0.1", Duration::from_secs(60)).await
        else {
            panic!()
        };
        assert_eq!(
            text,
            format!(
                "Get \"http://127.0.0.1:{port}/healthz\": dial tcp 127.0.0.1:{port}: connect: connection refused"
            )
        );
    }
}
