//! Connections: so many at once, and none that only waits.

use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

/// Connections served at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 512;
/// Time for a request's head, which is also how long an idle connection is kept.
const HEAD: Duration = Duration::from_secs(60);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a router (see [`Registry::router`](crate::Registry::router)) by HTTP/1.1. Until dropped; connections end with it.
pub async fn serve(listener: TcpListener, router: Router) {
    accept(listener, router, HEAD).await;
}

async fn accept(listener: TcpListener, router: Router, head: Duration) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        // never closed
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a client of the registry could not be let in");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            let served = async {
                stream.set_nodelay(true).map_err(|e| e.to_string())?;
                hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(head)
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .map_err(|e| e.to_string())
            };
            if let Err(error) = served.await {
                tracing::debug!(error, "a connection to the registry broke");
            }
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    #[tokio::test]
    async fn who_only_waits_is_sent_away() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(|| async { "here" });
        tokio::spawn(accept(listener, router, Duration::from_millis(50)));
        for said in ["", "GET / HTTP/1.1\r\nhost: a\r\n"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            let mut heard = Vec::new();
            let ended = stream.read_to_end(&mut heard);
            let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
            // closed, be it without a word
            drop(ended.unwrap_or_else(|_| panic!("it still waits: {said:?}")));
            let heard = String::from_utf8_lossy(&heard).into_owned();
            assert!(!heard.contains("here"), "{heard}");
        }
    }
}
