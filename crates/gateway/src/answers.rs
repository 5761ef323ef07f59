//! Small answers at a port of the node's own: who asks, and how often, is bounded.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

/// Connections of one port; a balancer has one or two.
const CONNECTIONS_MAX: usize = 64;
/// For a request to come, and for a connection to idle.
const PATIENCE: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) type Answer = Response<Full<Bytes>>;

/// Answers what is asked at `listener`, until dropped.
pub(crate) async fn serve<A, F>(listener: TcpListener, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // dropped with the port
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // the semaphore is never closed
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let answer = answer.clone();
        connections.spawn(async move {
            let _slot = slot;
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!(%error, "a health check's connection ended");
            }
        });
    }
}

pub(crate) fn json(code: StatusCode, body: String) -> Answer {
    typed(code, "application/json", Full::from(body))
}

pub(crate) fn text(code: StatusCode, body: &'static str) -> Answer {
    typed(code, "text/plain; charset=utf-8", Full::from(body))
}

fn typed(code: StatusCode, content_type: &'static str, body: Full<Bytes>) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let fixed = header::HeaderValue::from_static;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, fixed(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    response
}
