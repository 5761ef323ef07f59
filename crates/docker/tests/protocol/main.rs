//! Docker's API over its socket, with an API server that knows no containers: what needs none running.

mod images;
mod refusals;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use knarr_docker::{Checks, Config, Exec, Limits, Machine, PodName, Streams, Usage};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// A machine with nothing on it.
struct Nothing;

#[async_trait::async_trait]
impl Machine for Nothing {
    async fn exec(&self, _: &PodName, _: Exec) -> Result<Streams, String> {
        Err("nothing runs".into())
    }
    async fn attach(&self, _: &PodName) -> Result<Streams, String> {
        Err("nothing runs".into())
    }
    async fn signal(&self, _: &PodName, _: i32) -> Result<(), String> {
        Err("nothing runs".into())
    }
    async fn freeze(&self, _: &PodName, _: bool) -> Result<(), String> {
        Err("nothing runs".into())
    }
    async fn limit(&self, _: &PodName, _: i64, _: &Limits) -> Result<(), String> {
        Err("nothing runs".into())
    }
    async fn knows(&self, _: &PodName, _: &str) -> Result<(), String> {
        Err("nothing runs".into())
    }
    fn checks(&self, _: &PodName) -> Checks {
        Checks::default()
    }
    fn pid(&self, _: &PodName) -> Option<i32> {
        None
    }
    fn processes(&self, _: &PodName) -> Vec<i32> {
        vec![]
    }
    fn usage(&self, _: &PodName) -> Option<Usage> {
        None
    }
    fn layer(&self, _: &str, _: &str) -> PathBuf {
        "/nonexistent".into()
    }
    fn untaken(&self, _: std::os::fd::BorrowedFd<'_>) -> Option<usize> {
        None
    }
    fn drop_layer(&self, _: &str, _: &str) -> Result<(), String> {
        Ok(())
    }
}

/// As much of an API server as lists, makes and gives what was made.
fn api() -> kube::Client {
    type Objects = Arc<Mutex<Vec<(String, Value)>>>;
    let objects: Objects = Arc::default();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let objects = objects.clone();
        async move {
            let (parts, body) = request.into_parts();
            let path = parts.uri.path().to_string();
            let query = parts.uri.query().unwrap_or_default().to_string();
            if query.contains("watch=true") {
                // ends never
                std::future::pending::<()>().await;
            }
            let bytes = body
                .collect()
                .await
                .map(|b| b.to_bytes())
                .unwrap_or_default();
            let answer = match parts.method.as_str() {
                "POST" => {
                    let mut object: Value = serde_json::from_slice(&bytes).unwrap();
                    let mut all = objects.lock().unwrap();
                    object["metadata"]["resourceVersion"] = json!((all.len() + 1).to_string());
                    object["metadata"]["uid"] = json!(format!("uid-{}", all.len()));
                    let name = object["metadata"]["name"].as_str().unwrap().to_string();
                    all.push((format!("{path}/{name}"), object.clone()));
                    object
                }
                _ => {
                    let all = objects.lock().unwrap();
                    let below = all
                        .iter()
                        .filter(|(at, _)| at.rsplit_once('/').is_some_and(|(dir, _)| dir == path));
                    let items: Vec<Value> = below.map(|(_, object)| object.clone()).collect();
                    json!({ "metadata": { "resourceVersion": "1" }, "items": items })
                }
            };
            Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(
                answer.to_string(),
            ))))
        }
    });
    kube::Client::new(service, "default")
}

struct Daemon {
    dir: tempfile::TempDir,
}

