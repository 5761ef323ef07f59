//! Registries behind proxies. Needs root: layers keep owners.

#[allow(dead_code)]
mod common;

use base64::Engine;
use common::{
    Registry,
    images::{config, make, store},
};
use knarr_image::client::{ClientConfig, Proxies, PullOptions, PushOptions, Silent};
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

/// Passes everything on to the registry, whatever name was asked for; remembers what it was told.
struct Proxy {
    host: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(registry: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = heads.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (told, registry) = (told.clone(), registry.clone());
                tokio::spawn(async move { pass(client, &registry, &told).await });
            }
        });
        Proxy { host, heads }
    }
}

async fn pass(mut client: TcpStream, registry: &str, told: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut buf = [0u8; 4096];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        match client.read(&mut buf).await {
            Ok(n) if n > 0 => head.extend_from_slice(&buf[..n]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    told.lock().unwrap().push(text.clone());
    let login = base64::engine::general_purpose::STANDARD.encode("u:p@w");
    if !text.contains(&format!("Basic {login}")) {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        let _ = client.write_all(refusal).await;
        return;
    }
    let mut server = TcpStream::connect(registry).await.unwrap();
    if text.starts_with("CONNECT") {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    } else {
        // the registry under test reads whole addresses as well as paths
        server.write_all(&head).await.unwrap();
    }
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

fn through(proxies: Proxies) -> ClientConfig {
    ClientConfig {
        proxies,
        insecure: vec!["registry.example:5000".into()],
        attempts: 1,
        ..config()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_reached_through_the_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start().await;
    let proxy = Proxy::start(registry.host()).await;
    let source = store(&dir.path().join("source"));
    let name = "registry.example:5000/app:1";
    make(dir.path(), &source, name, 2);
    let with = |proxy: &Proxy, login: &str, none: &str| {
        let set = Some(format!("http://{login}{}", proxy.host));
        through(Proxies {
            http: set.clone(),
            https: set,
            none: none.into(),
        })
    };
    let push = async |config: ClientConfig| {
        let options = PushOptions {
            config,
            ..PushOptions::default()
        };
        source.push(name, name, &options, &Silent).await
    };
    // HTTPS is tried first, by a tunnel; the registry speaks plain HTTP, to which whole addresses are sent
    push(with(&proxy, "u:p%40w@", "")).await.unwrap();
    let heads = std::mem::take(&mut *proxy.heads.lock().unwrap());
    let any = |part: &str| heads.iter().any(|h| h.contains(part));
    assert!(any("CONNECT registry.example:5000 HTTP/1.1"), "{heads:?}");
    // the first request of each connection
    assert!(any(" http://registry.example:5000/v2/app/"), "{heads:?}");
    assert!(registry.count("PUT", "/v2/app/manifests/1") == 1);

    let target = store(&dir.path().join("target"));
    let options = PullOptions {
        config: with(&proxy, "u:p%40w@", ""),
        ..PullOptions::default()
    };
    target.pull(name, &options, &Silent).await.unwrap();

    // without the login the proxy refuses
    let error = push(with(&proxy, "", "")).await.unwrap_err().to_string();
    assert!(error.contains("407"), "{error}");

    // with NO_PROXY nobody asks it, and the name means nothing; it would have let them through. One of its own: what a
    // push that failed left on the way may reach the other any time later
    let unasked = Proxy::start(registry.host()).await;
    push(with(&unasked, "u:p%40w@", ".example"))
        .await
        .unwrap_err();
    assert!(unasked.heads.lock().unwrap().is_empty());
}
