//! Connections made directly, or through the proxy that stands before a host.

use super::{
    Error,
    proxy::{Kind, Proxies, Proxy},
};
use ::http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{
        Connected, Connection, HttpConnector,
        proxy::{SocksV5, Tunnel},
    },
    rt::TokioIo,
};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::TcpStream;
use tower_service::Service;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
pub(super) struct Connector {
    direct: HttpConnector,
    /// Proxies may be spoken to by TLS themselves; none: no proxy is set.
    to_proxy: Option<HttpsConnector<HttpConnector>>,
    proxies: Arc<Proxies>,
    connect: Duration,
}

impl Connector {
    /// `connect`: for TCP, and for a proxy's consent.
    pub fn new(proxies: Arc<Proxies>, connect: Duration) -> Result<Connector, Error> {
        let mut direct = HttpConnector::new();
        direct.enforce_http(false);
        direct.set_connect_timeout(Some(connect));
        direct.set_nodelay(true);
        direct.set_keepalive(Some(Duration::from_secs(30)));
        let to_proxy = match (&proxies.http, &proxies.https) {
            (None, None) => None,
            _ => Some(
                HttpsConnectorBuilder::new()
                    .with_tls_config(super::http::system_tls()?)
                    .https_or_http()
                    .enable_http1()
                    .wrap_connector(direct.clone()),
            ),
        };
        Ok(Connector {
            direct,
            to_proxy,
            proxies,
            connect,
        })
    }

    async fn open(mut self, uri: Uri) -> Result<Stream, Failure> {
        let (Some(to_proxy), Some(proxy)) = (self.to_proxy, self.proxies.of(&uri)?) else {
            let inner = MaybeHttpsStream::Http(self.direct.call(uri).await?);
            return Ok(Stream {
                inner,
                whole_addresses: false,
            });
        };
        let opened = tokio::time::timeout(2 * self.connect, through(to_proxy, &proxy, uri)).await;
        let opened = opened.unwrap_or_else(|_| Err("it doesn't answer".into()));
        opened.map_err(|e| {
            let at = proxy.uri.authority().map_or("", |a| a.as_str());
            format!("through the proxy {at}: {e}").into()
        })
    }
}

async fn through(
    mut to_proxy: HttpsConnector<HttpConnector>,
    proxy: &Proxy,
    uri: Uri,
) -> Result<Stream, Failure> {
    let tunnel = uri.scheme_str() == Some("https");
    let inner = match proxy.kind {
        Kind::Socks5 => {
            let mut socks = SocksV5::new(proxy.uri.clone(), to_proxy);
            if let Some((user, password)) = &proxy.login {
                socks = socks.with_auth(user.clone(), password.clone());
            }
            socks.call(uri).await?
        }
        Kind::Http if tunnel => {
            let mut connect = Tunnel::new(proxy.uri.clone(), to_proxy);
            if let Some(login) = proxy.authorization() {
                connect = connect.with_auth(login);
            }
            connect.call(uri).await?
        }
        Kind::Http => to_proxy.call(proxy.uri.clone()).await?,
    };
    Ok(Stream {
        inner,
        whole_addresses: proxy.kind == Kind::Http && !tunnel,
    })
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Failure>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.direct.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().open(uri))
    }
}

/// A connection to a registry, or to who passes on what is sent to it.
pub(super) struct Stream {
    inner: MaybeHttpsStream<TokioIo<TcpStream>>,
    /// The other end is a proxy that must be told where each request goes.
    whole_addresses: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.inner.connected().proxy(self.whole_addresses)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
}