impl Daemon {
    async fn start() -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let images = knarr_image::ImageStore::open(&dir.path().join("images")).unwrap();
        let spec = knarr_image::PackSpec {
            executables: vec!["/bin/sh".into()],
            name: "tiny:1".into(),
            bare: true,
            ..Default::default()
        };
        images.pack(&spec).unwrap();
        let listener = tokio::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let config = Config {
            client: api(),
            images,
            machine: Arc::new(Nothing),
            builder: Arc::new(|_| Err("no builder here".into())),
            data_dir: dir.path().join("docker"),
            seccomp_dir: dir.path().join("seccomp"),
            node: "node".into(),
            gateway: "10.42.0.1".parse().unwrap(),
            pod_ranges: vec!["10.42.0.0/16".into()],
            version: "1".into(),
        };
        tokio::spawn(knarr_docker::serve(listener, config));
        Daemon { dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    async fn ask(&self, line: &str, body: &str) -> (u16, http::HeaderMap, String) {
        ask(&self.socket(), line, body).await
    }
}

/// `GET /path`, answered.
async fn ask(socket: &Path, line: &str, body: &str) -> (u16, http::HeaderMap, String) {
    let (method, path) = line.split_once(' ').unwrap();
    let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "docker")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let (parts, body) = answer.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (
        parts.status.as_u16(),
        parts.headers,
        String::from_utf8_lossy(&bytes).into_owned(),
    )
}

#[tokio::test]
async fn every_answer_says_what_is_spoken() {
    let daemon = Daemon::start().await;
    let (status, headers, body) = daemon.ask("GET /_ping", "").await;
    assert_eq!((status, body.as_str()), (200, "OK"));
    for (name, wanted) in [
        ("api-version", "1.51"),
        ("ostype", "linux"),
        ("builder-version", "1"),
        ("swarm", "inactive"),
    ] {
        assert_eq!(headers[name], wanted, "{name}");
    }
    let (status, _, body) = daemon.ask("HEAD /_ping", "").await;
    assert_eq!((status, body.as_str()), (200, ""));
    let (_, _, body) = daemon.ask("GET /v1.24/version", "").await;
    let version: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(version["MinAPIVersion"], "1.24");
}

#[tokio::test]
async fn a_created_container_is_found_by_all_its_names() {
    let daemon = Daemon::start().await;
    let body = r#"{"Image": "tiny:1", "Cmd": ["-c", "true"], "Env": ["A=b"], "Labels": {"l": "1"},
        "ExposedPorts": {"80/tcp": {}}, "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "0"}]}}}"#;
    let (status, _, text) = daemon.ask("POST /containers/create?name=web", body).await;
    assert_eq!(status, 201, "{text}");
    let made: Value = serde_json::from_str(&text).unwrap();
    let id = made["Id"].as_str().unwrap();
    assert_eq!(id.len(), 64);
    for reference in ["web", id, &id[..12]] {
        let (status, _, text) = daemon
            .ask(&format!("GET /containers/{reference}/json"), "")
            .await;
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (status, shown["Id"].as_str()),
            (200, Some(id)),
            "{reference}"
        );
        assert_eq!(shown["Name"], "/web");
        assert_eq!(shown["State"]["Status"], "created");
        assert_eq!(shown["Config"]["Labels"]["l"], "1");
        assert_eq!(shown["HostConfig"]["RestartPolicy"]["Name"], "no");
    }
    let (status, _, text) = daemon.ask("POST /containers/create?name=/web", body).await;
    assert_eq!(status, 409);
    assert!(
        text.contains(&format!(
            "The container name \\\"/web\\\" is already in use by container \\\"{id}\\\""
        )),
        "{text}"
    );
    let count = |text: &str| serde_json::from_str::<Vec<Value>>(text).unwrap().len();
    for (query, wanted) in [
        ("", 0),
        ("?all=1", 1),
        ("?all=1&filters=%7B%22label%22%3A%5B%22l%3D1%22%5D%7D", 1),
        ("?all=1&filters=%7B%22label%22%3A%5B%22l%3D2%22%5D%7D", 0),
    ] {
        let (_, _, text) = daemon
            .ask(&format!("GET /containers/json{query}"), "")
            .await;
        assert_eq!(count(&text), wanted, "{query}");
    }
    let (status, _, _) = daemon
        .ask("POST /containers/web/exec", r#"{"Cmd": ["x"]}"#)
        .await;
    assert_eq!(status, 409, "nothing runs in it");
    let (status, _, _) = daemon.ask("POST /containers/web/stop", "").await;
    assert_eq!(status, 304);
}

