//! Calls to webhooks: JSON over HTTPS to a URL or a Service, as `apiserver/pkg/util/webhook` makes them. Used by admission
//! and by conversion.

mod pool;
mod tls;

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::server::Inner;

pub use pool::Pool;
pub use tls::{told, verifying};

/// Longest answer read, in bytes.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Part of an answer that is shown in an error, in bytes.
const SHOWN_BYTES_MAX: usize = 2048;
const USER_AGENT: &str = "kube-apiserver-admission";

/// Why there is no usable answer; the text is what upstream's client says.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The connection, or the time.
    #[error("Post {url:?}: {why}")]
    Failed { url: String, why: String },
    /// An HTTP status other than a success.
    #[error("{0}")]
    Status(String),
    /// Not JSON.
    #[error("{0}")]
    Undecodable(String),
    /// Neither URL nor Service, or one that can't be read.
    #[error("{0}")]
    Config(String),
}

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Without user, query and fragment.
    place: Place,
    /// PEM certificates its own must lead to; empty: the system's.
    ca_bundle: Arc<[u8]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Url {
        host: String,
        port: u16,
        /// as in the URL: with the port only when it is given
        authority: String,
        path: String,
    },
    Service {
        namespace: String,
        name: String,
        port: u16,
        path: String,
    },
}

impl Target {
    /// Reads a `WebhookClientConfig` (admissionregistration's and apiextensions' are alike).
    pub fn read(config: &Value) -> Result<Target, Error> {
        let bundle = config["caBundle"].as_str().unwrap_or("");
        let ca_bundle = STANDARD
            .decode(bundle)
            .map_err(|e| Error::Config(format!("caBundle is not base64: {e}")))?
            .into();
        let service = &config["service"];
        let text = |k: &str| service[k].as_str().unwrap_or("").to_string();
        if service.is_object() {
            let port = service["port"].as_u64().unwrap_or(443);
            let path = text("path");
            return Ok(Target {
                place: Place::Service {
                    namespace: text("namespace"),
                    name: text("name"),
                    port: u16::try_from(port).unwrap_or(443),
                    path: if path.starts_with('/') {
                        path
                    } else {
                        format!("/{path}")
                    },
                },
                ca_bundle,
            });
        }
        let Some(url) = config["url"].as_str().filter(|u| !u.is_empty()) else {
            return Err(Error::Config(
                "webhook configuration must have either service or URL".into(),
            ));
        };
        let bad = |why: String| Error::Config(format!("Unparsable URL: {why}"));
        let uri: http::Uri = url.parse().map_err(|e| bad(format!("{e}")))?;
        let authority = uri.authority().ok_or_else(|| bad("no host".into()))?;
        let host = authority.host();
        Ok(Target {
            place: Place::Url {
                host: host.trim_matches(['[', ']']).to_string(),
                port: authority.port_u16().unwrap_or(443),
                authority: authority.to_string(),
                path: uri.path().to_string(),
            },
            ca_bundle,
        })
    }

    /// Host name the certificate must be for.
    fn server_name(&self) -> String {
        match &self.place {
            Place::Url { host, .. } => host.clone(),
            Place::Service {
                namespace, name, ..
            } => format!("{name}.{namespace}.svc"),
        }
    }

    /// `Host` header, and path.
    fn address(&self) -> (String, &str) {
        match &self.place {
            Place::Url {
                authority, path, ..
            } => (authority.clone(), path),
            Place::Service { port, path, .. } => (format!("{}:{port}", self.server_name()), path),
        }
    }

    /// Where to connect: the host of the URL, or an endpoint of the Service.
    fn resolve(&self, inner: &Inner) -> Result<(String, u16), String> {
        match &self.place {
            Place::Url { host, port, .. } => Ok((host.clone(), *port)),
            Place::Service {
                namespace,
                name,
                port,
                ..
            } => service(inner, namespace, name, *port),
        }
    }
}

