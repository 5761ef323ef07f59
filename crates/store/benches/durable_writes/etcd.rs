//! A real etcd on loopback, and just enough of its gRPC to put a key.

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

pub struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub async fn start(data_dir: &Path) -> Server {
        let (port, peer_port) = (free_port(), free_port());
        let client = format!("http://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(data_dir)
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd must be on the PATH (Debian: apt install etcd-server)");
        let server = Server { child, port };
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(mut client) = Client::connect(&server).await
                && client.try_put("ready", b"yes").await.is_ok()
            {
                return server;
            }
            assert!(Instant::now() < deadline, "etcd did not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("address").port()
}

#[derive(Clone)]
pub struct Client {
    http: SendRequest<Bytes>,
    uri: http::Uri,
}

/// A connection for each writer.
pub async fn connect(server: &Server, writers: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..writers {
        clients.push(Client::connect(server).await.expect("connect to etcd"));
    }
    clients
}

impl Client {
    async fn connect(server: &Server) -> Option<Client> {
        let stream = TcpStream::connect(("127.0.0.1", server.port)).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (http, connection) = h2::client::handshake(stream).await.ok()?;
        tokio::spawn(connection);
        let uri = format!("http://127.0.0.1:{}/etcdserverpb.KV/Put", server.port);
        Some(Client {
            http,
            uri: uri.parse().ok()?,
        })
    }

    async fn try_put(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        let error = |error: h2::Error| error.to_string();
        let request = http::Request::post(self.uri.clone())
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|error| error.to_string())?;
        self.http = self.http.clone().ready().await.map_err(error)?;
        let (response, mut body) = self.http.send_request(request, false).map_err(error)?;
        body.send_data(put_request(key, value), true)
            .map_err(error)?;
        let response = response.await.map_err(error)?;
        let in_header = response.headers().get("grpc-status").cloned();
        let mut body = response.into_body();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(error)?;
            body.flow_control()
                .release_capacity(chunk.len())
                .map_err(error)?;
        }
        let trailers = body.trailers().await.map_err(error)?.unwrap_or_default();
        let status = in_header.or_else(|| trailers.get("grpc-status").cloned());
        match status {
            Some(status) if status == "0" => Ok(()),
            other => Err(format!("grpc-status {other:?}: {trailers:?}")),
        }
    }
}

impl super::Target for Client {
    async fn put(&mut self, key: &str, value: Vec<u8>) {
        self.try_put(key, &value).await.expect("etcd put");
    }
}

/// gRPC's length prefix, then `PutRequest { bytes key = 1; bytes value = 2; }`.
fn put_request(key: &str, value: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    for (tag, bytes) in [(0x0a, key.as_bytes()), (0x12, value)] {
        message.put_u8(tag);
        let mut length = bytes.len();
        while length >= 0x80 {
            message.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(bytes);
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.unsplit(message);
    framed.freeze()
}