#[tokio::test]
async fn namespaces_of_others_are_kept_by_id_and_defaults_are_shown() {
    let daemon = Daemon::start().await;
    let make = async |name: &str, host: Value| {
        let body = json!({ "Image": "tiny:1", "Cmd": ["x"], "HostConfig": host }).to_string();
        let line = format!("POST /containers/create?name={name}");
        let (status, _, text) = daemon.ask(&line, &body).await;
        assert_eq!(status, 201, "{text}");
        let (_, _, text) = daemon
            .ask(&format!("GET /containers/{name}/json"), "")
            .await;
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let web = make("web", json!({})).await;
    assert_eq!(web["HostConfig"]["IpcMode"], "private");
    assert_eq!(web["HostConfig"]["MaskedPaths"][0], "/proc/asound");
    let id = web["Id"].as_str().unwrap();
    let host = json!({ "NetworkMode": "container:web", "IpcMode": format!("container:{}", &id[..12]),
        "PidMode": format!("container:{}", &id[..12]), "MaskedPaths": ["/proc/keys"], "ReadonlyPaths": [] });
    let joined = make("joined", host).await;
    let of_web = json!(format!("container:{id}"));
    let shown = &joined["HostConfig"];
    assert_eq!(
        (&shown["NetworkMode"], &shown["IpcMode"]),
        (&of_web, &of_web)
    );
    assert_eq!(shown["PidMode"], of_web);
    assert_eq!(shown["MaskedPaths"], json!(["/proc/keys"]));
    assert_eq!(shown["ReadonlyPaths"], json!([]));
    assert_eq!(joined["NetworkSettings"]["Networks"], json!({}));
    let privileged = make("free", json!({ "Privileged": true })).await;
    assert_eq!(privileged["HostConfig"]["MaskedPaths"], Value::Null);
}

#[tokio::test]
async fn volumes_live_on_their_own() {
    let daemon = Daemon::start().await;
    let (status, _, text) = daemon
        .ask(
            "POST /volumes/create",
            r#"{"Name": "data", "Labels": {"a": "b"}}"#,
        )
        .await;
    assert_eq!(status, 201, "{text}");
    let made: Value = serde_json::from_str(&text).unwrap();
    assert!(Path::new(made["Mountpoint"].as_str().unwrap()).is_dir());
    let (_, _, text) = daemon.ask("GET /volumes", "").await;
    assert!(text.contains("\"data\""));
    let (status, _, _) = daemon.ask("DELETE /volumes/data", "").await;
    assert_eq!(status, 204);
    let (status, _, _) = daemon.ask("DELETE /volumes/data", "").await;
    assert_eq!(status, 404);
    let (status, _, _) = daemon.ask("DELETE /volumes/data?force=1", "").await;
    assert_eq!(status, 204);
}

fn filters(text: &str) -> String {
    let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
    format!("filters={encoded}")
}

#[tokio::test]
async fn a_container_whose_folder_has_gone_is_listed_and_removed() {
    let daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mount = json!({ "Type": "bind", "Source": folder.path(), "Target": "/data" });
    let body = json!({ "Image": "tiny:1", "Cmd": ["x"], "HostConfig": { "Mounts": [mount] } });
    let create = "POST /containers/create?name=web";
    let (status, _, text) = daemon.ask(create, &body.to_string()).await;
    assert_eq!(status, 201, "{text}");
    let path = folder.path().display().to_string();
    folder.close().unwrap();
    for line in ["GET /containers/json?all=1", "GET /containers/web/json"] {
        let (status, _, text) = daemon.ask(line, "").await;
        assert_eq!(
            (status, text.contains(&path)),
            (200, true),
            "{line}: {text}"
        );
    }
    let create = "POST /containers/create?name=other";
    let (status, _, text) = daemon.ask(create, &body.to_string()).await;
    let told = format!("bind source path does not exist: {path}");
    assert_eq!((status, text.contains(&told)), (400, true), "{text}");
}