/// An endpoint of a Service's port: its own name when it stands for another host, else a ready address behind it.
pub fn service(
    inner: &Inner,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<(String, u16), String> {
    let found = crate::admission::stored(inner, "", "services", namespace, name);
    let service = found.ok_or_else(|| format!("service {name:?} not found"))?;
    let spec = &service["spec"];
    match spec["type"].as_str().unwrap_or("ClusterIP") {
        "ExternalName" => {
            let host = spec["externalName"].as_str().unwrap_or("");
            return Ok((host.to_string(), port));
        }
        "ClusterIP" if spec["clusterIP"] == "None" => {
            return Err("cannot route to service with ClusterIP \"None\"".into());
        }
        _ => {}
    }
    crate::proxy::endpoint(inner, namespace, &service, &port.to_string())
        .map_err(|f| f.message().to_string())
}

/// Sends `body` (JSON) and reads the JSON answer, all within `timeout`.
pub async fn post(
    inner: &Inner,
    target: &Target,
    timeout: Duration,
    body: Bytes,
) -> Result<Value, Error> {
    let (authority, path) = target.address();
    let seconds = timeout.as_secs_f64().ceil().max(1.0) as u64;
    let url = format!("https://{authority}{path}?timeout={seconds}s");
    let failed = |why: String| Error::Failed {
        url: url.clone(),
        why,
    };
    let full_path = format!("{path}?timeout={seconds}s");
    let work = exchange(inner, target, &authority, &full_path, body);
    match tokio::time::timeout(timeout, work).await {
        Err(_) => Err(failed("context deadline exceeded".into())),
        Ok(Err(Failure::Transport(why))) => Err(failed(why)),
        Ok(Err(Failure::Other(e))) => Err(e),
        Ok(Ok(value)) => Ok(value),
    }
}

enum Failure {
    Transport(String),
    Other(Error),
}

async fn exchange(
    inner: &Inner,
    target: &Target,
    authority: &str,
    path: &str,
    body: Bytes,
) -> Result<Value, Failure> {
    let request = || {
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = path
            .parse()
            .map_err(|e| Failure::Transport(format!("parse {path:?}: {e}")))?;
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(authority)
            .map_err(|e| Failure::Transport(format!("host {authority:?}: {e}")))?;
        headers.insert(header::HOST, host);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static("application/json, */*"),
        );
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        Ok::<_, Failure>(request)
    };
    // a kept connection may have been closed meanwhile: only what was not sent is sent again
    let mut kept = inner.webhooks.take(target);
    let (sender, response) = loop {
        let mut sender = match kept.take() {
            Some(sender) => sender,
            None => connect(inner, target).await.map_err(Failure::Transport)?,
        };
        if sender.ready().await.is_err() {
            continue;
        }
        match sender.try_send_request(request()?).await {
            Ok(response) => break (sender, response),
            Err(e) if e.message().is_some() => continue,
            Err(e) => return Err(Failure::Transport(e.into_error().to_string())),
        }
    };
    let status = response.status();
    let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|e| {
            Failure::Transport(format!("unexpected error when reading response body: {e}"))
        })?
        .to_bytes();
    inner.webhooks.put(target, sender);
    if !status.is_success() {
        return Err(Failure::Other(Error::Status(status_text(
            status.as_u16(),
            &answer,
        ))));
    }
    serde_json::from_slice(&answer).map_err(|e| {
        let shown = &answer[..answer.len().min(SHOWN_BYTES_MAX)];
        let text = String::from_utf8_lossy(shown);
        Failure::Other(Error::Undecodable(format!(
            "couldn't get version/kind; json parse error: {e}: {text}"
        )))
    })
}

/// `errors.NewGenericServerResponse`
fn status_text(code: u16, body: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]);
    let shown = shown.trim();
    match code {
        400 => "the server rejected our request for an unknown reason".into(),
        401 => "the server has asked for the client to provide credentials".into(),
        403 => shown.to_string(),
        404 => "the server could not find the requested resource".into(),
        405 => "the server does not allow this method on the requested resource".into(),
        429 => "the server has received too many requests and has asked us to try again later".into(),
        500 => format!(
            "an error on the server ({shown:?}) has prevented the request from succeeding"
        ),
        503 => "the server is currently unable to handle the request".into(),
        504 => "the server was unable to return a response in the time allotted, but may still be processing the request".into(),
        other => format!(
            "the server responded with the status code {other} but did not return more information"
        ),
    }
}

async fn connect(inner: &Inner, target: &Target) -> Result<pool::Sender, String> {
    let (host, port) = target.resolve(inner)?;
    let stream = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::ConnectionRefused => {
                format!("dial tcp {host}:{port}: connect: connection refused")
            }
            _ => format!("dial tcp {host}:{port}: {e}"),
        })?;
    // a small request must not wait for the other side's acknowledgement
    let _ = stream.set_nodelay(true);
    let stream = tls::connect(&target.ca_bundle, &target.server_name(), stream).await?;
    let (sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
    // it ends when its sender is dropped or the other side closes
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!("webhook connection: {e}");
        }
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn targets_are_read() {
        let check = |name: &str, config: Value, server: &str, authority: &str, path: &str| {
            let t = Target::read(&config).unwrap_or_else(|e| panic!("{name}: {e}"));
            let (a, p) = t.address();
            assert_eq!(
                (t.server_name().as_str(), a.as_str(), p),
                (server, authority, path),
                "{name}"
            );
        };
        check("url", json!({"url": "https://a.b/c"}), "a.b", "a.b", "/c");
        check(
            "port",
            json!({"url": "https://a.b:8443"}),
            "a.b",
            "a.b:8443",
            "/",
        );
        check(
            "six",
            json!({"url": "https://[::1]:1/x"}),
            "::1",
            "[::1]:1",
            "/x",
        );
        check(
            "service",
            json!({"service": {"name": "s", "namespace": "n", "path": "/p", "port": 8443}}),
            "s.n.svc",
            "s.n.svc:8443",
            "/p",
        );
        check(
            "service without path",
            json!({"service": {"name": "s", "namespace": "n"}}),
            "s.n.svc",
            "s.n.svc:443",
            "/",
        );
        assert!(Target::read(&json!({})).is_err());
    }
}
