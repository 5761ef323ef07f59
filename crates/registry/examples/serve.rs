//! A registry by itself, for conformance suites and measuring: `serve DIR ADDRESS:PORT [--sparse] [--users FILE [--tokens]]`.
//! Prints the address that it listens on, and ends when its standard input does.

use knarr_registry::{Anonymous, Auth, Options, Registry};
use std::{path::Path, sync::Arc};
use tokio::io::AsyncReadExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, address, flags @ ..] = arguments.as_slice() else {
        return Err("serve DIR ADDRESS:PORT [--sparse] [--users FILE [--tokens]]".into());
    };
    let listener = tokio::net::TcpListener::bind(address).await?;
    let local = listener.local_addr()?;
    let flag = |name: &str| flags.iter().position(|flag| flag == name);
    let users = flag("--users").and_then(|at| flags.get(at + 1));
    let tokens = flag("--tokens").is_some();
    let auth = match users {
        Some(file) => Some(Arc::new(Auth::open(
            Path::new(file),
            Anonymous::Nothing,
            tokens,
            None,
        )?)),
        None => None,
    };
    let options = Options {
        hosts: vec![format!("localhost:{}", local.port()), local.to_string()],
        sparse: flag("--sparse").is_some(),
        auth,
        ..Options::default()
    };
    let store = knarr_image::ImageStore::open(Path::new(dir))?;
    let registry = Registry::open(store, options)?;
    tokio::spawn(registry.clone().collect_when_needed());
    println!("{local}");
    let ended = async {
        let mut rest = Vec::new();
        let _ = tokio::io::stdin().read_to_end(&mut rest).await;
    };
    tokio::select! {
        () = knarr_registry::serve(listener, registry.router()) => {}
        () = ended => {}
    }
    Ok(())
}
