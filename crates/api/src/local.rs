//! The API in the same process: a tower service for `kube::Client`, no sockets.
//!
//! Plain requests are function calls. Upgrades (exec, attach) need a real HTTP connection at both ends: those go through
//! an in-memory duplex with hyper on either side.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;

use crate::{body::Body, identity::Identity, server::Inner};

/// Buffer of an upgraded in-process connection, in bytes each way.
const DUPLEX_BYTES: usize = 64 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Body of an in-process answer.
pub type LocalBody = http_body_util::Either<Body, Incoming>;

/// The API as one user sees it.
#[derive(Clone)]
pub struct LocalService {
    inner: Arc<Inner>,
    who: Identity,
    user_agent: HeaderValue,
}

impl LocalService {
    /// For `who`; requests without a User-Agent get this one.
    pub fn new(inner: Arc<Inner>, who: Identity, user_agent: &str) -> LocalService {
        let user_agent =
            HeaderValue::from_str(user_agent).unwrap_or_else(|_| HeaderValue::from_static("knarr"));
        LocalService {
            inner,
            who,
            user_agent,
        }
    }
}

impl<B> tower::Service<Request<B>> for LocalService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<LocalBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // who brings a token of their own speaks for themselves
        let own = request.headers().contains_key(header::AUTHORIZATION);
        let who = (!own).then(|| self.who.clone());
        if let Some(who) = &who {
            request.extensions_mut().insert(who.clone());
        }
        if !request.headers().contains_key(header::USER_AGENT) {
            request
                .headers_mut()
                .insert(header::USER_AGENT, self.user_agent.clone());
        }
        let inner = self.inner.clone();
        if request.headers().contains_key(header::UPGRADE) {
            return Box::pin(upgrade(inner, who, request));
        }
        Box::pin(async move {
            let response = inner.handle(request).await;
            Ok(response.map(http_body_util::Either::Left))
        })
    }
}

async fn upgrade<B>(
    inner: Arc<Inner>,
    who: Option<Identity>,
    request: Request<B>,
) -> Result<Response<LocalBody>, BoxError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (client, server) = tokio::io::duplex(DUPLEX_BYTES);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let inner = inner.clone();
        if let Some(who) = &who {
            request.extensions_mut().insert(who.clone());
        }
        async move { Ok::<_, std::convert::Infallible>(inner.handle(request).await) }
    });
    tokio::spawn(async move {
        let served = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(server), service)
            .with_upgrades()
            .await;
        if let Err(e) = served {
            tracing::debug!("in-process upgrade, server end: {e}");
        }
    });
    // HTTP/1 wants a Host and the path alone
    let (mut parts, body) = request.into_parts();
    let path = parts
        .uri
        .path_and_query()
        .map_or_else(|| "/".to_string(), |p| p.to_string());
    parts.uri = path.parse()?;
    parts
        .headers
        .insert(header::HOST, HeaderValue::from_static("kubernetes"));
    let body = body
        .map_err(|e| std::io::Error::other(e.into()))
        .boxed_unsync();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(client)).await?;
    tokio::spawn(async move {
        if let Err(e) = connection.with_upgrades().await {
            tracing::debug!("in-process upgrade, client end: {e}");
        }
    });
    let response = sender
        .send_request(Request::from_parts(parts, body))
        .await?;
    Ok(response.map(http_body_util::Either::Right))
}
