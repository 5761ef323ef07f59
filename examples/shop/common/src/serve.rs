//! Serving, and stopping so that no request is lost.

use crate::Config;
use axum::{Router, extract::Request, middleware::Next, routing::get};
use http::HeaderValue;
use std::{
    future::Future,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

/// How long requests are still taken after SIGTERM, while the endpoint leaves the load balancers.
const LINGER: Duration = Duration::from_millis(500);
/// How long requests in flight may then take.
const FINISH: Duration = Duration::from_secs(5);

/// A service's `main`: reads the environment, makes the router, serves until SIGTERM.
pub fn run(name: &str, make: impl FnOnce(&Config) -> Result<Router, String>) -> ExitCode {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    let work = async {
        let mut term = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let config = Config::from_env()?;
        let router = make(&config)?;
        let listener = TcpListener::bind(("0.0.0.0", config.port))
            .await
            .map_err(|e| format!("port {}: {e}; set PORT", config.port))?;
        tracing::info!(port = config.port, "{name} serves");
        serve(listener, router, async move {
            term.recv().await;
        })
        .await
        .map_err(|e| e.to_string())
    };
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .map_err(|e| e.to_string())
        .and_then(|runtime| runtime.block_on(work));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{name} can't serve: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until `stop`; then goes on for half a second asking clients to close, then finishes what is in flight.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let draining = Arc::new(AtomicBool::new(false));
    let closed = Arc::new(Notify::new());
    let flag = Arc::clone(&draining);
    let router = router
        .route("/healthz", get(async || "ok"))
        .layer(axum::middleware::from_fn(
            move |request: Request, next: Next| {
                let flag = Arc::clone(&flag);
                async move {
                    let mut response = next.run(request).await;
                    if flag.load(Ordering::Relaxed) {
                        response
                            .headers_mut()
                            .insert("connection", HeaderValue::from_static("close"));
                    }
                    response
                }
            },
        ));
    let told = Arc::clone(&closed);
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        stop.await;
        draining.store(true, Ordering::Relaxed);
        tokio::time::sleep(LINGER).await;
        told.notify_one();
    });
    tokio::select! {
        done = async { server.await } => done,
        () = async { closed.notified().await; tokio::time::sleep(FINISH).await } => Ok(()),
    }
}
