//! Docker's API over its socket, with an API server that knows no containers: what needs none running.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use knarr_docker::{Config, Exec, Limits, Machine, PodName, Streams, Usage};
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
async fn refusals_are_dockers() {
    let daemon = Daemon::start().await;
    let check = |line: &'static str, body: &'static str, status: u16, message: &'static str| {
        let daemon = &daemon;
        async move {
            let (got, headers, text) = daemon.ask(line, body).await;
            let value: Value =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line}: {text:?}: {e}"));
            assert_eq!(
                (got, value["message"].as_str()),
                (status, Some(message)),
                "{line} {body}"
            );
            assert_eq!(headers["content-type"], "application/json");
        }
    };
    let create = "POST /v1.51/containers/create";
    check("GET /v1.23/info", "", 400, "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version").await;
    check(
        "GET /v1.99/info",
        "",
        400,
        "client version 1.99 is too new. Maximum supported API version is 1.51",
    )
    .await;
    check("GET /nonsense", "", 404, "page not found: GET /nonsense").await;
    check(
        "GET /containers/none/json",
        "",
        404,
        "No such container: none",
    )
    .await;
    check(
        "POST /containers/none/start",
        "",
        404,
        "No such container: none",
    )
    .await;
    check(
        "POST /exec/none/start",
        "{}",
        404,
        "No such exec instance: none",
    )
    .await;
    check(
        "GET /images/none/json",
        "",
        404,
        "No such image: none:latest",
    )
    .await;
    check("DELETE /images/a/b:c", "", 404, "No such image: a/b:c").await;
    check(
        "GET /networks/nowhere",
        "",
        404,
        "network nowhere not found",
    )
    .await;
    check(
        "DELETE /networks/bridge",
        "",
        403,
        "bridge is a pre-defined network and cannot be removed",
    )
    .await;
    check("GET /volumes/none", "", 404, "get none: no such volume").await;
    check("GET /services", "", 503, "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.").await;
    check(
        "GET /containers/json?filters=%7B%22x%22%3A%5B%22y%22%5D%7D",
        "",
        400,
        "invalid filter 'x'",
    )
    .await;
    check(
        create,
        "",
        400,
        "config cannot be empty in order to create a container",
    )
    .await;
    check(
        create,
        r#"{"Image": "none"}"#,
        404,
        "No such image: none:latest",
    )
    .await;
    check(
        "POST /containers/create?name=-",
        r#"{"Image": "tiny:1"}"#,
        400,
        "Invalid container name (-), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
    )
    .await;
    check(
        create,
        r#"{"Image": "tiny:1", "HostConfig": {"Devices": [{"PathOnHost": "/dev/x"}]}}"#,
        400,
        r#"error gathering device information while adding custom device "/dev/x": no such file or directory"#,
    )
    .await;
    check(create, r#"{"Image": "tiny:1", "HostConfig": {"AutoRemove": true, "RestartPolicy": {"Name": "always"}}}"#, 400, "can't create 'AutoRemove' container with restart policy").await;
    check(create, r#"{"Image": "tiny:1", "HostConfig": {"Binds": ["a:b"]}}"#, 400, "invalid volume specification: 'a:b': invalid mount config for type \"bind\": invalid mount path: 'b' mount path must be absolute").await;
    check(
        create,
        r#"{"Image": "tiny:1", "HostConfig": {"NetworkMode": "mine"}}"#,
        404,
        "network mine not found",
    )
    .await;
    check(
        create,
        r#"{"Image": "tiny:1", "StopSignal": "SIGFOO"}"#,
        400,
        "invalid signal: SIGFOO",
    )
    .await;
    check("POST /networks/create", r#"{"Name": "x", "Driver": "overlay"}"#, 503, "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.").await;
    check("POST /volumes/create", r#"{"Name": "x y"}"#, 400, "create x y: \"x y\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path").await;
    check("POST /build?version=2", "", 501, "the BuildKit protocol (set DOCKER_BUILDKIT=0, or build with `knarr build`) is not supported by knarr").await;
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
async fn images_are_listed_tagged_and_removed() {
    let daemon = Daemon::start().await;
    let (status, _, _) = daemon
        .ask("POST /images/tiny:1/tag?repo=host/other&tag=2", "")
        .await;
    assert_eq!(status, 201);
    let (_, _, text) = daemon.ask("GET /images/json", "").await;
    let list: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(list.len(), 1, "one image of two names");
    assert_eq!(list[0]["RepoTags"].as_array().unwrap().len(), 2);
    let (status, _, text) = daemon.ask("GET /images/host/other:2/json", "").await;
    assert_eq!(status, 200, "{text}");
    let (status, _, text) = daemon.ask("DELETE /images/host/other:2", "").await;
    assert_eq!(
        (status, text.contains("Deleted")),
        (200, false),
        "the other name stays: {text}"
    );
    let (status, _, text) = daemon.ask("DELETE /images/tiny:1", "").await;
    assert_eq!((status, text.contains("Deleted")), (200, true), "{text}");
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
async fn words_and_statuses_are_a_daemons() {
    let daemon = Daemon::start().await;
    let body = r#"{"Image": "tiny:1", "Cmd": ["-c", "true"], "ExposedPorts": {"80/tcp": {}}}"#;
    let (status, _, text) = daemon.ask("POST /containers/create?name=web", body).await;
    assert_eq!(status, 201, "{text}");
    let id = serde_json::from_str::<Value>(&text).unwrap()["Id"]
        .as_str()
        .unwrap()
        .to_string();
    let list = |text: &str| format!("GET /containers/json?all=1&{}", filters(text));
    let not_running = format!("cannot kill container: web: container {id} is not running");
    let cases = [
        (
            list(r#"{"status":["odd"]}"#),
            "",
            400,
            "invalid filter 'status=odd': invalid value for state (odd): must be one of created, running, paused, restarting, removing, exited, dead",
        ),
        (
            list(r#"{"health":["odd"]}"#),
            "",
            400,
            "invalid filter 'health=odd': invalid value for health (odd): must be one of none, starting, healthy, unhealthy",
        ),
        (
            list(r#"{"exited":["odd"]}"#),
            "",
            400,
            "invalid filter 'exited=odd': strconv.Atoi: parsing \"odd\": invalid syntax",
        ),
        (
            list(r#"{"publish":["odd"]}"#),
            "",
            500,
            "error while looking up for publish odd: strconv.ParseUint: parsing \"odd\": invalid syntax",
        ),
        (list(r#"{"is-task":["odd"]}"#), "", 200, ""),
        (list(r#"{"expose":["70-90"]}"#), "", 200, ""),
        (
            "POST /containers/none/rename?name=x".into(),
            "",
            404,
            "No such container: none",
        ),
        (
            "POST /containers/web/rename?name=-".into(),
            "",
            400,
            "Error when allocating new name: Invalid container name (/-), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        ),
        (
            "POST /containers/none/kill".into(),
            "",
            404,
            "cannot kill container: none: No such container: none",
        ),
        (
            "POST /containers/web/kill?signal=odd".into(),
            "",
            400,
            "cannot kill container: web: invalid signal: odd",
        ),
        (
            "POST /containers/web/kill?signal=99".into(),
            "",
            400,
            "cannot kill container: web: the linux daemon does not support signal 99",
        ),
        ("POST /containers/web/kill".into(), "", 409, &not_running),
        (
            "POST /containers/web/resize?h=1".into(),
            "",
            400,
            "invalid resize width \"\": invalid syntax",
        ),
        (
            "POST /containers/web/resize?h=x&w=1".into(),
            "",
            400,
            "invalid resize height \"x\": invalid syntax",
        ),
        (
            "POST /containers/web/resize?h=4294967296&w=1".into(),
            "",
            400,
            "invalid resize height \"4294967296\": value out of range",
        ),
        (
            "POST /containers/create".into(),
            r#"{"Image": "tiny:1", "HostConfig": {"PidMode": "odd"}}"#,
            400,
            "invalid PID mode: odd",
        ),
        (
            "POST /containers/create".into(),
            r#"{"Image": "tiny:1", "HostConfig": {"VolumesFrom": ["none"]}}"#,
            400,
            "No such container: none",
        ),
        (
            "POST /containers/create".into(),
            r#"{"Image": "tiny:sha256:0"}"#,
            400,
            "invalid reference format",
        ),
        (
            "POST /volumes/create".into(),
            "{} more",
            400,
            "unexpected content after JSON",
        ),
        (
            "POST /networks/create".into(),
            r#"{"Name": "host"}"#,
            403,
            "operation is not permitted on predefined host network",
        ),
        (
            "POST /networks/create".into(),
            r#"{"Name": "x", "Driver": "odd"}"#,
            404,
            "plugin \"odd\" not found",
        ),
        (
            "POST /networks/host/connect".into(),
            r#"{"Container": "web"}"#,
            400,
            "cannot connect container to host network - container must be created in host network mode",
        ),
        (
            "POST /networks/bridge/disconnect".into(),
            r#"{"Container": "none", "Force": true}"#,
            404,
            "endpoint none not found",
        ),
        (
            "POST /images/tiny:1/tag?repo=docker.io/library/sha256&tag=x".into(),
            "",
            400,
            "refusing to create an ambiguous tag using digest algorithm as name",
        ),
        (
            "POST /images/create?fromImage=x&platform=odd".into(),
            "",
            400,
            "\"odd\": unknown operating system or architecture: invalid argument",
        ),
        (
            "POST /commit?container=web&changes=BOGUS+x".into(),
            "{}",
            400,
            "BOGUS is not a valid change command",
        ),
        (
            "GET /images/get?names=tiny%3A1&names=none".into(),
            "",
            404,
            "No such image: none",
        ),
        (
            "GET /containers/web/archive".into(),
            "",
            400,
            "bad parameter: path cannot be empty",
        ),
    ];
    for (line, body, status, message) in cases {
        let (got, _, text) = daemon.ask(&line, body).await;
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let told = value["message"].as_str().unwrap_or_default();
        assert_eq!((got, told), (status, message), "{line} {body}");
    }
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

#[tokio::test]
async fn several_images_are_one_archive_and_names_are_filtered() {
    let daemon = Daemon::start().await;
    for (repo, tag) in [("host/other", "2"), ("tiny", "3")] {
        let line = format!("POST /images/tiny:1/tag?repo={repo}&tag={tag}");
        assert_eq!(daemon.ask(&line, "").await.0, 201);
    }
    let check = |pattern: &'static str, wanted: &'static [&'static str]| {
        let daemon = &daemon;
        async move {
            let line = filters(&json!({ "reference": [pattern] }).to_string());
            let (_, _, text) = daemon.ask(&format!("GET /images/json?{line}"), "").await;
            let list: Vec<Value> = serde_json::from_str(&text).unwrap();
            let tags = list.iter().flat_map(|i| i["RepoTags"].as_array().unwrap());
            let mut tags: Vec<&str> = tags.filter_map(Value::as_str).collect();
            tags.sort_unstable();
            assert_eq!(tags, wanted, "{pattern}");
        }
    };
    check("tiny", &["tiny:1", "tiny:3"]).await;
    check("*:3", &["tiny:3"]).await;
    check("host/*", &["host/other:2"]).await;
    check("other", &[]).await;
    let saved = |query: &'static str| {
        let daemon = &daemon;
        async move {
            let (status, _, text) = daemon.ask(&format!("GET /images/get?{query}"), "").await;
            assert_eq!(status, 200, "{query}");
            let at = text.find("[{\"Config\"").expect("a manifest.json");
            let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
            let entries = values.next().unwrap().unwrap();
            let tags = entries.as_array().unwrap().iter();
            let tags = tags.flat_map(|e| e["RepoTags"].as_array().unwrap().clone());
            let mut tags: Vec<String> = tags.map(|t| t.as_str().unwrap().into()).collect();
            tags.sort();
            tags
        }
    };
    assert_eq!(saved("names=tiny").await, ["tiny:1", "tiny:3"]);
    let both = saved("names=tiny%3A3&names=host/other%3A2&names=tiny%3A3").await;
    assert_eq!(both, ["host/other:2", "tiny:3"]);
    // a repository with a digest is all of its names, and none of another's
    let (_, _, text) = daemon.ask("GET /images/tiny:1/json", "").await;
    let shown: Value = serde_json::from_str(&text).unwrap();
    let digests = shown["RepoDigests"].as_array().unwrap().iter();
    let tiny = digests
        .filter_map(Value::as_str)
        .find(|d| d.starts_with("tiny@"));
    let line = format!("DELETE /images/{}", tiny.unwrap());
    let (status, _, text) = daemon.ask(&line, "").await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(daemon.ask("GET /images/tiny:1/json", "").await.0, 404);
    assert_eq!(daemon.ask("GET /images/host/other:2/json", "").await.0, 200);
}
