//! log, exec and attach against a node that isn't one.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::*;
use futures::StreamExt;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use knarr_api::PodStreams;
use kube::{
    Api,
    api::{AttachParams, LogParams},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Echoes stdin to stdout, says the query on stderr, ends with success.
struct Echo;
#[async_trait::async_trait]
impl PodStreams for Echo {
    async fn log(
        &self,
        _: &str,
        pod: &str,
        query: &str,
    ) -> Result<futures::stream::BoxStream<'static, std::io::Result<Bytes>>, (u16, String, String)>
    {
        if query.contains("container=none") {
            return Err((
                400,
                "BadRequest".into(),
                format!("container none is not valid for pod {pod}"),
            ));
        }
        let first = futures::stream::iter([Ok(Bytes::from(format!("{pod} {query}\n")))]);
        if query.contains("follow=true") {
            return Ok(first.chain(futures::stream::pending()).boxed());
        }
        Ok(first.boxed())
    }
    /// Port 80 echoes; any other refuses.
    async fn dial(&self, _: &str, _: &str, port: u16) -> Result<tokio::net::TcpStream, String> {
        if port != 80 {
            return Err(format!("nobody listens on {port}"));
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        tokio::net::TcpStream::connect(address)
            .await
            .map_err(|e| e.to_string())
    }
    async fn exec(
        &self,
        _: &str,
        _: &str,
        query: &str,
        mut streams: knarr_remotecommand::ServerStreams,
    ) {
        if let Some(err) = &mut streams.stderr {
            err.write_all(query.as_bytes()).await.unwrap();
            err.shutdown().await.unwrap();
        }
        if let (Some(stdin), Some(stdout)) = (&mut streams.stdin, &mut streams.stdout) {
            tokio::io::copy(stdin, stdout).await.unwrap();
        }
        if let Some(mut out) = streams.stdout.take() {
            out.shutdown().await.unwrap();
        }
        let _ = streams.status.send(Bytes::from_static(
            b"{\"metadata\":{},\"status\":\"Success\"}",
        ));
    }
    async fn check(&self, _: &str, pod: &str, _: &str) -> Result<(), (u16, String, String)> {
        match pod {
            "down" => Err((400, "BadRequest".into(), "container not running".into())),
            _ => Ok(()),
        }
    }
}

async fn start_node() -> Fixture {
    let f = start();
    for name in ["p", "down"] {
        f.made(PODS, pod(name)).await;
    }
    f.api.set_pod_streams("n1", Arc::new(Echo));
    f
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_stream_without_waiting_for_their_end() {
    let f = start_node().await;
    let pods: Api<Pod> = Api::namespaced(f.client.clone(), "default");
    let text = pods
        .logs(
            "p",
            &LogParams {
                tail_lines: Some(3),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert!(
        text.starts_with("p ") && text.contains("tailLines=3"),
        "{text}"
    );
    let mut lines = pods
        .log_stream(
            "p",
            &LogParams {
                follow: true,
                ..Default::default()
            },
        )
        .await
        .unwrap();
    let mut buffer = [0; 64];
    let n = futures::AsyncReadExt::read(&mut lines, &mut buffer)
        .await
        .unwrap();
    assert!(buffer[..n].starts_with(b"p "));
    let a = f.get(&format!("{PODS}/p/log?container=none")).await;
    assert_eq!(
        (a.code, a.json()["message"].as_str()),
        (400, Some("container none is not valid for pod p"))
    );
    assert_eq!(f.get(&format!("{PODS}/x/log")).await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_process_clients_exec() {
    let f = start_node().await;
    let pods: Api<Pod> = Api::namespaced(f.client.clone(), "default");
    let params = AttachParams::default()
        .stdin(true)
        .stdout(true)
        .stderr(true);
    let mut process = pods.exec("p", ["cat", "-u"], &params).await.unwrap();
    let mut stdin = process.stdin().unwrap();
    let mut stdout = process.stdout().unwrap();
    let mut stderr = process.stderr().unwrap();
    let status = process.take_status().unwrap();
    stdin.write_all(b"hello").await.unwrap();
    let mut buffer = [0; 5];
    stdout.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"hello");
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut said = String::new();
    stderr.read_to_string(&mut said).await.unwrap();
    assert!(said.contains("command=cat&command=-u"), "{said}");
    let status = tokio::time::timeout(std::time::Duration::from_secs(120), status)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status.status.as_deref(), Some("Success"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_come_before_the_upgrade() {
    let f = start_node().await;
    let upgrade = [
        ("connection", "Upgrade"),
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "v4.channel.k8s.io"),
    ];
    let exec = |pod: &str, query: &str| format!("{PODS}/{pod}/exec?{query}");
    for (what, path, headers, code, message) in [
        (
            "no such pod",
            exec("x", "command=a&stdout=1"),
            &upgrade[..],
            404,
            "pods \"x\" not found",
        ),
        (
            "not running",
            exec("down", "command=a&stdout=1"),
            &upgrade[..],
            400,
            "container not running",
        ),
        (
            "no upgrade",
            exec("p", "command=a&stdout=1"),
            &[][..],
            400,
            "Upgrade request required",
        ),
        (
            "no stream",
            exec("p", "command=a"),
            &upgrade[..],
            400,
            "you must specify at least 1 of stdin, stdout, stderr",
        ),
    ] {
        for method in [Method::GET, Method::POST] {
            let a = f.send(method, &path, headers, vec![]).await;
            assert_eq!(
                (a.code, a.json()["message"].as_str()),
                (code, Some(message)),
                "{what}"
            );
        }
    }
    let bare = start();
    bare.made(PODS, pod("p")).await;
    let a = bare.get(&format!("{PODS}/p/log")).await;
    assert_eq!(
        (a.code, a.headers["retry-after"].to_str().unwrap()),
        (503, "1")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_execs_attaches_and_reads_logs() {
    let f = start_node().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let api = f.api.clone();
    let task = tokio::spawn(async move {
        api.serve_until(listener, async { _ = stopped.await })
            .await
            .unwrap();
    });
    let kubeconfig = f.dir.path().join("kubeconfig");
    std::fs::write(&kubeconfig, f.api.kubeconfig(address, "test").unwrap()).unwrap();
    let kubectl = std::env::var("KNARR_KUBECTL").unwrap_or_else(|_| "kubectl".into());
    let run = async |args: &[&str]| {
        let mut child = tokio::process::Command::new(&kubectl)
            .env("KUBECONFIG", &kubeconfig)
            .env("HOME", f.dir.path())
            .args(args)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl runs: install Debian's kubernetes-client or set KNARR_KUBECTL");
        let mut stdin = child.stdin.take().unwrap();
        // who doesn't read may have ended by now
        let _ = stdin.write_all(b"through the pipe\n").await;
        drop(stdin);
        let o = tokio::time::timeout(
            std::time::Duration::from_secs(180),
            child.wait_with_output(),
        )
        .await
        .expect("kubectl in time")
        .unwrap();
        let err = String::from_utf8_lossy(&o.stderr).into_owned();
        assert!(o.status.success(), "kubectl {args:?}: {err}");
        (String::from_utf8_lossy(&o.stdout).into_owned(), err)
    };
    let (out, err) = run(&["exec", "-i", "p", "--", "cat"]).await;
    assert_eq!(out, "through the pipe\n");
    assert!(err.contains("command=cat"), "{err}");
    let (_, err) = run(&["attach", "-i", "p"]).await;
    assert!(err.contains("attach=true"), "{err}");
    let (out, _) = run(&["logs", "p", "--tail=2"]).await;
    assert!(out.contains("tailLines=2"), "{out}");
    stop.send(()).unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(120), task)
        .await
        .expect("a graceful end")
        .unwrap();
}
