//! BuildKit's protocol, as `docker buildx`, `docker build` with it, and Compose speak it: builds by our own builder.
//!
//! A client opens two connections that stop being HTTP/1 ([`connect`], [`session`]). On the one it calls us: it asks for a
//! build and listens to how it goes ([`control`]). On the other we call it: for the context's files, secrets, an SSH
//! agent, and to give it what comes out as files ([`session`], [`files`], [`send`]).
//!
//! buildx calls `Control.Solve` without a frontend, and while that waits, `LLBBridge.Solve` with the Dockerfile's; with
//! `LLBBridge.Return` it says that the result is to be exported, which ends the first call.
//!
//! SOURCE: moby/buildkit `api/services/control`, `frontend/gateway/pb`, `client/{solve,build}.go`; moby `builder/builder-next`

mod caches;
mod content;
mod control;
mod exports;
mod fetch;
mod files;
mod history;
mod linked;
mod lint;
pub mod request;
mod send;
pub mod session;
pub mod solve;
pub mod status;

pub use control::Builds;

use crate::{
    attach,
    daemon::Daemon,
    error::{Fault, Result},
    http::{self, Answer, Ask},
};
use ::http::{StatusCode, header};
use axum::body::Body;
use hyper::upgrade::OnUpgrade;
use std::sync::Arc;

/// The answer that turns a connection over to HTTP/2.
fn turned_over(ask: &mut Ask) -> Result<(Answer, OnUpgrade)> {
    match ask.header("upgrade") {
        Some("h2c") => {}
        None => return Err(Fault::bad("no upgrade proto in request")),
        Some(proto) => return Err(Fault::bad(format!("protocol {proto} not supported"))),
    }
    let upgrade = ask.upgrade.take();
    let upgrade = upgrade.ok_or_else(|| Fault::bad("the connection can't be taken over"))?;
    let head = http::answer(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "h2c");
    Ok((http::with(head, Body::empty()), upgrade))
}

/// `POST /grpc`: a client that calls us.
pub async fn connect(daemon: &Arc<Daemon>, mut ask: Ask) -> Result<Answer> {
    let (answer, upgrade) = turned_over(&mut ask)?;
    let daemon = daemon.clone();
    tokio::spawn(async move {
        if let Some(far) = attach::taken(attach::Coming::Upgrade(upgrade), &*daemon.machine).await {
            let serve = move |call| control::answer(daemon.clone(), call);
            knarr_grpc::serve(far, serve).await;
        }
    });
    Ok(answer)
}
