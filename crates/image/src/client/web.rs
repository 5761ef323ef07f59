//! Requests to any web server: by the system's authorities, through the proxies that the environment names.

use super::{Error, Proxies, connect::Connector, proxy::Kind};
use ::http::{Request, Response, Uri, header};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use std::{sync::Arc, time::Duration};

/// Speaks HTTP/1.1 to whom it is told, by a connection for each request; follows no redirects.
#[derive(Debug, Clone)]
pub struct Web {
    /// What stands between here and the servers.
    pub proxies: Arc<Proxies>,
    /// For a connection to be made.
    pub connect: Duration,
}

impl Web {
    /// Sends a request, whose address is whole; the answer's body is the caller's to read. It has no deadline but the
    /// connection's.
    ///
    /// # Errors
    /// No connection, a proxy that refuses, what breaks on the way; authorities of the system that can't be read.
    pub async fn send(
        &self,
        mut request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, Error> {
        let uri: Uri = request.uri().clone();
        let secure = uri.scheme_str() == Some("https");
        // through a tunnel the proxy doesn't see it: it was told when the tunnel was made
        if !secure
            && let Some(proxy) = self.proxies.of(&uri)?.filter(|p| p.kind == Kind::Http)
            && let Some(login) = proxy.authorization()
        {
            let headers = request.headers_mut();
            headers.insert(header::PROXY_AUTHORIZATION, login);
        }
        let plain = Connector::new(self.proxies.clone(), self.connect)?;
        let answered = match secure {
            true => {
                let connector = HttpsConnectorBuilder::new()
                    .with_tls_config(super::http::system_tls()?)
                    .https_only()
                    .enable_http1()
                    .wrap_connector(plain);
                let client = Client::builder(TokioExecutor::new());
                client.build(connector).request(request).await
            }
            false => {
                let client = Client::builder(TokioExecutor::new());
                client.build(plain).request(request).await
            }
        };
        let told = || uri.host().unwrap_or_default();
        answered.map_err(|e| Error::network(told(), super::http::causes(&e)))
    }
}
