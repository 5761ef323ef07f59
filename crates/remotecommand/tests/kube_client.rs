//! kube-rs, whose WebSocket client the rest of knarr uses.

mod common;
use common::*;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

async fn pods() -> Api<Pod> {
    let uri = format!("http://{}", cluster().await);
    let config = kube::Config::new(uri.parse().unwrap());
    Api::default_namespaced(kube::Client::try_from(config).unwrap())
}

#[tokio::test]
async fn exec() {
    let pods = pods().await;
    let talk = async {
        let params = AttachParams::default().stdin(true).stderr(false);
        let mut process = pods.exec("web", ["cat"], &params).await.unwrap();
        let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
        let status = process.take_status().unwrap();
        stdin.write_all(b"hello").await.unwrap();
        let mut hello = [0; 5];
        stdout.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello");
        // the half-close, of which v4 knows nothing
        stdin.shutdown().await.unwrap();
        drop(stdin);
        assert_eq!(status.await.unwrap().status.as_deref(), Some("Success"));
        process.join().await.unwrap();
    };
    timeout(PATIENCE, talk).await.expect("exec hangs");
}

#[tokio::test]
async fn exit_code() {
    let pods = pods().await;
    let talk = async {
        let mut process = pods
            .exec("web", ["exit", "7"], &AttachParams::default())
            .await
            .unwrap();
        let status = process.take_status().unwrap().await.unwrap();
        assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
        let causes = status.details.unwrap().causes.unwrap();
        assert_eq!(causes[0].message.as_deref(), Some("7"));
    };
    timeout(PATIENCE, talk).await.expect("exec hangs");
}

#[tokio::test]
async fn much_output() {
    let pods = pods().await;
    let talk = async {
        let mut process = pods
            .exec("web", ["big"], &AttachParams::default())
            .await
            .unwrap();
        let mut all = Vec::new();
        process
            .stdout()
            .unwrap()
            .read_to_end(&mut all)
            .await
            .unwrap();
        assert!(all == big(), "{} bytes", all.len());
    };
    timeout(PATIENCE, talk).await.expect("exec hangs");
}

#[tokio::test]
async fn port_forward() {
    let pods = pods().await;
    let talk = async {
        let mut forwarder = pods.portforward("web", &[80, 81]).await.unwrap();
        let mut data = forwarder.take_stream(80).unwrap();
        let mut hello = [0; 8];
        data.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"port 80\n");
        data.write_all(b"ping").await.unwrap();
        let mut ping = [0; 4];
        data.read_exact(&mut ping).await.unwrap();
        assert_eq!(&ping, b"ping");
        let error = forwarder.take_error(81).unwrap().await;
        assert_eq!(error.as_deref(), Some("connection refused on port 81"));
    };
    timeout(PATIENCE, talk).await.expect("port-forward hangs");
}
