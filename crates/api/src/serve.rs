//! HTTPS: TLS with client certificates, HTTP/1.1 and HTTP/2, upgrades; bounded in connections and patience.

use std::{sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

use crate::{
    agent_port,
    audit::Peer,
    pki,
    server::{self, Inner},
    status::Failure,
};

/// Connections served at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 4096;
/// Time for a TLS handshake.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time for a request's head, which is also how long an idle HTTP/1.1 connection is kept: longer than clients keep theirs.
const HEAD_PATIENCE: Duration = Duration::from_secs(120);
/// Requests held at once (streams count until their head is sent), whoever's they are: what one client may have waiting is
/// bounded by fairness.
const REQUESTS_MAX: usize = 16_384;
/// Time a request may wait for its turn before 429.
const TURN_PATIENCE: Duration = Duration::from_secs(10);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const H2_STREAMS_MAX: u32 = 250;

/// Time that requests under way have when the server ends.
const DRAIN: Duration = Duration::from_secs(5);

/// What is behind a port.
pub enum Door {
    /// The API.
    Api,
    /// A node's agent, with a certificate of its own.
    Agent {
        /// its name
        node: Arc<str>,
        /// its certificate
        tls: Arc<rustls::ServerConfig>,
    },
}

/// Serves until `stop` is ready, then lets requests under way end (watches are ended at once; streams have five seconds).
/// When dropped, connections end with it.
pub async fn serve(
    inner: Arc<Inner>,
    door: Door,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) {
    let (tls, node) = match door {
        Door::Api => (inner.pki.tls.clone(), None),
        Door::Agent { node, tls } => (tls, Some(node)),
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let turns = Arc::new(Semaphore::new(REQUESTS_MAX));
    // dropping the set ends the connections' tasks
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            // the semaphore is never closed
            let slot = slots.clone().acquire_owned().await.ok()?;
            match listener.accept().await {
                Ok((socket, peer)) => Some((slot, socket, peer)),
                Err(e) => {
                    tracing::warn!("accepting an API connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    None
                }
            }
        };
        let (slot, socket, peer) = tokio::select! {
            () = &mut stop => break,
            next = next => match next {
                Some(next) => next,
                None => continue,
            },
        };
        let acceptor = acceptor.clone();
        let (inner, node) = (inner.clone(), node.clone());
        let turns = turns.clone();
        connections.spawn(async move {
            let _slot = slot;
            let stopping = inner.stopping.clone();
            let _ = socket.set_nodelay(true);
            let tls = match tokio::time::timeout(PATIENCE, acceptor.accept(socket)).await {
                Ok(Ok(tls)) => tls,
                Ok(Err(e)) => return tracing::debug!("TLS handshake: {e}"),
                Err(_) => return tracing::debug!("TLS handshake took too long"),
            };
            let who = tls
                .get_ref()
                .1
                .peer_certificates()
                .and_then(<[_]>::first)
                .and_then(pki::identity_of);
            let service = service_fn(move |mut request: Request<Incoming>| {
                let (inner, node) = (inner.clone(), node.clone());
                request.extensions_mut().insert(Peer(peer.ip()));
                if let Some(who) = &who {
                    request.extensions_mut().insert(who.clone());
                }
                let turns = turns.clone();
                async move {
                    let turn = tokio::time::timeout(TURN_PATIENCE, turns.acquire()).await;
                    Ok::<_, std::convert::Infallible>(match turn {
                        Ok(_turn) => match &node {
                            Some(node) => agent_port::handle(&inner, node, request).await,
                            None => inner.handle(request).await,
                        },
                        Err(_) => server::failure_response(
                            &Failure::new(
                                429,
                                "TooManyRequests",
                                "too many requests, please try again later",
                            )
                            .retry_after(1),
                        ),
                    })
                }
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_PATIENCE)
                .http2()
                .timer(TokioTimer::new())
                .keep_alive_interval(Some(Duration::from_secs(30)))
                .max_concurrent_streams(H2_STREAMS_MAX);
            let io = TokioIo::new(tls);
            let mut connection =
                std::pin::pin!(builder.serve_connection_with_upgrades(io, service));
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = stopping.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(e) = served {
                tracing::debug!("API connection: {e}");
            }
        });
    }
    drop(listener);
    if node.is_none() {
        inner.stopping.cancel();
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::debug!("API connections cut after {DRAIN:?}");
    }
}
