//! The API server alone, without controllers or a node: what the benchmark and differential tests run.
//!
//! `cargo run --release -p knarr-api --example apiserver -- DIR [ADDRESS:PORT]` keeps everything below DIR, writes
//! `DIR/kubeconfig` and says on stdout where it listens. Ends on SIGTERM or Ctrl-C.

use std::{net::SocketAddr, path::PathBuf};

use knarr_api::{ApiServer, Config};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir: PathBuf = arguments
        .next()
        .ok_or("the first argument is the data folder")?
        .into();
    let address: SocketAddr = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:0".into())
        .parse()?;
    std::fs::create_dir_all(&dir)?;
    let mut config = Config::for_tests(&dir);
    // as `knarr serve` opens it
    config.store = knarr_store::Store::open(knarr_store::Options::new(dir.join("objects")))?;
    let server = ApiServer::new(config)?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let kubeconfig = dir.join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig(address, "knarr")?)?;
    println!("https://{address} {}", kubeconfig.display());
    let mut term = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    server.serve_until(listener, stop).await?;
    Ok(())
}
